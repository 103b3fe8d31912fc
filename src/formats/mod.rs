//! Image and tensor files: NIfTI in and out, safetensors out.
//!
//! Every writer puts its bytes into a temporary file in the folder of the output and renames it
//! when it is complete, so an output is either whole or absent.

pub mod image;
mod narrow;
pub mod nifti;
pub mod output;
pub mod tensors;

pub use image::Image;
pub use output::OutputFile;
pub use tensors::{Tensor, TensorFile};
