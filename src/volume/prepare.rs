//! From a caller's volume to what a network sees.

use std::sync::Arc;

use super::labels::resample_labels;
use super::resample::{axis_maps, new_shape};
use super::{
    AxisMap, Generation, Intensity, Interpolation, Orientation, Placement, VolumeView, crop,
    intensity, spline,
};
use crate::base::error::{filled, reserved};
use crate::base::{Error, Pool, Result};

/// What a model asks of its input.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Which voxel order it was trained on.
    pub orientation: Orientation,
    /// nnU-Net's `transpose_forward`: network axis `n` is axis `transpose[n]` of (k, j, i).
    pub transpose: [usize; 3],
    /// Distance of voxels along the network's axes, in mm; `None` is the volume's own.
    pub spacing: [Option<f64>; 3],
    /// Whose arithmetic.
    pub generation: Generation,
    /// How the volume comes to the network's grid; order 1 or 3.
    pub image: Interpolation,
    /// How scores return; order 0 or 1.
    pub scores: Interpolation,
    /// One for each channel of the volume.
    pub intensity: Vec<Intensity>,
}

impl Recipe {
    fn masked(&self) -> bool {
        self.intensity.iter().any(Intensity::masked)
    }

    /// The network's spacing for a volume whose voxels are `native` mm apart along its axes.
    fn spacing(&self, native: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|axis| self.spacing[axis].unwrap_or(native[axis]))
    }
}

/// A preprocessed volume, and the way back.
#[derive(Clone)]
pub struct Prepared {
    /// `[channels][shape0][shape1][shape2]`, network axes.
    pub data: Arc<Vec<f32>>,
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
    let (native, native_spacing) = (whole.shape(), whole.spacing(view));
    let spacing = recipe.spacing(native_spacing);
    let shape = new_shape(native, native_spacing, spacing)?;
    let bytes = |shape: [usize; 3]| 4 * shape.iter().product::<usize>() as u64;
    let channels = view.channels as u64;
    let mask = if recipe.masked() { bytes(native) / 4 * 10 } else { 0 };
    let result = channels * bytes(shape);
    let resampling = match native == shape {
        true => 0,
        false => {
            let separate = recipe.image.separate_axis(native_spacing, spacing);
            spline::bytes(native, shape, separate) + result
        }
    };
    let peak_bytes = channels * bytes(native)
        + match recipe.generation {
            Generation::V2 => mask.max(resampling),
            // The mask is resampled beside the volume, as labels.
            Generation::V1 => mask.min(1) * (mask + 3 * bytes(shape)) + resampling,
        };
    Ok(PrepareSize { peak_bytes, shape, native })
}

/// Runs every step: crop to the non-zero box, then normalise and resample in the generation's
/// order.
///
/// # Errors
/// [`Error::Argument`] if the view, its geometry, its number of channels or its values can't be
/// used; [`Error::Memory`] if the machine's memory runs out.
pub fn prepare(view: &VolumeView, recipe: &Recipe, pool: &Pool) -> Result<Prepared> {
    let mut placement = placement(view, recipe)?;
    placement.crop = crop::non_zero_box(view, &placement, pool)?;
    let (native, native_spacing) = (placement.shape(), placement.spacing(view));
    let spacing = recipe.spacing(native_spacing);
    let shape = new_shape(native, native_spacing, spacing)?;
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
    let mut mask =
        if recipe.masked() { Some(intensity::filled_mask(&data, native)?) } else { None };
    let normalize = |data: &mut [f32], voxels: usize, mask: Option<Vec<bool>>| {
        for (channel, intensity) in data.chunks_mut(voxels).zip(&recipe.intensity) {
            intensity.apply(channel, mask.as_deref(), recipe.generation);
        }
    };
    if recipe.generation == Generation::V2 {
        normalize(&mut data, voxels, mask.take());
    }
    if shape != native {
        let separate = recipe.image.separate_axis(native_spacing, spacing);
        let mut resampled = reserved("volume", channels * shape.iter().product::<usize>())?;
        for channel in data.chunks(voxels) {
            let order = recipe.image.order;
            let values = spline::resample(channel, native, shape, order, separate, pool)?;
            resampled.extend_from_slice(&values);
        }
        data = resampled;
        if let Some(mask) = &mut mask {
            let inside: Vec<u16> = mask.iter().map(|&inside| u16::from(inside)).collect();
            let maps = axis_maps(native, shape, 1, separate);
            let inside = resample_labels(&inside, native, &maps, recipe.generation)?;
            *mask = inside.iter().map(|&inside| inside == 1).collect();
        }
    }
    if recipe.generation == Generation::V1 {
        normalize(&mut data, shape.iter().product(), mask);
    }
    // Whose spacing is looked at first when scores return differs between the generations.
    let separate = match recipe.generation {
        Generation::V1 => recipe.scores.separate_axis(native_spacing, spacing),
        Generation::V2 => recipe.scores.separate_axis(spacing, native_spacing),
    };
    let output = axis_maps(shape, native, recipe.scores.order, separate);
    Ok(Prepared { data: Arc::new(data), channels, shape, output, placement })
}

/// Adds what an earlier network found: one channel for each of `structures`, 1 where `labels`,
/// `[k][j][i]` on the caller's grid, has that value and 0 elsewhere.
///
/// # Errors
/// [`Error::Memory`] if the machine's memory runs out.
pub fn add_labels(
    prepared: Prepared,
    view: &VolumeView,
    recipe: &Recipe,
    labels: &[u16],
    structures: &[u32],
) -> Result<Prepared> {
    let mut placement = prepared.placement.clone();
    let native_spacing = placement.spacing(view);
    let separate = match recipe.generation {
        // nnU-Net 1 resizes the whole map to the cropped volume's grid.
        Generation::V1 => {
            placement.crop = placement.axes.map(|axis| 0..placement.dims[axis]);
            None
        }
        Generation::V2 => {
            recipe.image.separate_axis(native_spacing, recipe.spacing(native_spacing))
        }
    };
    let native = placement.shape();
    let labels = placement.copy(labels)?;
    let maps = axis_maps(native, prepared.shape, 1, separate);
    let labels = resample_labels(&labels, native, &maps, recipe.generation)?;
    let length = prepared.data.len() + structures.len() * labels.len();
    let mut data = reserved("volume", length)?;
    data.extend_from_slice(&prepared.data);
    for &structure in structures {
        data.extend(labels.iter().map(|&label| f32::from(u8::from(u32::from(label) == structure))));
    }
    let channels = prepared.channels + structures.len();
    Ok(Prepared { data: Arc::new(data), channels, ..prepared })
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
