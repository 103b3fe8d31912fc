//! Whole networks on one patch, against PyTorch: every instruction set, every fold, every stored
//! type. `tests/reference/make_tiles.py` made the fixtures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use voxtile::Model;
use voxtile::base::Pool;
use voxtile::device::cpu::{Cpu, Instructions};
use voxtile::device::{Device, Precision, SlabOutput};
use voxtile::net::Weights;
use voxtile::window::{Slab, Tile};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiles").join(name)
}

/// With each precision, what the scores may differ by, relative.
fn each_instructions_and_precision() -> impl Iterator<Item = (Instructions, (Precision, f64))> {
    let precisions = [(Precision::F32, 1e-5), (Precision::Bf16, 3e-2), (Precision::Int8, 8e-2)];
    Instructions::available()
        .into_iter()
        .flat_map(move |set| precisions.map(|precision| (set, precision)))
}

#[test]
fn scores_are_pytorch_s() {
    for name in ["released_strides", "odd_widths", "two_folds", "bf16"] {
        let bytes = std::fs::read(fixture(&format!("{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |tensor: &str| -> Vec<f32> {
            bytemuck::pod_collect_to_vec(file.tensor(tensor).unwrap().data())
        };
        let (patch, expected) = (floats("patch"), floats("scores"));
        let model = Model::open(fixture(&format!("{name}.model.safetensors"))).unwrap();
        let extents = model.package().parts[0].patch;
        for (instructions, (precision, bound)) in each_instructions_and_precision() {
            let pool = Arc::new(Pool::new(2).unwrap());
            let mut device = Cpu::with_instructions(pool, instructions, precision).unwrap();
            let plan = device.plan(model.network(0).clone()).unwrap();
            device.load(Arc::new(plan), &model.weights(0)).unwrap();
            let mut worst = 0.0f64;
            // A run of one tile gives the mean of the folds' scores.
            let folds = model.weights(0).folds();
            let count = expected.len() / folds;
            let mean: Vec<f64> = (0..count)
                .map(|at| {
                    (0..folds).map(|fold| f64::from(expected[fold * count + at])).sum::<f64>()
                        / folds as f64
                })
                .collect();
            let channels = patch.len() / extents.iter().product::<usize>();
            device.begin(crate::job::job(channels, extents)).unwrap();
            device.feed(0..extents[0], &patch).unwrap();
            let tile = Tile { start: [0; 3] };
            for fold in 0..folds {
                device.gather(&tile, [false; 3]).unwrap();
                device.forward(fold).unwrap();
                device.blend(&tile, [false; 3], fold).unwrap();
            }
            let mut output = SlabOutput::default();
            let slab = Slab { planes: 0..extents[0], output: 0..extents[0] };
            device.resolve(&slab, &mut output).unwrap();
            device.finish();
            let (mut error, mut norm) = (0.0, 0.0);
            assert_eq!(output.scores.len(), mean.len());
            for (found, expected) in output.scores.iter().zip(&mean) {
                error += (f64::from(*found) - expected).powi(2);
                norm += expected.powi(2);
            }
            worst = worst.max((error / norm).sqrt());
            let (set, precision) = (instructions.name(), precision.name());
            println!("{name}, {set}, {precision}: scores within {worst:.1e}");
            assert!(worst < bound, "{name}, {set}, {precision}: {worst:e}");
        }
    }
}
