//! Memory and time of whole runs of the program on large scans: STU-Net-S with 105 classes and a
//! tiny network on 512x512x280, and the tiny network on 512x512x2000; STU-Net-S on the example CT;
//! and the probabilities of the demonstration model's 17 labels on 512x512x280.
//!
//! Random weights make label maps of noise: 54 % of the output's voxels lie between voxels of the
//! network's grid that are of several classes, of TotalSegmentator's labels 4.6 %. `stunet-s` is
//! the network with its background raised until 12 % do, `noise` the network as it is.
//!
//! `cargo bench --bench whole_body` prints each run's report; `-- NAME` runs one of `stunet-s`,
//! `noise`, `tiny`, `example` and `probabilities`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::SeededModel;
use serde_json::Value;
use voxtile::formats::nifti;

/// The header of a NIfTI-1 file of `i16` voxels.
fn header(dims: [usize; 3], spacing: [f32; 3]) -> Vec<u8> {
    let mut bytes = vec![0u8; 352];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &348i32.to_le_bytes());
    put(40, &3i16.to_le_bytes());
    for axis in 0..3 {
        put(42 + 2 * axis, &(dims[axis] as i16).to_le_bytes());
        put(80 + 4 * axis, &spacing[axis].to_le_bytes());
        put(280 + 20 * axis, &spacing[axis].to_le_bytes());
    }
    put(70, &4i16.to_le_bytes());
    put(72, &16i16.to_le_bytes());
    put(108, &352f32.to_le_bytes());
    put(254, &1i16.to_le_bytes());
    put(344, b"n+1\0");
    bytes
}

/// Writes the example CT, interpolated to `dims` voxels; beyond 280 planes it is repeated.
fn scan(path: &Path, dims: [usize; 3]) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ct.nii.gz");
    let image = nifti::read(&example).unwrap();
    let view = image.view();
    let [ni, nj, nk] = image.dims;
    let value = |i: usize, j: usize, k: usize| -> f32 {
        let mut value = [0.0];
        let offset = i as isize * view.strides[0]
            + j as isize * view.strides[1]
            + k as isize * view.strides[2];
        view.read_line(offset as usize, view.strides[0], &mut value);
        value[0]
    };
    let voxels: Vec<f32> = (0..ni * nj * nk)
        .map(|voxel| value(voxel % ni, voxel / ni % nj, voxel / ni / nj))
        .collect();
    let place = |at: usize, from: usize, to: usize| {
        let place = (at % to) as f32 * (from - 1) as f32 / (to - 1) as f32;
        ((place as usize).min(from - 2), place - (place as usize).min(from - 2) as f32)
    };
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    file.write_all(&header(dims, [0.8, 0.8, 1.5])).unwrap();
    for k in 0..dims[2] {
        let (k0, kf) = place(k, nk, 280);
        for j in 0..dims[1] {
            let (j0, jf) = place(j, nj, dims[1]);
            for i in 0..dims[0] {
                let (i0, f) = place(i, ni, dims[0]);
                let mut sum = 0.0;
                for (k, kw) in [(k0, 1.0 - kf), (k0 + 1, kf)] {
                    for (j, jw) in [(j0, 1.0 - jf), (j0 + 1, jf)] {
                        for (i, w) in [(i0, 1.0 - f), (i0 + 1, f)] {
                            sum += kw * jw * w * voxels[(k * nj + j) * ni + i];
                        }
                    }
                }
                file.write_all(&(sum.round() as i16).to_le_bytes()).unwrap();
            }
        }
    }
    file.flush().unwrap();
}

/// Runs the program and prints what it says of time and memory; the peak, in bytes.
fn run(folder: &Path, model: &str, scan: &str, further: &[&str]) -> u64 {
    let status = Command::new(env!("CARGO_BIN_EXE_voxtile"))
        .current_dir(folder)
        .args(["segment", scan, "-m", model, "-o", "labels.nii.gz", "--report", "report.json"])
        .args(["--quiet"])
        .args(further)
        .status()
        .unwrap();
    assert!(status.success());
    let text = std::fs::read_to_string(folder.join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    println!("## {model} on {scan} {}", further.join(" "));
    println!("run: {}", report["run"]);
    let seconds = |name: &str| report["seconds"][name].as_f64().unwrap();
    let finalising = seconds("resolve") + seconds("write");
    println!("seconds: {}", report["seconds"]);
    println!(
        "resolve and write: {finalising:.2} s, {:.1} % of the network's time",
        100.0 * finalising / seconds("network")
    );
    println!("memory: {:#}", report["memory"]);
    report["memory"]["peak_bytes"].as_u64().unwrap()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let names = ["tiny", "stunet-s", "noise", "example", "probabilities"];
    let named = names.iter().any(|name| arguments.iter().any(|other| other == name));
    let chosen = |name: &str| !named || arguments.iter().any(|argument| argument == name);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, model: &SeededModel| {
        std::fs::write(folder.path().join(name), model.bytes()).unwrap();
    };
    write("stunet-s.safetensors", &SeededModel::stunet(16, 105).background(3.5));
    write("noise.safetensors", &SeededModel::stunet(16, 105));
    write("tiny.safetensors", &SeededModel::small([64; 3], 5));
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let example = |name: &str| examples.join(name).display().to_string();
    if chosen("example") {
        run(folder.path(), "stunet-s.safetensors", &example("ct.nii.gz"), &[]);
    }
    if !names.into_iter().any(|name| name != "example" && chosen(name)) {
        return;
    }
    scan(&folder.path().join("ct280.nii"), [512, 512, 280]);
    if chosen("probabilities") {
        let demo = example("demo.safetensors");
        run(folder.path(), &demo, "ct280.nii", &[]);
        let file = ["--probabilities", "probabilities.safetensors", "--probability-type", "u8"];
        run(folder.path(), &demo, "ct280.nii", &file);
        std::fs::remove_file(folder.path().join("probabilities.safetensors")).unwrap();
    }
    for name in ["stunet-s", "noise"] {
        if chosen(name) {
            run(folder.path(), &format!("{name}.safetensors"), "ct280.nii", &[]);
        }
    }
    if !chosen("tiny") {
        return;
    }
    let beyond = |peak: u64, slices: u64| peak - 3 * 512 * 512 * slices;
    let short = beyond(run(folder.path(), "tiny.safetensors", "ct280.nii", &[]), 280);
    scan(&folder.path().join("ct2000.nii"), [512, 512, 2000]);
    let long = beyond(run(folder.path(), "tiny.safetensors", "ct2000.nii", &[]), 2000);
    println!(
        "peak beyond voxels and label map: {short} bytes with 280 slices, {long} with 2000: {:+.1} %",
        100.0 * (long as f64 / short as f64 - 1.0)
    );
}
