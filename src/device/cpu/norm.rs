//! From a tensor's statistics to what a reader applies to it.

use super::memory::{BLOCK, Buffer};
use super::rows::Affine;
use super::statistics::Partial;
use crate::base::Result;
use crate::net::Normalization;

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

    /// Recomputes them for the first `channels` channels: `statistics` are the tensor's, if it is
    /// normalised, `affine` the normalisation's scale and shift.
    pub(super) fn update(
        &mut self,
        channels: usize,
        statistics: Option<&[Partial]>,
        affine: Option<[&[f32]; 2]>,
        normalization: &Normalization,
    ) {
        self.slope = normalization.slope;
        for channel in 0..channels {
            let (mean, deviation) = statistics.map_or((0.0, 1.0), |statistics| {
                let partial = statistics[channel];
                (partial.mean, (partial.variance() + f64::from(normalization.epsilon)).sqrt())
            });
            let [scale, shift] = affine.map_or([1.0, 0.0], |affine| affine.map(|of| of[channel]));
            self.mean.values_mut()[channel] = mean as f32;
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
