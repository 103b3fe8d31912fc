//! NRRD files, and the keys of 3D Slicer's segmentations in their headers, on any bytes.
#![no_main]

use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().suffix(".nrrd").tempfile().unwrap();
    file.write_all(b"NRRD000").and_then(|()| file.write_all(bytes)).unwrap();
    let _ = voxtile::formats::read(file.path());
    let _ = voxtile::formats::nrrd::read_segments(file.path());
});
