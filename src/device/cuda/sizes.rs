//! The sizes of a convolution, which its tiles and the order of its weights follow from.

use crate::net::plan::CHANNEL_BLOCK;
use crate::net::{Conv, Network};

/// One convolution's sizes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConvSizes {
    /// Channels of each source.
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: usize,
    /// Whether it reads the network's patch.
    pub(super) planar: bool,
    /// Whether its weights are a transposed convolution's.
    pub(super) transposed: bool,
    pub(super) kernel: [usize; 3],
    pub(super) stride: [usize; 3],
    pub(super) expand: [usize; 3],
    /// Voxels of the (enlarged) input and of the output.
    pub(super) input: [usize; 3],
    pub(super) output: [usize; 3],
}

impl ConvSizes {
    pub(super) fn new(network: &Network, conv: &Conv) -> Self {
        let first = &conv.sources[0];
        let stored = network.tensors[first.tensor.0].shape;
        let target = &network.tensors[conv.output.0];
        Self {
            inputs: conv.sources.iter().map(|s| network.tensors[s.tensor.0].channels).collect(),
            outputs: target.channels,
            planar: conv.sources.iter().any(|source| source.tensor == network.input),
            transposed: conv.expand.is_some(),
            kernel: conv.kernel,
            stride: conv.stride,
            expand: conv.expand.unwrap_or([1; 3]),
            input: std::array::from_fn(|axis| stored[axis] * first.upsample[axis]),
            output: target.shape,
        }
    }

    /// What tiles cut: the output, or the input where the convolution expands.
    pub(super) fn domain(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.output[axis] / self.expand[axis])
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Output voxels that an input voxel makes where the convolution expands; else 1.
    pub(super) fn expanded(&self) -> usize {
        self.expand.iter().product()
    }

    pub(super) fn padded_outputs(&self) -> usize {
        self.outputs.next_multiple_of(CHANNEL_BLOCK)
    }

    /// Channels of each source as they are stored.
    pub(super) fn stored_inputs(&self) -> impl Iterator<Item = usize> + '_ {
        let planar = self.planar;
        self.inputs.iter().map(move |&channels| match planar {
            true => channels,
            false => channels.next_multiple_of(CHANNEL_BLOCK),
        })
    }

    /// 16 input channels each.
    pub(super) fn chunks(&self) -> usize {
        self.stored_inputs().sum::<usize>() / CHANNEL_BLOCK
    }

    /// Multiplications.
    pub(super) fn multiplications(&self) -> f64 {
        let inputs: usize = self.inputs.iter().sum();
        let output: f64 = self.output.iter().map(|&extent| extent as f64).product();
        output * (inputs * self.outputs * self.taps()) as f64
    }

    /// Values of the output as it is stored.
    pub(super) fn outputs_in_all(&self) -> usize {
        self.padded_outputs() * self.output_voxels()
    }

    pub(super) fn output_voxels(&self) -> usize {
        self.output.iter().product()
    }
}
