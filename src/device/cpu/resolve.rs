//! Finished planes become classes, first on the network's grid, then on the output grid.
//!
//! Scores between voxels are interpolated linearly. Where one class is the highest at every
//! corner of an interpolation cell, it is the highest inside, so only cells whose corners
//! disagree need their scores computed. The same holds for regions: the last one that is positive
//! at every corner is the last one that is positive inside.

use std::sync::atomic::{AtomicBool, Ordering};

use super::cells::{CellRow, NONE};
use super::head::Head;
use super::kernels::Kernels;
use super::memory::Shared;
use super::mosaic::{Mosaic, RowScratch, SharedSums, probable};
use super::scores::{ArgmaxRow, ScoreRow, last_above};
use crate::base::error::{refill, resize};
use crate::base::{Pool, Result};
use crate::device::{Blend, Decision, SlabOutput, not_finite};
use crate::window::Slab;

/// What classifying needs besides the mosaic.
struct Scorer<'a> {
    mosaic: &'a Mosaic,
    head: &'a Head,
    kernels: &'a Kernels,
    sums: SharedSums,
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
        let (finite, untouched) = (AtomicBool::new(true), AtomicBool::new(false));
        // Planes that no tile touched may hold what was there before.
        self.clear_until(slab.planes.end);
        let sums = self.sums.shared();
        let classes = Shared(self.classes.as_mut_ptr());
        let scratch = Shared(self.scratch.as_mut_ptr());
        let this = &*self;
        let scorer = Scorer { mosaic: this, head, kernels, sums };

        let [_, rows, columns] = this.job.shape;
        let planes = slab.planes.len();
        let wanted = if this.job.scores { head.classes * planes * rows * columns } else { 0 };
        refill("scores of a slab", &mut output.scores, wanted, 0.0)?;
        let scores_out = Shared(output.scores.as_mut_ptr());
        let chosen = match this.job.network_probabilities {
            true => this.job.probability_classes.as_slice(),
            false => &[],
        };
        let voxels = planes * rows * columns;
        let values = chosen.len() * voxels;
        refill("probabilities of a slab", &mut output.probabilities, values, 0.0)?;
        let probabilities = Shared(output.probabilities.as_mut_ptr());
        pool.run(planes * rows, &|task, worker| {
            let (plane, row) = (task / rows, task % rows);
            let voxel = this.ring_row(slab.planes.start + plane, row);
            let weights = &this.weight_sums[voxel..voxel + columns];
            let class_row = this.class_row(slab.planes.start + plane, row);
            // SAFETY: tasks own rows of the ring and of the output, workers their scratch.
            unsafe {
                let classes = std::slice::from_raw_parts_mut(classes.get().add(class_row), columns);
                let shown = this.job.scores || !chosen.is_empty();
                if !shown && weights.iter().all(|&weight| weight == 0.0) {
                    classes.fill(NONE);
                    untouched.store(true, Ordering::Relaxed);
                    return;
                }
                let RowScratch { scores, sums: rounded, .. } = &mut *scratch.get().add(worker);
                let (first, count) = (voxel * this.depth, columns * this.depth);
                sums.update(first, count, rounded, |values| this.normalize(voxel, values, head));
                let values = sums.read(first, count, 0, rounded);
                let buffer = scores.values_mut().as_mut_ptr();
                let scores = scorer.scores(values, columns, buffer);
                if !scorer.classify(scores, classes) {
                    finite.store(false, Ordering::Relaxed);
                }
                for (_, class) in weights.iter().zip(classes).filter(|(sum, _)| **sum == 0.0) {
                    *class = NONE;
                    untouched.store(true, Ordering::Relaxed);
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
                if !chosen.is_empty() && this.job.blend == Blend::Logits {
                    probable(kernels, this.job.decision, buffer, columns, head.padded_classes);
                }
                for (index, class) in chosen.iter().enumerate() {
                    let to = probabilities.get().add(index * voxels + task * columns);
                    for x in 0..columns {
                        *to.add(x) = *scores.add(x * head.padded_classes + class);
                    }
                }
            }
        });
        self.any_untouched |= untouched.into_inner();
        if !finite.into_inner() {
            return Err(not_finite(&slab.planes));
        }
        let this = &*self;
        let scorer = Scorer { mosaic: this, head, kernels, sums };
        this.interpolate(slab, output, &scorer, pool, scratch)
    }

    /// Divides a row by its sums of weights; zeros where no tile was blended.
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
            let share = if *sum > 0.0 { 1.0 / (sum * folds) } else { 0.0 };
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
        let region = &self.job.region;
        let whole = [slab.output.clone(), 0..rows, 0..columns]
            .iter()
            .zip(region)
            .all(|(all, wanted)| wanted.start <= all.start && all.end <= wanted.end);
        // Where everything is wanted, everything is written.
        if !whole {
            output.classes.clear();
        }
        resize("labels of a slab", &mut output.classes, voxels, 0)?;
        let wanted = match self.job.network_probabilities {
            true => &[],
            false => self.job.probability_classes.as_slice(),
        };
        if !wanted.is_empty() {
            if !whole {
                output.probabilities.clear();
            }
            let values = wanted.len() * voxels;
            resize("probabilities of a slab", &mut output.probabilities, values, 0.0)?;
        }
        let probabilities = Shared(output.probabilities.as_mut_ptr());
        let lines = output.classes.chunks_mut(columns.max(1)).collect();
        pool.for_each(lines, |line, classes: &mut [u16], worker| {
            let (plane, row) = (slab.output.start + line / rows, line % rows);
            if !region[0].contains(&plane) || !region[1].contains(&row) {
                return;
            }
            // SAFETY: workers own their scratch memory.
            let scratch = unsafe { &mut *scratch.get().add(worker) };
            let cells = CellRow::new(self, plane, row, &mut scratch.agreed);
            let most = self.job.shape[2];
            scratch.open.clear();
            for x in region[2].clone() {
                match cells.agreed(&scratch.agreed, x) {
                    Some(class) if wanted.is_empty() => classes[x] = class,
                    _ => scratch.open.push(x as u32),
                }
                if scratch.open.len() < most && x + 1 < region[2].end {
                    continue;
                }
                let count = scratch.open.len();
                let features = scratch.features.values_mut();
                for (&x, features) in scratch.open.iter().zip(features.chunks_exact_mut(self.depth))
                {
                    // SAFETY: the cell's planes and rows are final and in the ring, and the
                    // scratch memory holds a voxel.
                    unsafe {
                        let (sums, into) = (&mut scratch.sums, features.as_mut_ptr());
                        cells.interpolate(x as usize, scorer.sums, scorer.kernels, sums, into);
                    }
                }
                let found = &mut scratch.classes[..count];
                // SAFETY: the scratch memory holds as many voxels as are open.
                let scores = unsafe {
                    let buffer = scratch.scores.values_mut().as_mut_ptr();
                    let scores = scorer.scores(features.as_ptr(), count, buffer);
                    scorer.classify(scores, found);
                    if !wanted.is_empty() && self.job.blend == Blend::Logits {
                        let padded_classes = scorer.head.padded_classes;
                        let kernels = scorer.kernels;
                        probable(kernels, self.job.decision, buffer, count, padded_classes);
                    }
                    scores
                };
                for (&x, &class) in scratch.open.iter().zip(&*found) {
                    let certain = self.any_untouched.then(|| cells.untouched(x as usize)).flatten();
                    classes[x as usize] = certain.unwrap_or(class);
                }
                for (index, &wanted) in wanted.iter().enumerate() {
                    let line = index * voxels + line * columns;
                    for (number, &x) in scratch.open.iter().enumerate() {
                        // SAFETY: this task alone writes its line.
                        unsafe {
                            *probabilities.get().add(line + x as usize) =
                                *scores.add(number * scorer.head.padded_classes + wanted);
                        }
                    }
                }
                if !wanted.is_empty() && self.any_untouched {
                    for &x in &scratch.open {
                        if cells.untouched(x as usize) != Some(0) {
                            continue;
                        }
                        for (index, &wanted) in wanted.iter().enumerate() {
                            let background = self.job.decision == Decision::Highest && wanted == 0;
                            let place = index * voxels + line * columns + x as usize;
                            // SAFETY: this task alone writes its line.
                            unsafe {
                                *probabilities.get().add(place) = f32::from(u8::from(background));
                            }
                        }
                    }
                }
                scratch.open.clear();
            }
        });
        Ok(())
    }
}
