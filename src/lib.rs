//! voxtile segments medical volumes with networks of the STU-Net / nnU-Net family.
//!
//! It cuts a volume into overlapping tiles, runs a 3D U-Net on each, and blends the tiles back
//! into one label map. See `ARCHITECTURE.md` for the parts and the way they depend on each other.

#![deny(unsafe_code)]

/// The README's example runs with the tests.
#[cfg(all(doctest, feature = "formats"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod base;
#[cfg(feature = "convert")]
pub mod convert;
pub mod device;
#[cfg(feature = "formats")]
pub mod formats;
pub mod model;
pub mod net;
pub mod session;
pub mod volume;
pub mod window;

pub use base::{Element, Error, Result};
pub use model::Model;
pub use session::{RunOptions, Session, SessionOptions};
pub use volume::{Geometry, VolumeView};
