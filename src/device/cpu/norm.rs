//! From a tensor's statistics to what a reader applies to it.

use super::memory::{BLOCK, Buffer};
use super::rows::Affine;
use super::statistics::Partial;
use crate::base::Result;

/// Mean, scale and shift of every channel, blocks of 16.
pub(super) struct Coefficients {
    mean: Buffer,
    scale: Buffer,
    shift: Buffer,
    slope: f32,
}

impl Coefficients {
    pub(super) fn new(channels: usize) -> Result<Self> {
        let zeroed = || Buffer::zeroed("normalisation coefficients", channels);
        Ok(Self { mean: zeroed()?, scale: zeroed()?, shift: zeroed()?, slope: 1.0 })
    }

    /// Bytes for `channels` channels.
    pub(super) fn bytes(channels: usize) -> usize {
        3 * 4 * channels.next_multiple_of(BLOCK)
    }

    /// Recomputes them: `scale` and `shift` are the affine parameters of the normalisation.
    pub(super) fn update(
        &mut self,
        statistics: &[Partial],
        scale: &[f32],
        shift: &[f32],
        epsilon: f32,
        slope: f32,
    ) {
        self.slope = slope;
        for (channel, (&scale, &shift)) in scale.iter().zip(shift).enumerate() {
            let statistics = statistics[channel];
            let deviation = (statistics.variance() + f64::from(epsilon)).sqrt();
            self.mean.values_mut()[channel] = statistics.mean as f32;
            self.scale.values_mut()[channel] = (f64::from(scale) / deviation) as f32;
            self.shift.values_mut()[channel] = shift;
        }
    }

    /// Those of one block of 16 channels (and of the next, for a kernel that takes 32).
    pub(super) fn affine(&self, block: usize) -> Affine {
        let at = block * BLOCK;
        Affine {
            mean: self.mean.values()[at..].as_ptr(),
            scale: self.scale.values()[at..].as_ptr(),
            shift: self.shift.values()[at..].as_ptr(),
            slope: self.slope,
        }
    }
}
