//! The network's kernels, launched as a session does, beside the reference.

use std::collections::BTreeSet;
use std::sync::Arc;

use half::f16;

use super::gpu;
use crate::device::Precision;
use crate::device::cuda::Gpu;
use crate::device::cuda::forward::Forward;
use crate::device::cuda::schedule::{Schedule, value_bytes};
use crate::device::networks::{self, Noise, Parameters, parameters};
use crate::device::reference::{self, Dense};
use crate::net::{Op, Plan, TensorId};

/// Values as the device holds them.
fn stored(precision: Precision, values: &[f32]) -> Vec<u8> {
    match precision {
        Precision::F32 => bytemuck::cast_slice(values).to_vec(),
        _ => {
            let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
            bytemuck::cast_slice(&halves).to_vec()
        }
    }
}

/// A loaded network on the emulated GPU.
struct Loaded {
    gpu: Gpu,
    plan: Arc<Plan>,
    forward: Forward,
}

impl Loaded {
    fn new(precision: Precision, plan: &Arc<Plan>, weights: &Parameters) -> Self {
        let gpu = gpu(precision);
        let forward = Forward::load(&gpu, plan.clone(), weights).unwrap();
        Self { gpu, plan: plan.clone(), forward }
    }

    fn place(&self, tensor: TensorId) -> usize {
        self.plan.offsets[tensor.0] * value_bytes(self.gpu.precision)
    }

    /// Runs it and returns the bytes of all activations.
    fn run(&self, patch: &[f32]) -> Vec<u8> {
        let (arena, stream) = (self.forward.arena(), &self.gpu.stream);
        arena.fill(stream, 0..arena.length(), 0xff).unwrap();
        let input = stored(self.gpu.precision, patch);
        arena.write(stream, self.place(self.plan.network.input), &input).unwrap();
        self.forward.run(&self.gpu, 0).unwrap();
        let mut bytes = vec![0; arena.length()];
        arena.read(stream, 0, &mut bytes).unwrap();
        bytes
    }

    /// A tensor's values, `[channels][voxels]`.
    fn tensor(&self, bytes: &[u8], tensor: TensorId) -> Vec<f32> {
        let size = value_bytes(self.gpu.precision);
        let shape = &self.plan.network.tensors[tensor.0];
        let voxels: usize = shape.shape.iter().product();
        let value = |at: usize| match &bytes[self.place(tensor) + at * size..][..size] {
            &[a, b] => f16::from_le_bytes([a, b]).to_f32(),
            four => f32::from_le_bytes(four.try_into().unwrap()),
        };
        let place = |channel: usize, voxel| (channel / 8 * voxels + voxel) * 8 + channel % 8;
        let channel = |channel| (0..voxels).map(move |voxel| value(place(channel, voxel)));
        // Padding is zero.
        for padding in shape.channels..shape.channels.next_multiple_of(16) {
            assert!(channel(padding).all(|value| value == 0.0), "tensor {tensor:?}");
        }
        (0..shape.channels).flat_map(channel).collect()
    }
}

/// How far values are from what was expected, relative to its size.
fn error(found: &[f32], expected: &Dense) -> f64 {
    let pairs = found.iter().zip(&expected.values);
    let difference: f64 = pairs.map(|(&f, e)| (f64::from(f) - e).powi(2)).sum();
    let size: f64 = expected.values.iter().map(|value| value.powi(2)).sum();
    (difference / size).sqrt()
}

/// Compares every tensor with the reference, and a second run, and one in a small arena.
fn check(
    plan: &Arc<Plan>,
    precision: Precision,
    tolerance: f64,
    input: impl Fn(&mut Noise) -> f32,
) {
    let network = &plan.network;
    let mut noise = Noise(7);
    let mut weights = parameters(network, &mut noise);
    let first = &network.tensors[0];
    let length = first.channels * first.shape.iter().product::<usize>();
    let mut patch: Vec<f32> = (0..length).map(|_| input(&mut noise)).collect();
    if precision == Precision::F16 {
        // What is rounded once, when it is loaded, is not what is compared here.
        let values = weights.0.iter_mut().filter(|values| values.len() > 64).flatten();
        values.chain(&mut patch).for_each(|v| *v = f16::from_f32(*v).to_f32());
    }
    let expected = reference::run(network, &weights.0, &patch);
    let loaded = Loaded::new(precision, plan, &weights);
    let bytes = loaded.run(&patch);
    for (index, expected) in expected.iter().enumerate().skip(1) {
        let error = error(&loaded.tensor(&bytes, TensorId(index)), expected);
        assert!(error < tolerance, "{precision:?}, tensor {index} of {network:?}: {error:e}");
    }
    assert!(loaded.run(&patch) == bytes, "a second run differs");

    let small = Arc::new(Plan::new(network.clone()).unwrap());
    let small = Loaded::new(precision, &small, &weights);
    let found = small.tensor(&small.run(&patch), network.output);
    assert!(found == loaded.tensor(&bytes, network.output), "the arena changes the result");
}

fn check_all(plans: &[Arc<Plan>], half_tolerance: f64) {
    for plan in plans {
        check(plan, Precision::F32, 1e-5, Noise::next);
        check(plan, Precision::F16, half_tolerance, Noise::next);
    }
}

#[test]
fn plain_convolutions_of_every_stride_and_odd_size() {
    check_all(&networks::plain_convolutions(), 1e-3);
}

#[test]
fn small_u_nets_with_skips_and_identity_blocks() {
    check_all(&networks::residual_u_nets(), 3e-3);
}

#[test]
fn u_nets_of_nnu_net() {
    check_all(&[networks::plain_u_net(), networks::residual_encoder_u_net()], 4e-3);
}

#[test]
fn many_channels_in_few_voxels_are_split() {
    let plan = networks::many_channels();
    let schedule = Schedule::new(&plan, Precision::F16, 132).unwrap();
    assert!(schedule.sums > 0);
    check_all(&[plan], 3e-3);
}

#[test]
fn shortcuts_of_strided_blocks_are_made_by_the_first_convolution() {
    let splits = |plan: &Plan| {
        let schedule = Schedule::new(plan, Precision::F16, 132).unwrap();
        let mut packed = schedule.convs.iter().flatten();
        packed.find(|packed| packed.shortcut.is_some()).map(|packed| packed.tiles.splits)
    };
    let wide = networks::many_channels_strided();
    assert!(splits(&wide).unwrap() > 1);
    check_all(&[wide], 3e-3);
    // Some of the small networks above are not split.
    let small: Vec<usize> = networks::residual_u_nets().iter().filter_map(|p| splits(p)).collect();
    assert!(small.len() == 3 && small.contains(&1), "{small:?}");
}

#[test]
fn transposed_convolutions_expand_by_1_or_2_along_each_axis() {
    check_all(&networks::transposed_convolutions(), 2e-3);
}

#[test]
fn shortcuts_with_something_pending() {
    check_all(&networks::pending_shortcuts(), 3e-3);
}

#[test]
fn every_operation_on_random_shapes() {
    let plans: Vec<_> = (0..12).map(|seed| networks::random(&mut Noise(seed))).collect();
    check_all(&plans, 4e-3);

    // Among them are all kernels of convolutions, and each way in which these work.
    let mut seen = BTreeSet::new();
    for plan in &plans {
        let schedule = Schedule::new(plan, Precision::F16, 132).unwrap();
        for (op, packed) in plan.network.ops.iter().zip(&schedule.convs) {
            let (Op::Conv(conv), Some(packed)) = (op, packed) else { continue };
            let tiles = &packed.tiles;
            let name = tiles.kernel.name();
            seen.insert(name);
            let anisotropic = conv.kernel != [1; 3] && conv.kernel != [3; 3];
            let ways = [
                (tiles.splits > 1, "split"),
                (tiles.splits > 1 && packed.shortcut.is_some(), "split with a shortcut"),
                (tiles.splits == 1 && packed.shortcut.is_some(), "whole with a shortcut"),
                (tiles.tile.plane_groups > 1, "plane by plane"),
                (tiles.tile.shares_lines(&tiles.sizes), "shared lines"),
                (conv.sources.len() > 1, "two sources"),
                (conv.sources.iter().any(|source| source.upsample != [1; 3]), "enlarged"),
                (conv.expand.is_some_and(|expand| expand != [1; 3]), "transposed"),
                (anisotropic && conv.stride == [1; 3], "anisotropic"),
                (anisotropic && conv.stride != [1; 3], "anisotropic and strided"),
            ];
            seen.extend(ways.into_iter().filter_map(|(is, way)| is.then_some(way)));
        }
    }
    let expected = [
        "anisotropic",
        "anisotropic and strided",
        "conv_direct_half",
        "conv_mma_16",
        "conv_mma_32",
        "conv_mma_48",
        "conv_mma_64",
        "conv_mma_64_shortcut",
        "enlarged",
        "plane by plane",
        "shared lines",
        "split",
        "split with a shortcut",
        "transposed",
        "two sources",
        "whole with a shortcut",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn statistics_survive_a_mean_far_above_the_deviation() {
    // Half precision can't tell neighbouring voxels apart here.
    check(&networks::residual_block(), Precision::F32, 1e-4, |noise| 1000.0 + noise.next());
}

#[test]
fn the_estimate_is_what_is_allocated() {
    let wide = [networks::many_channels(), networks::many_channels_strided()];
    for plan in networks::residual_u_nets().iter().chain(&wide) {
        for precision in [Precision::F32, Precision::F16] {
            let weights = parameters(&plan.network, &mut Noise(7));
            let loaded = Loaded::new(precision, plan, &weights);
            let multiprocessors = loaded.gpu.limits().multiprocessors as usize;
            let schedule = Schedule::new(plan, precision, multiprocessors).unwrap();
            let estimated: u64 = schedule.memory(1).iter().map(|part| part.bytes).sum();
            assert_eq!(loaded.forward.bytes(), estimated);
        }
    }
}

#[test]
fn speed_is_measured_from_a_part_or_a_whole_run() {
    let plan = networks::many_channels();
    let loaded = Loaded::new(Precision::F16, &plan, &parameters(&plan.network, &mut Noise(7)));
    for limit in [0.0, 1e9] {
        let seconds = loaded.forward.measure(&loaded.gpu, limit).unwrap();
        assert!(seconds.is_finite() && seconds > 0.0, "{seconds} s");
    }
}
