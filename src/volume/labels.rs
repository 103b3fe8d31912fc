//! Label maps between grids: nnU-Net's `resize_segmentation`.

use super::prepare::Preparation;
use super::resample::axis_maps;
use super::{AxisMap, Generation};

/// Labels of a grid on the way to another one, a plane at a time. With linear maps each label's
/// indicator is interpolated, and the label with the largest share wins: of equal ones the nearest
/// voxel's, else the lowest (batchgenerators 0.25.4 and later). With [`Generation::V1`] a label
/// needs a share of at least a half, and of two that have it the higher wins (up to 0.25.3); where
/// none has it there is 0.
pub struct LabelResampling<'a> {
    /// From the labels' grid to the other.
    pub maps: &'a [AxisMap; 3],
    /// Whose rule.
    pub generation: Generation,
}

impl LabelResampling<'_> {
    /// Makes an output plane, `[output1][output2]`, from the two planes it lies between,
    /// `[rows][columns]`.
    pub fn plane(&self, plane: usize, columns: usize, between: [&[u16]; 2], into: &mut [u16]) {
        let ends = |axis: usize, at: usize| {
            let (map, fraction) = (&self.maps[axis], f64::from(self.maps[axis].fraction[at]));
            [(map.low[at] as usize, 1.0 - fraction), (map.high[at] as usize, fraction)]
        };
        let width = self.maps[2].low.len();
        let [(_, low), (_, high)] = ends(0, plane);
        for (row, line) in into.chunks_exact_mut(width).enumerate() {
            let ends1 = ends(1, row);
            for (column, label) in line.iter_mut().enumerate() {
                // Shares of the labels at the corners, by label; and the nearest corner's label.
                let mut shares = [(0u16, 0.0f64); 8];
                let (mut count, mut nearest) = (0, (f64::MIN, 0));
                for (labels, weight0) in [(between[0], low), (between[1], high)] {
                    for (row, weight1) in ends1 {
                        for (column, weight2) in ends(2, column) {
                            let label = labels[row * columns + column];
                            let weight = weight0 * weight1 * weight2;
                            // Halves go to the upper neighbour.
                            if weight >= nearest.0 {
                                nearest = (weight, label);
                            }
                            match shares[..count].iter_mut().find(|(other, _)| *other == label) {
                                Some((_, share)) => *share += weight,
                                None => {
                                    shares[count] = (label, weight);
                                    count += 1;
                                }
                            }
                        }
                    }
                }
                *label = decide(&mut shares[..count], nearest.1, self.generation);
            }
        }
    }
}

/// Labels on the caller's grid as they lie on the network's.
pub(super) struct LabelGrid<'a> {
    /// The label of a voxel of the native grid.
    native: Box<dyn Fn(usize, usize, usize) -> u16 + Sync + 'a>,
    /// Rows and columns of the native grid.
    extents: [usize; 2],
    maps: [AxisMap; 3],
    generation: Generation,
}

impl<'a> LabelGrid<'a> {
    /// Labels of the cropped native grid: `native(plane, row, column)`.
    pub(super) fn new(
        prepared: &'a Preparation,
        native: impl Fn(usize, usize, usize) -> u16 + Sync + 'a,
    ) -> Self {
        let [_, rows, columns] = prepared.grids.placement.shape();
        Self {
            native: Box::new(native),
            extents: [rows, columns],
            maps: prepared.grids.label_maps(),
            generation: prepared.generation,
        }
    }

    /// What an earlier network found, `[k][j][i]` on the caller's grid.
    pub(super) fn found(prepared: &'a Preparation, labels: &'a [u16]) -> Self {
        let mut placement = prepared.grids.placement.clone();
        let maps = match prepared.generation {
            // nnU-Net 1 resizes the whole map to the cropped volume's grid.
            Generation::V1 => {
                placement.crop = placement.axes.map(|axis| 0..placement.dims[axis]);
                axis_maps(placement.shape(), prepared.grids.shape, 1, None)
            }
            Generation::V2 => prepared.grids.label_maps(),
        };
        let [_, rows, columns] = placement.shape();
        let native = move |plane: usize, row: usize, column: usize| {
            labels[placement.caller_offset([plane, row, column])]
        };
        Self {
            native: Box::new(native),
            extents: [rows, columns],
            maps,
            generation: prepared.generation,
        }
    }

    /// The labels of a plane of the network's grid, `[shape1][shape2]`.
    pub(super) fn plane(&self, plane: usize, into: &mut [u16]) {
        let [rows, columns] = self.extents;
        let read = |at: u32| -> Vec<u16> {
            let voxels = (0..rows * columns).map(|v| (v / columns, v % columns));
            voxels.map(|(row, column)| (self.native)(at as usize, row, column)).collect()
        };
        let (low, high) = (self.maps[0].low[plane], self.maps[0].high[plane]);
        let first = read(low);
        let second = if high == low { Vec::new() } else { read(high) };
        let between = [&first, if high == low { &first } else { &second }].map(Vec::as_slice);
        let resampling = LabelResampling { maps: &self.maps, generation: self.generation };
        resampling.plane(plane, columns, between, into);
    }
}

fn decide(shares: &mut [(u16, f64)], nearest: u16, generation: Generation) -> u16 {
    if let [(label, _)] = shares {
        return *label;
    }
    shares.sort_unstable_by_key(|&(label, _)| label);
    match generation {
        Generation::V1 => {
            shares.iter().rev().find(|(_, share)| *share >= 0.5).map_or(0, |&(label, _)| label)
        }
        Generation::V2 => {
            let most = shares.iter().fold(0.0f64, |most, &(_, share)| most.max(share));
            let mut tied = shares.iter().filter(|(_, share)| *share == most).map(|&(l, _)| l);
            if tied.clone().any(|label| label == nearest) {
                nearest
            } else {
                tied.next().unwrap_or(nearest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resampled(labels: &[u16], output: usize, generation: Generation) -> Vec<u16> {
        let maps = [1, 1, labels.len()];
        let maps: [AxisMap; 3] = std::array::from_fn(|axis| {
            AxisMap::linear(maps[axis], if axis == 2 { output } else { 1 })
        });
        let mut found = vec![0; output];
        let resampling = LabelResampling { maps: &maps, generation };
        resampling.plane(0, labels.len(), [labels; 2], &mut found);
        found
    }

    #[test]
    fn the_largest_share_wins() {
        for generation in [Generation::V1, Generation::V2] {
            assert_eq!(resampled(&[0, 3, 3, 1], 8, generation), [0, 0, 3, 3, 3, 3, 1, 1]);
        }
        // Halfway between two labels: the upper neighbour's, or the higher.
        assert_eq!(resampled(&[2, 1], 1, Generation::V2), [1]);
        assert_eq!(resampled(&[2, 1], 1, Generation::V1), [2]);
    }
}
