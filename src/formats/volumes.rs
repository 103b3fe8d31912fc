//! Image files of several volumes, whose values arrive in boxes: probabilities of labels.

use std::path::Path;

use super::{OutputFile, TensorFile, metaimage, nifti, nrrd};
use crate::base::{Element, Error, Result};
use crate::volume::Geometry;

/// Formats of image files whose values are written where they belong: in one file, not compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeFormat {
    /// `.nii`.
    Nifti,
    /// `.nrrd`.
    Nrrd,
    /// `.mha`.
    MetaImage,
}

impl VolumeFormat {
    /// By the name of an output; `None` if it is not an image's.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is an image's that would be compressed or of two files.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
        let name = name.unwrap_or_default();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&[".nii.gz", ".seg.nrrd", ".nhdr", ".mhd"]) {
            return Err(Error::argument(format!(
                "output {}: probabilities are written as .safetensors, .nii, .nrrd or .mha",
                path.display()
            )));
        }
        Ok(if ends(&[".nii"]) {
            Some(Self::Nifti)
        } else if ends(&[".nrrd"]) {
            Some(Self::Nrrd)
        } else if ends(&[".mha"]) {
            Some(Self::MetaImage)
        } else {
            None
        })
    }
}

/// Begins an image file of `count` volumes, each of `dims` voxels along i, j, k; the file is the
/// tensor `[count][k][j][i]`. `element` is `F32`, or `U8` with 255 for 1.
///
/// # Errors
/// [`Error::Argument`] for another type, or a size the format can't hold; [`Error::Io`].
pub fn begin(
    output: OutputFile,
    format: VolumeFormat,
    element: Element,
    dims: [usize; 3],
    count: usize,
    geometry: &Geometry,
) -> Result<TensorFile> {
    let channels = (count != 1).then_some(count);
    let header = match format {
        VolumeFormat::Nifti => {
            let slope = if element == Element::U8 { 1.0 / 255.0 } else { 1.0 };
            nifti::header(dims, channels, geometry, element, slope)?.to_vec()
        }
        VolumeFormat::Nrrd => {
            let lines = nrrd::header_lines(element, dims, channels, geometry, false, None)?;
            (lines + "\n").into_bytes()
        }
        VolumeFormat::MetaImage => {
            metaimage::header(element, dims, channels, geometry, None, None)?.into_bytes()
        }
    };
    let [i, j, k] = dims;
    TensorFile::begin_after(output, &header, [count, k, j, i], element)
}
