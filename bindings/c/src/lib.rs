//! The C ABI of voxtile. `include/voxtile.h` is generated from here; the documentation of public
//! items is written for readers of C.
#![allow(non_camel_case_types)]

mod estimate;
mod guard;
mod handles;
mod options;
mod output;
mod run;
mod staged;
mod statistics;
mod types;
mod volume;

pub use estimate::*;
pub use handles::*;
pub use run::*;
pub use statistics::*;
pub use types::*;
