//! What bf16 changes in the scores of one 128^3 tile of a seeded STU-Net-S, against single precision:
//! their distance, relative as a norm, and the labels that differ.
//!
//! usage: cargo bench --bench precision

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/job.rs"]
mod job;

use std::sync::Arc;

use common::{Noise, SeededModel};
use voxtile::base::Pool;
use voxtile::device::cpu::{Cpu, Instructions};
use voxtile::device::{Device, Precision, SlabOutput};
use voxtile::model::Model;
use voxtile::net::Plan;
use voxtile::window::{Slab, Tile};

const CLASSES: usize = 105;

fn main() {
    let model = Model::from_bytes(SeededModel::stunet(16, CLASSES).bytes()).unwrap();
    let plan = Arc::new(Plan::new(model.network(0).clone()).unwrap());
    let patch = model.package().parts[0].patch;
    let mut noise = Noise(1);
    let volume: Vec<f32> = (0..patch.iter().product::<usize>()).map(|_| noise.next()).collect();
    let scores = |instructions, precision| {
        let pool = Arc::new(Pool::new(0).unwrap());
        let mut device = Cpu::with_instructions(pool, instructions, precision).unwrap();
        device.load(Arc::clone(&plan), &model.weights(0)).unwrap();
        device.begin(job::job(1, patch)).unwrap();
        device.feed(0..patch[0], &volume).unwrap();
        let tile = Tile { start: [0; 3] };
        device.gather(&tile, [false; 3]).unwrap();
        device.forward(0).unwrap();
        device.blend(&tile, [false; 3], 0).unwrap();
        let mut output = SlabOutput::default();
        device.resolve(&Slab { planes: 0..patch[0], output: 0..patch[0] }, &mut output).unwrap();
        output.scores
    };
    let sets = Instructions::available();
    let single = scores(sets[0], Precision::F32);
    for set in sets {
        let narrow = scores(set, Precision::Bf16);
        let distance: f64 = single.iter().zip(&narrow).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let norm: f64 = single.iter().map(|&score| f64::from(score).powi(2)).sum();
        let differ = labels(&single).iter().zip(labels(&narrow)).filter(|&(&a, b)| a != b).count();
        println!(
            "{}: scores {:.2e}, labels {:.3} %",
            set.name(),
            (distance / norm).sqrt(),
            100.0 * differ as f64 / volume.len() as f64
        );
    }
}

/// The class of the highest score of each voxel.
fn labels(scores: &[f32]) -> Vec<u8> {
    let voxels = scores.len() / CLASSES;
    (0..voxels)
        .map(|voxel| {
            let score = |class: u8| scores[usize::from(class) * voxels + voxel];
            (0..CLASSES as u8).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap_or(0)
        })
        .collect()
}
