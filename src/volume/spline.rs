//! Cubic B-spline resampling with the borders of skimage's `resize(order=3, mode="edge")` on
//! scipy's `spline_filter1d`/`zoom`: each line is extended by 12 copies of its ends, prefiltered
//! with reflecting borders, and evaluated without clamping; the result is clipped to the range of
//! the input. Separable: one axis after the other, in double precision. Linear interpolation
//! (order 1) takes the same way, without the prefilter.

use std::ops::Range;

use super::resample::nearest;
use crate::base::error::filled;
use crate::base::{Pool, Result};

/// Copies of the end values on each side of a line.
const EDGE: usize = 12;
/// Lines that are worked on together, so that the arithmetic vectorises.
const LANES: usize = 16;
/// Pieces that the columns of the slowest axis are cut into, so that threads can share them.
const PIECES: usize = 64;

/// One axis from `input` to `output` voxels.
struct Line {
    input: usize,
    prefiltered: bool,
    /// For each output voxel the first of four coefficients, and their weights.
    taps: Vec<(usize, [f64; 4])>,
}

impl Line {
    fn new(input: usize, output: usize, order: u8) -> Self {
        let scale = input as f64 / output as f64;
        let linear = |place: f64| {
            let place = place.clamp(0.0, (input - 1) as f64);
            let t = place - place.floor();
            (place.floor() as usize + EDGE, [1.0 - t, t, 0.0, 0.0])
        };
        let taps = (0..output)
            .map(|voxel| {
                let place = (voxel as f64 + 0.5) * scale - 0.5;
                if order == 1 {
                    return linear(place);
                }
                let place = place + EDGE as f64;
                let (cell, t) = (place.floor(), place - place.floor());
                let u = 1.0 - t;
                let w0 = u * u * u / 6.0;
                let w1 = (3.0 * t * t * (t - 2.0) + 4.0) / 6.0;
                let w2 = (3.0 * u * u * (u - 2.0) + 4.0) / 6.0;
                (cell as usize - 1, [w0, w1, w2, 1.0 - w0 - w1 - w2])
            })
            .collect();
        Self { input, prefiltered: order > 1, taps }
    }

    /// Resamples up to [`LANES`] lines: `get(voxel, lane)` reads, `put(voxel, values)` takes.
    fn run(
        &self,
        lanes: usize,
        coefficients: &mut Vec<[f64; LANES]>,
        get: impl Fn(usize, usize) -> f64,
        mut put: impl FnMut(usize, &[f64; LANES]),
    ) {
        coefficients.clear();
        coefficients.resize(self.input + 2 * EDGE, [0.0; LANES]);
        for (voxel, row) in coefficients[EDGE..EDGE + self.input].iter_mut().enumerate() {
            for (lane, value) in row[..lanes].iter_mut().enumerate() {
                *value = get(voxel, lane);
            }
        }
        let (first, last) = (coefficients[EDGE], coefficients[EDGE + self.input - 1]);
        coefficients[..EDGE].fill(first);
        coefficients[EDGE + self.input..].fill(last);
        if self.prefiltered {
            prefilter(coefficients);
        }
        for (voxel, &(first, weights)) in self.taps.iter().enumerate() {
            let mut sum = [0.0; LANES];
            for (row, weight) in coefficients[first..first + 4].iter().zip(weights) {
                for (sum, value) in sum.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
            put(voxel, &sum);
        }
    }
}

/// From samples to coefficients of cubic B-splines, in place (Unser, "Splines: a perfect fit for
/// signal and image processing", 1999; borders reflect about the outer edge of the last sample).
fn prefilter(rows: &mut [[f64; LANES]]) {
    let pole = 3f64.sqrt() - 2.0;
    let gain = (1.0 - pole) * (1.0 - 1.0 / pole);
    let length = rows.len();
    for row in rows.iter_mut() {
        row.iter_mut().for_each(|value| *value *= gain);
    }
    // The reflected signal repeats after 2 * length samples; its sum begins the recursion.
    let period = pole.powi(length as i32);
    let mut start = [0.0; LANES];
    let mut power = 1.0;
    for index in 0..length {
        if f64::abs(power) < 1e-18 {
            break;
        }
        for lane in 0..LANES {
            start[lane] += power * (rows[index][lane] + period * rows[length - 1 - index][lane]);
        }
        power *= pole;
    }
    let share = pole / (1.0 - period * period);
    for (value, start) in rows[0].iter_mut().zip(start) {
        *value += share * start;
    }
    for index in 1..length {
        let before = rows[index - 1];
        for (value, before) in rows[index].iter_mut().zip(before) {
            *value += pole * before;
        }
    }
    for value in &mut rows[length - 1] {
        *value *= pole / (pole - 1.0);
    }
    for index in (0..length - 1).rev() {
        let after = rows[index + 1];
        for (value, after) in rows[index].iter_mut().zip(after) {
            *value = pole * (after - *value);
        }
    }
}

/// Resamples one axis; `finish(outer index, value)` makes an output value. Arrays are
/// `[outer][axis][inner]`.
fn resample_axis<I, O>(
    input: &[I],
    shape: [usize; 3],
    axis: usize,
    output: usize,
    order: u8,
    pool: &Pool,
    finish: impl Fn(usize, f64) -> O + Sync,
) -> Result<Vec<O>>
where
    I: Copy + Into<f64> + Sync,
    O: Copy + Default + Send + Sync,
{
    let line = Line::new(shape[axis], output, order);
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis + 1..].iter().product();
    let length = shape[axis];
    let mut result = filled("resampled volume", outer * output * inner, O::default())?;
    if inner == 1 {
        // Lines lie one after the other.
        let groups = result.chunks_mut(LANES * output).collect();
        pool.for_each(groups, |group, lines: &mut [O], _| {
            let first = group * LANES;
            let get = |voxel: usize, lane: usize| input[(first + lane) * length + voxel].into();
            line.run(lines.len() / output, &mut Vec::new(), get, |voxel, values| {
                for (lane, place) in lines[voxel..].iter_mut().step_by(output).enumerate() {
                    *place = finish(first + lane, values[lane]);
                }
            });
        });
        return Ok(result);
    }
    let compute = |outer: usize, range: Range<usize>, into: &mut [O]| {
        let (mut coefficients, width) = (Vec::new(), range.len());
        for start in range.clone().step_by(LANES) {
            let lanes = LANES.min(range.end - start);
            let get = |voxel: usize, lane: usize| {
                input[(outer * length + voxel) * inner + start + lane].into()
            };
            line.run(lanes, &mut coefficients, get, |voxel, values| {
                let at = voxel * width + start - range.start;
                for (place, &value) in into[at..at + lanes].iter_mut().zip(values) {
                    *place = finish(outer, value);
                }
            });
        }
    };
    if outer > 1 {
        let planes = result.chunks_mut(output * inner).collect();
        pool.for_each(planes, |outer, plane: &mut [O], _| compute(outer, 0..inner, plane));
        return Ok(result);
    }
    // The slowest axis: columns are computed apart, then copied to their places.
    let width = inner.div_ceil(PIECES).next_multiple_of(LANES);
    let ranges: Vec<_> =
        (0..inner).step_by(width).map(|start| start..inner.min(start + width)).collect();
    let mut pieces = Vec::with_capacity(ranges.len());
    for range in &ranges {
        pieces.push(filled("resampled volume", output * range.len(), O::default())?);
    }
    pool.for_each(pieces.iter_mut().collect(), |piece, values, _| {
        compute(0, ranges[piece].clone(), values);
    });
    let planes = result.chunks_mut(inner).collect();
    pool.for_each(planes, |voxel, plane: &mut [O], _| {
        for (range, values) in ranges.iter().zip(&pieces) {
            let width = range.len();
            plane[range.clone()].copy_from_slice(&values[voxel * width..][..width]);
        }
    });
    Ok(result)
}

/// Resamples one channel, `[shape0][shape1][shape2]`, from `shape` to `target`: nnU-Net's
/// `resample_data_or_seg` with order 1 or 3, and order 0 along the axis `separate`.
///
/// # Errors
/// [`crate::Error::Memory`] if the machine has no room for it.
pub(super) fn resample(
    input: &[f32],
    shape: [usize; 3],
    target: [usize; 3],
    order: u8,
    separate: Option<usize>,
    pool: &Pool,
) -> Result<Vec<f32>> {
    match separate {
        None => volume(input, shape, target, order, pool),
        Some(axis) => slices(input, shape, target, order, axis, pool),
    }
}

fn range_of(values: impl Iterator<Item = f32>) -> (f64, f64) {
    let (low, high) =
        values.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    (f64::from(low), f64::from(high))
}

/// All three axes, clipped to the volume's range.
fn volume(
    input: &[f32],
    shape: [usize; 3],
    target: [usize; 3],
    order: u8,
    pool: &Pool,
) -> Result<Vec<f32>> {
    let (low, high) = range_of(input.iter().copied());
    let plain = |_, value| value;
    let [n0, n1, _] = shape;
    let [m0, m1, m2] = target;
    let lines = resample_axis(input, shape, 2, m2, order, pool, plain)?;
    let planes = resample_axis(&lines, [n0, n1, m2], 1, m1, order, pool, plain)?;
    drop(lines);
    let clipped = |_, value: f64| value.clamp(low, high) as f32;
    resample_axis(&planes, [n0, m1, m2], 0, m0, order, pool, clipped)
}

/// The two axes of each slice, clipped to the slice's range, then the nearest slice.
fn slices(
    input: &[f32],
    shape: [usize; 3],
    target: [usize; 3],
    order: u8,
    axis: usize,
    pool: &Pool,
) -> Result<Vec<f32>> {
    let voxels = |shape: [usize; 3]| {
        let [n0, n1, n2] = shape;
        (0..n0 * n1 * n2).map(move |v| [v / n2 / n1, v / n2 % n1, v % n2])
    };
    let mut ranges = vec![(f64::INFINITY, f64::NEG_INFINITY); shape[axis]];
    for (place, &value) in voxels(shape).zip(input) {
        let (low, high) = &mut ranges[place[axis]];
        *low = low.min(f64::from(value));
        *high = high.max(f64::from(value));
    }
    let mut now = shape;
    let mut values: Vec<f64> = filled("resampled volume", 0, 0.0)?;
    for plane_axis in (0..3).rev().filter(|&other| other != axis) {
        let output = target[plane_axis];
        values = if values.is_empty() {
            resample_axis(input, now, plane_axis, output, order, pool, |_, value| value)?
        } else {
            resample_axis(&values, now, plane_axis, output, order, pool, |_, value| value)?
        };
        now[plane_axis] = output;
    }
    let mut result = filled("resampled volume", target.iter().product(), 0.0)?;
    for (place, value) in voxels(target).zip(&mut result) {
        let mut from = place;
        from[axis] = nearest(shape[axis], target[axis], place[axis]);
        let (low, high) = ranges[from[axis]];
        let at = (from[0] * now[1] + from[1]) * now[2] + from[2];
        *value = values[at].clamp(low, high) as f32;
    }
    Ok(result)
}

/// Bytes that [`resample`] allocates at its peak, its result included.
pub(super) fn bytes(shape: [usize; 3], target: [usize; 3], separate: Option<usize>) -> u64 {
    let voxels = |shape: [usize; 3]| shape.iter().map(|&extent| extent as u64).product::<u64>();
    let (mut now, mut before, mut peak) = (shape, 0, 0);
    for axis in (0..3).rev().filter(|&axis| separate != Some(axis)) {
        now[axis] = target[axis];
        // The source lives while an axis is resampled; the slowest one is put together from
        // pieces. The last of three axes gives single precision.
        let element = if separate.is_none() && axis == 0 { 4 } else { 8 };
        let after = element * voxels(now);
        let pieces = if axis == 0 { after } else { 0 };
        peak = peak.max(before + after + pieces);
        before = after;
    }
    match separate {
        None => peak,
        Some(_) => peak.max(before + 4 * voxels(target)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of nnU-Net's own functions (skimage 0.26, scipy 1.17).
    const LINE: [f32; 7] = [0.0, 1.0, 2.0, 3.0, 10.0, -5.0, 7.0];

    fn close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    #[test]
    fn a_line_is_resampled_as_skimage_does_along_every_axis() {
        let pool = Pool::new(2).unwrap();
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
                let (mut shape, mut target) = ([1; 3], [1; 3]);
                (shape[axis], target[axis]) = (7, expected.len());
                close(&volume(&LINE, shape, target, 3, &pool).unwrap(), expected);
            }
        }
    }

    #[test]
    fn linear_interpolation_is_skimage_s() {
        let pool = Pool::new(1).unwrap();
        let ten = [0.0, 0.55, 1.25, 1.95, 2.65, 5.45, 9.25, -1.25, 0.4, 7.0];
        for axis in 0..3 {
            for expected in [&ten[..], &[0.375, 2.125, 9.125, 2.5]] {
                let (mut shape, mut target) = ([1; 3], [1; 3]);
                (shape[axis], target[axis]) = (7, expected.len());
                close(&volume(&LINE, shape, target, 1, &pool).unwrap(), expected);
            }
        }
    }

    #[test]
    fn slices_of_anisotropic_volumes_take_the_nearest_upper_neighbour() {
        let pool = Pool::new(2).unwrap();
        for axis in 0..3 {
            let (mut shape, mut target) = ([1; 3], [1; 3]);
            (shape[axis], target[axis]) = (7, 14);
            let doubled: Vec<f64> = (0..14).map(|voxel| f64::from(LINE[voxel / 2])).collect();
            close(&slices(&LINE, shape, target, 3, axis, &pool).unwrap(), &doubled);
            target[axis] = 3;
            close(&slices(&LINE, shape, target, 3, axis, &pool).unwrap(), &[1.0, 3.0, -5.0]);
        }
    }
}
