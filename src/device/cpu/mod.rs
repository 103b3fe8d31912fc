//! The processor: hand-written kernels for AVX-512, AVX2, NEON and any other, chosen at run time.
#![allow(unsafe_code)]

mod cells;
mod conv;
mod conv_tile;
mod forward;
pub(in crate::device) mod head;
mod integer_tile;
mod kernels;
pub(in crate::device) mod memory;
mod mosaic;
mod norm;
mod path;
mod probability;
mod quantise;
mod reading;
mod resolve;
mod rows;
mod scores;
mod simd;
mod statistics;
#[cfg(test)]
mod tests;
mod value;
mod volume;
mod winograd;

use std::ops::Range;
use std::sync::Arc;

use self::forward::{Forward, Input};
use self::kernels::Kernels;
use self::memory::BLOCK;
use self::mosaic::Mosaic;
use self::path::Method;
pub use self::simd::Instructions;
use super::{Device, DeviceInfo, Job, JobSize, MemoryPart, Precision, SlabOutput, out_of_order};
use crate::base::{Pool, Result};
use crate::net::{Network, Plan, Weights};
use crate::window::{Slab, Tile};

/// The processor as a device.
pub struct Cpu {
    info: DeviceInfo,
    precision: Precision,
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    forward: Option<Forward>,
    mosaic: Option<Mosaic>,
}

/// What the processor is, with the instructions that runs are to have.
pub fn info() -> DeviceInfo {
    info_with(Instructions::chosen().unwrap_or(Instructions::Portable))
}

fn info_with(instructions: Instructions) -> DeviceInfo {
    let (memory_total_bytes, memory_free_bytes) = memory();
    DeviceInfo {
        kind: "cpu",
        name: format!("{} {}", std::env::consts::ARCH, instructions.name()),
        memory_total_bytes,
        memory_free_bytes,
        gpu: None,
    }
}

/// Bytes of memory in all and free; zeros where the system doesn't say.
fn memory() -> (u64, u64) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: asks for numbers, touches nothing.
        let ask = |name| unsafe { libc::sysconf(name) };
        let page = u64::try_from(ask(libc::_SC_PAGESIZE)).unwrap_or(0);
        let pages = |name| u64::try_from(ask(name)).unwrap_or(0);
        (page * pages(libc::_SC_PHYS_PAGES), page * pages(libc::_SC_AVPHYS_PAGES))
    }
    #[cfg(not(target_os = "linux"))]
    (0, 0)
}

impl Cpu {
    /// The processor with [`Instructions::chosen`] and the threads of `pool`, in a precision that
    /// it has.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::base::Error::Unsupported) if it has not; as
    /// [`Instructions::chosen`].
    pub fn open(pool: Arc<Pool>, precision: Precision) -> Result<Self> {
        Self::with_instructions(pool, Instructions::chosen()?, precision)
    }

    /// As [`Cpu::open`], with one of [`Instructions::available`], to compare them; any other set
    /// falls back to the portable one.
    ///
    /// # Errors
    /// As for [`Cpu::open`].
    pub fn with_instructions(
        pool: Arc<Pool>,
        instructions: Instructions,
        precision: Precision,
    ) -> Result<Self> {
        let instructions = match Instructions::available().contains(&instructions) {
            true => instructions,
            false => Instructions::Portable,
        };
        let kernels = Kernels::of(instructions, precision)?;
        let info = info_with(instructions);
        Ok(Self { info, precision, kernels, pool, forward: None, mosaic: None })
    }
}

fn head_sizes(network: &Network, folds: usize) -> [usize; 3] {
    let features = network.tensors[network.output.0].channels.next_multiple_of(BLOCK);
    [features, folds, network.classes.next_multiple_of(BLOCK)]
}

impl Device for Cpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn plan(&self, network: Network) -> Result<Plan> {
        forward::plan(network, self.kernels, self.pool.threads(), Method::Fastest)
    }

    fn loaded_memory(&self, plan: &Plan, folds: usize) -> Result<Vec<MemoryPart>> {
        Ok(forward::memory(plan, folds, self.kernels, self.pool.threads()))
    }

    fn job_memory(&self, plan: &Plan, folds: usize, job: &JobSize) -> Vec<MemoryPart> {
        let network = &plan.network;
        let slab = job.output_planes as u64 * (job.output[1] * job.output[2]) as u64;
        let scores = if job.scores {
            4 * (network.classes * job.slab_planes * job.shape[1] * job.shape[2]) as u64
        } else {
            0
        };
        let head = head_sizes(network, folds);
        let mut parts = mosaic::memory(job, head, network.patch(), self.pool.threads());
        parts.push(MemoryPart::new("labels of a slab", slab * 2));
        let probabilities = slab * 4 * job.probability_classes as u64;
        parts.push(MemoryPart::new("probabilities of a slab", probabilities));
        parts.push(MemoryPart::new("scores of a slab", scores));
        parts
    }

    fn load(&mut self, plan: Arc<Plan>, weights: &dyn Weights) -> Result<()> {
        let threads = self.pool.threads();
        // Before the next one takes memory.
        self.forward = None;
        self.forward = Some(Forward::load(plan, weights, self.kernels, threads, Method::Fastest)?);
        Ok(())
    }

    fn begin(&mut self, job: Job) -> Result<()> {
        let forward = out_of_order(self.forward.as_ref(), "load")?;
        let patch = forward.patch();
        self.mosaic = Some(Mosaic::new(job, &forward.head, patch, self.pool.threads())?);
        Ok(())
    }

    fn feed(&mut self, planes: Range<usize>, values: &[f32]) -> Result<()> {
        let mosaic = out_of_order(self.mosaic.as_mut(), "begin")?;
        mosaic.volume.feed(planes, values);
        Ok(())
    }

    fn gather(&mut self, tile: &Tile, mirror: [bool; 3]) -> Result<()> {
        let forward = out_of_order(self.forward.as_mut(), "load")?;
        let mosaic = out_of_order(self.mosaic.as_mut(), "begin")?;
        let patch = forward.patch();
        let Mosaic { volume, job, .. } = mosaic;
        match forward.input_mut() {
            Input::Single(input) => volume.gather(job, tile, mirror, patch, input, &self.pool),
            Input::Bf16(input) => volume.gather(job, tile, mirror, patch, input, &self.pool),
        }
        Ok(())
    }

    fn measure(&mut self, limit_seconds: f64) -> Result<f64> {
        let forward = out_of_order(self.forward.as_mut(), "load")?;
        Ok(forward.measure(limit_seconds, self.kernels, &self.pool))
    }

    fn forward(&mut self, fold: usize) -> Result<()> {
        out_of_order(self.forward.as_mut(), "load")?.run(fold, self.kernels, &self.pool);
        Ok(())
    }

    fn blend(&mut self, tile: &Tile, mirror: [bool; 3], fold: usize) -> Result<()> {
        let forward = out_of_order(self.forward.as_ref(), "load")?;
        let mosaic = out_of_order(self.mosaic.as_mut(), "begin")?;
        mosaic.blend(tile, mirror, fold, forward, self.kernels, &self.pool);
        Ok(())
    }

    fn ask_resolve(&mut self, slab: &Slab, output: &mut SlabOutput) -> Result<bool> {
        let forward = out_of_order(self.forward.as_ref(), "load")?;
        let mosaic = out_of_order(self.mosaic.as_mut(), "begin")?;
        mosaic.resolve(slab, output, &forward.head, self.kernels, &self.pool)?;
        Ok(true)
    }

    fn finish(&mut self) {
        self.mosaic = None;
    }
}
