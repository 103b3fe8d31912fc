//! Resampling as nnU-Net does it.

/// For each voxel of an output axis, the two voxels of the input axis it lies between:
/// `value = input[low] * (1 - fraction) + input[high] * fraction`. Nearest-neighbour and identity
/// maps have `low == high` and `fraction == 0`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AxisMap {
    /// Lower neighbour of each output voxel; never decreases.
    pub low: Vec<u32>,
    /// Upper neighbour: `low` or `low + 1`.
    pub high: Vec<u32>,
    /// Weight of the upper neighbour, in [0, 1).
    pub fraction: Vec<f32>,
}
