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
