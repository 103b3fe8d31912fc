//! NIfTI-1 images: `.nii`, `.nii.gz`, and `.hdr`/`.img` pairs in; `.nii` and `.nii.gz` out.
//!
//! Header fields and their meaning: <https://nifti.nimh.nih.gov/nifti-1>. Where readers differ,
//! voxtile does what ITK's reader does, because nnU-Net's models were trained on what it returns;
//! [`geometry`] lists the rules.

pub mod geometry;
mod header;
mod read;
mod write;

pub use super::labels::Labels;
pub use read::read;
pub use write::write_labels;

pub(super) use read::open;
pub(super) use write::header;
