//! From scores to probabilities, and classes of regions. Values lie `[class][voxel]`.

use super::scores::{Side, VOXELS};

/// Turns each voxel's scores into probabilities; they are no numbers if a score is infinite or no
/// number.
#[inline(always)]
pub(super) fn softmax(scores: &mut [Side]) {
    let mut most = [f32::NEG_INFINITY; VOXELS];
    for scores in &*scores {
        for (score, most) in scores.iter().zip(&mut most) {
            *most = if *score > *most { *score } else { *most };
        }
    }
    let mut sums = [0.0; VOXELS];
    for scores in &mut *scores {
        for ((score, most), sum) in scores.iter_mut().zip(&most).zip(&mut sums) {
            *score = exponential(*score - most);
            *sum += *score;
        }
    }
    let shares = sums.map(|sum| 1.0 / sum);
    for scores in scores {
        scores.iter_mut().zip(&shares).for_each(|(score, share)| *score *= share);
    }
}

/// Turns scores of regions into probabilities, each on its own.
#[inline(always)]
pub(super) fn sigmoid(scores: &mut [Side]) {
    for score in scores.as_flattened_mut() {
        let small = exponential(-score.abs());
        *score = if *score < 0.0 { small } else { 1.0 } / (1.0 + small);
    }
}

/// 1 plus the last row whose score is above `threshold`, or 0, for each voxel. False if a score is
/// not finite.
#[inline(always)]
pub(super) fn last_above(scores: &[Side], threshold: f32, classes: &mut [u16; VOXELS]) -> bool {
    let mut finite = true;
    *classes = [0; VOXELS];
    for (scores, class) in scores.iter().zip(1..) {
        for (score, last) in scores.iter().zip(&mut *classes) {
            finite &= score.is_finite();
            *last = if *score > threshold { class } else { *last };
        }
    }
    finite
}

/// `e^x` for `x <= 0` to about 2 units in the last place, in arithmetic that vectorises: `x` is
/// split into a whole number of ln 2 and a rest, and the rest goes through Taylor's series.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with trailing zeros so that products with it are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // What is no number stays so, and is found where classes are compared.
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let rest = (x - whole * LN2_HIGH) - whole * LN2_LOW;
    let series = 1.0
        + rest
            * (1.0
                + rest
                    * (0.5
                        + rest
                            * (1.0 / 6.0
                                + rest * (1.0 / 24.0 + rest * (1.0 / 120.0 + rest / 720.0)))));
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    series * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_found_by_the_last_that_is_positive() {
        let of = |first: f32, second: f32| {
            let mut voxels = [second; VOXELS];
            voxels[0] = first;
            voxels
        };
        let scores = [of(1.0, -1.0), of(-1.0, 0.0), of(0.5, -0.5)];
        let mut classes = [9; VOXELS];
        assert!(last_above(&scores, 0.0, &mut classes));
        assert_eq!(classes[..2], [3, 0]);
        let mut probabilities = scores;
        sigmoid(&mut probabilities);
        assert!((probabilities[0][0] - 0.731_058_6).abs() < 1e-6);
        assert!((probabilities[1][0] - 0.268_941_4).abs() < 1e-6);
        assert_eq!(probabilities[1][1], 0.5);
        assert!(last_above(&probabilities, 0.5, &mut classes));
        assert_eq!(classes[..2], [3, 0]);
        assert!(!last_above(&[of(f32::NAN, 1.0), of(1.0, 1.0)], 0.5, &mut classes));
    }

    #[test]
    fn probabilities_of_classes_add_up_to_one() {
        let mut scores: Vec<Side> =
            (0..5).map(|class| std::array::from_fn(|n| (class * n) as f32 - 40.0)).collect();
        softmax(&mut scores);
        for voxel in 0..VOXELS {
            let weights: Vec<f64> = (0..5).map(|class| ((class * voxel) as f64).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (scores, weight) in scores.iter().zip(weights) {
                assert!((f64::from(scores[voxel]) - weight / sum).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn exponential_is_close_to_the_library_s() {
        for step in 0..87_000 {
            let x = -(step as f32) * 1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(exponential(x)) / exact - 1.0).abs() < 4e-7, "at {x}");
        }
        assert!(exponential(f32::NEG_INFINITY) < 1e-37);
    }
}
