//! One part of a model over one volume.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::air::Air;
use super::labels;
use super::probabilities::Handover;
use super::region::{Tiling, Wanted};
use super::run::Run;
use super::size;
use super::{Export, Grid, LabelMap, Phase};
use crate::base::error::{filled, reserved};
use crate::base::{Error, Result};
use crate::device::{Device, Job, SlabOutput};
use crate::model::{Output, Part};
use crate::volume::labels::LabelResampling;
use crate::volume::resample::axis_maps;
use crate::volume::{AxisMap, NativePlanes, Placement, Planes, Preparation, Resampling};
use crate::window::{self, Schedule, Slab, Step};

/// Where a part's labels go.
pub(super) enum Target<'a> {
    /// To the caller.
    Result(&'a mut LabelMap),
    /// To a later part.
    Earlier(&'a mut Vec<u16>),
}

impl Target<'_> {
    fn paste(&mut self, placement: &Placement, planes: Range<usize>, values: &[u16]) {
        match self {
            Self::Result(labels) => labels.paste(placement, planes, values),
            Self::Earlier(labels) => {
                placement.paste(planes, values, labels, |_| true, |value| value);
            }
        }
    }
}

/// A prepared volume, kept whole: planes and their values.
pub(super) type Kept = Vec<(Range<usize>, Vec<f32>)>;

/// Where a part's planes come from.
pub(super) enum Supply<'a> {
    /// They are made, and kept if there is where.
    Made(Box<Planes<'a>>, Option<&'a mut Kept>),
    /// They were made for the part before.
    Kept(&'a Kept),
    /// The device makes them.
    Native(NativePlanes<'a>, Arc<Resampling>),
}

/// What a part runs on.
pub(super) struct Input<'a> {
    pub(super) prepared: &'a Preparation,
    pub(super) supply: Supply<'a>,
    pub(super) channels: usize,
    /// The run's axes, as the network's.
    pub(super) order: [usize; 3],
}

/// Labels on the network's grid whose neighbours are still to come, where labels are what comes to
/// the caller's grid.
struct Pending {
    /// To the caller's grid.
    maps: [AxisMap; 3],
    /// First of the planes that are held.
    first: usize,
    /// `[planes][shape1][shape2]`
    labels: Vec<u16>,
}

/// A part while it runs.
struct Running<'r, 'a, 'o> {
    run: &'r mut Run<'o>,
    index: usize,
    part: &'a Part,
    schedule: &'a Schedule,
    mirrors: Vec<[bool; 3]>,
    active: Vec<bool>,
    air: Option<Air>,
    input: Input<'a>,
    handover: Handover,
    pending: Option<Pending>,
    /// Label value of each class.
    values: Vec<u16>,
    fed: usize,
}

impl Run<'_> {
    /// Runs one part of the model.
    pub(super) fn part(
        &mut self,
        index: usize,
        device: &mut dyn Device,
        input: Input,
        mut target: Target,
    ) -> Result<()> {
        let model = Arc::clone(self.model());
        let part = &model.package().parts[index];
        let grids = &input.prepared.grids;
        let (shape, order) = (grids.shape, input.order);
        let patch = order.map(|axis| part.patch[axis]);
        let to_native = match self.options.export {
            Export::Scores => None,
            Export::Labels => Some(grids.output.clone()),
            Export::NearestLabels => Some(axis_maps(shape, grids.placement.shape(), 0, None)),
        };
        let map = to_native.as_ref().unwrap_or(&grids.output);
        let grain = size::grain(self.report.estimate.choices);
        let schedule = window::schedule(shape, patch, self.options.step, &map[0], grain)?;
        let is_result = matches!(target, Target::Result(_));
        let region = self.options.region.as_ref().filter(|_| is_result);
        let tiling = Tiling::new(shape, patch, self.options.step);
        let mut check = || self.check(Phase::Tiles);
        let wanted = Wanted::new(region, grids, &mut check)?;
        let active = match region {
            None => filled("list of tiles", schedule.tiles.len(), true)?,
            Some(_) => wanted.active(&tiling, &mut check)?,
        };
        let air = self.options.skip_air_below.map(|below| {
            let threshold = input.prepared.normalized(0, below);
            Air::new(threshold, &schedule, patch, shape)
        });
        let (handover, rows) = match target {
            Target::Result(_) => labels::handover(&model, self.options, index)?,
            Target::Earlier(_) => (Handover::new(Vec::new(), Vec::new()), Vec::new()),
        };
        let mirrors = super::run::mirrors(part, self.options);
        let run = active.iter().filter(|active| **active).count();
        let passes = run * mirrors.len() * part.folds.len();
        self.began(index, shape, order, schedule.tiles.len(), passes);
        device.begin(Job {
            channels: input.channels,
            shape,
            axes: order,
            pad_before: schedule.pad_before,
            volume_planes: schedule.volume_planes,
            window: ordered_window(part, order, schedule.tiles.len())?,
            ring_planes: schedule.ring_planes,
            slab_planes: grain.slab_planes,
            blend: size::blend(part),
            accumulators: self.options.accumulators,
            decision: part.output.decision(),
            region: match to_native {
                None => wanted.bounds.clone(),
                Some(_) => shape.map(|extent| 0..extent),
            },
            output: match to_native {
                None => grids.output.clone(),
                Some(_) => axis_maps(shape, shape, 0, None),
            },
            probability_classes: rows,
            network_probabilities: self.options.probability_grid == Grid::Network,
            scores: self.options.scores,
            resampling: match &input.supply {
                Supply::Native(_, resampling) => Some(Arc::clone(resampling)),
                _ => None,
            },
        })?;
        let mut running = Running {
            index,
            part,
            schedule: &schedule,
            mirrors,
            active,
            air: air.transpose()?,
            input,
            handover,
            pending: to_native.map(|maps| Pending { maps, first: 0, labels: Vec::new() }),
            values: labels::class_values(&model, index),
            fed: 0,
            run: self,
        };
        let mut output = SlabOutput::default();
        // The slab that the device was asked for while it goes on with the next tile.
        let mut asked: Option<&Slab> = None;
        for step in &schedule.steps {
            match step {
                Step::Feed(planes) => running.feed(device, planes)?,
                Step::Tile(tile) => {
                    running.tile(device, *tile)?;
                    if let Some(slab) = asked.take() {
                        running.collect(device, slab, &mut output, &mut target)?;
                    }
                }
                Step::Resolve(slab) => {
                    if let Some(slab) = asked.take() {
                        running.collect(device, slab, &mut output, &mut target)?;
                    }
                    if running.resolve(device, slab, &mut output)? {
                        running.hand_over(slab, &mut output, &mut target)?;
                    } else {
                        asked = Some(slab);
                    }
                }
            }
        }
        match asked {
            Some(slab) => running.collect(device, slab, &mut output, &mut target),
            None => Ok(()),
        }
    }
}

/// The weights of a tile's voxels in the order of the run's axes.
fn ordered_window(part: &Part, order: [usize; 3], tiles: usize) -> Result<Vec<f32>> {
    let window = window::weights(part.patch, part.generation, tiles)?;
    if order == [0, 1, 2] {
        return Ok(window);
    }
    let steps = [part.patch[1] * part.patch[2], part.patch[2], 1];
    let mut ordered = reserved("weights of a tile", window.len())?;
    for a in 0..part.patch[order[0]] {
        for b in 0..part.patch[order[1]] {
            for c in 0..part.patch[order[2]] {
                ordered
                    .push(window[a * steps[order[0]] + b * steps[order[1]] + c * steps[order[2]]]);
            }
        }
    }
    Ok(ordered)
}

impl Running<'_, '_, '_> {
    /// Hands over the next planes of the volume.
    fn feed(&mut self, device: &mut dyn Device, planes: &Range<usize>) -> Result<()> {
        self.run.check(Phase::Tiles)?;
        let clock = Instant::now();
        if let Supply::Native(native, resampling) = &mut self.input.supply {
            let needed = resampling.bands[0].needed(planes);
            native.hand_over(needed, |channel, planes, values| {
                device.feed_native(channel, planes, values)
            })?;
            device.resample(planes.clone())?;
            self.run.report.prepare_seconds += clock.elapsed().as_secs_f64();
            return Ok(());
        }
        let Input { supply, channels, prepared, .. } = &mut self.input;
        let shape = prepared.grids.shape;
        let lost = || Error::Internal(format!("planes {planes:?} of the volume are missing"));
        let values = match supply {
            Supply::Kept(kept) => kept.get(self.fed).map(|(_, values)| values.as_slice()),
            Supply::Made(stream, kept) => {
                let piece = stream.make()?.filter(|piece| piece.planes == *planes);
                match (piece, kept) {
                    (Some(piece), Some(kept)) => {
                        let mut copy = reserved("prepared volume", piece.values.len())?;
                        copy.extend_from_slice(piece.values);
                        kept.push((planes.clone(), copy));
                        kept.last().map(|(_, values)| values.as_slice())
                    }
                    (Some(piece), None) => Some(piece.values),
                    (None, _) => None,
                }
            }
            Supply::Native(..) => None,
        };
        let values = values.ok_or_else(lost)?;
        self.fed += 1;
        if let Some(air) = &mut self.air {
            air.look(planes.clone(), &values[..planes.len() * shape[1] * shape[2]]);
        }
        if self.run.options.preprocessed {
            let observer = &mut *self.run.observer;
            observer.preprocessed(self.index, values, *channels, planes.clone(), shape)?;
        }
        device.feed(planes.clone(), values)?;
        self.run.report.prepare_seconds += clock.elapsed().as_secs_f64();
        Ok(())
    }

    /// Runs the networks on one tile, or skips it.
    fn tile(&mut self, device: &mut dyn Device, number: usize) -> Result<()> {
        let tile = &self.schedule.tiles[number];
        let folds = self.part.folds.len();
        let air = self.air.as_ref().is_some_and(|air| air.fills(tile));
        match (self.active[number], air) {
            (true, false) => {}
            (false, _) => return self.run.skipped(0),
            (true, true) => return self.run.skipped(self.mirrors.len() * folds),
        }
        for &mirror in &self.mirrors {
            self.run.pass(device, tile, mirror, folds)?;
        }
        Ok(())
    }

    /// Asks for what became final; whether it is there.
    fn resolve(
        &mut self,
        device: &mut dyn Device,
        slab: &Slab,
        output: &mut SlabOutput,
    ) -> Result<bool> {
        self.run.check(Phase::Tiles)?;
        let clock = Instant::now();
        let there = match &self.pending {
            None => device.ask_resolve(slab, output)?,
            Some(_) => {
                let planes = slab.planes.clone();
                device.ask_resolve(&Slab { output: planes.clone(), planes }, output)?
            }
        };
        self.run.report.resolve_seconds += clock.elapsed().as_secs_f64();
        Ok(there)
    }

    /// Waits for a slab that was asked for, and hands it over.
    fn collect(
        &mut self,
        device: &mut dyn Device,
        slab: &Slab,
        output: &mut SlabOutput,
        target: &mut Target,
    ) -> Result<()> {
        let clock = Instant::now();
        device.collect(output)?;
        self.run.report.resolve_seconds += clock.elapsed().as_secs_f64();
        self.hand_over(slab, output, target)
    }

    /// Brings what became final to the caller.
    fn hand_over(
        &mut self,
        slab: &Slab,
        output: &mut SlabOutput,
        target: &mut Target,
    ) -> Result<()> {
        let clock = Instant::now();
        let grids = &self.input.prepared.grids;
        for class in &mut output.classes {
            *class = self.values[usize::from(*class)];
        }
        match &mut self.pending {
            None => target.paste(&grids.placement, slab.output.clone(), &output.classes),
            Some(pending) => {
                pending.labels.extend_from_slice(&output.classes);
                let labels = pending.take(grids.shape, slab, self.part.generation)?;
                target.paste(&grids.placement, slab.output.clone(), &labels);
            }
        }
        let pool = self.run.pool();
        let observer = &mut *self.run.observer;
        match self.run.options.probability_grid {
            Grid::Volume => {
                let planes = slab.output.clone();
                let values = &output.probabilities;
                self.handover.volume_planes(&grids.placement, planes, values, pool, observer)?;
            }
            Grid::Network => {
                let (order, planes) = (self.input.order, slab.planes.clone());
                let values = &output.probabilities;
                self.handover.network_planes(order, grids.shape, planes, values, pool, observer)?;
            }
        }
        if !output.scores.is_empty() {
            let classes =
                output.scores.len() / (slab.planes.len() * grids.shape[1] * grids.shape[2]);
            let planes = slab.planes.clone();
            observer.scores(self.index, &output.scores, classes, planes, grids.shape)?;
        }
        self.run.report.resolve_seconds += clock.elapsed().as_secs_f64();
        Ok(())
    }
}

impl Pending {
    /// The labels of the slab's output planes; planes that no later one needs are let go.
    fn take(
        &mut self,
        shape: [usize; 3],
        slab: &Slab,
        generation: crate::volume::Generation,
    ) -> Result<Vec<u16>> {
        let plane = shape[1] * shape[2];
        let native = self.maps[1].low.len() * self.maps[2].low.len();
        let mut labels = filled("labels of a slab", slab.output.len() * native, 0u16)?;
        let resampling = LabelResampling { maps: &self.maps, generation };
        for (at, into) in slab.output.clone().zip(labels.chunks_exact_mut(native)) {
            let held = |plane_at: u32| {
                let first = (plane_at as usize - self.first) * plane;
                &self.labels[first..first + plane]
            };
            let between = [held(self.maps[0].low[at]), held(self.maps[0].high[at])];
            resampling.plane(at, shape[2], between, into);
        }
        // Later output planes lie above the last of these planes, or between it and the next.
        let keep = slab.planes.end - 1;
        self.labels.drain(..(keep - self.first) * plane);
        self.first = keep;
        Ok(labels)
    }
}

impl Output {
    /// How scores become a class.
    fn decision(&self) -> crate::device::Decision {
        match self {
            Self::Classes(_) => crate::device::Decision::Highest,
            Self::Regions(_) => crate::device::Decision::LastPositive,
        }
    }
}
