//! Where tiles are blended: a ring of planes, as thick as the tiles that overlap need.
//!
//! With [`Blend::Logits`] a voxel holds the features below the head, of every fold; the head is
//! linear, so it commutes with the weighted mean and runs once per voxel instead of once per
//! tile. With [`Blend::Probabilities`] a voxel holds the classes' probabilities.

use super::forward::Forward;
use super::head::Head;
use super::kernels::Kernels;
use super::memory::{BLOCK, Buffer, Shared};
use super::scores::{BlendRow, ScoreRow, sigmoid};
use crate::base::error::filled;
use crate::base::{Pool, Result};
use crate::device::{Blend, Decision, Job, JobSize};
use crate::window::Tile;

/// Memory of one thread.
pub(super) struct RowScratch {
    /// `[voxel][features]`
    pub(super) features: Buffer,
    /// `[voxel][padded classes]`
    pub(super) scores: Buffer,
}

/// The state of a run.
pub(super) struct Mosaic {
    pub(super) job: Job,
    /// Values of a voxel, a multiple of 16.
    pub(super) depth: usize,
    /// `[plane % ring planes][shape1][shape2][depth]`
    pub(super) values: Buffer,
    /// Sum of the window's weights, `[plane % ring planes][shape1][shape2]`.
    pub(super) weight_sums: Vec<f32>,
    /// Class of each voxel that is final, `[plane % ring planes][shape1][shape2]`.
    pub(super) classes: Vec<u16>,
    pub(super) scratch: Vec<RowScratch>,
    /// Planes before this one have been cleared and may hold something.
    begun: usize,
}

/// Values of a mosaic's voxel.
pub(super) fn depth(blend: Blend, head: &Head) -> usize {
    depth_of(blend, head.features, head.folds, head.padded_classes)
}

fn depth_of(blend: Blend, features: usize, folds: usize, padded_classes: usize) -> usize {
    match blend {
        Blend::Logits => features * folds,
        Blend::Probabilities => padded_classes,
    }
}

/// Values of a thread's features and scores.
fn scratch_values(
    head: [usize; 3],
    blend: Blend,
    patch2: usize,
    shape2: usize,
    output2: usize,
) -> [usize; 2] {
    let [features, folds, padded_classes] = head;
    let voxels = patch2.max(shape2).max(output2);
    [
        voxels * depth_of(blend, features, folds, padded_classes).max(features),
        voxels * padded_classes,
    ]
}

/// Bytes of a run with these sizes, the volume included.
pub(super) fn bytes(size: &JobSize, head: [usize; 3], patch: [usize; 3], threads: usize) -> u64 {
    let plane = (size.shape[1] * size.shape[2]) as u64;
    let depth = depth_of(size.blend, head[0], head[1], head[2]) as u64;
    let scratch = scratch_values(head, size.blend, patch[2], size.shape[2], size.output[2]);
    let volume = 4 * size.channels as u64 * plane * size.shape[0] as u64;
    let window = 4 * patch.iter().product::<usize>() as u64;
    let ring = size.ring_planes as u64 * plane * (4 * depth + 4 + 2);
    volume + window + ring + 4 * (threads * (scratch[0] + scratch[1])) as u64
}

impl Mosaic {
    pub(super) fn new(job: Job, head: &Head, patch: [usize; 3], threads: usize) -> Result<Self> {
        let depth = depth(job.blend, head);
        let voxels = job.ring_planes * job.shape[1] * job.shape[2];
        let sizes = scratch_values(
            [head.features, head.folds, head.padded_classes],
            job.blend,
            patch[2],
            job.shape[2],
            job.output[2].low.len(),
        );
        let row = |_| {
            Ok(RowScratch {
                features: Buffer::zeroed("scratch memory of a thread", sizes[0])?,
                scores: Buffer::zeroed("scratch memory of a thread", sizes[1])?,
            })
        };
        Ok(Self {
            depth,
            values: Buffer::zeroed("mosaic", voxels * depth)?,
            weight_sums: filled("mosaic", voxels, 0.0)?,
            classes: filled("mosaic", voxels, 0)?,
            scratch: (0..threads).map(row).collect::<Result<_>>()?,
            begun: 0,
            job,
        })
    }

    /// Voxel of the ring at which a row of the volume begins.
    pub(super) fn ring_row(&self, plane: usize, row: usize) -> usize {
        ((plane % self.job.ring_planes) * self.job.shape[1] + row) * self.job.shape[2]
    }

    /// Copies a tile out of the volume into the network's input.
    pub(super) fn gather(
        &self,
        tile: &Tile,
        mirror: [bool; 3],
        patch: [usize; 3],
        input: &mut [f32],
        pool: &Pool,
    ) {
        let job = &self.job;
        let inside = |axis: usize, at: usize| {
            let at = if mirror[axis] { patch[axis] - 1 - at } else { at };
            (tile.start[axis] + at)
                .checked_sub(job.pad_before[axis])
                .filter(|&voxel| voxel < job.shape[axis])
        };
        let plane = patch[1] * patch[2];
        let planes = input.len() / plane;
        let input = Shared(input.as_mut_ptr());
        pool.run(planes, &|index, _| {
            // SAFETY: tasks own planes of the input.
            let plane =
                unsafe { std::slice::from_raw_parts_mut(input.get().add(index * plane), plane) };
            let (channel, at) = (index / patch[0], index % patch[0]);
            for (at1, line) in plane.chunks_exact_mut(patch[2]).enumerate() {
                let (Some(z), Some(y)) = (inside(0, at), inside(1, at1)) else {
                    line.fill(0.0);
                    continue;
                };
                let row = ((channel * job.shape[0] + z) * job.shape[1] + y) * job.shape[2];
                let row = &job.volume[row..row + job.shape[2]];
                for (at2, value) in line.iter_mut().enumerate() {
                    *value = inside(2, at2).map_or(0.0, |x| row[x]);
                }
            }
        });
    }

    /// Adds the features of one pass, weighted, at the tile's place.
    pub(super) fn blend(
        &mut self,
        tile: &Tile,
        mirror: [bool; 3],
        fold: usize,
        forward: &Forward,
        kernels: &Kernels,
        pool: &Pool,
    ) {
        let (features, head, patch) = (forward.output(), &forward.head, forward.patch());
        // The part of the tile that lies in the volume, in voxels of the volume.
        let inside: [std::ops::Range<usize>; 3] = std::array::from_fn(|axis| {
            let start = tile.start[axis].max(self.job.pad_before[axis]) - self.job.pad_before[axis];
            let end = tile.start[axis] + patch[axis];
            start..end.saturating_sub(self.job.pad_before[axis]).min(self.job.shape[axis])
        });
        self.clear_until(inside[0].end);
        let by_class = self.job.blend == Blend::Probabilities;
        // Each fold has features of its own, but classes are shared.
        let counts_weight = by_class || fold == 0;
        let values = self.values.shared();
        let weight_sums = Shared(self.weight_sums.as_mut_ptr());
        let scratch = Shared(self.scratch.as_mut_ptr());
        let this = &*self;
        let rows = inside[1].len();
        let block = patch.iter().product::<usize>() * BLOCK;
        pool.run(inside[0].len() * rows, &|task, worker| {
            let (z, y) = (inside[0].start + task / rows, inside[1].start + task % rows);
            let in_tile = |axis: usize, voxel: usize| {
                let at = voxel + this.job.pad_before[axis] - tile.start[axis];
                let network = if mirror[axis] { patch[axis] - 1 - at } else { at };
                (at, network)
            };
            let ((z_at, z_net), (y_at, y_net)) = (in_tile(0, z), in_tile(1, y));
            let (x_at, x_net) = in_tile(2, inside[2].start);
            let count = inside[2].len();
            let window = &this.job.window[(z_at * patch[1] + y_at) * patch[2] + x_at..][..count];
            let from = ((z_net * patch[1] + y_net) * patch[2] + x_net) * BLOCK;
            let from_step = if mirror[2] { -(BLOCK as isize) } else { BLOCK as isize };
            let voxel = this.ring_row(z, y) + inside[2].start;
            // SAFETY: tasks own rows of the ring and workers their scratch memory; the row's
            // voxels lie in the tile and in the volume, by `inside`.
            unsafe {
                let sums = weight_sums.get().add(voxel);
                if counts_weight {
                    for (x, weight) in window.iter().enumerate() {
                        *sums.add(x) += weight;
                    }
                }
                let to = values.get().add(voxel * this.depth);
                let mut row = BlendRow {
                    from: features.as_ptr().add(from),
                    from_step,
                    from_block: block,
                    blocks: head.features / BLOCK,
                    to: to.add(fold * head.features),
                    to_step: this.depth,
                    window: window.as_ptr(),
                    count,
                };
                if by_class {
                    let scratch = &mut *scratch.get().add(worker);
                    let decision = this.job.decision;
                    let scores = probabilities(&row, head, fold, scratch, kernels, decision);
                    row = BlendRow {
                        from: scores,
                        from_step: head.padded_classes as isize,
                        from_block: BLOCK,
                        blocks: head.padded_classes / BLOCK,
                        to,
                        ..row
                    };
                }
                (kernels.blend_row)(&row);
            }
        });
    }

    /// Clears planes that are touched for the first time; their slots of the ring are free.
    fn clear_until(&mut self, end: usize) {
        let plane = self.job.shape[1] * self.job.shape[2];
        for index in self.begun..end {
            let first = self.ring_row(index, 0);
            self.weight_sums[first..first + plane].fill(0.0);
            let values = first * self.depth..(first + plane) * self.depth;
            self.values.values_mut()[values].fill(0.0);
        }
        self.begun = self.begun.max(end);
    }
}

/// The class probabilities of a row's voxels, `[voxel][padded classes]`.
///
/// # Safety
/// The row's source is valid, and `scratch` is large enough for its voxels.
unsafe fn probabilities(
    row: &BlendRow,
    head: &Head,
    fold: usize,
    scratch: &mut RowScratch,
    kernels: &Kernels,
    decision: Decision,
) -> *const f32 {
    let features = scratch.features.values_mut();
    for voxel in 0..row.count {
        for block in 0..row.blocks {
            // SAFETY: as the caller promises.
            let from = unsafe {
                let voxel = row.from.offset(voxel as isize * row.from_step);
                std::slice::from_raw_parts(voxel.add(block * row.from_block), BLOCK)
            };
            features[voxel * head.features + block * BLOCK..][..BLOCK].copy_from_slice(from);
        }
    }
    let scores = scratch.scores.values_mut().as_mut_ptr();
    // SAFETY: features and scores hold `count` voxels; the head has `folds` sets of weights.
    unsafe {
        (kernels.score_row)(&ScoreRow {
            features: features.as_ptr(),
            feature_count: head.features,
            voxels: row.count,
            weights: head.weights.pointer().add(fold * head.features * head.padded_classes),
            bias: head.bias.pointer().add(fold * head.padded_classes),
            padded_classes: head.padded_classes,
            scores,
        });
        probable(kernels, decision, scores, row.count, head.padded_classes);
    }
    scores
}

/// Turns the scores of voxels, `[voxel][padded classes]`, into probabilities.
///
/// # Safety
/// `scores` is valid for that many values.
pub(super) unsafe fn probable(
    kernels: &Kernels,
    decision: Decision,
    scores: *mut f32,
    voxels: usize,
    padded_classes: usize,
) {
    // SAFETY: as the caller promises; the kernels' instructions are there.
    unsafe {
        match decision {
            Decision::Highest => (kernels.softmax_row)(scores, voxels, padded_classes),
            Decision::LastPositive => {
                sigmoid(std::slice::from_raw_parts_mut(scores, voxels * padded_classes));
            }
        }
    }
}
