//! Every instruction set against the reference, on any number of threads.

mod classes;
mod displaced;
mod integers;
mod pytorch;
mod winograd;

use std::sync::Arc;

use super::Instructions;
use half::slice::HalfFloatSliceExt;

use super::forward::{Forward, Input};
use super::kernels::Kernels;
use super::memory::BLOCK;
use super::path::Method;
use crate::base::Pool;
use crate::device::Precision;
use crate::device::networks::{self, Noise, Parameters, parameters};
use crate::device::reference::{self, Dense};
use crate::net::Plan;

/// Gives a network its patch.
fn fill(forward: &mut Forward, patch: &[f32]) {
    match forward.input_mut() {
        Input::Single(input) => input.copy_from_slice(patch),
        Input::Bf16(input) => input.convert_from_f32_slice(patch),
    }
}

/// Where a value of a tensor lies, `[s0][ceil(channels / 16)][s1][s2][16]`.
fn place(tensor: &Dense, channel: usize, voxel: usize) -> usize {
    let plane = tensor.shape[1] * tensor.shape[2];
    let blocks = tensor.channels.div_ceil(BLOCK);
    let block = voxel / plane * blocks + channel / BLOCK;
    (block * plane + voxel % plane) * BLOCK + channel % BLOCK
}

/// What may differ from the reference, relative, after several layers.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Int8 => 5e-2,
        _ => 1e-2,
    }
}

/// Compares every instruction set with the reference, on noise.
fn check(plan: &Arc<Plan>, input: impl Fn(&mut Noise) -> f32) {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        check_by(&[Method::Direct, Method::Fastest], precision, plan, &input);
    }
}

fn check_by(
    methods: &[Method],
    precision: Precision,
    plan: &Arc<Plan>,
    input: impl Fn(&mut Noise) -> f32,
) {
    let network = &plan.network;
    let mut noise = Noise(7);
    let weights = parameters(network, &mut noise);
    let first = &network.tensors[0];
    let length = first.channels * first.shape.iter().product::<usize>();
    let patch: Vec<f32> = (0..length).map(|_| input(&mut noise)).collect();
    let expected = reference::run(network, &weights.0, &patch);
    for &method in methods {
        let tolerance = tolerance(precision);
        compare(method, precision, plan, &weights, &patch, &expected, tolerance, |_| ());
    }
}

/// Runs the network with every instruction set on 1 to 4 threads, compares every tensor, and
/// shows each network that has run to `also`.
#[expect(clippy::too_many_arguments, reason = "all of one comparison")]
fn compare(
    method: Method,
    precision: Precision,
    plan: &Arc<Plan>,
    weights: &Parameters,
    patch: &[f32],
    expected: &[Dense],
    tolerance: f64,
    also: impl Fn(&Forward),
) {
    for instructions in Instructions::available() {
        let kernels = Kernels::of(instructions, precision).unwrap();
        let mut bits: Option<Vec<u32>> = None;
        for threads in 1..=4 {
            let pool = Pool::new(threads).unwrap();
            let mut forward =
                Forward::load(plan.clone(), weights, kernels, threads, method).unwrap();
            fill(&mut forward, patch);
            forward.run(0, kernels, &pool);
            for (index, expected) in expected.iter().enumerate().skip(1) {
                let voxels: usize = expected.shape.iter().product();
                let values = &forward.arena_values()[plan.offsets[index]..];
                let (mut error, mut norm) = (0.0, 0.0);
                for channel in 0..expected.channels {
                    for voxel in 0..voxels {
                        let at = place(expected, channel, voxel);
                        let wanted = expected.values[channel * voxels + voxel];
                        error += (f64::from(values[at]) - wanted).powi(2);
                        norm += wanted.powi(2);
                    }
                }
                let relative = (error / norm).sqrt();
                assert!(
                    relative < tolerance,
                    "{instructions:?}, {precision:?}, {threads} threads, tensor {index}: {relative:e}"
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
    networks::plain_convolutions().iter().for_each(|plan| check(plan, Noise::next));
}

#[test]
fn small_u_nets_with_skips_and_identity_blocks() {
    networks::residual_u_nets().iter().for_each(|plan| check(plan, Noise::next));
}

#[test]
fn u_nets_of_nnu_net() {
    check(&networks::plain_u_net(), Noise::next);
    check(&networks::residual_encoder_u_net(), Noise::next);
}

#[test]
fn many_channels_go_through_several_segments() {
    check(&networks::many_channels(), Noise::next);
}

#[test]
fn transposed_convolutions_expand_by_1_or_2_along_each_axis() {
    networks::transposed_convolutions().iter().for_each(|plan| check(plan, Noise::next));
}

#[test]
fn shortcuts_with_something_pending() {
    networks::pending_shortcuts().iter().for_each(|plan| check(plan, Noise::next));
}

#[test]
fn statistics_survive_a_mean_far_above_the_deviation() {
    // The input is far from zero everywhere but in the padding, so only the inner voxels of the
    // first convolution have a small deviation; the comparison covers all.
    let method = [Method::Direct, Method::Fastest];
    let block = networks::residual_block();
    check_by(&method, Precision::F32, &block, |noise| 1000.0 + noise.next());
}
