//! Reading NIfTI-1 files.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::Image;
use super::super::source::Source;
use super::super::voxels::Opened;
use super::header::{self, HEADER_BYTES};
use crate::base::mapping::Loading;
use crate::base::{Error, Result};

/// Reads a NIfTI-1 image: a `.nii` file, or either file of a `.hdr`/`.img` pair, plain or
/// gzip-compressed whatever its name says. As [`formats::read`](crate::formats::read) otherwise,
/// which reads other formats too.
///
/// # Errors
/// As [`formats::read`](crate::formats::read); [`Error::Unsupported`] for NIfTI-2 too.
pub fn read(path: &Path) -> Result<Image> {
    open(path)?.read(path, Loading::Mapped)
}

/// Reads the header of a file, or of a pair by the name of either file.
pub(in super::super) fn open(path: &Path) -> Result<Opened> {
    let (header_path, pair) = match partner(path) {
        Some((image, header)) if is_image_name(path) => (header, image),
        Some((image, _)) => (path.into(), image),
        None => (path.into(), path.into()),
    };
    let mut source = Source::open(&header_path)?.gunzip_if_compressed()?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    let mut start = source.reader.by_ref().take(HEADER_BYTES as u64);
    start.read_to_end(&mut bytes).map_err(|error| source.failed(error))?;
    let (claims, separate) = match header::parse(&bytes) {
        Ok(Ok(checked)) => checked,
        Ok(Err(reason)) => {
            return Err(Error::Unsupported(format!("{}: {reason}", header_path.display())));
        }
        Err(reason) => {
            return Err(match foreign_format(path) {
                Some(format) => Error::Unsupported(format!(
                    "{}: {format} is not read; convert it to NIfTI (.nii.gz) first, for example \
                     with SimpleITK or 3D Slicer",
                    path.display()
                )),
                None => Error::format(header_path.display().to_string(), reason),
            });
        }
    };
    if !separate {
        let skip = claims.offset - HEADER_BYTES as u64;
        return Ok(Opened { claims, source, skip });
    }
    if pair == header_path {
        return Err(Error::format(
            header_path.display().to_string(),
            "the header says that the voxels are in an .img file, but this file is not named .hdr",
        ));
    }
    let skip = claims.offset;
    Ok(Opened { claims, source: Source::open(&pair)?.gunzip_if_compressed()?, skip })
}

/// For a file of a pair, by its name: the image file and the header file.
fn partner(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let name = path.file_name()?.to_str()?;
    let (stem, compressed) = match name.strip_suffix(".gz") {
        Some(stem) => (stem, true),
        None => (name, false),
    };
    let stem = stem.strip_suffix(".hdr").or_else(|| stem.strip_suffix(".img"))?;
    let find = |extension: &str| {
        let mut names = [format!("{stem}.{extension}"), format!("{stem}.{extension}.gz")];
        if compressed {
            names.reverse();
        }
        let [preferred, other] = names.map(|name| path.with_file_name(name));
        if !preferred.exists() && other.exists() { other } else { preferred }
    };
    Some((find("img"), find("hdr")))
}

fn is_image_name(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".img") || name.ends_with(".img.gz")
}

/// The name of another image format, by the file's name.
fn foreign_format(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let formats = [
        (".dcm", "DICOM"),
        (".mgz", "MGH"),
        (".mgh", "MGH"),
        (".gipl", "GIPL"),
        (".gipl.gz", "GIPL"),
        (".npy", "NumPy"),
        (".npz", "NumPy"),
        (".b2nd", "Blosc2"),
        (".tif", "TIFF"),
        (".tiff", "TIFF"),
        (".png", "PNG"),
        (".jpg", "JPEG"),
        (".zip", "a ZIP archive"),
        (".safetensors", "safetensors as an image"),
    ];
    formats.iter().find(|(extension, _)| name.ends_with(extension)).map(|(_, format)| *format)
}
