//! One tile through a whole network, without a session.

use std::sync::Arc;

use voxtile::device::{Device, SlabOutput};
use voxtile::model::Model;
use voxtile::window::{Slab, Tile};

use crate::common::Noise;
use crate::job::job;

/// Scores `[classes][patch0][patch1][patch2]` and classes of a tile of noise.
pub fn run(device: &mut dyn Device, model: &Model) -> SlabOutput {
    let patch = model.package().parts[0].patch;
    let mut noise = Noise(1);
    let volume: Vec<f32> = (0..patch.iter().product::<usize>()).map(|_| noise.next()).collect();
    let plan = device.plan(model.network(0).clone()).unwrap();
    device.load(Arc::new(plan), &model.weights(0)).unwrap();
    device.begin(job(1, patch)).unwrap();
    device.feed(0..patch[0], &volume).unwrap();
    let tile = Tile { start: [0; 3] };
    device.gather(&tile, [false; 3]).unwrap();
    device.forward(0).unwrap();
    device.blend(&tile, [false; 3], 0).unwrap();
    let mut output = SlabOutput::default();
    device.resolve(&Slab { planes: 0..patch[0], output: 0..patch[0] }, &mut output).unwrap();
    device.finish();
    output
}

/// How far scores lie from those expected, as a share of these.
pub fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squares = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value) * f64::from(value)).sum()
    };
    let apart = squares(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (apart / squares(&mut expected.iter().copied())).sqrt()
}
