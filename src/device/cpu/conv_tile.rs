//! The inner kernel of a convolution: a few voxels of a row times 16 or 32 output channels.
//!
//! The sums stay in registers over all input channels and taps of a segment. Each input value is
//! broadcast and multiplied with one vector of weights per output vector.

use super::memory::{BLOCK, Place};
use super::simd::Simd;
use super::statistics::{Running, WIDTH};
use super::value::{Factor, Value};

/// What one call computes; the pointers are those of the tile's first voxel.
pub(super) struct Tile {
    /// Input brick at tap 0 of the segment's first chunk; voxels are [`BLOCK`] values apart.
    pub(super) brick: Place,
    /// Values between one chunk of up to 16 channels and the next.
    pub(super) chunk_stride: usize,
    /// Channels used of each chunk of the segment.
    pub(super) chunk_channels: *const usize,
    pub(super) chunks: usize,
    /// Values from tap 0 to each tap.
    pub(super) taps: *const usize,
    pub(super) tap_count: usize,
    /// `[chunk][tap][channel][output channels of the tile]`; where a multiplication takes two
    /// channels of the brick, `[chunk][tap][channel / 2][output channels of the tile][channel % 2]`
    /// in half the bits.
    pub(super) weights: *const f32,
    /// What the sums start from, one value for each output channel; used by the first segment.
    pub(super) bias: *const f32,
    /// Sums between segments, `[voxel][output channel]`.
    pub(super) sums: *mut f32,
    pub(super) first: bool,
    pub(super) last: bool,
    /// Where results go: the tile's first voxel in the first block of output channels.
    pub(super) output: Place,
    /// Values from one voxel to the next there.
    pub(super) output_step: usize,
    /// Values between one block of 16 output channels and the next.
    pub(super) block_stride: usize,
    pub(super) epilogue: TileEpilogue,
}

/// What happens to the sums of the last segment.
#[derive(Clone, Copy)]
pub(super) enum TileEpilogue {
    Store,
    /// Store, and add to the running statistics.
    Statistics(*mut Running),
    /// Store `leaky((main - mean) * scale + shift + sum)`.
    AddNormalized {
        /// At the tile's first voxel, laid out as the output.
        main: Place,
        /// Of the tile's output channels.
        mean: *const f32,
        scale: *const f32,
        shift: *const f32,
        slope: f32,
    },
}

/// Computes `M` voxels of a row, whose input voxels are `STEP` values apart, for `V` vectors of
/// output channels; the tensors' values are of type `T`, the brick's of `B`.
///
/// # Safety
/// The processor has `S`; every pointer of `tile` is valid for what its comment says, and nobody
/// else writes there.
#[inline(always)]
pub(super) unsafe fn compute<
    S: Simd,
    T: Value,
    B: Factor<S>,
    const M: usize,
    const V: usize,
    const STEP: usize,
>(
    tile: &Tile,
) {
    let width = V * S::LANES;
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; M];
        for (voxel, row) in sums.iter_mut().enumerate() {
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = if tile.first {
                    S::load(tile.bias.add(v * S::LANES))
                } else {
                    S::load(tile.sums.add(voxel * width + v * S::LANES))
                };
            }
        }
        let mut weights = tile.weights;
        for chunk in 0..tile.chunks {
            let channels = *tile.chunk_channels.add(chunk);
            let brick = tile.brick.values::<B>().add(chunk * tile.chunk_stride);
            for tap in 0..tile.tap_count {
                let input = brick.add(*tile.taps.add(tap));
                for channel in (0..channels).step_by(B::CHANNELS) {
                    let mut factors = [S::splat(0.0); V];
                    for (v, factor) in factors.iter_mut().enumerate() {
                        *factor = S::load(weights.add(v * S::LANES));
                    }
                    for (voxel, row) in sums.iter_mut().enumerate() {
                        let value = B::splat(input.add(voxel * STEP + channel));
                        for (sum, factor) in row.iter_mut().zip(factors) {
                            *sum = B::multiply_add(value, factor, *sum);
                        }
                    }
                    weights = weights.add(width);
                }
            }
        }
        if tile.last {
            // Of a copy: where rounding is too long for its loops to be unrolled, sums are indexed,
            // and then none of them would stay in a register above.
            let mut kept = [[S::splat(0.0); V]; M];
            for (kept, row) in kept.iter_mut().zip(&sums) {
                for (kept, sum) in kept.iter_mut().zip(row) {
                    *kept = *sum;
                }
            }
            finish::<S, T, M, V>(tile, &kept);
        } else {
            for (voxel, row) in sums.iter().enumerate() {
                for (v, sum) in row.iter().enumerate() {
                    S::store(tile.sums.add(voxel * width + v * S::LANES), *sum);
                }
            }
        }
    }
}

/// Values from the tile's output pointer to vector `v` of `voxel`.
#[inline(always)]
fn place<S: Simd>(tile: &Tile, voxel: usize, v: usize) -> usize {
    let channel = v * S::LANES;
    channel / BLOCK * tile.block_stride + voxel * tile.output_step + channel % BLOCK
}

#[inline(always)]
unsafe fn finish<S: Simd, T: Value, const M: usize, const V: usize>(
    tile: &Tile,
    sums: &[[S::Vector; V]; M],
) {
    // SAFETY: as the caller of `compute` promises.
    unsafe {
        let output = tile.output.values::<T>();
        if let TileEpilogue::AddNormalized { main, mean, scale, shift, slope } = tile.epilogue {
            let slope = S::splat(slope);
            for v in 0..V {
                let channel = v * S::LANES;
                let mean = S::load(mean.add(channel));
                let scale = S::load(scale.add(channel));
                let shift = S::load(shift.add(channel));
                for (voxel, row) in sums.iter().enumerate() {
                    let at = place::<S>(tile, voxel, v);
                    let centred = S::sub(T::load::<S>(main.values::<T>().add(at)), mean);
                    let sum = S::add(S::multiply_add(centred, scale, shift), row[v]);
                    T::store::<S>(output.add(at), S::max(sum, S::mul(sum, slope)));
                }
            }
            return;
        }
        for (voxel, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                T::store::<S>(output.add(place::<S>(tile, voxel, v)), *sum);
            }
        }
        if let TileEpilogue::Statistics(running) = tile.epilogue {
            let mut means = [0.0; WIDTH];
            let mut deviations = [0.0; WIDTH];
            let share = S::splat(1.0 / M as f32);
            for v in 0..V {
                let mut total = sums[0][v];
                for row in &sums[1..] {
                    total = S::add(total, row[v]);
                }
                let mean = S::mul(total, share);
                let mut squares = S::splat(0.0);
                for row in sums {
                    let difference = S::sub(row[v], mean);
                    squares = S::multiply_add(difference, difference, squares);
                }
                S::store(means.as_mut_ptr().add(v * S::LANES), mean);
                S::store(deviations.as_mut_ptr().add(v * S::LANES), squares);
            }
            (*running).merge(M as f64, &means, &deviations);
        }
    }
}
