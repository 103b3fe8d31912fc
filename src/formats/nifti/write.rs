//! Writing label maps as NIfTI-1.

use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use nifti::NiftiType;

use crate::base::{Error, Result};
use crate::volume::Geometry;

use super::super::OutputFile;
use super::geometry::{self, Written};
use super::header::{HEADER_BYTES, SINGLE_FILE_OFFSET};

/// A label map is a fifth larger than at gzip's default level, 6, and is written two to three
/// times as fast.
const LEVEL: u32 = 4;

/// A dense label map, `[k][j][i]`.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    /// Every label fits a byte.
    U8(&'a [u8]),
    /// They don't.
    U16(&'a [u16]),
}

impl Labels<'_> {
    fn len(self) -> usize {
        match self {
            Self::U8(labels) => labels.len(),
            Self::U16(labels) => labels.len(),
        }
    }

    fn largest(self) -> u16 {
        match self {
            Self::U8(labels) => labels.iter().copied().max().unwrap_or(0).into(),
            Self::U16(labels) => labels.iter().copied().max().unwrap_or(0),
        }
    }
}

/// Whether the file is to be compressed, by its name.
///
/// # Errors
/// [`Error::Argument`] if the name ends in neither `.nii` nor `.nii.gz`.
pub fn check_output_name(path: &Path) -> Result<bool> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    match name.as_deref() {
        Some(name) if name.ends_with(".nii.gz") => Ok(true),
        Some(name) if name.ends_with(".nii") => Ok(false),
        _ => Err(Error::argument(format!(
            "output {}: labels are written as NIfTI; the name must end in .nii.gz or .nii",
            path.display()
        ))),
    }
}

/// Writes a label map of `dims` voxels along i, j, k into `output`, compressed if its name ends
/// in `.nii.gz`, and finishes it. Labels are stored as `u8` if the largest is below 255, else as
/// `u16` (nnU-Net's rule). qform and sform both say where the voxels lie, with code 1, in mm.
///
/// # Errors
/// [`Error::Argument`] if the name ends in neither `.nii` nor `.nii.gz`, if `labels` has another
/// length than `dims` say, or a dimension is above 32767, which NIfTI-1 can't hold;
/// [`Error::Io`] if the file can't be written.
pub fn write_labels(
    mut output: OutputFile,
    labels: Labels<'_>,
    dims: [usize; 3],
    geometry: &Geometry,
) -> Result<()> {
    let compressed = check_output_name(output.path())?;
    let voxels = dims.iter().try_fold(1usize, |product, count| product.checked_mul(*count));
    if voxels != Some(labels.len()) {
        return Err(Error::argument(format!(
            "a label map of {dims:?} voxels with {} values",
            labels.len()
        )));
    }
    let small = labels.largest() < 255;
    let header = header(dims, geometry, if small { NiftiType::Uint8 } else { NiftiType::Uint16 })?;
    let path = output.path().to_owned();
    let failed = |source| Error::io(&path, source);
    if compressed {
        let file = BufWriter::with_capacity(1 << 16, &mut output);
        let mut encoder = GzEncoder::new(file, Compression::new(LEVEL));
        write_all(&mut encoder, &header, labels, small).map_err(failed)?;
        encoder.finish().and_then(|mut file| file.flush()).map_err(failed)?;
    } else {
        let mut file = BufWriter::with_capacity(1 << 16, &mut output);
        write_all(&mut file, &header, labels, small).map_err(failed)?;
        file.flush().map_err(failed)?;
    }
    output.finish()
}

fn write_all(
    file: &mut impl Write,
    header: &[u8],
    labels: Labels<'_>,
    small: bool,
) -> std::io::Result<()> {
    file.write_all(header)?;
    let mut block = Vec::with_capacity(1 << 16);
    match labels {
        Labels::U8(labels) if small => file.write_all(labels)?,
        Labels::U8(labels) => {
            for labels in labels.chunks(1 << 15) {
                block.clear();
                block.extend(labels.iter().flat_map(|label| u16::from(*label).to_le_bytes()));
                file.write_all(&block)?;
            }
        }
        Labels::U16(labels) => {
            for labels in labels.chunks(1 << 15) {
                block.clear();
                if small {
                    block.extend(labels.iter().map(|label| *label as u8));
                } else {
                    block.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
                }
                file.write_all(&block)?;
            }
        }
    }
    Ok(())
}

/// The header of a single file, little-endian, with the four bytes that say "no extensions".
fn header(
    dims: [usize; 3],
    geometry: &Geometry,
    stored: NiftiType,
) -> Result<[u8; SINGLE_FILE_OFFSET as usize]> {
    let mut bytes = [0; SINGLE_FILE_OFFSET as usize];
    let mut put = |offset: usize, value: &[u8]| {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    };
    let Written { handedness, quaternion, offset, rows } = geometry::to_header(geometry);
    put(0, &(HEADER_BYTES as i32).to_le_bytes());
    put(38, b"r");
    let mut dim = [1i16; 8];
    dim[0] = 3;
    for (axis, count) in dims.into_iter().enumerate() {
        dim[axis + 1] = i16::try_from(count).map_err(|_| {
            Error::argument(format!("{count} voxels along one axis; NIfTI-1 holds at most 32767"))
        })?;
    }
    let mut pixdim = [1.0f32; 8];
    pixdim[0] = handedness;
    for (axis, spacing) in geometry.spacing.into_iter().enumerate() {
        pixdim[axis + 1] = spacing as f32;
    }
    for n in 0..8 {
        put(40 + 2 * n, &dim[n].to_le_bytes());
        put(76 + 4 * n, &pixdim[n].to_le_bytes());
    }
    put(70, &(stored as i16).to_le_bytes());
    put(72, &(8 * stored.size_of() as i16).to_le_bytes());
    put(108, &(SINGLE_FILE_OFFSET as f32).to_le_bytes());
    put(112, &1.0f32.to_le_bytes()); // scl_slope
    put(123, &[2 | 8]); // millimetres, seconds
    put(252, &1i16.to_le_bytes()); // qform_code: scanner
    put(254, &1i16.to_le_bytes()); // sform_code
    let floats = quaternion.iter().chain(&offset).chain(rows.iter().flatten());
    for (n, value) in floats.enumerate() {
        put(256 + 4 * n, &value.to_le_bytes());
    }
    put(344, b"n+1\0");
    Ok(bytes)
}
