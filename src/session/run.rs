//! One run.

use std::sync::Arc;

use super::{Estimate, Observer, RunOptions, Segmentation, SessionOptions};
use crate::base::Result;
use crate::model::Model;
use crate::volume::VolumeView;

/// A model made ready on one device. One run at a time; a second one gets [`crate::Error::Busy`].
pub struct Session {}

impl Session {
    /// Makes `model` ready.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if the budget is too small for the network alone.
    pub fn new(_model: Arc<Model>, _options: &SessionOptions) -> Result<Self> {
        todo!()
    }

    /// What a run on `volume` would need; reads no voxel.
    ///
    /// # Errors
    /// If volume or options can't be used.
    pub fn estimate(&self, _volume: &VolumeView, _options: &RunOptions) -> Result<Estimate> {
        todo!()
    }

    /// Segments `volume`.
    ///
    /// # Errors
    /// [`crate::Error::Busy`] if a run is on, [`crate::Error::Cancelled`], [`crate::Error::Memory`]
    /// before anything is allocated if the budget is too small, and what volume and options say.
    pub fn run(
        &self,
        _volume: &VolumeView,
        _options: &RunOptions,
        _observer: &mut dyn Observer,
    ) -> Result<Segmentation> {
        todo!()
    }

    /// Asks the run that is on, if any, to stop; from any thread.
    pub fn cancel(&self) {}
}
