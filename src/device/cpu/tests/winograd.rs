//! Winograd's algorithm with every tile, forced, against the reference; and what is chosen.

use proptest::prelude::*;

use super::super::path::Path;
use super::super::winograd::{Length, Tiling};
use super::*;
use crate::device::networks::{Builder, projected};
use crate::net::{Epilogue, Op, Source, TensorId};

fn tilings() -> impl Iterator<Item = Tiling> {
    let lengths = [Length::Two, Length::Four];
    lengths.into_iter().flat_map(move |first| {
        lengths.into_iter().flat_map(move |others| {
            let lengths = [first, others];
            [true, false].map(|stored| Tiling { lengths, stored, streamed: !stored })
        })
    })
}

/// A convolution of one or two sources, the first enlarged or normalised or both, and what is
/// done with its sums.
#[derive(Clone, Debug)]
struct Case {
    tiling: Tiling,
    kernel: [usize; 3],
    /// Of what is enlarged.
    shape: [usize; 3],
    upsample: [usize; 3],
    normalized: bool,
    channels: usize,
    /// Of the second source.
    also: Option<usize>,
    outputs: usize,
    bias: bool,
    /// 0 plain, 1 statistics, 2 the end of a residual block.
    epilogue: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let tiling = prop::sample::select(tilings().collect::<Vec<_>>());
    let kernel = prop::sample::select(vec![[3, 3, 3], [3, 3, 3], [1, 3, 3]]);
    let upsample =
        prop::sample::select(vec![[1, 1, 1], [1, 1, 1], [2, 2, 2], [1, 2, 2], [1, 1, 2]]);
    let channels = || prop::sample::select(vec![1, 5, 16, 17, 32, 45]);
    (
        (tiling, kernel, [1usize..7, 1..8, 1..19], upsample),
        (any::<bool>(), channels(), prop::option::of(channels()), channels()),
        (any::<bool>(), 0usize..3),
    )
        .prop_map(
            |((tiling, kernel, shape, upsample), (normalized, channels, also, outputs), rest)| {
                let (bias, epilogue) = rest;
                Case {
                    tiling,
                    kernel,
                    shape,
                    upsample,
                    normalized,
                    channels,
                    also,
                    outputs,
                    bias,
                    epilogue,
                }
            },
        )
}

fn network(case: &Case) -> Arc<Plan> {
    let enlarged: [usize; 3] = std::array::from_fn(|axis| case.shape[axis] * case.upsample[axis]);
    let mut builder = Builder::new(2, enlarged);
    let one = [1; 3];
    let patch = || vec![Source::plain(TensorId(0))];
    // The stride that undoes the enlargement.
    let (tensor, pending) = builder.normalized(patch(), case.channels, one, case.upsample);
    let normalization = case.normalized.then_some(pending);
    let mut sources = vec![Source { tensor, upsample: case.upsample, normalization }];
    if let Some(channels) = case.also {
        let also = builder.conv(patch(), channels, one, one, true, Epilogue::Plain);
        sources.push(Source::plain(also));
    }
    match case.epilogue {
        0 => {
            builder.conv(sources, case.outputs, case.kernel, one, case.bias, Epilogue::Plain);
        }
        1 => {
            let (tensor, pending) = builder.normalized(sources, case.outputs, case.kernel, one);
            builder.join(tensor, pending, None);
        }
        _ => {
            let (main, normalization) = builder.normalized(patch(), case.outputs, one, one);
            let epilogue = Epilogue::AddNormalized { main, normalization };
            builder.conv(sources, case.outputs, case.kernel, one, case.bias, epilogue);
        }
    }
    builder.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_shape_is_the_sum_it_stands_for(case in case()) {
        check_by(&[Method::Winograd(case.tiling)], Precision::F32, &network(&case), Noise::next);
    }
}

fn every_tiling() -> Vec<Method> {
    tilings().map(Method::Winograd).collect()
}

#[test]
fn layers_of_many_channels_stay_within_the_error_bound() {
    let mut builder = Builder::new(1, [5, 6, 9]);
    let patch = vec![Source::plain(TensorId(0))];
    let (tensor, normalization) = builder.normalized(patch, 130, [1; 3], [1; 3]);
    let source = Source { tensor, upsample: [1; 3], normalization: Some(normalization) };
    builder.normalized(vec![source], 50, [3, 3, 3], [1; 3]);
    check_by(&every_tiling(), Precision::F32, &builder.finish(), Noise::next);
}

#[test]
fn whole_residual_blocks() {
    let mut builder = Builder::new(2, [6, 9, 14]);
    let skip = projected(&mut builder, vec![Source::plain(TensorId(0))], 16, [1; 3]);
    let deep = projected(&mut builder, vec![Source::plain(skip)], 33, [2, 1, 2]);
    let up = builder.conv(vec![Source::plain(deep)], 16, [1; 3], [1; 3], true, Epilogue::Plain);
    let up = Source { tensor: up, upsample: [2, 1, 2], normalization: None };
    projected(&mut builder, vec![up, Source::plain(skip)], 16, [1; 3]);
    let plan = builder.finish();
    for precision in [Precision::F32, Precision::Bf16] {
        check_by(&every_tiling(), precision, &plan, Noise::next);
    }
}

/// A convolution of `inputs` to `outputs` channels on a grid, and how it is computed.
fn chosen(inputs: usize, outputs: usize, shape: [usize; 3], instructions: Instructions) -> Path {
    let mut builder = Builder::new(1, shape);
    let source = vec![Source::plain(TensorId(0))];
    let source = builder.conv(source, inputs, [1; 3], [1; 3], true, Epilogue::Plain);
    builder.normalized(vec![Source::plain(source)], outputs, [3, 3, 3], [1; 3]);
    let plan = builder.finish();
    let kernels = Kernels::of(instructions, Precision::F32).unwrap();
    let Some(Op::Conv(conv)) = plan.network.ops.last() else { panic!("ends in a convolution") };
    Path::new(&plan.network, conv, kernels, Method::Fastest)
}

#[test]
fn the_choice_pays_in_time_and_spares_memory() {
    for instructions in Instructions::available() {
        for (inputs, outputs, side) in
            [(16, 16, 128), (32, 16, 128), (64, 64, 32), (256, 128, 16), (512, 512, 8)]
        {
            let Path::Winograd(layout) = chosen(inputs, outputs, [side; 3], instructions) else {
                panic!("{inputs} to {outputs} channels on {side}^3 are computed directly");
            };
            let scratch = 4 * layout.scratch_values();
            assert!(scratch <= 640 << 10, "{inputs} to {outputs}: {scratch} bytes");
            let own = 4 * 27 * inputs * outputs;
            let weights = 4 * layout.weight_values();
            assert!(weights <= own + (9 << 20), "{inputs} to {outputs}: {weights} bytes");
        }
        assert!(matches!(chosen(1, 16, [64; 3], instructions), Path::Direct(_)));
        assert!(matches!(chosen(64, 64, [1; 3], instructions), Path::Direct(_)));
    }
}
