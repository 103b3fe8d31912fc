//! The loop: feed, gather, forward, blend, resolve. Progress, cancel, budget; no device by name.

mod air;
mod components;
mod flood;
mod labels;
mod observer;
mod opening;
mod options;
mod part;
mod postprocess;
mod probabilities;
mod region;
mod run;
mod size;
mod statistics;

pub use observer::{Level, Observer, Phase, ProbabilityBox, Progress, Unobserved};
pub use opening::ChosenDevice;
pub use options::{Export, Grid, Region, RunOptions, SessionOptions};
pub use postprocess::Cleanup;
pub use run::{Session, estimate};
pub use statistics::{IntensityStatistics, LabelStatistics, statistics};

use crate::device::MemoryPart;

/// A label map on the caller's grid, `[k][j][i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelMap {
    /// All label values of the model fit a byte.
    U8(Vec<u8>),
    /// They don't.
    U16(Vec<u16>),
}

impl LabelMap {
    /// Bytes of its labels.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::U8(labels) => labels.len() as u64,
            Self::U16(labels) => 2 * labels.len() as u64,
        }
    }
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Segmentation {
    /// Label value of each voxel.
    pub labels: LabelMap,
    /// How the run went.
    pub report: Report,
}

/// How a run went. A GPU works while the processor goes on: its seconds are counted where the
/// processor waits for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Tiles of the volume, of all parts.
    pub tiles: usize,
    /// Tiles that were not run: outside the region, or air.
    pub skipped_tiles: usize,
    /// Network passes: tiles that were run, times mirrored copies, times folds.
    pub passes: usize,
    /// Voxels along the network's axes on its grid, of the last part.
    pub network_shape: [usize; 3],
    /// What the session estimated for itself and this run, and how it chose to run.
    pub estimate: Estimate,
    /// Seconds spent on looking at the volume, and on cropping, normalising and resampling.
    pub prepare_seconds: f64,
    /// Seconds spent in the network (gather and forward).
    pub network_seconds: f64,
    /// Seconds spent on blending tiles.
    pub blend_seconds: f64,
    /// Seconds spent on scores, labels and their way back to the caller's grid.
    pub resolve_seconds: f64,
    /// Seconds in all.
    pub total_seconds: f64,
}

/// What a run will need, and how it will go about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Tiles of the volume, of all parts.
    pub tiles: usize,
    /// Those of them that the region leaves out. Exact where no side of the volume is zero
    /// throughout; else tiles lie elsewhere, and a few more or fewer may touch the region. Tiles of
    /// air are not known beforehand, and so not among them.
    pub skipped_tiles: usize,
    /// Network passes: tiles that are run, times mirrored copies, times folds.
    pub passes: usize,
    /// Of each part of the model.
    pub part_passes: Vec<usize>,
    /// Bytes of host memory: what the session holds and what the run adds, at the peak.
    pub host_bytes: u64,
    /// Bytes of a GPU's own memory, likewise; 0 on the processor.
    pub device_bytes: u64,
    /// What both are for, the largest first.
    pub memory: Vec<MemoryPart>,
    /// The smallest budget of host memory that would do.
    pub least_host_bytes: u64,
    /// The smallest budget of the GPU's memory that would do.
    pub least_device_bytes: u64,
    /// How the run goes about it, within the session's budget.
    pub choices: Choices,
}

/// What a run chooses to stay within a budget. Labels do not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Planes that become labels at a time, at most.
    pub slab_planes: usize,
    /// Whether the prepared volume is kept whole, for the next part of the model.
    pub keep_prepared: bool,
}
