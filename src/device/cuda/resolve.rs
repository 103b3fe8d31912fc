//! Finished planes become classes on the device, first on the network's grid, then on the output
//! grid, as the processor does it; what is wanted of them is brought back.

use super::Gpu;
use super::driver::{Address, Buffer, Kernel, Launch, Pinned};
use super::head::{Head, scored_voxels};
use super::mosaic::{Mosaic, decision};
use super::parameters as kernel;
use crate::base::error::refill;
use crate::base::{Error, Result};
use crate::device::{Blend, Job, JobSize, MemoryPart, SlabOutput, not_finite, out_of_order};
use crate::volume::AxisMap;
use crate::window::Slab;

/// Where the voxels of one axis of the output lie.
struct Map {
    low: Buffer<u32>,
    high: Buffer<u32>,
    fraction: Buffer<f32>,
}

impl Map {
    fn new(gpu: &Gpu, map: &AxisMap) -> Result<Self> {
        let what = "places of the output's voxels";
        Ok(Self {
            low: Buffer::of(&gpu.stream, what, &map.low)?,
            high: Buffer::of(&gpu.stream, what, &map.high)?,
            fraction: Buffer::of(&gpu.stream, what, &map.fraction)?,
        })
    }

    fn kernel_map(&self) -> kernel::AxisMap {
        kernel::AxisMap {
            low: self.low.address(),
            high: self.high.address(),
            fraction: self.fraction.address(),
        }
    }
}

/// What resolving needs besides the mosaic.
pub(super) struct Resolving {
    maps: [Map; 3],
    /// The classes whose probabilities are wanted.
    wanted: Buffer<i32>,
    /// What kernels noticed; an untouched voxel is remembered until the run ends.
    flags: Buffer<u32>,
    /// `[output planes][output1][output2]` of a slab.
    labels: Buffer<u16>,
    probabilities: Buffer<f32>,
    scores: Buffer<f32>,
    labels_on_their_way: Pinned<u16>,
    flags_on_their_way: Pinned<u32>,
    /// What was asked for and not yet collected.
    asked: Option<Slab>,
    classify: Kernel,
    interpolate: Kernel,
}

/// The most planes of the output that lie between `slab_planes` planes.
fn most_output_planes(map: &AxisMap, planes: usize, slab_planes: usize) -> usize {
    let before = |plane: usize| map.high.partition_point(|&high| (high as usize) < plane);
    let of_slab = |first: usize| before(first + slab_planes) - before(first);
    (0..planes).map(of_slab).max().unwrap_or(0)
}

/// What resolving occupies.
pub(super) fn memory(size: &JobSize, classes: usize) -> Vec<MemoryPart> {
    let labels = 2 * size.output_planes as u64 * (size.output[1] * size.output[2]) as u64;
    let across = size.slab_planes * size.shape[1] * size.shape[2];
    // Probabilities may be wanted on the network's grid.
    let probabilities = 2 * labels.max(2 * across as u64) * size.probability_classes as u64;
    let scores = if size.scores { 4 * (classes * across) as u64 } else { 0 };
    let small = 12 * size.output.iter().sum::<usize>() + 4 * size.probability_classes + 4;
    vec![
        MemoryPart::on_device("labels of a slab", labels),
        MemoryPart::on_device("probabilities of a slab", probabilities),
        MemoryPart::on_device("scores of a slab", scores),
        MemoryPart::on_device("places of the output's voxels", small as u64),
        MemoryPart::new("labels of a slab", 2 * labels),
        MemoryPart::new("probabilities of a slab", probabilities),
        MemoryPart::new("scores of a slab", scores),
    ]
}

impl Resolving {
    pub(super) fn new(gpu: &Gpu, job: &Job, classes: usize) -> Result<Self> {
        let context = gpu.context();
        let [planes, rows, columns] = job.shape;
        let wanted: Vec<i32> = job.probability_classes.iter().map(|&class| class as i32).collect();
        let output_planes = most_output_planes(&job.output[0], planes, job.slab_planes);
        let across = job.slab_planes * rows * columns;
        let labels = output_planes * job.output[1].low.len() * job.output[2].low.len();
        let probable = wanted.len() * if job.network_probabilities { across } else { labels };
        let scored = if job.scores { classes * across } else { 0 };
        let [map0, map1, map2] = &job.output;
        Ok(Self {
            maps: [Map::new(gpu, map0)?, Map::new(gpu, map1)?, Map::new(gpu, map2)?],
            wanted: Buffer::of(&gpu.stream, "wanted classes", &wanted)?,
            flags: Buffer::zeroed(&gpu.stream, "flags", 1)?,
            labels: Buffer::new(context, "labels of a slab", labels)?,
            probabilities: Buffer::new(context, "probabilities of a slab", probable)?,
            scores: Buffer::new(context, "scores of a slab", scored)?,
            labels_on_their_way: Pinned::new(context, "labels of a slab", labels)?,
            flags_on_their_way: Pinned::new(context, "flags", 1)?,
            asked: None,
            classify: gpu.kernel("classify")?,
            interpolate: gpu.kernel("interpolate")?,
        })
    }

    /// Bytes of the device's memory that it has.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let map = |map: &Map| map.low.bytes() + map.high.bytes() + map.fraction.bytes();
        let outputs = self.labels.bytes() + self.probabilities.bytes() + self.scores.bytes();
        let small = self.wanted.bytes() + self.flags.bytes();
        outputs + small + self.maps.iter().map(map).sum::<u64>()
    }
}

impl Mosaic {
    /// Asks to classify the planes of `slab`, and for the labels.
    pub(super) fn ask_resolve(&mut self, gpu: &Gpu, slab: &Slab, head: &Head) -> Result<()> {
        if self.resolving.asked.is_some() {
            return Err(Error::Internal(
                "a slab was asked for before the last was collected".into(),
            ));
        }
        // Planes that no tile touched may hold what was there before.
        self.clear_until(gpu, slab.planes.end)?;
        self.classify(gpu, slab, head)?;
        self.interpolate(gpu, slab, head)?;
        let labels = self.labels(slab);
        let resolving = &mut self.resolving;
        resolving.labels_on_their_way.fetch(0..labels, &resolving.labels, 0, &gpu.stream)?;
        resolving.flags_on_their_way.fetch(0..1, &resolving.flags, 0, &gpu.stream)?;
        resolving.asked = Some(slab.clone());
        Ok(())
    }

    /// Voxels of the output that a slab makes.
    fn labels(&self, slab: &Slab) -> usize {
        slab.output.len() * self.job.output[1].low.len() * self.job.output[2].low.len()
    }

    /// Waits for the slab that was asked for and fills `output`. Labels wait for what was asked of the
    /// device before them, scores and probabilities, if wanted, for everything.
    pub(super) fn collect(
        &mut self,
        gpu: &Gpu,
        output: &mut SlabOutput,
        head: &Head,
    ) -> Result<()> {
        let slab = out_of_order(self.resolving.asked.take(), "ask_resolve")?;
        let [_, rows, columns] = self.job.shape;
        let across = slab.planes.len() * rows * columns;
        let labels = self.labels(&slab);
        let resolving = &mut self.resolving;
        if resolving.flags_on_their_way.values()?[0] & kernel::FLAG_NOT_FINITE != 0 {
            return Err(not_finite(&slab.planes));
        }
        refill("labels of a slab", &mut output.classes, labels, 0)?;
        output.classes.copy_from_slice(&resolving.labels_on_their_way.values()?[..labels]);
        let scored = if self.job.scores { head.classes * across } else { 0 };
        refill("scores of a slab", &mut output.scores, scored, 0.0)?;
        resolving.scores.read(&gpu.stream, 0, &mut output.scores)?;
        let each = if self.job.network_probabilities { across } else { labels };
        let probable = self.job.probability_classes.len() * each;
        refill("probabilities of a slab", &mut output.probabilities, probable, 0.0)?;
        resolving.probabilities.read(&gpu.stream, 0, &mut output.probabilities)
    }

    /// The places for probabilities on the network's grid and on the output's, of which at most
    /// one is wanted.
    fn probabilities(&self) -> [Address; 2] {
        let address = self.resolving.probabilities.address();
        match (self.job.probability_classes.is_empty(), self.job.network_probabilities) {
            (true, _) => [Address::NULL; 2],
            (false, true) => [address, Address::NULL],
            (false, false) => [Address::NULL, address],
        }
    }

    fn classify(&self, gpu: &Gpu, slab: &Slab, head: &Head) -> Result<()> {
        let Resolving { wanted, flags, scores, classify, .. } = &self.resolving;
        let by_class = self.job.blend == Blend::Probabilities;
        let parameters = kernel::Classify {
            mosaic: self.kernel_mosaic(),
            head: self.kernel_head(head),
            scores: if self.job.scores { scores.address() } else { Address::NULL },
            probabilities: self.probabilities()[0],
            wanted: wanted.address(),
            flags: flags.address(),
            first: slab.planes.start as i32,
            planes: slab.planes.len() as i32,
            wanted_count: wanted.length() as i32,
            // Features lie side by side, so the mean over folds is taken by the weights.
            folds: if by_class { 1.0 } else { head.folds as f32 },
            by_class: i32::from(by_class),
            decision: decision(&self.job),
        };
        let place = self.job.shape[1] * self.job.shape[2];
        let across = place.div_ceil(scored_voxels(head.padded_classes));
        let launch = Launch {
            grid: [across as u32, slab.planes.len() as u32, 1],
            threads: 256,
            shared_bytes: kernel::HEAD_SHARED_BYTES,
        };
        // SAFETY: the slab's planes are in the ring and there are at most as many as the outputs
        // have room for; the head is as deep as the mosaic.
        unsafe { classify.launch(&gpu.stream, launch, &parameters) }
    }

    fn interpolate(&self, gpu: &Gpu, slab: &Slab, head: &Head) -> Result<()> {
        let Resolving { maps, wanted, flags, labels, interpolate, .. } = &self.resolving;
        let [rows, columns] = [1, 2].map(|axis: usize| self.job.output[axis].low.len());
        let parameters = kernel::Interpolate {
            mosaic: self.kernel_mosaic(),
            head: self.kernel_head(head),
            maps: [0, 1, 2].map(|axis: usize| maps[axis].kernel_map()),
            classes: labels.address(),
            probabilities: self.probabilities()[1],
            wanted: wanted.address(),
            flags: flags.address(),
            first: slab.output.start as i32,
            planes: slab.output.len() as i32,
            output_rows: rows as i32,
            output_columns: columns as i32,
            region: [0, 1, 2].map(|axis: usize| {
                let range = &self.job.region[axis];
                [range.start as i32, range.end as i32]
            }),
            wanted_count: wanted.length() as i32,
            by_class: i32::from(self.job.blend == Blend::Probabilities),
            decision: decision(&self.job),
            reserved: 0,
        };
        let launch = Launch {
            grid: [(rows.div_ceil(32) * columns.div_ceil(32)) as u32, slab.output.len() as u32, 1],
            threads: 256,
            shared_bytes: kernel::INTERPOLATE_SHARED_BYTES,
        };
        // SAFETY: the slab's output lies between its planes and the one before them, which are
        // classified and in the ring; labels and probabilities have room for it.
        unsafe { interpolate.launch(&gpu.stream, launch, &parameters) }
    }
}
