//! The session and its one loop.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Instant;

use super::labels::{self, Restored};
use super::size::{self, Sized};
use super::{
    Estimate, Export, LabelMap, Level, Observer, Phase, Progress, Report, RunOptions, Segmentation,
    SessionOptions, postprocess,
};
use crate::base::error::filled;
use crate::base::{Error, Pool, Result};
use crate::device::{self, Decision, Device, DeviceInfo, Job, SlabOutput};
use crate::model::{Model, Output, Part};
use crate::net::Plan;
use crate::volume::labels::resample_labels;
use crate::volume::resample::axis_maps;
use crate::volume::{AxisMap, Placement, Prepared, Recipe, VolumeView, add_labels, prepare};
use crate::window::{self, Schedule, Step};

/// A model made ready on one device: plans, an arena, threads.
///
/// All methods may be called from any thread. One run at a time; a second one gets
/// [`Error::Busy`]. After a panic inside a run, every further run is [`Error::Internal`].
pub struct Session {
    model: Arc<Model>,
    /// One for each part of the model.
    plans: Vec<Arc<Plan>>,
    pool: Arc<Pool>,
    device: Mutex<Loaded>,
    info: DeviceInfo,
    /// Of each part.
    loaded_bytes: Vec<u64>,
    host_budget_bytes: Option<u64>,
    cancelled: AtomicBool,
}

/// A device, and the part of the model it holds: one at a time.
struct Loaded {
    device: Box<dyn Device>,
    part: Option<usize>,
}

impl Loaded {
    fn load(&mut self, part: usize, plan: &Arc<Plan>, model: &Model) -> Result<()> {
        if self.part != Some(part) {
            self.part = None;
            self.device.load(Arc::clone(plan), &model.weights(part))?;
            self.part = Some(part);
        }
        Ok(())
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
        let parts = 0..model.package().parts.len();
        let plans = parts
            .map(|part| Ok(Arc::new(Plan::new(model.network(part).clone())?)))
            .collect::<Result<Vec<_>>>()?;
        let mut loaded =
            Loaded { device: device::open(options.device, Arc::clone(&pool)), part: None };
        let bytes =
            |(plan, part): (&Arc<Plan>, &Part)| loaded.device.loaded_bytes(plan, part.folds.len());
        let loaded_bytes: Vec<u64> = plans.iter().zip(&model.package().parts).map(bytes).collect();
        let most = loaded_bytes.iter().copied().max().unwrap_or(0);
        size::obey(options.host_budget_bytes, most, "the network")?;
        loaded.load(0, &plans[0], &model)?;
        Ok(Self {
            info: loaded.device.info().clone(),
            model,
            plans,
            pool,
            device: Mutex::new(loaded),
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
        let loaded = self.lock()?;
        Ok(total(&self.sizes(&*loaded.device, volume, options)?))
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
        let mut loaded = self.lock()?;
        self.cancelled.store(false, Ordering::Relaxed);
        let parts = self.sizes(&*loaded.device, volume, options)?;
        let host_bytes = total(&parts).host_bytes;
        size::obey(self.host_budget_bytes, host_bytes, "segmenting this volume")?;
        let mut run = Run {
            session: self,
            options,
            observer,
            started: Instant::now(),
            done: 0,
            total: parts.iter().map(|part| part.passes).sum(),
            expected: parts.iter().map(|part| part.passes).collect(),
            report: Report { estimated_host_bytes: host_bytes, ..Report::default() },
        };
        let restored = run.segment(&mut loaded, volume);
        loaded.device.finish();
        let Restored { labels, probabilities, .. } = restored?;
        run.report.total_seconds = run.started.elapsed().as_secs_f64();
        Ok(Segmentation { labels, probabilities, report: run.report })
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

    /// What each part needs.
    fn sizes(
        &self,
        device: &dyn Device,
        volume: &VolumeView,
        options: &RunOptions,
    ) -> Result<Vec<Estimate>> {
        let size = |(index, part): (usize, &Part)| {
            let sized = Sized {
                part: index,
                plan: &self.plans[index],
                loaded_bytes: self.loaded_bytes[index],
                passes_per_tile: mirrors(part, options).len() * part.folds.len(),
            };
            size::estimate(&self.model, &sized, device, volume, options)
        };
        self.model.package().parts.iter().enumerate().map(size).collect()
    }
}

/// What parts need that run one after the other.
fn total(parts: &[Estimate]) -> Estimate {
    Estimate {
        tiles: parts.iter().map(|part| part.tiles).sum(),
        passes: parts.iter().map(|part| part.passes).sum(),
        host_bytes: parts.iter().map(|part| part.host_bytes).max().unwrap_or(0),
    }
}

/// The reversals that are averaged, none of them first.
fn mirrors(part: &Part, options: &RunOptions) -> Vec<[bool; 3]> {
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
struct Run<'a> {
    session: &'a Session,
    options: &'a RunOptions,
    observer: &'a mut dyn Observer,
    started: Instant,
    done: usize,
    total: usize,
    /// Passes that were estimated for each part.
    expected: Vec<usize>,
    report: Report,
}

/// What a part of the model found that later parts ask for: label values, `[k][j][i]`.
type Earlier = HashMap<usize, Vec<u16>>;

impl Run<'_> {
    fn segment(&mut self, loaded: &mut Loaded, volume: &VolumeView) -> Result<Restored> {
        let model = Arc::clone(&self.session.model);
        let package = model.package();
        let mut restored = Restored::new(&model, self.options, volume.dims)?;
        let mut earlier = Earlier::new();
        let mut kept: Option<(Recipe, Prepared)> = None;
        for part in 0..package.parts.len() {
            let input = self.prepare(part, volume, &mut kept, &earlier)?;
            loaded.load(part, &self.session.plans[part], &model)?;
            let found = if package.is_final(part) {
                None
            } else {
                Some(earlier.entry(part).insert_entry(filled("label map", volume.voxels(), 0)?))
            };
            let device = &mut *loaded.device;
            match found {
                None => {
                    let mut target = Target::Result(&mut restored);
                    self.part(part, device, input, &mut target)?;
                }
                Some(mut found) => {
                    let mut target = Target::Earlier(found.get_mut());
                    self.part(part, device, input, &mut target)?;
                }
            }
            device.finish();
        }
        self.check(Phase::Restore)?;
        self.postprocess(&mut restored.labels, volume)?;
        if let Some(keep) = &self.options.keep {
            restored.keep(keep);
        }
        Ok(restored)
    }

    /// The model's own steps and the user's. A map of noise may take what is left of the budget.
    fn postprocess(&mut self, labels: &mut LabelMap, volume: &VolumeView) -> Result<()> {
        let model = Arc::clone(&self.session.model);
        let options = self.options;
        let allowance = postprocess::allowance(volume.dims);
        let others = self.report.estimated_host_bytes.saturating_sub(allowance);
        let budget = self.session.host_budget_bytes.unwrap_or(u64::MAX);
        let available = budget.saturating_sub(others);
        let mut check = || self.check(Phase::Restore);
        let done = postprocess::apply(&model, options, labels, volume, available, &mut check);
        done.map_err(|error| match error {
            // The machine has no more where nothing is said to be available.
            Error::Memory { what, needed_bytes, available_bytes: 1.. } => Error::Memory {
                what,
                needed_bytes: needed_bytes.saturating_add(others),
                available_bytes: budget,
            },
            other => other,
        })
    }

    /// What a part is given; `kept` is what the part before was given, without its labels.
    fn prepare(
        &mut self,
        part: usize,
        volume: &VolumeView,
        kept: &mut Option<(Recipe, Prepared)>,
        earlier: &Earlier,
    ) -> Result<Prepared> {
        self.check(Phase::Prepare)?;
        let model = &*self.session.model;
        let package = model.package();
        let recipe = model.recipe(part);
        let clock = Instant::now();
        let shared = kept.take().filter(|(of, _)| *of == recipe).map(|(_, prepared)| prepared);
        let mut prepared = match shared {
            Some(prepared) => prepared,
            None => prepare(volume, &recipe, &self.session.pool)?,
        };
        if part + 1 < package.parts.len() {
            *kept = Some((recipe.clone(), prepared.clone()));
        }
        if let Some(previous) = package.previous(part) {
            let structures = package.parts[previous].output.structures();
            prepared = add_labels(prepared, volume, &recipe, &earlier[&previous], &structures)?;
        }
        self.report.prepare_seconds += clock.elapsed().as_secs_f64();
        self.observer.preprocessed(part, &prepared.data, prepared.channels, prepared.shape)?;
        Ok(prepared)
    }

    /// Runs one part of the model.
    fn part(
        &mut self,
        index: usize,
        device: &mut dyn Device,
        prepared: Prepared,
        target: &mut Target,
    ) -> Result<()> {
        let model = Arc::clone(&self.session.model);
        let part = &model.package().parts[index];
        let (shape, placement) = (prepared.shape, prepared.placement.clone());
        let by_scores = self.options.export == Export::Scores;
        let (to_native, output) = if by_scores {
            (None, prepared.output.clone())
        } else {
            let mut to_native = prepared.output.clone();
            if self.options.export == Export::NearestLabels {
                to_native = axis_maps(shape, placement.shape(), 0, None);
            }
            (Some(to_native), axis_maps(shape, shape, 0, None))
        };
        let schedule = window::schedule(shape, part.patch, self.options.step, &output[0])?;
        let mirrors = mirrors(part, self.options);
        let passes = schedule.tiles.len() * mirrors.len() * part.folds.len();
        self.total = self.total + passes - self.expected[index];
        self.report.tiles += schedule.tiles.len();
        self.report.passes += passes;
        self.report.network_shape = shape;
        self.announce(index, shape, schedule.tiles.len());

        let wanted = match target {
            Target::Result(restored) => restored.probability_classes(index),
            Target::Earlier(_) => Vec::new(),
        };
        let values = labels::class_values(&model, index);
        device.begin(self.job(part, prepared, output, &schedule, wanted)?)?;
        let mut labels = Vec::new();
        let mut output = SlabOutput::default();
        for step in &schedule.steps {
            match step {
                Step::Tile(tile) => {
                    for &mirror in &mirrors {
                        let tile = &schedule.tiles[*tile];
                        self.pass(device, tile, mirror, part.folds.len())?;
                    }
                }
                Step::Resolve(slab) => {
                    self.check(Phase::Tiles)?;
                    let clock = Instant::now();
                    device.resolve(slab, &mut output)?;
                    output
                        .classes
                        .iter_mut()
                        .for_each(|class| *class = values[usize::from(*class)]);
                    if by_scores {
                        target.paste(index, &placement, &slab.output, &output);
                    } else {
                        labels.extend_from_slice(&output.classes);
                    }
                    self.scores(index, &output, slab.planes.clone(), shape)?;
                    self.report.resolve_seconds += clock.elapsed().as_secs_f64();
                }
            }
        }
        if let Some(maps) = to_native {
            let classes = resample_labels(&labels, shape, &maps, part.generation)?;
            let output = SlabOutput { classes, ..SlabOutput::default() };
            target.paste(index, &placement, &(0..placement.shape()[0]), &output);
        }
        Ok(())
    }

    /// Tells the user what is about to run.
    fn announce(&mut self, index: usize, [a, b, c]: [usize; 3], tiles: usize) {
        let package = self.session.model.package();
        let part = match package.parts.as_slice() {
            [_] => String::new(),
            parts => format!("{}: ", parts[index].name),
        };
        self.observer.message(Level::Info, &format!("{part}{a} x {b} x {c} voxels, {tiles} tiles"));
        if let (0, Some(notice)) = (index, package.demo_notice()) {
            self.observer.message(Level::Warning, &notice);
        }
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

    fn job(
        &self,
        part: &Part,
        prepared: Prepared,
        output: [AxisMap; 3],
        schedule: &Schedule,
        probability_classes: Vec<usize>,
    ) -> Result<Job> {
        Ok(Job {
            volume: prepared.data,
            channels: prepared.channels,
            shape: prepared.shape,
            pad_before: schedule.pad_before,
            padded: schedule.padded,
            window: window::weights(part.patch, part.generation, schedule.tiles.len())?,
            ring_planes: schedule.ring_planes,
            blend: size::blend(part),
            decision: match part.output {
                Output::Classes(_) => Decision::Highest,
                Output::Regions(_) => Decision::LastPositive,
            },
            output,
            probability_classes,
            scores: self.options.scores,
        })
    }

    fn scores(
        &mut self,
        part: usize,
        output: &SlabOutput,
        planes: Range<usize>,
        shape: [usize; 3],
    ) -> Result<()> {
        if output.scores.is_empty() {
            return Ok(());
        }
        let classes = self.session.plans[part].network.classes;
        self.observer.scores(part, &output.scores, classes, planes, shape)
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

/// Where a part's labels go.
enum Target<'a> {
    /// To the caller.
    Result(&'a mut Restored),
    /// To a later part.
    Earlier(&'a mut Vec<u16>),
}

impl Target<'_> {
    fn paste(
        &mut self,
        part: usize,
        placement: &Placement,
        planes: &Range<usize>,
        output: &SlabOutput,
    ) {
        match self {
            Self::Result(restored) => {
                restored.paste(placement, planes.clone(), &output.classes);
                restored.paste_probabilities(part, placement, planes, output);
            }
            Self::Earlier(labels) => {
                placement.paste(planes.clone(), &output.classes, labels, |_| true, |value| value);
            }
        }
    }
}
