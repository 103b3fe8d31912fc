//! The pickle machine on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| voxtile::convert::fuzzing::pickle(bytes));
