//! One tile of whole networks on a GPU beside the processor: scores of every class.
#![cfg(feature = "cuda")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/job.rs"]
mod job;

use std::sync::Arc;

use common::{Noise, SeededModel};
use voxtile::base::Pool;
use voxtile::device::cpu::Cpu;
use voxtile::device::cuda::Cuda;
use voxtile::device::{Device, Precision, SlabOutput};
use voxtile::model::Model;
use voxtile::net::Plan;
use voxtile::window::{Slab, Tile};

/// Scores of a tile of noise, `[classes][patch0][patch1][patch2]`.
fn scores(device: &mut dyn Device, model: &Model) -> Vec<f32> {
    let plan = Arc::new(Plan::new(model.network(0).clone()).unwrap());
    let patch = model.package().parts[0].patch;
    let mut noise = Noise(1);
    let volume: Vec<f32> = (0..patch.iter().product::<usize>()).map(|_| noise.next()).collect();
    device.load(plan, &model.weights(0)).unwrap();
    device.begin(job::job(1, patch)).unwrap();
    device.feed(0..patch[0], &volume).unwrap();
    let tile = Tile { start: [0; 3] };
    device.gather(&tile, [false; 3]).unwrap();
    device.forward(0).unwrap();
    device.blend(&tile, [false; 3], 0).unwrap();
    let mut output = SlabOutput::default();
    device.resolve(&Slab { planes: 0..patch[0], output: 0..patch[0] }, &mut output).unwrap();
    device.finish();
    output.scores
}

/// How far scores lie from the processor's, as a share of these.
fn distance(model: &SeededModel, precision: Precision) -> f64 {
    let model = Model::from_bytes(model.bytes()).unwrap();
    let ours = scores(&mut Cuda::open(None, precision).unwrap(), &model);
    let theirs =
        scores(&mut Cpu::open(Arc::new(Pool::new(0).unwrap()), Precision::F32).unwrap(), &model);
    assert_eq!(ours.len(), theirs.len());
    let squares = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value) * f64::from(value)).sum()
    };
    let apart = squares(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b));
    (apart / squares(&mut theirs.iter().copied())).sqrt()
}

/// At full size on a real GPU, where layers have the tiles and grids that users run.
#[test]
fn scores_are_the_processor_s() {
    if !emulator::inside("scores_are_the_processor_s", &[]) {
        return;
    }
    let models = match emulator::real() {
        true => vec![("S", SeededModel::stunet(16, 105)), ("B", SeededModel::stunet(32, 105))],
        false => vec![("small", SeededModel::small([16, 24, 20], 5))],
    };
    for (name, model) in models {
        let half = distance(&model, Precision::F16);
        let single = distance(&model, Precision::F32);
        println!("{name}: half precision {half:.2e}, single {single:.2e}");
        assert!(half < 1e-2, "{name}: {half}");
        assert!(single < 1e-4, "{name}: {single}");
    }
}
