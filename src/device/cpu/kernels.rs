//! Which compiled kernel serves which shape, for each instruction set. The one table of tile
//! shapes.

use super::conv_tile::{self, Tile};
use super::memory::BLOCK;
use super::probability;
use super::rows::{self, GatherRow, JoinRow, PoolRow};
use super::scores::{self, BlendRow, Mix, Scored, Side, Transpose, VOXELS};
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Instructions, Portable, Simd};
use super::winograd::WinogradKernels;
use super::winograd::axis::{Axis, Four, One, Two};
use super::winograd::product::{self, Product};
use super::winograd::transform::{
    self, InputPlanes, InputRows, OutputPlanes, OutputTile, WeightPlanes,
};

/// Computes a tile of a convolution.
pub(super) type TileKernel = unsafe fn(&Tile);

/// Tile kernels for one number of output channels.
#[derive(Clone, Copy)]
pub(super) struct TileKernels {
    /// Output channels of a tile: 16 or 32.
    pub(super) width: usize,
    /// `[stride - 1][voxels - 1]`
    kernels: [&'static [TileKernel]; 2],
}

impl TileKernels {
    /// The most voxels a tile can have.
    pub(super) fn most_voxels(&self) -> usize {
        self.kernels[0].len()
    }

    /// The kernel for `voxels` voxels of a row whose inputs are `stride` voxels apart.
    pub(super) fn of(&self, voxels: usize, stride: usize) -> TileKernel {
        self.kernels[stride - 1][voxels - 1]
    }
}

/// The kernels of one instruction set.
pub(super) struct Kernels {
    /// For the last 16 output channels of an odd number of blocks.
    pub(super) narrow: TileKernels,
    /// For all others.
    pub(super) wide: TileKernels,
    pub(super) gather_row: unsafe fn(&GatherRow),
    pub(super) join_row: unsafe fn(&JoinRow),
    pub(super) pool_row: unsafe fn(&PoolRow),
    pub(super) winograd: WinogradKernels,
    pub(super) blend_row: unsafe fn(&BlendRow),
    pub(super) mix: unsafe fn(&Mix),
    pub(super) transpose: unsafe fn(&Transpose),
    pub(super) score: unsafe fn(&Scored),
    pub(super) highest: unsafe fn(&[Side], &mut [u16; VOXELS]) -> bool,
    pub(super) last_above: unsafe fn(&[Side], f32, &mut [u16; VOXELS]) -> bool,
    pub(super) softmax: unsafe fn(&mut [Side]),
    pub(super) sigmoid: unsafe fn(&mut [Side]),
}

/// Compiles every kernel for one instruction set: `narrow` and `wide` are the vectors of a
/// tile's output channels and the numbers of voxels it can have, `scores` the classes that are
/// scored together, a divisor of 16, with two vectors of voxels.
macro_rules! kernels {
    (
        $name:ident, $set:ident, [$(#[$feature:meta])*],
        narrow $narrow:literal: [$($few:literal)*], wide $wide:literal: [$($many:literal)*],
        scores $scores:literal
    ) => {
        mod $name {
            use super::*;

            $(#[$feature])*
            unsafe fn tile<const M: usize, const V: usize, const STEP: usize>(tile: &Tile) {
                // SAFETY: as the caller promises.
                unsafe { conv_tile::compute::<$set, M, V, STEP>(tile) }
            }
            $(#[$feature])*
            unsafe fn gather_row(row: &GatherRow) {
                // SAFETY: as the caller promises.
                unsafe { rows::gather_row::<$set>(row) }
            }
            $(#[$feature])*
            unsafe fn join_row(row: &JoinRow) {
                // SAFETY: as the caller promises.
                unsafe { rows::join_row::<$set>(row) }
            }
            $(#[$feature])*
            unsafe fn pool_row(row: &PoolRow) {
                // SAFETY: as the caller promises.
                unsafe { rows::pool_row::<$set>(row) }
            }
            $(#[$feature])*
            unsafe fn input_rows<A: Axis<M, P>, const M: usize, const P: usize>(rows: &InputRows) {
                // SAFETY: as the caller promises.
                unsafe { transform::input_rows::<$set, A, M, P>(rows) }
            }
            $(#[$feature])*
            unsafe fn input_planes<A: Axis<M, P>, const M: usize, const P: usize>(
                planes: &InputPlanes,
            ) {
                // SAFETY: as the caller promises.
                unsafe { transform::input_planes::<$set, A, M, P>(planes) }
            }
            $(#[$feature])*
            unsafe fn output_planes<A: Axis<M, P>, const M: usize, const P: usize>(
                planes: &OutputPlanes,
            ) {
                // SAFETY: as the caller promises.
                unsafe { transform::output_planes::<$set, A, M, P>(planes) }
            }
            $(#[$feature])*
            unsafe fn output_tile<A: Axis<M, P>, const M: usize, const P: usize>(
                tile: &OutputTile,
            ) {
                // SAFETY: as the caller promises.
                unsafe { transform::output_tile::<$set, A, M, P>(tile) }
            }
            $(#[$feature])*
            unsafe fn weight_planes<A: Axis<M, P>, const M: usize, const P: usize>(
                planes: &WeightPlanes,
            ) {
                // SAFETY: as the caller promises.
                unsafe { transform::weight_planes::<$set, A, M, P>(planes) }
            }
            $(#[$feature])*
            unsafe fn fence() {
                // SAFETY: as the caller promises.
                unsafe { <$set as Simd>::fence() }
            }
            $(#[$feature])*
            unsafe fn product_narrow(product: &Product) {
                const MOST: usize = [$($few),*].len();
                // SAFETY: as the caller promises.
                unsafe {
                    product.for_each(BLOCK, MOST, |tiles, rows| match tiles {
                        $($few => product::compute::<$set, $few, $narrow>(rows),)*
                        _ => unreachable!("pieces are at most {MOST} tiles"),
                    });
                }
            }
            $(#[$feature])*
            unsafe fn product_wide(product: &Product) {
                const MOST: usize = [$($many),*].len();
                // SAFETY: as the caller promises.
                unsafe {
                    product.for_each($wide / $narrow * BLOCK, MOST, |tiles, rows| match tiles {
                        $($many => product::compute::<$set, $many, $wide>(rows),)*
                        _ => unreachable!("pieces are at most {MOST} tiles"),
                    });
                }
            }
            $(#[$feature])*
            unsafe fn blend_row(row: &BlendRow) {
                // SAFETY: as the caller promises.
                unsafe { scores::blend_row::<$set>(row) }
            }
            $(#[$feature])*
            unsafe fn mix(mix: &Mix) {
                // SAFETY: as the caller promises.
                unsafe { scores::mix::<$set>(mix) }
            }
            $(#[$feature])*
            unsafe fn transpose(matrix: &Transpose) {
                // SAFETY: as the caller promises.
                unsafe { scores::transpose::<$set>(matrix) }
            }
            $(#[$feature])*
            unsafe fn score(scored: &Scored) {
                // SAFETY: as the caller promises.
                unsafe { scores::score::<$set, $scores>(scored) }
            }
            $(#[$feature])*
            unsafe fn highest(scores: &[Side], classes: &mut [u16; VOXELS]) -> bool {
                // SAFETY: as the caller promises.
                unsafe { scores::highest::<$set>(scores, classes) }
            }
            $(#[$feature])*
            unsafe fn last_above(
                scores: &[Side], threshold: f32, classes: &mut [u16; VOXELS],
            ) -> bool {
                probability::last_above(scores, threshold, classes)
            }
            $(#[$feature])*
            unsafe fn softmax(scores: &mut [Side]) {
                probability::softmax(scores)
            }
            $(#[$feature])*
            unsafe fn sigmoid(scores: &mut [Side]) {
                probability::sigmoid(scores)
            }

            const ONE: usize = BLOCK;
            const TWO: usize = 2 * BLOCK;

            pub(super) static KERNELS: Kernels = Kernels {
                narrow: TileKernels {
                    width: BLOCK,
                    kernels: [
                        &[$(tile::<$few, $narrow, ONE>),*],
                        &[$(tile::<$few, $narrow, TWO>),*],
                    ],
                },
                wide: TileKernels {
                    width: $wide / $narrow * BLOCK,
                    kernels: [
                        &[$(tile::<$many, $wide, ONE>),*],
                        &[$(tile::<$many, $wide, TWO>),*],
                    ],
                },
                gather_row,
                join_row,
                pool_row,
                winograd: WinogradKernels {
                    input_rows: [input_rows::<Two, 2, 4>, input_rows::<Four, 4, 6>],
                    input_planes: [input_planes::<Two, 2, 4>, input_planes::<Four, 4, 6>],
                    output_planes: [output_planes::<Two, 2, 4>, output_planes::<Four, 4, 6>],
                    weight_planes: [weight_planes::<Two, 2, 4>, weight_planes::<Four, 4, 6>],
                    output_tile: [
                        output_tile::<One, 1, 1>,
                        output_tile::<Two, 2, 4>,
                        output_tile::<Four, 4, 6>,
                    ],
                    fence,
                    product: [product_narrow, product_wide],
                },
                blend_row,
                mix,
                transpose,
                score,
                highest,
                last_above,
                softmax,
                sigmoid,
            };
        }
    };
}

// 32 registers of 16 values: 12 voxels x 2 vectors leave room for weights and the broadcast.
#[cfg(target_arch = "x86_64")]
kernels!(avx512, Avx512, [#[target_feature(enable = "avx512f")]],
    narrow 1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16],
    wide 2: [1 2 3 4 5 6 7 8 9 10 11 12], scores 8);

// 16 registers of 8 values: 6 voxels x 2 vectors.
#[cfg(target_arch = "x86_64")]
kernels!(avx2, Avx2, [#[target_feature(enable = "avx2,fma")]],
    narrow 2: [1 2 3 4 5 6], wide 2: [1 2 3 4 5 6], scores 4);

// 32 registers of 4 values: 6 voxels x 4 vectors.
#[cfg(target_arch = "aarch64")]
kernels!(neon, Neon, [#[target_feature(enable = "neon")]],
    narrow 4: [1 2 3 4 5 6], wide 4: [1 2 3 4 5 6], scores 8);

kernels!(portable, Portable, [],
    narrow 2: [1 2], wide 2: [1 2], scores 4);

impl Kernels {
    /// The kernels of `instructions`, which the caller has found among
    /// [`Instructions::available`].
    pub(super) fn of(instructions: Instructions) -> &'static Self {
        match instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => &avx2::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => &neon::KERNELS,
            _ => &portable::KERNELS,
        }
    }
}
