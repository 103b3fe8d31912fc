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

/// A row to copy: output voxel `x` is source voxel `x * stride / upsample`.
pub(super) struct GatherRow {
    pub(super) from: *const f32,
    pub(super) to: *mut f32,
    /// Voxels to write.
    pub(super) count: usize,
    pub(super) stride: usize,
    pub(super) upsample: usize,
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
                None => copy::<S>(row, |x| S::load(from.add(x * BLOCK)), to),
                Some(affine) => {
                    let mean = S::load(affine.mean.add(lane));
                    let scale = S::load(affine.scale.add(lane));
                    let shift = S::load(affine.shift.add(lane));
                    let slope = S::splat(affine.slope);
                    let read = |x: usize| {
                        let centred = S::sub(S::load(from.add(x * BLOCK)), mean);
                        let value = S::multiply_add(centred, scale, shift);
                        S::max(value, S::mul(value, slope))
                    };
                    copy::<S>(row, read, to);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn copy<S: Simd>(row: &GatherRow, read: impl Fn(usize) -> S::Vector, to: *mut f32) {
    // SAFETY: as the caller of `gather_row` promises.
    unsafe {
        if row.upsample == 1 {
            for x in 0..row.count {
                S::store(to.add(x * BLOCK), read(x * row.stride));
            }
        } else if row.stride == 1 {
            for start in (0..row.count).step_by(row.upsample) {
                let value = read(start / row.upsample);
                for x in start..row.count.min(start + row.upsample) {
                    S::store(to.add(x * BLOCK), value);
                }
            }
        } else {
            for x in 0..row.count {
                S::store(to.add(x * BLOCK), read(x * row.stride / row.upsample));
            }
        }
    }
}

/// A stretch of voxels for [`join_row`]; `output` may be `main`.
pub(super) struct JoinRow {
    pub(super) main: *const f32,
    pub(super) shortcut: *const f32,
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
        let slope = S::splat(row.affine.slope);
        for lane in (0..BLOCK).step_by(S::LANES) {
            let mean = S::load(row.affine.mean.add(lane));
            let scale = S::load(row.affine.scale.add(lane));
            let shift = S::load(row.affine.shift.add(lane));
            for voxel in 0..row.voxels {
                let at = voxel * BLOCK + lane;
                let centred = S::sub(S::load(row.main.add(at)), mean);
                let main = S::multiply_add(centred, scale, shift);
                let sum = S::add(main, S::load(row.shortcut.add(at)));
                S::store(row.output.add(at), S::max(sum, S::mul(sum, slope)));
            }
        }
    }
}
