//! Image and tensor files: NIfTI, NRRD and MetaImage in and out, safetensors out.
//!
//! Every writer puts its bytes into a file without a name in the folder of the output, or a temporary
//! one where there is no such thing, and names it when it is complete, so an output is either whole
//! or absent. Of a header with a data file beside
//! it, the data file appears first.

mod axes;
mod gzip;
pub mod image;
pub mod labels;
mod metaimage;
mod narrow;
pub mod nifti;
pub mod nrrd;
pub mod output;
mod read;
mod source;
pub mod tensors;
pub mod volumes;
mod voxels;

pub use image::Image;
pub use labels::{LabelFormat, Labels, write_labels};
pub use output::OutputFile;
pub use read::{memory_bytes, read, read_channels, read_headers, read_with};
pub use tensors::{Tensor, TensorFile};
