//! Where tiles lie, how much each of their voxels weighs, and when a slab is finished.
//!
//! Pure functions on plain data; the axes are those a run goes along, the slowest first.

mod gaussian;
mod schedule;
mod tiles;

pub use gaussian::weights;
pub use schedule::{Grain, Schedule, Slab, Step, pad_before, schedule, sweep};
pub use tiles::{Tile, tile_count, tile_starts};
