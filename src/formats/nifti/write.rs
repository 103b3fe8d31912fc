//! Writing label maps as NIfTI-1.

use std::io::{BufWriter, Write};
use std::path::Path;

use nifti::NiftiType;

use crate::base::{Element, Error, Pool, Result};
use crate::volume::Geometry;

use super::super::OutputFile;
use super::super::gzip::GzipWriter;
use super::super::labels::{LEVEL, Labels};
use super::geometry::{self, Written};
use super::header::{HEADER_BYTES, SINGLE_FILE_OFFSET};

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
/// `u16` (nnU-Net's rule). qform and sform both say where the voxels lie, with code 1, in mm. The
/// bytes do not depend on the pool's threads.
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
    pool: &Pool,
) -> Result<()> {
    let compressed = check_output_name(output.path())?;
    labels.check(dims)?;
    let stored = labels.stored();
    let header = header(dims, None, geometry, stored, 1.0)?;
    let path = output.path().to_owned();
    let failed = |source| Error::io(&path, source);
    if compressed {
        let file = BufWriter::with_capacity(1 << 16, &mut output);
        let mut encoder = GzipWriter::new(file, LEVEL, pool).map_err(failed)?;
        encoder.write_all(&header).map_err(failed)?;
        labels.write(&mut encoder, stored).map_err(failed)?;
        encoder.finish().map_err(failed)?;
    } else {
        let mut file = BufWriter::with_capacity(1 << 16, &mut output);
        file.write_all(&header).map_err(failed)?;
        labels.write(&mut file, stored).map_err(failed)?;
        file.flush().map_err(failed)?;
    }
    output.finish()
}

/// The header of a single file, little-endian, with the four bytes that say "no extensions": of
/// voxels `[channels][k][j][i]`, or of one grid without channels.
///
/// # Errors
/// [`Error::Argument`] for a type that is not written, or too many voxels along an axis.
pub(in super::super) fn header(
    dims: [usize; 3],
    channels: Option<usize>,
    geometry: &Geometry,
    stored: Element,
    slope: f32,
) -> Result<[u8; SINGLE_FILE_OFFSET as usize]> {
    let stored = match stored {
        Element::U8 => NiftiType::Uint8,
        Element::U16 => NiftiType::Uint16,
        Element::F32 => NiftiType::Float32,
        other => return Err(Error::argument(format!("NIfTI is not written with {other:?}"))),
    };
    let mut bytes = [0; SINGLE_FILE_OFFSET as usize];
    let mut put = |offset: usize, value: &[u8]| {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    };
    let Written { handedness, quaternion, offset, rows } = geometry::to_header(geometry);
    put(0, &(HEADER_BYTES as i32).to_le_bytes());
    put(38, b"r");
    let mut dim = [1i16; 8];
    dim[0] = if channels.is_some() { 4 } else { 3 };
    for (axis, count) in dims.into_iter().chain(channels).enumerate() {
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
    put(112, &slope.to_le_bytes()); // scl_slope
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
