//! Mean and variance, merged pairwise in a fixed order: never as the difference of two sums.
//!
//! Formula: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing
//! sample variances" (1979).

/// Output channels that a convolution's tile can have.
pub(super) const WIDTH: usize = 32;

/// Count, mean and sum of squared deviations of up to [`WIDTH`] channels.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) count: f64,
    pub(super) mean: [f64; WIDTH],
    pub(super) deviations: [f64; WIDTH],
}

impl Running {
    pub(super) const EMPTY: Self =
        Self { count: 0.0, mean: [0.0; WIDTH], deviations: [0.0; WIDTH] };

    /// Adds `count` values of each channel, given their means and squared deviations.
    #[inline(always)]
    pub(super) fn merge(&mut self, count: f64, mean: &[f32; WIDTH], deviations: &[f32; WIDTH]) {
        let total = self.count + count;
        let share = count / total;
        let cross = self.count * share;
        for channel in 0..WIDTH {
            let delta = f64::from(mean[channel]) - self.mean[channel];
            self.mean[channel] += delta * share;
            self.deviations[channel] += f64::from(deviations[channel]) + delta * delta * cross;
        }
        self.count = total;
    }

    /// What there is of one channel.
    pub(super) fn channel(&self, channel: usize) -> Partial {
        Partial {
            count: self.count,
            mean: self.mean[channel],
            deviations: self.deviations[channel],
        }
    }
}

/// One channel's mean and sum of squared deviations over the voxels of one task.
#[derive(Clone, Copy, Default)]
pub(super) struct Partial {
    pub(super) count: f64,
    pub(super) mean: f64,
    pub(super) deviations: f64,
}

impl Partial {
    /// This and `other` together.
    pub(super) fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let delta = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + delta * (other.count / count),
            deviations: self.deviations
                + other.deviations
                + delta * delta * (self.count * other.count / count),
        }
    }

    /// Variance over all values (not the sample's estimate), as instance normalisation uses.
    pub(super) fn variance(self) -> f64 {
        if self.count == 0.0 { 0.0 } else { self.deviations / self.count }
    }
}
