//! What the families share.

use super::Built;
use crate::model::package::{Architecture, NormalizationLayer, Part};
use crate::net::{
    Affine, AveragePool, Conv, Epilogue, Head, Join, Network, Normalization, Op, Parameter,
    ParameterId, Reading, Source, StatisticsId, Tensor, TensorId,
};

/// Puts a network together. Its values are [`Source`]s: tensors, and what is pending on them.
pub(super) struct Builder<'a> {
    pub(super) shape: &'a Architecture,
    network: Network,
    unused: Vec<Parameter>,
}

/// Where a convolution reads, and its shape.
pub(super) struct Layer {
    pub(super) sources: Vec<Source>,
    pub(super) channels: usize,
    pub(super) kernel: [usize; 3],
    pub(super) stride: [usize; 3],
}

impl<'a> Builder<'a> {
    /// Begins with the patch, which is the second value.
    pub(super) fn new(part: &'a Part) -> (Self, Source) {
        let shape = &part.architecture;
        let network = Network {
            tensors: Vec::new(),
            parameters: Vec::new(),
            statistics: 0,
            ops: Vec::new(),
            input: TensorId(0),
            output: TensorId(0),
            head: Head { weight: ParameterId(0), bias: None },
            classes: shape.classes,
        };
        let mut builder = Self { shape, network, unused: Vec::new() };
        let input = builder.tensor(shape.input_channels, part.patch);
        (builder, Source::plain(input))
    }

    /// Ends with the last head that the names have, `{heads}.{steps - 1}`; those before are of
    /// deep supervision.
    pub(super) fn finish(mut self, last: Source, heads: &str) -> Built {
        let shape = self.shape;
        let steps = shape.strides.len();
        for step in 0..steps {
            let channels = shape.channels[steps - 1 - step];
            let weight = vec![shape.classes, channels, 1, 1, 1];
            let name = format!("{heads}.{step}");
            let bias = shape.head_bias.then_some(format!("{name}.bias"));
            if step + 1 < steps {
                self.unused(format!("{name}.weight"), weight);
                bias.into_iter().for_each(|bias| self.unused(bias, vec![shape.classes]));
            } else {
                let weight = self.parameter(format!("{name}.weight"), weight);
                let bias = bias.map(|bias| self.parameter(bias, vec![shape.classes]));
                self.network.head = Head { weight, bias };
            }
        }
        self.network.output = match last.normalization {
            None => last.tensor,
            Some(normalization) => self.join_tensors(last.tensor, normalization, None),
        };
        Built { network: self.network, unused: self.unused }
    }

    fn tensor(&mut self, channels: usize, shape: [usize; 3]) -> TensorId {
        self.network.tensors.push(Tensor { channels, shape });
        TensorId(self.network.tensors.len() - 1)
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>) -> ParameterId {
        self.network.parameters.push(Parameter { name, shape });
        ParameterId(self.network.parameters.len() - 1)
    }

    fn unused(&mut self, name: String, shape: Vec<usize>) {
        self.unused.push(Parameter { name, shape });
    }

    pub(super) fn channels(&self, source: &Source) -> usize {
        self.network.tensors[source.tensor.0].channels
    }

    /// A convolution as it is written.
    pub(super) fn conv(
        &mut self,
        name: &str,
        layer: Layer,
        bias: bool,
        epilogue: Epilogue,
    ) -> TensorId {
        let Layer { sources, channels, kernel, stride } = layer;
        let inputs = sources.iter().map(|source| self.channels(source)).sum();
        let Source { tensor, upsample, .. } = sources[0];
        let input = self.network.tensors[tensor.0].shape;
        let shape =
            std::array::from_fn(|axis| (input[axis] * upsample[axis]).div_ceil(stride[axis]));
        let weight = vec![channels, inputs, kernel[0], kernel[1], kernel[2]];
        let weight = self.parameter(format!("{name}.weight"), weight);
        let bias = bias.then(|| self.parameter(format!("{name}.bias"), vec![channels]));
        let output = self.tensor(channels, shape);
        let conv = Conv { sources, weight, bias, kernel, stride, expand: None, output, epilogue };
        self.network.ops.push(Op::Conv(conv));
        output
    }

    /// A convolution and the normalisation and activation that follow it, which stay pending.
    /// `cancelled_bias` says whether checkpoints have a bias that a normalisation cancels.
    pub(super) fn conv_block(
        &mut self,
        conv: &str,
        norm: &str,
        layer: Layer,
        cancelled_bias: bool,
    ) -> (TensorId, Normalization) {
        let channels = layer.channels;
        let (slope, epsilon) = (self.shape.slope as f32, self.shape.epsilon as f32);
        match self.shape.normalization {
            NormalizationLayer::None => {
                let tensor = self.conv(conv, layer, true, Epilogue::Plain);
                (tensor, Normalization { statistics: None, affine: None, epsilon, slope })
            }
            NormalizationLayer::Instance | NormalizationLayer::InstanceWithoutAffine => {
                let id = StatisticsId(self.network.statistics);
                self.network.statistics += 1;
                let tensor = self.conv(conv, layer, false, Epilogue::Statistics(id));
                if cancelled_bias {
                    self.unused(format!("{conv}.bias"), vec![channels]);
                }
                let affine =
                    (self.shape.normalization == NormalizationLayer::Instance).then(|| {
                        let scale = self.parameter(format!("{norm}.weight"), vec![channels]);
                        let shift = self.parameter(format!("{norm}.bias"), vec![channels]);
                        Affine { scale, shift }
                    });
                (tensor, Normalization { statistics: Some(id), affine, epsilon, slope })
            }
        }
    }

    /// [`Builder::conv_block`] under nnU-Net's names: `{block}.conv` and `{block}.{norm}`.
    pub(super) fn named_block(&mut self, block: &str, norm: &str, layer: Layer) -> Source {
        let (tensor, normalization) =
            self.conv_block(&format!("{block}.conv"), &format!("{block}.{norm}"), layer, true);
        Source { tensor, upsample: [1; 3], normalization: Some(normalization) }
    }

    /// A transposed convolution whose kernel is its stride.
    pub(super) fn transposed(
        &mut self,
        name: &str,
        source: Source,
        channels: usize,
        expand: [usize; 3],
    ) -> Source {
        let input = &self.network.tensors[source.tensor.0];
        let (inputs, extents) = (input.channels, input.shape);
        let weight = vec![inputs, channels, expand[0], expand[1], expand[2]];
        let weight = self.parameter(format!("{name}.weight"), weight);
        let bias = self.shape.transposed_bias;
        let bias = bias.then(|| self.parameter(format!("{name}.bias"), vec![channels]));
        let output = self.tensor(channels, std::array::from_fn(|a| extents[a] * expand[a]));
        self.network.ops.push(Op::Conv(Conv {
            sources: vec![source],
            weight,
            bias,
            kernel: [1; 3],
            stride: [1; 3],
            expand: Some(expand),
            output,
            epilogue: Epilogue::Plain,
        }));
        Source::plain(output)
    }

    /// The end of a residual block.
    pub(super) fn join(
        &mut self,
        main: TensorId,
        normalization: Normalization,
        shortcut: Source,
    ) -> Source {
        let shortcut = Reading { tensor: shortcut.tensor, normalization: shortcut.normalization };
        Source::plain(self.join_tensors(main, normalization, Some(shortcut)))
    }

    fn join_tensors(
        &mut self,
        main: TensorId,
        normalization: Normalization,
        shortcut: Option<Reading>,
    ) -> TensorId {
        let Tensor { channels, shape } = self.network.tensors[main.0];
        let output = self.tensor(channels, shape);
        self.network.ops.push(Op::Join(Join { main, normalization, shortcut, output }));
        output
    }

    /// The mean of boxes.
    pub(super) fn average_pool(&mut self, source: Source, size: [usize; 3]) -> Source {
        let Tensor { channels, shape } = self.network.tensors[source.tensor.0];
        let output = self.tensor(channels, std::array::from_fn(|axis| shape[axis] / size[axis]));
        let source = Reading { tensor: source.tensor, normalization: source.normalization };
        self.network.ops.push(Op::AveragePool(AveragePool { source, size, output }));
        Source::plain(output)
    }

    /// The decoder of nnU-Net v2's networks: transposed convolutions, and blocks that read what
    /// they make and the skip of the same resolution.
    pub(super) fn unet_decoder(mut self, skips: &[Source]) -> Built {
        let shape = self.shape;
        let steps = shape.strides.len();
        let mut last = skips[steps];
        for up in 0..steps {
            let level = steps - 1 - up;
            let channels = shape.channels[level];
            let name = format!("decoder.transpconvs.{up}");
            let raised = self.transposed(&name, last, channels, shape.strides[level]);
            let mut sources = vec![raised, skips[level]];
            for number in 0..shape.decoder_blocks(up) {
                let block = format!("decoder.stages.{up}.convs.{number}");
                let kernel = shape.kernels[level];
                let layer = Layer { sources, channels, kernel, stride: [1; 3] };
                last = self.named_block(&block, "norm", layer);
                sources = vec![last];
            }
        }
        self.finish(last, "decoder.seg_layers")
    }
}
