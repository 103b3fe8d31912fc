//! Image files, read and written.

mod images_read;
mod images_write;
mod nifti_memory;
mod nifti_read;
mod nifti_write;
