//! STU-Net (Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models",
//! arXiv 2304.06716): tensor names to network.
//!
//! The network is emitted fused: each convolution's instance normalisation and LeakyReLU happen
//! where its output is read; a bias that a normalisation cancels is not loaded; the 1x1x1
//! convolution that follows a nearest-neighbour enlargement runs before it.

use super::package::Part;
use crate::net::{
    Conv, Epilogue, Head, Join, Network, Normalization, Op, Parameter, ParameterId, Source,
    StatisticsId, Tensor, TensorId,
};

/// Of PyTorch's InstanceNorm3d.
const EPSILON: f32 = 1e-5;
/// Of PyTorch's LeakyReLU.
const SLOPE: f32 = 0.01;

/// The network of a checked part.
pub(super) fn network(part: &Part) -> Network {
    let shape = &part.architecture;
    let mut build = Builder {
        network: Network {
            tensors: Vec::new(),
            parameters: Vec::new(),
            statistics: 0,
            ops: Vec::new(),
            input: TensorId(0),
            output: TensorId(0),
            head: Head { weight: ParameterId(0), bias: None },
            classes: shape.classes,
        },
    };
    let input = build.tensor(shape.input_channels, part.patch);
    let mut last = input;
    let mut skips = Vec::new();
    for (level, (&channels, &blocks)) in shape.channels.iter().zip(&shape.blocks).enumerate() {
        let stride = if level == 0 { [1; 3] } else { shape.strides[level - 1] };
        let name = format!("conv_blocks_context.{level}");
        last = build.stage(&name, vec![Source::plain(last)], channels, blocks, stride);
        skips.push(last);
    }
    skips.pop();
    for (up, level) in (0..shape.strides.len()).rev().enumerate() {
        let channels = shape.channels[level];
        let name = format!("upsample_layers.{up}.conv");
        let source = vec![Source::plain(last)];
        let raised = build.conv(&name, source, channels, [1; 3], [1; 3], true, Epilogue::Plain);
        let raised = Source { tensor: raised, upsample: shape.strides[level], normalization: None };
        let name = format!("conv_blocks_localization.{up}");
        let sources = vec![raised, Source::plain(skips[level])];
        last = build.stage(&name, sources, channels, shape.blocks[level], [1; 3]);
    }
    let head = format!("seg_outputs.{}", shape.strides.len() - 1);
    let weight = vec![shape.classes, shape.channels[0], 1, 1, 1];
    let weight = build.parameter(format!("{head}.weight"), weight);
    let bias = Some(build.parameter(format!("{head}.bias"), vec![shape.classes]));
    build.network.head = Head { weight, bias };
    build.network.output = last;
    build.network
}

/// Tensors of a checkpoint that inference does not need: biases that are cancelled, and the heads
/// of deep supervision.
pub(super) fn unused_tensors(part: &Part) -> Vec<Parameter> {
    let shape = &part.architecture;
    let mut unused = Vec::new();
    let mut add = |name: String, shape: Vec<usize>| unused.push(Parameter { name, shape });
    let steps = shape.strides.len();
    let encoder = (0..=steps).map(|level| ("conv_blocks_context", level, level));
    let decoder = (0..steps).map(|up| ("conv_blocks_localization", up, steps - 1 - up));
    for (part, index, level) in encoder.chain(decoder) {
        for block in 0..shape.blocks[level] {
            for conv in ["conv1", "conv2"] {
                add(format!("{part}.{index}.{block}.{conv}.bias"), vec![shape.channels[level]]);
            }
        }
    }
    for up in 0..steps - 1 {
        let channels = shape.channels[steps - 1 - up];
        add(format!("seg_outputs.{up}.weight"), vec![shape.classes, channels, 1, 1, 1]);
        add(format!("seg_outputs.{up}.bias"), vec![shape.classes]);
    }
    unused
}

struct Builder {
    network: Network,
}

impl Builder {
    fn tensor(&mut self, channels: usize, shape: [usize; 3]) -> TensorId {
        self.network.tensors.push(Tensor { channels, shape });
        TensorId(self.network.tensors.len() - 1)
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>) -> ParameterId {
        self.network.parameters.push(Parameter { name, shape });
        ParameterId(self.network.parameters.len() - 1)
    }

    #[allow(clippy::too_many_arguments)]
    fn conv(
        &mut self,
        name: &str,
        sources: Vec<Source>,
        channels: usize,
        kernel: [usize; 3],
        stride: [usize; 3],
        bias: bool,
        epilogue: Epilogue,
    ) -> TensorId {
        let inputs = sources.iter().map(|s| self.network.tensors[s.tensor.0].channels).sum();
        let Source { tensor, upsample, .. } = sources[0];
        let input = self.network.tensors[tensor.0].shape;
        let shape =
            std::array::from_fn(|axis| (input[axis] * upsample[axis]).div_ceil(stride[axis]));
        let weight = vec![channels, inputs, kernel[0], kernel[1], kernel[2]];
        let weight = self.parameter(format!("{name}.weight"), weight);
        let bias = bias.then(|| self.parameter(format!("{name}.bias"), vec![channels]));
        let output = self.tensor(channels, shape);
        let conv = Conv { sources, weight, bias, kernel, stride, output, epilogue };
        self.network.ops.push(Op::Conv(conv));
        output
    }

    /// A 3x3x3 convolution that is followed by an instance normalisation, and how to normalise.
    fn normalized_conv(
        &mut self,
        block: &str,
        number: usize,
        sources: Vec<Source>,
        channels: usize,
        stride: [usize; 3],
    ) -> (TensorId, Normalization) {
        let statistics = StatisticsId(self.network.statistics);
        self.network.statistics += 1;
        let epilogue = Epilogue::Statistics(statistics);
        let name = format!("{block}.conv{number}");
        let tensor = self.conv(&name, sources, channels, [3; 3], stride, false, epilogue);
        let scale = self.parameter(format!("{block}.norm{number}.weight"), vec![channels]);
        let shift = self.parameter(format!("{block}.norm{number}.bias"), vec![channels]);
        (tensor, Normalization { statistics, scale, shift, epsilon: EPSILON, slope: SLOPE })
    }

    /// Residual blocks; the first changes channels and stride and projects its shortcut.
    fn stage(
        &mut self,
        name: &str,
        sources: Vec<Source>,
        channels: usize,
        blocks: usize,
        stride: [usize; 3],
    ) -> TensorId {
        let block = format!("{name}.0");
        let (main, normalization) = self.two_convs(&block, sources.clone(), channels, stride);
        let epilogue = Epilogue::AddNormalized { main, normalization };
        let shortcut = format!("{block}.conv3");
        let mut last = self.conv(&shortcut, sources, channels, [1; 3], stride, true, epilogue);
        for number in 1..blocks {
            let block = format!("{name}.{number}");
            let source = vec![Source::plain(last)];
            let (main, normalization) = self.two_convs(&block, source, channels, [1; 3]);
            let shape = self.network.tensors[main.0].shape;
            let output = self.tensor(channels, shape);
            self.network.ops.push(Op::Join(Join { main, normalization, shortcut: last, output }));
            last = output;
        }
        last
    }

    /// The main branch of a residual block: two convolutions, and how its result is normalised.
    fn two_convs(
        &mut self,
        block: &str,
        sources: Vec<Source>,
        channels: usize,
        stride: [usize; 3],
    ) -> (TensorId, Normalization) {
        let (first, normalization) = self.normalized_conv(block, 1, sources, channels, stride);
        let source = Source { tensor: first, upsample: [1; 3], normalization: Some(normalization) };
        self.normalized_conv(block, 2, vec![source], channels, [1; 3])
    }
}
