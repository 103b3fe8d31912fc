//! A volume's planes on its own grid, cropped, for a device that brings them to the network's grid
//! by itself, and what it must do to them.

use std::ops::Range;

use super::intensity::{Normalization, Outside};
use super::prepare::{Grids, PIECE_PLANES, Preparation, Recipe, piece};
use super::spline::Band;
use super::{Generation, VolumeView};
use crate::base::error::filled;
use crate::base::{Pool, Result};

/// Planes that are handed over at once, at most.
pub const NATIVE_PLANES: usize = 8;

/// How native planes become prepared ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Resampling {
    /// For each axis, from native voxels to the network's.
    pub bands: [Band; 3],
    /// The axis whose voxels have limits of their own, if there is one.
    pub limits_axis: Option<usize>,
    /// What else is done to the values of each channel.
    pub channels: Vec<Finish>,
}

/// What is done to a channel's values besides resampling. Normalisations are: lowest and highest
/// value kept, what is subtracted, by what it is divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// The normalisation, where it comes before resampling and was not done yet.
    pub before: Option<[f32; 4]>,
    /// Smallest and largest value, which resampling may not leave: one pair, or one for each
    /// voxel of the network's grid along [`Resampling::limits_axis`].
    pub limits: Vec<[f32; 2]>,
    /// The normalisation, where it comes last.
    pub after: Option<[f32; 4]>,
}

impl Resampling {
    /// Native planes that the planes of a piece are made from, at most.
    pub fn ring_planes(&self) -> usize {
        ring_planes(&self.bands[0])
    }
}

fn ring_planes(band: &Band) -> usize {
    let planes = band.first.len();
    let pieces = (0..planes).step_by(PIECE_PLANES).map(|start| piece(start, planes));
    pieces.map(|outputs| band.needed(&outputs).len()).max().unwrap_or(0)
}

/// Whether a device may resample what is prepared by a recipe: not where a mask follows
/// resampling.
pub fn may_resample(recipe: &Recipe) -> bool {
    recipe.generation == Generation::V2 || !recipe.masked()
}

/// As [`Resampling::ring_planes`], at most, for whichever part of `grids` will not be cropped.
pub fn most_ring_planes(grids: &Grids, recipe: &Recipe) -> usize {
    let native = grids.placement.shape()[0];
    let axis = &grids.axes(recipe.image.order)[0];
    // A crop changes how voxels round to each other.
    native.min(ring_planes(&axis.band(native, grids.shape[0])) + 2)
}

/// Bytes that [`NativePlanes`] hold, at most.
pub fn bytes(grids: &Grids) -> u64 {
    let [_, rows, columns] = grids.placement.shape();
    4 * (NATIVE_PLANES * rows * columns) as u64
}

impl Preparation {
    /// How a device makes the prepared planes of native ones; `None` if they are the same but for
    /// their values, or if what is done last depends on a mask.
    pub fn resampling(&self) -> Option<Resampling> {
        let last = self.generation == Generation::V1;
        if !self.resampled() || (last && self.mask.is_some()) {
            return None;
        }
        let bands = self.bands();
        let first = self.device_normalizes();
        let channels = self.normalizations.iter().enumerate().map(|(channel, how)| Finish {
            before: first.then(|| how.numbers()),
            limits: self.limits(channel, &bands),
            after: (last && how.outside == Outside::Normalized).then(|| how.numbers()),
        });
        Some(Resampling { channels: channels.collect(), limits_axis: self.grids.separate, bands })
    }

    /// Whether a device that resamples also does the normalisation that comes before: where it has
    /// no mask to look at.
    fn device_normalizes(&self) -> bool {
        self.generation == Generation::V2 && self.mask.is_none()
    }

    /// For each axis, from native voxels to the network's.
    pub(super) fn bands(&self) -> [Band; 3] {
        let native = self.grids.placement.shape();
        std::array::from_fn(|axis| self.axes[axis].band(native[axis], self.grids.shape[axis]))
    }

    /// [`Finish::limits`] of a channel.
    pub(super) fn limits(&self, channel: usize, bands: &[Band; 3]) -> Vec<[f32; 2]> {
        let ranges = &self.ranges[channel];
        match self.grids.separate {
            None => vec![ranges[0].into()],
            // It goes by nearest neighbour, of which each voxel has one.
            Some(axis) => {
                bands[axis].first.iter().map(|&voxel| ranges[voxel as usize].into()).collect()
            }
        }
    }
}

/// Reads native planes in ascending order.
pub struct NativePlanes<'a> {
    view: &'a VolumeView<'a>,
    prepared: &'a Preparation,
    pool: &'a Pool,
    /// Planes that were read so far.
    made: usize,
    /// `[planes][native1][native2]`
    values: Vec<f32>,
}

impl<'a> NativePlanes<'a> {
    /// Begins at the first plane.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if the machine has no room for it.
    pub fn new(
        view: &'a VolumeView<'a>,
        prepared: &'a Preparation,
        pool: &'a Pool,
    ) -> Result<Self> {
        let [planes, rows, columns] = prepared.grids.placement.shape();
        let values = NATIVE_PLANES.min(planes) * rows * columns;
        let values = filled("planes of the volume", values, 0.0)?;
        Ok(Self { view, prepared, pool, made: 0, values })
    }

    /// Hands over what was not yet of the planes in `needed`, and of none before them:
    /// `take(channel, planes, values)` gets up to [`NATIVE_PLANES`] of a channel at a time, with
    /// intensities normalised if that comes first and the device does not.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn hand_over(
        &mut self,
        needed: Range<usize>,
        mut take: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let prepared = self.prepared;
        let first = prepared.generation == Generation::V2 && !prepared.device_normalizes();
        for planes in self.next(needed) {
            for channel in 0..self.view.channels {
                let normalization = first.then(|| &prepared.normalizations[channel]);
                take(channel, planes.clone(), self.read(channel, planes.clone(), normalization))?;
            }
        }
        Ok(())
    }

    /// Those of the planes in `needed` that were not asked for yet, [`NATIVE_PLANES`] at a time.
    pub(super) fn next(
        &mut self,
        needed: Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let first = self.made.max(needed.start);
        self.made = self.made.max(needed.end);
        let starts = (first..needed.end).step_by(NATIVE_PLANES);
        starts.map(move |start| start..needed.end.min(start + NATIVE_PLANES))
    }

    /// Reads planes of a channel, normalised if asked.
    pub(super) fn read(
        &mut self,
        channel: usize,
        planes: Range<usize>,
        normalization: Option<&Normalization>,
    ) -> &[f32] {
        let [_, rows, columns] = self.prepared.grids.placement.shape();
        let source = self.prepared.source(self.view);
        let values = &mut self.values[..planes.len() * rows * columns];
        let targets = values.chunks_exact_mut(rows * columns).collect();
        self.pool.for_each(targets, |at, plane: &mut [f32], _| {
            source.read(channel, planes.start + at, normalization, plane);
        });
        values
    }
}
