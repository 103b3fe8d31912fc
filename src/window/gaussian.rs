//! How much each voxel of a tile weighs.

use half::f16;

use crate::base::Result;
use crate::base::error::{filled, reserved};
use crate::volume::Generation;

/// nnU-Net's importance map of a patch, `[patch0][patch1][patch2]`: a Gaussian with centre
/// `floor(patch / 2)` and standard deviation `patch / 8`; zeros become the smallest other weight.
/// nnU-Net v2.3 and later scales it to a maximum of 10 and rounds it to half precision; v1 keeps
/// single precision, and weighs all voxels alike where there is only one tile.
///
/// # Errors
/// [`crate::Error::Memory`] if the machine has no room for it.
pub fn weights(patch: [usize; 3], generation: Generation, tiles: usize) -> Result<Vec<f32>> {
    if generation == Generation::V1 && tiles == 1 {
        return filled("weights of a tile", patch.iter().product(), 1.0);
    }
    let lines = patch.map(|length| -> Vec<f64> {
        let (centre, deviation) = ((length / 2) as f64, length as f64 / 8.0);
        (0..length)
            .map(|voxel| (-0.5 * ((voxel as f64 - centre) / deviation).powi(2)).exp())
            .collect()
    });
    let rounded = |weight: f64| match generation {
        Generation::V1 => weight as f32,
        Generation::V2 => f16::from_f64(weight * 10.0).to_f32(),
    };
    let mut weights = reserved("weights of a tile", patch.iter().product())?;
    for a in &lines[0] {
        for b in &lines[1] {
            for c in &lines[2] {
                weights.push(rounded(a * b * c));
            }
        }
    }
    let smallest = weights.iter().copied().filter(|&w| w > 0.0).fold(f32::INFINITY, f32::min);
    weights.iter_mut().filter(|weight| **weight == 0.0).for_each(|weight| *weight = smallest);
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_nnu_net() {
        let weights = weights([8; 3], Generation::V2, 1).unwrap();
        let centre_line =
            [0.003_355, 0.111_084, 1.353_515_6, 6.066_406, 10.0, 6.066_406, 1.353_515_6, 0.111_084];
        for (x, expected) in centre_line.iter().enumerate() {
            assert!((weights[(4 * 8 + 4) * 8 + x] - expected).abs() < 1e-6);
        }
        // The corner's own weight, 3.8e-10, is zero in half precision.
        assert!((weights[0] - 1.788e-7).abs() < 1e-9);
    }

    #[test]
    fn one_voxel_weighs_something() {
        assert_eq!(weights([1, 1, 1], Generation::V2, 1).unwrap(), [10.0]);
        for generation in [Generation::V1, Generation::V2] {
            let weights = weights([1, 2, 64], generation, 2).unwrap();
            assert!(weights.iter().all(|&weight| weight > 0.0));
        }
    }

    #[test]
    fn a_single_tile_of_the_first_generation_weighs_the_same_everywhere() {
        assert_eq!(weights([1, 2, 3], Generation::V1, 1).unwrap(), [1.0; 6]);
        let weights = weights([1, 1, 8], Generation::V1, 2).unwrap();
        assert_eq!((weights[4], weights[5]), (1.0, (-0.5f64).exp() as f32));
    }
}
