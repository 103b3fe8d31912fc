//! Interpolation cells: the eight voxels of the network's grid that a voxel of the output grid lies
//! between.

use super::kernels::Kernels;
use super::memory::Buffer;
use super::mosaic::{Mosaic, SharedSums};
use super::scores::Mix;
use crate::base::Result;
use crate::base::error::reserved;
use crate::volume::AxisMap;

/// Where no tile was blended there is no class.
pub(super) const NONE: u16 = u16::MAX;
/// The corners of a cell are of different classes.
pub(super) const MIXED: u16 = u16::MAX - 1;

/// Which cell each column of the output lies in, as places in what [`CellRow::agree`] fills.
pub(super) struct CellColumns(Vec<u32>);

impl CellColumns {
    pub(super) fn new(map: &AxisMap, columns: usize) -> Result<Self> {
        let mut cells = reserved("columns of the output", map.low.len())?;
        cells.extend(
            map.low.iter().zip(&map.high).map(
                |(&low, &high)| {
                    if low == high { low } else { columns as u32 + low }
                },
            ),
        );
        Ok(Self(cells))
    }

    /// The class of all corners of column `x`'s cell, or [`MIXED`].
    pub(super) fn agreed(&self, agreed: &[u16], x: usize) -> u16 {
        agreed[self.0[x] as usize]
    }
}

/// What a voxel of an output axis lies between, and the weights of the two.
fn ends(map: &AxisMap, at: usize) -> [(usize, f32); 2] {
    let fraction = map.fraction[at];
    [(map.low[at] as usize, 1.0 - fraction), (map.high[at] as usize, fraction)]
}

/// The cells along one row of the output grid.
pub(super) struct CellRow<'a> {
    mosaic: &'a Mosaic,
    /// The rows (low, low), (low, high), (high, low), (high, high) of axes 0 and 1.
    rows: [Row; 4],
}

/// A row of the volume that cells touch.
#[derive(Clone, Copy)]
struct Row {
    /// First voxel in the ring.
    voxel: usize,
    /// First voxel among the classes.
    classes: usize,
    weight: f32,
}

impl<'a> CellRow<'a> {
    /// The cells of a row of the output.
    pub(super) fn new(mosaic: &'a Mosaic, plane: usize, row: usize) -> Self {
        let [map0, map1, _] = &mosaic.job.output;
        let (ends0, ends1) = (ends(map0, plane), ends(map1, row));
        let rows = std::array::from_fn(|corner| {
            let ((plane, weight0), (row, weight1)) = (ends0[corner / 2], ends1[corner % 2]);
            Row {
                voxel: mosaic.ring_row(plane, row),
                classes: mosaic.class_row(plane, row),
                weight: weight0 * weight1,
            }
        });
        Self { mosaic, rows }
    }

    /// Fills `agreed` with what [`CellColumns`] looks up: for each column of the volume, and for
    /// each column with the next, the class of all corners, or [`MIXED`].
    pub(super) fn agree(&self, agreed: &mut Vec<u16>) {
        let [a, b, c, d] = self.rows.map(|row| self.classes(row));
        let four = |(((&a, &b), &c), &d)| {
            if a == b && a == c && a == d { a } else { MIXED }
        };
        agreed.clear();
        agreed.extend(a.iter().zip(b).zip(c).zip(d).map(four));
        let columns = agreed.len();
        for column in 1..columns {
            let (low, high) = (agreed[column - 1], agreed[column]);
            agreed.push(if low == high { low } else { MIXED });
        }
        for class in agreed {
            *class = if *class == NONE { 0 } else { *class };
        }
    }

    /// The classes of a row of the volume.
    fn classes(&self, row: Row) -> &'a [u16] {
        &self.mosaic.classes[row.classes..row.classes + self.mosaic.job.shape[2]]
    }

    /// The columns that output column `x` lies between, and their weights.
    fn ends(&self, x: usize) -> [(usize, f32); 2] {
        ends(&self.mosaic.job.output[2], x)
    }

    /// The class of the nearest corner if some corner was touched by no tile.
    pub(super) fn untouched(&self, x: usize) -> Option<u16> {
        let mut nearest = (f32::MIN, NONE);
        let mut untouched = false;
        for row in self.rows {
            for (column, weight) in self.ends(x) {
                let class = self.classes(row)[column];
                untouched |= class == NONE;
                // Halves go to the upper neighbour.
                if row.weight * weight >= nearest.0 {
                    nearest = (row.weight * weight, class);
                }
            }
        }
        let class = if nearest.1 == NONE { 0 } else { nearest.1 };
        untouched.then_some(class)
    }

    /// The mosaic's values at column `x` of the output.
    ///
    /// # Safety
    /// `sums` are the mosaic's, and nobody writes the cell's rows; `into` holds a voxel, and
    /// `rounded` eight of them where the mosaic holds half precision.
    pub(super) unsafe fn interpolate(
        &self,
        x: usize,
        sums: SharedSums,
        kernels: &Kernels,
        rounded: &mut Buffer,
        into: *mut f32,
    ) {
        let depth = self.mosaic.depth;
        let mut mix =
            Mix { from: [std::ptr::null(); 8], weights: [0.0; 8], count: 0, to: into, depth };
        for row in &self.rows {
            for (column, share) in self.ends(x) {
                let weight = row.weight * share;
                if weight == 0.0 {
                    continue;
                }
                let first = (row.voxel + column) * depth;
                // SAFETY: as the caller promises; row and column lie in the ring.
                mix.from[mix.count] =
                    unsafe { sums.read(first, depth, mix.count * depth, rounded) };
                mix.weights[mix.count] = weight;
                mix.count += 1;
            }
        }
        // SAFETY: the corners hold `depth` values each; the kernel's instructions are there.
        unsafe { (kernels.mix)(&mix) };
    }
}
