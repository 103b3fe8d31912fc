//! Shapes of grids and the maps between them, as nnU-Net and skimage's `resize` have them.
//!
//! Grids are aligned at their borders: output voxel `k` of `m` lies at
//! `(k + 0.5) * (n / m) - 0.5` on an axis of `n` voxels.

use crate::base::{Error, Result};

/// More voxels than a network's grid can be meant to have.
const MOST_VOXELS: f64 = (1u64 << 34) as f64;

/// For each voxel of an output axis, the two voxels of the input axis it lies between:
/// `value = input[low] * (1 - fraction) + input[high] * fraction`. Nearest-neighbour and identity
/// maps have `low == high` and `fraction == 0`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AxisMap {
    /// Lower neighbour of each output voxel; never decreases.
    pub low: Vec<u32>,
    /// Upper neighbour: `low` or `low + 1`.
    pub high: Vec<u32>,
    /// Weight of the upper neighbour, in [0, 1).
    pub fraction: Vec<f32>,
}

impl AxisMap {
    /// Linear interpolation; beyond the outermost voxels their values.
    pub fn linear(input: usize, output: usize) -> Self {
        let mut map = Self::default();
        let scale = input as f64 / output as f64;
        for voxel in 0..output {
            let place = ((voxel as f64 + 0.5) * scale - 0.5).clamp(0.0, (input - 1) as f64);
            let low = place.floor();
            let fraction = (place - low) as f32;
            map.low.push(low as u32);
            map.high.push(low as u32 + u32::from(fraction > 0.0));
            map.fraction.push(fraction);
        }
        map
    }

    /// The nearest voxel; of two equally near ones the upper.
    pub fn nearest(input: usize, output: usize) -> Self {
        let low: Vec<u32> = (0..output).map(|voxel| nearest(input, output, voxel) as u32).collect();
        Self { high: low.clone(), fraction: vec![0.0; low.len()], low }
    }
}

/// The input voxel nearest to an output voxel.
pub(super) fn nearest(input: usize, output: usize, voxel: usize) -> usize {
    let scale = input as f64 / output as f64;
    let place = scale * (voxel as f64 + 0.5) - 0.5 + 0.5;
    (place.floor().max(0.0) as usize).min(input - 1)
}

/// The grid that holds a volume at another spacing (nnU-Net's `compute_new_shape`): the division
/// comes first, halves are rounded to even.
///
/// # Errors
/// [`Error::Argument`] if an axis has no voxel left, or the grid is absurdly large.
pub fn new_shape(shape: [usize; 3], from: [f64; 3], to: [f64; 3]) -> Result<[usize; 3]> {
    let extents: [f64; 3] =
        std::array::from_fn(|axis| (from[axis] / to[axis] * shape[axis] as f64).round_ties_even());
    if extents.iter().product::<f64>() > MOST_VOXELS {
        return Err(Error::argument(format!(
            "a volume of {shape:?} voxels of {from:?} mm has {extents:?} voxels of {to:?} mm, \
             expected at most 2^34; is the spacing right?"
        )));
    }
    // A volume thinner than half a voxel of the network still is one voxel thick.
    Ok(extents.map(|extent| extent.max(1.0) as usize))
}

/// From a grid of `input` voxels to one of `output` voxels. `separate` is the axis that goes by
/// nearest neighbour.
pub fn axis_maps(
    input: [usize; 3],
    output: [usize; 3],
    order: u8,
    separate: Option<usize>,
) -> [AxisMap; 3] {
    std::array::from_fn(|axis| {
        if order == 0 || separate == Some(axis) {
            AxisMap::nearest(input[axis], output[axis])
        } else {
            AxisMap::linear(input[axis], output[axis])
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_maps_are_those_of_skimage() {
        let line = [0.0, 1.0, 2.0, 3.0, 10.0, -5.0, 7.0];
        let value = |map: &AxisMap, voxel: usize| {
            let fraction = f64::from(map.fraction[voxel]);
            line[map.low[voxel] as usize] * (1.0 - fraction)
                + line[map.high[voxel] as usize] * fraction
        };
        let expected = [0.0, 0.55, 1.25, 1.95, 2.65, 5.45, 9.25, -1.25, 0.4, 7.0];
        let map = AxisMap::linear(7, 10);
        for (voxel, expected) in expected.into_iter().enumerate() {
            assert!((value(&map, voxel) - expected).abs() < 1e-6);
        }
        let map = AxisMap::linear(7, 4);
        for (voxel, expected) in [0.375, 2.125, 9.125, 2.5].into_iter().enumerate() {
            assert!((value(&map, voxel) - expected).abs() < 1e-6);
        }
        assert_eq!(AxisMap::linear(5, 5), AxisMap::nearest(5, 5));
        assert_eq!(AxisMap::nearest(7, 14).low[..4], [0, 0, 1, 1]);
        assert_eq!(AxisMap::nearest(14, 7).low[..4], [1, 3, 5, 7]);
    }

    #[test]
    fn shapes_divide_first_and_round_half_to_even() {
        let shape = |from: f64, to: f64, voxels: usize| {
            new_shape([voxels, 1, 1], [from, 1.0, 1.0], [to, 1.0, 1.0]).unwrap()[0]
        };
        assert_eq!(shape(1.0, 2.0, 5), 2);
        assert_eq!(shape(1.0, 2.0, 7), 4);
        assert_eq!(shape(0.7, 1.5, 300), 140);
        assert_eq!(shape(5.0, 1.5, 41), 137);
        assert_eq!(shape(0.1, 5.0, 1), 1);
        let error = new_shape([512; 3], [1000.0; 3], [0.001; 3]).unwrap_err().to_string();
        assert!(error.contains("is the spacing right?"), "{error}");
    }
}
