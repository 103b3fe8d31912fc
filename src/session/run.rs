//! The session: a model on a device, and its runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Instant;

use super::opening::{self, ChosenDevice, Plans};
use super::part::{Input, Kept, Supply, Target};
use super::size::{self, Budget, Sizing};
use super::{
    Estimate, LabelMap, Level, Observer, Phase, Progress, Report, RunOptions, Segmentation,
    SessionOptions, postprocess, region,
};
use crate::base::error::filled;
use crate::base::{Error, Pool, Result};
use crate::device::{Device, DeviceInfo, MemoryPart, Place};
use crate::model::{Model, Part};
use crate::net::Plan;
use crate::volume::{Found, Meter, NativePlanes, Planes, Preparation, Recipe, VolumeView};
use crate::window;

/// Seconds that measuring one part of a model takes, about.
const MEASURE_SECONDS: f64 = 1.0;

/// A model made ready on one device: plans, an arena, threads.
///
/// All methods may be called from any thread. One run at a time; a second one gets
/// [`Error::Busy`]. After a panic inside a run, every further run is [`Error::Internal`].
pub struct Session {
    model: Arc<Model>,
    plans: Plans,
    pool: Arc<Pool>,
    device: Mutex<Loaded>,
    chosen: ChosenDevice,
    budget: Budget,
    cancelled: AtomicBool,
}

/// A device, and the part of the model it holds: one at a time.
pub(super) struct Loaded {
    device: Box<dyn Device>,
    part: Option<usize>,
    /// Seconds of a network pass of each part, once measured.
    pass_seconds: Option<Vec<f64>>,
}

impl Loaded {
    pub(super) fn new(device: Box<dyn Device>) -> Self {
        Self { device, part: None, pass_seconds: None }
    }

    pub(super) fn load(&mut self, part: usize, plan: &Arc<Plan>, model: &Model) -> Result<()> {
        if self.part != Some(part) {
            self.part = None;
            self.device.load(Arc::clone(plan), &model.weights(part))?;
            model.release_pages();
            self.part = Some(part);
        }
        Ok(())
    }

    /// Bytes that the device holds of its own memory.
    fn device_bytes(&self, plans: &[Arc<Plan>], model: &Model) -> Result<u64> {
        let Some(part) = self.part else { return Ok(0) };
        let folds = model.package().parts[part].folds.len();
        Ok(MemoryPart::sum(&self.device.loaded_memory(&plans[part], folds)?, Place::Device))
    }
}

impl Session {
    /// Makes `model` ready.
    ///
    /// # Errors
    /// [`Error::Memory`], before anything is allocated, if the budget is too small for the
    /// network alone, or if the machine's memory runs out; [`Error::Format`] if the model's
    /// weights can't be read.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Self> {
        let pool = Arc::new(Pool::new(options.threads)?);
        let (loaded, plans, chosen) = opening::load(options, &model, &pool)?;
        let budget = Budget {
            host_bytes: options.host_budget_bytes,
            device_bytes: options.device_budget_bytes,
        };
        let (device, cancelled) = (Mutex::new(loaded), AtomicBool::new(false));
        Ok(Self { model, plans, pool, device, chosen, budget, cancelled })
    }

    /// The model it runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The device it runs on.
    pub fn device(&self) -> &DeviceInfo {
        &self.chosen.info
    }

    /// The device it runs on, how, and why.
    pub fn chosen_device(&self) -> &ChosenDevice {
        &self.chosen
    }

    /// Threads of the processor that take part.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// What a run on `volume` would need, at most, and how it would go about it within the
    /// session's budget, or as lean as it can if that does not suffice. Reads no voxel, but a
    /// region's mask.
    ///
    /// # Errors
    /// [`Error::Busy`] during a run; [`Error::Argument`] if volume or options can't be used;
    /// [`Error::Memory`] if the machine has too little to look at a mask.
    pub fn estimate(&self, volume: &VolumeView, options: &RunOptions) -> Result<Estimate> {
        let loaded = self.lock()?;
        Ok(self.sized(&loaded, volume, options, &mut || Ok(()))?.0)
    }

    /// Seconds that the network passes of `estimate` will take, from a trial of about a second for
    /// each part of the model, made once. What surrounds the network is not counted; it usually
    /// takes less than a tenth.
    ///
    /// # Errors
    /// [`Error::Busy`] during a run; [`Error::Format`] if the model's weights can't be read.
    pub fn network_seconds(&self, estimate: &Estimate) -> Result<f64> {
        let mut loaded = self.lock()?;
        if loaded.pass_seconds.is_none() {
            let mut seconds = Vec::new();
            // The first part last, for a run begins with it.
            for part in (0..self.plans.len()).rev() {
                loaded.load(part, &self.plans[part], &self.model)?;
                seconds.push(loaded.device.measure(MEASURE_SECONDS)?);
            }
            seconds.reverse();
            loaded.pass_seconds = Some(seconds);
        }
        let seconds = loaded.pass_seconds.iter().flatten();
        Ok(seconds.zip(&estimate.part_passes).map(|(each, &passes)| each * passes as f64).sum())
    }

    /// Segments `volume`.
    ///
    /// # Errors
    /// [`Error::Busy`] if a run is on; [`Error::Argument`] if volume or options can't be used;
    /// [`Error::Memory`] before anything is allocated if the budget is too small, with the
    /// smallest that would do; [`Error::Cancelled`]; and whatever `observer` returns.
    pub fn run(
        &self,
        volume: &VolumeView,
        options: &RunOptions,
        observer: &mut dyn Observer,
    ) -> Result<Segmentation> {
        let mut loaded = self.lock()?;
        self.cancelled.store(false, Ordering::Relaxed);
        let mut check = || match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::Cancelled),
            false => Ok(()),
        };
        let (estimate, budget) = self.sized(&loaded, volume, options, &mut check)?;
        budget.obey(&estimate, self.device(), "segmenting this volume")?;
        let mut run = Run {
            session: self,
            options,
            observer,
            started: Instant::now(),
            done: 0,
            total: estimate.passes,
            report: Report { estimate, ..Report::default() },
        };
        let labels = run.segment(&mut loaded, volume);
        loaded.device.finish();
        let labels = labels?;
        run.report.total_seconds = run.started.elapsed().as_secs_f64();
        Ok(Segmentation { labels, report: run.report })
    }

    /// Asks the run that is on, if any, to stop after its current tile; from any thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Loaded>> {
        self.device.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Busy,
            TryLockError::Poisoned(_) => Error::Internal(
                "this session failed in an earlier run and can only be released".into(),
            ),
        })
    }

    /// What a run takes, and what it may take.
    fn sized(
        &self,
        loaded: &Loaded,
        volume: &VolumeView,
        options: &RunOptions,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<(Estimate, Budget)> {
        let Self { model, plans, .. } = self;
        let device = &*loaded.device;
        let sizing = Sizing { model, plans, device, threads: self.pool.threads() };
        let held = loaded.device_bytes(plans, model)?;
        let could = device.free_bytes()?.map(|free| free.saturating_add(held));
        let budget = Budget {
            host_bytes: self.host_budget(options),
            device_bytes: self.budget.device_bytes.into_iter().chain(could).min(),
        };
        Ok((sizing.estimate(volume, options, budget, check)?, budget))
    }

    /// Bytes of the host budget that are left for the session and a run.
    fn host_budget(&self, options: &RunOptions) -> Option<u64> {
        self.budget.host_bytes.map(|bytes| bytes.saturating_sub(options.taken_bytes))
    }
}

/// What a run of `model` on `volume` would need, as [`Session::estimate`] says it, and where it
/// would run, without making the model ready: no weight is read.
///
/// # Errors
/// [`Error::Argument`] if volume or options can't be used; [`Error::Memory`] if the machine has too
/// little to look at a mask; those of opening the device.
pub fn estimate(
    model: &Model,
    options: &SessionOptions,
    volume: &VolumeView,
    run_options: &RunOptions,
) -> Result<(Estimate, ChosenDevice)> {
    let pool = Arc::new(Pool::new(options.threads)?);
    let (device, plans, chosen) = opening::open(options, model, &pool)?;
    let sizing = Sizing { model, plans: &plans, device: &*device, threads: pool.threads() };
    let left = |bytes: u64| bytes.saturating_sub(run_options.taken_bytes);
    let budget = Budget {
        host_bytes: options.host_budget_bytes.map(left),
        device_bytes: options.device_budget_bytes.into_iter().chain(device.free_bytes()?).min(),
    };
    Ok((sizing.estimate(volume, run_options, budget, &mut || Ok(()))?, chosen))
}

/// The reversals that are averaged, none of them first.
pub(super) fn mirrors(part: &Part, options: &RunOptions) -> Vec<[bool; 3]> {
    let axes: &[usize] = if options.mirror { &part.mirror_axes } else { &[] };
    (0..1usize << axes.len())
        .map(|set| {
            std::array::from_fn(|axis| {
                axes.iter().position(|&a| a == axis).is_some_and(|bit| set >> bit & 1 == 1)
            })
        })
        .collect()
}

/// The state of one run.
pub(super) struct Run<'a> {
    session: &'a Session,
    pub(super) options: &'a RunOptions,
    pub(super) observer: &'a mut dyn Observer,
    started: Instant,
    done: usize,
    total: usize,
    pub(super) report: Report,
}

/// What a part of the model found that later parts ask for: label values, `[k][j][i]`.
type Earlier = HashMap<usize, Vec<u16>>;

impl<'a> Run<'a> {
    pub(super) fn pool(&self) -> &'a Pool {
        &self.session.pool
    }

    pub(super) fn model(&self) -> &Arc<Model> {
        &self.session.model
    }

    fn segment(&mut self, loaded: &mut Loaded, volume: &VolumeView) -> Result<LabelMap> {
        let model = Arc::clone(&self.session.model);
        let (package, options) = (model.package(), self.options);
        let mut labels = LabelMap::empty(&model, volume.dims)?;
        let mut earlier = Earlier::new();
        let mut prepared: Option<((Recipe, [usize; 3]), Preparation)> = None;
        let mut kept = Kept::new();
        for part in 0..package.parts.len() {
            let ordered = size::ordered(&model, part, volume, self.options)?;
            let same = prepared.as_ref().is_some_and(|(other, _)| *other == ordered);
            if !same {
                kept.clear();
                prepared.take();
                let prepares =
                    size::may_resample(self.options, self.report.estimate.choices, false);
                let meter = if prepares { loaded.device.meter() } else { None };
                prepared = Some((ordered.clone(), self.prepare(volume, &ordered.0, meter)?));
            }
            let Some((_, preparation)) = &prepared else { continue };
            loaded.load(part, &self.session.plans[part], &model)?;
            let mut found = match package.is_final(part) {
                true => None,
                false => Some(filled("label map", volume.voxels(), 0)?),
            };
            let previous = package.previous(part);
            let structures =
                previous.map(|part| package.parts[part].output.structures()).unwrap_or_default();
            let added = previous
                .and_then(|part| earlier.get(&part))
                .map(|labels| Found { labels, structures: &structures });
            let choices = self.report.estimate.choices;
            let may_resample = loaded.device.resamples()
                && size::may_resample(self.options, choices, added.is_some());
            let resampling = may_resample.then(|| preparation.resampling()).flatten();
            let supply = if let Some(resampling) = resampling {
                let planes = NativePlanes::new(volume, preparation, &self.session.pool)?;
                Supply::Native(planes, Arc::new(resampling))
            } else if kept.is_empty() {
                let planes = Planes::new(volume, preparation, added, &self.session.pool)?;
                Supply::Made(Box::new(planes), choices.keep_prepared.then_some(&mut kept))
            } else {
                Supply::Kept(&kept)
            };
            let channels = volume.channels + structures.len();
            let input = Input { prepared: preparation, supply, channels, order: ordered.1 };
            let target = match &mut found {
                None => Target::Result(&mut labels),
                Some(found) => Target::Earlier(found),
            };
            self.part(part, &mut *loaded.device, input, target)?;
            loaded.device.finish();
            if let Some(found) = found {
                earlier.insert(part, found);
            }
        }
        drop((prepared, kept, earlier));
        self.check(Phase::Restore)?;
        region::clear_outside(self.options.region.as_ref(), &mut labels);
        let mut check = || self.check(Phase::Restore);
        postprocess::apply(&model, options, &mut labels, volume, &mut check)?;
        if let Some(keep) = &self.options.keep {
            labels.keep(keep);
        }
        Ok(labels)
    }

    fn prepare(
        &mut self,
        volume: &VolumeView,
        recipe: &Recipe,
        meter: Option<&mut dyn Meter>,
    ) -> Result<Preparation> {
        let clock = Instant::now();
        let session = self.session;
        let mut check = || self.check(Phase::Prepare);
        let prepared = Preparation::new(volume, recipe, &session.pool, meter, &mut check)?;
        self.report.prepare_seconds += clock.elapsed().as_secs_f64();
        Ok(prepared)
    }

    /// Counts what a part is about to run, and tells the user.
    pub(super) fn began(
        &mut self,
        index: usize,
        shape: [usize; 3],
        order: [usize; 3],
        tiles: usize,
        passes: usize,
    ) {
        self.total = self.total + passes - self.report.estimate.part_passes[index];
        self.report.tiles += tiles;
        let mut network = [0; 3];
        order.iter().zip(shape).for_each(|(&axis, extent)| network[axis] = extent);
        self.report.network_shape = network;
        let package = self.session.model.package();
        let part = match package.parts.as_slice() {
            [_] => String::new(),
            parts => format!("{}: ", parts[index].name),
        };
        let [a, b, c] = network;
        self.observer.message(
            Level::Info,
            &format!("{part}{tiles} tiles, on the network's grid of {a} x {b} x {c} voxels"),
        );
        if let (0, Some(notice)) = (index, package.demo_notice()) {
            self.observer.message(Level::Warning, &notice);
        }
    }

    /// Counts a tile that is not run, and those of its passes that were expected.
    pub(super) fn skipped(&mut self, passes: usize) -> Result<()> {
        self.done += passes;
        self.report.skipped_tiles += 1;
        self.check(Phase::Tiles)
    }

    /// Runs the network of every fold on one tile.
    pub(super) fn pass(
        &mut self,
        device: &mut dyn Device,
        tile: &window::Tile,
        mirror: [bool; 3],
        folds: usize,
    ) -> Result<()> {
        for fold in 0..folds {
            self.check(Phase::Tiles)?;
            let clock = Instant::now();
            // For every fold: the plan gives the patch's memory to later tensors.
            device.gather(tile, mirror)?;
            device.forward(fold)?;
            self.report.network_seconds += clock.elapsed().as_secs_f64();
            let clock = Instant::now();
            device.blend(tile, mirror, fold)?;
            self.report.blend_seconds += clock.elapsed().as_secs_f64();
            self.report.passes += 1;
            self.done += 1;
        }
        Ok(())
    }

    /// Reports progress; an error if the run is to stop.
    pub(super) fn check(&mut self, phase: Phase) -> Result<()> {
        let progress = Progress {
            phase,
            done: self.done,
            total: self.total,
            seconds: self.started.elapsed().as_secs_f64(),
        };
        let stop = self.observer.progress(&progress).is_break();
        if stop || self.session.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        Ok(())
    }
}
