//! Whole runs beside the processor's: the same job and features, and a network of one small
//! convolution that is computed here.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use half::f16;

use super::{Noise, gpu};
use crate::base::{Pool, Result};
use crate::device::cpu::Cpu;
use crate::device::cuda::Gpu;
use crate::device::cuda::driver::{Address, Buffer};
use crate::device::cuda::head::Head;
use crate::device::cuda::mosaic::{self, Mosaic};
use crate::device::{
    Accumulators, Blend, Decision, Device, Job, JobSize, MemoryPart, Place, Precision, SlabOutput,
};
use crate::net::{
    Conv, Epilogue, Head as NetworkHead, Network, Op, Parameter, ParameterId, Plan, Source, Tensor,
    TensorId, Weights,
};
use crate::volume::resample::axis_maps;
use crate::window::{Grain, Schedule, Step, schedule};

/// What a run is like.
#[derive(Clone, Debug)]
struct Case {
    channels: usize,
    features: usize,
    classes: usize,
    folds: usize,
    shape: [usize; 3],
    /// Along the network's axes.
    patch: [usize; 3],
    axes: [usize; 3],
    output: [usize; 3],
    region: [Range<usize>; 3],
    blend: Blend,
    accumulators: Accumulators,
    decision: Decision,
    probability_classes: Vec<usize>,
    network_probabilities: bool,
    scores: bool,
    /// Every so many tiles one is left out; 0 leaves out none.
    left_out: usize,
    precision: Precision,
}

impl Case {
    fn random(noise: &mut Noise) -> Self {
        let axes = noise.of(&[[0, 1, 2], [1, 0, 2], [2, 0, 1]]);
        let shape = [noise.whole(5..20), noise.whole(5..14), noise.whole(5..40)];
        let patch = [noise.whole(3..9), noise.whole(3..9), noise.whole(3..12)];
        let output = match noise.coin() {
            true => shape,
            false => [noise.whole(4..30), noise.whole(4..20), noise.whole(4..40)],
        };
        let classes = noise.of(&[3, 5, 40]);
        let some = noise.of(&[0, 1, 2]);
        Self {
            channels: noise.whole(1..3),
            features: noise.of(&[5, 16, 20]),
            classes,
            folds: noise.whole(1..3),
            shape,
            patch,
            axes,
            output,
            region: output.map(|extent| match noise.coin() {
                true => 0..extent,
                false => extent / 4..extent / 2,
            }),
            blend: noise.of(&[Blend::Logits, Blend::Logits, Blend::Probabilities]),
            accumulators: noise.of(&[Accumulators::F32, Accumulators::F16]),
            decision: noise.of(&[Decision::Highest, Decision::LastPositive]),
            probability_classes: (0..classes).step_by(2).take(some).collect(),
            network_probabilities: noise.coin(),
            scores: noise.coin(),
            left_out: noise.of(&[0, 3]),
            precision: noise.of(&[Precision::F32, Precision::F16]),
        }
    }

    fn network(&self) -> Network {
        let tensor = |channels| Tensor { channels, shape: self.patch };
        let parameter = |shape: &[usize]| Parameter { name: String::new(), shape: shape.to_vec() };
        Network {
            tensors: vec![tensor(self.channels), tensor(self.features)],
            parameters: vec![
                parameter(&[self.features, self.channels, 1, 1, 1]),
                parameter(&[self.classes, self.features, 1, 1, 1]),
                parameter(&[self.classes]),
            ],
            statistics: 0,
            ops: vec![Op::Conv(Conv {
                sources: vec![Source::plain(TensorId(0))],
                weight: ParameterId(0),
                bias: None,
                kernel: [1; 3],
                stride: [1; 3],
                expand: None,
                output: TensorId(1),
                epilogue: Epilogue::Plain,
            })],
            input: TensorId(0),
            output: TensorId(1),
            head: NetworkHead { weight: ParameterId(1), bias: Some(ParameterId(2)) },
            classes: self.classes,
        }
    }

    /// The patch along the run's axes.
    fn tile(&self) -> [usize; 3] {
        self.axes.map(|axis| self.patch[axis])
    }

    fn schedule(&self) -> Schedule {
        let grain = Grain { feed_planes: 3, slab_planes: 2 };
        let maps = axis_maps(self.shape, self.output, 1, None);
        schedule(self.shape, self.tile(), 0.5, &maps[0], grain).unwrap()
    }

    fn job(&self, schedule: &Schedule) -> Job {
        let mut noise = Noise(3);
        let window = (0..self.patch.iter().product()).map(|_| 1.1 + noise.next()).collect();
        Job {
            channels: self.channels,
            shape: self.shape,
            axes: self.axes,
            pad_before: schedule.pad_before,
            volume_planes: schedule.volume_planes,
            window,
            ring_planes: schedule.ring_planes,
            slab_planes: 2,
            blend: self.blend,
            accumulators: self.accumulators,
            decision: self.decision,
            output: axis_maps(self.shape, self.output, 1, None),
            region: self.region.clone(),
            probability_classes: self.probability_classes.clone(),
            network_probabilities: self.network_probabilities,
            scores: self.scores,
            resampling: None,
        }
    }

    fn size(&self, schedule: &Schedule, output_planes: usize) -> JobSize {
        JobSize {
            channels: self.channels,
            shape: self.shape,
            volume_planes: schedule.volume_planes,
            ring_planes: schedule.ring_planes,
            blend: self.blend,
            accumulators: self.accumulators,
            output: self.output,
            output_planes,
            slab_planes: 2,
            probability_classes: self.probability_classes.len(),
            scores: self.scores,
            resampling: None,
        }
    }
}

struct Folds(Vec<Vec<Vec<f32>>>);

impl Folds {
    fn new(network: &Network, folds: usize, noise: &mut Noise) -> Self {
        let fold = |noise: &mut Noise| {
            let parameter = |parameter: &Parameter| {
                (0..parameter.shape.iter().product()).map(|_| noise.next()).collect()
            };
            network.parameters.iter().map(parameter).collect()
        };
        Self((0..folds).map(|_| fold(noise)).collect())
    }
}

impl Weights for Folds {
    fn folds(&self) -> usize {
        self.0.len()
    }

    fn parameter(&self, fold: usize, id: ParameterId) -> Result<Cow<'_, [f32]>> {
        Ok(Cow::Borrowed(&self.0[fold][id.0]))
    }
}

/// The network's input and features on the device.
enum Activations {
    Single(Buffer<f32>, Buffer<f32>),
    Half(Buffer<f16>, Buffer<f16>),
}

impl Activations {
    fn new(gpu: &Gpu, case: &Case) -> Self {
        let voxels = case.patch.iter().product::<usize>();
        let (inputs, features) =
            (case.channels * voxels, case.features.next_multiple_of(16) * voxels);
        let context = gpu.context();
        match gpu.precision {
            Precision::F32 => Self::Single(
                Buffer::new(context, "input", inputs).unwrap(),
                Buffer::new(context, "features", features).unwrap(),
            ),
            _ => Self::Half(
                Buffer::new(context, "input", inputs).unwrap(),
                Buffer::new(context, "features", features).unwrap(),
            ),
        }
    }

    fn addresses(&self) -> [Address; 2] {
        match self {
            Self::Single(input, features) => [input.address(), features.address()],
            Self::Half(input, features) => [input.address(), features.address()],
        }
    }

    /// What the convolution of `weights` makes of the input.
    fn forward(&self, gpu: &Gpu, case: &Case, weights: &[f32]) {
        let voxels = case.patch.iter().product::<usize>();
        let mut input = vec![0.0; case.channels * voxels];
        match self {
            Self::Single(from, _) => from.read(&gpu.stream, 0, &mut input).unwrap(),
            Self::Half(from, _) => {
                let mut halves = vec![f16::ZERO; input.len()];
                from.read(&gpu.stream, 0, &mut halves).unwrap();
                input.iter_mut().zip(halves).for_each(|(value, half)| *value = half.to_f32());
            }
        }
        let mut features = vec![0.0; case.features.next_multiple_of(16) * voxels];
        for (feature, weights) in weights.chunks_exact(case.channels).enumerate() {
            for voxel in 0..voxels {
                let sum = weights.iter().enumerate().map(|(c, w)| w * input[c * voxels + voxel]);
                features[(feature / 8 * voxels + voxel) * 8 + feature % 8] = sum.sum();
            }
        }
        match self {
            Self::Single(_, into) => into.write(&gpu.stream, 0, &features).unwrap(),
            Self::Half(_, into) => {
                let halves: Vec<f16> = features.iter().map(|&value| f16::from_f32(value)).collect();
                into.write(&gpu.stream, 0, &halves).unwrap();
            }
        }
    }
}

/// Runs a job and hands each slab's output over.
fn on_processor(
    case: &Case,
    schedule: &Schedule,
    job: Job,
    volume: &[f32],
    weights: &Folds,
) -> Vec<SlabOutput> {
    let mut cpu = Cpu::open(Arc::new(Pool::new(1).unwrap()), Precision::F32).unwrap();
    cpu.load(Arc::new(Plan::new(case.network()).unwrap()), weights).unwrap();
    cpu.begin(job).unwrap();
    let mut outputs = Vec::new();
    for step in &schedule.steps {
        match step {
            Step::Feed(planes) => cpu.feed(planes.clone(), &fed(case, volume, planes)).unwrap(),
            Step::Tile(number) if skipped(case, *number) => {}
            Step::Tile(number) => {
                let (tile, mirror) = (&schedule.tiles[*number], mirrored(*number));
                for fold in 0..case.folds {
                    cpu.gather(tile, mirror).unwrap();
                    cpu.forward(fold).unwrap();
                    cpu.blend(tile, mirror, fold).unwrap();
                }
            }
            Step::Resolve(slab) => {
                let mut output = SlabOutput::default();
                cpu.resolve(slab, &mut output).unwrap();
                outputs.push(output);
            }
        }
    }
    outputs
}

fn on_gpu(
    gpu: &Gpu,
    case: &Case,
    schedule: &Schedule,
    volume: &[f32],
    weights: &Folds,
) -> Vec<SlabOutput> {
    let network = case.network();
    let head = Head::load(gpu, &network, weights).unwrap();
    let activations = Activations::new(gpu, case);
    let [input, features] = activations.addresses();
    let mut run = Mosaic::new(gpu, case.job(schedule), &head, case.patch).unwrap();
    let mut output = SlabOutput::default();
    let mut outputs = Vec::new();
    for step in &schedule.steps {
        match step {
            Step::Feed(planes) => {
                run.feed(gpu, planes.clone(), &fed(case, volume, planes)).unwrap();
            }
            Step::Tile(number) if skipped(case, *number) => {}
            Step::Tile(number) => {
                let (tile, mirror) = (&schedule.tiles[*number], mirrored(*number));
                for fold in 0..case.folds {
                    run.gather(gpu, tile, mirror, input).unwrap();
                    activations.forward(gpu, case, &weights.0[fold][0]);
                    run.blend(gpu, tile, mirror, fold, &head, features).unwrap();
                }
            }
            Step::Resolve(slab) => {
                run.ask_resolve(gpu, slab, &head).unwrap();
                run.collect(gpu, &mut output, &head).unwrap();
                outputs.push(std::mem::take(&mut output));
            }
        }
    }
    outputs
}

fn skipped(case: &Case, tile: usize) -> bool {
    case.left_out > 0 && tile.is_multiple_of(case.left_out)
}

fn mirrored(tile: usize) -> [bool; 3] {
    [tile & 1 == 1, tile & 2 == 2, tile & 4 == 4]
}

/// Planes of the volume as they are handed over.
fn fed(case: &Case, volume: &[f32], planes: &Range<usize>) -> Vec<f32> {
    let plane = case.shape[1] * case.shape[2];
    let channel = case.shape[0] * plane;
    let part = planes.start * plane..planes.end * plane;
    volume.chunks_exact(channel).flat_map(|values| values[part.clone()].to_vec()).collect()
}

fn near(found: &[f32], expected: &[f32], tolerance: f32, what: &str, case: &Case) {
    assert_eq!(found.len(), expected.len(), "{what} of {case:?}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = tolerance * (1.0 + expected.abs());
        assert!((found - expected).abs() <= allowed, "{what} {at}: {found}, {expected}: {case:?}");
    }
}

/// Whether classes `a` and `b` are nearly as likely at voxel `at`, by the probabilities of all.
fn tie(case: &Case, all: &[f32], voxels: usize, at: usize, [a, b]: [u16; 2]) -> bool {
    let probability = |class: usize| all[class * voxels + at];
    match case.decision {
        Decision::Highest => (probability(a.into()) - probability(b.into())).abs() < 0.01,
        // Regions between the two, and they themselves, are about half likely.
        Decision::LastPositive => (probability(usize::from(a.max(b)) - 1) - 0.5).abs() < 0.01,
    }
}

fn check(case: &Case, seed: u64) {
    let mut noise = Noise(seed);
    let weights = Folds::new(&case.network(), case.folds, &mut noise);
    let voxels = case.channels * case.shape.iter().product::<usize>();
    let volume: Vec<f32> = (0..voxels).map(|_| 2.0 * noise.next()).collect();
    let schedule = case.schedule();
    let expected = on_processor(case, &schedule, case.job(&schedule), &volume, &weights);
    let all = Job {
        probability_classes: (0..case.classes).collect(),
        network_probabilities: false,
        ..case.job(&schedule)
    };
    let likely = on_processor(case, &schedule, all, &volume, &weights);
    let found = on_gpu(&gpu(case.precision), case, &schedule, &volume, &weights);
    assert_eq!(found.len(), expected.len());
    let exact = case.precision == Precision::F32 && case.accumulators == Accumulators::F32;
    // Half precision rounds each of the features, of which scores are sums that may cancel.
    let [score, probability] = if exact { [1e-5; 2] } else { [2e-2, 4e-3] };
    let (mut differ, mut compared) = (0, 0);
    for ((found, expected), likely) in found.iter().zip(&expected).zip(&likely) {
        near(&found.scores, &expected.scores, score, "score", case);
        near(&found.probabilities, &expected.probabilities, probability, "probability", case);
        assert_eq!(found.classes.len(), expected.classes.len());
        let count = found.classes.len();
        for (at, (&a, &b)) in found.classes.iter().zip(&expected.classes).enumerate() {
            compared += 1;
            if a != b {
                differ += 1;
                assert!(
                    tie(case, &likely.probabilities, count, at, [a, b]),
                    "classes {a} and {b}: {case:?}"
                );
            }
        }
    }
    assert!(differ * if exact { 1000 } else { 50 } <= compared, "{differ} of {compared}: {case:?}");
}

#[test]
fn runs_are_those_of_the_processor() {
    let mut noise = Noise(1);
    for seed in 0..24 {
        check(&Case::random(&mut noise), seed);
    }
}

#[test]
fn scores_that_are_not_finite_are_an_error() {
    let mut noise = Noise(2);
    for blend in [Blend::Logits, Blend::Probabilities] {
        let case = Case { blend, left_out: 0, ..Case::random(&mut noise) };
        let gpu = gpu(case.precision);
        let weights = Folds::new(&case.network(), case.folds, &mut noise);
        let schedule = case.schedule();
        let head = Head::load(&gpu, &case.network(), &weights).unwrap();
        let activations = Activations::new(&gpu, &case);
        let [input, features] = activations.addresses();
        let mut run = Mosaic::new(&gpu, case.job(&schedule), &head, case.patch).unwrap();
        let plane = case.channels * case.shape[1] * case.shape[2];
        let mut error = None;
        for step in &schedule.steps {
            match step {
                Step::Feed(planes) => {
                    let values = vec![f32::NAN; planes.len() * plane];
                    run.feed(&gpu, planes.clone(), &values).unwrap();
                }
                Step::Tile(number) => {
                    let tile = &schedule.tiles[*number];
                    run.gather(&gpu, tile, [false; 3], input).unwrap();
                    activations.forward(&gpu, &case, &weights.0[0][0]);
                    run.blend(&gpu, tile, [false; 3], 0, &head, features).unwrap();
                }
                Step::Resolve(slab) => {
                    run.ask_resolve(&gpu, slab, &head).unwrap();
                    error = run.collect(&gpu, &mut SlabOutput::default(), &head).err();
                    break;
                }
            }
        }
        let error = error.expect("an error").to_string();
        assert!(error.contains("its scores in planes 0..") && error.contains("finite"), "{error}");
    }
}

#[test]
fn a_run_takes_the_memory_that_was_said() {
    let mut noise = Noise(4);
    for _ in 0..8 {
        let case = Case::random(&mut noise);
        let gpu = gpu(case.precision);
        let weights = Folds::new(&case.network(), case.folds, &mut noise);
        let head = Head::load(&gpu, &case.network(), &weights).unwrap();
        let schedule = case.schedule();
        // The most that any two planes of the volume have between them, as sessions reckon.
        let planes = case.output[0];
        let output_planes = planes.min(3 * planes / case.shape[0] + 2);
        let said = mosaic::memory(
            &case.size(&schedule, output_planes),
            [head.features, head.folds, head.padded_classes, head.classes],
            case.patch,
        );
        let said = MemoryPart::sum(&said, Place::Device);
        let run = Mosaic::new(&gpu, case.job(&schedule), &head, case.patch).unwrap();
        // Where slabs lie is known to the plane, and probabilities may be wanted on either grid.
        let held = run.bytes();
        assert!(held <= said && said <= 2 * held, "{held} of {said} bytes: {case:?}");
    }
}
