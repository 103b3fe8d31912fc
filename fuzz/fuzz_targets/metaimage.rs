//! MetaImage files on any bytes.
#![no_main]

use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().suffix(".mha").tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let _ = voxtile::formats::read(file.path());
});
