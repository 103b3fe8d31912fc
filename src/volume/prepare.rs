//! What must be known of a volume before its planes can be made: one or two passes over its
//! voxels, and little memory.

use std::ops::Range;
use std::sync::Mutex;

use super::intensity::{Normalization, Outside};
use super::meter::may_meter;
use super::moments::Moments;
use super::planes::Source;
use super::resample::{axis_maps, new_shape};
use super::spline::Axis;
use super::stream::Planes;
use super::{
    AxisMap, Generation, Intensity, Interpolation, LineStatistics, Meter, Orientation, Placement,
    VolumeView, crop, mask,
};
use crate::base::{Error, Pool, Result};

/// Planes of the caller's volume that are looked at between two questions whether to go on.
pub(super) const PASS_PLANES: usize = 64;

/// What a model asks of its input.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Which voxel order it was trained on.
    pub orientation: Orientation,
    /// nnU-Net's `transpose_forward`: axis `n` is axis `transpose[n]` of (k, j, i).
    pub transpose: [usize; 3],
    /// Distance of voxels along these axes, in mm; `None` is the volume's own.
    pub spacing: [Option<f64>; 3],
    /// Whose arithmetic.
    pub generation: Generation,
    /// How the volume comes to the network's grid; order 1 or 3.
    pub image: Interpolation,
    /// How scores return; order 0 or 1.
    pub scores: Interpolation,
    /// One for each channel of the volume.
    pub intensity: Vec<Intensity>,
}

impl Recipe {
    /// The same with its axes in another order: axis `n` becomes what axis `order[n]` was.
    #[must_use]
    pub fn ordered(self, order: [usize; 3]) -> Self {
        let transpose = order.map(|axis| self.transpose[axis]);
        Self { transpose, spacing: order.map(|axis| self.spacing[axis]), ..self }
    }

    pub(super) fn masked(&self) -> bool {
        self.intensity.iter().any(Intensity::masked)
    }

    fn measures(&self) -> bool {
        self.intensity.iter().any(Intensity::measures)
    }
}

/// The grids of a volume on its way to a network and back. Axes are the recipe's.
#[derive(Clone, Debug, PartialEq)]
pub struct Grids {
    /// Where the cropped native grid lies in the caller's volume.
    pub placement: Placement,
    /// Voxels along the axes on the network's grid.
    pub shape: [usize; 3],
    /// The axis on which the volume goes by nearest neighbour.
    pub(super) separate: Option<usize>,
    /// For each axis, from the cropped native grid (`placement.shape()`) to the network's, by
    /// which scores return.
    pub output: [AxisMap; 3],
}

impl Grids {
    /// The grids of the whole volume; reads no voxel.
    ///
    /// # Errors
    /// [`Error::Argument`] if the view, its geometry or its number of channels can't be used.
    pub fn whole(view: &VolumeView, recipe: &Recipe) -> Result<Self> {
        view.validate()?;
        let (found, expected) = (view.channels, recipe.intensity.len());
        if found != expected {
            return Err(Error::argument(format!(
                "the volume has {found} channels, but the model expects {expected}"
            )));
        }
        Self::of(Placement::whole(view, recipe.orientation, recipe.transpose), view, recipe)
    }

    fn of(placement: Placement, view: &VolumeView, recipe: &Recipe) -> Result<Self> {
        let (native, native_spacing) = (placement.shape(), placement.spacing(view));
        let spacing =
            std::array::from_fn(|axis| recipe.spacing[axis].unwrap_or(native_spacing[axis]));
        let shape = new_shape(native, native_spacing, spacing)?;
        // Whose spacing is looked at first when scores return differs between the generations.
        let back = match recipe.generation {
            Generation::V1 => recipe.scores.separate_axis(native_spacing, spacing),
            Generation::V2 => recipe.scores.separate_axis(spacing, native_spacing),
        };
        Ok(Self {
            separate: recipe.image.separate_axis(native_spacing, spacing),
            output: axis_maps(shape, native, recipe.scores.order, back),
            placement,
            shape,
        })
    }

    /// How each axis comes to the network's grid, with values of `order`.
    pub(super) fn axes(&self, order: u8) -> [Axis; 3] {
        let native = self.placement.shape();
        std::array::from_fn(|axis| {
            let order = if self.separate == Some(axis) { 0 } else { order };
            Axis::new(native[axis], self.shape[axis], order)
        })
    }

    /// How labels on the native grid come to the network's.
    pub(super) fn label_maps(&self) -> [AxisMap; 3] {
        axis_maps(self.placement.shape(), self.shape, 1, self.separate)
    }
}

/// A volume whose planes can be made.
pub struct Preparation {
    /// Its grids, cropped to the voxels that are not zero.
    pub grids: Grids,
    pub(super) generation: Generation,
    pub(super) axes: [Axis; 3],
    pub(super) mask: Option<mask::Mask>,
    /// One for each channel.
    pub(super) normalizations: Vec<Normalization>,
    /// Smallest and largest value of each channel before resampling, which may not leave it: one
    /// pair, or with a separate axis one for each voxel of that axis.
    pub(super) ranges: Vec<Vec<(f32, f32)>>,
}

/// Bytes that [`Preparation::new`] allocates at its peak and the result keeps, at most.
/// `metered` says whether there will be a meter.
pub fn preparation_bytes(grids: &Grids, recipe: &Recipe, threads: usize, metered: bool) -> u64 {
    let native = grids.placement.shape();
    let mask = if recipe.masked() { mask::bytes(native) } else { 0 };
    let measuring = match recipe.generation {
        Generation::V1 if recipe.measures() => {
            super::stream::bytes(grids, recipe, recipe.intensity.len(), threads)
        }
        _ => 0,
    };
    let ranges = 16 * native.iter().max().unwrap_or(&0) * recipe.intensity.len();
    let reading = if metered && may_meter(recipe) { super::native::bytes(grids) } else { 0 };
    mask + measuring + reading + (ranges + threads * 8 * native[1] * native[2]) as u64
}

impl Preparation {
    /// Finds the box of voxels that are not zero and what the intensity schemes depend on.
    /// A `meter` measures for the processor where it can. `check` is asked now and then whether to
    /// go on.
    ///
    /// # Errors
    /// [`Error::Argument`] if the view, its geometry, its number of channels or its values can't
    /// be used; [`Error::Memory`] if the machine's memory runs out; those of the meter; what `check`
    /// returns.
    pub fn new(
        view: &VolumeView,
        recipe: &Recipe,
        pool: &Pool,
        meter: Option<&mut dyn Meter>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let mut placement = Grids::whole(view, recipe)?.placement;
        placement.crop = crop::non_zero_box(view, &placement, pool, check)?;
        let grids = Grids::of(placement, view, recipe)?;
        let mut prepared = Self {
            generation: recipe.generation,
            axes: grids.axes(recipe.image.order),
            mask: None,
            normalizations: Vec::new(),
            ranges: Vec::new(),
            grids,
        };
        let mut pass = Pass { view, pool, check };
        if recipe.masked() {
            prepared.mask = Some(pass.mask(&prepared.grids.placement)?);
        }
        let mut meter = meter.filter(|_| prepared.may_meter());
        let native = prepared.native_facts(recipe, &mut pass, &mut meter)?;
        let moments = match recipe.generation {
            Generation::V1 if recipe.measures() => {
                prepared.ranges = native.iter().map(|facts| facts.ranges(None)).collect();
                match meter {
                    Some(meter) => prepared.metered_moments(recipe, &mut pass, meter)?,
                    None => prepared.resampled_moments(recipe, &mut pass)?,
                }
            }
            _ => native.iter().map(|facts| facts.moments).collect(),
        };
        prepared.normalizations = recipe
            .intensity
            .iter()
            .zip(moments)
            .map(|(intensity, moments)| intensity.normalization(moments, recipe.generation))
            .collect();
        let normalized = recipe.generation == Generation::V2;
        prepared.ranges = native
            .iter()
            .zip(&prepared.normalizations)
            .map(|(facts, how)| facts.ranges(normalized.then_some(how)))
            .collect();
        Ok(prepared)
    }

    /// Whether any axis changes its voxels.
    pub(super) fn resampled(&self) -> bool {
        self.axes.iter().any(|axis| !matches!(axis, Axis::Kept))
    }

    pub(super) fn source<'a>(&'a self, view: &'a VolumeView<'a>) -> Source<'a> {
        Source { view, placement: &self.grids.placement, mask: self.mask.as_ref() }
    }

    /// What a channel's value becomes, inside the mask: by this an intensity of the caller's is
    /// compared with prepared ones.
    pub fn normalized(&self, channel: usize, value: f32) -> f32 {
        self.normalizations[channel].value(value)
    }

    /// What is known of the cropped volume's channels.
    fn native_facts(
        &self,
        recipe: &Recipe,
        pass: &mut Pass,
        meter: &mut Option<&mut dyn Meter>,
    ) -> Result<Vec<Facts>> {
        let resampled = self.resampled();
        let shape = self.grids.placement.shape();
        let measured = recipe.generation == Generation::V2 && recipe.measures();
        let separate = self.grids.separate;
        let empty = self.no_facts();
        if !resampled && !measured {
            return Ok(vec![empty; recipe.intensity.len()]);
        }
        let source = self.source(pass.view);
        let masked = self.mask.as_ref();
        let mut all = Vec::new();
        for (channel, intensity) in recipe.intensity.iter().enumerate() {
            if let Some(meter) = meter {
                all.push(self.metered_facts(channel, intensity, pass, &mut **meter)?);
                continue;
            }
            let mut facts = empty.clone();
            pass.planes(shape[0], &empty, &mut facts, |plane, facts| {
                let mut values = vec![0.0; shape[1] * shape[2]];
                source.read(channel, plane, None, &mut values);
                let inside = |at: usize| {
                    masked.is_none_or(|mask| bit_at(mask, plane, at / shape[2], at % shape[2]))
                };
                if measured && intensity.measures() {
                    let counted = values.iter().enumerate();
                    let counted = counted.filter(|&(at, &v)| intensity.counts(v, inside(at)));
                    facts.moments = Moments::of(counted.map(|(_, &value)| value));
                }
                if resampled {
                    for (at, &value) in values.iter().enumerate() {
                        let slice = match separate {
                            None => 0,
                            Some(0) => plane,
                            Some(1) => at / shape[2],
                            Some(_) => at % shape[2],
                        };
                        facts.add(slice, value, inside(at));
                    }
                }
            })?;
            all.push(facts);
        }
        Ok(all)
    }

    /// What is known of a channel before any voxel was looked at.
    pub(super) fn no_facts(&self) -> Facts {
        Facts::new(self.grids.separate.map_or(1, |axis| self.grids.placement.shape()[axis]))
    }

    /// The moments of the resampled channels, which nnU-Net 1 normalises by.
    fn resampled_moments(&self, recipe: &Recipe, pass: &mut Pass) -> Result<Vec<Moments>> {
        let [_, rows, columns] = self.grids.shape;
        let mut planes = Planes::new(pass.view, self, None, pass.pool)?;
        let mut moments = vec![Moments::default(); recipe.intensity.len()];
        let mut inside = vec![true; rows * columns];
        while let Some(piece) = planes.make()? {
            (pass.check)()?;
            let voxels = piece.planes.len() * rows * columns;
            for at in piece.planes.clone() {
                let plane = (at - piece.planes.start) * rows * columns;
                piece.mask_plane(at, &mut inside);
                let channels = piece.values.chunks_exact(voxels).zip(&recipe.intensity);
                for ((values, intensity), all) in channels.zip(&mut moments) {
                    let values = values[plane..][..rows * columns].iter().zip(&inside);
                    let counted = values.filter(|&(&v, &inside)| intensity.counts(v, inside));
                    *all = all.and(Moments::of(counted.map(|(&value, _)| value)));
                }
            }
        }
        Ok(moments)
    }
}

fn bit_at(mask: &mask::Mask, plane: usize, row: usize, column: usize) -> bool {
    mask::bit(mask.row(plane, row), column)
}

/// What is known of a channel.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) moments: Moments,
    /// Smallest and largest value of each slice, inside the mask and outside.
    inside: Vec<(f32, f32)>,
    outside: Vec<(f32, f32)>,
}

impl Facts {
    fn new(slices: usize) -> Self {
        let none = vec![(f32::INFINITY, f32::NEG_INFINITY); slices];
        Self { moments: Moments::default(), inside: none.clone(), outside: none }
    }

    fn add(&mut self, slice: usize, value: f32, inside: bool) {
        let range = if inside { &mut self.inside[slice] } else { &mut self.outside[slice] };
        *range = (range.0.min(value), range.1.max(value));
    }

    /// Adds a line inside the mask, all of it in one slice.
    pub(super) fn add_line(&mut self, slice: usize, line: &LineStatistics) {
        self.moments = self.moments.and(Moments::of_line(line));
        self.inside[slice] = union(self.inside[slice], line.range);
    }

    fn and(mut self, other: &Self) -> Self {
        self.moments = self.moments.and(other.moments);
        let pairs = [(&mut self.inside, &other.inside), (&mut self.outside, &other.outside)];
        for (own, other) in pairs {
            own.iter_mut().zip(other).for_each(|(a, b)| *a = union(*a, *b));
        }
        self
    }

    /// The ranges of the values, once normalised if they are.
    fn ranges(&self, normalization: Option<&Normalization>) -> Vec<(f32, f32)> {
        let through = |(low, high): (f32, f32), outside: bool| match normalization {
            _ if low > high => (low, high),
            Some(how) if !(outside && how.outside == Outside::Kept) => {
                (how.value(low), how.value(high))
            }
            _ => (low, high),
        };
        let pairs = self.inside.iter().zip(&self.outside);
        pairs.map(|(&a, &b)| union(through(a, false), through(b, true))).collect()
    }
}

fn union(a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
    (a.0.min(b.0), a.1.max(b.1))
}

/// Passes over the caller's voxels.
pub(super) struct Pass<'a> {
    pub(super) view: &'a VolumeView<'a>,
    pub(super) pool: &'a Pool,
    pub(super) check: &'a mut dyn FnMut() -> Result<()>,
}

impl Pass<'_> {
    /// Adds what `look(plane, facts)` finds in each plane to `all`, in order.
    fn planes(
        &mut self,
        planes: usize,
        empty: &Facts,
        all: &mut Facts,
        look: impl Fn(usize, &mut Facts) + Sync,
    ) -> Result<()> {
        for start in (0..planes).step_by(PASS_PLANES) {
            (self.check)()?;
            let count = PASS_PLANES.min(planes - start);
            let found: Vec<Mutex<Facts>> = (0..count).map(|_| Mutex::new(empty.clone())).collect();
            self.pool.run(count, &|plane, _| {
                if let Ok(mut facts) = found[plane].lock() {
                    look(start + plane, &mut facts);
                }
            });
            for facts in found {
                let facts = facts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                *all = all.clone().and(&facts);
            }
        }
        Ok(())
    }

    fn mask(&mut self, placement: &Placement) -> Result<mask::Mask> {
        let shape = placement.shape();
        let source = Source { view: self.view, placement, mask: None };
        let mut values = vec![0.0; shape[1] * shape[2]];
        let (channels, check) = (self.view.channels, &mut *self.check);
        mask::Mask::new(shape, |plane, words| {
            check()?;
            let row_words = words.len() / shape[1];
            for channel in 0..channels {
                source.read(channel, plane, None, &mut values);
                let rows = values.chunks_exact(shape[2]).zip(words.chunks_exact_mut(row_words));
                for (row, words) in rows {
                    for (column, _) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                        words[column / 64] |= 1 << (column % 64);
                    }
                }
            }
            Ok(())
        })
    }
}

/// Planes of the network's grid that are made together: cut the same way whatever memory there
/// is, so that a volume is prepared to the same bits.
pub const PIECE_PLANES: usize = 16;

/// The planes of the piece that begins at `start`.
pub fn piece(start: usize, planes: usize) -> Range<usize> {
    start..planes.min(start + PIECE_PLANES)
}
