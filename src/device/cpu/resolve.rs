//! Finished planes become classes, first on the network's grid, then on the output grid.
//!
//! Scores between voxels are interpolated linearly. Where one class is the highest at every
//! corner of an interpolation cell, it is the highest inside, so only cells whose corners
//! disagree need their scores computed. The same holds for regions: the last one that is positive
//! at every corner is the last one that is positive inside.

use std::sync::atomic::{AtomicBool, Ordering};

use super::head::Head;
use super::kernels::Kernels;
use super::memory::Shared;
use super::mosaic::{Mosaic, RowScratch, probable};
use super::scores::{ArgmaxRow, ScoreRow, last_above};
use crate::base::error::refill;
use crate::base::{Error, Pool, Result};
use crate::device::{Blend, Decision, SlabOutput};
use crate::window::Slab;

/// What classifying needs besides the mosaic.
struct Scorer<'a> {
    mosaic: &'a Mosaic,
    head: &'a Head,
    kernels: &'a Kernels,
    values: Shared<f32>,
}

impl Scorer<'_> {
    /// The scores of `voxels` voxels whose values lie at `values`, one after the other: computed
    /// into `scores` if the mosaic holds features, or the values themselves if it holds classes.
    ///
    /// # Safety
    /// `values` and `scores` are valid for that many voxels.
    unsafe fn scores(&self, values: *const f32, voxels: usize, scores: *mut f32) -> *const f32 {
        if self.mosaic.job.blend == Blend::Probabilities {
            return values;
        }
        // SAFETY: as the caller promises; a voxel holds the features of all folds.
        unsafe {
            (self.kernels.score_row)(&ScoreRow {
                features: values,
                feature_count: self.mosaic.depth,
                voxels,
                weights: self.head.weights.pointer(),
                bias: self.head.mean_bias.pointer(),
                padded_classes: self.head.padded_classes,
                scores,
            });
        }
        scores
    }

    /// The classes of voxels whose scores lie at `scores`; false if a score is not finite.
    ///
    /// # Safety
    /// `scores` is valid for as many voxels as `classes` holds.
    unsafe fn classify(&self, scores: *const f32, classes: &mut [u16]) -> bool {
        let job = &self.mosaic.job;
        let threshold = if job.blend == Blend::Logits { 0.0 } else { 0.5 };
        let (rows, padded_classes) = (self.head.classes, self.head.padded_classes);
        // SAFETY: as the caller promises.
        unsafe {
            match job.decision {
                Decision::Highest => (self.kernels.argmax_row)(&ArgmaxRow {
                    scores,
                    padded_classes,
                    voxels: classes.len(),
                    classes: classes.as_mut_ptr(),
                }),
                Decision::LastPositive => {
                    let scores = std::slice::from_raw_parts(scores, classes.len() * padded_classes);
                    last_above(scores, rows, padded_classes, threshold, classes)
                }
            }
        }
    }
}

impl Mosaic {
    /// Classifies the planes of `slab` and fills `output`.
    pub(super) fn resolve(
        &mut self,
        slab: &Slab,
        output: &mut SlabOutput,
        head: &Head,
        kernels: &Kernels,
        pool: &Pool,
    ) -> Result<()> {
        let finite = AtomicBool::new(true);
        let values = self.values.shared();
        let classes = Shared(self.classes.as_mut_ptr());
        let scratch = Shared(self.scratch.as_mut_ptr());
        let this = &*self;
        let scorer = Scorer { mosaic: this, head, kernels, values };

        let [_, rows, columns] = this.job.shape;
        let planes = slab.planes.len();
        let wanted = if this.job.scores { head.classes * planes * rows * columns } else { 0 };
        refill("scores of a slab", &mut output.scores, wanted, 0.0)?;
        let scores_out = Shared(output.scores.as_mut_ptr());
        pool.run(planes * rows, &|task, worker| {
            let (plane, row) = (task / rows, task % rows);
            let voxel = this.ring_row(slab.planes.start + plane, row);
            // SAFETY: tasks own rows of the ring and of the output, workers their scratch.
            unsafe {
                let values = values.get().add(voxel * this.depth);
                this.normalize(voxel, values, head);
                let scratch = &mut *scratch.get().add(worker);
                let buffer = scratch.scores.values_mut().as_mut_ptr();
                let scores = scorer.scores(values, columns, buffer);
                let classes = std::slice::from_raw_parts_mut(classes.get().add(voxel), columns);
                if !scorer.classify(scores, classes) {
                    finite.store(false, Ordering::Relaxed);
                }
                if this.job.scores {
                    for class in 0..head.classes {
                        let to =
                            scores_out.get().add(((class * planes + plane) * rows + row) * columns);
                        for x in 0..columns {
                            *to.add(x) = *scores.add(x * head.padded_classes + class);
                        }
                    }
                }
            }
        });
        if !finite.into_inner() {
            return Err(Error::format(
                "the model",
                format!(
                    "its scores in planes {}..{} are not finite; its weights or its normalization \
                     are out of range",
                    slab.planes.start, slab.planes.end
                ),
            ));
        }
        this.interpolate(slab, output, &scorer, pool, scratch)
    }

    /// Divides a row by its sums of weights.
    ///
    /// # Safety
    /// `values` is the ring's at `voxel`, and nobody else uses that row.
    unsafe fn normalize(&self, voxel: usize, values: *mut f32, head: &Head) {
        let folds = match self.job.blend {
            // Features lie side by side, so the mean over folds is taken by the weights.
            Blend::Logits => head.folds as f32,
            Blend::Probabilities => 1.0,
        };
        for (x, sum) in self.weight_sums[voxel..voxel + self.job.shape[2]].iter().enumerate() {
            let share = 1.0 / (sum * folds);
            // SAFETY: as the caller promises.
            let row =
                unsafe { std::slice::from_raw_parts_mut(values.add(x * self.depth), self.depth) };
            row.iter_mut().for_each(|value| *value *= share);
        }
    }

    /// Makes the slab's part of the output grid.
    fn interpolate(
        &self,
        slab: &Slab,
        output: &mut SlabOutput,
        scorer: &Scorer,
        pool: &Pool,
        scratch: Shared<RowScratch>,
    ) -> Result<()> {
        let maps = &self.job.output;
        let [rows, columns] = [maps[1].low.len(), maps[2].low.len()];
        let voxels = slab.output.len() * rows * columns;
        refill("labels of a slab", &mut output.classes, voxels, 0)?;
        let wanted = &self.job.probability_classes;
        let values = wanted.len() * voxels;
        refill("probabilities of a slab", &mut output.probabilities, values, 0.0)?;
        let probabilities = Shared(output.probabilities.as_mut_ptr());
        let lines = output.classes.chunks_mut(columns.max(1)).collect();
        pool.for_each(lines, |line, classes: &mut [u16], worker| {
            let cell = Cell::new(self, slab.output.start + line / rows, line % rows);
            // SAFETY: workers own their scratch memory.
            let scratch = unsafe { &mut *scratch.get().add(worker) };
            for (x, class) in classes.iter_mut().enumerate() {
                match cell.agreed(self, x) {
                    Some(agreed) if wanted.is_empty() => *class = agreed,
                    _ => {
                        let features = &mut scratch.features.values_mut()[..self.depth];
                        // SAFETY: the cell's planes and rows are final and in the ring; the
                        // scratch memory holds a voxel; this task alone writes its outputs.
                        unsafe {
                            cell.interpolate(self, x, scorer.values.get(), features);
                            let buffer = scratch.scores.values_mut().as_mut_ptr();
                            let scores = scorer.scores(features.as_ptr(), 1, buffer);
                            scorer.classify(scores, std::slice::from_mut(class));
                            if wanted.is_empty() {
                                continue;
                            }
                            let probable = if self.job.blend == Blend::Logits {
                                let classes = scorer.head.padded_classes;
                                probable(scorer.kernels, self.job.decision, buffer, 1, classes);
                                buffer.cast_const()
                            } else {
                                scores
                            };
                            for (index, &wanted) in wanted.iter().enumerate() {
                                *probabilities.get().add(index * voxels + line * columns + x) =
                                    *probable.add(wanted);
                            }
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

/// The interpolation cells along one row of the output grid.
struct Cell {
    /// First voxel in the ring of the rows (low, low), (low, high), (high, low), (high, high) of
    /// axes 0 and 1, and their weights.
    rows: [(usize, f32); 4],
}

impl Cell {
    fn new(mosaic: &Mosaic, plane: usize, row: usize) -> Self {
        let [map0, map1, _] = &mosaic.job.output;
        let ends = |map: &crate::volume::AxisMap, at: usize| {
            let fraction = map.fraction[at];
            [(map.low[at] as usize, 1.0 - fraction), (map.high[at] as usize, fraction)]
        };
        let (ends0, ends1) = (ends(map0, plane), ends(map1, row));
        Self {
            rows: std::array::from_fn(|corner| {
                let ((plane, weight0), (row, weight1)) = (ends0[corner / 2], ends1[corner % 2]);
                (mosaic.ring_row(plane, row), weight0 * weight1)
            }),
        }
    }

    /// The class of all eight corners of the cell that column `x` lies in, if it is one.
    fn agreed(&self, mosaic: &Mosaic, x: usize) -> Option<u16> {
        let map = &mosaic.job.output[2];
        let (low, high) = (map.low[x] as usize, map.high[x] as usize);
        let first = mosaic.classes[self.rows[0].0 + low];
        let same =
            |row: usize| mosaic.classes[row + low] == first && mosaic.classes[row + high] == first;
        self.rows.iter().all(|&(row, _)| same(row)).then_some(first)
    }

    /// The mosaic's values at column `x` of the output.
    ///
    /// # Safety
    /// `values` is the mosaic's ring, and nobody writes the cell's rows.
    unsafe fn interpolate(&self, mosaic: &Mosaic, x: usize, values: *const f32, into: &mut [f32]) {
        let map = &mosaic.job.output[2];
        let fraction = map.fraction[x];
        let ends = [(map.low[x] as usize, 1.0 - fraction), (map.high[x] as usize, fraction)];
        into.fill(0.0);
        for &(row, weight) in &self.rows {
            for (column, share) in ends {
                let weight = weight * share;
                // SAFETY: as the caller promises; row and column lie in the ring.
                let from = unsafe {
                    let voxel = values.add((row + column) * mosaic.depth);
                    std::slice::from_raw_parts(voxel, into.len())
                };
                for (sum, value) in into.iter_mut().zip(from) {
                    *sum += weight * value;
                }
            }
        }
    }
}
