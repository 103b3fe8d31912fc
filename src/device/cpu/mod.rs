//! The processor.
#![allow(unsafe_code)]
