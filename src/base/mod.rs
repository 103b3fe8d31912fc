//! What every other module may use: errors, element types, threads, mapped files.

pub mod element;
pub mod error;
pub mod mapping;
pub mod pool;

pub use element::Element;
pub use error::{Error, Result};
pub use pool::Pool;
