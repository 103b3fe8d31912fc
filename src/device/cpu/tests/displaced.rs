//! Convolutions whose output overlaps their source, against those whose output does not.

use proptest::prelude::*;

use super::super::conv::Scratch;
use super::super::forward;
use super::super::memory::{Buffer, Shared, Values};
use super::super::path::Path;
use super::super::reading::ConvRun;
use super::super::statistics::Partial;
use super::super::winograd::{Length, Tiling};
use super::*;
use crate::device::networks::{Builder, projected};
use crate::net::{Epilogue, Op, Source, TensorId};

fn winograd(first: Length, others: Length) -> Method {
    Method::Winograd(Tiling { lengths: [first, others], stored: true, streamed: false })
}

/// The network's output on a plan.
fn output(
    plan: Plan,
    weights: &Parameters,
    patch: &[f32],
    kernels: &Kernels,
    threads: usize,
    method: Method,
) -> Vec<f32> {
    let of_output = plan.network.output.0;
    let tensor = &plan.network.tensors[of_output];
    let first = plan.offsets[of_output];
    let length = tensor.channels.next_multiple_of(BLOCK) * tensor.shape.iter().product::<usize>();
    let pool = Pool::new(threads).unwrap();
    let mut forward = Forward::load(Arc::new(plan), weights, kernels, threads, method).unwrap();
    fill(&mut forward, patch);
    forward.run(0, kernels, &pool);
    forward.arena_values()[first..first + length].to_vec()
}

#[test]
fn a_u_net_that_writes_over_its_tensors_computes_the_same_bits() {
    let mut builder = Builder::new(2, [48, 24, 6]);
    let skip = projected(&mut builder, vec![Source::plain(TensorId(0))], 16, [1; 3]);
    let deep = projected(&mut builder, vec![Source::plain(skip)], 33, [2, 1, 2]);
    let up = builder.conv(vec![Source::plain(deep)], 16, [1; 3], [1; 3], true, Epilogue::Plain);
    let up = Source { tensor: up, upsample: [2, 1, 2], normalization: None };
    projected(&mut builder, vec![up, Source::plain(skip)], 16, [1; 3]);
    let network = builder.finish().network.clone();
    let mut noise = Noise(3);
    let weights = parameters(&network, &mut noise);
    let patch: Vec<f32> = (0..2 * 48 * 24 * 6).map(|_| noise.next()).collect();
    let expected = reference::run(&network, &weights.0, &patch).pop().unwrap();
    let methods = [
        Method::Direct,
        Method::Fastest,
        winograd(Length::Two, Length::Four),
        winograd(Length::Four, Length::Two),
    ];
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for instructions in Instructions::available() {
            let kernels = Kernels::of(instructions, precision).unwrap();
            for method in methods {
                let separate = Plan::new(network.clone()).unwrap();
                let arena = separate.arena;
                let separate = output(separate, &weights, &patch, kernels, 1, method);
                let (mut error, mut norm) = (0.0, 0.0);
                for channel in 0..expected.channels {
                    for voxel in 0..48 * 24 * 6 {
                        let wanted = expected.values[channel * 48 * 24 * 6 + voxel];
                        let found = f64::from(separate[place(&expected, channel, voxel)]);
                        error += (found - wanted).powi(2);
                        norm += wanted.powi(2);
                    }
                }
                assert!((error / norm).sqrt() < tolerance(precision), "{instructions:?}");
                for threads in [1, 2, 3, 5] {
                    let plan = forward::plan(network.clone(), kernels, threads, method).unwrap();
                    let what = format!("{instructions:?}, {method:?}, {threads} threads");
                    assert!(threads > 2 || !plan.displaced.is_empty(), "{what}");
                    assert!(plan.displaced.is_empty() || plan.arena < arena, "{what}");
                    let found = output(plan, &weights, &patch, kernels, threads, method);
                    let same = found.iter().zip(&separate).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_plan_for_other_kernels_or_more_threads_is_refused() {
    let mut builder = Builder::new(1, [64, 24, 6]);
    projected(&mut builder, vec![Source::plain(TensorId(0))], 16, [1; 3]);
    let network = builder.finish().network.clone();
    let weights = parameters(&network, &mut Noise(1));
    let kernels = Kernels::of(Instructions::Portable, Precision::F32).unwrap();
    let plan = forward::plan(network, kernels, 1, Method::Direct).unwrap();
    assert!(!plan.displaced.is_empty());
    let plan = Arc::new(plan);
    let load = |threads, method| {
        Forward::load(Arc::clone(&plan), &weights, kernels, threads, method).map(|_| ())
    };
    load(1, Method::Direct).unwrap();
    for outcome in [load(64, Method::Direct), load(1, winograd(Length::Four, Length::Four))] {
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("made for another device"), "{message}");
    }
}

/// A convolution, and the order in which its tasks run.
#[derive(Clone, Debug)]
struct Case {
    method: Method,
    kernel: [usize; 3],
    shape: [usize; 3],
    channels: [usize; 2],
    statistics: bool,
    threads: usize,
    /// Draws the next task; `None` takes the last that may start.
    seed: Option<u64>,
}

fn case() -> impl Strategy<Value = Case> {
    let lengths = || prop::sample::select(vec![Length::Two, Length::Four]);
    let method = prop_oneof![
        Just(Method::Direct),
        (lengths(), lengths()).prop_map(|(first, others)| winograd(first, others)),
    ];
    let kernel = prop::sample::select(vec![[3, 3, 3], [3, 3, 3], [1, 3, 3], [3, 1, 1]]);
    let channels = prop::sample::select(vec![[16, 16], [20, 31], [3, 9], [48, 40]]);
    (method, kernel, [9usize..60, 1..20, 1..9], channels, any::<bool>(), 1usize..4).prop_flat_map(
        |(method, kernel, shape, channels, statistics, threads)| {
            prop::option::of(any::<u64>()).prop_map(move |seed| Case {
                method,
                kernel,
                shape,
                channels,
                statistics,
                threads,
                seed,
            })
        },
    )
}

/// Runs the tasks of the network's last operation in the order of the case, with its output
/// `displaced` values before its source or behind it.
fn run(case: &Case, plan: &Plan, displaced: Option<usize>, weights: &Parameters) -> Vec<u32> {
    let network = &plan.network;
    let kernels = Kernels::of(Instructions::Portable, Precision::F32).unwrap();
    let Some(Op::Conv(conv)) = network.ops.last() else { panic!("ends in a convolution") };
    let path = Path::new(network, conv, kernels, case.method);
    let tensor = &network.tensors[conv.output.0];
    let length = tensor.channels.next_multiple_of(BLOCK) * tensor.shape.iter().product::<usize>();
    let mut offsets = vec![0; network.tensors.len()];
    let source = conv.sources[0].tensor.0;
    (offsets[source], offsets[conv.output.0]) = match displaced {
        Some(distance) => (distance, 0),
        None => (0, length),
    };
    let mut arena = Buffer::zeroed("arena", 2 * length).unwrap();
    let mut noise = Noise(9);
    arena.values_mut()[offsets[source]..][..length].fill_with(|| noise.next());
    let packed = path.pack(&weights.0[conv.weight.0], None).unwrap();
    let mut partials = vec![Partial::default(); path.partials()];
    let run = ConvRun {
        network,
        kernels,
        arena: Values::new(&mut arena, 4),
        offsets: &offsets,
        weights: &packed,
        coefficients: &[],
        partials: Shared(partials.as_mut_ptr()),
    };
    let mut scratch = Scratch::new(path.scratch_values()).unwrap();
    let row = path.task_row();
    let mut left: Vec<usize> = (0..path.tasks()).collect();
    let mut order = case.seed.map(Noise);
    while let Some(first) = left.first() {
        let end = (first / row.tasks + row.under_way(case.threads)) * row.tasks;
        let may_start = left.partition_point(|&task| task < end);
        let at = match &mut order {
            None => may_start - 1,
            Some(noise) => ((noise.next().abs() * may_start as f32) as usize).min(may_start - 1),
        };
        let task = left.remove(at);
        // SAFETY: any processor has the portable instructions; all else is this convolution's.
        unsafe { path.run_task(&run, &mut scratch, task) };
    }
    let mut statistics = vec![Partial::default(); tensor.channels.next_multiple_of(BLOCK)];
    if case.statistics {
        path.merge_partials(&partials, &mut statistics);
    }
    let output = &arena.values()[offsets[conv.output.0]..][..length];
    let means = statistics.iter().map(|partial| partial.mean as f32);
    output.iter().copied().chain(means).map(f32::to_bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_task_writes_what_another_still_reads(case in case()) {
        let mut builder = Builder::new(1, case.shape);
        let [inputs, outputs] = case.channels;
        let patch = vec![Source::plain(TensorId(0))];
        let source = builder.conv(patch, inputs, [1; 3], [1; 3], true, Epilogue::Plain);
        let source = vec![Source::plain(source)];
        if case.statistics {
            builder.normalized(source, outputs, case.kernel, [1; 3]);
        } else {
            builder.conv(source, outputs, case.kernel, [1; 3], false, Epilogue::Plain);
        }
        let plan = builder.finish();
        let weights = parameters(&plan.network, &mut Noise(5));
        let kernels = Kernels::of(Instructions::Portable, Precision::F32).unwrap();
        let Some(Op::Conv(conv)) = plan.network.ops.last() else { panic!("a convolution") };
        let path = Path::new(&plan.network, conv, kernels, case.method);
        let displaced = path.displacement(&plan.network, case.threads);
        prop_assume!(displaced.is_some());
        let expected = run(&case, &plan, None, &weights);
        prop_assert!(run(&case, &plan, displaced, &weights) == expected);
    }
}
