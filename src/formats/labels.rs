//! Writing label maps, in the format that the output's name tells.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::gzip::GzipWriter;
use super::nrrd::Segment;
use super::{OutputFile, metaimage, nifti, nrrd};
use crate::base::{Element, Error, Pool, Result};
use crate::volume::Geometry;

/// A label map is a fifth larger than at gzip's default level, 6, and is written two to three
/// times as fast.
pub(super) const LEVEL: u32 = 4;

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

    /// The type they are stored with: `U8` if the largest is below 255, else `U16` (nnU-Net's
    /// rule).
    pub(super) fn stored(self) -> Element {
        if self.largest() < 255 { Element::U8 } else { Element::U16 }
    }

    /// Whether there is one for each voxel.
    pub(super) fn check(self, dims: [usize; 3]) -> Result<()> {
        let voxels = dims.iter().try_fold(1usize, |product, count| product.checked_mul(*count));
        if voxels == Some(self.len()) {
            return Ok(());
        }
        Err(Error::argument(format!("a label map of {dims:?} voxels with {} values", self.len())))
    }

    /// Writes them as `stored`, little-endian.
    pub(super) fn write(self, file: &mut impl Write, stored: Element) -> io::Result<()> {
        let small = stored == Element::U8;
        let mut block = Vec::with_capacity(1 << 16);
        match self {
            Self::U8(labels) if small => file.write_all(labels)?,
            Self::U8(labels) => {
                for labels in labels.chunks(1 << 15) {
                    block.clear();
                    block.extend(labels.iter().flat_map(|label| u16::from(*label).to_le_bytes()));
                    file.write_all(&block)?;
                }
            }
            Self::U16(labels) => {
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
}

/// What a label map is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelFormat {
    /// `.nii`, `.nii.gz`.
    Nifti,
    /// `.nrrd`; `.nhdr` with a data file beside it.
    Nrrd,
    /// `.seg.nrrd`: 3D Slicer's segmentation.
    Segmentation,
    /// `.mha`; `.mhd` with a data file beside it.
    MetaImage,
}

impl LabelFormat {
    /// By the name of an output.
    ///
    /// # Errors
    /// [`Error::Argument`] if the name ends in none of theirs.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
        let name = name.unwrap_or_default();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&[".nii.gz", ".nii"]) {
            Ok(Self::Nifti)
        } else if ends(&[".seg.nrrd"]) {
            Ok(Self::Segmentation)
        } else if ends(&[".nrrd", ".nhdr"]) {
            Ok(Self::Nrrd)
        } else if ends(&[".mha", ".mhd"]) {
            Ok(Self::MetaImage)
        } else {
            Err(Error::argument(format!(
                "output {}: the name of a label map ends in .nii.gz, .nii, .seg.nrrd, .nrrd, .nhdr, \
                 .mha or .mhd",
                path.display()
            )))
        }
    }
}

/// The file that the voxels of an output `path` are written to, if it is not `path` itself.
pub fn data_file(path: &Path) -> Option<PathBuf> {
    let extension = path.extension()?.to_string_lossy().to_lowercase();
    match extension.as_str() {
        "nhdr" => Some(nrrd::data_file_name(path)),
        "mhd" => Some(metaimage::data_file_name(path)),
        _ => None,
    }
}

/// Writes a label map of `dims` voxels along i, j, k in the format that the output's name tells, and
/// finishes it; NRRD and MetaImage are compressed. Labels are stored as `u8` if the largest is below
/// 255, else as `u16`. `segments` are the labels that a `.seg.nrrd` describes; other formats have no
/// place for them. Except for MetaImage, `pool` shares the compression; the bytes do not depend on
/// its threads.
///
/// # Errors
/// [`Error::Argument`] if the name ends in nothing that is written, if `labels` has another length
/// than `dims` say, or for NIfTI a dimension is above 32767; [`Error::Io`] if the file can't be
/// written.
pub fn write_labels(
    output: OutputFile,
    labels: Labels<'_>,
    dims: [usize; 3],
    geometry: &Geometry,
    segments: &[Segment],
    pool: &Pool,
) -> Result<()> {
    let format = LabelFormat::of(output.path())?;
    labels.check(dims)?;
    match format {
        LabelFormat::Nifti => nifti::write_labels(output, labels, dims, geometry, pool),
        LabelFormat::MetaImage => write_metaimage(output, labels, dims, geometry),
        LabelFormat::Nrrd | LabelFormat::Segmentation => {
            let further = match format {
                LabelFormat::Segmentation => nrrd::segmentation_lines(segments, dims),
                _ => String::new(),
            };
            write_nrrd(output, labels, dims, geometry, &further, pool)
        }
    }
}

fn write_nrrd(
    mut output: OutputFile,
    labels: Labels<'_>,
    dims: [usize; 3],
    geometry: &Geometry,
    further_lines: &str,
    pool: &Pool,
) -> Result<()> {
    let path = output.path().to_owned();
    let failed = |source| Error::io(&path, source);
    let stored = labels.stored();
    let beside = DataFile::of(&path)?;
    let name = beside.as_ref().map(|data| data.name.as_str());
    let mut header = nrrd::header_lines(stored, dims, None, geometry, true, name)?;
    header.push_str(further_lines);
    header.push('\n');
    let compress = |file: &mut OutputFile| -> io::Result<()> {
        let file = BufWriter::with_capacity(1 << 16, file);
        let mut encoder = GzipWriter::new(file, LEVEL, pool)?;
        labels.write(&mut encoder, stored)?;
        encoder.finish()
    };
    output.write_all(header.as_bytes()).map_err(failed)?;
    match beside {
        Some(mut data) => {
            compress(&mut data.output).map_err(|source| Error::io(data.output.path(), source))?;
            data.output.finish()?;
        }
        None => compress(&mut output).map_err(failed)?,
    }
    output.finish()
}

fn write_metaimage(
    mut output: OutputFile,
    labels: Labels<'_>,
    dims: [usize; 3],
    geometry: &Geometry,
) -> Result<()> {
    let path = output.path().to_owned();
    let failed = |source| Error::io(&path, source);
    let stored = labels.stored();
    let beside = DataFile::of(&path)?;
    let name = beside.as_ref().map(|data| data.name.clone());
    let header = |compressed_bytes: u64| {
        let name = name.as_deref();
        metaimage::header(stored, dims, None, geometry, Some(compressed_bytes), name)
    };
    let compress = |file: &mut OutputFile| -> io::Result<u64> {
        let file = BufWriter::with_capacity(1 << 16, file);
        let mut encoder = ZlibEncoder::new(file, Compression::new(LEVEL));
        labels.write(&mut encoder, stored)?;
        encoder.flush()?;
        encoder.try_finish()?;
        let bytes = encoder.total_out();
        encoder.finish()?.flush()?;
        Ok(bytes)
    };
    let bytes = match beside {
        Some(mut data) => {
            let bytes = compress(&mut data.output);
            let bytes = bytes.map_err(|source| Error::io(data.output.path(), source))?;
            data.output.finish()?;
            bytes
        }
        None => {
            // Its length is not known yet; the header is written again when it is.
            output.write_all(header(0)?.as_bytes()).map_err(failed)?;
            compress(&mut output).map_err(failed)?
        }
    };
    output.file().seek(SeekFrom::Start(0)).map_err(failed)?;
    output.write_all(header(bytes)?.as_bytes()).map_err(failed)?;
    output.finish()
}

/// The file with the voxels of a header.
struct DataFile {
    output: OutputFile,
    /// As the header names it.
    name: String,
}

impl DataFile {
    fn of(header: &Path) -> Result<Option<Self>> {
        let Some(path) = data_file(header) else { return Ok(None) };
        let name = path.file_name().unwrap_or_default().to_str().map(String::from);
        let name = name.filter(|name| !name.contains(['%', '\n', '\r'])).ok_or_else(|| {
            Error::argument(format!(
                "output {}: a header can't name a file of this name",
                header.display()
            ))
        })?;
        Ok(Some(Self { output: OutputFile::create(&path)?, name }))
    }
}
