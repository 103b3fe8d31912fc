//! A roofline table: every kind of convolution of STU-Net S and B, how many GFLOP/s of the direct
//! sum it is worth, and its share of what this machine's multiply-adds reach at most. Shares above
//! 100 % are Winograd's algorithm doing less arithmetic.
//!
//! usage: cargo bench --bench layers [-- THREADS [RUNS] [bf16|int8]]
//!
//! A layer is timed together with a 1x1x1 convolution that makes its input, whose own time is
//! taken off: the least of both, in turns.

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use voxtile::base::{Pool, Result};
use voxtile::device::{Device, Precision, cpu::Cpu};
use voxtile::net::{
    Conv, Epilogue, Head, Network, Op, Parameter, ParameterId, Source, StatisticsId, Tensor,
    TensorId, Weights,
};

/// Weights of the right shapes.
struct Ramp<'a>(&'a Network);

impl Weights for Ramp<'_> {
    fn folds(&self) -> usize {
        1
    }

    fn parameter(&self, _: usize, id: ParameterId) -> Result<Cow<'_, [f32]>> {
        let length = self.0.parameters[id.0].shape.iter().product::<usize>();
        Ok(Cow::Owned((0..length).map(|at| (at % 7) as f32 * 0.01 - 0.03).collect()))
    }
}

/// Kernel, stride, input and output channels, side of the output.
#[derive(Clone, Copy)]
struct Layer([usize; 3], usize, usize, usize, usize);

impl Layer {
    /// A network of what makes the layer's input and, if `whole`, the layer.
    fn network(self, whole: bool) -> Network {
        let Self(kernel, stride, inputs, outputs, side) = self;
        let from = side * stride;
        let conv = |from, weight, kernel, stride, output, epilogue| {
            Op::Conv(Conv {
                sources: vec![Source::plain(TensorId(from))],
                weight: ParameterId(weight),
                bias: None,
                kernel,
                stride: [stride; 3],
                expand: None,
                output: TensorId(output),
                epilogue,
            })
        };
        let parameter = |shape: &[usize]| Parameter { name: String::new(), shape: shape.to_vec() };
        let tensor = |channels, side| Tensor { channels, shape: [side; 3] };
        let [k0, k1, k2] = kernel;
        let mut network = Network {
            tensors: vec![tensor(1, from), tensor(inputs, from)],
            parameters: vec![
                parameter(&[inputs, 1, 1, 1, 1]),
                parameter(&[outputs, inputs, k0, k1, k2]),
                parameter(&[1, if whole { outputs } else { inputs }, 1, 1, 1]),
            ],
            statistics: 1,
            ops: vec![conv(0, 0, [1; 3], 1, 1, Epilogue::Plain)],
            input: TensorId(0),
            output: TensorId(1),
            head: Head { weight: ParameterId(2), bias: None },
            classes: 1,
        };
        if whole {
            network.tensors.push(tensor(outputs, side));
            let epilogue = Epilogue::Statistics(StatisticsId(0));
            network.ops.push(conv(1, 1, kernel, stride, 2, epilogue));
            network.output = TensorId(2);
        }
        network
    }

    /// Operations of the direct sum.
    fn operations(self) -> f64 {
        let Self(kernel, _, inputs, outputs, side) = self;
        2.0 * (kernel.iter().product::<usize>() * inputs * outputs * side.pow(3)) as f64
    }

    fn seconds(self, pool: &Arc<Pool>, precision: Precision, runs: usize) -> f64 {
        let mut devices = [false, true].map(|whole| {
            let mut device = Cpu::open(Arc::clone(pool), precision).unwrap();
            let plan = Arc::new(device.plan(self.network(whole)).unwrap());
            device.load(Arc::clone(&plan), &Ramp(&plan.network)).unwrap();
            device
        });
        let mut least = [f64::INFINITY; 2];
        for _ in 0..=runs {
            for (device, least) in devices.iter_mut().zip(&mut least) {
                let started = Instant::now();
                device.forward(0).unwrap();
                *least = least.min(started.elapsed().as_secs_f64());
            }
        }
        least[1] - least[0]
    }
}

/// Multiply-adds per second that all threads reach together, in registers, times two.
fn peak(pool: &Pool) -> f64 {
    const ROUNDS: usize = 4_000_000;
    let mut least = f64::INFINITY;
    let mut operations = 0.0;
    for _ in 0..5 {
        let started = Instant::now();
        pool.run(pool.threads(), &|_, _| {
            black_box(chains(ROUNDS));
        });
        least = least.min(started.elapsed().as_secs_f64());
        operations = 2.0 * (ROUNDS * CHAINS * lanes() * pool.threads()) as f64;
    }
    operations / least
}

/// Sums that depend on nothing but themselves: enough to hide the latency of one.
const CHAINS: usize = 12;

#[cfg(target_arch = "x86_64")]
fn lanes() -> usize {
    if std::arch::is_x86_feature_detected!("avx512f") { 16 } else { 8 }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn chains(rounds: usize) -> f32 {
    use core::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn wide(rounds: usize) -> f32 {
        let factor = _mm512_set1_ps(black_box(0.999));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    fn narrow(rounds: usize) -> f32 {
        let factor = _mm256_set1_ps(black_box(0.999));
        let mut sums = [_mm256_set1_ps(black_box(1.0)); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }

    // SAFETY: the processor has what was asked for.
    unsafe { if lanes() == 16 { wide(rounds) } else { narrow(rounds) } }
}

#[cfg(not(target_arch = "x86_64"))]
fn lanes() -> usize {
    4
}

#[cfg(not(target_arch = "x86_64"))]
fn chains(rounds: usize) -> f32 {
    let factor = [black_box(0.999f32); 4];
    let mut sums = [[black_box(1.0f32); 4]; CHAINS];
    for _ in 0..rounds {
        for sum in sums.iter_mut().flatten() {
            *sum = sum.mul_add(factor[0], factor[0]);
        }
    }
    sums.into_iter().flatten().sum()
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let threads = arguments.next().unwrap_or(2);
    let runs = arguments.next().unwrap_or(5);
    let asked = |name: &str| std::env::args().any(|argument| argument == name);
    let precision = match (asked("bf16"), asked("int8")) {
        (true, _) => Precision::Bf16,
        (_, true) => Precision::Int8,
        _ => Precision::F32,
    };
    let pool = Arc::new(Pool::new(threads).unwrap());
    let peak = peak(&pool);
    let name = Cpu::open(Arc::clone(&pool), precision).unwrap().info().name.clone();
    println!(
        "{name}, {}, {threads} threads; multiply-adds reach {:.0} GFLOP/s",
        precision.name(),
        peak * 1e-9
    );
    println!("| layer | ms | GFLOP/s of the direct sum | of the peak |");
    println!("|---|---|---|---|");
    for (size, first) in [("S", 16), ("B", 32)] {
        let mut layers = vec![Layer([3; 3], 1, 1, first, 128)];
        for level in 0..5 {
            let (channels, side) = (first << level, 128 >> level);
            if level > 0 {
                layers.push(Layer([3; 3], 2, channels / 2, channels, side));
            }
            layers.push(Layer([3; 3], 1, channels, channels, side));
            layers.push(Layer([3; 3], 1, 2 * channels, channels, side));
            layers.push(Layer([1; 3], 1, 2 * channels, channels, side));
        }
        for layer in layers {
            let Layer(kernel, stride, inputs, outputs, side) = layer;
            let seconds = layer.seconds(&pool, precision, runs);
            let rate = layer.operations() / seconds;
            println!(
                "| {size}: {}^3 stride {stride}, {inputs} to {outputs}, {side}^3 | {:.2} | {:.0} | {:.0} % |",
                kernel[0],
                seconds * 1e3,
                rate * 1e-9,
                100.0 * rate / peak,
            );
        }
    }
}
