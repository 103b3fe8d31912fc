//! What a run needs, known before it starts.

use super::labels::{fits_byte, wanted};
use super::{Estimate, Export, RunOptions, postprocess};
use crate::base::{Error, Result};
use crate::device::{Blend, Device, JobSize};
use crate::model::{self, Model, Part};
use crate::net::Plan;
use crate::volume::{VolumeView, prepare_bytes};
use crate::window;

/// What plans, lists and names hold beside the large buffers.
const SMALL_BYTES: u64 = 256 << 10;
/// A tile and its step in the schedule.
const TILE_BYTES: usize = 128;
/// An entry of an axis map.
const MAP_BYTES: usize = 12;

/// An error if `needed_bytes` is more than the budget allows.
pub(super) fn obey(budget_bytes: Option<u64>, needed_bytes: u64, what: &str) -> Result<()> {
    match budget_bytes {
        Some(available_bytes) if needed_bytes > available_bytes => {
            Err(Error::Memory { what: what.into(), needed_bytes, available_bytes })
        }
        _ => Ok(()),
    }
}

/// What a part's tiles average.
pub(super) fn blend(part: &Part) -> Blend {
    match part.blend {
        model::Blend::Logits => Blend::Logits,
        model::Blend::Softmax => Blend::Probabilities,
    }
}

/// A part of a model and what it runs with.
pub(super) struct Sized<'a> {
    pub(super) part: usize,
    pub(super) plan: &'a Plan,
    pub(super) loaded_bytes: u64,
    pub(super) passes_per_tile: usize,
}

/// What one part of a run needs, as upper bounds: the non-zero box is not known yet.
pub(super) fn estimate(
    model: &Model,
    sized: &Sized,
    device: &dyn Device,
    volume: &VolumeView,
    options: &RunOptions,
) -> Result<Estimate> {
    let package = model.package();
    let part = &package.parts[sized.part];
    let prepare = prepare_bytes(volume, &model.recipe(sized.part))?;
    let probabilities = wanted(model, options)?;
    let tiles = window::tile_count(prepare.shape, part.patch, options.step)?;
    let (shape, patch) = (prepare.shape, part.patch);
    let native = prepare.native;
    let slab_planes = shape[0].min(window::SLAB_PLANES);
    let output = if options.export == Export::Scores { native } else { shape };
    // The planes between a slab's, and those beyond the volume's first and last.
    let output_planes = output[0].min((slab_planes + 1) * output[0] / shape[0] + 2);
    let job = JobSize {
        channels: part.architecture.input_channels,
        shape,
        padded: std::array::from_fn(|axis| shape[axis].max(patch[axis])),
        // One plane before a patch is kept for interpolation.
        ring_planes: shape[0].min(patch[0]) + usize::from(shape[0] > patch[0]),
        blend: blend(part),
        output,
        output_planes,
        slab_planes,
        probability_classes: probabilities.iter().filter(|(p, _)| *p == sized.part).count(),
        scores: options.scores,
    };
    let count = |shape: [usize; 3]| shape.iter().product::<usize>() as u64;
    let voxels = count(volume.dims);
    let slab_voxels = (output_planes * output[1] * output[2]) as u64;
    // The map, a slab on its way, and the map of an earlier part.
    let label_bytes = if fits_byte(model) { 1 } else { 2 };
    let earlier = if package.parts.iter().any(|part| part.previous.is_some()) { 2 } else { 0 };
    let mut result = (label_bytes + earlier) * voxels
        + 2 * slab_voxels
        + 4 * probabilities.len() as u64 * voxels;
    if options.export != Export::Scores {
        result += 2 * (count(shape) + count(native));
    }
    // The labels of an earlier part, on its way to channels, and the channels.
    let added = match part.previous {
        None => 0,
        Some(_) => {
            let all = part.architecture.input_channels as u64 * 4 * count(shape);
            2 * (count(native) + count(shape)) + all
        }
    };
    // A volume that parts share is kept while one of them runs.
    let shared = if package.parts.len() > 1 {
        4 * part.normalization.len() as u64 * count(shape)
    } else {
        0
    };
    let folds = part.folds.len();
    let running = device.job_bytes(sized.plan, folds, &job).max(added);
    let lists = tiles * TILE_BYTES + output.iter().sum::<usize>() * MAP_BYTES;
    let host_bytes = sized.loaded_bytes
        + (running + result).max(prepare.peak_bytes + earlier * voxels)
        + shared
        + SMALL_BYTES
        + lists as u64
        + postprocess::bytes(model, options, volume.dims);
    Ok(Estimate { tiles, passes: tiles * sized.passes_per_tile, host_bytes })
}
