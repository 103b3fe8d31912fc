//! Kernels along a row of voxels of 16 channels each.

use super::memory::BLOCK;
use super::simd::Simd;

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
    pub(super) from: *const f32,
    pub(super) to: *mut f32,
    /// Voxels to write.
    pub(super) count: usize,
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) upsample: usize,
    /// Values from here to the row that is read next of these planes, to fetch it meanwhile.
    pub(super) ahead: usize,
    pub(super) affine: Option<Affine>,
}

/// Copies a row, normalising and activating on the way.
///
/// # Safety
/// The processor has `S`; the pointers are valid for 16 channels of every voxel named.
#[inline(always)]
pub(super) unsafe fn gather_row<S: Simd>(row: &GatherRow) {
    // SAFETY: as the caller promises.
    unsafe {
        for lane in (0..BLOCK).step_by(S::LANES) {
            let (from, to) = (row.from.add(lane), row.to.add(lane));
            match row.affine {
                None => copy::<S>(row, lane, |x| S::load(from.add(x * BLOCK)), to),
                Some(affine) => {
                    let normal = Normal::<S>::new(&affine, lane);
                    copy::<S>(row, lane, |x| normal.activated(S::load(from.add(x * BLOCK))), to);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn copy<S: Simd>(
    row: &GatherRow,
    lane: usize,
    read: impl Fn(usize) -> S::Vector,
    to: *mut f32,
) {
    // SAFETY: as the caller of `gather_row` promises.
    unsafe {
        if row.upsample == 1 {
            for x in 0..row.count {
                let source = row.first + x * row.stride;
                if lane == 0 {
                    S::prefetch(row.from.wrapping_add(row.ahead + source * BLOCK));
                }
                S::store(to.add(x * BLOCK), read(source));
            }
        } else if row.stride == 1 {
            let mut x = 0;
            while x < row.count {
                let source = (row.first + x) / row.upsample;
                let value = read(source);
                let end = row.count.min((source + 1) * row.upsample - row.first);
                for x in x..end {
                    S::store(to.add(x * BLOCK), value);
                }
                x = end;
            }
        } else {
            for x in 0..row.count {
                let source = (row.first + x * row.stride) / row.upsample;
                S::store(to.add(x * BLOCK), read(source));
            }
        }
    }
}

/// A stretch of voxels for [`join_row`]; `output` may be `main`.
pub(super) struct JoinRow {
    pub(super) main: *const f32,
    /// What is added, and what happens to it before.
    pub(super) shortcut: Option<(*const f32, Option<Affine>)>,
    pub(super) output: *mut f32,
    pub(super) voxels: usize,
    /// Of the 16 channels; the slope is applied to the sum.
    pub(super) affine: Affine,
}

/// `output = leaky(normalised main + shortcut)`.
///
/// # Safety
/// As for [`gather_row`].
#[inline(always)]
pub(super) unsafe fn join_row<S: Simd>(row: &JoinRow) {
    // SAFETY: as the caller promises.
    unsafe {
        for lane in (0..BLOCK).step_by(S::LANES) {
            match row.shortcut {
                None => join::<S>(row, lane, |_| S::splat(0.0)),
                Some((from, None)) => join::<S>(row, lane, |at| S::load(from.add(at))),
                Some((from, Some(affine))) => {
                    let normal = Normal::<S>::new(&affine, lane);
                    join::<S>(row, lane, |at| normal.activated(S::load(from.add(at))));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn join<S: Simd>(row: &JoinRow, lane: usize, shortcut: impl Fn(usize) -> S::Vector) {
    // SAFETY: as the caller of `join_row` promises.
    unsafe {
        let normal = Normal::<S>::new(&row.affine, lane);
        for voxel in 0..row.voxels {
            let at = voxel * BLOCK + lane;
            let sum = S::add(normal.plain(S::load(row.main.add(at))), shortcut(at));
            S::store(row.output.add(at), S::max(sum, S::mul(sum, normal.slope)));
        }
    }
}

/// A row of means for [`pool_row`]: output voxel `x` is the mean of `size` voxels from
/// `x * size[2]` on.
pub(super) struct PoolRow {
    /// First voxel of the first box.
    pub(super) from: *const f32,
    /// Voxels of a row and of a plane of the source.
    pub(super) row: usize,
    pub(super) plane: usize,
    pub(super) size: [usize; 3],
    pub(super) to: *mut f32,
    /// Voxels to write.
    pub(super) count: usize,
    pub(super) affine: Option<Affine>,
}

/// Averages boxes of voxels, normalised and activated before.
///
/// # Safety
/// As for [`gather_row`].
#[inline(always)]
pub(super) unsafe fn pool_row<S: Simd>(row: &PoolRow) {
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
                            let value = S::load(row.from.add(voxel * BLOCK + lane));
                            let value = normal.as_ref().map_or(value, |n| n.activated(value));
                            sum = S::add(sum, value);
                        }
                    }
                }
                S::store(row.to.add(x * BLOCK + lane), S::mul(sum, S::splat(share)));
            }
        }
    }
}

/// The lanes of an [`Affine`].
struct Normal<S: Simd> {
    mean: S::Vector,
    scale: S::Vector,
    shift: S::Vector,
    slope: S::Vector,
}

impl<S: Simd> Normal<S> {
    #[inline(always)]
    unsafe fn new(affine: &Affine, lane: usize) -> Self {
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
    unsafe fn activated(&self, value: S::Vector) -> S::Vector {
        // SAFETY: the processor has `S`.
        unsafe {
            let value = self.plain(value);
            S::max(value, S::mul(value, self.slope))
        }
    }
}
