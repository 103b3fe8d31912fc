//! NIfTI-1 images: `.nii`, `.nii.gz`, and `.hdr`/`.img` pairs in; `.nii` and `.nii.gz` out.
//!
//! Header fields and their meaning: <https://nifti.nimh.nih.gov/nifti-1>. Where readers differ,
//! voxtile does what ITK's reader does, because nnU-Net's models were trained on what it returns;
//! [`geometry`] lists the rules.

pub mod geometry;
mod header;
mod read;
mod source;
mod write;

pub use read::{memory_bytes, read, read_channels, read_headers, read_with};
pub use write::{Labels, check_output_name, write_labels};
