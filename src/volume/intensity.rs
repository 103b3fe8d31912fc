//! nnU-Net's normalisation schemes.

use super::Generation;
use super::moments::Moments;

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
    /// Whether it treats voxels outside the non-zero mask in its own way.
    pub(super) fn masked(&self) -> bool {
        match *self {
            Self::Ct { masked, .. } | Self::Ct2 { masked, .. } | Self::ZScore { masked } => masked,
            Self::None | Self::RescaleTo01 => false,
        }
    }

    /// Whether it depends on the volume's values.
    pub(super) fn measures(&self) -> bool {
        !matches!(self, Self::Ct { .. } | Self::None)
    }

    /// Values that it depends on lie between these, without them.
    pub(super) fn counted(&self) -> (f64, f64) {
        match *self {
            Self::Ct2 { lower, upper, .. } => (lower, upper),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }

    /// Whether a value is one of those it depends on.
    pub(super) fn counts(&self, value: f32, inside: bool) -> bool {
        match *self {
            Self::ZScore { masked: true } => inside,
            _ => {
                let (above, below) = self.counted();
                f64::from(value) > above && f64::from(value) < below
            }
        }
    }

    /// What is to be done, `moments` being those of the values that count.
    pub(super) fn normalization(&self, moments: Moments, generation: Generation) -> Normalization {
        let (mean, deviation) = moments.mean_and_deviation();
        let keep = Normalization {
            lower: f32::NEG_INFINITY,
            upper: f32::INFINITY,
            mean: 0.0,
            deviation: 1.0,
            outside: match (self.masked(), generation) {
                (true, Generation::V1) => Outside::Zero,
                (true, Generation::V2) if matches!(self, Self::ZScore { .. }) => Outside::Kept,
                _ => Outside::Normalized,
            },
        };
        match *self {
            Self::None => keep,
            Self::Ct { lower, upper, mean, deviation, .. } => Normalization {
                lower: lower as f32,
                upper: upper as f32,
                mean: mean as f32,
                deviation: deviation.max(SMALLEST) as f32,
                ..keep
            },
            Self::Ct2 { lower, upper, .. } => Normalization {
                lower: lower as f32,
                upper: upper as f32,
                mean: mean as f32,
                deviation: deviation.max(SMALLEST) as f32,
                ..keep
            },
            Self::RescaleTo01 => {
                let (low, high) = moments.range;
                Normalization { mean: low, deviation: (high - low).max(SMALLEST as f32), ..keep }
            }
            Self::ZScore { .. } => {
                let deviation = match generation {
                    Generation::V1 => deviation + SMALLEST,
                    Generation::V2 => deviation.max(SMALLEST),
                };
                Normalization { mean: mean as f32, deviation: deviation as f32, ..keep }
            }
        }
    }
}

/// What happens to voxels outside the non-zero mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    Normalized,
    Kept,
    Zero,
}

/// What is done to a channel's values: clip, subtract the mean, divide by the deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Normalization {
    lower: f32,
    upper: f32,
    mean: f32,
    deviation: f32,
    pub(super) outside: Outside,
}

impl Normalization {
    /// A value inside the mask. Never decreases as `value` grows.
    pub(super) fn value(&self, value: f32) -> f32 {
        (value.clamp(self.lower, self.upper) - self.mean) / self.deviation
    }

    /// Lowest and highest value kept, what is subtracted, by what it is divided.
    pub(super) fn numbers(&self) -> [f32; 4] {
        [self.lower, self.upper, self.mean, self.deviation]
    }

    /// Normalises values; `inside(index)` says which lie in the mask.
    pub(super) fn apply(&self, values: &mut [f32], inside: impl Fn(usize) -> bool) {
        if self.outside == Outside::Normalized {
            values.iter_mut().for_each(|value| *value = self.value(*value));
            return;
        }
        for (index, value) in values.iter_mut().enumerate() {
            match (inside(index), self.outside) {
                (false, Outside::Zero) => *value = 0.0,
                (false, Outside::Kept) => {}
                _ => *value = self.value(*value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(how: Intensity, values: &[f32], mask: &[bool], generation: Generation) -> Vec<f32> {
        let mut values = values.to_vec();
        let counted = values.iter().copied().zip(mask).filter(|&(v, &m)| how.counts(v, m));
        let moments = Moments::of(counted.map(|(value, _)| value));
        how.normalization(moments, generation).apply(&mut values, |index| mask[index]);
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
