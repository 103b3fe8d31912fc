//! The library, called as an embedder calls it.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/job.rs"]
mod job;
#[path = "../common/recorder.rs"]
mod recorder;

mod cases;
mod demo;
mod model;
mod naive;
mod session;
mod tiles;
mod trainings;
