//! Probabilities on their way to the caller, a box at a time.

use std::ops::Range;

use super::observer::{Observer, ProbabilityBox};
use crate::base::Result;
use crate::base::error::refill;
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
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if self.labels.is_empty() || planes.is_empty() {
            return Ok(());
        }
        let crop = &placement.crop;
        let extents = placement.axes.map(|axis| placement.dims[axis]);
        // The first and last planes take along what was cropped before and after them.
        let first = if planes.start == 0 { 0 } else { crop[0].start + planes.start };
        let last = planes.end == crop[0].len();
        let end = if last { extents[0] } else { crop[0].start + planes.end };
        let target = [first..end, 0..extents[1], 0..extents[2]];
        // The run's axes that k, j and i are.
        let order: [usize; 3] = std::array::from_fn(|axis| {
            placement.axes.iter().position(|&caller| caller == 2 - axis).unwrap_or(axis)
        });
        let range =
            order.map(|axis| mirrored(&target[axis], extents[axis], placement.reversed[axis]));
        let sizes = range.each_ref().map(ExactSizeIterator::len);
        let voxels: usize = sizes.iter().product();
        refill("probabilities of a slab", &mut self.values, voxels * self.labels.len(), 0.0)?;
        let shape = placement.shape();
        let count = planes.len() * shape[1] * shape[2];
        for (label, into) in self.values.chunks_exact_mut(voxels).enumerate() {
            let from = &values[label * count..][..count];
            into.fill(self.outside[label]);
            // Where a voxel of each of the run's axes goes within the box.
            let steps = [sizes[1] * sizes[2], sizes[2], 1];
            let place = |run_axis: usize, voxel: usize| {
                let axis = order.iter().position(|&axis| axis == run_axis).unwrap_or(0);
                (placement.caller_index(run_axis, voxel) - range[axis].start) * steps[axis]
            };
            let rows = from.chunks_exact(shape[2]);
            for (row, line) in rows.enumerate() {
                let start = place(0, planes.start + row / shape[1]) + place(1, row % shape[1]);
                for (column, &value) in line.iter().enumerate() {
                    into[start + place(2, column)] = value;
                }
            }
        }
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
        self.volume_planes(&placement, planes, values, observer)
    }
}

/// A range of an axis of `extent` voxels, counted from its other end if reversed.
fn mirrored(range: &Range<usize>, extent: usize, reversed: bool) -> Range<usize> {
    match reversed {
        true => extent - range.end..extent - range.start,
        false => range.clone(),
    }
}
