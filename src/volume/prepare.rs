//! From a caller's volume to what a network sees.

use std::ops::Range;

use crate::base::{Pool, Result};

use super::{AxisMap, VolumeView};

/// Which voxel order a network was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// The order voxels are stored in, whatever the direction says (nnU-Net's `SimpleITKIO`).
    AsStored,
    /// i towards right, j towards anterior, k towards superior: axes are permuted and flipped to
    /// the closest such order (nnU-Net's `SimpleITKIOWithReorient`, `NibabelIOWithReorient`).
    Ras,
}

/// How a channel's values become numbers of order one (nnU-Net's normalisation schemes).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Intensity {
    /// Clip to [lower, upper], subtract mean, divide by deviation (at least 1e-8).
    Ct {
        /// 0.5th percentile of the training set's foreground.
        lower: f64,
        /// 99.5th percentile.
        upper: f64,
        /// Mean of the training set's foreground.
        mean: f64,
        /// Standard deviation of the training set's foreground.
        deviation: f64,
    },
    /// Subtract the volume's mean, divide by its standard deviation (at least 1e-8).
    ZScore {
        /// Statistics and transform only inside the hole-filled non-zero mask.
        masked: bool,
    },
    /// Values as they are.
    None,
    /// To [0, 1] by the volume's minimum and maximum.
    RescaleTo01,
}

/// What a model asks of its input.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Which voxel order it was trained on.
    pub orientation: Orientation,
    /// nnU-Net's `transpose_forward`: network axis `n` is axis `transpose[n]` of (k, j, i).
    pub transpose: [usize; 3],
    /// Distance of voxels along the network's axes, in mm.
    pub spacing: [f64; 3],
    /// One for each input channel.
    pub intensity: Vec<Intensity>,
}

/// A preprocessed volume, and the way back.
pub struct Prepared {
    /// `[channels][shape0][shape1][shape2]`, network axes.
    pub data: Vec<f32>,
    /// Input channels.
    pub channels: usize,
    /// Voxels along the network's axes.
    pub shape: [usize; 3],
    /// For each network axis, from the cropped native grid (`placement.shape()`) to this grid, by
    /// which scores return.
    pub output: [AxisMap; 3],
    /// Where the cropped native grid lies in the caller's volume.
    pub placement: Placement,
}

/// Where the cropped native grid, in network axes, lies in the caller's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Voxels of the caller's volume along i, j, k.
    pub dims: [usize; 3],
    /// Network axis `n` runs along the caller's axis `axes[n]` (0 = i).
    pub axes: [usize; 3],
    /// Whether network axis `n` runs against it.
    pub reversed: [bool; 3],
    /// The box that was kept, in voxels of the network's axes before cropping.
    pub crop: [Range<usize>; 3],
}

/// Runs every step of preprocessing.
///
/// # Errors
/// If the view, its geometry or its values can't be used.
pub fn prepare(_view: &VolumeView, _recipe: &Recipe, _pool: &Pool) -> Result<Prepared> {
    todo!()
}
