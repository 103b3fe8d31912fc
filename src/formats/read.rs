//! Reading images of any format, which their contents and names tell.

use std::path::Path;

use super::source::Source;
use super::voxels::Opened;
use super::{Image, metaimage, nifti, nrrd};
use crate::base::mapping::Loading;
use crate::base::{Error, Result};

/// Reads an image: NIfTI-1 (`.nii`, `.nii.gz`, either file of a `.hdr`/`.img` pair), NRRD (`.nrrd`,
/// `.nhdr`, `.seg.nrrd`) or MetaImage (`.mha`, `.mhd`).
///
/// Voxels that are not compressed and in the machine's byte order are mapped, not copied, so what
/// [`Loading::Mapped`] says of the file holds while the image is in use; [`read_with`] can leave
/// that out.
///
/// # Errors
/// [`Error::Io`] if the file can't be read, [`Error::Format`] if it is not what it should be,
/// [`Error::Unsupported`] for other image formats and voxels that are not plain numbers,
/// [`Error::Memory`]. Nothing is allocated on the word of a header that the file's size
/// contradicts.
pub fn read(path: &Path) -> Result<Image> {
    read_with(path, Loading::Mapped)
}

/// As [`read`], mapping the voxels only if `loading` says so.
///
/// # Errors
/// As [`read`].
pub fn read_with(path: &Path, loading: Loading) -> Result<Image> {
    open(path)?.read(path, loading)
}

/// Reads the channel files of one case, such as nnU-Net's `case_0000.nii.gz`, `case_0001.nii.gz`,
/// in the order given, into one image.
///
/// # Errors
/// As [`read`], and [`Error::Argument`] if there is no file or the files do not share one grid.
pub fn read_channels<P: AsRef<Path>>(paths: &[P]) -> Result<Image> {
    channels(paths, read)
}

/// What [`read_channels`] reads of these files, without the voxels.
///
/// # Errors
/// As [`read_channels`], for what the headers say.
pub fn read_headers<P: AsRef<Path>>(paths: &[P]) -> Result<Image> {
    channels(paths, |path| Ok(open(path)?.without_voxels(path)))
}

/// Bytes of memory that [`read_channels`] takes at most for these files, by their headers.
///
/// # Errors
/// As [`read`], for what the headers say.
pub fn memory_bytes<P: AsRef<Path>>(paths: &[P]) -> Result<u64> {
    let mut bytes = 0u64;
    for path in paths {
        let opened = open(path.as_ref())?;
        let claims = &opened.claims;
        let voxels = claims.voxel_bytes / claims.element.size() as u64;
        bytes = bytes.saturating_add(match paths {
            [_] => opened.memory_bytes(),
            // Several are put together, as they are or as `f32`; the last may be there twice.
            _ => claims.voxel_bytes.max(voxels.saturating_mul(4)).saturating_mul(2),
        });
    }
    Ok(bytes)
}

/// What `read` makes of each file, in one image.
fn channels<P: AsRef<Path>>(paths: &[P], read: impl Fn(&Path) -> Result<Image>) -> Result<Image> {
    let [first, further @ ..] = paths else {
        return Err(Error::argument("no input file"));
    };
    let first = first.as_ref();
    let mut image = read(first)?;
    for path in further {
        let path = path.as_ref();
        image.append(&first.display().to_string(), read(path)?, &path.display().to_string())?;
    }
    Ok(image)
}

fn open(path: &Path) -> Result<Opened> {
    // A file that is not there may be one of a pair, whose other name `nifti` knows.
    let Ok(mut source) = Source::open(path) else { return nifti::open(path) };
    let start = source.ahead()?;
    if nrrd::recognizes(path, start) {
        nrrd::open(source)
    } else if metaimage::recognizes(path, start) {
        metaimage::open(source)
    } else {
        nifti::open(path)
    }
}
