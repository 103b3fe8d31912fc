//! Kernels of the mosaic: adding tiles, scoring voxels, finding the highest class.

use super::memory::{BLOCK, Place};
use super::simd::Simd;
use super::value::Value;

/// A row of a tile to add to the mosaic.
pub(super) struct BlendRow {
    /// First voxel's first block of channels.
    pub(super) from: Place,
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

/// `to += window * from`, of type `T`.
///
/// # Safety
/// The processor has `S`; every pointer is valid for what its comment says.
#[inline(always)]
pub(super) unsafe fn blend_row<S: Simd, T: Value>(row: &BlendRow) {
    // SAFETY: as the caller promises.
    unsafe {
        for x in 0..row.count {
            let weight = S::splat(*row.window.add(x));
            let from = row.from.values::<T>().offset(x as isize * row.from_step);
            let to = row.to.add(x * row.to_step);
            for block in 0..row.blocks {
                for lane in (0..BLOCK).step_by(S::LANES) {
                    let value = T::load::<S>(from.add(block * row.from_block + lane));
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

/// Voxels that are scored at a time. Their values lie side by side, `[value][voxel]`, so that a
/// vector holds one value of many voxels and classes are compared without crossing lanes.
pub(super) const VOXELS: usize = 2 * BLOCK;

/// One value, such as the score of one class, of [`VOXELS`] voxels.
pub(super) type Side = [f32; VOXELS];

/// A matrix to transpose: `to[column][row] = from[row][column]`.
pub(super) struct Transpose {
    pub(super) from: *const f32,
    /// Values from one row to the next.
    pub(super) from_step: usize,
    pub(super) to: *mut f32,
    /// Values from one column to the next.
    pub(super) to_step: usize,
    /// A multiple of 16.
    pub(super) rows: usize,
    /// A multiple of 16.
    pub(super) columns: usize,
}

/// # Safety
/// As for [`blend_row`].
#[inline(always)]
pub(super) unsafe fn transpose<S: Simd>(matrix: &Transpose) {
    let &Transpose { from, from_step, to, to_step, rows, columns } = matrix;
    // SAFETY: as the caller promises.
    unsafe {
        for row in (0..rows).step_by(S::LANES) {
            for column in (0..columns).step_by(S::LANES) {
                let from = from.add(row * from_step + column);
                S::transpose(from, from_step, to.add(column * to_step + row), to_step);
            }
        }
    }
}

/// Voxels to score.
pub(super) struct Scored {
    /// `[feature][`[`VOXELS`]`]`
    pub(super) features: *const f32,
    pub(super) feature_count: usize,
    /// `[feature][padded classes]`
    pub(super) weights: *const f32,
    /// `[padded classes]`
    pub(super) bias: *const f32,
    pub(super) classes: usize,
    /// A multiple of 16.
    pub(super) padded_classes: usize,
    /// `[padded class][`[`VOXELS`]`]`; what is beyond the classes means nothing.
    pub(super) scores: *mut f32,
}

/// `scores = weights * features + bias`, `CLASSES` at a time, a divisor of 16.
///
/// # Safety
/// As for [`blend_row`].
#[inline(always)]
pub(super) unsafe fn score<S: Simd, const CLASSES: usize>(scored: &Scored) {
    // SAFETY: as the caller promises; `CLASSES` divides the padded classes.
    unsafe {
        for lane in (0..VOXELS).step_by(2 * S::LANES) {
            for class in (0..scored.classes).step_by(CLASSES) {
                let bias = scored.bias.add(class);
                let mut sums: [_; CLASSES] = std::array::from_fn(|n| [S::splat(*bias.add(n)); 2]);
                for feature in 0..scored.feature_count {
                    let values = scored.features.add(feature * VOXELS + lane);
                    let values = [S::load(values), S::load(values.add(S::LANES))];
                    let weights = scored.weights.add(feature * scored.padded_classes + class);
                    for (n, sums) in sums.iter_mut().enumerate() {
                        let weight = S::splat(*weights.add(n));
                        for (value, sum) in values.iter().zip(sums) {
                            *sum = S::multiply_add(*value, weight, *sum);
                        }
                    }
                }
                for (n, sums) in sums.into_iter().enumerate() {
                    let scores = scored.scores.add((class + n) * VOXELS + lane);
                    S::store(scores, sums[0]);
                    S::store(scores.add(S::LANES), sums[1]);
                }
            }
        }
    }
}

/// The lowest class with the highest score, for each voxel. False if a score is infinite or no
/// number; minus infinity keeps a class out.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(super) unsafe fn highest<S: Simd>(scores: &[Side], classes: &mut [u16; VOXELS]) -> bool {
    let mut best_scores = [0.0; VOXELS];
    let mut best_classes = [0.0; VOXELS];
    let mut beyond = [0.0; VOXELS];
    for lane in (0..VOXELS).step_by(2 * S::LANES) {
        let lanes = [lane, lane + S::LANES];
        // SAFETY: the processor has `S`, and `lanes` are within the arrays.
        unsafe {
            let (infinity, one) = (S::splat(f32::INFINITY), S::splat(1.0));
            let mut best = [S::splat(f32::NEG_INFINITY); 2];
            let [mut best_class, mut odd] = [[S::splat(0.0); 2]; 2];
            for (class, scores) in scores.iter().enumerate() {
                let class = S::splat(class as f32);
                for (n, lane) in lanes.into_iter().enumerate() {
                    let score = S::load(scores.as_ptr().add(lane));
                    odd[n] = S::where_greater(infinity, score, odd[n], one);
                    best_class[n] = S::where_greater(score, best[n], class, best_class[n]);
                    // Sooner there than what a comparison would choose.
                    best[n] = S::max(score, best[n]);
                }
            }
            for (n, lane) in lanes.into_iter().enumerate() {
                S::store(best_scores.as_mut_ptr().add(lane), best[n]);
                S::store(best_classes.as_mut_ptr().add(lane), best_class[n]);
                S::store(beyond.as_mut_ptr().add(lane), odd[n]);
            }
        }
    }
    for (class, best) in classes.iter_mut().zip(best_classes) {
        *class = best as u16;
    }
    best_scores.iter().all(|score| score.is_finite()) && beyond == [0.0; VOXELS]
}
