//! The direct sum of 8-bit integers: a few voxels of a row times 16 or 32 output channels, and
//! what happens to a whole row of sums.

use super::conv_tile::TileEpilogue;
use super::memory::{BLOCK, Place};
use super::simd::Simd;
use super::statistics::WIDTH;
use super::value::Value;

/// Input channels that one multiplication takes.
pub(super) const QUAD: usize = 4;

/// What one call computes. Voxels beyond the row's last may be computed along; nobody reads them.
pub(super) struct IntegerTile {
    /// Input brick at tap 0 of the tile's first voxel in the segment's first chunk; voxels are
    /// [`BLOCK`] bytes apart.
    pub(super) brick: *const u8,
    /// Bytes between one chunk of up to 16 channels and the next.
    pub(super) chunk_stride: usize,
    /// Channels used of each chunk of the segment.
    pub(super) chunk_channels: *const usize,
    pub(super) chunks: usize,
    /// Bytes from tap 0 to each tap.
    pub(super) taps: *const usize,
    pub(super) tap_count: usize,
    /// `[chunk][tap][channel / 4][output channels of the tile][channel % 4]`, signed bytes.
    pub(super) weights: *const f32,
    /// Sums, `[voxel][output channel]`: 32-bit integers between segments, then single precision.
    pub(super) sums: *mut f32,
    /// What the sums of the first segment start from, an integer for each output channel.
    pub(super) start: Option<*const i32>,
    /// What those of the last are multiplied with, and what is added then, for each.
    pub(super) finish: Option<[*const f32; 2]>,
}

/// Computes a tile.
pub(super) type IntegerKernel = unsafe fn(&IntegerTile);

/// The kernels for processors that multiply four pairs of bytes at once.
#[derive(Clone, Copy)]
pub(super) struct IntegerKernels {
    /// `[wide][stride - 1]`, by the voxels of a tile, the most first.
    pub(super) tiles: [[&'static [(usize, IntegerKernel)]; 2]; 2],
    pub(super) finish_row: unsafe fn(&FinishRow),
}

/// A row of sums to write.
pub(super) struct FinishRow {
    /// `[voxel][width]`
    pub(super) sums: *const f32,
    pub(super) width: usize,
    pub(super) voxels: usize,
    /// Where results go: the first voxel in the first block of output channels.
    pub(super) output: Place,
    /// Values from one voxel to the next there.
    pub(super) output_step: usize,
    /// Values between one block of 16 output channels and the next.
    pub(super) block_stride: usize,
    /// Whether results that are not added to anything pass by the caches; then a fence comes after.
    pub(super) stream: bool,
    pub(super) epilogue: TileEpilogue,
}

/// Writes a row of sums, as [`super::conv_tile`] does.
///
/// # Safety
/// The processor has `S`; every pointer is valid for what its comment says, and nobody else writes
/// there.
#[inline(always)]
pub(super) unsafe fn finish_row<S: Simd, T: Value>(row: &FinishRow) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut means = [0.0; WIDTH];
        let mut deviations = [0.0; WIDTH];
        let share = S::splat(1.0 / row.voxels as f32);
        for channel in (0..row.width).step_by(S::LANES) {
            let sums = row.sums.add(channel);
            let block = channel / BLOCK * row.block_stride + channel % BLOCK;
            let output = row.output.values::<T>().add(block);
            if let TileEpilogue::AddNormalized { main, mean, scale, shift, slope } = row.epilogue {
                let main = main.values::<T>().add(block);
                let mean = S::load(mean.add(channel));
                let scale = S::load(scale.add(channel));
                let shift = S::load(shift.add(channel));
                let slope = S::splat(slope);
                for voxel in 0..row.voxels {
                    let at = voxel * row.output_step;
                    let centred = S::sub(T::load::<S>(main.add(at)), mean);
                    let sum = S::load(sums.add(voxel * row.width));
                    let sum = S::add(S::multiply_add(centred, scale, shift), sum);
                    T::store::<S>(output.add(at), S::max(sum, S::mul(sum, slope)));
                }
                continue;
            }
            // Four sums, that they do not wait for one another; no closures, which a compiler may
            // leave outside of what has the instructions.
            let mut totals = [S::splat(0.0); 4];
            for first in (0..row.voxels).step_by(4) {
                for (nth, total) in totals.iter_mut().enumerate() {
                    if first + nth < row.voxels {
                        let sum = S::load(sums.add((first + nth) * row.width));
                        let to = output.add((first + nth) * row.output_step);
                        match row.stream {
                            true => T::stream::<S>(to, sum),
                            false => T::store::<S>(to, sum),
                        }
                        *total = S::add(*total, sum);
                    }
                }
            }
            if !matches!(row.epilogue, TileEpilogue::Statistics(_)) {
                continue;
            }
            let mean =
                S::mul(S::add(S::add(totals[0], totals[1]), S::add(totals[2], totals[3])), share);
            let mut squares = [S::splat(0.0); 4];
            for first in (0..row.voxels).step_by(4) {
                for (nth, squares) in squares.iter_mut().enumerate() {
                    if first + nth < row.voxels {
                        let sum = S::load(sums.add((first + nth) * row.width));
                        let difference = S::sub(sum, mean);
                        *squares = S::multiply_add(difference, difference, *squares);
                    }
                }
            }
            let squares = S::add(S::add(squares[0], squares[1]), S::add(squares[2], squares[3]));
            S::store(means.as_mut_ptr().add(channel), mean);
            S::store(deviations.as_mut_ptr().add(channel), squares);
        }
        if let TileEpilogue::Statistics(running) = row.epilogue {
            (*running).merge(row.voxels as f64, &means, &deviations);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod vnni {
    use core::arch::x86_64::*;

    use super::*;

    /// Computes `M` voxels, whose input voxels are `STEP` apart, for `16 * V` output channels.
    ///
    /// # Safety
    /// Every pointer is valid for what its comment says, and nobody else writes there.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn multiply<const M: usize, const V: usize, const STEP: usize>(tile: &IntegerTile) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sums = [[_mm512_setzero_si512(); V]; M];
            for (voxel, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = match tile.start {
                        Some(start) => _mm512_loadu_si512(start.add(v * BLOCK).cast()),
                        None => _mm512_loadu_si512(tile.sums.add((voxel * V + v) * BLOCK).cast()),
                    };
                }
            }
            let mut weights = tile.weights;
            for chunk in 0..tile.chunks {
                let quads = (*tile.chunk_channels.add(chunk)).div_ceil(QUAD);
                let brick = tile.brick.add(chunk * tile.chunk_stride);
                for tap in 0..tile.tap_count {
                    let input = brick.add(*tile.taps.add(tap));
                    for quad in 0..quads {
                        let mut factors = [_mm512_setzero_si512(); V];
                        for (v, factor) in factors.iter_mut().enumerate() {
                            *factor = _mm512_loadu_si512(weights.add(v * BLOCK).cast());
                        }
                        for (voxel, row) in sums.iter_mut().enumerate() {
                            let four = input.add(voxel * STEP * BLOCK + quad * QUAD);
                            let four = _mm512_set1_epi32(four.cast::<i32>().read_unaligned());
                            for (sum, factor) in row.iter_mut().zip(factors) {
                                *sum = _mm512_dpbusd_epi32(*sum, four, factor);
                            }
                        }
                        weights = weights.add(V * BLOCK);
                    }
                }
            }
            for (voxel, row) in sums.iter().enumerate() {
                for (v, &sum) in row.iter().enumerate() {
                    let to = tile.sums.add((voxel * V + v) * BLOCK);
                    match tile.finish {
                        None => _mm512_storeu_si512(to.cast(), sum),
                        Some([scale, bias]) => {
                            let scale = _mm512_loadu_ps(scale.add(v * BLOCK));
                            let bias = _mm512_loadu_ps(bias.add(v * BLOCK));
                            let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, bias);
                            _mm512_storeu_ps(to, sum);
                        }
                    }
                }
            }
        }
    }

    /// 12 voxels of 2 vectors leave room for weights and the broadcast; others end a row.
    pub(in super::super) const TILES: [[&[(usize, IntegerKernel)]; 2]; 2] = [
        [
            &[(16, multiply::<16, 1, 1>), (8, multiply::<8, 1, 1>)],
            &[(16, multiply::<16, 1, 2>), (8, multiply::<8, 1, 2>)],
        ],
        [
            &[(12, multiply::<12, 2, 1>), (8, multiply::<8, 2, 1>), (4, multiply::<4, 2, 1>)],
            &[(12, multiply::<12, 2, 2>), (8, multiply::<8, 2, 2>), (4, multiply::<4, 2, 2>)],
        ],
    ];
}
