//! Where tiles lie, how much each of their voxels weighs, and when a slab is finished.
//!
//! Pure functions on plain data; the axes are the network's, the slowest first.

mod gaussian;
mod schedule;
mod tiles;

pub use gaussian::weights;
pub use schedule::{SLAB_PLANES, Schedule, Slab, Step, schedule};
pub use tiles::{Tile, tile_count, tile_starts};
