//! Volumes: where their voxels lie, how they become what a network sees, and the way back.
//!
//! The arithmetic is nnU-Net v2's `DefaultPreprocessor` and `resample_data_or_seg_to_shape`.
//! Pure functions on plain data; knows no device and no file.

pub mod crop;
pub mod geometry;
pub mod intensity;
pub mod placement;
pub mod prepare;
pub mod resample;
pub mod spline;
pub mod view;

pub use geometry::Geometry;
pub use intensity::Intensity;
pub use placement::{Orientation, Placement};
pub use prepare::{PrepareSize, Prepared, Recipe, prepare, prepare_bytes};
pub use resample::AxisMap;
pub use view::VolumeView;
