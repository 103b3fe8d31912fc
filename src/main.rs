//! The `voxtile` program.
#![forbid(unsafe_code)]

fn main() {}
