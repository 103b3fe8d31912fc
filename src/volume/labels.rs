//! Label maps between grids: nnU-Net's `resize_segmentation`.

use super::{AxisMap, Generation};
use crate::base::Result;
use crate::base::error::reserved;

/// Resamples labels, `[shape0][shape1][shape2]`, along `maps`. With linear maps each label's
/// indicator is interpolated, and the label with the largest share wins: of equal ones the
/// nearest voxel's, else the lowest (batchgenerators 0.25.4 and later). With [`Generation::V1`]
/// a label needs a share of at least a half, and of two that have it the higher wins (up to
/// 0.25.3); where none has it there is 0.
///
/// # Errors
/// [`crate::Error::Memory`] if the machine has no room for it.
pub fn resample_labels(
    labels: &[u16],
    shape: [usize; 3],
    maps: &[AxisMap; 3],
    generation: Generation,
) -> Result<Vec<u16>> {
    let target = maps.each_ref().map(|map| map.low.len());
    let mut result = reserved("resampled labels", target.iter().product())?;
    let ends = |axis: usize, at: usize| {
        let (map, fraction) = (&maps[axis], f64::from(maps[axis].fraction[at]));
        [(map.low[at] as usize, 1.0 - fraction), (map.high[at] as usize, fraction)]
    };
    for a in 0..target[0] {
        for b in 0..target[1] {
            for c in 0..target[2] {
                let (ends0, ends1, ends2) = (ends(0, a), ends(1, b), ends(2, c));
                // Shares of the labels at the corners, by label; and the nearest corner's label.
                let mut shares = [(0u16, 0.0f64); 8];
                let (mut count, mut nearest) = (0, (f64::MIN, 0));
                for (i, weight0) in ends0 {
                    for (j, weight1) in ends1 {
                        for (k, weight2) in ends2 {
                            let label = labels[(i * shape[1] + j) * shape[2] + k];
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
                result.push(decide(&mut shares[..count], nearest.1, generation));
            }
        }
    }
    Ok(result)
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
        resample_labels(labels, [1, 1, labels.len()], &maps, generation).unwrap()
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
