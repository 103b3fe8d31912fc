//! A prepared volume, plane by plane: crop, normalise and resample in the generation's order, with
//! no more in memory than interpolation along the slowest axis needs.

use std::ops::Range;

use super::labels::LabelGrid;
use super::mask::bit;
use super::planes::PlaneScratch;
use super::prepare::{Grids, PIECE_PLANES, Preparation, Recipe, piece};
use super::spline::{Axis, LANES, Row};
use super::{Generation, VolumeView};
use crate::base::error::filled;
use crate::base::{Pool, Result};

/// What an earlier network found: further channels, 1 where `labels` has a structure's value and 0
/// elsewhere.
#[derive(Clone, Copy)]
pub struct Found<'a> {
    /// `[k][j][i]` on the caller's grid.
    pub labels: &'a [u16],
    /// Label values.
    pub structures: &'a [u32],
}

/// Some planes of a prepared volume.
pub struct Piece<'a> {
    /// Which planes of the network's grid.
    pub planes: Range<usize>,
    /// `[channels][planes][shape1][shape2]`
    pub values: &'a [f32],
    mask: Option<&'a LabelGrid<'a>>,
}

/// A channel of the caller's volume along the slowest axis.
struct Channel {
    /// Native planes resampled within, `[plane % slots][shape1][shape2]`.
    ring: Vec<f64>,
    /// Native planes that were made so far.
    made: usize,
}

/// Makes a prepared volume's planes, in ascending order.
pub struct Planes<'a> {
    view: &'a VolumeView<'a>,
    prepared: &'a Preparation,
    pool: &'a Pool,
    mask: Option<LabelGrid<'a>>,
    found: Option<(LabelGrid<'a>, &'a [u32])>,
    channels: Vec<Channel>,
    /// Planes of a ring.
    slots: usize,
    scratch: Vec<std::sync::Mutex<PlaneScratch>>,
    /// `[shape1][planes][shape2]`, on its way to `values`.
    rows: Vec<f32>,
    values: Vec<f32>,
    next: usize,
}

/// Native planes that a ring holds for a slowest axis that goes by `axis`.
fn slots(axis: &Axis, planes: usize) -> usize {
    let pieces = (0..planes).step_by(PIECE_PLANES).map(|start| piece(start, planes));
    pieces.map(|outputs| needed(axis, &outputs).len()).max().unwrap_or(0)
}

/// Native planes that `outputs` are made from.
fn needed(axis: &Axis, outputs: &Range<usize>) -> Range<usize> {
    match axis {
        Axis::Kept => outputs.clone(),
        Axis::Nearest(nearest) => nearest[outputs.start]..nearest[outputs.end - 1] + 1,
        Axis::Line(line) => line.inputs(outputs),
    }
}

/// Bytes that [`Planes`] of `channels` channels in all hold, at most.
pub fn bytes(grids: &Grids, recipe: &Recipe, channels: usize, threads: usize) -> u64 {
    let [planes, rows, columns] = grids.shape;
    let native = grids.placement.shape();
    let plane = (rows * columns) as u64;
    let axis = &grids.axes(recipe.image.order)[0];
    let ring = 8 * slots(axis, planes) as u64 * plane * recipe.intensity.len() as u64;
    let piece = 4 * plane * PIECE_PLANES.min(planes) as u64;
    let column = ((native[0].max(1) + 64) * size_of::<Row>()) as u64;
    let thread = PlaneScratch::bytes([native[1], native[2]], [rows, columns]) + column;
    let labels = 4 * 2 * (native[1] * native[2]) as u64 + 4 * plane;
    ring + piece * (channels as u64 + 1) + thread * threads as u64 + labels
}

impl<'a> Planes<'a> {
    /// Begins at the first plane. With `found`, the structures become further channels.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if the machine has no room for it.
    pub fn new(
        view: &'a VolumeView<'a>,
        prepared: &'a Preparation,
        found: Option<Found<'a>>,
        pool: &'a Pool,
    ) -> Result<Self> {
        let [planes, rows, columns] = prepared.grids.shape;
        let plane = rows * columns;
        let slots = slots(&prepared.axes[0], planes);
        let mut channels = Vec::new();
        for _ in 0..view.channels {
            let ring = filled("planes of the volume", slots * plane, 0.0)?;
            channels.push(Channel { ring, made: 0 });
        }
        let piece = PIECE_PLANES.min(planes) * plane;
        let structures = found.map_or(0, |found| found.structures.len());
        let v1_mask = prepared.mask.as_ref().filter(|_| prepared.generation == Generation::V1);
        Ok(Self {
            view,
            prepared,
            pool,
            mask: v1_mask.map(|mask| {
                LabelGrid::new(prepared, move |plane, row, column| {
                    u16::from(bit(mask.row(plane, row), column))
                })
            }),
            found: found.map(|found| (LabelGrid::found(prepared, found.labels), found.structures)),
            channels,
            slots,
            scratch: (0..pool.threads()).map(|_| std::sync::Mutex::default()).collect(),
            rows: filled("planes of the volume", piece, 0.0)?,
            values: filled("planes of the volume", piece * (view.channels + structures), 0.0)?,
            next: 0,
        })
    }

    /// Channels of a piece.
    pub fn channels(&self) -> usize {
        self.channels.len() + self.found.as_ref().map_or(0, |(_, structures)| structures.len())
    }

    /// The next planes, or `None` after the last.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if the machine's memory runs out.
    pub fn make(&mut self) -> Result<Option<Piece<'_>>> {
        let [planes, rows, columns] = self.prepared.grids.shape;
        if self.next >= planes {
            return Ok(None);
        }
        let outputs = piece(self.next, planes);
        self.next = outputs.end;
        let voxels = outputs.len() * rows * columns;
        for channel in 0..self.channels.len() {
            self.read(channel, needed(&self.prepared.axes[0], &outputs));
            self.interpolate(channel, &outputs);
        }
        if let Some((labels, structures)) = &self.found {
            let own = self.channels.len();
            let planes = self.values[own * voxels..].chunks_exact_mut(voxels);
            for (values, &structure) in planes.zip(*structures) {
                let planes = values.chunks_exact_mut(rows * columns).collect();
                self.pool.for_each(planes, |at, values: &mut [f32], _| {
                    let mut found = vec![0; values.len()];
                    labels.plane(outputs.start + at, &mut found);
                    for (value, found) in values.iter_mut().zip(found) {
                        *value = f32::from(u8::from(u32::from(found) == structure));
                    }
                });
            }
        }
        let values = &self.values[..voxels * self.channels()];
        Ok(Some(Piece { planes: outputs, values, mask: self.mask.as_ref() }))
    }

    /// Reads native planes up to the end of `needed` and resamples them within.
    fn read(&mut self, channel: usize, needed: Range<usize>) {
        let prepared = self.prepared;
        let [_, rows, columns] = prepared.grids.shape;
        let [_, native_rows, native_columns] = prepared.grids.placement.shape();
        let source = prepared.source(self.view);
        let before = (prepared.generation == Generation::V2)
            .then(|| prepared.normalizations.get(channel))
            .flatten();
        let Channel { ring, made } = &mut self.channels[channel];
        let first = needed.start.max(*made);
        let new = needed.end.saturating_sub(first);
        *made = needed.end.max(*made);
        let slots = self.slots;
        let scratch = &self.scratch;
        let mut targets: Vec<(usize, &mut [f64])> = ring
            .chunks_exact_mut(rows * columns)
            .enumerate()
            .filter_map(|(slot, values)| {
                let ahead = (slot + slots - first % slots) % slots;
                (ahead < new).then_some((first + ahead, values))
            })
            .collect();
        targets.sort_unstable_by_key(|(plane, _)| *plane);
        self.pool.for_each(targets, |_, (plane, into), worker| {
            let mut scratch = match scratch[worker].lock() {
                Ok(scratch) => scratch,
                Err(poisoned) => poisoned.into_inner(),
            };
            scratch.plane.resize(native_rows * native_columns, 0.0);
            source.read(channel, plane, before, &mut scratch.plane);
            let [_, axis1, axis2] = &prepared.axes;
            let (from, to) = ([native_rows, native_columns], [rows, columns]);
            scratch.resample(from, to, [axis1, axis2], into);
        });
    }

    /// Makes `outputs` of a channel from its ring: interpolates along the slowest axis, keeps
    /// values within the channel's range, and normalises them if that comes last.
    fn interpolate(&mut self, channel: usize, outputs: &Range<usize>) {
        let prepared = self.prepared;
        let [_, rows, columns] = prepared.grids.shape;
        let (count, plane) = (outputs.len(), rows * columns);
        let (ring, slots) = (&self.channels[channel].ring, self.slots);
        let values = &mut self.values[channel * count * plane..][..count * plane];
        let slot = |native: usize| &ring[native % slots * plane..][..plane];
        let finish = Finish { prepared, channel, mask: self.mask.as_ref() };
        match &prepared.axes[0] {
            Axis::Line(line) => {
                let parts = self.rows[..count * plane].chunks_exact_mut(count * columns).collect();
                self.pool.for_each(parts, |row, part: &mut [f32], _| {
                    let mut coefficients = Vec::new();
                    for start in (0..columns).step_by(LANES) {
                        let lanes = LANES.min(columns - start);
                        let at = row * columns + start;
                        let get = |native: usize, values: &mut Row| {
                            values[..lanes].copy_from_slice(&slot(native)[at..at + lanes]);
                        };
                        line.run(outputs.clone(), &mut coefficients, get, |output, values| {
                            let place = (output - outputs.start) * columns + start;
                            let places = part[place..place + lanes].iter_mut();
                            places.zip(values).for_each(|(place, &value)| *place = value as f32);
                        });
                    }
                });
                let rows = &self.rows;
                self.pool.for_each(
                    values.chunks_exact_mut(plane).collect(),
                    |at, values: &mut [f32], _| {
                        for (row, line) in values.chunks_exact_mut(columns).enumerate() {
                            line.copy_from_slice(&rows[(row * count + at) * columns..][..columns]);
                        }
                        finish.plane(outputs.start + at, values);
                    },
                );
            }
            axis => {
                let planes = values.chunks_exact_mut(plane).collect();
                self.pool.for_each(planes, |at, values: &mut [f32], _| {
                    let output = outputs.start + at;
                    let native = match axis {
                        Axis::Nearest(nearest) => nearest[output],
                        _ => output,
                    };
                    for (value, &made) in values.iter_mut().zip(slot(native)) {
                        *value = made as f32;
                    }
                    finish.plane(output, values);
                });
            }
        }
    }
}

impl Piece<'_> {
    /// Which voxels of a plane lie in the non-zero mask, `[shape1][shape2]`.
    pub(super) fn mask_plane(&self, plane: usize, inside: &mut [bool]) {
        mask_plane(self.mask, plane, inside);
    }
}

fn mask_plane(mask: Option<&LabelGrid>, plane: usize, inside: &mut [bool]) {
    let Some(mask) = mask else { return inside.fill(true) };
    let mut labels = vec![0; inside.len()];
    mask.plane(plane, &mut labels);
    inside.iter_mut().zip(labels).for_each(|(inside, label)| *inside = label == 1);
}

/// What is done to a channel's resampled planes.
struct Finish<'a> {
    prepared: &'a Preparation,
    channel: usize,
    mask: Option<&'a LabelGrid<'a>>,
}

impl Finish<'_> {
    /// Keeps a plane's values within the channel's range, and normalises them if that comes last.
    fn plane(&self, plane: usize, values: &mut [f32]) {
        let Preparation { grids, axes, generation, .. } = self.prepared;
        let columns = grids.shape[2];
        let clip = |values: &mut [f32], (low, high): (f32, f32)| {
            values.iter_mut().for_each(|value| *value = value.clamp(low, high));
        };
        let native = |axis: usize, at: usize| match &axes[axis] {
            Axis::Nearest(nearest) => nearest[at],
            _ => at,
        };
        if self.prepared.resampled() {
            let ranges = &self.prepared.ranges[self.channel];
            match grids.separate {
                None => clip(values, ranges[0]),
                Some(0) => clip(values, ranges[native(0, plane)]),
                Some(1) => {
                    for (row, line) in values.chunks_exact_mut(columns).enumerate() {
                        clip(line, ranges[native(1, row)]);
                    }
                }
                Some(_) => {
                    for line in values.chunks_exact_mut(columns) {
                        for (column, value) in line.iter_mut().enumerate() {
                            clip(std::slice::from_mut(value), ranges[native(2, column)]);
                        }
                    }
                }
            }
        }
        // None yet while they are being measured.
        let normalization = self.prepared.normalizations.get(self.channel);
        if let (Generation::V1, Some(normalization)) = (generation, normalization) {
            let mut inside = vec![true; if self.mask.is_some() { values.len() } else { 0 }];
            mask_plane(self.mask, plane, &mut inside);
            normalization.apply(values, |at| inside.is_empty() || inside[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Geometry, Intensity, Interpolation, Orientation, SeparateAxis};
    use super::*;
    use crate::base::Element;

    /// Values of nnU-Net's own functions (skimage 0.26, scipy 1.17).
    const LINE: [f32; 7] = [0.0, 1.0, 2.0, 3.0, 10.0, -5.0, 7.0];

    /// A line of voxels along an axis, resampled to `output` voxels.
    fn resampled(
        line: &[f32],
        axis: usize,
        output: usize,
        order: u8,
        rule: SeparateAxis,
    ) -> Vec<f32> {
        let (mut dims, mut spacing) = ([1; 3], [1.0; 3]);
        (dims[2 - axis], spacing[2 - axis]) = (line.len(), 4.0);
        let geometry = Geometry::axis_aligned(spacing);
        let view =
            VolumeView::dense(bytemuck::cast_slice(line), Element::F32, dims, 1, geometry).unwrap();
        let how = Interpolation { order, separate_axis: rule };
        let mut wanted = [Some(1.0); 3];
        wanted[axis] = Some(4.0 * line.len() as f64 / output as f64);
        let recipe = Recipe {
            orientation: Orientation::AsStored,
            transpose: [0, 1, 2],
            spacing: wanted,
            generation: Generation::V2,
            image: how,
            scores: how,
            intensity: vec![Intensity::None],
        };
        let pool = Pool::new(2).unwrap();
        let prepared = Preparation::new(&view, &recipe, &pool, None, &mut || Ok(())).unwrap();
        let mut planes = Planes::new(&view, &prepared, None, &pool).unwrap();
        let mut values = Vec::new();
        while let Some(piece) = planes.make().unwrap() {
            values.extend_from_slice(piece.values);
        }
        values
    }

    #[track_caller]
    fn close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    // The volume is cropped to what is not zero first, so lines begin with 1e-9 where nnU-Net's
    // began with 0.
    fn line() -> Vec<f32> {
        let mut line = LINE.to_vec();
        line[0] = 1e-9;
        line
    }

    #[test]
    fn a_line_is_resampled_as_skimage_does_along_every_axis() {
        let four = [0.225_791_267, 1.844_961_751, 10.0, 1.401_766_420];
        let ten = [
            -0.041_395_183,
            0.392_280_726,
            1.429_846_526,
            2.038_164_083,
            1.455_810_152,
            6.738_451_263,
            9.571_491_352,
            -2.566_413_478,
            -1.478_282_040,
            8.187_727_978,
        ]
        .map(|value: f64| value.clamp(-5.0, 10.0));
        for axis in 0..3 {
            for expected in [&four[..], &ten[..]] {
                let found = resampled(&line(), axis, expected.len(), 3, SeparateAxis::Never);
                close(&found, expected);
            }
        }
    }

    #[test]
    fn linear_interpolation_is_skimage_s() {
        let ten = [0.0, 0.55, 1.25, 1.95, 2.65, 5.45, 9.25, -1.25, 0.4, 7.0];
        for axis in 0..3 {
            for expected in [&ten[..], &[0.375, 2.125, 9.125, 2.5]] {
                let found = resampled(&line(), axis, expected.len(), 1, SeparateAxis::Never);
                close(&found, expected);
            }
        }
    }

    #[test]
    fn slices_of_anisotropic_volumes_take_the_nearest_upper_neighbour() {
        for axis in 0..3 {
            let doubled: Vec<f64> = (0..14).map(|voxel| f64::from(LINE[voxel / 2])).collect();
            close(&resampled(&line(), axis, 14, 3, SeparateAxis::Auto), &doubled);
            close(&resampled(&line(), axis, 3, 3, SeparateAxis::Auto), &[1.0, 3.0, -5.0]);
        }
    }

    /// Pieces are cut from long lines without a seam: a long line is the same whichever axis it
    /// lies along, though only the slowest is cut.
    #[test]
    fn pieces_of_the_slowest_axis_join_without_a_seam() {
        let mut state = 1u32;
        let line: Vec<f32> = (0..301)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 1e6 + 1.0
            })
            .collect();
        for output in [97, 300, 302, 733] {
            let whole = resampled(&line, 2, output, 3, SeparateAxis::Never);
            let pieces = resampled(&line, 0, output, 3, SeparateAxis::Never);
            for (a, b) in whole.iter().zip(&pieces) {
                assert!((a - b).abs() <= 2e-6, "{a} is not {b}");
            }
        }
    }
}
