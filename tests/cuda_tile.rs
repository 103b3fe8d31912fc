//! One tile of whole networks on a GPU beside the processor: scores of every class, and labels.
#![cfg(feature = "cuda")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/job.rs"]
mod job;
#[path = "common/tile.rs"]
mod tile;

use std::collections::HashSet;
use std::sync::Arc;

use common::SeededModel;
use voxtile::base::Pool;
use voxtile::device::cpu::Cpu;
use voxtile::device::cuda::{Cuda, Shortcuts};
use voxtile::device::{Precision, SlabOutput};
use voxtile::model::Model;

/// What two devices make of a tile.
struct Compared {
    /// How far scores lie from the processor's, as a share of these.
    scores: f64,
    /// Share of the voxels that have another label.
    labels: f64,
    /// The most that the processor's scores of two such labels differ, as a share of the scores.
    tie: f64,
}

fn compare(found: &SlabOutput, expected: &SlabOutput) -> Compared {
    let voxels = expected.classes.len();
    assert_eq!(found.classes.len(), voxels);
    let squares = expected.scores.iter().map(|&score| f64::from(score).powi(2));
    let size = (squares.sum::<f64>() / expected.scores.len() as f64).sqrt();
    let score =
        |class: u16, voxel: usize| f64::from(expected.scores[voxels * class as usize + voxel]);
    let (mut differ, mut tie) = (0, 0.0f64);
    for (voxel, (&ours, &theirs)) in found.classes.iter().zip(&expected.classes).enumerate() {
        if ours != theirs {
            differ += 1;
            tie = tie.max((score(theirs, voxel) - score(ours, voxel)) / size);
        }
    }
    let scores = tile::distance(&found.scores, &expected.scores);
    Compared { scores, labels: differ as f64 / voxels as f64, tie }
}

/// At full size on a real GPU, where layers have the tiles and grids that users run.
#[test]
fn scores_and_labels_are_the_processor_s() {
    if !emulator::inside("scores_and_labels_are_the_processor_s", &[]) {
        return;
    }
    let models = match emulator::real() {
        true => vec![("S", SeededModel::stunet(16, 105)), ("B", SeededModel::stunet(32, 105))],
        false => vec![("small", SeededModel::small([32; 3], 5))],
    };
    for (name, model) in models {
        let model = Model::from_bytes(model.bytes()).unwrap();
        let pool = Arc::new(Pool::new(0).unwrap());
        let expected = tile::run(&mut Cpu::open(pool, Precision::F32).unwrap(), &model);
        let several: HashSet<u16> = expected.classes.iter().copied().collect();
        assert!(several.len() > 2, "{name}: {several:?}");
        let ways = [
            (Precision::F16, Shortcuts::Together, [1e-2, 2e-2, 0.1]),
            (Precision::F16, Shortcuts::Apart, [1e-2, 2e-2, 0.1]),
            (Precision::F32, Shortcuts::Expected, [1e-4, 2e-4, 1e-3]),
        ];
        for (precision, shortcuts, limits) in ways {
            let mut device = Cuda::open(0, precision).unwrap();
            device.make_shortcuts(shortcuts);
            let Compared { scores, labels, tie } =
                compare(&tile::run(&mut device, &model), &expected);
            let way = format!("{name}, {}, shortcuts {shortcuts:?}", precision.name());
            println!("{way}: scores {scores:.2e}, labels {labels:.2e}, tie {tie:.2e}");
            let found = [scores, labels, tie];
            let within = found.iter().zip(limits).all(|(found, limit)| *found < limit);
            assert!(within, "{way}: {found:?} are not below {limits:?}");
        }
    }
}
