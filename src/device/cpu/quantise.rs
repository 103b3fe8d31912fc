//! Bricks of 8 bits: each value is a whole number of steps, of which a brick's range has 254.
//!
//! Zero is a whole number of steps exactly, so that padding stays what it is. The range is looked up
//! before the brick is read: normalising and activating keep the order of values (or turn it), so
//! the extremes of what is stored are all that needs to be normalised.

use super::memory::BLOCK;
use super::rows::{GatherRow, Normal, SpreadRow};
use super::simd::Simd;
use super::value::Value;

/// `1.5 * 2^23`: single precision near it counts in ones, so adding it rounds to nearest, ties to
/// even, and the lowest bits are the whole number that was added.
pub(super) const WHOLE: f32 = 12_582_912.0;
/// Ranges below this are as good as zero; their steps have no inverse.
const TINY: f32 = 1e-30;

/// The range of values seen, in as many lanes as a vector may have, and of zero.
#[derive(Default)]
pub(super) struct Extent {
    most: [f32; BLOCK],
    /// The most of the values' negatives.
    most_negated: [f32; BLOCK],
    /// Zeros, or NaN once a value was not finite.
    strange: [f32; BLOCK],
}

/// How a brick's values become 8 bits: `round(value * inverse) + zero`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quantisation {
    /// What a step is worth; NaN if a value was not finite, so that all that is made of the brick is.
    pub(super) step: f32,
    pub(super) inverse: f32,
    /// What zero becomes: a whole number, 0 to 255.
    pub(super) zero: f32,
}

impl Quantisation {
    /// For values within `extent`, which become 0 to 255: a step fewer than there could be, so
    /// that no rounding goes beyond.
    pub(super) fn of(extent: &Extent) -> Self {
        let most = |lanes: &[f32; BLOCK]| lanes.iter().fold(0.0, |most: f32, &lane| most.max(lane));
        let negated = most(&extent.most_negated);
        let range = most(&extent.most) + negated;
        let strange: f32 = extent.strange.iter().sum();
        if range < TINY {
            return Self { step: 1.0 + strange, inverse: 0.0, zero: 0.0 };
        }
        let inverse = 254.0 / range;
        Self { step: range / 254.0 + strange, inverse, zero: (negated * inverse).ceil() }
    }
}

/// Widens the [`Extent`] that `row.to` is to what [`super::rows::gather_row`] would read.
///
/// # Safety
/// As for that.
#[inline(always)]
pub(super) unsafe fn see_gathered<S: Simd, T: Value>(row: &GatherRow) {
    // SAFETY: as the caller promises; `LANES` is a divisor of 16.
    unsafe {
        let extent = &mut *row.to.extent();
        let nothing = S::splat(0.0);
        for lane in (0..BLOCK).step_by(S::LANES) {
            let from = row.from.values::<T>().add(lane);
            let read = |x: usize| {
                let source = (row.first + x * row.stride) / row.upsample;
                T::load::<S>(from.add(source * BLOCK))
            };
            let first = read(0);
            // Two of each, that they do not wait for one another.
            let (mut most, mut least, mut strange) = ([first; 2], [first; 2], [nothing; 2]);
            let mut see = |side: usize, value: S::Vector| {
                most[side] = S::max(most[side], value);
                least[side] = S::min(least[side], value);
                strange[side] = S::multiply_add(value, nothing, strange[side]);
            };
            // Each source is seen once where it is enlarged along the row.
            let mut x = 0;
            let step = (row.upsample / row.stride).max(1);
            if row.upsample == 1 && row.stride == 1 {
                let from = from.add(row.first * BLOCK);
                while x + 1 < row.count {
                    if lane == 0 {
                        S::prefetch(from.wrapping_add(row.ahead + x * BLOCK).cast());
                    }
                    see(0, T::load::<S>(from.add(x * BLOCK)));
                    see(1, T::load::<S>(from.add((x + 1) * BLOCK)));
                    x += 2;
                }
            }
            while x < row.count {
                see(0, read(x));
                x += step;
            }
            see(1, read(row.count - 1));
            let mut strange = S::add(strange[0], strange[1]);
            for mut value in [S::max(most[0], most[1]), S::min(least[0], least[1])] {
                if let Some(affine) = row.affine {
                    value = Normal::<S>::new(&affine, lane).activated(value);
                }
                let widen = |lanes: &mut [f32; BLOCK], value: S::Vector| {
                    let lanes = lanes.as_mut_ptr().add(lane);
                    S::store(lanes, S::max(S::load(lanes), value));
                };
                widen(&mut extent.most, value);
                widen(&mut extent.most_negated, S::sub(nothing, value));
                strange = S::multiply_add(value, nothing, strange);
            }
            let lanes = extent.strange.as_mut_ptr().add(lane);
            S::store(lanes, S::add(S::load(lanes), strange));
        }
    }
}

/// Widens the [`Extent`] that `row.to` is to what [`super::rows::spread_row`] would read.
///
/// # Safety
/// As for that.
pub(super) unsafe fn see_spread<T: Value>(row: &SpreadRow) {
    // SAFETY: as the caller promises.
    unsafe {
        let extent = &mut *row.to.extent();
        for channel in 0..row.channels {
            let from = row.from.values::<T>().add(channel * row.channel_stride);
            for first in (0..row.count).step_by(BLOCK) {
                // Lanes of their own, which the compiler makes vectors of.
                let voxel = |lane: usize| row.source((first + lane).min(row.count - 1));
                let values: [f32; BLOCK] = match row.upsample * row.stride {
                    1 if first + BLOCK <= row.count => {
                        std::array::from_fn(|lane| (*from.add(row.first + first + lane)).get())
                    }
                    _ => std::array::from_fn(|lane| (*from.add(voxel(lane))).get()),
                };
                for (lane, value) in values.into_iter().enumerate() {
                    let larger = |a: f32, b: f32| if a > b { a } else { b };
                    extent.most[lane] = larger(value, extent.most[lane]);
                    extent.most_negated[lane] = larger(-value, extent.most_negated[lane]);
                    extent.strange[lane] += value * 0.0;
                }
            }
        }
    }
}
