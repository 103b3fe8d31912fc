//! Who follows a run, and what they are told.

use std::ops::{ControlFlow, Range};

use crate::base::Result;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking at the volume: crop, intensities.
    Prepare,
    /// Making planes, running tiles and finishing slabs.
    Tiles,
    /// Handing over the result.
    Restore,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Network passes done or skipped (tiles, times mirrored copies, times folds).
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

/// Probabilities of a box of voxels. The boxes of a run cover the whole grid, each label's voxels
/// once, but for parts of a model that have none of the wanted labels.
pub struct ProbabilityBox<'a> {
    /// Which of [`super::RunOptions::probabilities`], by position.
    pub labels: &'a [usize],
    /// Voxels of the grid along its axes: (k, j, i) of the caller's, or the network's.
    pub grid: [usize; 3],
    /// The box, along the same axes.
    pub range: [Range<usize>; 3],
    /// `[labels][range 0][range 1][range 2]`
    pub values: &'a [f32],
}

/// Who follows a run. Every method is called on the thread that called [`super::Session::run`].
#[allow(unused_variables)]
pub trait Observer {
    /// Called before each step; `Break` cancels the run.
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Something worth saying to the user, as one sentence.
    fn message(&mut self, level: Level, text: &str) {}

    /// With [`super::RunOptions::preprocessed`]: what a part of the model is given, for `planes`
    /// of the network's slowest axis, `[channels][planes][shape1][shape2]`, in ascending order of
    /// planes.
    ///
    /// # Errors
    /// An error ends the run.
    fn preprocessed(
        &mut self,
        part: usize,
        values: &[f32],
        channels: usize,
        planes: Range<usize>,
        shape: [usize; 3],
    ) -> Result<()> {
        Ok(())
    }

    /// With [`super::RunOptions::scores`]: class scores of a part of the model on the network's
    /// grid for `planes` of its slowest axis, `[classes][planes][shape1][shape2]`, in ascending
    /// order of planes.
    ///
    /// # Errors
    /// An error ends the run.
    fn scores(
        &mut self,
        part: usize,
        scores: &[f32],
        classes: usize,
        planes: Range<usize>,
        shape: [usize; 3],
    ) -> Result<()> {
        Ok(())
    }

    /// With [`super::RunOptions::probabilities`]: some of them, as they become final.
    ///
    /// # Errors
    /// An error ends the run.
    fn probabilities(&mut self, found: &ProbabilityBox) -> Result<()> {
        Ok(())
    }
}

/// Follows nothing.
pub struct Unobserved;

impl Observer for Unobserved {}
