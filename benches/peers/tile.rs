//! voxtile's side of `benches/peers/compare.py`: runs one tile whenever it is told to, so that
//! runtimes can take turns within one run of the comparison.
//!
//! usage: tile S|B|L THREADS [f32|bf16|int8]. Each line on standard input runs gather, network and blending once;
//! the answer is a line with the seconds that took. The model is a file, closed once it is
//! loaded, so that memory is the device's alone.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/job.rs"]
mod job;

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use common::{Noise, SeededModel};
use voxtile::base::Pool;
use voxtile::device::{Device, Precision, cpu::Cpu};
use voxtile::model::Model;
use voxtile::window::Tile;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let size = arguments.next().unwrap_or_default();
    let seeded = match size.as_str() {
        "S" => SeededModel::stunet(16, 105),
        "B" => SeededModel::stunet(32, 105),
        "L" => SeededModel::stunet(64, 105).blocks(2),
        // What `cargo bench` runs without arguments.
        _ => return,
    };
    let threads = arguments.next().and_then(|threads| threads.parse().ok()).unwrap_or(0);
    let mut package = tempfile::NamedTempFile::new().unwrap();
    package.write_all(&seeded.bytes()).unwrap();
    let model = Model::open(package.path()).unwrap();
    let patch = model.package().parts[0].patch;
    let mut noise = Noise(1);
    let volume: Vec<f32> = (0..patch.iter().product::<usize>()).map(|_| noise.next()).collect();
    let precision = match arguments.next().as_deref() {
        Some("bf16") => Precision::Bf16,
        Some("int8") => Precision::Int8,
        _ => Precision::F32,
    };
    let mut device = Cpu::open(Arc::new(Pool::new(threads).unwrap()), precision).unwrap();
    let plan = device.plan(model.network(0).clone()).unwrap();
    device.load(Arc::new(plan), &model.weights(0)).unwrap();
    drop(model);
    device.begin(job::job(1, patch)).unwrap();
    device.feed(0..patch[0], &volume).unwrap();
    println!("voxtile {}, {}", precision.name(), device.info().name);
    let tile = Tile { start: [0; 3] };
    for line in std::io::stdin().lock().lines() {
        line.unwrap();
        let started = Instant::now();
        device.gather(&tile, [false; 3]).unwrap();
        device.forward(0).unwrap();
        device.blend(&tile, [false; 3], 0).unwrap();
        println!("{}", started.elapsed().as_secs_f64());
        std::io::stdout().flush().unwrap();
    }
}
