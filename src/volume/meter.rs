//! What a volume's normalisation depends on, measured by a device instead of the processor.

use std::ops::Range;
use std::sync::Arc;

use super::Intensity;
use super::moments::Moments;
use super::native::{Finish, NativePlanes, Resampling};
use super::prepare::{Facts, PIECE_PLANES, Pass, Preparation, Recipe, piece};
use crate::base::Result;

/// What is known of a line of values, neighbours along the fastest axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LineStatistics {
    /// Values that count.
    pub count: u64,
    /// Their mean; 0 if there is none.
    pub mean: f64,
    /// Sum of their squared differences from it.
    pub squares: f64,
    /// Smallest and largest value of all.
    pub range: (f32, f32),
}

/// Who measures a channel of a volume line by line, while the processor reads the next planes.
/// Calls come in the order `start`, {`take`, `make`}, `tell`.
pub trait Meter {
    /// Begins with a channel of `native` voxels. With a `resampling`, of which this is the only
    /// channel, what is measured are the planes it makes.
    ///
    /// # Errors
    /// If memory runs out or the device fails.
    fn start(&mut self, native: [usize; 3], resampling: Option<&Arc<Resampling>>) -> Result<()>;

    /// Takes native planes, `[planes][native1][native2]`, in ascending order, at most
    /// [`NATIVE_PLANES`](super::native::NATIVE_PLANES). Without a resampling their lines are
    /// measured, of values between `counted` without these.
    ///
    /// # Errors
    /// If the device fails.
    fn take(&mut self, planes: Range<usize>, values: &[f32], counted: (f64, f64)) -> Result<()>;

    /// Makes planes of the native ones, a [`piece`] of the network's grid, and measures their lines.
    ///
    /// # Errors
    /// If the device fails.
    fn make(&mut self, planes: Range<usize>, counted: (f64, f64)) -> Result<()>;

    /// Tells of every line that was measured, in that order.
    ///
    /// # Errors
    /// If the device fails.
    fn tell(&mut self, tell: &mut dyn FnMut(LineStatistics)) -> Result<()>;
}

impl Preparation {
    /// Whether a meter can take the place of the processor: it knows no mask, and tells nothing of
    /// slices across its lines.
    pub(super) fn may_meter(&self) -> bool {
        self.mask.is_none() && self.grids.separate != Some(2)
    }

    /// What is known of a channel of the cropped volume.
    pub(super) fn metered_facts(
        &self,
        channel: usize,
        intensity: &Intensity,
        pass: &mut Pass,
        meter: &mut dyn Meter,
    ) -> Result<Facts> {
        let [planes, rows, _] = self.grids.placement.shape();
        meter.start(self.grids.placement.shape(), None)?;
        let mut native = NativePlanes::new(pass.view, self, pass.pool)?;
        for planes in native.next(0..planes) {
            (pass.check)()?;
            let values = native.read(channel, planes.clone(), None);
            meter.take(planes, values, intensity.counted())?;
        }
        let mut facts = self.no_facts();
        let mut line = 0;
        meter.tell(&mut |found| {
            let slice = match self.grids.separate {
                None => 0,
                Some(0) => line / rows,
                Some(_) => line % rows,
            };
            facts.add_line(slice, &found);
            line += 1;
        })?;
        Ok(facts)
    }

    /// The moments of the channels on the network's grid, which nnU-Net 1 normalises by.
    pub(super) fn metered_moments(
        &self,
        recipe: &Recipe,
        pass: &mut Pass,
        meter: &mut dyn Meter,
    ) -> Result<Vec<Moments>> {
        let mut all = vec![Moments::default(); recipe.intensity.len()];
        for (channel, (intensity, moments)) in recipe.intensity.iter().zip(&mut all).enumerate() {
            if !intensity.measures() {
                continue;
            }
            if !self.resampled() {
                *moments = self.metered_facts(channel, intensity, pass, meter)?.moments;
                continue;
            }
            let bands = self.bands();
            let limits = self.limits(channel, &bands);
            let only = vec![Finish { before: None, limits, after: None }];
            let plan = Resampling { bands, limits_axis: self.grids.separate, channels: only };
            let plan = Arc::new(plan);
            meter.start(self.grids.placement.shape(), Some(&plan))?;
            let mut native = NativePlanes::new(pass.view, self, pass.pool)?;
            let planes = self.grids.shape[0];
            for start in (0..planes).step_by(PIECE_PLANES) {
                (pass.check)()?;
                let made = piece(start, planes);
                for planes in native.next(plan.bands[0].needed(&made)) {
                    let values = native.read(channel, planes.clone(), None);
                    meter.take(planes, values, intensity.counted())?;
                }
                meter.make(made, intensity.counted())?;
            }
            meter.tell(&mut |found| *moments = moments.and(Moments::of_line(&found)))?;
        }
        Ok(all)
    }
}

/// Whether a recipe leaves anything to measure that a meter can.
pub fn may_meter(recipe: &Recipe) -> bool {
    !recipe.masked()
}
