//! Kernels along a row of voxels of 16 channels each.

use super::memory::{BLOCK, Place};
use super::quantise::Quantisation;
use super::simd::Simd;
use super::value::Value;

/// Normalisation of 16 channels: `leaky((x - mean) * scale + shift)`.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) mean: *const f32,
    pub(super) scale: *const f32,
    pub(super) shift: *const f32,
    pub(super) slope: f32,
}

/// A row to copy: output voxel `x` is source voxel `(first + x * stride) / upsample`.
pub(super) struct GatherRow {
    pub(super) from: Place,
    pub(super) to: Place,
    /// Voxels to write.
    pub(super) count: usize,
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) upsample: usize,
    /// Values from here to the row that is read next of these planes, to fetch it meanwhile.
    pub(super) ahead: usize,
    pub(super) affine: Option<Affine>,
    /// Of values that are quantised.
    pub(super) how: Quantisation,
}

/// Copies a row, normalising and activating on the way, from values of type `T` to such of `B`.
///
/// # Safety
/// The processor has `S`; the pointers are valid for 16 channels of every voxel named.
#[inline(always)]
pub(super) unsafe fn gather_row<S: Simd, T: Value, B: Value>(row: &GatherRow) {
    // SAFETY: as the caller promises.
    unsafe {
        for lane in (0..BLOCK).step_by(S::LANES) {
            let (from, to) = (row.from.values::<T>().add(lane), row.to.values::<B>().add(lane));
            let prefetch = |x: usize| {
                if lane == 0 {
                    S::prefetch(from.wrapping_add(row.ahead + x * BLOCK).cast());
                }
            };
            match row.affine {
                None => copy::<S, B>(row, |x| T::load::<S>(from.add(x * BLOCK)), prefetch, to),
                Some(affine) => {
                    let normal = Normal::<S>::new(&affine, lane);
                    let read = |x| normal.activated(T::load::<S>(from.add(x * BLOCK)));
                    copy::<S, B>(row, read, prefetch, to);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn copy<S: Simd, B: Value>(
    row: &GatherRow,
    read: impl Fn(usize) -> S::Vector,
    prefetch: impl Fn(usize),
    to: *mut B,
) {
    let how = row.how;
    // SAFETY: as the caller of `gather_row` promises.
    unsafe {
        if row.upsample == 1 {
            for x in 0..row.count {
                let source = row.first + x * row.stride;
                prefetch(source);
                B::store::<S>(to.add(x * BLOCK), B::quantised::<S>(read(source), &how));
            }
        } else if row.stride == 1 {
            let mut x = 0;
            while x < row.count {
                let source = (row.first + x) / row.upsample;
                let value = B::quantised::<S>(read(source), &how);
                let end = row.count.min((source + 1) * row.upsample - row.first);
                for x in x..end {
                    B::store::<S>(to.add(x * BLOCK), value);
                }
                x = end;
            }
        } else {
            for x in 0..row.count {
                let source = (row.first + x * row.stride) / row.upsample;
                B::store::<S>(to.add(x * BLOCK), B::quantised::<S>(read(source), &how));
            }
        }
    }
}

/// A row of the network's input, which lies channel by channel, to copy to voxels of 16 channels:
/// output voxel `x` is source voxel `(first + x * stride) / upsample`.
pub(super) struct SpreadRow {
    pub(super) from: Place,
    /// Values between one channel and the next.
    pub(super) channel_stride: usize,
    /// Channels to write, up to 16, and with zeros after the last.
    pub(super) channels: usize,
    pub(super) padded_channels: usize,
    pub(super) to: Place,
    /// Voxels to write.
    pub(super) count: usize,
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) upsample: usize,
    /// Of values that are quantised.
    pub(super) how: Quantisation,
}

impl SpreadRow {
    #[inline(always)]
    pub(super) fn source(&self, voxel: usize) -> usize {
        match self.upsample {
            // Spares the division.
            1 => self.first + voxel * self.stride,
            upsample => (self.first + voxel * self.stride) / upsample,
        }
    }
}

/// Copies a row of the network's input.
///
/// # Safety
/// The pointers are valid for every voxel named.
pub(super) unsafe fn spread_row<T: Value, B: Value>(row: &SpreadRow) {
    for channel in 0..row.padded_channels {
        for x in 0..row.count {
            // SAFETY: as the caller promises.
            unsafe {
                let source = channel * row.channel_stride + row.source(x);
                let value = match channel < row.channels {
                    true => (*row.from.values::<T>().add(source)).get(),
                    false => 0.0,
                };
                *row.to.values::<B>().add(x * BLOCK + channel) = B::quantise(value, &row.how);
            }
        }
    }
}

/// A stretch of voxels for [`join_row`]; `output` may be `main`.
pub(super) struct JoinRow {
    pub(super) main: Place,
    /// What is added, and what happens to it before.
    pub(super) shortcut: Option<(Place, Option<Affine>)>,
    pub(super) output: Place,
    pub(super) voxels: usize,
    /// Of the 16 channels; the slope is applied to the sum.
    pub(super) affine: Affine,
}

/// `output = leaky(normalised main + shortcut)`.
///
/// # Safety
/// As for [`gather_row`].
#[inline(always)]
pub(super) unsafe fn join_row<S: Simd, T: Value>(row: &JoinRow) {
    // SAFETY: as the caller promises.
    unsafe {
        for lane in (0..BLOCK).step_by(S::LANES) {
            match row.shortcut {
                None => join::<S, T>(row, lane, |_| S::splat(0.0)),
                Some((from, None)) => {
                    join::<S, T>(row, lane, |at| T::load::<S>(from.values::<T>().add(at)));
                }
                Some((from, Some(affine))) => {
                    let normal = Normal::<S>::new(&affine, lane);
                    let from = from.values::<T>();
                    join::<S, T>(row, lane, |at| normal.activated(T::load::<S>(from.add(at))));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn join<S: Simd, T: Value>(
    row: &JoinRow,
    lane: usize,
    shortcut: impl Fn(usize) -> S::Vector,
) {
    // SAFETY: as the caller of `join_row` promises.
    unsafe {
        let (main, output) = (row.main.values::<T>(), row.output.values::<T>());
        let normal = Normal::<S>::new(&row.affine, lane);
        for voxel in 0..row.voxels {
            let at = voxel * BLOCK + lane;
            let sum = S::add(normal.plain(T::load::<S>(main.add(at))), shortcut(at));
            T::store::<S>(output.add(at), S::max(sum, S::mul(sum, normal.slope)));
        }
    }
}

/// A row of means for [`pool_row`]: output voxel `x` is the mean of `size` voxels from
/// `x * size[2]` on.
pub(super) struct PoolRow {
    /// First voxel of the first box.
    pub(super) from: Place,
    /// Voxels of a row and of a plane of the source.
    pub(super) row: usize,
    pub(super) plane: usize,
    pub(super) size: [usize; 3],
    pub(super) to: Place,
    /// Voxels to write.
    pub(super) count: usize,
    pub(super) affine: Option<Affine>,
}

/// Averages boxes of voxels, normalised and activated before.
///
/// # Safety
/// As for [`gather_row`].
#[inline(always)]
pub(super) unsafe fn pool_row<S: Simd, T: Value>(row: &PoolRow) {
    let share = 1.0 / row.size.iter().product::<usize>() as f32;
    // SAFETY: as the caller promises.
    unsafe {
        for lane in (0..BLOCK).step_by(S::LANES) {
            let normal = row.affine.map(|affine| Normal::<S>::new(&affine, lane));
            for x in 0..row.count {
                let mut sum = S::splat(0.0);
                for a in 0..row.size[0] {
                    for b in 0..row.size[1] {
                        for c in 0..row.size[2] {
                            let voxel = a * row.plane + b * row.row + x * row.size[2] + c;
                            let from = row.from.values::<T>().add(voxel * BLOCK + lane);
                            let value = T::load::<S>(from);
                            let value = normal.as_ref().map_or(value, |n| n.activated(value));
                            sum = S::add(sum, value);
                        }
                    }
                }
                let to = row.to.values::<T>().add(x * BLOCK + lane);
                T::store::<S>(to, S::mul(sum, S::splat(share)));
            }
        }
    }
}

/// The lanes of an [`Affine`].
pub(super) struct Normal<S: Simd> {
    mean: S::Vector,
    scale: S::Vector,
    shift: S::Vector,
    slope: S::Vector,
}

impl<S: Simd> Normal<S> {
    #[inline(always)]
    pub(super) unsafe fn new(affine: &Affine, lane: usize) -> Self {
        // SAFETY: the processor has `S`; an `Affine` points to 16 values each.
        unsafe {
            Self {
                mean: S::load(affine.mean.add(lane)),
                scale: S::load(affine.scale.add(lane)),
                shift: S::load(affine.shift.add(lane)),
                slope: S::splat(affine.slope),
            }
        }
    }

    #[inline(always)]
    unsafe fn plain(&self, value: S::Vector) -> S::Vector {
        // SAFETY: the processor has `S`.
        unsafe { S::multiply_add(S::sub(value, self.mean), self.scale, self.shift) }
    }

    #[inline(always)]
    pub(super) unsafe fn activated(&self, value: S::Vector) -> S::Vector {
        // SAFETY: the processor has `S`.
        unsafe {
            let value = self.plain(value);
            S::max(value, S::mul(value, self.slope))
        }
    }
}
