//! A convolution's weights in the order in which its kernel reads them.

use half::f16;

use super::sizes::ConvSizes;
use super::tiles::{ConvKernel, STRING};
use crate::net::plan::CHANNEL_BLOCK;

/// Weights of one convolution, as bytes of 16 or 32 bits per value.
pub(super) enum Packed {
    Half(Vec<f16>),
    Float(Vec<f32>),
}

impl Packed {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Half(values) => bytemuck::cast_slice(values),
            Self::Float(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Bytes that [`pack`] makes.
pub(super) fn packed_bytes(sizes: &ConvSizes, kernel: ConvKernel) -> usize {
    let groups = sizes.padded_outputs().div_ceil(kernel.width()) * sizes.expanded();
    let columns = groups * kernel.width();
    let inputs = sizes.stored_inputs().sum::<usize>() * sizes.taps();
    match kernel {
        ConvKernel::Mma(_) | ConvKernel::MmaShortcut => 2 * columns * inputs,
        ConvKernel::DirectHalf => 2 * columns * inputs.next_multiple_of(CHANNEL_BLOCK),
        ConvKernel::DirectFloat => 4 * columns * inputs,
    }
}

/// Weights `[out][in][k0][k1][k2]`, or `[in][out][e0][e1][e2]` of a transposed convolution, as the
/// kernel wants them: its header says how.
pub(super) fn pack(sizes: &ConvSizes, kernel: ConvKernel, weights: &[f32]) -> Packed {
    let width = kernel.width();
    match kernel {
        ConvKernel::Mma(_) | ConvKernel::MmaShortcut => {
            Packed::Half(pack_mma(sizes, width, weights))
        }
        ConvKernel::DirectHalf => Packed::Half(pack_patch(sizes, width, weights)),
        ConvKernel::DirectFloat => Packed::Float(pack_float(sizes, width, weights)),
    }
}

/// Where weights lie in the checkpoint's order.
struct Weights<'a> {
    values: &'a [f32],
    /// From one output channel, input channel and tap to the next.
    output: usize,
    input: usize,
    outputs: usize,
    /// The network's input channel of each stored one; `None` for padding.
    inputs: Vec<Option<usize>>,
}

impl<'a> Weights<'a> {
    fn new(sizes: &ConvSizes, values: &'a [f32]) -> Self {
        let all: usize = sizes.inputs.iter().sum();
        let (output, input) = match sizes.transposed {
            false => (all * sizes.taps(), sizes.taps()),
            true => (sizes.expanded(), sizes.outputs * sizes.expanded()),
        };
        let mut inputs = Vec::new();
        let mut first = 0;
        for (&channels, stored) in sizes.inputs.iter().zip(sizes.stored_inputs()) {
            inputs.extend((0..stored).map(|c| (c < channels).then_some(first + c)));
            first += channels;
        }
        Self { values, output, input, outputs: sizes.outputs, inputs }
    }

    /// `tap` is one of the kernel, or of the voxels that an input voxel makes.
    fn get(&self, output: usize, stored_input: usize, tap: usize) -> f32 {
        match self.inputs[stored_input] {
            Some(input) if output < self.outputs => {
                self.values[output * self.output + input * self.input + tap]
            }
            _ => 0.0,
        }
    }
}

/// Operands of `mma.m16n8k16` for 16 columns, in the order of lanes: two times rows 2t, 2t + 1,
/// 2t + 8, 2t + 9 of column g, with g = lane / 4 (and 8 more), t = lane % 4.
fn push_operands(packed: &mut Vec<f16>, value: impl Fn(usize, usize) -> f32) {
    for lane in 0..32 {
        for half in 0..2 {
            for row in [0, 1, 8, 9] {
                let at = value(lane % 4 * 2 + row, lane / 4 + half * 8);
                packed.push(f16::from_f32(at));
            }
        }
    }
}

/// `[expand tap][group][chunk][kernel plane][column][row][columns / 16]` operands.
fn pack_mma(sizes: &ConvSizes, width: usize, values: &[f32]) -> Vec<f16> {
    let weights = Weights::new(sizes, values);
    let [planes, rows, columns] = sizes.kernel;
    let taps: Vec<usize> = (0..planes)
        .flat_map(|plane| (0..columns).map(move |column| (plane, column)))
        .flat_map(|(plane, column)| {
            (0..rows).map(move |row| (plane * rows + row) * columns + column)
        })
        .collect();
    let mut packed = Vec::new();
    for expanded in 0..sizes.expanded() {
        for group in (0..sizes.padded_outputs()).step_by(width) {
            for chunk in 0..sizes.chunks() {
                for &tap in &taps {
                    for pair in (0..width).step_by(16) {
                        push_operands(&mut packed, |row, column| {
                            let input = chunk * CHANNEL_BLOCK + row;
                            weights.get(group + pair + column, input, tap + expanded)
                        });
                    }
                }
            }
        }
    }
    packed
}

/// `[group][channels and taps / 16][columns / 16]` operands.
fn pack_patch(sizes: &ConvSizes, width: usize, values: &[f32]) -> Vec<f16> {
    let weights = Weights::new(sizes, values);
    let taps = sizes.taps();
    let inputs = sizes.stored_inputs().sum::<usize>() * taps;
    let mut packed = Vec::new();
    for group in (0..sizes.padded_outputs()).step_by(width) {
        for first in (0..inputs).step_by(16) {
            for pair in (0..width).step_by(16) {
                push_operands(&mut packed, |row, column| match first + row {
                    at if at < inputs => weights.get(group + pair + column, at / taps, at % taps),
                    _ => 0.0,
                });
            }
        }
    }
    packed
}

/// `[expand tap][group][string][tap][channel of the string][16]`; a patch's strings are of one
/// channel.
fn pack_float(sizes: &ConvSizes, width: usize, values: &[f32]) -> Vec<f32> {
    let weights = Weights::new(sizes, values);
    let string = if sizes.planar { 1 } else { STRING };
    let inputs = sizes.stored_inputs().sum::<usize>();
    let mut packed = Vec::new();
    for expanded in 0..sizes.expanded() {
        for group in (0..sizes.padded_outputs()).step_by(width) {
            for first in (0..inputs).step_by(string) {
                for tap in 0..sizes.taps() {
                    for input in first..first + string {
                        let row = |column| weights.get(group + column, input, tap + expanded);
                        packed.extend((0..width).map(row));
                    }
                }
            }
        }
    }
    packed
}
