//! Keeps what a run shows on its way.

use std::ops::Range;

use voxtile::session::{Observer, ProbabilityBox};

#[derive(Default)]
pub struct Recorder {
    /// `[channels][shape0][shape1][shape2]`
    pub preprocessed: Vec<f32>,
    pub shape: [usize; 3],
    /// `[classes][shape0][shape1][shape2]`, with `RunOptions::scores`
    pub scores: Vec<f32>,
    /// `[wanted labels][grid0][grid1][grid2]`, with `RunOptions::probabilities`
    pub probabilities: Vec<f32>,
}

impl Observer for Recorder {
    fn preprocessed(
        &mut self,
        _: usize,
        values: &[f32],
        channels: usize,
        planes: Range<usize>,
        shape: [usize; 3],
    ) -> voxtile::Result<()> {
        if planes.start == 0 {
            self.preprocessed.clear();
        }
        place(&mut self.preprocessed, values, channels, planes, shape);
        self.shape = shape;
        Ok(())
    }

    fn scores(
        &mut self,
        _: usize,
        scores: &[f32],
        classes: usize,
        planes: Range<usize>,
        shape: [usize; 3],
    ) -> voxtile::Result<()> {
        place(&mut self.scores, scores, classes, planes, shape);
        Ok(())
    }

    fn probabilities(&mut self, found: &ProbabilityBox) -> voxtile::Result<()> {
        let grid: usize = found.grid.iter().product();
        let last = found.labels.iter().max().map_or(0, |last| last + 1);
        if self.probabilities.len() < last * grid {
            self.probabilities.resize(last * grid, f32::NAN);
        }
        let mut values = found.values.iter();
        for &label in found.labels {
            for a in found.range[0].clone() {
                for b in found.range[1].clone() {
                    for c in found.range[2].clone() {
                        let at = (a * found.grid[1] + b) * found.grid[2] + c;
                        let place = &mut self.probabilities[label * grid + at];
                        assert!(place.is_nan(), "voxel {at} of label {label} came twice");
                        *place = *values.next().unwrap();
                    }
                }
            }
        }
        assert!(values.next().is_none());
        Ok(())
    }
}

/// Puts planes of a tensor of `channels` and `shape` at their place.
fn place(
    tensor: &mut Vec<f32>,
    values: &[f32],
    channels: usize,
    planes: Range<usize>,
    [depth, height, width]: [usize; 3],
) {
    let plane = height * width;
    tensor.resize(channels * depth * plane, f32::NAN);
    for (channel, values) in values.chunks_exact(planes.len() * plane).enumerate() {
        let place = (channel * depth + planes.start) * plane;
        tensor[place..place + values.len()].copy_from_slice(values);
    }
}
