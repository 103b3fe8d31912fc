//! Where tiles begin.

use crate::base::{Error, Result};

/// More tiles than any volume that fits a machine has; keeps absurd requests from allocating.
const MOST_TILES: usize = 1 << 24;

/// One tile: a patch at a place of the padded volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// First voxel along each axis, in the padded volume.
    pub start: [usize; 3],
}

/// How many tiles cover `length` voxels, `length >= patch`, and the distance of their starts.
/// A patch of one voxel is a plane of a 2D network: each plane is one tile.
fn cut(length: usize, patch: usize, step: f64) -> (usize, f64) {
    let step = if patch == 1 { 1.0 } else { step };
    let rest = (length - patch) as f64;
    let steps = (rest / (patch as f64 * step)).ceil();
    // A count beyond usize saturates and is refused by `tile_count`.
    ((steps as usize).saturating_add(1), rest / steps.max(1.0))
}

/// First voxels of the tiles along one axis: as few tiles as steps of at most `patch * step`
/// allow, spread evenly, rounded half to even (nnU-Net's `compute_steps_for_sliding_window`).
pub fn tile_starts(length: usize, patch: usize, step: f64) -> Vec<usize> {
    let (count, distance) = cut(length.max(patch), patch, step);
    (0..count).map(|index| (distance * index as f64).round_ties_even() as usize).collect()
}

/// How many tiles a volume has.
///
/// # Errors
/// [`Error::Argument`] if `step` is not in (0, 1], or there are more tiles than can be meant.
pub fn tile_count(shape: [usize; 3], patch: [usize; 3], step: f64) -> Result<usize> {
    if !(step > 0.0 && step <= 1.0) {
        return Err(Error::argument(format!("tile step: found {step}, expected 0 < step <= 1")));
    }
    (0..3)
        .try_fold(1usize, |tiles, axis| {
            let (count, _) = cut(shape[axis].max(patch[axis]), patch[axis], step);
            tiles.checked_mul(count).filter(|&tiles| tiles <= MOST_TILES)
        })
        .ok_or_else(|| {
            Error::argument(format!(
                "a volume of {shape:?} voxels has more than {MOST_TILES} tiles of {patch:?} \
                 voxels at a step of {step}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn starts_are_those_of_nnu_net() {
        assert_eq!(tile_starts(110, 64, 0.5), [0, 23, 46]);
        assert_eq!(tile_starts(200, 64, 0.5), [0, 27, 54, 82, 109, 136]);
        assert_eq!(tile_starts(193, 128, 0.5), [0, 32, 65]);
        assert_eq!(tile_starts(333, 128, 0.8), [0, 68, 137, 205]);
        assert_eq!(tile_starts(64, 64, 0.5), [0]);
        assert_eq!(tile_starts(10, 64, 0.5), [0]);
        assert_eq!(tile_starts(4, 1, 0.5), [0, 1, 2, 3]);
    }

    #[test]
    fn absurd_requests_are_refused() {
        for step in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            let error = tile_count([64; 3], [64; 3], step).unwrap_err().to_string();
            assert!(error.contains("expected 0 < step <= 1"), "{error}");
        }
        let error = tile_count([1 << 40, 64, 64], [64; 3], 1e-9).unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
    }

    proptest! {
        #[test]
        fn tiles_cover_the_axis_in_steps_that_are_small_enough(
            length in 1usize..600, patch in 1usize..130, step in 0.05f64..=1.0
        ) {
            let starts = tile_starts(length, patch, step);
            let padded = length.max(patch);
            prop_assert_eq!(starts[0], 0);
            prop_assert_eq!(starts[starts.len() - 1] + patch, padded);
            for pair in starts.windows(2) {
                prop_assert!(pair[0] <= pair[1]);
                prop_assert!((pair[1] - pair[0]) as f64 <= patch as f64 * step + 1.0);
                prop_assert!(pair[1] <= pair[0] + patch);
            }
            prop_assert_eq!(
                tile_count([length; 3], [patch; 3], step).ok(),
                Some(starts.len().pow(3)).filter(|&count| count <= MOST_TILES)
            );
        }
    }
}
