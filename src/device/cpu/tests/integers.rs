//! Products of 8-bit integers: exact where they are whole, and what becomes of zeros and of values
//! that are not numbers.

use super::*;
#[cfg(target_arch = "x86_64")]
use crate::device::cpu::integer_tile::{IntegerTile, QUAD, vnni};
use crate::device::networks::Builder;
use crate::net::{Epilogue, Source, TensorId};

/// Every tile of integers against sums in 64 bits.
#[test]
#[cfg(target_arch = "x86_64")]
fn sums_of_integers_are_exact() {
    if !std::arch::is_x86_feature_detected!("avx512vnni") {
        return;
    }
    let mut noise = Noise(3);
    // Chunks of all, some and one of 16 channels; taps anywhere.
    let channels = [16usize, 5, 1, 12];
    let taps = [0usize, 16, 48, 160, 176];
    let chunk_stride = 1024;
    let brick: Vec<u8> =
        (0..channels.len() * chunk_stride).map(|_| noise.between(0, 255) as u8).collect();
    for (width, kernels) in [BLOCK, 2 * BLOCK].into_iter().zip(vnni::TILES) {
        for (stride, kernels) in [1, 2].into_iter().zip(kernels) {
            for &(voxels, kernel) in kernels {
                let rows: usize = channels.iter().map(|of| of.div_ceil(QUAD) * taps.len()).sum();
                let weights: Vec<i8> = (0..rows * width * QUAD)
                    .map(|_| (noise.between(0, 254) as i32 - 127) as i8)
                    .collect();
                let start: Vec<i32> =
                    (0..width).map(|_| noise.between(0, 2_000_000) as i32 - 1_000_000).collect();
                let mut expected: Vec<i64> = Vec::new();
                for voxel in 0..voxels {
                    for (output, &start) in start.iter().enumerate() {
                        let mut sum = i64::from(start);
                        let mut row = 0;
                        for (chunk, of) in channels.iter().enumerate() {
                            for tap in taps {
                                for channel in 0..of.next_multiple_of(QUAD) {
                                    let at = chunk * chunk_stride
                                        + tap
                                        + voxel * stride * BLOCK
                                        + channel;
                                    let weight = ((row + channel / QUAD) * width + output) * QUAD
                                        + channel % QUAD;
                                    sum += i64::from(brick[at]) * i64::from(weights[weight]);
                                }
                                row += of.div_ceil(QUAD);
                            }
                        }
                        expected.push(sum);
                    }
                }
                let mut sums = vec![0f32; voxels * width];
                let (scale, bias) = (vec![0.5f32; width], vec![3.0f32; width]);
                let mut tile = IntegerTile {
                    brick: brick.as_ptr(),
                    chunk_stride,
                    chunk_channels: channels.as_ptr(),
                    chunks: channels.len(),
                    taps: taps.as_ptr(),
                    tap_count: taps.len(),
                    weights: weights.as_ptr().cast(),
                    sums: sums.as_mut_ptr(),
                    start: Some(start.as_ptr()),
                    finish: None,
                };
                // SAFETY: the processor has AVX512-VNNI; the brick is larger than what is read.
                unsafe { kernel(&tile) };
                let found: Vec<i64> =
                    sums.iter().map(|sum| i64::from(sum.to_bits() as i32)).collect();
                assert_eq!(found, expected, "{width} outputs, stride {stride}, {voxels} voxels");
                // A segment without chunks goes on from there, and is the last.
                tile.chunks = 0;
                tile.start = None;
                tile.finish = Some([scale.as_ptr(), bias.as_ptr()]);
                // SAFETY: as above.
                unsafe { kernel(&tile) };
                for (&found, &whole) in sums.iter().zip(&expected) {
                    assert!((f64::from(found) - (whole as f64 * 0.5 + 3.0)).abs() < 0.5);
                }
            }
        }
    }
}

/// A strided convolution, which is computed directly, with a bias.
fn strided(channels: usize, outputs: usize) -> Arc<Plan> {
    let mut builder = Builder::new(channels, [6, 10, 18]);
    let patch = vec![Source::plain(TensorId(0))];
    builder.conv(patch, outputs, [3; 3], [2; 3], true, Epilogue::Plain);
    builder.finish()
}

fn outputs(plan: &Arc<Plan>, patch: &[f32], weights: &Parameters) -> Vec<Vec<f32>> {
    let tensor = plan.network.tensors.last().unwrap();
    let length = tensor.channels.next_multiple_of(BLOCK) * tensor.shape.iter().product::<usize>();
    let run = |instructions| {
        let kernels = Kernels::of(instructions, Precision::Int8).unwrap();
        let mut forward =
            Forward::load(plan.clone(), weights, kernels, 1, Method::Fastest).unwrap();
        fill(&mut forward, patch);
        forward.run(0, kernels, &Pool::new(1).unwrap());
        let start = plan.offsets[plan.network.tensors.len() - 1];
        forward.arena_values()[start..start + length].to_vec()
    };
    Instructions::available().into_iter().map(run).collect()
}

fn patch_of(plan: &Plan, mut value: impl FnMut() -> f32) -> Vec<f32> {
    let first = &plan.network.tensors[0];
    (0..first.channels * first.shape.iter().product::<usize>()).map(|_| value()).collect()
}

#[test]
fn nothing_but_zeros_leaves_the_bias() {
    let plan = strided(5, 16);
    let weights = parameters(&plan.network, &mut Noise(1));
    let bias = weights.0.iter().find(|values| values.len() == 16).unwrap();
    for found in outputs(&plan, &patch_of(&plan, || 0.0), &weights) {
        for (at, found) in found.iter().enumerate() {
            assert_eq!(*found, half::bf16::from_f32(bias[at % BLOCK]).to_f32());
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let plan = strided(16, 16);
    let weights = parameters(&plan.network, &mut Noise(1));
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut noise = Noise(5);
        let mut patch = patch_of(&plan, || noise.next());
        let middle = patch.len() / 2 + 7;
        patch[middle] = strange;
        for found in outputs(&plan, &patch, &weights) {
            assert!(found.iter().any(|value| value.is_nan()), "{strange}");
        }
    }
    // Nor do values pass for zeros whose range is too large for a number.
    let patch = patch_of(&plan, {
        let mut sign = -1.0;
        move || {
            sign = -sign;
            sign * 3e38
        }
    });
    for found in outputs(&plan, &patch, &weights) {
        assert!(found.iter().any(|value| value.is_nan()));
    }
}

#[test]
fn every_instruction_set_multiplies_the_same_steps() {
    for (channels, of_outputs) in [(1, 16), (3, 33), (20, 48)] {
        let plan = strided(channels, of_outputs);
        let weights = parameters(&plan.network, &mut Noise(2));
        let mut noise = Noise(9);
        let patch = patch_of(&plan, || noise.next());
        let all = outputs(&plan, &patch, &weights);
        for other in &all[1..] {
            let squares = |values: &mut dyn Iterator<Item = f32>| {
                values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
            };
            let error = squares(&mut all[0].iter().zip(other).map(|(a, b)| a - b));
            let relative = error / squares(&mut all[0].iter().copied());
            // Of values rounded to bf16; another rounding of the steps would differ by 1e-2.
            assert!(relative < 1.5e-3, "{channels} to {of_outputs}: {relative:e}");
        }
    }
}

#[test]
fn the_range_is_that_of_every_voxel_that_is_read() {
    // Of 5 voxels enlarged to 15, every other one: the fourth is read once.
    let mut builder = Builder::new(1, [2, 2, 5]);
    let patch = vec![Source::plain(TensorId(0))];
    let tensor = builder.conv(patch, 16, [1; 3], [1; 3], false, Epilogue::Plain);
    let enlarged = Source { tensor, upsample: [1, 1, 3], normalization: None };
    builder.conv(vec![enlarged], 16, [1; 3], [1, 1, 2], false, Epilogue::Plain);
    let plan = builder.finish();
    let weights = parameters(&plan.network, &mut Noise(4));
    let mut noise = Noise(6);
    let mut patch = patch_of(&plan, || noise.next());
    patch.iter_mut().skip(3).step_by(5).for_each(|value| *value = 100.0);
    let expected = reference::run(&plan.network, &weights.0, &patch).pop().unwrap();
    let voxels = expected.shape.iter().product::<usize>();
    for found in outputs(&plan, &patch, &weights) {
        let (mut error, mut norm) = (0.0, 0.0);
        for channel in 0..expected.channels {
            for voxel in 0..voxels {
                let wanted = expected.values[channel * voxels + voxel];
                error += (f64::from(found[place(&expected, channel, voxel)]) - wanted).powi(2);
                norm += wanted.powi(2);
            }
        }
        assert!((error / norm).sqrt() < tolerance(Precision::Int8), "{}", (error / norm).sqrt());
    }
}
