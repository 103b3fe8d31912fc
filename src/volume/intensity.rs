//! nnU-Net's normalisation schemes.

use super::Generation;
use crate::base::Result;
use crate::base::error::{filled, reserved};

/// How a channel's values become numbers of order one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Intensity {
    /// Clip to [lower, upper], subtract mean, divide by deviation (at least 1e-8).
    Ct {
        /// With [`Generation::V1`]: zero outside the non-zero mask.
        masked: bool,
        /// 0.5th percentile of the training set's foreground.
        lower: f64,
        /// 99.5th percentile.
        upper: f64,
        /// Mean of the training set's foreground.
        mean: f64,
        /// Standard deviation of the training set's foreground.
        deviation: f64,
    },
    /// Clip, then subtract the mean and divide by the standard deviation of the values between
    /// the limits.
    Ct2 {
        /// Zero outside the non-zero mask.
        masked: bool,
        /// Lowest value kept.
        lower: f64,
        /// Highest value kept.
        upper: f64,
    },
    /// Subtract the volume's mean, divide by its standard deviation (at least 1e-8).
    ZScore {
        /// Statistics and transform only inside the hole-filled non-zero mask; outside, values
        /// become zero with [`Generation::V1`] and stay as they are with [`Generation::V2`].
        masked: bool,
    },
    /// Values as they are.
    None,
    /// To [0, 1] by the volume's minimum and maximum.
    RescaleTo01,
}

/// Keeps divisors away from zero, as nnU-Net does.
const SMALLEST: f64 = 1e-8;

impl Intensity {
    /// Whether [`Intensity::apply`] needs a mask.
    pub(super) fn masked(&self) -> bool {
        match *self {
            Self::Ct { masked, .. } | Self::Ct2 { masked, .. } | Self::ZScore { masked } => masked,
            Self::None | Self::RescaleTo01 => false,
        }
    }

    /// Normalises one channel; `mask` is needed by a masked scheme only.
    pub(super) fn apply(&self, values: &mut [f32], mask: Option<&[bool]>, generation: Generation) {
        let mask = mask.filter(|_| self.masked());
        let inside = |index: usize| mask.is_none_or(|mask| mask[index]);
        match *self {
            Self::None => {}
            Self::Ct { lower, upper, mean, deviation, .. } => {
                let (lower, upper, mean) = (lower as f32, upper as f32, mean as f32);
                let deviation = deviation.max(SMALLEST) as f32;
                for value in values.iter_mut() {
                    *value = (value.clamp(lower, upper) - mean) / deviation;
                }
            }
            Self::Ct2 { lower, upper, .. } => {
                let between = |value: f32| f64::from(value) > lower && f64::from(value) < upper;
                let (mean, deviation) = statistics(values, |_, value| between(value));
                let (lower, upper, mean) = (lower as f32, upper as f32, mean as f32);
                let deviation = deviation.max(SMALLEST) as f32;
                for value in values.iter_mut() {
                    *value = (value.clamp(lower, upper) - mean) / deviation;
                }
            }
            Self::RescaleTo01 => {
                let (low, high) = values
                    .iter()
                    .fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
                let range = (high - low).max(SMALLEST as f32);
                values.iter_mut().for_each(|value| *value = (*value - low) / range);
            }
            Self::ZScore { .. } => {
                let (mean, deviation) = statistics(values, |index, _| inside(index));
                let deviation = match generation {
                    Generation::V1 => deviation + SMALLEST,
                    Generation::V2 => deviation.max(SMALLEST),
                };
                let (mean, deviation) = (mean as f32, deviation as f32);
                for (index, value) in values.iter_mut().enumerate() {
                    if inside(index) {
                        *value = (*value - mean) / deviation;
                    }
                }
            }
        }
        if let (Some(mask), Generation::V1) = (mask, generation) {
            for (value, _) in values.iter_mut().zip(mask).filter(|(_, inside)| !**inside) {
                *value = 0.0;
            }
        }
    }
}

/// Mean and standard deviation of those values that `counts(index, value)`.
fn statistics(values: &[f32], counts: impl Fn(usize, f32) -> bool) -> (f64, f64) {
    let counted = || values.iter().enumerate().filter(|&(index, &value)| counts(index, value));
    let (mut count, mut sum) = (0usize, 0.0);
    for (_, &value) in counted() {
        count += 1;
        sum += f64::from(value);
    }
    let mean = sum / count.max(1) as f64;
    let squares: f64 = counted().map(|(_, &value)| (f64::from(value) - mean).powi(2)).sum();
    (mean, (squares / count.max(1) as f64).sqrt())
}

/// Where any channel is not zero, holes filled: zeros that no path of face neighbours connects
/// to the box's surface. `data` is `[channels][shape0][shape1][shape2]`.
pub(super) fn filled_mask(data: &[f32], shape: [usize; 3]) -> Result<Vec<bool>> {
    let voxels: usize = shape.iter().product();
    let mut zero = filled("non-zero mask", voxels, true)?;
    for channel in data.chunks_exact(voxels) {
        for (zero, &value) in zero.iter_mut().zip(channel) {
            *zero &= value == 0.0;
        }
    }
    // Everything is inside until the flood from the surface reaches it.
    let mut inside = filled("non-zero mask", voxels, true)?;
    let mut front: Vec<usize> = reserved("non-zero mask", voxels)?;
    let place =
        |voxel: usize| [voxel / shape[2] / shape[1], voxel / shape[2] % shape[1], voxel % shape[2]];
    let steps = [shape[1] * shape[2], shape[2], 1];
    for voxel in 0..voxels {
        let on_surface =
            place(voxel).iter().zip(shape).any(|(&at, extent)| at == 0 || at + 1 == extent);
        if on_surface && zero[voxel] {
            inside[voxel] = false;
            front.push(voxel);
        }
    }
    while let Some(voxel) = front.pop() {
        let at = place(voxel);
        for axis in 0..3 {
            let lower = (at[axis] > 0).then(|| voxel - steps[axis]);
            let upper = (at[axis] + 1 < shape[axis]).then(|| voxel + steps[axis]);
            for next in lower.into_iter().chain(upper) {
                if zero[next] && inside[next] {
                    inside[next] = false;
                    front.push(next);
                }
            }
        }
    }
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(how: Intensity, values: &[f32], mask: &[bool], generation: Generation) -> Vec<f32> {
        let mut values = values.to_vec();
        how.apply(&mut values, Some(mask), generation);
        values
    }

    #[track_caller]
    fn same(found: &[f32], expected: &[f32]) {
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close && found.len() == expected.len(), "{found:?}, expected {expected:?}");
    }

    // Expected values from NumPy, by the formulas of nnU-Net 1.7.1's GenericPreprocessor.
    #[test]
    fn schemes_of_the_first_generation() {
        let values = [-5.0, 0.0, 1.0, 2.0, 4.0, 10.0];
        let mask = [true, true, true, true, true, false];
        // Mean and deviation of 1, 2, 4: those strictly between the limits.
        let ct2 = |masked| Intensity::Ct2 { masked, lower: 0.0, upper: 5.0 };
        let expected = [-1.870_829, -1.870_829, -1.069_045, -0.267_261, 1.336_306, 2.138_09];
        same(&applied(ct2(false), &values, &mask, Generation::V1), &expected);
        let outside = [&expected[..5], &[0.0]].concat();
        same(&applied(ct2(true), &values, &mask, Generation::V1), &outside);

        let ct =
            |masked| Intensity::Ct { masked, lower: 0.0, upper: 5.0, mean: 1.0, deviation: 2.0 };
        let expected = [-0.5, -0.5, 0.0, 0.5, 1.5, 2.0];
        same(&applied(ct(false), &values, &mask, Generation::V1), &expected);
        let outside = [&expected[..5], &[0.0]].concat();
        same(&applied(ct(true), &values, &mask, Generation::V1), &outside);
        // The second generation knows no mask here.
        same(&applied(ct(true), &values, &mask, Generation::V2), &expected);

        same(&applied(Intensity::None, &values, &mask, Generation::V1), &values);
    }

    #[test]
    fn z_scores_outside_the_mask_differ_by_generation() {
        let (values, mask) = ([7.0, 2.0, 4.0], [false, true, true]);
        let masked = Intensity::ZScore { masked: true };
        same(&applied(masked, &values, &mask, Generation::V1), &[0.0, -1.0, 1.0]);
        same(&applied(masked, &values, &mask, Generation::V2), &[7.0, -1.0, 1.0]);
        // Deviations of zero: plus 1e-8, or at least that.
        for generation in [Generation::V1, Generation::V2] {
            let plain = Intensity::ZScore { masked: false };
            same(&applied(plain, &[3.0; 4], &[true; 4], generation), &[0.0; 4]);
        }
    }
}
