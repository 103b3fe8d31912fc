//! What a run needs, known before it starts, and how it stays within a budget.

use super::labels::{fits_byte, wanted};
use super::run::mirrors;
use super::{Choices, Estimate, Export, RunOptions, air, postprocess, region};
use crate::base::{Error, Result};
use crate::device::{Blend, Device, DeviceInfo, JobSize, MemoryPart, Place, ResamplingSize};
use crate::model::{self, Model, Part};
use crate::net::Plan;
use crate::volume::meter::may_meter;
use crate::volume::{
    Generation, Grids, Recipe, VolumeView, native, preparation_bytes, prepare, stream,
};
use crate::window::{self, Grain};

/// What plans, lists and names hold beside the large buffers.
const SMALL_BYTES: u64 = 256 << 10;
/// A tile and its step in the schedule.
const TILE_BYTES: usize = 128;
/// An entry of an axis map.
const MAP_BYTES: usize = 12;
/// The most planes that become labels at a time.
const SLAB_PLANES: usize = 4;

/// What a run may take; `None` sets no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    pub(super) host_bytes: Option<u64>,
    pub(super) device_bytes: Option<u64>,
}

impl Budget {
    fn allows(self, estimate: &Estimate) -> bool {
        self.host_bytes.is_none_or(|bytes| estimate.host_bytes <= bytes)
            && self.device_bytes.is_none_or(|bytes| estimate.device_bytes <= bytes)
    }

    /// An error if it is too small for the leanest way of a run on `device`.
    pub(super) fn obey(self, estimate: &Estimate, device: &DeviceInfo, what: &str) -> Result<()> {
        obey(self.host_bytes, estimate.least_host_bytes, what)?;
        match self.device_bytes {
            Some(available_bytes) if estimate.least_device_bytes > available_bytes => {
                Err(Error::DeviceMemory {
                    what: what.into(),
                    device: device.name.clone(),
                    needed_bytes: estimate.least_device_bytes,
                    available_bytes,
                })
            }
            _ => Ok(()),
        }
    }
}

/// An error if `needed_bytes` of host memory are more than the budget allows.
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

/// How finely a run goes.
pub(super) fn grain(choices: Choices) -> Grain {
    Grain { feed_planes: prepare::PIECE_PLANES, slab_planes: choices.slab_planes }
}

/// What a part asks of its input, with its axes in the order a run goes along, and this order.
pub(super) fn ordered(
    model: &Model,
    part: usize,
    volume: &VolumeView,
    options: &RunOptions,
) -> Result<(Recipe, [usize; 3])> {
    let recipe = model.recipe(part);
    let shape = Grids::whole(volume, &recipe)?.shape;
    // What is shown on the way is shown in the network's order.
    let order = match options.scores || options.preprocessed {
        true => [0, 1, 2],
        false => window::sweep(shape, model.package().parts[part].patch),
    };
    Ok((recipe.ordered(order), order))
}

/// Whether a part's prepared volume can serve the next part.
pub(super) fn shared(model: &Model, volume: &VolumeView, options: &RunOptions) -> Result<bool> {
    let parts = &model.package().parts;
    let plain = parts.iter().all(|part| part.previous.is_none());
    let recipes: Vec<_> = (0..parts.len())
        .map(|part| ordered(model, part, volume, options))
        .collect::<Result<_>>()?;
    Ok(plain && recipes.windows(2).any(|pair| pair[0] == pair[1]))
}

/// The most of `planes` output planes that a slab of the network's `shape` planes makes, whatever
/// the non-zero box is. `ratio` is the distance of the network's planes over that of the output's:
/// a box of `n` planes of the network's grid has `(n - 0.5) * ratio` to `(n + 0.5) * ratio` of the
/// output's. The last slab has those beyond the middle of its last plane as well.
fn output_planes(planes: usize, shape: usize, ratio: f64, slab_planes: usize) -> usize {
    if planes == shape {
        // As many for every box: each plane is one of the network's.
        return planes.min(slab_planes);
    }
    let (slab, next) = (slab_planes as f64, slab_planes as f64 + 1.0);
    let most = (slab + 0.5) * ratio * (1.0 + 0.5 / next);
    // What is left out where numbers are rounded is one plane.
    planes.min((most + 1e-6).ceil() as usize + 1)
}

/// Whether a device that can may make a part's prepared planes itself: not if they are looked at or
/// kept here, nor if they hold what an earlier part has `found`.
pub(super) fn may_resample(options: &RunOptions, choices: Choices, found: bool) -> bool {
    let looked_at = options.preprocessed || options.skip_air_below.is_some();
    !(looked_at || choices.keep_prepared || found)
}

/// What runs of a model are sized by.
pub(super) struct Sizing<'a> {
    pub(super) model: &'a Model,
    pub(super) plans: &'a [std::sync::Arc<Plan>],
    pub(super) device: &'a dyn Device,
    pub(super) threads: usize,
}

impl Sizing<'_> {
    /// The most generous way to run within a budget; the leanest if none fits. `check` is called
    /// before each plane of a mask.
    ///
    /// # Errors
    /// [`Error::Argument`] if volume or options can't be used; [`Error::Memory`] if the machine has
    /// too little to look at a mask; whatever `check` returns.
    pub(super) fn estimate(
        &self,
        volume: &VolumeView,
        options: &RunOptions,
        budget: Budget,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Estimate> {
        let mut ways = Vec::new();
        if shared(self.model, volume, options)? {
            ways.push(Choices { slab_planes: SLAB_PLANES, keep_prepared: true });
        }
        for slab_planes in [SLAB_PLANES, 2, 1] {
            ways.push(Choices { slab_planes, keep_prepared: false });
        }
        let all: Vec<Estimate> = ways
            .into_iter()
            .map(|choices| self.whole(volume, options, choices))
            .collect::<Result<_>>()?;
        let least = |bytes: fn(&Estimate) -> u64| all.iter().map(bytes).min().unwrap_or(0);
        let least_host_bytes = least(|estimate| estimate.host_bytes);
        let least_device_bytes = least(|estimate| estimate.device_bytes);
        let leanest =
            all.iter().min_by_key(|estimate| (estimate.host_bytes, estimate.device_bytes));
        let fits = |estimate: &&Estimate| budget.allows(estimate);
        let mut chosen = all.iter().find(fits).or(leanest).cloned().unwrap_or_default();
        self.count_passes(volume, options, &mut chosen, check)?;
        Ok(Estimate { least_host_bytes, least_device_bytes, ..chosen })
    }

    /// What parts need that run one after the other.
    fn whole(
        &self,
        volume: &VolumeView,
        options: &RunOptions,
        choices: Choices,
    ) -> Result<Estimate> {
        let mut all = Estimate { choices, ..Estimate::default() };
        for (index, _) in self.model.package().parts.iter().enumerate() {
            let (tiles, memory) = self.part(index, volume, options, choices)?;
            for (place, peak) in
                [(Place::Host, &mut all.host_bytes), (Place::Device, &mut all.device_bytes)]
            {
                let bytes = MemoryPart::sum(&memory, place);
                if bytes > *peak {
                    *peak = bytes;
                    all.memory.retain(|part| part.place != place);
                    all.memory.extend(memory.iter().filter(|part| part.place == place).cloned());
                }
            }
            all.tiles += tiles;
        }
        all.memory.sort_by_key(|part| std::cmp::Reverse(part.bytes));
        Ok(all)
    }

    /// Adds what is run of the tiles: not those that the region leaves out of a volume that is
    /// not cropped.
    fn count_passes(
        &self,
        volume: &VolumeView,
        options: &RunOptions,
        estimate: &mut Estimate,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let package = self.model.package();
        for (index, part) in package.parts.iter().enumerate() {
            let (recipe, order) = ordered(self.model, index, volume, options)?;
            let grids = Grids::whole(volume, &recipe)?;
            let patch = order.map(|axis| part.patch[axis]);
            let all = window::tile_count(grids.shape, patch, options.step)?;
            let run = match options.region.as_ref().filter(|_| package.is_final(index)) {
                None => all,
                Some(region) => {
                    let tiling = region::Tiling::new(grids.shape, patch, options.step);
                    region::Wanted::new(Some(region), &grids, check)?.count(&tiling, check)?
                }
            };
            estimate.skipped_tiles += all - run;
            let passes_per_tile = mirrors(part, options).len() * part.folds.len();
            estimate.part_passes.push(run * passes_per_tile);
        }
        estimate.passes = estimate.part_passes.iter().sum();
        Ok(())
    }

    /// Tiles and memory of one part, as upper bounds: the non-zero box is not known yet.
    fn part(
        &self,
        index: usize,
        volume: &VolumeView,
        options: &RunOptions,
        choices: Choices,
    ) -> Result<(usize, Vec<MemoryPart>)> {
        let package = self.model.package();
        let part = &package.parts[index];
        let probabilities = wanted(self.model, options)?;
        options.region.iter().try_for_each(|wanted| region::check(wanted, volume.dims))?;
        let (recipe, order) = ordered(self.model, index, volume, options)?;
        let grids = Grids::whole(volume, &recipe)?;
        let (shape, native_shape) = (grids.shape, grids.placement.shape());
        let patch = order.map(|axis| part.patch[axis]);
        let tiles = window::tile_count(shape, patch, options.step)?;
        let slab_planes = shape[0].min(choices.slab_planes);
        let by_scores = options.export == Export::Scores;
        let output = if by_scores { native_shape } else { shape };
        let planes_of = |planes: usize| {
            let ratio = match recipe.spacing[0] {
                Some(to) if planes == native_shape[0] => {
                    to / volume.geometry.spacing[grids.placement.axes[0]]
                }
                _ => 1.0,
            };
            output_planes(planes, shape[0], ratio, slab_planes)
        };
        let on_network = options.probability_grid == super::Grid::Network;
        let own = probabilities.iter().filter(|(of, _)| *of == index).count();
        let output_planes = planes_of(output[0]);
        let found = part.previous.is_some();
        let resamples = self.device.resamples()
            && may_resample(options, choices, found)
            && native::may_resample(&recipe);
        let job = JobSize {
            channels: part.architecture.input_channels,
            shape,
            volume_planes: shape[0].min(patch[0] + prepare::PIECE_PLANES - 1),
            // One plane before a patch is kept for interpolation.
            ring_planes: shape[0].min(patch[0]) + usize::from(shape[0] > patch[0]),
            blend: blend(part),
            accumulators: options.accumulators,
            output,
            output_planes: if on_network { output_planes.max(slab_planes) } else { output_planes },
            slab_planes,
            probability_classes: own,
            scores: options.scores,
            resampling: resamples.then(|| ResamplingSize {
                native: [native_shape[1], native_shape[2]],
                ring_planes: native::most_ring_planes(&grids, &recipe),
            }),
        };
        let count = |shape: [usize; 3]| shape.iter().product::<usize>() as u64;
        let voxels = count(volume.dims);
        let label_bytes = if fits_byte(self.model) { 1 } else { 2 };
        let earlier = package.parts.iter().filter(|part| part.previous.is_some()).count() as u64;
        let kept = match choices.keep_prepared {
            true => 4 * part.normalization.len() as u64 * count(shape),
            false => 0,
        };
        let tiling = region::Tiling::new(shape, patch, options.step);
        let across = tiles / tiling.counts()[0].max(1);
        let lists = tiles * (TILE_BYTES + 1)
            + tiling.bytes() as usize
            + (native_shape.iter().sum::<usize>() + 4 * shape.iter().sum::<usize>())
                * MAP_BYTES
                * 3;
        let air = match options.skip_air_below {
            Some(_) => air::bytes(shape, across),
            None => 0,
        };
        let mut always = self.device.loaded_memory(&self.plans[index], part.folds.len())?;
        always.extend([
            MemoryPart::new("label map", label_bytes * voxels),
            MemoryPart::new("labels of earlier parts", 2 * earlier * voxels),
            MemoryPart::new("prepared volume", kept),
            MemoryPart::new("lists", SMALL_BYTES + lists as u64 + air),
        ]);
        let metered = self.device.resamples() && may_resample(options, choices, false);
        let prepared = preparation_bytes(&grids, &recipe, self.threads, metered);
        let (mut running, on_device): (Vec<_>, Vec<_>) = self
            .device
            .job_memory(&self.plans[index], part.folds.len(), &job)
            .into_iter()
            .partition(|part| part.place == Place::Host);
        if metered && may_meter(&recipe) {
            // Before the rest of the job takes memory.
            let resampled = (recipe.generation == Generation::V1).then_some(&job);
            let measuring = self.device.meter_bytes(native_shape, resampled);
            let rest = measuring.saturating_sub(MemoryPart::sum(&on_device, Place::Device));
            always.push(MemoryPart::on_device("measuring the volume", rest));
        }
        always.extend(on_device);
        let channels = part.architecture.input_channels;
        let mut made = stream::bytes(&grids, &recipe, channels, self.threads);
        if resamples {
            made = made.max(native::bytes(&grids));
        }
        if recipe.generation == Generation::V1 {
            made += 3 * (shape[1] * shape[2]) as u64 * self.threads as u64;
        }
        running.push(MemoryPart::new("planes on their way to the network's grid", prepared + made));
        // A slab in the order of the caller's axes.
        if own > 0 {
            let values = match on_network {
                true => (slab_planes * shape[1] * shape[2]) as u64,
                false => (output_planes * native_shape[1] * native_shape[2]) as u64,
            };
            running.push(MemoryPart::new("probabilities on their way", 4 * own as u64 * values));
        }
        if !by_scores {
            let plane = (2 * shape[1] * shape[2]) as u64;
            let native_planes = planes_of(native_shape[0]) as u64;
            let pending = (2 * slab_planes as u64 + 1) * plane
                + 2 * native_planes * (native_shape[1] * native_shape[2]) as u64;
            running.push(MemoryPart::new("labels on their way", pending));
        }
        let preparing = vec![MemoryPart::new("looking at the volume", prepared)];
        let cleaning = vec![MemoryPart::new(
            "post-processing",
            postprocess::bytes(self.model, options, volume.dims),
        )];
        let size = |parts: &Vec<MemoryPart>| parts.iter().map(|part| part.bytes).sum::<u64>();
        let peak = [preparing, running, cleaning].into_iter().max_by_key(size).unwrap_or_default();
        always.extend(peak);
        Ok((tiles, always))
    }
}
