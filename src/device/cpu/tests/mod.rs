//! Every instruction set against the reference, on any number of threads.

mod pytorch;
mod winograd;

use std::borrow::Cow;
use std::sync::Arc;

use super::forward::Forward;
use super::kernels::Kernels;
use super::memory::BLOCK;
use super::path::Method;
use super::{Instructions, reference};
use crate::base::{Pool, Result};
use crate::net::{
    Affine, AveragePool, Conv, Epilogue, Head, Join, Network, Normalization, Op, Parameter,
    ParameterId, Plan, Reading, Source, StatisticsId, Tensor, TensorId, Weights,
};
use reference::Dense;

/// Seeded values in (-1, 1), the same on every machine.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

struct Parameters(Vec<Vec<f32>>);

impl Weights for Parameters {
    fn folds(&self) -> usize {
        1
    }

    fn parameter(&self, _: usize, id: ParameterId) -> Result<Cow<'_, [f32]>> {
        Ok(Cow::Borrowed(&self.0[id.0]))
    }
}

/// Puts networks together.
struct Builder {
    network: Network,
}

impl Builder {
    fn new(channels: usize, shape: [usize; 3]) -> Self {
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

    fn parameter(&mut self, shape: &[usize]) -> ParameterId {
        self.network.parameters.push(Parameter { name: String::new(), shape: shape.to_vec() });
        ParameterId(self.network.parameters.len() - 1)
    }

    fn conv(
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

    fn transposed(
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

    fn pool(&mut self, source: Reading, size: [usize; 3]) -> TensorId {
        let Tensor { channels, shape } = self.network.tensors[source.tensor.0];
        let shape = std::array::from_fn(|axis| shape[axis] / size[axis]);
        self.network.tensors.push(Tensor { channels, shape });
        let output = TensorId(self.network.tensors.len() - 1);
        self.network.ops.push(Op::AveragePool(AveragePool { source, size, output }));
        self.network.output = output;
        output
    }

    fn join(
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
    fn normalized(
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
    fn finish(mut self) -> Arc<Plan> {
        let channels = self.network.tensors[self.network.output.0].channels;
        self.network.head.weight = self.parameter(&[self.network.classes, channels, 1, 1, 1]);
        let mut arena = 0;
        let offsets = self
            .network
            .tensors
            .iter()
            .map(|tensor| {
                let offset = arena;
                arena += tensor.channels.next_multiple_of(BLOCK)
                    * tensor.shape.iter().product::<usize>();
                offset
            })
            .collect();
        Arc::new(Plan { network: self.network, offsets, arena })
    }
}

fn parameters(network: &Network, noise: &mut Noise) -> Parameters {
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

/// Compares every instruction set with the reference, on noise.
fn check(plan: &Arc<Plan>, input: impl Fn(&mut Noise) -> f32) {
    check_by(&[Method::Direct, Method::Fastest], plan, input);
}

fn check_by(methods: &[Method], plan: &Arc<Plan>, input: impl Fn(&mut Noise) -> f32) {
    let network = &plan.network;
    let mut noise = Noise(7);
    let weights = parameters(network, &mut noise);
    let first = &network.tensors[0];
    let length = first.channels * first.shape.iter().product::<usize>();
    let patch: Vec<f32> = (0..length).map(|_| input(&mut noise)).collect();
    let expected = reference::run(network, &weights.0, &patch);
    for &method in methods {
        compare(method, plan, &weights, &patch, &expected, 1e-5, |_| ());
    }
}

/// Runs the network with every instruction set on 1 to 4 threads, compares every tensor, and
/// shows each network that has run to `also`.
fn compare(
    method: Method,
    plan: &Arc<Plan>,
    weights: &Parameters,
    patch: &[f32],
    expected: &[Dense],
    tolerance: f64,
    also: impl Fn(&Forward),
) {
    for instructions in Instructions::available() {
        let kernels = Kernels::of(instructions);
        let mut bits: Option<Vec<u32>> = None;
        for threads in 1..=4 {
            let pool = Pool::new(threads).unwrap();
            let mut forward =
                Forward::load(plan.clone(), weights, kernels, threads, method).unwrap();
            forward.input_mut().copy_from_slice(patch);
            forward.run(0, kernels, &pool);
            for (index, expected) in expected.iter().enumerate().skip(1) {
                let voxels: usize = expected.shape.iter().product();
                let values = &forward.arena_values()[plan.offsets[index]..];
                let (mut error, mut norm) = (0.0, 0.0);
                for channel in 0..expected.channels {
                    for voxel in 0..voxels {
                        let at = (channel / BLOCK * voxels + voxel) * BLOCK + channel % BLOCK;
                        let wanted = expected.values[channel * voxels + voxel];
                        error += (f64::from(values[at]) - wanted).powi(2);
                        norm += wanted.powi(2);
                    }
                }
                let relative = (error / norm).sqrt();
                assert!(
                    relative < tolerance,
                    "{instructions:?}, {threads} threads, tensor {index}: {relative:e}"
                );
            }
            also(&forward);
            let now: Vec<u32> = forward.arena_values().iter().map(|v| v.to_bits()).collect();
            match &bits {
                None => bits = Some(now),
                Some(before) => assert!(*before == now, "{instructions:?}: {threads} threads"),
            }
        }
    }
}

#[test]
fn plain_convolutions_of_every_stride_and_odd_size() {
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
                check(&builder.finish(), Noise::next);
            }
        }
    }
}

/// A residual block with a projected shortcut, as STU-Net's stages begin.
fn projected(
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

#[test]
fn a_small_u_net_with_skips_and_identity_blocks() {
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
        check(&builder.finish(), Noise::next);
    }
}

#[test]
fn many_channels_go_through_several_segments() {
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
    check(&builder.finish(), Noise::next);
}

#[test]
fn transposed_convolutions_expand_by_1_or_2_along_each_axis() {
    for expand in [[2, 2, 2], [1, 2, 2], [2, 1, 1], [1, 1, 2], [1, 1, 1]] {
        for (inputs, outputs, bias) in [(3, 5, true), (40, 17, false), (150, 50, true)] {
            let mut builder = Builder::new(1, [3, 5, 9]);
            let source = vec![Source::plain(TensorId(0))];
            let (tensor, normalization) = builder.normalized(source, inputs, [3, 3, 3], [1, 1, 1]);
            let source = Source { tensor, upsample: [1; 3], normalization: Some(normalization) };
            builder.transposed(source, outputs, expand, bias);
            check(&builder.finish(), Noise::next);
        }
    }
}

/// Residual blocks as nnU-Net's encoder has them: shortcuts on which a normalisation is pending,
/// with and without a pool; without affine parameters, without statistics, with other slopes.
#[test]
fn shortcuts_with_something_pending() {
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
        check(&builder.finish(), Noise::next);
    }
}

#[test]
fn statistics_survive_a_mean_far_above_the_deviation() {
    let mut builder = Builder::new(1, [8, 9, 40]);
    projected(&mut builder, vec![Source::plain(TensorId(0))], 16, [1, 1, 1]);
    let plan = builder.finish();
    // The input is far from zero everywhere but in the padding, so only the inner voxels of the
    // first convolution have a small deviation; the comparison covers all.
    check(&plan, |noise| 1000.0 + noise.next());
}
