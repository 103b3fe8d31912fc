//! Finished planes become classes, first on the network's grid, then on the output grid.
//!
//! Scores between voxels are interpolated linearly. Where one class is the highest at every
//! corner of an interpolation cell, it is the highest inside, so only cells whose corners
//! disagree need their scores computed. The same holds for regions: the last one that is positive
//! at every corner is the last one that is positive inside.

use std::sync::atomic::{AtomicBool, Ordering};

use super::cells::{CellRow, MIXED, NONE};
use super::head::Head;
use super::kernels::Kernels;
use super::memory::{Buffer, Shared};
use super::mosaic::{Mosaic, RowScratch, SharedSums, probable, side_by_side};
use super::scores::{Side, VOXELS};
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
    /// The scores, `[class]`, of the [`VOXELS`] voxels whose values lie at `voxels`, one voxel
    /// after the other. The buffers are those of a [`RowScratch`].
    ///
    /// # Safety
    /// `voxels` is valid for that many voxels, and nobody writes them.
    unsafe fn scores<'s>(
        &self,
        voxels: *const f32,
        values: &'s mut Buffer,
        scores: &'s mut Buffer,
    ) -> &'s mut [Side] {
        let depth = self.mosaic.depth;
        // SAFETY: as the caller promises; the buffers hold so many voxels, and a voxel the
        // features of all folds; the kernels' instructions are there.
        unsafe {
            side_by_side(self.kernels, voxels, depth, values);
            match self.mosaic.job.blend {
                Blend::Logits => self.head.score(self.kernels, None, values, scores),
                Blend::Probabilities => {
                    &mut bytemuck::cast_slice_mut(values.values_mut())[..self.head.classes]
                }
            }
        }
    }

    /// The classes of voxels with these scores; false if a score is not finite.
    fn classify(&self, scores: &[Side], classes: &mut [u16; VOXELS]) -> bool {
        let job = &self.mosaic.job;
        let threshold = if job.blend == Blend::Logits { 0.0 } else { 0.5 };
        // SAFETY: the kernels' instructions are there.
        unsafe {
            match job.decision {
                Decision::Highest => (self.kernels.highest)(scores, classes),
                Decision::LastPositive => (self.kernels.last_above)(scores, threshold, classes),
            }
        }
    }

    /// Classifies the cells of the columns `open`, at most [`VOXELS`]; their scores, `[class]`.
    ///
    /// # Safety
    /// The cells' planes are final and in the ring; nobody else uses the scratch memory.
    unsafe fn settle<'s>(
        &self,
        cells: &CellRow,
        open: &[usize],
        scratch: &'s mut RowScratch,
        classes: &mut [u16],
    ) -> &'s mut [Side] {
        let RowScratch { voxels, values, scores, sums: copied, .. } = scratch;
        let depth = self.mosaic.depth;
        for (&x, into) in open.iter().zip(voxels.values_mut().chunks_exact_mut(depth)) {
            // SAFETY: as the caller promises; `into` holds a voxel.
            unsafe { cells.interpolate(x, self.sums, self.kernels, copied, into.as_mut_ptr()) };
        }
        // SAFETY: the buffer holds `VOXELS` voxels.
        let scores = unsafe { self.scores(voxels.pointer(), values, scores) };
        let mut found = [0; VOXELS];
        // Interpolated values lie between values whose scores were finite.
        self.classify(scores, &mut found);
        for (&x, class) in open.iter().zip(found) {
            // Others are scored for their probabilities only.
            if classes[x] == MIXED {
                let certain = self.mosaic.any_untouched.then(|| cells.untouched(x)).flatten();
                classes[x] = certain.unwrap_or(class);
            }
        }
        scores
    }

    /// Turns scores into probabilities where they aren't.
    fn probable(&self, scores: &mut [Side]) {
        if self.mosaic.job.blend == Blend::Logits {
            // SAFETY: the kernels' instructions are there.
            unsafe { probable(self.kernels, self.mosaic.job.decision, scores) };
        }
    }
    /// The same for the cells of the columns `open`; where no tile was blended it is certain that
    /// there is background.
    fn probable_in_cells(&self, cells: &CellRow, open: &[usize], scores: &mut [Side]) {
        self.probable(scores);
        if !self.mosaic.any_untouched {
            return;
        }
        for (lane, &x) in open.iter().enumerate() {
            if cells.untouched(x) == Some(0) {
                scores.iter_mut().for_each(|scores| scores[lane] = 0.0);
                if self.mosaic.job.decision == Decision::Highest {
                    scores[0][lane] = 1.0;
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
                let scratch = &mut *scratch.get().add(worker);
                let RowScratch { voxels: last, values, scores, sums: copied, .. } = scratch;
                let (first, length) = (voxel * this.depth, columns * this.depth);
                sums.update(first, length, copied, |values| this.normalize(voxel, values, head));
                let row_values = sums.read(first, length, 0, copied);
                for start in (0..columns).step_by(VOXELS) {
                    let count = VOXELS.min(columns - start);
                    let mut from = row_values.add(start * this.depth);
                    if count < VOXELS {
                        // What lies behind the row is another thread's.
                        let (voxels, beyond) = last.values_mut().split_at_mut(count * this.depth);
                        voxels.copy_from_slice(std::slice::from_raw_parts(from, voxels.len()));
                        beyond.fill(0.0);
                        from = last.pointer();
                    }
                    let scores = scorer.scores(from, values, scores);
                    let mut found = [0; VOXELS];
                    if !scorer.classify(scores, &mut found) {
                        finite.store(false, Ordering::Relaxed);
                    }
                    classes[start..start + count].copy_from_slice(&found[..count]);
                    // SAFETY: `to` has room for the row.
                    let put = |to: *mut f32, scores: &Side| {
                        std::ptr::copy_nonoverlapping(scores.as_ptr(), to.add(start), count);
                    };
                    if this.job.scores {
                        for (class, scores) in scores.iter().enumerate() {
                            let line = (class * planes + plane) * rows + row;
                            put(scores_out.get().add(line * columns), scores);
                        }
                    }
                    if !chosen.is_empty() {
                        scorer.probable(scores);
                    }
                    for (index, class) in chosen.iter().enumerate() {
                        let line = index * voxels + task * columns;
                        put(probabilities.get().add(line), &scores[*class]);
                    }
                }
                for (_, class) in weights.iter().zip(classes).filter(|(sum, _)| **sum == 0.0) {
                    *class = NONE;
                    untouched.store(true, Ordering::Relaxed);
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
            let cells = CellRow::new(self, plane, row);
            cells.agree(&mut scratch.agreed);
            let columns_wanted = region[2].clone();
            // Columns to score: fewer than a vector's, and what one more piece of the row adds.
            let (mut open, mut count) = ([0; 2 * VOXELS], 0);
            for start in columns_wanted.clone().step_by(VOXELS) {
                let end = columns_wanted.end.min(start + VOXELS);
                for (x, class) in (start..end).zip(&mut classes[start..end]) {
                    *class = self.cell_columns.agreed(&scratch.agreed, x);
                    open[count] = x;
                    count += usize::from(*class == MIXED || !wanted.is_empty());
                }
                while count >= VOXELS || (count > 0 && end == columns_wanted.end) {
                    let now = &open[..count.min(VOXELS)];
                    // SAFETY: the cells' planes are final and in the ring; the scratch memory is
                    // this worker's.
                    let scores = unsafe { scorer.settle(&cells, now, scratch, classes) };
                    if !wanted.is_empty() {
                        scorer.probable_in_cells(&cells, now, scores);
                    }
                    for (index, &class) in wanted.iter().enumerate() {
                        let line = index * voxels + line * columns;
                        for (&x, &score) in now.iter().zip(&scores[class]) {
                            // SAFETY: this task alone writes its line.
                            unsafe { *probabilities.get().add(line + x) = score };
                        }
                    }
                    let settled = now.len();
                    open.copy_within(settled..count, 0);
                    count -= settled;
                }
            }
        });
        Ok(())
    }
}
