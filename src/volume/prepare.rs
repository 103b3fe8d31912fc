//! From a caller's volume to what a network sees.

use super::resample::{new_shape, output_maps};
use super::{AxisMap, Intensity, Orientation, Placement, VolumeView, crop, intensity, spline};
use crate::base::error::{filled, reserved};
use crate::base::{Error, Pool, Result};

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

/// What preprocessing needs, at most: the non-zero box is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareSize {
    /// Bytes allocated at the peak, the result included.
    pub peak_bytes: u64,
    /// Voxels along the network's axes on its grid.
    pub shape: [usize; 3],
    /// Voxels along the network's axes on the caller's grid.
    pub native: [usize; 3],
}

/// Checks the volume and says what preprocessing it needs; reads no voxel.
///
/// # Errors
/// [`Error::Argument`] if the view, its geometry or its number of channels can't be used.
pub fn prepare_bytes(view: &VolumeView, recipe: &Recipe) -> Result<PrepareSize> {
    let whole = placement(view, recipe)?;
    let native = whole.shape();
    let shape = new_shape(native, whole.spacing(view), recipe.spacing)?;
    let bytes = |shape: [usize; 3]| 4 * shape.iter().product::<usize>() as u64;
    let channels = view.channels as u64;
    let mask = if masked(recipe) { bytes(native) / 4 * 10 } else { 0 };
    let result = channels * bytes(shape);
    let resampling = match native == shape {
        true => 0,
        false => spline::bytes(native, whole.spacing(view), shape, recipe.spacing) + result,
    };
    let peak_bytes = channels * bytes(native) + mask.max(resampling);
    Ok(PrepareSize { peak_bytes, shape, native })
}

/// Runs every step: crop to the non-zero box, normalise, resample.
///
/// # Errors
/// [`Error::Argument`] if the view, its geometry, its number of channels or its values can't be
/// used; [`Error::Memory`] if the machine's memory runs out.
pub fn prepare(view: &VolumeView, recipe: &Recipe, pool: &Pool) -> Result<Prepared> {
    let mut placement = placement(view, recipe)?;
    placement.crop = crop::non_zero_box(view, &placement, pool)?;
    let native = placement.shape();
    let spacing = placement.spacing(view);
    let shape = new_shape(native, spacing, recipe.spacing)?;
    let channels = view.channels;
    let voxels: usize = native.iter().product();

    let mut data = filled("volume", channels * voxels, 0.0f32)?;
    let [_, rows, columns] = native;
    pool.for_each(data.chunks_mut(rows * columns).collect(), |index, plane, _| {
        let (channel, at) = (index / native[0], index % native[0]);
        for (row, line) in plane.chunks_mut(columns).enumerate() {
            crop::read_line(view, &placement, channel, at, row, line);
        }
    });
    let mask = if masked(recipe) { Some(intensity::filled_mask(&data, native)?) } else { None };
    for (channel, intensity) in data.chunks_mut(voxels).zip(&recipe.intensity) {
        intensity.apply(channel, mask.as_deref());
    }
    drop(mask);
    if shape != native {
        let mut resampled = reserved("volume", channels * shape.iter().product::<usize>())?;
        for channel in data.chunks(voxels) {
            let values = spline::resample(channel, native, spacing, shape, recipe.spacing, pool)?;
            resampled.extend_from_slice(&values);
        }
        data = resampled;
    }
    let output = output_maps(shape, recipe.spacing, native, spacing);
    Ok(Prepared { data, channels, shape, output, placement })
}

fn masked(recipe: &Recipe) -> bool {
    recipe.intensity.iter().any(|i| matches!(i, Intensity::ZScore { masked: true }))
}

/// Where the whole volume lies, once it has been checked.
fn placement(view: &VolumeView, recipe: &Recipe) -> Result<Placement> {
    view.validate()?;
    let (found, expected) = (view.channels, recipe.intensity.len());
    if found != expected {
        return Err(Error::argument(format!(
            "the volume has {found} channels, but the model expects {expected}"
        )));
    }
    Ok(Placement::whole(view, recipe.orientation, recipe.transpose))
}
