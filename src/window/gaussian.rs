//! How much each voxel of a tile weighs.

use half::f16;

use crate::base::Result;
use crate::base::error::reserved;

/// nnU-Net's Gaussian importance map of a patch, `[patch0][patch1][patch2]`: centre
/// `floor(patch / 2)`, standard deviation `patch / 8`, scaled to a maximum of 10 and rounded to
/// half precision as nnU-Net v2.3 and later keep it; zeros become the smallest other weight.
///
/// # Errors
/// [`crate::Error::Memory`] if the machine has no room for it.
pub fn gaussian(patch: [usize; 3]) -> Result<Vec<f32>> {
    let lines = patch.map(|length| -> Vec<f64> {
        let (centre, deviation) = ((length / 2) as f64, length as f64 / 8.0);
        (0..length)
            .map(|voxel| (-0.5 * ((voxel as f64 - centre) / deviation).powi(2)).exp())
            .collect()
    });
    let mut weights = reserved("Gaussian weights", patch.iter().product())?;
    for a in &lines[0] {
        for b in &lines[1] {
            for c in &lines[2] {
                weights.push(f16::from_f64(a * b * c * 10.0).to_f32());
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
        let weights = gaussian([8; 3]).unwrap();
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
        assert_eq!(gaussian([1, 1, 1]).unwrap(), [10.0]);
        assert!(gaussian([1, 2, 64]).unwrap().iter().all(|&weight| weight > 0.0));
    }
}
