//! The session and its one loop.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Instant;

use super::labels::Restored;
use super::size;
use super::{
    Estimate, Level, Observer, Phase, Progress, Report, RunOptions, Segmentation, SessionOptions,
};
use crate::base::{Error, Pool, Result};
use crate::device::{self, Device, DeviceInfo, Job, SlabOutput};
use crate::model::Model;
use crate::net::Plan;
use crate::volume::{Prepared, VolumeView, prepare};
use crate::window::{self, Schedule, Step};

/// A model made ready on one device: a plan, an arena, threads.
///
/// All methods may be called from any thread. One run at a time; a second one gets
/// [`Error::Busy`]. After a panic inside a run, every further run is [`Error::Internal`].
pub struct Session {
    model: Arc<Model>,
    plan: Arc<Plan>,
    pool: Arc<Pool>,
    device: Mutex<Box<dyn Device>>,
    info: DeviceInfo,
    loaded_bytes: u64,
    host_budget_bytes: Option<u64>,
    cancelled: AtomicBool,
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
        let plan = Arc::new(Plan::new(model.network().clone())?);
        let mut device = device::open(options.device, Arc::clone(&pool));
        let loaded_bytes = device.loaded_bytes(&plan, model.package().folds.len());
        size::obey(options.host_budget_bytes, loaded_bytes, "the network")?;
        device.load(Arc::clone(&plan), &*model)?;
        Ok(Self {
            info: device.info().clone(),
            model,
            plan,
            pool,
            device: Mutex::new(device),
            loaded_bytes,
            host_budget_bytes: options.host_budget_bytes,
            cancelled: AtomicBool::new(false),
        })
    }

    /// The model it runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The device it runs on.
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// Threads of the processor that take part.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// What a run on `volume` would need, at most; reads no voxel.
    ///
    /// # Errors
    /// [`Error::Busy`] during a run; [`Error::Argument`] if volume or options can't be used.
    pub fn estimate(&self, volume: &VolumeView, options: &RunOptions) -> Result<Estimate> {
        let device = self.lock()?;
        self.size(&**device, volume, options)
    }

    /// Segments `volume`.
    ///
    /// # Errors
    /// [`Error::Busy`] if a run is on; [`Error::Argument`] if volume or options can't be used;
    /// [`Error::Memory`] before anything is allocated if the budget is too small;
    /// [`Error::Cancelled`]; and whatever `observer` returns.
    pub fn run(
        &self,
        volume: &VolumeView,
        options: &RunOptions,
        observer: &mut dyn Observer,
    ) -> Result<Segmentation> {
        let mut device = self.lock()?;
        self.cancelled.store(false, Ordering::Relaxed);
        let host_bytes = self.size(&**device, volume, options)?.host_bytes;
        size::obey(self.host_budget_bytes, host_bytes, "segmenting this volume")?;
        let mut run = Run {
            session: self,
            options,
            mirrors: self.mirrors(options),
            observer,
            started: Instant::now(),
            done: 0,
            total: 0,
            report: Report { estimated_host_bytes: host_bytes, ..Report::default() },
        };
        let restored = run.segment(&mut **device, volume);
        device.finish();
        let (labels, probabilities) = restored?.into_parts();
        run.report.total_seconds = run.started.elapsed().as_secs_f64();
        Ok(Segmentation { labels, probabilities, report: run.report })
    }

    /// Asks the run that is on, if any, to stop after its current tile; from any thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Box<dyn Device>>> {
        self.device.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Busy,
            TryLockError::Poisoned(_) => Error::Internal(
                "this session failed in an earlier run and can only be released".into(),
            ),
        })
    }

    fn size(
        &self,
        device: &dyn Device,
        volume: &VolumeView,
        options: &RunOptions,
    ) -> Result<Estimate> {
        let passes = self.mirrors(options).len() * self.model.package().folds.len();
        size::estimate(&self.model, &self.plan, device, self.loaded_bytes, volume, options, passes)
    }

    /// The reversals that are averaged, none of them first.
    fn mirrors(&self, options: &RunOptions) -> Vec<[bool; 3]> {
        let axes: &[usize] = if options.mirror { &self.model.package().mirror_axes } else { &[] };
        (0..1usize << axes.len())
            .map(|set| {
                std::array::from_fn(|axis| {
                    axes.iter().position(|&a| a == axis).is_some_and(|bit| set >> bit & 1 == 1)
                })
            })
            .collect()
    }
}

/// The state of one run.
struct Run<'a> {
    session: &'a Session,
    options: &'a RunOptions,
    mirrors: Vec<[bool; 3]>,
    observer: &'a mut dyn Observer,
    started: Instant,
    done: usize,
    total: usize,
    report: Report,
}

impl Run<'_> {
    fn segment(&mut self, device: &mut dyn Device, volume: &VolumeView) -> Result<Restored> {
        self.check(Phase::Prepare)?;
        let model = &*self.session.model;
        let clock = Instant::now();
        let prepared = prepare(volume, &model.recipe(), &self.session.pool)?;
        self.report.prepare_seconds = clock.elapsed().as_secs_f64();
        self.observer.preprocessed(&prepared.data, prepared.channels, prepared.shape)?;

        let patch = model.package().patch;
        let schedule =
            window::schedule(prepared.shape, patch, self.options.step, &prepared.output[0])?;
        let folds = model.package().folds.len();
        self.total = schedule.tiles.len() * self.mirrors.len() * folds;
        self.report.tiles = schedule.tiles.len();
        self.report.passes = self.total;
        self.report.network_shape = prepared.shape;
        let [a, b, c] = prepared.shape;
        let text = format!("{a} x {b} x {c} voxels, {} tiles", schedule.tiles.len());
        self.observer.message(Level::Info, &text);
        if let Some(notice) = model.package().demo_notice() {
            self.observer.message(Level::Warning, &notice);
        }

        let shape = prepared.shape;
        let mut restored =
            Restored::new(model, self.options, volume.dims, prepared.placement.clone())?;
        device.begin(self.job(prepared, &schedule, &restored)?)?;
        let mut output = SlabOutput::default();
        for step in &schedule.steps {
            match step {
                Step::Tile(index) => {
                    for mirror in 0..self.mirrors.len() {
                        self.pass(device, &schedule.tiles[*index], self.mirrors[mirror], folds)?;
                    }
                }
                Step::Resolve(slab) => {
                    self.check(Phase::Tiles)?;
                    let clock = Instant::now();
                    device.resolve(slab, &mut output)?;
                    restored.paste(slab.output.clone(), &output);
                    self.scores(&output, slab.planes.clone(), shape)?;
                    self.report.resolve_seconds += clock.elapsed().as_secs_f64();
                }
            }
        }
        self.check(Phase::Restore)?;
        Ok(restored)
    }

    /// Runs the network of every fold on one tile.
    fn pass(
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
            self.done += 1;
        }
        Ok(())
    }

    fn job(&self, prepared: Prepared, schedule: &Schedule, restored: &Restored) -> Result<Job> {
        let package = self.session.model.package();
        Ok(Job {
            volume: prepared.data,
            channels: prepared.channels,
            shape: prepared.shape,
            pad_before: schedule.pad_before,
            padded: schedule.padded,
            window: window::gaussian(package.patch)?,
            ring_planes: schedule.ring_planes,
            blend: size::blend(package),
            output: prepared.output,
            probability_classes: restored.probability_classes().to_vec(),
            scores: self.options.scores,
        })
    }

    fn scores(
        &mut self,
        output: &SlabOutput,
        planes: Range<usize>,
        shape: [usize; 3],
    ) -> Result<()> {
        if output.scores.is_empty() {
            return Ok(());
        }
        let classes = self.session.plan.network.classes;
        self.observer.scores(&output.scores, classes, planes, shape)
    }

    /// Reports progress; an error if the run is to stop.
    fn check(&mut self, phase: Phase) -> Result<()> {
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
