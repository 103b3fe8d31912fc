//! One training: a network, what surrounds it, and what its output means.

use std::path::PathBuf;

use super::network::Tensor;
use crate::model::{Part, Postprocessing};

/// A training that was read. Label values are its own.
pub(super) struct Training {
    /// For people: the dataset.
    pub(super) dataset: String,
    /// The configuration, such as `3d_fullres`.
    pub(super) configuration: String,
    /// The trainer's class, for people.
    pub(super) trainer: String,
    /// Named by the caller.
    pub(super) part: Part,
    /// Names of the label values that can be found, ascending.
    pub(super) labels: Vec<(u32, String)>,
    /// Whether those names are made up, so that the same name elsewhere means nothing.
    pub(super) invented: bool,
    pub(super) postprocessing: Vec<Postprocessing>,
    /// The configuration that runs before.
    pub(super) previous: Option<String>,
    /// The tensors of each fold.
    pub(super) folds: Vec<Vec<Tensor>>,
    /// The files it was read from, and what they are called.
    pub(super) files: Vec<(String, PathBuf)>,
}
