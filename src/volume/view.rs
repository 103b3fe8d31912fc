//! A caller's voxels, borrowed.

use crate::base::Element;

use super::Geometry;

/// A volume of one or more channels in somebody else's memory, of any element type and strides.
#[derive(Clone, Copy)]
pub struct VolumeView<'a> {
    /// All the bytes that voxels may lie in.
    pub bytes: &'a [u8],
    /// Type of the stored values.
    pub element: Element,
    /// Voxels along i, j, k.
    pub dims: [usize; 3],
    /// Bytes from one voxel to the next along i, j, k; may be negative.
    pub strides: [isize; 3],
    /// Channels, at least 1.
    pub channels: usize,
    /// Bytes from a voxel to the same voxel of the next channel.
    pub channel_stride: isize,
    /// Byte of voxel (0, 0, 0) of channel 0.
    pub first: usize,
    /// Value = stored value * slope + intercept.
    pub slope: f64,
    /// See `slope`.
    pub intercept: f64,
    /// Where the voxels lie.
    pub geometry: Geometry,
}
