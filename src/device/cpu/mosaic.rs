//! Where tiles are blended: a ring of planes, as thick as the tiles that overlap need.
//!
//! With [`Blend::Logits`] a voxel holds the features below the head, of every fold; the head is
//! linear, so it commutes with the weighted mean and runs once per voxel instead of once per
//! tile. With [`Blend::Probabilities`] a voxel holds the classes' probabilities.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::cells::CellColumns;
use super::forward::Forward;
use super::head::Head;
use super::kernels::Kernels;
use super::memory::{BLOCK, Buffer, Place, Shared};
use super::scores::{BlendRow, Side, Transpose, VOXELS};
use super::volume::{self, Volume};
use crate::base::error::{filled, reserved};
use crate::base::{Pool, Result};
use crate::device::{Accumulators, Blend, Decision, Job, JobSize, MemoryPart};
use crate::window::Tile;

/// Memory of one thread.
pub(super) struct RowScratch {
    /// Voxels one after the other: `[`[`VOXELS`]`][depth]`, or features if there are more.
    pub(super) voxels: Buffer,
    /// Their values side by side, `[value][`[`VOXELS`]`]`.
    pub(super) values: Buffer,
    /// `[padded class][`[`VOXELS`]`]`
    pub(super) scores: Buffer,
    /// A row of the mosaic, `[voxel][depth]`, or the corners of a cell, where the mosaic holds half
    /// precision.
    pub(super) sums: Buffer,
    /// What is known of the cells along a row.
    pub(super) agreed: Vec<u16>,
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
    pub(super) cell_columns: CellColumns,
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

/// Values of a thread's voxels, one after the other or side by side, and of their scores.
fn scratch_values(head: [usize; 3], blend: Blend) -> [usize; 2] {
    let [features, folds, padded_classes] = head;
    let depth = depth_of(blend, features, folds, padded_classes);
    [VOXELS * depth.max(features), VOXELS * padded_classes]
}

/// Values of a thread's copy in single precision.
fn copied_values(accumulators: Accumulators, depth: usize, columns: usize) -> usize {
    match accumulators {
        Accumulators::F32 => 0,
        Accumulators::F16 => depth * columns.max(CORNERS),
    }
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
    let [voxels, scores] = scratch_values(head, size.blend);
    let copied = copied_values(size.accumulators, depth as usize, size.shape[2]);
    let value = match size.accumulators {
        Accumulators::F32 => 4,
        Accumulators::F16 => 2,
    };
    let ring = size.ring_planes as u64 * plane;
    vec![
        MemoryPart::new("prepared planes", volume::bytes(size, patch)),
        MemoryPart::new("mosaic", ring * (value * depth + 4)),
        MemoryPart::new("classes", 2 * plane * (size.slab_planes as u64 + 1)),
        MemoryPart::new("weights of a tile's voxels", 4 * patch.iter().product::<usize>() as u64),
        MemoryPart::new(
            "scratch memory of rows",
            (threads * (4 * (2 * voxels + scores + copied) + 4 * size.shape[2])) as u64,
        ),
    ]
}

impl Mosaic {
    pub(super) fn new(job: Job, head: &Head, patch: [usize; 3], threads: usize) -> Result<Self> {
        let depth = depth(job.blend, head);
        let plane = job.shape[1] * job.shape[2];
        let voxels = job.ring_planes * plane;
        let [values, scores] =
            scratch_values([head.features, head.folds, head.padded_classes], job.blend);
        let copied = copied_values(job.accumulators, depth, job.shape[2]);
        let buffer = |length| Buffer::zeroed("scratch memory of a thread", length);
        let row = |_| {
            Ok(RowScratch {
                voxels: buffer(values)?,
                values: buffer(values)?,
                scores: buffer(scores)?,
                sums: buffer(copied)?,
                agreed: reserved("scratch memory of a thread", 2 * job.shape[2])?,
            })
        };
        Ok(Self {
            depth,
            volume: Volume::new(&job, patch)?,
            sums: Sums::new(job.accumulators, voxels * depth)?,
            weight_sums: filled("mosaic", voxels, 0.0)?,
            classes: filled("mosaic", (job.slab_planes + 1) * plane, 0)?,
            scratch: (0..threads).map(row).collect::<Result<_>>()?,
            cell_columns: CellColumns::new(&job.output[2], job.shape[2])?,
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
        let (blocks, plane) = (head.features / BLOCK, patch[1] * patch[2]);
        let steps = [blocks * plane, patch[2], 1];
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
                let scratch = &mut *scratch.get().add(worker);
                let RowScratch { voxels, values, scores, sums: copied, .. } = scratch;
                let mut row = BlendRow {
                    from: features.at(from * BLOCK),
                    from_step: if mirror[axes[2]] { -step } else { step },
                    from_block: plane * BLOCK,
                    blocks,
                    to: std::ptr::null_mut(),
                    to_step: this.depth,
                    window: window.as_ptr(),
                    count,
                };
                sums.update(voxel * this.depth, count * this.depth, copied, |to| {
                    if !by_class {
                        row.to = to.add(fold * head.features);
                        (kernels.blend_features)(&row);
                        return;
                    }
                    for first in (0..count).step_by(VOXELS) {
                        let mut part = BlendRow {
                            from: features.offset(row.from, first as isize * row.from_step),
                            window: window[first..].as_ptr(),
                            count: VOXELS.min(count - first),
                            to: to.add(first * this.depth),
                            ..row
                        };
                        let buffers = [&mut *voxels, &mut *values, &mut *scores];
                        let decision = this.job.decision;
                        let found = probabilities(&part, head, fold, buffers, kernels, decision);
                        part.from = Place::of(found);
                        part.from_step = head.padded_classes as isize;
                        part.from_block = BLOCK;
                        part.blocks = head.padded_classes / BLOCK;
                        (kernels.blend_row)(&part);
                    }
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

/// The class probabilities of at most [`VOXELS`] voxels of a row, `[voxel][padded classes]`.
///
/// # Safety
/// The row's source is valid, and the buffers are those of a [`RowScratch`].
unsafe fn probabilities(
    row: &BlendRow,
    head: &Head,
    fold: usize,
    [voxels, values, scores]: [&mut Buffer; 3],
    kernels: &Kernels,
    decision: Decision,
) -> *const f32 {
    let [features, classes] = [head.features, head.padded_classes];
    for voxel in 0..row.count {
        for block in 0..row.blocks {
            let to = &mut voxels.values_mut()[voxel * features + block * BLOCK..][..BLOCK];
            let from = voxel as isize * row.from_step + (block * row.from_block) as isize;
            // SAFETY: as the caller promises.
            unsafe { (kernels.widen)(row.from, from, to.as_mut_ptr()) }
        }
    }
    // SAFETY: the buffers hold so many voxels; the head has `folds` sets of weights; the kernels'
    // instructions are there.
    unsafe {
        side_by_side(kernels, voxels.pointer(), features, values);
        probable(kernels, decision, head.score(kernels, Some(fold), values, scores));
        scores.values_mut()[head.classes * VOXELS..].fill(0.0);
        (kernels.transpose)(&Transpose {
            from: scores.pointer(),
            from_step: VOXELS,
            to: voxels.values_mut().as_mut_ptr(),
            to_step: classes,
            rows: classes,
            columns: VOXELS,
        });
    }
    voxels.pointer()
}

/// Lays [`VOXELS`] voxels of `depth` values each, one voxel after the other, side by side in `values`.
///
/// # Safety
/// `voxels` is valid for that many values, and `values` holds as many; the kernels' instructions
/// are there.
pub(super) unsafe fn side_by_side(
    kernels: &Kernels,
    voxels: *const f32,
    depth: usize,
    values: &mut Buffer,
) {
    // SAFETY: as the caller promises.
    unsafe {
        (kernels.transpose)(&Transpose {
            from: voxels,
            from_step: depth,
            to: values.values_mut().as_mut_ptr(),
            to_step: VOXELS,
            rows: VOXELS,
            columns: depth,
        });
    }
}

/// Turns the scores of voxels, `[class][`[`VOXELS`]`]`, into probabilities.
///
/// # Safety
/// The kernels' instructions are there.
pub(super) unsafe fn probable(kernels: &Kernels, decision: Decision, scores: &mut [Side]) {
    // SAFETY: as the caller promises.
    unsafe {
        match decision {
            Decision::Highest => (kernels.softmax)(scores),
            Decision::LastPositive => (kernels.sigmoid)(scores),
        }
    }
}
