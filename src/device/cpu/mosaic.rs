//! Where tiles are blended: a ring of planes, as thick as the tiles that overlap need.
//!
//! With [`Blend::Logits`] a voxel holds the features below the head, of every fold; the head is
//! linear, so it commutes with the weighted mean and runs once per voxel instead of once per
//! tile. With [`Blend::Probabilities`] a voxel holds the classes' probabilities.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::forward::Forward;
use super::head::Head;
use super::kernels::Kernels;
use super::memory::{BLOCK, Buffer, Shared};
use super::scores::{BlendRow, ScoreRow, sigmoid};
use super::volume::{self, Volume};
use crate::base::error::{filled, reserved};
use crate::base::{Pool, Result};
use crate::device::{Accumulators, Blend, Decision, Job, JobSize, MemoryPart};
use crate::window::Tile;

/// Memory of one thread.
pub(super) struct RowScratch {
    /// `[voxel][features]`
    pub(super) features: Buffer,
    /// `[voxel][padded classes]`
    pub(super) scores: Buffer,
    /// A row of the mosaic, `[voxel][depth]`, or the corners of a cell, where the mosaic holds half
    /// precision.
    pub(super) sums: Buffer,
    /// The class that the rows of cells agree on, `[voxel]`.
    pub(super) agreed: Vec<u16>,
    /// Output columns whose cells do not agree.
    pub(super) open: Vec<u32>,
    /// Their classes.
    pub(super) classes: Vec<u16>,
}

/// Voxels that a voxel of the output may lie between.
const CORNERS: usize = 8;

/// The mosaic's values, `[plane % ring planes][shape1][shape2][depth]`.
pub(super) enum Sums {
    Single(Buffer),
    Half(Vec<f16>),
}

/// The mosaic's values as threads share them.
#[derive(Clone, Copy)]
pub(super) enum SharedSums {
    Single(Shared<f32>),
    Half(Shared<f16>),
}

impl Sums {
    fn new(accumulators: Accumulators, length: usize) -> Result<Self> {
        Ok(match accumulators {
            Accumulators::F32 => Self::Single(Buffer::zeroed("mosaic", length)?),
            Accumulators::F16 => Self::Half(filled("mosaic", length, f16::ZERO)?),
        })
    }

    fn clear(&mut self, range: std::ops::Range<usize>) {
        match self {
            Self::Single(values) => values.values_mut()[range].fill(0.0),
            Self::Half(values) => values[range].fill(f16::ZERO),
        }
    }

    pub(super) fn shared(&mut self) -> SharedSums {
        match self {
            Self::Single(values) => SharedSums::Single(values.shared()),
            Self::Half(values) => SharedSums::Half(Shared(values.as_mut_ptr())),
        }
    }
}

impl SharedSums {
    /// Lets `work` change `count` values from `first`, in single precision: in place, or a copy in
    /// `scratch` that is rounded and put back.
    ///
    /// # Safety
    /// The values are there and no other thread uses them; `scratch` holds as many.
    pub(super) unsafe fn update(
        self,
        first: usize,
        count: usize,
        scratch: &mut Buffer,
        work: impl FnOnce(*mut f32),
    ) {
        match self {
            // SAFETY: as the caller promises.
            Self::Single(values) => work(unsafe { values.get().add(first) }),
            Self::Half(values) => {
                // SAFETY: as the caller promises.
                let values =
                    unsafe { std::slice::from_raw_parts_mut(values.get().add(first), count) };
                let row = &mut scratch.values_mut()[..count];
                values.convert_to_f32_slice(row);
                work(row.as_mut_ptr());
                values.convert_from_f32_slice(row);
            }
        }
    }

    /// `count` values from `first` in single precision: where they are, or a copy in `scratch` from
    /// its value `at` on.
    ///
    /// # Safety
    /// The values are there and no thread writes them; `scratch` has room for the copy.
    pub(super) unsafe fn read(
        self,
        first: usize,
        count: usize,
        at: usize,
        scratch: &mut Buffer,
    ) -> *const f32 {
        match self {
            // SAFETY: as the caller promises.
            Self::Single(values) => unsafe { values.get().add(first) },
            Self::Half(values) => {
                // SAFETY: as the caller promises.
                let values = unsafe { std::slice::from_raw_parts(values.get().add(first), count) };
                let row = &mut scratch.values_mut()[at..at + count];
                values.convert_to_f32_slice(row);
                row.as_ptr()
            }
        }
    }
}

/// The state of a run.
pub(super) struct Mosaic {
    pub(super) job: Job,
    pub(super) volume: Volume,
    /// Values of a voxel, a multiple of 16.
    pub(super) depth: usize,
    pub(super) sums: Sums,
    /// Sum of the window's weights, `[plane % ring planes][shape1][shape2]`.
    pub(super) weight_sums: Vec<f32>,
    /// Class of each voxel of a slab and of the plane before it,
    /// `[plane % (slab planes + 1)][shape1][shape2]`.
    pub(super) classes: Vec<u16>,
    pub(super) scratch: Vec<RowScratch>,
    /// Whether any voxel had no class, for no tile was blended there.
    pub(super) any_untouched: bool,
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

/// Values of a thread's features and scores, for a row of voxels.
fn scratch_values(head: [usize; 3], blend: Blend, voxels: usize) -> [usize; 2] {
    let [features, folds, padded_classes] = head;
    [
        voxels * depth_of(blend, features, folds, padded_classes).max(features),
        voxels * padded_classes,
    ]
}

/// What a run with these sizes occupies, the volume included.
pub(super) fn memory(
    size: &JobSize,
    head: [usize; 3],
    patch: [usize; 3],
    threads: usize,
) -> Vec<MemoryPart> {
    let plane = (size.shape[1] * size.shape[2]) as u64;
    let depth = depth_of(size.blend, head[0], head[1], head[2]) as u64;
    let scratch = scratch_values(head, size.blend, size.shape[2]);
    let (value, rounded) = match size.accumulators {
        Accumulators::F32 => (4, 0),
        Accumulators::F16 => (2, scratch[0].max(CORNERS * depth as usize)),
    };
    let ring = size.ring_planes as u64 * plane;
    vec![
        MemoryPart::new("prepared planes", volume::bytes(size, patch)),
        MemoryPart::new("mosaic", ring * (value * depth + 4)),
        MemoryPart::new("classes", 2 * plane * (size.slab_planes as u64 + 1)),
        MemoryPart::new("weights of a tile's voxels", 4 * patch.iter().product::<usize>() as u64),
        MemoryPart::new(
            "scratch memory of rows",
            (threads * (4 * (scratch[0] + scratch[1] + rounded) + 8 * size.shape[2])) as u64,
        ),
    ]
}

impl Mosaic {
    pub(super) fn new(job: Job, head: &Head, patch: [usize; 3], threads: usize) -> Result<Self> {
        let depth = depth(job.blend, head);
        let plane = job.shape[1] * job.shape[2];
        let voxels = job.ring_planes * plane;
        let sizes = scratch_values(
            [head.features, head.folds, head.padded_classes],
            job.blend,
            job.shape[2],
        );
        let rounded = match job.accumulators {
            Accumulators::F32 => 0,
            Accumulators::F16 => sizes[0].max(CORNERS * depth),
        };
        let row = |_| {
            Ok(RowScratch {
                features: Buffer::zeroed("scratch memory of a thread", sizes[0])?,
                scores: Buffer::zeroed("scratch memory of a thread", sizes[1])?,
                sums: Buffer::zeroed("scratch memory of a thread", rounded)?,
                agreed: reserved("scratch memory of a thread", job.shape[2])?,
                open: reserved("scratch memory of a thread", job.shape[2])?,
                classes: filled("scratch memory of a thread", job.shape[2], 0)?,
            })
        };
        Ok(Self {
            depth,
            volume: Volume::new(&job, patch)?,
            sums: Sums::new(job.accumulators, voxels * depth)?,
            weight_sums: filled("mosaic", voxels, 0.0)?,
            classes: filled("mosaic", (job.slab_planes + 1) * plane, 0)?,
            scratch: (0..threads).map(row).collect::<Result<_>>()?,
            any_untouched: false,
            begun: 0,
            job,
        })
    }

    /// Voxel of the ring at which a row of the volume begins.
    pub(super) fn ring_row(&self, plane: usize, row: usize) -> usize {
        ((plane % self.job.ring_planes) * self.job.shape[1] + row) * self.job.shape[2]
    }

    /// Where the classes of a row of the volume begin.
    pub(super) fn class_row(&self, plane: usize, row: usize) -> usize {
        let slot = plane % (self.job.slab_planes + 1);
        (slot * self.job.shape[1] + row) * self.job.shape[2]
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
        let axes = self.job.axes;
        // The part of the tile that lies in the volume, in voxels of the volume.
        let inside: [std::ops::Range<usize>; 3] = std::array::from_fn(|axis| {
            let start = tile.start[axis].max(self.job.pad_before[axis]) - self.job.pad_before[axis];
            let end = tile.start[axis] + patch[axes[axis]];
            start..end.saturating_sub(self.job.pad_before[axis]).min(self.job.shape[axis])
        });
        self.clear_until(inside[0].end);
        let by_class = self.job.blend == Blend::Probabilities;
        // Each fold has features of its own, but classes are shared.
        let counts_weight = by_class || fold == 0;
        let sums = self.sums.shared();
        let weight_sums = Shared(self.weight_sums.as_mut_ptr());
        let scratch = Shared(self.scratch.as_mut_ptr());
        let this = &*self;
        let rows = inside[1].len();
        let block = patch.iter().product::<usize>() * BLOCK;
        let steps = [patch[1] * patch[2], patch[2], 1];
        let window_rows = [patch[axes[1]], patch[axes[2]]];
        pool.run(inside[0].len() * rows, &|task, worker| {
            let start =
                [inside[0].start + task / rows, inside[1].start + task % rows, inside[2].start];
            let at: [usize; 3] = std::array::from_fn(|axis| {
                start[axis] + this.job.pad_before[axis] - tile.start[axis]
            });
            let from: usize = (0..3)
                .map(|axis| {
                    let (network_axis, at) = (axes[axis], at[axis]);
                    let last = patch[network_axis] - 1;
                    let at = if mirror[network_axis] { last - at } else { at };
                    at * steps[network_axis]
                })
                .sum();
            let step = (steps[axes[2]] * BLOCK) as isize;
            let count = inside[2].len();
            let window = (at[0] * window_rows[0] + at[1]) * window_rows[1] + at[2];
            let window = &this.job.window[window..][..count];
            let voxel = this.ring_row(start[0], start[1]) + start[2];
            // SAFETY: tasks own rows of the ring and workers their scratch memory; the row's
            // voxels lie in the tile and in the volume, by `inside`.
            unsafe {
                let weights = weight_sums.get().add(voxel);
                if counts_weight {
                    for (x, weight) in window.iter().enumerate() {
                        *weights.add(x) += weight;
                    }
                }
                let RowScratch { features: row_features, scores, sums: rounded, .. } =
                    &mut *scratch.get().add(worker);
                let mut row = BlendRow {
                    from: features.as_ptr().add(from * BLOCK),
                    from_step: if mirror[axes[2]] { -step } else { step },
                    from_block: block,
                    blocks: head.features / BLOCK,
                    to: std::ptr::null_mut(),
                    to_step: this.depth,
                    window: window.as_ptr(),
                    count,
                };
                let mut place = fold * head.features;
                if by_class {
                    let buffers = [row_features, scores];
                    let decision = this.job.decision;
                    row.from = probabilities(&row, head, fold, buffers, kernels, decision);
                    row.from_step = head.padded_classes as isize;
                    row.from_block = BLOCK;
                    row.blocks = head.padded_classes / BLOCK;
                    place = 0;
                }
                sums.update(voxel * this.depth, count * this.depth, rounded, |to| {
                    row.to = to.add(place);
                    (kernels.blend_row)(&row);
                });
            }
        });
    }

    /// Clears planes that are touched for the first time; their slots of the ring are free.
    pub(super) fn clear_until(&mut self, end: usize) {
        let plane = self.job.shape[1] * self.job.shape[2];
        for index in self.begun..end {
            let first = self.ring_row(index, 0);
            self.weight_sums[first..first + plane].fill(0.0);
            self.sums.clear(first * self.depth..(first + plane) * self.depth);
        }
        self.begun = self.begun.max(end);
    }
}

/// The class probabilities of a row's voxels, `[voxel][padded classes]`.
///
/// # Safety
/// The row's source is valid, and the buffers of features and scores are large enough for its voxels.
unsafe fn probabilities(
    row: &BlendRow,
    head: &Head,
    fold: usize,
    [features, scores]: [&mut Buffer; 2],
    kernels: &Kernels,
    decision: Decision,
) -> *const f32 {
    let features = features.values_mut();
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
    let scores = scores.values_mut().as_mut_ptr();
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
