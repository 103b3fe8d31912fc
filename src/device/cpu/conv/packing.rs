//! Weights in the order in which the direct sum reads them.

use super::*;

impl ConvLayout {
    /// Brings weights, `[out][in][k0][k1][k2]` (or `[in][out][e0][e1][e2]`), into the order
    /// `[group][chunk][tap][channel][output channel]`, where pairs or fours of channels lie together if a
    /// multiplication takes those.
    pub(in crate::device::cpu) fn pack(
        &self,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<ConvWeights> {
        let name = "packed weights";
        let mut packed = Buffer::zeroed(name, self.packed_weights)?;
        let values = packed.values_mut();
        let taps = self.taps.len();
        let inputs: usize = self.chunk_channels.iter().sum();
        let [_, e1, e2] = self.expand;
        let phases = self.expand.iter().product::<usize>();
        for group in &self.groups {
            let [p0, p1, p2] = group.phase;
            let phase = (p0 * e1 + p1) * e2 + p2;
            let from = |output: usize, input: usize, tap: usize| match self.conv.expand {
                None => (output * inputs + input) * taps + tap,
                Some(_) => (input * self.output_channels + output) * phases + phase,
            };
            let width = if group.wide { self.wide.width } else { self.narrow.width };
            let first_output = group.first_block * BLOCK;
            let outputs = width.min(self.output_channels - first_output);
            let mut steps = [1.0; WIDTH];
            if self.brick_values.is_quantised() {
                for (output, step) in steps.iter_mut().enumerate().take(outputs) {
                    let all = (0..inputs).flat_map(|input| (0..taps).map(move |tap| (input, tap)));
                    let weights =
                        all.map(|(input, tap)| weight[from(first_output + output, input, tap)]);
                    *step = weight_step(inputs * taps, weights);
                }
            }
            let mut totals = [0i32; WIDTH];
            let mut row = group.weights;
            let mut first_input = 0;
            for &channels in &self.chunk_channels {
                for tap in 0..taps {
                    for channel in 0..channels {
                        let row = row + channel / self.brick_values.channels() * width;
                        for output in 0..outputs {
                            let weight =
                                weight[from(first_output + output, first_input + channel, tap)];
                            totals[output] += self.brick_values.put_weight(
                                &mut values[row + output],
                                weight,
                                channel,
                                steps[output],
                            );
                        }
                    }
                    row += self.brick_values.rows(channels) * width;
                }
                first_input += channels;
            }
            if self.brick_values.factors() > 0 {
                for output in 0..width {
                    values[group.factors + output] = f32::from_bits(totals[output] as u32);
                    values[group.factors + width + output] = steps[output];
                }
            }
        }
        let mut biases = Buffer::zeroed(name, self.padded_channels())?;
        if let Some(bias) = bias {
            biases.values_mut()[..bias.len()].copy_from_slice(bias);
        }
        Ok(ConvWeights { packed, bias: biases })
    }
}

/// What a step of an output channel's `count` weights is worth: they become -127 to 127, or as few
/// steps less that 32 bits hold their sum with values of 8 bits.
fn weight_step(count: usize, weights: impl Iterator<Item = f32>) -> f32 {
    let most = weights.fold(0.0, |most: f32, weight| most.max(weight.abs()));
    let steps = (i32::MAX as usize / 255 / count).clamp(1, 127);
    (most / steps as f32).max(f32::MIN_POSITIVE)
}
