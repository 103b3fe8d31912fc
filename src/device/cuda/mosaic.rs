//! Where tiles are blended on the device: a ring of planes, as thick as the tiles that overlap
//! need. Voxels hold what they hold on the processor; how they lie in memory is
//! `kernels/parameters.cuh`'s.

use std::ops::Range;

use super::Gpu;
use super::driver::{Address, Buffer, Kernel, Launch};
use super::head::{Head, Identity, scored_voxels};
use super::parameters as kernel;
use super::resolve::{self, Resolving};
use super::volume::{self, Volume, blocks, placement, ring_slots};
use crate::base::Result;
use crate::device::{Accumulators, Blend, Decision, Job, JobSize, MemoryPart};
use crate::window::Tile;

/// The state of a run.
pub(super) struct Mosaic {
    pub(super) job: Job,
    /// Voxels of a tile along the network's axes.
    patch: [usize; 3],
    volume: Volume,
    /// Values of a voxel, a multiple of 16.
    pub(super) depth: usize,
    /// `[plane % ring planes][depth / 8][shape1][shape2][8]`, in bytes.
    sums: Buffer<u8>,
    /// `[plane % ring planes][shape1][shape2]`
    weight_sums: Buffer<f32>,
    /// `[plane % (slab planes + 1)][shape1][shape2]`
    classes: Buffer<u16>,
    /// Weight of each voxel of a tile, in the order of the run's axes.
    window: Buffer<f32>,
    /// Where classes themselves are blended.
    identity: Option<Identity>,
    blend: Kernel,
    pub(super) resolving: Resolving,
    /// Planes before this one have been cleared and may hold something.
    begun: usize,
}

/// Values of a mosaic's voxel.
fn depth(blend: Blend, [features, folds, padded_classes]: [usize; 3]) -> usize {
    match blend {
        Blend::Logits => features * folds,
        Blend::Probabilities => padded_classes,
    }
}

/// Bytes of one of the sums.
fn value_bytes(accumulators: Accumulators) -> usize {
    match accumulators {
        Accumulators::F32 => 4,
        Accumulators::F16 => 2,
    }
}

/// What a run with these sizes occupies, the volume included. `head` is a fold's padded features,
/// the folds, the padded classes and the classes.
pub(super) fn memory(size: &JobSize, head: [usize; 4], patch: [usize; 3]) -> Vec<MemoryPart> {
    let [features, folds, padded_classes, classes] = head;
    let plane = (size.shape[1] * size.shape[2]) as u64;
    let depth = depth(size.blend, [features, folds, padded_classes]);
    let voxel = (value_bytes(size.accumulators) * depth + 4) as u64;
    let identity = match size.blend {
        Blend::Logits => 0,
        Blend::Probabilities => Identity::bytes(padded_classes),
    };
    let mut parts = volume::memory(size);
    parts.extend([
        MemoryPart::on_device("mosaic", size.ring_planes as u64 * plane * voxel),
        MemoryPart::on_device("classes", 2 * plane * (size.slab_planes as u64 + 1)),
        MemoryPart::on_device(
            "weights of a tile's voxels",
            4 * patch.iter().product::<usize>() as u64 + identity,
        ),
    ]);
    parts.extend(resolve::memory(size, classes));
    parts
}

impl Mosaic {
    /// Makes room for a run of a network whose tiles have `patch` voxels.
    pub(super) fn new(gpu: &Gpu, mut job: Job, head: &Head, patch: [usize; 3]) -> Result<Self> {
        job.slab_planes = job.slab_planes.min(job.shape[0]);
        let depth = depth(job.blend, [head.features, head.folds, head.padded_classes]);
        let plane = job.shape[1] * job.shape[2];
        let voxels = job.ring_planes * plane;
        let bytes = voxels * depth * value_bytes(job.accumulators);
        let identity = match job.blend {
            Blend::Logits => None,
            Blend::Probabilities => Some(Identity::new(&gpu.stream, head)?),
        };
        let name = match job.blend {
            Blend::Logits => gpu.named("blend_half", "blend_float"),
            Blend::Probabilities => {
                gpu.named("blend_probabilities_half", "blend_probabilities_float")
            }
        };
        let window = std::mem::take(&mut job.window);
        Ok(Self {
            patch,
            volume: Volume::new(gpu, &job)?,
            depth,
            sums: Buffer::new(gpu.context(), "the mosaic", bytes)?,
            weight_sums: Buffer::new(gpu.context(), "the mosaic", voxels)?,
            classes: Buffer::new(gpu.context(), "classes", (job.slab_planes + 1) * plane)?,
            window: Buffer::of(&gpu.stream, "weights of a tile's voxels", &window)?,
            identity,
            blend: gpu.kernel(name)?,
            resolving: Resolving::new(gpu, &job, head.classes)?,
            begun: 0,
            job,
        })
    }

    /// Bytes of the device's memory that it has.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.sums.bytes()
            + self.weight_sums.bytes()
            + self.classes.bytes()
            + self.window.bytes()
            + self.identity.as_ref().map_or(0, Identity::held)
            + self.volume.bytes()
            + self.resolving.bytes()
    }

    /// Takes planes of the volume, `[channels][planes][shape1][shape2]`.
    pub(super) fn feed(&mut self, gpu: &Gpu, planes: Range<usize>, values: &[f32]) -> Result<()> {
        self.volume.feed(gpu, planes, values)
    }

    /// Takes native planes of a channel, `[planes][native1][native2]`.
    pub(super) fn feed_native(
        &mut self,
        gpu: &Gpu,
        channel: usize,
        planes: Range<usize>,
        values: &[f32],
    ) -> Result<()> {
        self.volume.feed_native(gpu, channel, planes, values)
    }

    /// Makes planes of the volume of native ones.
    pub(super) fn resample(&self, gpu: &Gpu, planes: &Range<usize>) -> Result<()> {
        self.volume.resample(gpu, planes)
    }

    /// Copies a tile into the network's input.
    pub(super) fn gather(
        &self,
        gpu: &Gpu,
        tile: &Tile,
        mirror: [bool; 3],
        input: Address,
    ) -> Result<()> {
        self.volume.gather(gpu, placement(&self.job, tile, mirror, self.patch), input)
    }

    /// Adds the features of one pass, weighted, at the tile's place.
    pub(super) fn blend(
        &mut self,
        gpu: &Gpu,
        tile: &Tile,
        mirror: [bool; 3],
        fold: usize,
        head: &Head,
        features: Address,
    ) -> Result<()> {
        let end = tile.start[0] + self.patch[self.job.axes[0]];
        self.clear_until(gpu, end.saturating_sub(self.job.pad_before[0]).min(self.job.shape[0]))?;
        let by_class = self.job.blend == Blend::Probabilities;
        let parameters = kernel::Blend {
            mosaic: self.kernel_mosaic(),
            features,
            window: self.window.address(),
            placement: placement(&self.job, tile, mirror, self.patch),
            padded_features: head.features as i32,
            first: if by_class { 0 } else { fold * head.features } as i32,
            // Each fold has features of its own, but classes are shared.
            counts_weight: i32::from(by_class || fold == 0),
            reserved: 0,
        };
        let [planes, rows, columns] = self.job.axes.map(|axis| self.patch[axis]);
        let threads = 256;
        if by_class {
            let parameters = kernel::BlendProbabilities {
                blend: parameters,
                head: head.of_fold(fold),
                decision: decision(&self.job),
                reserved: 0,
            };
            let across = (rows * columns).div_ceil(scored_voxels(head.padded_classes));
            let grid = [across as u32, planes as u32, 1];
            let launch = Launch { grid, threads, shared_bytes: kernel::HEAD_SHARED_BYTES };
            // SAFETY: as below; the head's fold is there.
            unsafe { self.blend.launch(&gpu.stream, launch, &parameters) }
        } else {
            let strings = (head.features / 8) as u32;
            let grid = [blocks(rows, columns), planes as u32, strings];
            let launch = Launch { grid, threads, shared_bytes: 0 };
            // SAFETY: the features are an activation of the patch's voxels; the tile's planes are
            // in the ring, whose voxels have room for every fold, and the window has the patch's
            // voxels.
            unsafe { self.blend.launch(&gpu.stream, launch, &parameters) }
        }
    }

    /// Clears planes that are touched for the first time; their slots of the ring are free.
    pub(super) fn clear_until(&mut self, gpu: &Gpu, end: usize) -> Result<()> {
        let plane = self.job.shape[1] * self.job.shape[2];
        let bytes = plane * self.depth * value_bytes(self.job.accumulators);
        let ring = self.job.ring_planes;
        for slots in ring_slots(self.begun.max(end.saturating_sub(ring))..end, ring) {
            let voxels = slots.start * plane..slots.end * plane;
            self.weight_sums.fill(&gpu.stream, voxels, 0)?;
            self.sums.fill(&gpu.stream, slots.start * bytes..slots.end * bytes, 0)?;
        }
        self.begun = self.begun.max(end);
        Ok(())
    }

    /// The mosaic as kernels are told.
    pub(super) fn kernel_mosaic(&self) -> kernel::Mosaic {
        kernel::Mosaic {
            sums: self.sums.address(),
            weight_sums: self.weight_sums.address(),
            classes: self.classes.address(),
            ring_planes: self.job.ring_planes as i32,
            depth: self.depth as i32,
            half_sums: i32::from(self.job.accumulators == Accumulators::F16),
            class_planes: (self.job.slab_planes + 1) as i32,
            rows: self.job.shape[1] as i32,
            columns: self.job.shape[2] as i32,
        }
    }

    /// The head that turns a voxel's values into scores.
    pub(super) fn kernel_head(&self, head: &Head) -> kernel::Head {
        self.identity.as_ref().map_or_else(|| head.of_all(), |identity| identity.kernel_head(head))
    }
}

/// How scores become a class, as kernels are told.
pub(super) fn decision(job: &Job) -> i32 {
    match job.decision {
        Decision::Highest => kernel::DECISION_HIGHEST,
        Decision::LastPositive => kernel::DECISION_LAST_POSITIVE,
    }
}
