//! What is done to a label map at the end: components that are kept or dropped, holes that are
//! filled.

use super::components::{Components, Finding, RUN_BYTES, Stored, Sweep, row_bytes};
use super::labels::{fits_byte, known};
use super::{LabelMap, RunOptions};
use crate::base::error::filled;
use crate::base::{Error, Result};
use crate::model::{Model, Postprocessing};
use crate::volume::VolumeView;

/// A step that tidies up a label map. Where `labels` is `None` it is for every label but the
/// background. All labels of a step are done at once, each on its own: a component is of voxels
/// of one label.
///
/// `connectivity` is 26 where voxels of a component touch by faces, edges or corners, as in
/// nnU-Net v2; 6 where they touch by faces only.
#[derive(Clone, Debug, PartialEq)]
pub enum Cleanup {
    /// Of each label the largest component stays (all that are as large); its others become
    /// background.
    LargestComponent {
        /// Label values.
        labels: Option<Vec<u32>>,
        /// 6 or 26.
        connectivity: u8,
    },
    /// Components smaller than this become background.
    MinimumSize {
        /// Label values.
        labels: Option<Vec<u32>>,
        /// 6 or 26.
        connectivity: u8,
        /// The smallest size that stays, in mm^3.
        mm3: f64,
    },
    /// Holes get the label around them. A hole is a component of background voxels, touching by
    /// faces, that does not reach the volume's border and whose face neighbours have one label
    /// all. So a volume of a single plane has none.
    FillHoles {
        /// Label values.
        labels: Option<Vec<u32>>,
    },
}

impl Cleanup {
    fn labels(&self) -> Option<&[u32]> {
        match self {
            Self::LargestComponent { labels, .. }
            | Self::MinimumSize { labels, .. }
            | Self::FillHoles { labels } => labels.as_deref(),
        }
    }
}

/// An error if a step can't be done with the model's labels.
pub(super) fn check(model: &Model, steps: &[Cleanup]) -> Result<()> {
    for step in steps {
        for &value in step.labels().into_iter().flatten() {
            known(model, value, "labels to clean up")?;
            if value == 0 {
                return Err(Error::argument(
                    "labels to clean up: 0 is the background, expected values of structures",
                ));
            }
        }
        match *step {
            Cleanup::LargestComponent { connectivity, .. }
            | Cleanup::MinimumSize { connectivity, .. }
                if ![6, 26].contains(&connectivity) =>
            {
                return Err(Error::argument(format!(
                    "cleanup: connectivity is {connectivity}, expected 6 or 26"
                )));
            }
            Cleanup::MinimumSize { mm3, .. } if !(mm3.is_finite() && mm3 >= 0.0) => {
                return Err(Error::argument(format!(
                    "cleanup: the smallest size is {mm3} mm^3, expected a number from 0"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What small maps may take whatever they hold.
const SMALL_BYTES: u64 = 64 << 10;
/// A plane of real labels has far fewer runs than one for so many voxels.
const VOXELS_PER_RUN: u64 = 4;
/// Ragged maps of a hundred structures have a provisional component for thousands of voxels.
const VOXELS_PER_COMPONENT: u64 = 128;

/// Bytes that [`apply`] allocates. An allowance: components are counted when they are there, and
/// a map of noise has more of them than this. Such a map takes what is left of the session's
/// budget, or is refused.
pub(super) fn bytes(model: &Model, options: &RunOptions, dims: [usize; 3]) -> u64 {
    let own = !options.raw && !model.package().postprocessing.is_empty();
    if !own && options.cleanup.is_empty() {
        return 0;
    }
    allowance(dims) + table_bytes(model)
}

/// Bytes for the runs and components of a map that is not noise.
pub(super) fn allowance(dims: [usize; 3]) -> u64 {
    let [columns, rows, planes] = dims.map(|count| count as u64);
    let runs = 2 * (columns * rows).div_ceil(VOXELS_PER_RUN);
    let components = (columns * rows * planes).div_ceil(VOXELS_PER_COMPONENT);
    SMALL_BYTES + row_bytes(dims[1]) + RUN_BYTES * runs + Components::<Size>::BYTES * components
}

/// Bytes for kind and largest component of each stored value; filling holes has two kinds.
fn table_bytes(model: &Model) -> u64 {
    let values = if fits_byte(model) { u8::VALUES } else { u16::VALUES };
    (values * (size_of::<u16>() + size_of::<u64>())) as u64
}

/// Applies the model's own steps, then the user's, to the labels of `volume`'s grid.
/// `available_bytes` are for runs and components; `check` is called before each plane of each
/// sweep.
///
/// # Errors
/// [`Error::Memory`] if the components take more than what is available or than the machine has;
/// whatever `check` returns.
pub(super) fn apply(
    model: &Model,
    options: &RunOptions,
    labels: &mut LabelMap,
    volume: &VolumeView,
    available_bytes: u64,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut steps = Steps {
        dims: volume.dims,
        voxel_mm3: volume.geometry.spacing.iter().product(),
        available_bytes,
        check,
    };
    let own: &[Postprocessing] = if options.raw { &[] } else { &model.package().postprocessing };
    for step in own {
        match labels {
            LabelMap::U8(labels) => steps.own(step, labels)?,
            LabelMap::U16(labels) => steps.own(step, labels)?,
        }
    }
    for step in &options.cleanup {
        match labels {
            LabelMap::U8(labels) => steps.cleanup(step, labels)?,
            LabelMap::U16(labels) => steps.cleanup(step, labels)?,
        }
    }
    Ok(())
}

/// Size and kind of a component.
#[derive(Clone, Copy, Default)]
struct Size {
    voxels: u64,
    kind: u16,
}

impl Finding for Size {
    fn merge(&mut self, other: Self) {
        self.voxels += other.voxels;
        self.kind = other.kind;
    }
}

/// What lies around a component of background: the value of all its neighbours, 0 while none is
/// known, [`OPEN`] if it is no hole.
#[derive(Clone, Copy, Default)]
struct Around(u32);

/// At the border, or between several labels.
const OPEN: u32 = u32::MAX;

impl Finding for Around {
    fn merge(&mut self, Self(other): Self) {
        self.0 = match (self.0, other) {
            (mine, 0) => mine,
            (0, theirs) => theirs,
            (mine, theirs) if mine == theirs => mine,
            _ => OPEN,
        };
    }
}

/// The grid that steps are done on.
struct Steps<'a> {
    dims: [usize; 3],
    voxel_mm3: f64,
    available_bytes: u64,
    check: &'a mut dyn FnMut() -> Result<()>,
}

/// A component's fate.
#[derive(Clone, Copy)]
struct Rule {
    /// The largest of a kind stay.
    largest: bool,
    /// Those of so many voxels stay.
    stays: f64,
    diagonal: bool,
}

/// The kind of each stored value: that of those `labels` that are no background, `kind(value)`.
fn kinds<T: Stored>(labels: Option<&[u32]>, kind: impl Fn(u32) -> u16) -> Result<Vec<u16>> {
    let mut kinds = filled("kinds of labels", T::VALUES, 0)?;
    match labels {
        None => (1..T::VALUES).for_each(|value| kinds[value] = kind(value as u32)),
        Some(labels) => {
            let places = labels.iter().map(|&value| value as usize);
            places
                .filter(|value| (1..T::VALUES).contains(value))
                .for_each(|value| kinds[value] = kind(value as u32));
        }
    }
    Ok(kinds)
}

impl Steps<'_> {
    /// A step of the model: its labels count as one.
    fn own<T: Stored>(&mut self, step: &Postprocessing, labels: &mut [T]) -> Result<()> {
        let Postprocessing::LargestComponent { labels: wanted, connectivity, minimum_mm3 } = step;
        let stays = minimum_mm3.map_or(f64::INFINITY, |mm3| mm3 / self.voxel_mm3);
        let rule = Rule { largest: true, stays, diagonal: *connectivity == 26 };
        self.drop_components(labels, &kinds::<T>(Some(wanted), |_| 1)?, rule)
    }

    fn cleanup<T: Stored>(&mut self, step: &Cleanup, labels: &mut [T]) -> Result<()> {
        let each = kinds::<T>(step.labels(), |value| value as u16)?;
        match *step {
            Cleanup::LargestComponent { connectivity, .. } => {
                let diagonal = connectivity == 26;
                let rule = Rule { largest: true, stays: f64::INFINITY, diagonal };
                self.drop_components(labels, &each, rule)
            }
            Cleanup::MinimumSize { connectivity, mm3, .. } => {
                let diagonal = connectivity == 26;
                let rule = Rule { largest: false, stays: mm3 / self.voxel_mm3, diagonal };
                self.drop_components(labels, &each, rule)
            }
            Cleanup::FillHoles { .. } => self.fill_holes(labels, &each),
        }
    }

    /// Makes background of the components that no part of the rule lets stay.
    fn drop_components<T: Stored>(
        &mut self,
        labels: &mut [T],
        kinds: &[u16],
        rule: Rule,
    ) -> Result<()> {
        let mut sweep = self.sweep(kinds, rule.diagonal);
        let components = sweep.find(labels, |_, run, _: &Size| Size {
            voxels: u64::from(run.end - run.start),
            kind: run.kind,
        })?;
        let mut largest = filled("largest components", kinds.len(), 0u64)?;
        for size in components.iter().filter(|_| rule.largest) {
            let most = &mut largest[usize::from(size.kind)];
            *most = size.voxels.max(*most);
        }
        sweep.rewrite(labels, components, |kind, size| {
            let kept = rule.largest && size.voxels == largest[usize::from(kind)];
            (!kept && (size.voxels as f64) < rule.stays).then(T::default)
        })
    }

    /// Gives holes the label around them, if it is of a kind.
    fn fill_holes<T: Stored>(&mut self, labels: &mut [T], wanted: &[u16]) -> Result<()> {
        let mut background = filled("kinds of labels", T::VALUES, 0)?;
        background[0] = 1;
        let [columns, rows, planes] = self.dims;
        let mut sweep = self.sweep(&background, false);
        let map = &*labels;
        let components = sweep.find(map, |[k, j], run, found: &Around| {
            let (start, end) = (run.start as usize, run.end as usize);
            let inside = (1..columns).contains(&start)
                && end < columns
                && (1..rows.max(2) - 1).contains(&j)
                && (1..planes.max(2) - 1).contains(&k);
            if found.0 == OPEN || !inside {
                return Around(OPEN);
            }
            let line = (k * rows + j) * columns;
            let mut around = *found;
            let mut meets = |voxel: usize| around.merge(Around(map[voxel].into()));
            meets(line + start - 1);
            meets(line + end);
            for other in [line - columns, line + columns] {
                (other + start..other + end).for_each(&mut meets);
            }
            for other in [line - rows * columns, line + rows * columns] {
                (other + start..other + end).for_each(&mut meets);
            }
            around
        })?;
        sweep.rewrite(labels, components, |_, around| {
            let value = around.0;
            (value != OPEN && wanted[value as usize] != 0).then(|| T::narrow(value))
        })
    }

    fn sweep<'b>(&'b mut self, kinds: &'b [u16], diagonal: bool) -> Sweep<'b> {
        Sweep {
            dims: self.dims,
            diagonal,
            kinds,
            available_bytes: self.available_bytes,
            check: &mut *self.check,
        }
    }
}

#[cfg(test)]
mod tests;
