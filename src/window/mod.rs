//! Where tiles lie, how much each of their voxels weighs, and when a slab is finished.

/// One tile: a patch at a place of the padded volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// First voxel along each axis, in the padded volume.
    pub start: [usize; 3],
}
