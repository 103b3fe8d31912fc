//! One tile of whole networks on a GPU beside the processor: scores of every class.
#![cfg(feature = "cuda")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/job.rs"]
mod job;
#[path = "common/tile.rs"]
mod tile;

use std::sync::Arc;

use common::SeededModel;
use voxtile::base::Pool;
use voxtile::device::Precision;
use voxtile::device::cpu::Cpu;
use voxtile::device::cuda::Cuda;
use voxtile::model::Model;

/// How far scores lie from the processor's, as a share of these.
fn distance(model: &SeededModel, precision: Precision) -> f64 {
    let model = Model::from_bytes(model.bytes()).unwrap();
    let ours = tile::scores(&mut Cuda::open(None, precision).unwrap(), &model);
    let pool = Arc::new(Pool::new(0).unwrap());
    let theirs = tile::scores(&mut Cpu::open(pool, Precision::F32).unwrap(), &model);
    tile::distance(&ours, &theirs)
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
