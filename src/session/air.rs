//! Which tiles hold nothing but air.

use std::ops::Range;

use crate::base::Result;
use crate::base::error::filled;
use crate::window::{Schedule, Tile};

/// The highest value of each plane of each column of tiles, as planes come by.
pub(super) struct Air {
    /// Below this prepared value there is air.
    threshold: f32,
    /// First voxels of the tiles along the two faster axes, in the padded volume.
    starts: [Vec<usize>; 2],
    /// `[plane][start 1][start 2]`
    highest: Vec<f32>,
    patch: [usize; 3],
    shape: [usize; 3],
    pad_before: [usize; 3],
}

/// Bytes of [`Air::new`], at most.
pub(super) fn bytes(shape: [usize; 3], tiles_across: usize) -> u64 {
    (4 * shape[0] * tiles_across) as u64
}

impl Air {
    pub(super) fn new(
        threshold: f32,
        schedule: &Schedule,
        patch: [usize; 3],
        shape: [usize; 3],
    ) -> Result<Self> {
        let starts = [1, 2].map(|axis| {
            let mut starts: Vec<_> = schedule.tiles.iter().map(|tile| tile.start[axis]).collect();
            starts.sort_unstable();
            starts.dedup();
            starts
        });
        let across = starts[0].len() * starts[1].len();
        Ok(Self {
            threshold,
            highest: filled("air", shape[0] * across, f32::NEG_INFINITY)?,
            starts,
            patch,
            shape,
            pad_before: schedule.pad_before,
        })
    }

    /// Voxels of the volume that a tile covers along an axis.
    fn covered(&self, axis: usize, start: usize) -> Range<usize> {
        let place = |at: usize| at.saturating_sub(self.pad_before[axis]).min(self.shape[axis]);
        place(start)..place(start + self.patch[axis])
    }

    /// Looks at planes of the first channel, `[planes][shape1][shape2]`.
    pub(super) fn look(&mut self, planes: Range<usize>, values: &[f32]) {
        let [_, rows, columns] = self.shape;
        let across = self.starts[0].len() * self.starts[1].len();
        for (plane, values) in planes.zip(values.chunks_exact(rows * columns)) {
            for (second, &start2) in self.starts[1].iter().enumerate() {
                let range = self.covered(2, start2);
                let highest: Vec<f32> = values
                    .chunks_exact(columns)
                    .map(|row| row[range.clone()].iter().copied().fold(f32::MIN, f32::max))
                    .collect();
                for (first, &start1) in self.starts[0].iter().enumerate() {
                    let rows = highest[self.covered(1, start1)].iter();
                    let at = plane * across + first * self.starts[1].len() + second;
                    self.highest[at] = rows.copied().fold(f32::MIN, f32::max);
                }
            }
        }
    }

    /// Whether all voxels of a tile lie below the threshold.
    pub(super) fn fills(&self, tile: &Tile) -> bool {
        let place = |axis: usize| self.starts[axis - 1].binary_search(&tile.start[axis]);
        let (Ok(first), Ok(second)) = (place(1), place(2)) else { return false };
        let width = self.starts[1].len();
        let across = self.starts[0].len() * width;
        let mut planes = self.covered(0, tile.start[0]);
        planes.all(|plane| self.highest[plane * across + first * width + second] < self.threshold)
    }
}
