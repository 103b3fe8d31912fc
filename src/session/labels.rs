//! The result on the caller's grid.

use std::ops::Range;

use super::probabilities::Handover;
use super::{Export, LabelMap, RunOptions, postprocess};
use crate::base::error::{filled, reserved};
use crate::base::{Error, Result};
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

/// A part's probabilities on their way to the caller, and the rows of its head that they are.
pub(super) fn handover(
    model: &Model,
    options: &RunOptions,
    part: usize,
) -> Result<(Handover, Vec<usize>)> {
    let wanted = wanted(model, options)?;
    let own = wanted.iter().enumerate().filter(|(_, (of, _))| *of == part);
    let (labels, rows): (Vec<usize>, Vec<usize>) =
        own.map(|(label, (_, row))| (label, *row)).unzip();
    // Where every channel is zero there is only background.
    let value = |&label: &usize| f32::from(u8::from(options.probabilities[label] == 0));
    let outside = labels.iter().map(value).collect();
    Ok((Handover::new(labels, outside), rows))
}

impl LabelMap {
    /// A map of background.
    pub(super) fn empty(model: &Model, dims: [usize; 3]) -> Result<Self> {
        let voxels = dims.iter().product::<usize>();
        Ok(if fits_byte(model) {
            Self::U8(filled("label map", voxels, 0)?)
        } else {
            Self::U16(filled("label map", voxels, 0)?)
        })
    }

    /// Puts the labels of `planes` at their places, over what earlier parts found.
    pub(super) fn paste(&mut self, placement: &Placement, planes: Range<usize>, values: &[u16]) {
        let found = |value: &u16| *value != 0;
        match self {
            Self::U8(labels) => {
                placement.paste(planes, values, labels, found, |value| value as u8);
            }
            Self::U16(labels) => placement.paste(planes, values, labels, found, |value| value),
        }
    }

    /// Drops the labels that are not wanted.
    pub(super) fn keep(&mut self, keep: &[u32]) {
        let dropped = |value: u32| !keep.contains(&value);
        match self {
            Self::U8(labels) => {
                let table: [u8; 256] =
                    std::array::from_fn(
                        |value| {
                            if dropped(value as u32) { 0 } else { value as u8 }
                        },
                    );
                labels.iter_mut().for_each(|label| *label = table[usize::from(*label)]);
            }
            Self::U16(labels) => {
                labels
                    .iter_mut()
                    .filter(|label| dropped(u32::from(**label)))
                    .for_each(|label| *label = 0);
            }
        }
    }
}
