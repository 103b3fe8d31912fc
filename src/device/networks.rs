//! Networks for the tests of every device.

use std::borrow::Cow;
use std::sync::Arc;

use crate::base::Result;
use crate::net::plan::CHANNEL_BLOCK;
use crate::net::{
    Affine, AveragePool, Conv, Epilogue, Head, Join, Network, Normalization, Op, Parameter,
    ParameterId, Plan, Reading, Source, StatisticsId, Tensor, TensorId, Weights,
};

/// Seeded values in (-1, 1), the same on every machine.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    /// In (-1, 1).
    pub(super) fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// A whole number of a range, its ends included.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        let share = f64::from(self.next() + 1.0) / 2.0;
        (low + (share * (high - low + 1) as f64) as usize).min(high)
    }

    fn axes(&mut self, low: usize, high: usize) -> [usize; 3] {
        std::array::from_fn(|_| self.between(low, high))
    }
}

/// One fold's weights.
pub(super) struct Parameters(pub(super) Vec<Vec<f32>>);

impl Weights for Parameters {
    fn folds(&self) -> usize {
        1
    }

    fn parameter(&self, _: usize, id: ParameterId) -> Result<Cow<'_, [f32]>> {
        Ok(Cow::Borrowed(&self.0[id.0]))
    }
}

/// Puts networks together.
pub(super) struct Builder {
    pub(super) network: Network,
}

impl Builder {
    pub(super) fn new(channels: usize, shape: [usize; 3]) -> Self {
        let head = Head { weight: ParameterId(0), bias: None };
        let network = Network {
            tensors: vec![Tensor { channels, shape }],
            parameters: Vec::new(),
            statistics: 0,
            ops: Vec::new(),
            input: TensorId(0),
            output: TensorId(0),
            head,
            classes: 3,
        };
        Self { network }
    }

    pub(super) fn parameter(&mut self, shape: &[usize]) -> ParameterId {
        self.network.parameters.push(Parameter { name: String::new(), shape: shape.to_vec() });
        ParameterId(self.network.parameters.len() - 1)
    }

    pub(super) fn conv(
        &mut self,
        sources: Vec<Source>,
        channels: usize,
        kernel: [usize; 3],
        stride: [usize; 3],
        bias: bool,
        epilogue: Epilogue,
    ) -> TensorId {
        let inputs: usize = sources.iter().map(|s| self.network.tensors[s.tensor.0].channels).sum();
        let first = &self.network.tensors[sources[0].tensor.0];
        let shape = std::array::from_fn(|axis| {
            (first.shape[axis] * sources[0].upsample[axis]).div_ceil(stride[axis])
        });
        let weight = self.parameter(&[channels, inputs, kernel[0], kernel[1], kernel[2]]);
        let bias = bias.then(|| self.parameter(&[channels]));
        self.network.tensors.push(Tensor { channels, shape });
        let output = TensorId(self.network.tensors.len() - 1);
        let conv = Conv { sources, weight, bias, kernel, stride, expand: None, output, epilogue };
        self.network.ops.push(Op::Conv(conv));
        self.network.output = output;
        output
    }

    pub(super) fn transposed(
        &mut self,
        source: Source,
        channels: usize,
        expand: [usize; 3],
        bias: bool,
    ) -> TensorId {
        let Tensor { channels: inputs, shape } = self.network.tensors[source.tensor.0];
        let weight = self.parameter(&[inputs, channels, expand[0], expand[1], expand[2]]);
        let bias = bias.then(|| self.parameter(&[channels]));
        let shape = std::array::from_fn(|axis| shape[axis] * expand[axis]);
        self.network.tensors.push(Tensor { channels, shape });
        let output = TensorId(self.network.tensors.len() - 1);
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
        self.network.output = output;
        output
    }

    pub(super) fn pool(&mut self, source: Reading, size: [usize; 3]) -> TensorId {
        let Tensor { channels, shape } = self.network.tensors[source.tensor.0];
        let shape = std::array::from_fn(|axis| shape[axis] / size[axis]);
        self.network.tensors.push(Tensor { channels, shape });
        let output = TensorId(self.network.tensors.len() - 1);
        self.network.ops.push(Op::AveragePool(AveragePool { source, size, output }));
        self.network.output = output;
        output
    }

    pub(super) fn join(
        &mut self,
        main: TensorId,
        normalization: Normalization,
        shortcut: Option<Reading>,
    ) -> TensorId {
        self.network.tensors.push(self.network.tensors[main.0].clone());
        let output = TensorId(self.network.tensors.len() - 1);
        self.network.ops.push(Op::Join(Join { main, normalization, shortcut, output }));
        self.network.output = output;
        output
    }

    /// A convolution that keeps statistics, and how its readers normalise it.
    pub(super) fn normalized(
        &mut self,
        sources: Vec<Source>,
        channels: usize,
        kernel: [usize; 3],
        stride: [usize; 3],
    ) -> (TensorId, Normalization) {
        let statistics = StatisticsId(self.network.statistics);
        self.network.statistics += 1;
        let epilogue = Epilogue::Statistics(statistics);
        let tensor = self.conv(sources, channels, kernel, stride, false, epilogue);
        let scale = self.parameter(&[channels]);
        let shift = self.parameter(&[channels]);
        let affine = Some(Affine { scale, shift });
        let statistics = Some(statistics);
        (tensor, Normalization { statistics, affine, epsilon: 1e-5, slope: 0.01 })
    }

    /// A plan that keeps every tensor, so that all of them can be compared.
    pub(super) fn finish(mut self) -> Arc<Plan> {
        let channels = self.network.tensors[self.network.output.0].channels;
        self.network.head.weight = self.parameter(&[self.network.classes, channels, 1, 1, 1]);
        let mut arena = 0;
        let offsets = self
            .network
            .tensors
            .iter()
            .map(|tensor| {
                let offset = arena;
                arena += tensor.channels.next_multiple_of(CHANNEL_BLOCK)
                    * tensor.shape.iter().product::<usize>();
                offset
            })
            .collect();
        Arc::new(Plan { network: self.network, offsets, arena, displaced: Vec::new() })
    }
}

/// Noise for every parameter of a network.
pub(super) fn parameters(network: &Network, noise: &mut Noise) -> Parameters {
    Parameters(
        network
            .parameters
            .iter()
            .map(|parameter| {
                let fan_in: usize = parameter.shape[1..].iter().product();
                let scale = (3.0 / fan_in as f32).sqrt();
                let length = parameter.shape.iter().product::<usize>();
                (0..length).map(|_| noise.next() * scale).collect()
            })
            .collect(),
    )
}

/// Plain convolutions of every stride and odd size.
pub(super) fn plain_convolutions() -> Vec<Arc<Plan>> {
    let mut plans = Vec::new();
    let strides = [[1, 1, 1], [2, 2, 2], [1, 2, 2], [2, 1, 1], [1, 1, 2]];
    let shapes = [[5, 7, 9], [1, 1, 1], [1, 6, 17], [8, 3, 33], [4, 4, 4]];
    for (stride, shape) in strides.into_iter().zip(shapes) {
        for kernel in [[3, 3, 3], [1, 1, 1], [1, 3, 3]] {
            for (inputs, outputs) in [(1, 16), (3, 5), (17, 24), (40, 50)] {
                let mut builder = Builder::new(inputs, shape);
                let middle = builder.conv(
                    vec![Source::plain(TensorId(0))],
                    inputs + 3,
                    [1, 1, 1],
                    [1, 1, 1],
                    true,
                    Epilogue::Plain,
                );
                let source = vec![Source::plain(middle)];
                builder.conv(source, outputs, kernel, stride, true, Epilogue::Plain);
                plans.push(builder.finish());
            }
        }
    }
    plans
}

/// A residual block with a projected shortcut, as STU-Net's stages begin.
pub(super) fn projected(
    builder: &mut Builder,
    sources: Vec<Source>,
    channels: usize,
    stride: [usize; 3],
) -> TensorId {
    let (first, norm1) = builder.normalized(sources.clone(), channels, [3, 3, 3], stride);
    let source = Source { tensor: first, upsample: [1; 3], normalization: Some(norm1) };
    let (main, normalization) = builder.normalized(vec![source], channels, [3, 3, 3], [1, 1, 1]);
    let epilogue = Epilogue::AddNormalized { main, normalization };
    builder.conv(sources, channels, [1, 1, 1], stride, true, epilogue)
}

/// Small U-Nets with skips and identity blocks, as STU-Nets are made.
pub(super) fn residual_u_nets() -> Vec<Arc<Plan>> {
    let mut plans = Vec::new();
    for (widths, down) in [([8, 24], [2, 2, 2]), ([17, 33], [1, 2, 2]), ([16, 32], [1, 1, 2])] {
        let mut builder = Builder::new(2, [4, 6, 12]);
        let skip = projected(&mut builder, vec![Source::plain(TensorId(0))], widths[0], [1, 1, 1]);
        let deep = projected(&mut builder, vec![Source::plain(skip)], widths[1], down);

        let (first, norm1) =
            builder.normalized(vec![Source::plain(deep)], widths[1], [3, 3, 3], [1, 1, 1]);
        let source = Source { tensor: first, upsample: [1; 3], normalization: Some(norm1) };
        let (main, normalization) =
            builder.normalized(vec![source], widths[1], [3, 3, 3], [1, 1, 1]);
        let shortcut = Reading { tensor: deep, normalization: None };
        let output = builder.join(main, normalization, Some(shortcut));

        let source = vec![Source::plain(output)];
        let up = builder.conv(source, widths[0], [1, 1, 1], [1, 1, 1], true, Epilogue::Plain);
        let up = Source { tensor: up, upsample: down, normalization: None };
        projected(&mut builder, vec![up, Source::plain(skip)], widths[0], [1, 1, 1]);
        plans.push(builder.finish());
    }
    plans
}

/// Many channels in few voxels.
pub(super) fn many_channels() -> Arc<Plan> {
    let mut builder = Builder::new(1, [3, 4, 5]);
    let wide = builder.conv(
        vec![Source::plain(TensorId(0))],
        150,
        [1, 1, 1],
        [1, 1, 1],
        true,
        Epilogue::Plain,
    );
    projected(&mut builder, vec![Source::plain(wide)], 100, [1, 1, 1]);
    builder.finish()
}

/// A residual block of many channels and few voxels, with a stride of 2.
pub(super) fn many_channels_strided() -> Arc<Plan> {
    let mut builder = Builder::new(1, [4, 5, 9]);
    let patch = vec![Source::plain(TensorId(0))];
    let wide = builder.conv(patch, 150, [1; 3], [1; 3], true, Epilogue::Plain);
    projected(&mut builder, vec![Source::plain(wide)], 170, [2, 2, 2]);
    builder.finish()
}

/// Transposed convolutions that expand by 1 or 2 along each axis.
pub(super) fn transposed_convolutions() -> Vec<Arc<Plan>> {
    let mut plans = Vec::new();
    for expand in [[2, 2, 2], [1, 2, 2], [2, 1, 1], [1, 1, 2], [1, 1, 1]] {
        for (inputs, outputs, bias) in [(3, 5, true), (40, 17, false), (150, 50, true)] {
            let mut builder = Builder::new(1, [3, 5, 9]);
            let source = vec![Source::plain(TensorId(0))];
            let (tensor, normalization) = builder.normalized(source, inputs, [3, 3, 3], [1, 1, 1]);
            let source = Source { tensor, upsample: [1; 3], normalization: Some(normalization) };
            builder.transposed(source, outputs, expand, bias);
            plans.push(builder.finish());
        }
    }
    plans
}

/// The tensor as what follows reads it.
fn normalized((tensor, normalization): (TensorId, Normalization)) -> Source {
    Source { tensor, upsample: [1; 3], normalization: Some(normalization) }
}

/// nnU-Net's decoder below the head: transposed convolutions, skips, two convolutions each.
fn decoder(builder: &mut Builder, skips: &[Source], widths: &[usize], strides: &[[usize; 3]]) {
    let mut last = skips[skips.len() - 1];
    for level in (0..widths.len() - 1).rev() {
        let width = widths[level];
        let raised = builder.transposed(last, width, strides[level], true);
        let sources = vec![Source::plain(raised), skips[level]];
        let first = builder.normalized(sources, width, [3; 3], [1; 3]);
        last = normalized(builder.normalized(vec![normalized(first)], width, [3; 3], [1; 3]));
    }
    // What is pending on the features is applied before they are blended.
    if let Some(normalization) = last.normalization {
        builder.join(last.tensor, normalization, None);
    }
}

/// As nnU-Net's `PlainConvUNet`.
pub(super) fn plain_u_net() -> Arc<Plan> {
    let (widths, strides) = ([16, 24, 48], [[2, 2, 2], [1, 2, 2]]);
    let mut builder = Builder::new(1, [8, 16, 16]);
    let (mut last, mut skips) = (Source::plain(TensorId(0)), Vec::new());
    for (level, &width) in widths.iter().enumerate() {
        let stride = if level == 0 { [1; 3] } else { strides[level - 1] };
        let first = builder.normalized(vec![last], width, [3; 3], stride);
        last = normalized(builder.normalized(vec![normalized(first)], width, [3; 3], [1; 3]));
        skips.push(last);
    }
    decoder(&mut builder, &skips, &widths, &strides);
    builder.finish()
}

/// As nnU-Net's `ResidualEncoderUNet`.
pub(super) fn residual_encoder_u_net() -> Arc<Plan> {
    let (widths, strides) = ([16, 32, 40], [[1, 2, 2], [2, 2, 2]]);
    let mut builder = Builder::new(2, [6, 16, 20]);
    let stem = vec![Source::plain(TensorId(0))];
    let mut last = normalized(builder.normalized(stem, widths[0], [1, 3, 3], [1; 3]));
    let mut skips = Vec::new();
    for (level, &width) in widths.iter().enumerate() {
        let stride = if level == 0 { [1; 3] } else { strides[level - 1] };
        let mut shortcut = Reading { tensor: last.tensor, normalization: last.normalization };
        let first = builder.normalized(vec![last], width, [3; 3], stride);
        let (main, normalization) =
            builder.normalized(vec![normalized(first)], width, [3; 3], [1; 3]);
        if level > 0 {
            let pooled = vec![Source::plain(builder.pool(shortcut, stride))];
            let (tensor, pending) = builder.normalized(pooled, width, [1; 3], [1; 3]);
            let pending = Normalization { slope: 1.0, ..pending };
            shortcut = Reading { tensor, normalization: Some(pending) };
        }
        last = Source::plain(builder.join(main, normalization, Some(shortcut)));
        skips.push(last);
    }
    decoder(&mut builder, &skips, &widths, &strides);
    builder.finish()
}

/// Residual blocks as nnU-Net's encoder has them: shortcuts on which a normalisation is pending,
/// with and without a pool; without affine parameters, without statistics, with other slopes.
pub(super) fn pending_shortcuts() -> Vec<Arc<Plan>> {
    let mut plans = Vec::new();
    for (size, slope, instance, affine) in [
        ([2, 2, 2], 0.01, true, true),
        ([1, 2, 2], 0.0, true, false),
        ([1, 1, 1], 0.2, false, false),
    ] {
        let mut builder = Builder::new(2, [4, 7, 19]);
        let block = |builder: &mut Builder, source: Source, channels, stride| {
            if instance {
                let (tensor, normalization) =
                    builder.normalized(vec![source], channels, [1, 3, 3], stride);
                let affine = normalization.affine.filter(|_| affine);
                (tensor, Normalization { affine, slope, ..normalization })
            } else {
                let tensor =
                    builder.conv(vec![source], channels, [3, 3, 3], stride, true, Epilogue::Plain);
                (tensor, Normalization { statistics: None, affine: None, epsilon: 1e-5, slope })
            }
        };
        let (stem, pending) = block(&mut builder, Source::plain(TensorId(0)), 20, [1; 3]);
        let input = Source { tensor: stem, upsample: [1; 3], normalization: Some(pending) };
        let (main, normalization) = block(&mut builder, input, 36, size);
        let reading = Reading { tensor: stem, normalization: Some(pending) };
        // An odd extent leaves a plane over, which the mean drops and a convolution keeps.
        let pooled = builder.pool(reading, [2, 3, 1]);
        block(&mut builder, Source::plain(pooled), 36, [1; 3]);
        let (projected, pending) = block(&mut builder, input, 36, size);
        let pending = Normalization { slope: 1.0, ..pending };
        let shortcut = Reading { tensor: projected, normalization: Some(pending) };
        let joined = builder.join(main, normalization, Some(shortcut));
        let (last, pending) = block(&mut builder, Source::plain(joined), 17, [1; 3]);
        builder.join(last, pending, None);
        plans.push(builder.finish());
    }
    plans
}

/// A residual block on a large patch of one channel.
pub(super) fn residual_block() -> Arc<Plan> {
    let mut builder = Builder::new(1, [8, 9, 40]);
    projected(&mut builder, vec![Source::plain(TensorId(0))], 16, [1, 1, 1]);
    builder.finish()
}

/// A network of random extents, kernels, strides and channels in which every operation occurs:
/// a strided residual block, both ways back up, two sources, a pending shortcut, a pool, and a
/// strided convolution.
pub(super) fn random(noise: &mut Noise) -> Arc<Plan> {
    let stride = noise.axes(1, 2);
    // Statistics of fewer than three voxels along an axis magnify the rounding of half precision.
    let deep = [noise.between(3, 6), noise.between(3, 9), noise.between(3, 20)];
    let shape = std::array::from_fn(|axis| deep[axis] * stride[axis]);
    let mut builder = Builder::new(noise.between(1, 4), shape);
    let kernel = |noise: &mut Noise| noise.axes(0, 1).map(|wide| 1 + 2 * wide);
    let width = noise.between(3, 70);

    let patch = vec![Source::plain(TensorId(0))];
    let stem = normalized(builder.normalized(patch, width, kernel(noise), [1; 3]));
    let below = projected(&mut builder, vec![stem], noise.between(3, 100), stride);
    let raised = builder.transposed(
        Source::plain(below),
        noise.between(3, 70),
        stride,
        noise.between(0, 1) == 1,
    );
    let sources = vec![Source::plain(raised), stem];
    let first = normalized(builder.normalized(sources, width, kernel(noise), [1; 3]));
    let narrow = vec![Source::plain(below)];
    let narrow = builder.conv(narrow, width, [1; 3], [1; 3], true, Epilogue::Plain);
    let enlarged = Source { tensor: narrow, upsample: stride, normalization: None };
    let second = builder.normalized(vec![enlarged, first], width, kernel(noise), [1; 3]);
    let shortcut = Reading { tensor: first.tensor, normalization: first.normalization };
    let joined = builder.join(second.0, second.1, Some(shortcut));

    let size = shape.map(|extent| noise.between(1, extent.min(3)));
    builder.pool(Reading { tensor: stem.tensor, normalization: stem.normalization }, size);
    let (channels, stride) = (noise.between(1, 80), noise.axes(1, 2));
    let source = vec![Source::plain(joined)];
    builder.conv(source, channels, kernel(noise), stride, true, Epilogue::Plain);
    builder.finish()
}
