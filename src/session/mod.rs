//! The loop: gather, forward, blend, resolve. Progress, cancel, budget; no device by name.

mod components;
mod labels;
mod postprocess;
mod run;
mod size;
mod statistics;

pub use postprocess::Cleanup;
pub use run::Session;
pub use statistics::{IntensityStatistics, LabelStatistics, statistics};

use std::ops::ControlFlow;

use crate::base::Result;
use crate::device::DeviceChoice;

/// How a session is set up.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Threads of the processor; 0 takes the machine's parallelism. Results do not depend on it.
    pub threads: usize,
    /// Bytes of host memory that the session and its runs may allocate, beyond the caller's
    /// volume and the mapped model; `None` sets no limit.
    pub host_budget_bytes: Option<u64>,
}

/// What comes to the caller's grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Export {
    /// Scores are interpolated, then compared: nnU-Net v2, and v1's normal mode.
    #[default]
    Scores,
    /// Labels, each one's indicator interpolated linearly: nnU-Net v1's fast mode.
    Labels,
    /// The nearest voxel's label: nnU-Net v1's fastest mode.
    NearestLabels,
}

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Distance of tiles as a fraction of the patch, in (0, 1]; nnU-Net's default is 0.5.
    pub step: f64,
    /// Average over mirrored copies along every axis the model allows.
    pub mirror: bool,
    /// Label values to keep; others become background after the full argmax. `None` keeps all.
    pub keep: Option<Vec<u32>>,
    /// Label values whose probabilities are wanted, on the caller's grid; only with
    /// [`Export::Scores`].
    pub probabilities: Vec<u32>,
    /// What comes to the caller's grid.
    pub export: Export,
    /// Leave out the model's postprocessing.
    pub raw: bool,
    /// What is done to the labels, step by step, after the model's own postprocessing and before
    /// [`RunOptions::keep`]: what is kept does not depend on what is not.
    pub cleanup: Vec<Cleanup>,
    /// Call [`Observer::scores`].
    pub scores: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            step: 0.5,
            mirror: false,
            keep: None,
            probabilities: Vec::new(),
            export: Export::Scores,
            raw: false,
            cleanup: Vec::new(),
            scores: false,
        }
    }
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Cropping, normalising, resampling.
    Prepare,
    /// Running tiles and finishing slabs.
    Tiles,
    /// Handing over the result.
    Restore,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Network passes done (tiles, times mirrored copies, times folds).
    pub done: usize,
    /// Network passes in all; at most so many before the volume is prepared.
    pub total: usize,
    /// Seconds since the run began.
    pub seconds: f64,
}

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// The user should be told.
    Warning,
}

/// Who follows a run. Every method is called on the thread that called [`Session::run`].
#[allow(unused_variables)]
pub trait Observer {
    /// Called before each step; `Break` cancels the run.
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Something worth saying to the user, as one sentence.
    fn message(&mut self, level: Level, text: &str) {}

    /// What a part of the model is given, `[channels][shape0][shape1][shape2]`.
    ///
    /// # Errors
    /// An error ends the run.
    fn preprocessed(
        &mut self,
        part: usize,
        data: &[f32],
        channels: usize,
        shape: [usize; 3],
    ) -> Result<()> {
        Ok(())
    }

    /// With [`RunOptions::scores`]: class scores of a part of the model on the network's grid for
    /// `planes` of its slowest axis, `[classes][planes][shape1][shape2]`, in ascending order of
    /// planes.
    ///
    /// # Errors
    /// An error ends the run.
    fn scores(
        &mut self,
        part: usize,
        scores: &[f32],
        classes: usize,
        planes: std::ops::Range<usize>,
        shape: [usize; 3],
    ) -> Result<()> {
        Ok(())
    }
}

/// Follows nothing.
pub struct Unobserved;

impl Observer for Unobserved {}

/// A label map on the caller's grid, `[k][j][i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelMap {
    /// All label values of the model fit a byte.
    U8(Vec<u8>),
    /// They don't.
    U16(Vec<u16>),
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Segmentation {
    /// Label value of each voxel.
    pub labels: LabelMap,
    /// `[wanted labels][k][j][i]`, in the order of [`RunOptions::probabilities`].
    pub probabilities: Vec<f32>,
    /// How the run went.
    pub report: Report,
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Tiles of the volume, of all parts.
    pub tiles: usize,
    /// Network passes: tiles, times mirrored copies, times folds.
    pub passes: usize,
    /// Voxels along the network's axes on its grid, of the last part.
    pub network_shape: [usize; 3],
    /// Bytes the session estimated for itself and this run.
    pub estimated_host_bytes: u64,
    /// Seconds spent on cropping, normalising and resampling.
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

/// What a run will need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Tiles of the volume, of all parts.
    pub tiles: usize,
    /// Network passes: tiles, times mirrored copies, times folds.
    pub passes: usize,
    /// Bytes of host memory: what the session holds and what the run adds, at the peak. Where a
    /// model or [`RunOptions::cleanup`] asks for components, those of a label map that is noise
    /// take more; a run within a budget stays within it.
    pub host_bytes: u64,
}
