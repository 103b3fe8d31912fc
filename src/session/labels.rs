//! The result on the caller's grid.

use std::ops::Range;

use super::{Export, LabelMap, RunOptions, postprocess};
use crate::base::error::{filled, reserved};
use crate::base::{Error, Result};
use crate::device::SlabOutput;
use crate::model::{Model, Output};
use crate::volume::{Placement, VolumeView};

impl LabelMap {
    /// The label values that an image of one channel holds, of whatever type they are stored.
    ///
    /// # Errors
    /// [`Error::Argument`] if the image can't be used, has several channels, or a value that is no
    /// whole number from 0 to 65535; [`Error::Memory`] if the machine has no room for the map.
    pub fn from_volume(image: &VolumeView) -> Result<Self> {
        image.validate()?;
        if image.channels != 1 {
            return Err(Error::argument(format!(
                "a label map has 1 channel, found {}",
                image.channels
            )));
        }
        let mut highest = 0;
        each_label(image, |value| highest = value.max(highest))?;
        let what = "label map";
        if highest <= u8::MAX.into() {
            let mut labels = reserved(what, image.voxels())?;
            each_label(image, |value| labels.push(value as u8))?;
            Ok(Self::U8(labels))
        } else {
            let mut labels = reserved(what, image.voxels())?;
            each_label(image, |value| labels.push(value))?;
            Ok(Self::U16(labels))
        }
    }
}

/// Calls `found` with each voxel's label, `[k][j][i]`.
fn each_label(image: &VolumeView, mut found: impl FnMut(u16)) -> Result<()> {
    let [columns, rows, planes] = image.dims;
    let [along_i, along_j, along_k] = image.strides;
    let mut line = filled("a line of labels", columns, 0.0f32)?;
    for k in 0..planes {
        for j in 0..rows {
            let offset = j as isize * along_j + k as isize * along_k;
            image.read_line(image.first.wrapping_add_signed(offset), along_i, &mut line);
            for (i, &value) in line.iter().enumerate() {
                let label = value as u16;
                if f32::from(label) != value {
                    return Err(Error::argument(format!(
                        "a label map has whole numbers from 0 to 65535, found {value} at \
                         ({i}, {j}, {k})"
                    )));
                }
                found(label);
            }
        }
    }
    Ok(())
}

/// Labels and probabilities as they come back, part by part and slab by slab.
pub(super) struct Restored {
    pub(super) labels: LabelMap,
    /// `[wanted labels][k][j][i]`
    pub(super) probabilities: Vec<f32>,
    /// Part and row of its head of each.
    wanted: Vec<(usize, usize)>,
    voxels: usize,
}

/// The part whose head has a row for a label value, and that row: the last one that does, for it
/// is right.
fn row_of(model: &Model, value: u32) -> Result<(usize, usize)> {
    let package = model.package();
    let parts = (0..package.parts.len()).rev().filter(|&part| package.is_final(part));
    let rows: Vec<_> = parts
        .filter_map(|part| {
            let values = package.parts[part].output.values();
            Some((part, values.iter().position(|&other| other == value)?))
        })
        .collect();
    match rows.as_slice() {
        [] => {
            Err(Error::argument(format!("probabilities: the model has no row for label {value}")))
        }
        [_, _, ..] if value == 0 => Err(Error::argument(
            "probabilities: the background of a model of several parts has none",
        )),
        [row, ..] => Ok(*row),
    }
}

/// An error if the model has no such label.
pub(super) fn known(model: &Model, value: u32, what: &str) -> Result<()> {
    let labels = &model.package().labels;
    if labels.iter().any(|label| label.value == value) {
        return Ok(());
    }
    let highest = labels.iter().map(|label| label.value).max().unwrap_or(0);
    Err(Error::argument(format!(
        "{what}: the model has no label {value}; its labels are 0 to {highest}"
    )))
}

/// Part and row of each label whose probabilities are wanted, once the options are checked.
pub(super) fn wanted(model: &Model, options: &RunOptions) -> Result<Vec<(usize, usize)>> {
    for &value in options.keep.iter().flatten() {
        known(model, value, "labels to keep")?;
    }
    postprocess::check(model, &options.cleanup)?;
    if options.export != Export::Scores && !options.probabilities.is_empty() {
        return Err(Error::argument(
            "probabilities: there are none where labels are resampled, expected Export::Scores",
        ));
    }
    let row = |&value: &u32| {
        known(model, value, "probabilities")?;
        row_of(model, value)
    };
    options.probabilities.iter().map(row).collect()
}

/// Whether a model's label maps hold bytes.
pub(super) fn fits_byte(model: &Model) -> bool {
    model.package().labels.iter().all(|label| label.value <= 255)
}

/// The label value of each class that a device reports for a part.
pub(super) fn class_values(model: &Model, part: usize) -> Vec<u16> {
    let output = &model.package().parts[part].output;
    // Where no region is found there is class 0.
    let background = matches!(output, Output::Regions(_)).then_some(0);
    background.into_iter().chain(output.values().iter().map(|&value| value as u16)).collect()
}

impl Restored {
    pub(super) fn new(model: &Model, options: &RunOptions, dims: [usize; 3]) -> Result<Self> {
        let wanted = wanted(model, options)?;
        let voxels = dims.iter().product::<usize>();
        let labels = if fits_byte(model) {
            LabelMap::U8(filled("label map", voxels, 0)?)
        } else {
            LabelMap::U16(filled("label map", voxels, 0)?)
        };
        let mut probabilities = filled("probabilities", wanted.len() * voxels, 0.0)?;
        // Outside the non-zero box there is only background.
        let maps = probabilities.chunks_mut(voxels.max(1));
        for (map, _) in maps.zip(&options.probabilities).filter(|(_, value)| **value == 0) {
            map.fill(1.0);
        }
        Ok(Self { labels, probabilities, wanted, voxels })
    }

    /// Rows of a part's head whose probabilities are wanted.
    pub(super) fn probability_classes(&self, part: usize) -> Vec<usize> {
        self.wanted.iter().filter(|(of, _)| *of == part).map(|(_, row)| *row).collect()
    }

    /// Puts the labels of `planes` at their places, over what earlier parts found.
    pub(super) fn paste(&mut self, placement: &Placement, planes: Range<usize>, values: &[u16]) {
        let found = |value: &u16| *value != 0;
        match &mut self.labels {
            LabelMap::U8(labels) => {
                placement.paste(planes, values, labels, found, |value| value as u8);
            }
            LabelMap::U16(labels) => placement.paste(planes, values, labels, found, |value| value),
        }
    }

    /// Puts the probabilities of a part's slab at their places.
    pub(super) fn paste_probabilities(
        &mut self,
        part: usize,
        placement: &Placement,
        planes: &Range<usize>,
        output: &SlabOutput,
    ) {
        if output.classes.is_empty() {
            return;
        }
        let maps = self.probabilities.chunks_mut(self.voxels).zip(&self.wanted);
        let maps = maps.filter(|(_, (of, _))| *of == part).map(|(map, _)| map);
        for (map, values) in maps.zip(output.probabilities.chunks(output.classes.len())) {
            placement.paste(planes.clone(), values, map, |_| true, |value| value);
        }
    }

    /// Drops the labels that are not wanted.
    pub(super) fn keep(&mut self, keep: &[u32]) {
        let dropped = |value: u32| !keep.contains(&value);
        match &mut self.labels {
            LabelMap::U8(labels) => {
                let table: [u8; 256] =
                    std::array::from_fn(
                        |value| {
                            if dropped(value as u32) { 0 } else { value as u8 }
                        },
                    );
                labels.iter_mut().for_each(|label| *label = table[usize::from(*label)]);
            }
            LabelMap::U16(labels) => {
                labels
                    .iter_mut()
                    .filter(|label| dropped(u32::from(**label)))
                    .for_each(|label| *label = 0);
            }
        }
    }
}
