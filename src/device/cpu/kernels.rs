//! Which compiled kernel serves which shape, for each instruction set. The one table of tile
//! shapes.

use half::bf16;

use super::conv_tile::{self, Tile};
#[cfg(target_arch = "x86_64")]
use super::integer_tile::vnni;
use super::integer_tile::{self, FinishRow, IntegerKernels, QUAD};
use super::memory::{BLOCK, Place};
use super::probability;
use super::quantise;
use super::rows::{self, GatherRow, JoinRow, PoolRow, SpreadRow};
use super::scores::{self, BlendRow, Mix, Scored, Side, Transpose, VOXELS};
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512, Avx512Bf16};
use super::simd::{Instructions, Portable, Simd};
use super::value::{Factor, Rounded, Steps, Value, Worth};
use super::winograd::WinogradKernels;
use super::winograd::axis::{Axis, Four, One, Two};
use super::winograd::product::{self, Product};
use super::winograd::transform::{
    self, InputPlanes, InputRows, OutputPlanes, OutputTile, WeightPlanes,
};
use crate::base::{Error, Result};
use crate::device::Precision;

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

/// What reads tensors.
#[derive(Clone, Copy)]
pub(super) struct ReadKernels {
    pub(super) gather_row: unsafe fn(&GatherRow),
    pub(super) spread_row: unsafe fn(&SpreadRow),
}

/// What the bricks of the direct sum hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BrickValues {
    /// Single precision.
    Single,
    /// Single precision, rounded to `bf16`.
    Rounded,
    /// `bf16`, of which a multiplication takes two channels.
    Pairs,
    /// Single precision, each what 8 bits stand for.
    Dequantised,
    /// 8 bits, of which a multiplication takes four channels.
    Quads,
}

impl BrickValues {
    /// Bytes of a value.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Quads => 1,
            _ => 4,
        }
    }

    /// Bytes that should stay in a cache for a value: bytes are made of what was just seen.
    pub(super) fn near_bytes(self) -> usize {
        if self == Self::Quads { 2 } else { self.bytes() }
    }

    /// Channels to write of as many in a chunk, that no multiplication meets what is not a number.
    pub(super) fn written_channels(self, channels: usize) -> usize {
        if self == Self::Pairs { channels.next_multiple_of(2) } else { channels }
    }

    /// Channels that one multiplication takes.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Quads => QUAD,
            _ => 1,
        }
    }

    /// Whether values and weights become whole numbers of steps.
    pub(super) fn is_quantised(self) -> bool {
        matches!(self, Self::Dequantised | Self::Quads)
    }

    /// Values that each output channel has besides its weights.
    pub(super) fn factors(self) -> usize {
        if self == Self::Quads { 2 } else { 0 }
    }

    /// Multiplications that `channels` take.
    pub(super) fn rows(self, channels: usize) -> usize {
        channels.div_ceil(self.channels())
    }

    /// Puts a weight where it is multiplied with the brick's values: `row` is of one output channel
    /// and of the channels that a multiplication takes, `channel` the input channel in its chunk,
    /// `step` what a step of 8 bits is worth. Returns the steps, if whole numbers are multiplied.
    pub(super) fn put_weight(self, row: &mut f32, weight: f32, channel: usize, step: f32) -> i32 {
        let steps = (weight / step).round_ties_even();
        match self {
            Self::Single => *row = weight,
            Self::Rounded => *row = bf16::from_f32(weight).to_f32(),
            Self::Pairs => {
                let pair: &mut [bf16; 2] = bytemuck::cast_mut(row);
                pair[channel % 2] = bf16::from_f32(weight);
            }
            Self::Dequantised => *row = steps * step,
            Self::Quads => {
                let quad: &mut [i8; QUAD] = bytemuck::cast_mut(row);
                quad[channel % QUAD] = steps as i8;
                return i32::from(steps as i8);
            }
        }
        0
    }
}

/// How bricks are quantised.
#[derive(Clone, Copy)]
pub(super) struct QuantiseKernels {
    /// What looks up a row's range instead of copying it.
    pub(super) see: ReadKernels,
    /// What multiplies [`BrickValues::Quads`].
    pub(super) multiply: Option<IntegerKernels>,
}

/// The kernels of one instruction set, for tensors of one type of values.
pub(super) struct Kernels {
    /// Bytes of a tensor's value.
    pub(super) value_bytes: usize,
    pub(super) brick: BrickValues,
    /// Where bricks are quantised.
    pub(super) quantise: Option<QuantiseKernels>,
    /// For the last 16 output channels of an odd number of blocks.
    pub(super) narrow: TileKernels,
    /// For all others.
    pub(super) wide: TileKernels,
    /// To single precision.
    pub(super) read: ReadKernels,
    /// To a brick of the direct sum.
    pub(super) read_brick: ReadKernels,
    pub(super) join_row: unsafe fn(&JoinRow),
    pub(super) pool_row: unsafe fn(&PoolRow),
    pub(super) winograd: WinogradKernels,
    /// Blends single precision.
    pub(super) blend_row: unsafe fn(&BlendRow),
    /// Blends a tensor's values.
    pub(super) blend_features: unsafe fn(&BlendRow),
    /// Makes 16 of a tensor's values single precision, that many values from a place on.
    pub(super) widen: unsafe fn(Place, isize, *mut f32),
    pub(super) mix: unsafe fn(&Mix),
    pub(super) transpose: unsafe fn(&Transpose),
    pub(super) score: unsafe fn(&Scored),
    pub(super) highest: unsafe fn(&[Side], &mut [u16; VOXELS]) -> bool,
    pub(super) last_above: unsafe fn(&[Side], f32, &mut [u16; VOXELS]) -> bool,
    pub(super) softmax: unsafe fn(&mut [Side]),
    pub(super) sigmoid: unsafe fn(&mut [Side]),
}

/// Compiles every kernel for one instruction set: `tables` are the types of tensors' values and of
/// bricks', `narrow` and `wide` the vectors of a tile's output channels and the numbers of voxels
/// it can have, `scores` the classes that are scored together, a divisor of 16, with two vectors
/// of voxels.
macro_rules! kernels {
    (
        $name:ident, $set:ident, [$(#[$feature:meta])*],
        tables [$($table:ident: $value:ty, $brick:ty, $values:ident;)*],
        narrow $narrow:literal: [$($few:literal)*], wide $wide:literal: [$($many:literal)*],
        scores $scores:literal
    ) => {
        mod $name {
            use super::*;

            $(#[$feature])*
            unsafe fn tile<
                T: Value,
                B: Factor<$set>,
                const M: usize,
                const V: usize,
                const STEP: usize,
            >(
                tile: &Tile,
            ) {
                // SAFETY: as the caller promises.
                unsafe { conv_tile::compute::<$set, T, B, M, V, STEP>(tile) }
            }
            $(#[$feature])*
            pub(super) unsafe fn gather_row<T: Value, B: Value>(row: &GatherRow) {
                // SAFETY: as the caller promises.
                unsafe { rows::gather_row::<$set, T, B>(row) }
            }
            $(#[$feature])*
            unsafe fn join_row<T: Value>(row: &JoinRow) {
                // SAFETY: as the caller promises.
                unsafe { rows::join_row::<$set, T>(row) }
            }
            $(#[$feature])*
            unsafe fn pool_row<T: Value>(row: &PoolRow) {
                // SAFETY: as the caller promises.
                unsafe { rows::pool_row::<$set, T>(row) }
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
            unsafe fn output_tile<T: Value, A: Axis<M, P>, const M: usize, const P: usize>(
                tile: &OutputTile,
            ) {
                // SAFETY: as the caller promises.
                unsafe { transform::output_tile::<$set, T, A, M, P>(tile) }
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
            #[allow(dead_code, reason = "a set may have no table that quantises")]
            pub(super) unsafe fn see_gathered<T: Value>(row: &GatherRow) {
                // SAFETY: as the caller promises.
                unsafe { quantise::see_gathered::<$set, T>(row) }
            }
            $(#[$feature])*
            #[allow(dead_code, reason = "a set may not multiply integers")]
            pub(super) unsafe fn finish_row<T: Value>(row: &FinishRow) {
                // SAFETY: as the caller promises.
                unsafe { integer_tile::finish_row::<$set, T>(row) }
            }
            $(#[$feature])*
            unsafe fn blend_row<T: Value>(row: &BlendRow) {
                // SAFETY: as the caller promises.
                unsafe { scores::blend_row::<$set, T>(row) }
            }
            $(#[$feature])*
            unsafe fn widen<T: Value>(from: Place, first: isize, to: *mut f32) {
                // SAFETY: as the caller promises.
                unsafe {
                    for lane in (0..BLOCK).step_by(<$set as Simd>::LANES) {
                        let from = from.values::<T>().offset(first).add(lane);
                        <$set as Simd>::store(to.add(lane), T::load::<$set>(from));
                    }
                }
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

            const fn table<T: Value, B: Factor<$set>>(brick: BrickValues) -> Kernels {
                Kernels {
                    value_bytes: size_of::<T>(),
                    brick,
                    quantise: None,
                    narrow: TileKernels {
                        width: BLOCK,
                        kernels: [
                            const { &[$(tile::<T, B, $few, $narrow, ONE>),*] },
                            const { &[$(tile::<T, B, $few, $narrow, TWO>),*] },
                        ],
                    },
                    wide: TileKernels {
                        width: $wide / $narrow * BLOCK,
                        kernels: [
                            const { &[$(tile::<T, B, $many, $wide, ONE>),*] },
                            const { &[$(tile::<T, B, $many, $wide, TWO>),*] },
                        ],
                    },
                    read: ReadKernels {
                        gather_row: gather_row::<T, f32>,
                        spread_row: rows::spread_row::<T, f32>,
                    },
                    read_brick: ReadKernels {
                        gather_row: gather_row::<T, B>,
                        spread_row: rows::spread_row::<T, B>,
                    },
                    join_row: join_row::<T>,
                    pool_row: pool_row::<T>,
                    winograd: WinogradKernels {
                        input_rows: [input_rows::<Two, 2, 4>, input_rows::<Four, 4, 6>],
                        input_planes: [input_planes::<Two, 2, 4>, input_planes::<Four, 4, 6>],
                        output_planes: [output_planes::<Two, 2, 4>, output_planes::<Four, 4, 6>],
                        weight_planes: [weight_planes::<Two, 2, 4>, weight_planes::<Four, 4, 6>],
                        output_tile: [
                            output_tile::<T, One, 1, 1>,
                            output_tile::<T, Two, 2, 4>,
                            output_tile::<T, Four, 4, 6>,
                        ],
                        fence,
                        product: [product_narrow, product_wide],
                    },
                    blend_row: blend_row::<f32>,
                    blend_features: blend_row::<T>,
                    widen: widen::<T>,
                    mix,
                    transpose,
                    score,
                    highest,
                    last_above,
                    softmax,
                    sigmoid,
                }
            }

            $(pub(super) static $table: Kernels = table::<$value, $brick>(BrickValues::$values);)*
        }
    };
}

// 32 registers of 16 values: 12 voxels x 2 vectors leave room for weights and the broadcast.
#[cfg(target_arch = "x86_64")]
kernels!(avx512_bf16, Avx512Bf16, [#[target_feature(enable = "avx512f,avx512bf16")]],
    tables [BF16: bf16, bf16, Pairs;],
    narrow 1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16],
    wide 2: [1 2 3 4 5 6 7 8 9 10 11 12], scores 8);

#[cfg(target_arch = "x86_64")]
kernels!(avx512, Avx512, [#[target_feature(enable = "avx512f")]],
    tables [F32: f32, f32, Single; BF16: bf16, Rounded, Rounded;],
    narrow 1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16],
    wide 2: [1 2 3 4 5 6 7 8 9 10 11 12], scores 8);

// 16 registers of 8 values: 6 voxels x 2 vectors.
#[cfg(target_arch = "x86_64")]
kernels!(avx2, Avx2, [#[target_feature(enable = "avx2,fma")]],
    tables [F32: f32, f32, Single; BF16: bf16, Rounded, Rounded;],
    narrow 2: [1 2 3 4 5 6], wide 2: [1 2 3 4 5 6], scores 4);

// 32 registers of 4 values: 6 voxels x 4 vectors.
#[cfg(target_arch = "aarch64")]
kernels!(neon, Neon, [#[target_feature(enable = "neon")]],
    tables [F32: f32, f32, Single; BF16: bf16, Rounded, Rounded;],
    narrow 4: [1 2 3 4 5 6], wide 4: [1 2 3 4 5 6], scores 8);

kernels!(portable, Portable, [],
    tables [F32: f32, f32, Single; BF16: bf16, Rounded, Rounded;],
    narrow 2: [1 2], wide 2: [1 2], scores 4);

/// What touches no tensor and multiplies no `bf16` is the same code as without AVX512-BF16.
#[cfg(target_arch = "x86_64")]
static AVX512_BF16: Kernels = Kernels {
    winograd: WinogradKernels {
        output_tile: avx512_bf16::BF16.winograd.output_tile,
        ..avx512::F32.winograd
    },
    blend_row: avx512::F32.blend_row,
    mix: avx512::F32.mix,
    transpose: avx512::F32.transpose,
    score: avx512::F32.score,
    highest: avx512::F32.highest,
    last_above: avx512::F32.last_above,
    softmax: avx512::F32.softmax,
    sigmoid: avx512::F32.sigmoid,
    ..avx512_bf16::BF16
};

/// What bricks of 8 bits are read with.
macro_rules! quantising {
    ($set:ident, $brick:ty) => {
        ReadKernels {
            gather_row: $set::gather_row::<bf16, $brick>,
            spread_row: rows::spread_row::<bf16, $brick>,
        }
    };
}

/// What looks up their ranges, and what multiplies them.
macro_rules! quantised {
    ($set:ident, $multiply:expr) => {
        Some(QuantiseKernels {
            see: ReadKernels {
                gather_row: $set::see_gathered::<bf16>,
                spread_row: quantise::see_spread::<bf16>,
            },
            multiply: $multiply,
        })
    };
}

/// A set that multiplies in single precision what 8 bits stand for.
macro_rules! dequantised {
    ($set:ident) => {
        Kernels {
            brick: BrickValues::Dequantised,
            quantise: quantised!($set, None),
            read_brick: quantising!($set, Worth),
            ..$set::BF16
        }
    };
}

#[cfg(target_arch = "x86_64")]
static AVX2_INT8: Kernels = dequantised!(avx2);
#[cfg(target_arch = "aarch64")]
static NEON_INT8: Kernels = dequantised!(neon);
static PORTABLE_INT8: Kernels = dequantised!(portable);

/// AVX-512 with AVX512-VNNI.
#[cfg(target_arch = "x86_64")]
static AVX512_INT8: Kernels = Kernels {
    brick: BrickValues::Quads,
    quantise: quantised!(
        avx512,
        Some(IntegerKernels { tiles: vnni::TILES, finish_row: avx512::finish_row::<bf16> })
    ),
    read_brick: quantising!(avx512, Steps),
    ..avx512::BF16
};

/// The same with AVX512-BF16.
#[cfg(target_arch = "x86_64")]
static AVX512_BF16_INT8: Kernels = Kernels {
    brick: BrickValues::Quads,
    quantise: quantised!(
        avx512,
        Some(IntegerKernels { tiles: vnni::TILES, finish_row: avx512_bf16::finish_row::<bf16> })
    ),
    read_brick: quantising!(avx512, Steps),
    ..AVX512_BF16
};

impl Kernels {
    /// The kernels of `instructions`, which the caller has found among
    /// [`Instructions::available`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the processor has none for `precision`.
    pub(super) fn of(instructions: Instructions, precision: Precision) -> Result<&'static Self> {
        #[cfg(target_arch = "x86_64")]
        let vnni = std::arch::is_x86_feature_detected!("avx512vnni");
        let [single, narrow, integer] = match instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Bf16 if vnni => [&avx512::F32, &AVX512_BF16, &AVX512_BF16_INT8],
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Bf16 => [&avx512::F32, &AVX512_BF16, &AVX2_INT8],
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 if vnni => [&avx512::F32, &avx512::BF16, &AVX512_INT8],
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => [&avx512::F32, &avx512::BF16, &AVX2_INT8],
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => [&avx2::F32, &avx2::BF16, &AVX2_INT8],
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => [&neon::F32, &neon::BF16, &NEON_INT8],
            _ => [&portable::F32, &portable::BF16, &PORTABLE_INT8],
        };
        match precision {
            Precision::F32 => Ok(single),
            Precision::Bf16 => Ok(narrow),
            Precision::Int8 => Ok(integer),
            Precision::F16 => Err(Error::Unsupported(
                "half precision needs a GPU; the processor's are f32, bf16 and int8".into(),
            )),
        }
    }
}
