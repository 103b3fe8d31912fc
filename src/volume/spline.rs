//! One axis from voxels to voxels: cubic B-splines with the borders of skimage's
//! `resize(order=3, mode="edge")` on scipy's `spline_filter1d`/`zoom`. A line is extended by 12
//! copies of its ends, prefiltered with reflecting borders, and evaluated without clamping.
//! Separable, in double precision. Linear interpolation (order 1) takes the same way, without the
//! prefilter.

use std::ops::Range;

use super::resample::nearest;

/// Copies of the end values on each side of a line.
const EDGE: usize = 12;
/// Lines that are worked on together, so that the arithmetic vectorises.
pub(super) const LANES: usize = 16;
/// Coefficients depend on samples ever farther away by ever smaller shares, `(2 - sqrt 3)^distance`:
/// this far, 2e-14.
const REACH: usize = 24;

/// How an axis goes from `input` to its output voxels.
pub(super) enum Axis {
    /// Voxel by voxel.
    Kept,
    /// The nearest voxel of each.
    Nearest(Vec<usize>),
    /// Interpolated.
    Line(Line),
}

impl Axis {
    /// From `input` to `output` voxels, by nearest neighbour with order 0. An axis that keeps its
    /// voxels is not touched: interpolation at the samples gives the samples.
    pub(super) fn new(input: usize, output: usize, order: u8) -> Self {
        if input == output {
            Self::Kept
        } else if order == 0 {
            Self::Nearest((0..output).map(|voxel| nearest(input, output, voxel)).collect())
        } else {
            Self::Line(Line::new(input, output, order))
        }
    }

    /// The same as sums of neighbours, from `input` to `output` voxels.
    pub(super) fn band(&self, input: usize, output: usize) -> Band {
        match self {
            Self::Kept => Band::of(input, (0..output).map(|voxel| (voxel, vec![1.0])).collect()),
            Self::Nearest(nearest) => {
                Band::of(input, nearest.iter().map(|&voxel| (voxel, vec![1.0])).collect())
            }
            Self::Line(line) => line.band(),
        }
    }
}

/// Where the voxels of one axis come from, as sums of neighbouring input voxels.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// Input voxels.
    pub inputs: usize,
    /// For each output voxel the first of the input voxels it is made from; never decreases.
    pub first: Vec<u32>,
    /// How many it is made from.
    pub taps: usize,
    /// Their weights, `[taps][outputs]`.
    pub weights: Vec<f32>,
}

/// Likewise for a [`Band`], which is single precision: this far, 1e-8.
const BAND_REACH: usize = 14;

impl Band {
    /// The input voxels that `outputs` are made from.
    pub fn needed(&self, outputs: &Range<usize>) -> Range<usize> {
        self.first[outputs.start] as usize..self.first[outputs.end - 1] as usize + self.taps
    }

    /// From each output voxel's first input voxel and the weights from there on.
    fn of(inputs: usize, outputs: Vec<(usize, Vec<f64>)>) -> Self {
        let taps = outputs.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1);
        let count = outputs.len();
        let mut band = Self { inputs, first: Vec::new(), taps, weights: vec![0.0; taps * count] };
        for (output, (first, weights)) in outputs.into_iter().enumerate() {
            // All windows lie inside.
            let start = first.min(inputs - taps);
            band.first.push(start as u32);
            for (tap, weight) in weights.into_iter().enumerate() {
                band.weights[(first - start + tap) * count + output] = weight as f32;
            }
        }
        band
    }
}

/// Interpolation along one axis.
pub(super) struct Line {
    input: usize,
    prefiltered: bool,
    /// For each output voxel the first of four places of the extended line, and their weights.
    taps: Vec<(usize, [f64; 4])>,
}

/// Values of [`LANES`] lines at one place.
pub(super) type Row = [f64; LANES];

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

    /// Places of the extended line that `outputs` are made from, to 2e-14.
    fn window(&self, outputs: &Range<usize>) -> Range<usize> {
        let reach = if self.prefiltered { REACH } else { 0 };
        let first = self.taps[outputs.start].0;
        let last = self.taps[outputs.end - 1].0 + 3;
        first.saturating_sub(reach)..(last + reach + 1).min(self.input + 2 * EDGE)
    }

    /// Input voxels that `outputs` are made from.
    pub(super) fn inputs(&self, outputs: &Range<usize>) -> Range<usize> {
        let window = self.window(outputs);
        self.voxel(window.start)..self.voxel(window.end - 1) + 1
    }

    /// The input voxel at a place of the extended line.
    fn voxel(&self, place: usize) -> usize {
        place.saturating_sub(EDGE).min(self.input - 1)
    }

    /// Makes `outputs` of [`LANES`] lines: `get` reads input voxels, `put(output, values)` takes
    /// the results.
    pub(super) fn run(
        &self,
        outputs: Range<usize>,
        coefficients: &mut Vec<Row>,
        get: impl Fn(usize, &mut Row),
        mut put: impl FnMut(usize, &Row),
    ) {
        let window = self.window(&outputs);
        coefficients.clear();
        coefficients.resize(window.len(), [0.0; LANES]);
        for (place, row) in window.clone().zip(0..) {
            // Beyond the ends are copies.
            if row > 0 && self.voxel(place) == self.voxel(place - 1) {
                coefficients[row] = coefficients[row - 1];
            } else {
                get(self.voxel(place), &mut coefficients[row]);
            }
        }
        if self.prefiltered {
            prefilter(coefficients);
        }
        for output in outputs {
            let (first, weights) = self.taps[output];
            let mut sum = [0.0; LANES];
            for (row, weight) in coefficients[first - window.start..][..4].iter().zip(weights) {
                for (sum, value) in sum.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
            put(output, &sum);
        }
    }

    /// The line's outputs as sums of its inputs. The prefilter is the inverse of a symmetric
    /// matrix, so what each sample contributes to an output is the prefilter of its taps.
    fn band(&self) -> Band {
        let mut outputs = Vec::with_capacity(self.taps.len());
        for (chunk, taps) in self.taps.chunks(LANES).enumerate() {
            let window = self.window(&(chunk * LANES..chunk * LANES + taps.len()));
            let mut shares = vec![[0.0; LANES]; window.len()];
            for (lane, (first, weights)) in taps.iter().enumerate() {
                for (place, weight) in weights.iter().enumerate() {
                    shares[first - window.start + place][lane] = *weight;
                }
            }
            if self.prefiltered {
                prefilter(&mut shares);
            }
            let (taps_each, reach) = if self.prefiltered { (4, BAND_REACH) } else { (2, 0) };
            for (lane, (first, _)) in taps.iter().enumerate() {
                let places = first.saturating_sub(reach).max(window.start)
                    ..(first + taps_each + reach).min(window.end);
                let start = self.voxel(places.start);
                let mut weights = vec![0.0; self.voxel(places.end - 1) + 1 - start];
                for place in places {
                    weights[self.voxel(place) - start] += shares[place - window.start][lane];
                }
                outputs.push((start, weights));
            }
        }
        Band::of(self.input, outputs)
    }

    /// As [`Line::run`], the whole line.
    pub(super) fn run_all(
        &self,
        coefficients: &mut Vec<Row>,
        get: impl Fn(usize, &mut Row),
        put: impl FnMut(usize, &Row),
    ) {
        self.run(0..self.taps.len(), coefficients, get, put);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bands_make_what_lines_make(
            line in proptest::collection::vec(-1000f32..1000.0, 1..90), output in 1usize..150,
            order in prop::sample::select(vec![0u8, 1, 3])
        ) {
            let axis = Axis::new(line.len(), output, order);
            let band = axis.band(line.len(), output);
            prop_assert!(band.first.windows(2).all(|pair| pair[0] <= pair[1]));
            let mut expected = vec![0.0; output];
            match &axis {
                Axis::Kept => expected.copy_from_slice(&line),
                Axis::Nearest(nearest) => {
                    expected.iter_mut().zip(nearest).for_each(|(value, &at)| *value = line[at]);
                }
                Axis::Line(steps) => steps.run_all(
                    &mut Vec::new(),
                    |voxel, values| values.fill(line[voxel].into()),
                    |at, values| expected[at] = values[0] as f32,
                ),
            }
            for (at, expected) in expected.into_iter().enumerate() {
                let needed = band.needed(&(at..at + 1));
                prop_assert!(needed.end <= line.len());
                let weights = band.weights[at..].iter().step_by(output);
                let sum: f32 = line[needed].iter().zip(weights).map(|(v, w)| v * w).sum();
                prop_assert!((sum - expected).abs() < 2e-3, "{} is not {}", sum, expected);
            }
        }
    }
}
