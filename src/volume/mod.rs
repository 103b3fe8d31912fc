//! Volumes: where their voxels lie, how they become what a network sees, and the way back.
//!
//! Pure functions on plain data; knows no device and no file.

pub mod geometry;
pub mod prepare;
pub mod resample;
pub mod view;

pub use geometry::Geometry;
pub use prepare::{Intensity, Orientation, Placement, Prepared, Recipe, prepare};
pub use resample::AxisMap;
pub use view::VolumeView;
