//! The program, run as a user runs it.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/program.rs"]
mod program;
#[path = "../common/recorder.rs"]
mod recorder;

mod batch;
mod convert;
mod errors;
mod images;
mod options;
mod segment;
mod slicer;
mod slicer_module;

use std::path::Path;

use common::Noise;
use voxtile::Geometry;
use voxtile::base::Pool;
use voxtile::formats::{OutputFile, nifti};

/// Writes an image of bytes, noise around 100.
fn write_noise(path: &Path, dims: [usize; 3], geometry: &Geometry, seed: u64) {
    let mut noise = Noise(seed);
    let voxels: Vec<u8> =
        (0..dims.iter().product()).map(|_| (100.0 + 90.0 * noise.next()) as u8).collect();
    let output = OutputFile::create(path).unwrap();
    nifti::write_labels(output, nifti::Labels::U8(&voxels), dims, geometry, &Pool::serial())
        .unwrap();
}
