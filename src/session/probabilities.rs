//! Probabilities on their way to the caller, a box at a time.

use std::ops::Range;

use super::observer::{Observer, ProbabilityBox};
use crate::base::error::resize;
use crate::base::{Pool, Result};
use crate::volume::Placement;

/// Hands over a part's probabilities.
pub(super) struct Handover {
    /// Positions in [`super::RunOptions::probabilities`] of those the part has.
    pub(super) labels: Vec<usize>,
    /// What each is outside the box of voxels that are not zero.
    pub(super) outside: Vec<f32>,
    /// A box in the order of the caller's axes.
    values: Vec<f32>,
}

impl Handover {
    pub(super) fn new(labels: Vec<usize>, outside: Vec<f32>) -> Self {
        Self { labels, outside, values: Vec::new() }
    }

    /// Planes of the run's slowest axis on the caller's grid, `[labels][planes][shape1][shape2]`
    /// of the cropped grid, with what lies outside the crop around them.
    pub(super) fn volume_planes(
        &mut self,
        placement: &Placement,
        planes: Range<usize>,
        values: &[f32],
        pool: &Pool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if self.labels.is_empty() || planes.is_empty() {
            return Ok(());
        }
        let crop = &placement.crop[0];
        let extent = placement.dims[placement.axes[0]];
        // What was cropped before and after them goes along, in boxes that are no larger.
        let most = planes.len();
        let outside = |range: Range<usize>| {
            let end = range.end;
            range.step_by(most).map(move |at| at..end.min(at + most))
        };
        if planes.start == 0 {
            for range in outside(0..crop.start) {
                self.hand_over(placement, range, &[], pool, observer)?;
            }
        }
        let inside = crop.start + planes.start..crop.start + planes.end;
        self.hand_over(placement, inside, values, pool, observer)?;
        if planes.end == crop.len() {
            for range in outside(crop.end..extent) {
                self.hand_over(placement, range, &[], pool, observer)?;
            }
        }
        Ok(())
    }

    /// Hands over whole planes of the run's slowest axis, before cropping; `values` are those inside
    /// the crop, or empty.
    fn hand_over(
        &mut self,
        placement: &Placement,
        planes: Range<usize>,
        values: &[f32],
        pool: &Pool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let extents = placement.axes.map(|axis| placement.dims[axis]);
        let first = planes.start.saturating_sub(placement.crop[0].start);
        let target = [planes, 0..extents[1], 0..extents[2]];
        // The run's axes that k, j and i are.
        let order: [usize; 3] = std::array::from_fn(|axis| {
            placement.axes.iter().position(|&caller| caller == 2 - axis).unwrap_or(axis)
        });
        let range =
            order.map(|axis| mirrored(&target[axis], extents[axis], placement.reversed[axis]));
        let sizes = range.each_ref().map(ExactSizeIterator::len);
        let voxels: usize = sizes.iter().product();
        resize("probabilities of a slab", &mut self.values, voxels * self.labels.len(), 0.0)?;
        let shape = placement.shape();
        let count = values.len() / self.labels.len();
        let covered = count == voxels;
        // Where a voxel of each of the run's axes goes within the box.
        let steps = [sizes[1] * sizes[2], sizes[2], 1];
        let places = [0, 1, 2].map(|run_axis| {
            let axis = order.iter().position(|&axis| axis == run_axis).unwrap_or(0);
            (range[axis].start, steps[axis])
        });
        let place = |run_axis: usize, voxel: usize| {
            let (start, step) = places[run_axis];
            (placement.caller_index(run_axis, voxel) - start) * step
        };
        let outside = &self.outside;
        let labels = self.values.chunks_exact_mut(voxels).collect();
        pool.for_each(labels, |label, into: &mut [f32], _| {
            if !covered {
                into.fill(outside[label]);
            }
            let from = &values[label * count..][..count];
            for (row, line) in from.chunks_exact(shape[2]).enumerate() {
                let start = place(0, first + row / shape[1]) + place(1, row % shape[1]);
                put(line, into, start + place(2, 0), places[2].1, placement.reversed[2]);
            }
        });
        let [i, j, k] = placement.dims;
        observer.probabilities(&ProbabilityBox {
            labels: &self.labels,
            grid: [k, j, i],
            range,
            values: &self.values,
        })
    }

    /// Planes on the network's grid, `[labels][planes][shape1][shape2]` in the run's axes.
    pub(super) fn network_planes(
        &mut self,
        axes: [usize; 3],
        shape: [usize; 3],
        planes: Range<usize>,
        values: &[f32],
        pool: &Pool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        // As a volume whose axes k, j, i are the network's.
        let mut dims = [0; 3];
        axes.iter().zip(shape).for_each(|(&axis, extent)| dims[2 - axis] = extent);
        let placement = Placement {
            dims,
            axes: axes.map(|axis| 2 - axis),
            reversed: [false; 3],
            crop: shape.map(|extent| 0..extent),
        };
        self.volume_planes(&placement, planes, values, pool, observer)
    }
}

/// Writes a line from `first` on, each value `step` places after the one before, or before it if
/// `reversed`.
fn put(line: &[f32], into: &mut [f32], first: usize, step: usize, reversed: bool) {
    let length = (line.len().max(1) - 1) * step + 1;
    match (step, reversed) {
        (1, false) => into[first..first + length].copy_from_slice(line),
        (_, false) => {
            let places = into[first..first + length].iter_mut().step_by(step);
            places.zip(line).for_each(|(place, value)| *place = *value);
        }
        (_, true) => {
            let places = into[first + 1 - length..=first].iter_mut().rev().step_by(step);
            places.zip(line).for_each(|(place, value)| *place = *value);
        }
    }
}

/// A range of an axis of `extent` voxels, counted from its other end if reversed.
fn mirrored(range: &Range<usize>, extent: usize, reversed: bool) -> Range<usize> {
    match reversed {
        true => extent - range.end..extent - range.start,
        false => range.clone(),
    }
}
