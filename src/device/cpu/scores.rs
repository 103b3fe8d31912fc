//! Kernels of the mosaic: adding tiles, scoring voxels, finding the highest class.

use super::memory::BLOCK;
use super::simd::Simd;

/// A row of a tile to add to the mosaic.
pub(super) struct BlendRow {
    /// First voxel's first block of channels.
    pub(super) from: *const f32,
    /// Values from one voxel to the next; negative if mirrored.
    pub(super) from_step: isize,
    /// Values from one block of 16 channels to the next.
    pub(super) from_block: usize,
    pub(super) blocks: usize,
    /// The mosaic's first voxel.
    pub(super) to: *mut f32,
    /// Values from one voxel to the next.
    pub(super) to_step: usize,
    /// Weight of each voxel.
    pub(super) window: *const f32,
    pub(super) count: usize,
}

/// `to += window * from`.
///
/// # Safety
/// The processor has `S`; every pointer is valid for what its comment says.
#[inline(always)]
pub(super) unsafe fn blend_row<S: Simd>(row: &BlendRow) {
    // SAFETY: as the caller promises.
    unsafe {
        for x in 0..row.count {
            let weight = S::splat(*row.window.add(x));
            let from = row.from.offset(x as isize * row.from_step);
            let to = row.to.add(x * row.to_step);
            for block in 0..row.blocks {
                for lane in (0..BLOCK).step_by(S::LANES) {
                    let value = S::load(from.add(block * row.from_block + lane));
                    let place = to.add(block * BLOCK + lane);
                    S::store(place, S::multiply_add(weight, value, S::load(place)));
                }
            }
        }
    }
}

/// Voxels whose values are added up, each with its weight: the corners of a cell.
pub(super) struct Mix {
    /// First values of as many voxels as `count`.
    pub(super) from: [*const f32; 8],
    pub(super) weights: [f32; 8],
    pub(super) count: usize,
    pub(super) to: *mut f32,
    /// Values of a voxel, a multiple of 16.
    pub(super) depth: usize,
}

/// `to = sum of weight * from`, rounded after each product and each sum, so that all instruction
/// sets agree.
///
/// # Safety
/// As for [`blend_row`].
#[inline(always)]
pub(super) unsafe fn mix<S: Simd>(mix: &Mix) {
    // SAFETY: as the caller promises.
    unsafe {
        for lane in (0..mix.depth).step_by(S::LANES) {
            let mut sum = S::splat(0.0);
            for corner in 0..mix.count {
                let weight = S::splat(mix.weights[corner]);
                sum = S::add(sum, S::mul(weight, S::load(mix.from[corner].add(lane))));
            }
            S::store(mix.to.add(lane), sum);
        }
    }
}

/// Voxels to score.
pub(super) struct ScoreRow {
    /// `[voxel][features]`
    pub(super) features: *const f32,
    pub(super) feature_count: usize,
    pub(super) voxels: usize,
    /// `[feature][padded classes]`
    pub(super) weights: *const f32,
    /// `[padded classes]`; minus infinity where there is no class.
    pub(super) bias: *const f32,
    /// A multiple of 16.
    pub(super) padded_classes: usize,
    /// `[voxel][padded classes]`
    pub(super) scores: *mut f32,
}

/// `scores = weights * features + bias`.
///
/// # Safety
/// As for [`blend_row`].
#[inline(always)]
pub(super) unsafe fn score_row<S: Simd>(row: &ScoreRow) {
    const VOXELS: usize = 4;
    let whole = row.voxels / VOXELS * VOXELS;
    // SAFETY: as the caller promises.
    unsafe {
        for voxel in (0..whole).step_by(VOXELS) {
            score_voxels::<S, VOXELS>(row, voxel);
        }
        for voxel in whole..row.voxels {
            score_voxels::<S, 1>(row, voxel);
        }
    }
}

#[inline(always)]
unsafe fn score_voxels<S: Simd, const M: usize>(row: &ScoreRow, first: usize) {
    // SAFETY: as the caller of `score_row` promises.
    unsafe {
        let features = row.features.add(first * row.feature_count);
        let scores = row.scores.add(first * row.padded_classes);
        for class in (0..row.padded_classes).step_by(S::LANES) {
            let mut sums = [S::load(row.bias.add(class)); M];
            for feature in 0..row.feature_count {
                let weight = S::load(row.weights.add(feature * row.padded_classes + class));
                for (voxel, sum) in sums.iter_mut().enumerate() {
                    let value = S::splat(*features.add(voxel * row.feature_count + feature));
                    *sum = S::multiply_add(value, weight, *sum);
                }
            }
            for (voxel, sum) in sums.into_iter().enumerate() {
                S::store(scores.add(voxel * row.padded_classes + class), sum);
            }
        }
    }
}

/// Scores to compare.
pub(super) struct ArgmaxRow {
    /// `[voxel][padded classes]`
    pub(super) scores: *const f32,
    pub(super) padded_classes: usize,
    pub(super) voxels: usize,
    /// `[voxel]`
    pub(super) classes: *mut u16,
}

/// The lowest class with the highest score, for each voxel. False if a highest score is not
/// finite.
///
/// # Safety
/// As for [`blend_row`].
#[inline(always)]
pub(super) unsafe fn argmax_row<S: Simd>(row: &ArgmaxRow) -> bool {
    let mut finite = true;
    // SAFETY: as the caller promises.
    unsafe {
        let mut own_lanes = [0.0; BLOCK];
        for (lane, value) in own_lanes.iter_mut().enumerate() {
            *value = lane as f32;
        }
        let own_lanes = S::load(own_lanes.as_ptr());
        for voxel in 0..row.voxels {
            let scores = row.scores.add(voxel * row.padded_classes);
            let mut best = S::load(scores);
            let mut best_class = own_lanes;
            for class in (S::LANES..row.padded_classes).step_by(S::LANES) {
                let score = S::load(scores.add(class));
                let candidate = S::add(own_lanes, S::splat(class as f32));
                best_class = S::where_greater(score, best, candidate, best_class);
                best = S::where_greater(score, best, score, best);
            }
            let mut values = [f32::NEG_INFINITY; BLOCK];
            let mut indices = [0.0; BLOCK];
            S::store(values.as_mut_ptr(), best);
            S::store(indices.as_mut_ptr(), best_class);
            let highest = folded(values, |a, b| if b > a { b } else { a });
            for (index, value) in indices.iter_mut().zip(values) {
                *index = if value == highest { *index } else { f32::INFINITY };
            }
            finite &= highest.is_finite();
            *row.classes.add(voxel) = folded(indices, |a, b| if b < a { b } else { a }) as u16;
        }
    }
    finite
}

/// Folds lanes in halves, which vectorises.
#[inline(always)]
fn folded(mut lanes: [f32; BLOCK], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = BLOCK / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = fold(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Turns each voxel's scores, `[voxel][padded classes]`, into probabilities.
///
/// # Safety
/// `scores` is valid for `voxels` times `padded_classes` values.
#[inline(always)]
pub(super) unsafe fn softmax_row<S: Simd>(scores: *mut f32, voxels: usize, padded_classes: usize) {
    for voxel in 0..voxels {
        // SAFETY: as the caller promises; the pointer is the slice's only use here.
        let scores = unsafe {
            std::slice::from_raw_parts_mut(scores.add(voxel * padded_classes), padded_classes)
        };
        // Lane by lane, so that nothing waits for the value before.
        let mut most = [f32::NEG_INFINITY; BLOCK];
        for block in scores.chunks_exact(BLOCK) {
            for (score, most) in block.iter().zip(&mut most) {
                *most = if *score > *most { *score } else { *most };
            }
        }
        let highest = folded(most, |a, b| if b > a { b } else { a });
        let mut sums = [0.0; BLOCK];
        for block in scores.chunks_exact_mut(BLOCK) {
            for (score, sum) in block.iter_mut().zip(&mut sums) {
                *score = exponential(*score - highest);
                *sum += *score;
            }
        }
        let share = 1.0 / folded(sums, |a, b| a + b);
        scores.iter_mut().for_each(|score| *score *= share);
    }
}

/// Turns scores of regions into probabilities, each on its own.
pub(super) fn sigmoid(scores: &mut [f32]) {
    for score in scores {
        let small = exponential(-score.abs());
        *score = if *score < 0.0 { small } else { 1.0 } / (1.0 + small);
    }
}

/// 1 plus the last row whose score is above `threshold`, or 0, for each voxel of
/// `[voxel][padded rows]`. False if a score is not finite.
pub(super) fn last_above(
    scores: &[f32],
    rows: usize,
    padded_rows: usize,
    threshold: f32,
    classes: &mut [u16],
) -> bool {
    let mut finite = true;
    for (scores, class) in scores.chunks_exact(padded_rows).zip(classes) {
        let scores = &scores[..rows];
        finite &= scores.iter().all(|score| score.is_finite());
        *class =
            scores.iter().rposition(|&score| score > threshold).map_or(0, |row| row as u16 + 1);
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
    let x = x.max(-87.0);
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
        let scores = [1.0, -1.0, 0.5, f32::NEG_INFINITY, -1.0, 0.0, -0.5, 9.0];
        let mut classes = [9; 2];
        assert!(last_above(&scores, 3, 4, 0.0, &mut classes));
        assert_eq!(classes, [3, 0]);
        let mut probabilities = scores;
        sigmoid(&mut probabilities);
        assert!((probabilities[0] - 0.731_058_6).abs() < 1e-6);
        assert!((probabilities[1] - 0.268_941_4).abs() < 1e-6);
        assert_eq!(probabilities[5], 0.5);
        assert!(last_above(&probabilities, 3, 4, 0.5, &mut classes));
        assert_eq!(classes, [3, 0]);
        assert!(!last_above(&[f32::NAN, 1.0], 2, 2, 0.0, &mut classes[..1]));
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
