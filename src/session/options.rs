//! What a session and its runs are asked to do.

use std::ops::Range;
use std::sync::Arc;

use super::Cleanup;
use crate::device::{Accumulators, DeviceChoice, Precision};

/// How a session is set up.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// How the network's values are held; `None` takes what the device is made for: half precision
    /// on a GPU, single on the processor.
    pub precision: Option<Precision>,
    /// Threads of the processor; 0 takes the machine's parallelism. Results do not depend on it.
    pub threads: usize,
    /// Bytes of host memory that the session and its runs may allocate, beyond the caller's
    /// volume and the mapped model; `None` sets no limit. Results do not depend on it.
    pub host_budget_bytes: Option<u64>,
    /// Bytes of a GPU's own memory that the session and its runs may allocate; `None` allows what is
    /// free. Results do not depend on it.
    pub device_budget_bytes: Option<u64>,
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

/// The part of a volume that is wanted. Inside it labels are those of a run on the whole volume;
/// outside they are 0. Only tiles that can touch it are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Region {
    /// Voxels along i, j, k.
    Box([Range<usize>; 3]),
    /// Where the mask, `[k][j][i]` on the volume's grid, is not zero.
    Mask(Arc<[u8]>),
}

/// The grid of probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grid {
    /// The caller's: `[k][j][i]`.
    #[default]
    Volume,
    /// The network's, cropped to the voxels that are not zero, in the network's axes.
    Network,
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
    /// The part of the volume that is wanted; `None` is all of it.
    pub region: Option<Region>,
    /// Tiles all of whose voxels in the first channel lie below this value, in the volume's units
    /// (HU in a CT), are not run and add nothing; what only such tiles cover is background. `None`
    /// runs every tile. It changes labels near the skipped tiles.
    pub skip_air_below: Option<f32>,
    /// Label values whose probabilities go to [`super::Observer::probabilities`]; only with
    /// [`Export::Scores`].
    pub probabilities: Vec<u32>,
    /// The grid of these probabilities.
    pub probability_grid: Grid,
    /// What comes to the caller's grid.
    pub export: Export,
    /// How overlapping tiles are added up.
    pub accumulators: Accumulators,
    /// Leave out the model's postprocessing.
    pub raw: bool,
    /// What is done to the labels, step by step, after the model's own postprocessing and before
    /// [`RunOptions::keep`]: what is kept does not depend on what is not.
    pub cleanup: Vec<Cleanup>,
    /// Call [`super::Observer::scores`].
    pub scores: bool,
    /// Call [`super::Observer::preprocessed`].
    pub preprocessed: bool,
    /// Bytes of [`SessionOptions::host_budget_bytes`] that something else has during the run, such
    /// as the caller's volumes.
    pub taken_bytes: u64,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            step: 0.5,
            mirror: false,
            keep: None,
            region: None,
            skip_air_below: None,
            probabilities: Vec::new(),
            probability_grid: Grid::Volume,
            export: Export::Scores,
            accumulators: Accumulators::F32,
            raw: false,
            cleanup: Vec::new(),
            scores: false,
            preprocessed: false,
            taken_bytes: 0,
        }
    }
}
