//! What a run needs, known before it starts.

use super::labels::{fits_byte, wanted};
use super::{Estimate, RunOptions};
use crate::base::{Error, Result};
use crate::device::{Blend, Device, JobSize};
use crate::model::{self, Model, Package};
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

/// What the model's tiles average.
pub(super) fn blend(package: &Package) -> Blend {
    match package.blend {
        model::Blend::Logits => Blend::Logits,
        model::Blend::Softmax => Blend::Softmax,
    }
}

/// What a run needs, as upper bounds: the non-zero box is not known yet.
pub(super) fn estimate(
    model: &Model,
    plan: &Plan,
    device: &dyn Device,
    loaded_bytes: u64,
    volume: &VolumeView,
    options: &RunOptions,
    passes_per_tile: usize,
) -> Result<Estimate> {
    let package = model.package();
    let prepare = prepare_bytes(volume, &model.recipe())?;
    let (_, probabilities) = wanted(model, options)?;
    let tiles = window::tile_count(prepare.shape, package.patch, options.step)?;
    let (shape, native, patch) = (prepare.shape, prepare.native, package.patch);
    let slab_planes = shape[0].min(window::SLAB_PLANES);
    // The planes between a slab's, and those beyond the volume's first and last.
    let output_planes = native[0].min((slab_planes + 1) * native[0] / shape[0] + 2);
    let job = JobSize {
        channels: volume.channels,
        shape,
        padded: std::array::from_fn(|axis| shape[axis].max(patch[axis])),
        // One plane before a patch is kept for interpolation.
        ring_planes: shape[0].min(patch[0]) + usize::from(shape[0] > patch[0]),
        blend: blend(package),
        output: native,
        output_planes,
        slab_planes,
        probability_classes: probabilities.len(),
        scores: options.scores,
    };
    let voxels = volume.dims.iter().product::<usize>() as u64;
    let slab_voxels = (output_planes * native[1] * native[2]) as u64;
    let label_bytes = if fits_byte(model) { 1 } else { 2 };
    let result = label_bytes * (voxels + slab_voxels) + 4 * probabilities.len() as u64 * voxels;
    let running = device.job_bytes(plan, package.folds.len(), &job) + result;
    let lists = tiles * TILE_BYTES + native.iter().sum::<usize>() * MAP_BYTES;
    let host_bytes = loaded_bytes + running.max(prepare.peak_bytes) + SMALL_BYTES + lists as u64;
    Ok(Estimate { tiles, passes: tiles * passes_per_tile, host_bytes })
}
