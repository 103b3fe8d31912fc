//! The result on the caller's grid.

use std::ops::Range;

use super::{LabelMap, RunOptions};
use crate::base::error::filled;
use crate::base::{Error, Result};
use crate::device::SlabOutput;
use crate::model::Model;
use crate::volume::Placement;

/// Labels and probabilities as they come back, slab by slab.
pub(super) struct Restored {
    labels: LabelMap,
    /// `[wanted labels][k][j][i]`
    probabilities: Vec<f32>,
    probability_classes: Vec<usize>,
    /// The value written for each class.
    values: Vec<u16>,
    placement: Placement,
    voxels: usize,
}

/// The classes of label values, or an error that names the value that has none.
fn classes(model: &Model, values: &[u32], what: &str) -> Result<Vec<usize>> {
    let labels = &model.package().labels;
    let class = |&value: &u32| {
        labels.iter().position(|label| label.value == value).ok_or_else(|| {
            let highest = labels.iter().map(|label| label.value).max().unwrap_or(0);
            Error::argument(format!(
                "{what}: the model has no label {value}; its labels are 0 to {highest}"
            ))
        })
    };
    values.iter().map(class).collect()
}

/// The value written for each class, and the classes whose probabilities are wanted.
pub(super) fn wanted(model: &Model, options: &RunOptions) -> Result<(Vec<u16>, Vec<usize>)> {
    let mut values: Vec<u16> =
        model.package().labels.iter().map(|label| label.value as u16).collect();
    if let Some(keep) = &options.keep {
        let keep = classes(model, keep, "labels to keep")?;
        for (class, value) in values.iter_mut().enumerate() {
            if !keep.contains(&class) {
                *value = 0;
            }
        }
    }
    Ok((values, classes(model, &options.probabilities, "probabilities")?))
}

/// Whether a model's label maps hold bytes.
pub(super) fn fits_byte(model: &Model) -> bool {
    model.package().labels.iter().all(|label| label.value <= 255)
}

impl Restored {
    pub(super) fn new(
        model: &Model,
        options: &RunOptions,
        dims: [usize; 3],
        placement: Placement,
    ) -> Result<Self> {
        let (values, probability_classes) = wanted(model, options)?;
        let voxels = dims.iter().product::<usize>();
        let labels = if fits_byte(model) {
            LabelMap::U8(filled("label map", voxels, 0)?)
        } else {
            LabelMap::U16(filled("label map", voxels, 0)?)
        };
        let mut probabilities = filled("probabilities", probability_classes.len() * voxels, 0.0)?;
        // Outside the non-zero box there is only background.
        for (map, class) in probabilities.chunks_mut(voxels.max(1)).zip(&probability_classes) {
            if *class == 0 {
                map.fill(1.0);
            }
        }
        Ok(Self { labels, probabilities, probability_classes, values, placement, voxels })
    }

    pub(super) fn probability_classes(&self) -> &[usize] {
        &self.probability_classes
    }

    /// Puts a slab at its place.
    pub(super) fn paste(&mut self, planes: Range<usize>, output: &SlabOutput) {
        let classes = &output.classes;
        match &mut self.labels {
            LabelMap::U8(labels) => {
                let values: Vec<u8> =
                    classes.iter().map(|&class| self.values[usize::from(class)] as u8).collect();
                self.placement.paste(planes.clone(), &values, labels);
            }
            LabelMap::U16(labels) => {
                let values: Vec<u16> =
                    classes.iter().map(|&class| self.values[usize::from(class)]).collect();
                self.placement.paste(planes.clone(), &values, labels);
            }
        }
        if !classes.is_empty() {
            let maps = self.probabilities.chunks_mut(self.voxels);
            for (map, values) in maps.zip(output.probabilities.chunks(classes.len())) {
                self.placement.paste(planes.clone(), values, map);
            }
        }
    }

    pub(super) fn into_parts(self) -> (LabelMap, Vec<f32>) {
        (self.labels, self.probabilities)
    }
}
