//! Where tiles lie, how much each of their voxels weighs, and when a slab is finished.

/// One tile: a patch at a place of the padded volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// First voxel along each axis, in the padded volume.
    pub start: [usize; 3],
}

/// Planes of the slowest axis that no later tile touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Planes of the volume (without padding) that became final.
    pub planes: std::ops::Range<usize>,
    /// Planes of the output grid that can be made from this slab and the planes before it.
    pub output: std::ops::Range<usize>,
}
