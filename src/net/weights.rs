//! Where a device reads a network's weights from.

use std::borrow::Cow;

use super::ParameterId;
use crate::base::Result;

/// The weights of one or more networks of the same shape.
pub trait Weights {
    /// How many there are (cross-validation folds), at least 1.
    fn folds(&self) -> usize;

    /// The values of one parameter of one fold, in the order of its shape.
    ///
    /// # Errors
    /// If a value is not finite, or the storage can't be read.
    fn parameter(&self, fold: usize, id: ParameterId) -> Result<Cow<'_, [f32]>>;
}
