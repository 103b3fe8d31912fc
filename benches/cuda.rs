//! Milliseconds of STU-Net S, B, L and H on an NVIDIA GPU: one 128^3 tile of one channel and 105
//! classes, and each of its layers. `benches/gpu/run` runs this next to PyTorch.
//!
//! usage: cuda [--sizes S,B,L,H] [--shortcuts expected,together,apart] [--json FILE] [--device N]
//!             [--rounds N]
//!
//! The tile is gathering, the network and blending, on the GPU's clock: the median of the rounds
//! after as many to warm up. FILE gets what is printed, and each layer. Shortcuts of strided blocks are
//! made where the library expects it to be faster, or all together with the blocks' first convolutions
//! or all apart from them: of each way that is named there is a line.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/job.rs"]
mod job;

use std::sync::Arc;

use common::{Noise, SeededModel};
use half::f16;
use serde_json::{Value, json};
use voxtile::Result;
use voxtile::device::cuda::{Cuda, Shortcuts};
use voxtile::device::{Device, Precision};
use voxtile::model::Model;
use voxtile::window::Tile;

/// Name, channels of the first level, blocks of each stage.
const SIZES: &[(&str, usize, usize)] = &[("S", 16, 1), ("B", 32, 1), ("L", 64, 2), ("H", 96, 3)];

const SHORTCUTS: &[(&str, Shortcuts)] = &[
    ("expected", Shortcuts::Expected),
    ("together", Shortcuts::Together),
    ("apart", Shortcuts::Apart),
];

struct Arguments {
    sizes: Vec<String>,
    shortcuts: Vec<String>,
    json: Option<String>,
    ordinal: u32,
    rounds: usize,
}

impl Arguments {
    fn parse() -> std::result::Result<Self, String> {
        let sizes = SIZES.iter().map(|(name, ..)| (*name).to_string()).collect();
        let shortcuts = vec!["expected".to_string()];
        let mut all = Self { sizes, shortcuts, json: None, ordinal: 0, rounds: 20 };
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            // Cargo adds it.
            if name == "--bench" {
                continue;
            }
            let value = given.next().ok_or(format!("{name} needs a value"))?;
            let number = || value.parse().map_err(|_| format!("{name} {value}: no number"));
            match name.as_str() {
                "--sizes" => all.sizes = value.split(',').map(str::to_string).collect(),
                "--shortcuts" => all.shortcuts = value.split(',').map(str::to_string).collect(),
                "--json" => all.json = Some(value),
                "--device" => all.ordinal = number()?,
                "--rounds" => all.rounds = number()?.max(1) as usize,
                _ => return Err(format!("{name}: no such option")),
            }
        }
        Ok(all)
    }
}

/// A package with random weights in half precision; the large ones would not fit memory twice.
fn package(channels: usize, blocks: usize) -> Vec<u8> {
    let mut model = SeededModel::stunet(channels, 105);
    model.blocks = blocks;
    model.document["parts"][0]["architecture"]["blocks"] = vec![blocks; 6].into();
    let tensors = model.tensors();
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "voxtile": model.document.to_string() }));
    let mut end = 0;
    for (name, shape) in &tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "F16", "shape": shape, "data_offsets": [begin, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.as_bytes());
    let mut noise = Noise(42);
    for (name, shape) in &tensors {
        let fan_in: usize = shape[1..].iter().product();
        let offset = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let scale = if shape.len() == 1 { 0.2 } else { (3.0 / fan_in as f32).sqrt() };
        for _ in 0..shape.iter().product::<usize>() {
            let value = f16::from_f32(offset + noise.next() * scale);
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes
}

/// One way to run a network.
fn measure(
    size: &str,
    channels: usize,
    model: &Model,
    shortcuts: &str,
    arguments: &Arguments,
) -> Result<Value> {
    let (_, how) = SHORTCUTS.iter().find(|(name, _)| *name == shortcuts).ok_or_else(|| {
        let names = "expected,together,apart";
        voxtile::Error::argument(format!("--shortcuts {shortcuts}: expected some of {names}"))
    })?;
    let patch = model.package().parts[0].patch;
    let mut noise = Noise(1);
    let volume: Vec<f32> = (0..patch.iter().product::<usize>()).map(|_| noise.next()).collect();
    let mut device = Cuda::open(arguments.ordinal, Precision::F16)?;
    device.make_shortcuts(*how);
    let plan = Arc::new(device.plan(model.network(0).clone())?);
    let before = device.free_bytes()?.unwrap_or(0);
    device.load(Arc::clone(&plan), &model.weights(0))?;
    device.begin(job::job(1, patch))?;
    device.feed(0..patch[0], &volume)?;
    let peak_bytes = before.saturating_sub(device.free_bytes()?.unwrap_or(0));
    let tile = Tile { start: [0; 3] };
    let mut median = |work: fn(&mut Cuda, &Tile) -> Result<()>| -> Result<f64> {
        let mut seconds = Vec::new();
        for _ in 0..2 * arguments.rounds {
            seconds.push(device.timed(|device| work(device, &tile))?);
        }
        let warm = &mut seconds[arguments.rounds..];
        warm.sort_by(f64::total_cmp);
        Ok(warm[warm.len() / 2])
    };
    let gather = median(|device, tile| device.gather(tile, [false; 3]))?;
    let whole = median(|device, tile| {
        device.gather(tile, [false; 3])?;
        device.forward(0)?;
        device.blend(tile, [false; 3], 0)
    })?;
    let blend = median(|device, tile| device.blend(tile, [false; 3], 0))?;
    let layers = device.layer_times(arguments.rounds)?;
    let operations: f64 = layers.iter().map(|layer| layer.operations).sum();
    let voxels = patch.iter().product::<usize>() as f64;
    let features = channels.next_multiple_of(16) as f64;
    let entry = |name: &str, kernel: &str, seconds: f64, operations: f64, bytes: f64| {
        json!({
            "name": name,
            "kernel": kernel,
            "ms": 1e3 * seconds,
            "operations": operations,
            "bytes": bytes,
        })
    };
    // The volume in single precision becomes a patch in half.
    let mut entries = vec![entry("gather", "gather_half", gather, 0.0, voxels * (4.0 + 2.0))];
    entries.extend(layers.iter().map(|layer| {
        entry(&layer.name, &layer.kernel, layer.seconds, layer.operations, layer.bytes)
    }));
    // Features; sums, read and written; window; sums of weights, read and written.
    let bytes = voxels * (features * (2.0 + 8.0) + 4.0 + 8.0);
    entries.push(entry("blend", "blend_half", blend, 0.0, bytes));
    let info = device.info().clone();
    device.finish();
    println!(
        "STU-Net-{size}, shortcuts {shortcuts}: {:.3} ms a tile, {:.0} TFLOP/s, {:.2} GiB",
        1e3 * whole,
        operations / whole / 1e12,
        peak_bytes as f64 / (1u64 << 30) as f64
    );
    Ok(json!({
        "size": size,
        "shortcuts": shortcuts,
        "device": info.name,
        "tile_ms": 1e3 * whole,
        "operations_per_tile": operations,
        "peak_bytes": peak_bytes,
        "layers": entries,
    }))
}

fn run(arguments: &Arguments) -> Result<()> {
    let info = voxtile::device::gpu_info(arguments.ordinal)?;
    let gpu = info.gpu.as_ref();
    let mut networks = Vec::new();
    for size in &arguments.sizes {
        let known = SIZES.iter().find(|(name, ..)| name == size);
        let (_, channels, blocks) = known.ok_or_else(|| {
            voxtile::Error::argument(format!("--sizes {size}: expected some of S,B,L,H"))
        })?;
        let model = Model::from_bytes(package(*channels, *blocks))?;
        for shortcuts in &arguments.shortcuts {
            networks.push(measure(size, *channels, &model, shortcuts, arguments)?);
            // What was measured is there even if the next network does not fit.
            if let Some(path) = &arguments.json {
                let document = json!({
                    "device": info.name,
                    "driver": gpu.map(|gpu| &gpu.driver),
                    "image": gpu.and_then(|gpu| gpu.kernels),
                    "networks": networks,
                });
                let written = std::fs::write(path, format!("{document:#}\n"));
                written.map_err(|error| voxtile::Error::io(path, error))?;
            }
        }
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    let done = Arguments::parse().and_then(|arguments| run(&arguments).map_err(|e| e.to_string()));
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cuda: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
