//! The non-zero mask with its holes filled, one bit for each voxel.

use crate::base::Result;
use crate::base::error::filled;

/// Where any channel is not zero, and zeros that no path of face neighbours connects to the box's
/// surface (nnU-Net's `create_nonzero_mask`).
pub(super) struct Mask {
    shape: [usize; 3],
    /// A row of the fastest axis begins at a new word.
    words: Vec<u64>,
}

/// Words of a row.
fn row_words(columns: usize) -> usize {
    columns.div_ceil(64)
}

/// Bytes that [`Mask::new`] allocates at its peak.
pub(super) fn bytes(shape: [usize; 3]) -> u64 {
    2 * 8 * (shape[0] * shape[1] * row_words(shape[2])) as u64
}

impl Mask {
    /// Fills the holes of what `non_zero(plane, rows)` sets: bits of the plane's voxels, rows of
    /// whole words one after the other.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if the machine has no room for it, or what `non_zero` returns.
    pub(super) fn new(
        shape: [usize; 3],
        mut non_zero: impl FnMut(usize, &mut [u64]) -> Result<()>,
    ) -> Result<Self> {
        let [planes, rows, columns] = shape;
        let row = row_words(columns);
        let mut words = filled("non-zero mask", planes * rows * row, 0u64)?;
        for (plane, words) in words.chunks_exact_mut(rows * row).enumerate() {
            non_zero(plane, words)?;
        }
        let mut outside = filled("non-zero mask", words.len(), 0u64)?;
        let mut flood = Flood { shape, row, solid: &words, outside: &mut outside };
        // Each sweep carries what is known forth, then back; few are needed unless holes wind.
        while flood.sweep() {}
        for (word, outside) in words.iter_mut().zip(&outside) {
            *word = !outside;
        }
        Ok(Self { shape, words })
    }

    /// The rows of a plane, each of whole words.
    pub(super) fn row(&self, plane: usize, row: usize) -> &[u64] {
        let words = row_words(self.shape[2]);
        &self.words[(plane * self.shape[1] + row) * words..][..words]
    }
}

/// A bit of a row.
pub(super) fn bit(row: &[u64], column: usize) -> bool {
    row[column / 64] >> (column % 64) & 1 == 1
}

struct Flood<'a> {
    shape: [usize; 3],
    row: usize,
    solid: &'a [u64],
    outside: &'a mut [u64],
}

impl Flood<'_> {
    /// Goes through all rows forwards and backwards; whether anything changed.
    fn sweep(&mut self) -> bool {
        let rows = self.shape[0] * self.shape[1];
        let mut changed = false;
        for at in (0..rows).chain((0..rows).rev()) {
            changed |= self.spread(at);
        }
        changed
    }

    /// Carries the outside into one row from its neighbours, and along it.
    fn spread(&mut self, at: usize) -> bool {
        let [planes, rows, columns] = self.shape;
        let (plane, row) = (at / rows, at % rows);
        let border = plane == 0 || row == 0 || plane + 1 == planes || row + 1 == rows;
        let start = at * self.row;
        let mut changed = false;
        for word in start..start + self.row {
            let mut reached = self.outside[word];
            if border {
                reached = u64::MAX;
            } else {
                for step in [self.row, rows * self.row] {
                    reached |= self.outside[word - step] | self.outside[word + step];
                }
            }
            let found = self.outside[word] | (reached & !self.solid[word]);
            changed |= found != self.outside[word];
            self.outside[word] = found;
        }
        let mut carry = |this: &mut Self, column: usize, before: bool| {
            let (word, mask) = (start + column / 64, 1u64 << (column % 64));
            let now = this.outside[word] & mask != 0;
            if now || !before || this.solid[word] & mask != 0 {
                return now;
            }
            this.outside[word] |= mask;
            changed = true;
            true
        };
        let mut before = true;
        for column in 0..columns {
            before = carry(self, column, before);
        }
        before = true;
        for column in (0..columns).rev() {
            before = carry(self, column, before);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Zeros reached from the surface, voxel after voxel.
    fn flooded(solid: &[bool], shape: [usize; 3]) -> Vec<bool> {
        let at = |voxel: usize| {
            [voxel / shape[2] / shape[1], voxel / shape[2] % shape[1], voxel % shape[2]]
        };
        let mut outside = vec![false; solid.len()];
        loop {
            let mut changed = false;
            for voxel in 0..solid.len() {
                if solid[voxel] || outside[voxel] {
                    continue;
                }
                let place = at(voxel);
                let surface = (0..3).any(|axis| place[axis] == 0 || place[axis] + 1 == shape[axis]);
                let steps = [shape[1] * shape[2], shape[2], 1];
                let reached = surface
                    || steps.iter().any(|step| outside[voxel - step] || outside[voxel + step]);
                outside[voxel] = reached;
                changed |= reached;
            }
            if !changed {
                return outside;
            }
        }
    }

    proptest! {
        #[test]
        fn holes_are_filled(
            shape in [1usize..7, 1usize..8, 1usize..70], seed in proptest::collection::vec(any::<u64>(), 60),
            dense: bool
        ) {
            let voxels: usize = shape.iter().product();
            let solid: Vec<bool> = (0..voxels)
                .map(|voxel| {
                    let word = seed[voxel / 64 % 60].rotate_left((voxel / 3840) as u32);
                    let other = seed[(voxel / 64 + 7) % 60];
                    (if dense { word | other } else { word & other }) >> (voxel % 64) & 1 == 1
                })
                .collect();
            let mask = Mask::new(shape, |plane, rows| {
                for row in 0..shape[1] {
                    for column in 0..shape[2] {
                        if solid[(plane * shape[1] + row) * shape[2] + column] {
                            rows[row * row_words(shape[2]) + column / 64] |= 1 << (column % 64);
                        }
                    }
                }
                Ok(())
            })
            .unwrap();
            let outside = flooded(&solid, shape);
            for (voxel, &outside) in outside.iter().enumerate() {
                let row = mask.row(voxel / shape[2] / shape[1], voxel / shape[2] % shape[1]);
                prop_assert_eq!(bit(row, voxel % shape[2]), !outside);
            }
        }
    }
}
