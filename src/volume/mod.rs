//! Volumes: where their voxels lie, how they become what a network sees, and the way back.
//!
//! The arithmetic is that of nnU-Net v2's `DefaultPreprocessor` and
//! `resample_data_or_seg_to_shape`, or of v1's `GenericPreprocessor`.
//! Pure functions on plain data; knows no device and no file.

pub mod crop;
pub mod geometry;
pub mod intensity;
pub mod labels;
mod mask;
pub mod meter;
mod moments;
pub mod native;
pub mod placement;
mod planes;
pub mod prepare;
pub mod resample;
pub mod rules;
mod spline;
pub mod stream;
pub mod view;

pub use geometry::Geometry;
pub use intensity::Intensity;
pub use meter::{LineStatistics, Meter};
pub use native::{NativePlanes, Resampling};
pub use placement::{Orientation, Placement};
pub use prepare::{Grids, Preparation, Recipe, preparation_bytes};
pub use resample::AxisMap;
pub use rules::{Generation, Interpolation, SeparateAxis};
pub use spline::Band;
pub use stream::{Found, Piece, Planes};
pub use view::VolumeView;
