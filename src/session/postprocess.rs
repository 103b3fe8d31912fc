//! What is done to a label map at the end: components that are kept or dropped, holes that are
//! filled.

use std::cell::Cell;

use super::components::{Finding, Run, Stored, Sweep};
use super::flood::{self, Flood};
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

/// Bytes that [`apply`] allocates, at most.
pub(super) fn bytes(model: &Model, options: &RunOptions, dims: [usize; 3]) -> u64 {
    let own = !options.raw && !model.package().postprocessing.is_empty();
    if !own && options.cleanup.is_empty() {
        return 0;
    }
    flood::bytes(dims) + table_bytes(model)
}

/// Bytes for kind, smallest size and largest component of each stored value; filling holes has two
/// kinds.
fn table_bytes(model: &Model) -> u64 {
    let values = if fits_byte(model) { u8::VALUES } else { u16::VALUES };
    (values * (size_of::<u16>() + size_of::<f64>() + size_of::<u64>())) as u64
}

/// Applies the model's own steps, then the user's, to the labels of `volume`'s grid.
/// `check` is called before each plane of each sweep.
///
/// # Errors
/// [`Error::Memory`] if the machine has too little; whatever `check` returns.
pub(super) fn apply(
    model: &Model,
    options: &RunOptions,
    labels: &mut LabelMap,
    volume: &VolumeView,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut steps = Steps {
        dims: volume.dims,
        voxel_mm3: volume.geometry.spacing.iter().product(),
        available_bytes: flood::bytes(volume.dims),
        check,
    };
    let own: &[Postprocessing] = if options.raw { &[] } else { &model.package().postprocessing };
    for step in own {
        match labels {
            LabelMap::U8(labels) => steps.own(step, labels)?,
            LabelMap::U16(labels) => steps.own(step, labels)?,
        }
    }
    for together in options.cleanup.chunk_by(one_sweep) {
        match labels {
            LabelMap::U8(labels) => steps.cleanup(together, labels)?,
            LabelMap::U16(labels) => steps.cleanup(together, labels)?,
        }
    }
    Ok(())
}

/// Whether a sweep can do two steps that follow each other: smallest sizes, for no label's
/// components depend on another's.
fn one_sweep(step: &Cleanup, next: &Cleanup) -> bool {
    match (step, next) {
        (
            Cleanup::MinimumSize { connectivity: step, .. },
            Cleanup::MinimumSize { connectivity: next, .. },
        ) => step == next,
        _ => false,
    }
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
    /// For runs and components of a sweep: where they are more, the map is flooded.
    available_bytes: u64,
    check: &'a mut dyn FnMut() -> Result<()>,
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
        let kinds = kinds::<T>(Some(wanted), |_| 1)?;
        let stays = minimum_mm3.map_or(f64::INFINITY, |mm3| mm3 / self.voxel_mm3);
        self.drop_components(labels, &kinds, *connectivity == 26, true, |_| stays)
    }

    /// Steps that [`one_sweep`] can do together.
    fn cleanup<T: Stored>(&mut self, steps: &[Cleanup], labels: &mut [T]) -> Result<()> {
        let each = |labels| kinds::<T>(labels, |value| value as u16);
        match steps {
            [Cleanup::LargestComponent { labels: wanted, connectivity }] => {
                let kinds = each(wanted.as_deref())?;
                self.drop_components(labels, &kinds, *connectivity == 26, true, |_| f64::INFINITY)
            }
            [Cleanup::FillHoles { labels: wanted }] => {
                self.fill_holes(labels, &each(wanted.as_deref())?)
            }
            _ => self.minimum_sizes(steps, labels),
        }
    }

    /// Smallest sizes of one connectivity; of several for a label the highest.
    fn minimum_sizes<T: Stored>(&mut self, steps: &[Cleanup], labels: &mut [T]) -> Result<()> {
        let mut all = filled("kinds of labels", T::VALUES, 0)?;
        let mut stays = filled("smallest sizes", T::VALUES, 0.0f64)?;
        let mut diagonal = false;
        for step in steps {
            let Cleanup::MinimumSize { labels: wanted, connectivity, mm3 } = step else { continue };
            diagonal = *connectivity == 26;
            let kinds = kinds::<T>(wanted.as_deref(), |value| value as u16)?;
            for (value, kind) in kinds.into_iter().enumerate().filter(|(_, kind)| *kind != 0) {
                all[value] = kind;
                stays[value] = stays[value].max(mm3 / self.voxel_mm3);
            }
        }
        self.drop_components(labels, &all, diagonal, false, |kind| stays[usize::from(kind)])
    }

    /// Makes background of components, but for those of at least `stays(kind)` voxels and, if
    /// `keep_largest`, the largest of each kind.
    fn drop_components<T: Stored>(
        &mut self,
        labels: &mut [T],
        kinds: &[u16],
        diagonal: bool,
        keep_largest: bool,
        stays: impl Fn(u16) -> f64,
    ) -> Result<()> {
        let largest = match keep_largest {
            true => Some(filled("largest components", kinds.len(), Cell::new(0u64))?),
            false => None,
        };
        self.change(labels, kinds, diagonal, &Dropped { largest, stays })
    }

    /// Gives holes the label around them, if it is of a kind.
    fn fill_holes<T: Stored>(&mut self, labels: &mut [T], wanted: &[u16]) -> Result<()> {
        let mut background = filled("kinds of labels", T::VALUES, 0)?;
        background[0] = 1;
        self.change(labels, &background, false, &Filled { dims: self.dims, wanted })
    }

    /// Finds the components of `kinds` and changes those that the treatment says. By a stream of planes,
    /// or where they are too many for that, by flooding.
    fn change<T: Stored, R: Treatment<T>>(
        &mut self,
        labels: &mut [T],
        kinds: &[u16],
        diagonal: bool,
        treatment: &R,
    ) -> Result<()> {
        let mut sweep = Sweep {
            dims: self.dims,
            diagonal,
            kinds,
            available_bytes: self.available_bytes,
            check: &mut *self.check,
        };
        let changes = |kind, found: &R::Found| treatment.changes(kind, found);
        let value = |line: &[T], start| treatment.value(line, start);
        let map = &*labels;
        let found =
            sweep.find(map, |place, run, found| treatment.observe(map, place, run, found))?;
        if let Some(components) = found {
            if treatment.tallies() {
                components.iter().for_each(|found| treatment.tally(found));
            }
            return sweep.rewrite(labels, components, changes, value);
        }
        let observe = |map: &[T], place, run: &Run, found: &R::Found| {
            treatment.observe(map, place, run, found)
        };
        let mut flood = Flood::new(self.dims, diagonal, kinds, &mut *self.check)?;
        if treatment.tallies() {
            flood.find(labels, &observe, |found| treatment.tally(found))?;
        }
        flood.rewrite(labels, &observe, changes, value)
    }
}

/// What a step asks of components, and what becomes of them.
trait Treatment<T> {
    /// What must be known of a component.
    type Found: Finding;

    /// What a run at `[k, j]` adds to what is known of its component.
    fn observe(&self, map: &[T], place: [usize; 2], run: &Run, found: &Self::Found) -> Self::Found;

    /// Whether each component is shown to [`Treatment::tally`] before the first is changed.
    fn tallies(&self) -> bool {
        false
    }

    /// Takes note of a component.
    fn tally(&self, _: &Self::Found) {}

    /// Whether a component is changed.
    fn changes(&self, kind: u16, found: &Self::Found) -> bool;

    /// What the run from `start` of a line becomes.
    fn value(&self, line: &[T], start: usize) -> T;
}

/// Components that are too small, or not the largest, become background.
struct Dropped<S> {
    /// Voxels of the largest component of each kind, where those stay.
    largest: Option<Vec<Cell<u64>>>,
    /// Voxels of a kind's component from which on it stays.
    stays: S,
}

impl<T: Stored, S: Fn(u16) -> f64> Treatment<T> for Dropped<S> {
    type Found = Size;

    fn observe(&self, _: &[T], _: [usize; 2], run: &Run, _: &Size) -> Size {
        Size { voxels: u64::from(run.end - run.start), kind: run.kind }
    }

    fn tallies(&self) -> bool {
        self.largest.is_some()
    }

    fn tally(&self, size: &Size) {
        if let Some(largest) = &self.largest {
            let most = &largest[usize::from(size.kind)];
            most.set(size.voxels.max(most.get()));
        }
    }

    fn changes(&self, kind: u16, size: &Size) -> bool {
        let largest = self.largest.as_ref().map(|largest| largest[usize::from(kind)].get());
        largest != Some(size.voxels) && (size.voxels as f64) < (self.stays)(kind)
    }

    fn value(&self, _: &[T], _: usize) -> T {
        T::default()
    }
}

/// Holes get the label around them.
struct Filled<'a> {
    dims: [usize; 3],
    /// The kind of each label, 0 where its holes stay.
    wanted: &'a [u16],
}

impl<T: Stored> Treatment<T> for Filled<'_> {
    type Found = Around;

    fn observe(&self, map: &[T], [k, j]: [usize; 2], run: &Run, found: &Around) -> Around {
        let [columns, rows, planes] = self.dims;
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
    }

    fn changes(&self, _: u16, around: &Around) -> bool {
        around.0 != OPEN && self.wanted[around.0 as usize] != 0
    }

    fn value(&self, line: &[T], start: usize) -> T {
        // What lies before a run of a hole is of the label around it.
        line[start - 1]
    }
}

#[cfg(test)]
mod tests;
