//! NVIDIA GPUs: our own kernels, and the driver that is found at run time.
#![allow(unsafe_code)]

pub mod driver;
mod parameters;
