//! What bf16 and int8 change in the scores of one 128^3 tile of a seeded STU-Net-S, against single precision:
//! their distance, relative as a norm, and the labels that differ.
//!
//! usage: cargo bench --bench precision

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/job.rs"]
mod job;
#[path = "../tests/common/tile.rs"]
mod tile;

use std::sync::Arc;

use common::SeededModel;
use voxtile::base::Pool;
use voxtile::device::Precision;
use voxtile::device::cpu::{Cpu, Instructions};
use voxtile::model::Model;

const CLASSES: usize = 105;

fn main() {
    let model = Model::from_bytes(SeededModel::stunet(16, CLASSES).bytes()).unwrap();
    let scores = |instructions, precision| {
        let pool = Arc::new(Pool::new(0).unwrap());
        let mut device = Cpu::with_instructions(pool, instructions, precision).unwrap();
        tile::run(&mut device, &model).scores
    };
    let sets = Instructions::available();
    let single = scores(sets[0], Precision::F32);
    for (precision, set) in [Precision::Bf16, Precision::Int8]
        .into_iter()
        .flat_map(|of| sets.iter().map(move |&set| (of, set)))
    {
        let narrow = scores(set, precision);
        let differ = labels(&single).iter().zip(labels(&narrow)).filter(|&(&a, b)| a != b).count();
        println!(
            "{}, {}: scores {:.2e}, labels {:.3} %",
            precision.name(),
            set.name(),
            tile::distance(&narrow, &single),
            100.0 * differ as f64 / (single.len() / CLASSES) as f64
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
