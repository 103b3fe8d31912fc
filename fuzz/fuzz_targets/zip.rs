//! Both containers of PyTorch, and zips of trainings, on any bytes.
#![no_main]

use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    voxtile::convert::fuzzing::checkpoint(file.path());
    voxtile::convert::fuzzing::archive(file.path());
});
