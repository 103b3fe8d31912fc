//! The products of transformed inputs and weights: at each point a matrix of tiles times input
//! channels by one of input times output channels.

use super::super::memory::BLOCK;
use super::super::simd::Simd;

/// The matrices of all points of a plane; pointers are those of the first point.
pub(in super::super) struct Product {
    /// `[chunk][point][tile][16]`
    pub(in super::super) inputs: *const f32,
    /// Values between one chunk of up to 16 input channels and the next.
    pub(in super::super) chunk_stride: usize,
    /// Values between one point's inputs and the next's.
    pub(in super::super) inputs_stride: usize,
    /// Channels used of each chunk.
    pub(in super::super) chunk_channels: *const usize,
    pub(in super::super) chunks: usize,
    pub(in super::super) points: usize,
    pub(in super::super) tiles: usize,
    /// `[point][input channel][output channel]`
    pub(in super::super) weights: *const f32,
    /// Values between one point's weights and the next's.
    pub(in super::super) weights_stride: usize,
    /// `[point][tile][output channel]`
    pub(in super::super) sums: *mut f32,
    /// Values between one point's sums and the next's.
    pub(in super::super) sums_stride: usize,
}

/// One point's matrices, from some tile on.
pub(in super::super) struct Rows<'a> {
    pub(in super::super) product: &'a Product,
    pub(in super::super) inputs: *const f32,
    pub(in super::super) weights: *const f32,
    pub(in super::super) sums: *mut f32,
}

impl Product {
    /// Calls `compute` for pieces of nearly the same size, at most `most` tiles, of every point,
    /// for `width` output channels.
    ///
    /// # Safety
    /// Every pointer is valid for what its comment says.
    #[inline(always)]
    pub(in super::super) unsafe fn for_each(
        &self,
        width: usize,
        most: usize,
        mut compute: impl FnMut(usize, &Rows),
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            let pieces = self.tiles.div_ceil(most);
            for point in 0..self.points {
                for piece in 0..pieces {
                    let start = piece * self.tiles / pieces;
                    let end = (piece + 1) * self.tiles / pieces;
                    let rows = Rows {
                        product: self,
                        inputs: self.inputs.add(point * self.inputs_stride + start * BLOCK),
                        weights: self.weights.add(point * self.weights_stride),
                        sums: self.sums.add(point * self.sums_stride + start * width),
                    };
                    compute(end - start, &rows);
                }
            }
        }
    }
}

/// Computes `M` tiles for `V` vectors of output channels.
///
/// # Safety
/// The processor has `S`; every pointer is valid for what its comment says.
#[inline(always)]
pub(in super::super) unsafe fn compute<S: Simd, const M: usize, const V: usize>(rows: &Rows) {
    let width = V * S::LANES;
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; M];
        let mut weights = rows.weights;
        for chunk in 0..rows.product.chunks {
            let channels = *rows.product.chunk_channels.add(chunk);
            let inputs = rows.inputs.add(chunk * rows.product.chunk_stride);
            for channel in 0..channels {
                let mut factors = [S::splat(0.0); V];
                for (v, factor) in factors.iter_mut().enumerate() {
                    *factor = S::load(weights.add(v * S::LANES));
                }
                for (tile, row) in sums.iter_mut().enumerate() {
                    let value = S::splat(*inputs.add(tile * BLOCK + channel));
                    for (sum, factor) in row.iter_mut().zip(factors) {
                        *sum = S::multiply_add(value, factor, *sum);
                    }
                }
                weights = weights.add(width);
            }
        }
        for (tile, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                S::store(rows.sums.add(tile * width + v * S::LANES), *sum);
            }
        }
    }
}
