//! A model package: one safetensors file that says everything about a model, checked in full.

/// A model: immutable, and shared between threads freely.
pub struct Model;
