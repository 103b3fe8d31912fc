//! Seconds for one 128^3 tile of STU-Net S and B, 1 channel in, 105 classes out, on 1 and on 2
//! threads. `benches/peers/compare.py` sets one tile beside those of other runtimes.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/job.rs"]
mod job;

use std::sync::Arc;
use std::time::Duration;

use common::{Noise, SeededModel};
use criterion::{Criterion, criterion_group, criterion_main};
use voxtile::base::Pool;
use voxtile::device::{Device, Precision, cpu::Cpu};
use voxtile::model::Model;
use voxtile::window::Tile;

fn tiles(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tile");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (size, channels) in [("S", 16), ("B", 32)] {
        let model = Model::from_bytes(SeededModel::stunet(channels, 105).bytes()).unwrap();
        let patch = model.package().parts[0].patch;
        let mut noise = Noise(1);
        let volume: Vec<f32> = (0..patch.iter().product::<usize>()).map(|_| noise.next()).collect();
        for threads in [1, 2] {
            let pool = Arc::new(Pool::new(threads).unwrap());
            let mut device = Cpu::open(pool, Precision::F32).unwrap();
            let plan = device.plan(model.network(0).clone()).unwrap();
            device.load(Arc::new(plan), &model.weights(0)).unwrap();
            device.begin(job::job(1, patch)).unwrap();
            device.feed(0..patch[0], &volume).unwrap();
            let tile = Tile { start: [0; 3] };
            group.bench_function(format!("{size}/{threads} threads"), |bencher| {
                bencher.iter(|| {
                    device.gather(&tile, [false; 3]).unwrap();
                    device.forward(0).unwrap();
                    device.blend(&tile, [false; 3], 0).unwrap();
                });
            });
            device.finish();
        }
    }
    group.finish();
}

criterion_group!(benches, tiles);
criterion_main!(benches);
