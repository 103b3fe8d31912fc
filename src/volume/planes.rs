//! Planes in memory: reading them from the caller's volume, and resampling their two axes.

use super::crop::read_line;
use super::intensity::Normalization;
use super::mask::{Mask, bit};
use super::spline::{Axis, LANES, Line, Row};
use super::{Placement, VolumeView};

/// Planes of the caller's volume along the network's axes, cropped.
pub(super) struct Source<'a> {
    pub(super) view: &'a VolumeView<'a>,
    pub(super) placement: &'a Placement,
    pub(super) mask: Option<&'a Mask>,
}

impl Source<'_> {
    /// Reads a plane of a channel, normalised if asked.
    pub(super) fn read(
        &self,
        channel: usize,
        plane: usize,
        normalization: Option<&Normalization>,
        into: &mut [f32],
    ) {
        let [_, _, columns] = self.placement.shape();
        for (row, line) in into.chunks_exact_mut(columns).enumerate() {
            read_line(self.view, self.placement, channel, plane, row, line);
            if let Some(normalization) = normalization {
                let mask = self.mask.map(|mask| mask.row(plane, row));
                normalization.apply(line, |column| mask.is_none_or(|mask| bit(mask, column)));
            }
        }
    }
}

/// Memory of one thread for a plane on its way.
#[derive(Default)]
pub(super) struct PlaneScratch {
    /// `[rows][columns]` as read.
    pub(super) plane: Vec<f32>,
    /// `[rows][output columns]`
    lines: Vec<f64>,
    coefficients: Vec<Row>,
}

impl PlaneScratch {
    /// Bytes of one thread for planes of `from` voxels on the way to `to`.
    pub(super) fn bytes(from: [usize; 2], to: [usize; 2]) -> u64 {
        let line = (from[0].max(from[1]) + 64) * size_of::<Row>();
        (4 * from[0] * from[1] + 8 * from[0] * to[1] + line) as u64
    }

    /// Resamples the plane in `self.plane`, of `from` voxels, along both axes into `into`.
    pub(super) fn resample(
        &mut self,
        from: [usize; 2],
        to: [usize; 2],
        axes: [&Axis; 2],
        into: &mut [f64],
    ) {
        let plane = &self.plane;
        self.lines.clear();
        self.lines.resize(from[0] * to[1], 0.0);
        match axes[1] {
            Axis::Kept => {
                for (value, &read) in self.lines.iter_mut().zip(plane) {
                    *value = f64::from(read);
                }
            }
            Axis::Nearest(nearest) => {
                let rows = self.lines.chunks_exact_mut(to[1]).zip(plane.chunks_exact(from[1]));
                for (line, row) in rows {
                    for (value, &column) in line.iter_mut().zip(nearest) {
                        *value = f64::from(row[column]);
                    }
                }
            }
            Axis::Line(line) => {
                let groups = self.lines.chunks_mut(LANES * to[1]);
                for (lines, rows) in groups.zip(plane.chunks(LANES * from[1])) {
                    let get = |column: usize, values: &mut Row| {
                        let column = rows[column..].iter().step_by(from[1]);
                        for (value, &read) in values.iter_mut().zip(column) {
                            *value = f64::from(read);
                        }
                    };
                    line.run_all(&mut self.coefficients, get, |column, values| {
                        let places = lines[column..].iter_mut().step_by(to[1]);
                        for (place, &value) in places.zip(values) {
                            *place = value;
                        }
                    });
                }
            }
        }
        let lines = &self.lines;
        match axes[0] {
            Axis::Kept => into.copy_from_slice(lines),
            Axis::Nearest(nearest) => {
                for (row, &from) in into.chunks_exact_mut(to[1]).zip(nearest) {
                    row.copy_from_slice(&lines[from * to[1]..][..to[1]]);
                }
            }
            Axis::Line(line) => columns(line, lines, to[1], &mut self.coefficients, into),
        }
    }
}

/// Resamples the columns of `[rows][width]`.
fn columns(line: &Line, from: &[f64], width: usize, coefficients: &mut Vec<Row>, into: &mut [f64]) {
    for start in (0..width).step_by(LANES) {
        let count = LANES.min(width - start);
        let get = |row: usize, values: &mut Row| {
            values[..count].copy_from_slice(&from[row * width + start..][..count]);
        };
        line.run_all(coefficients, get, |row, values| {
            into[row * width + start..][..count].copy_from_slice(&values[..count]);
        });
    }
}
