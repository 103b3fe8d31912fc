//! NVIDIA GPUs: our own kernels, and the driver that is found at run time.
#![allow(unsafe_code)]

pub mod driver;
mod forward;
mod head;
mod images;
mod meter;
mod mosaic;
mod packing;
mod parameters;
mod resample;
mod resolve;
mod schedule;
mod sizes;
#[cfg(test)]
mod tests;
mod tiles;
mod volume;

use std::ops::Range;
use std::sync::Arc;

use self::driver::{Context, Driver, Event, Kernel, Limits, Module, Properties, Stream};
use self::forward::Forward;
use self::head::Head;
use self::meter::Metering;
use self::mosaic::Mosaic;
use self::schedule::Schedule;
pub use self::tiles::Shortcuts;
use super::{
    Device, DeviceInfo, GpuInfo, Job, JobSize, MemoryPart, Precision, SlabOutput,
    another_device_s_plan, out_of_order,
};
use crate::base::{Error, Result};
use crate::net::plan::CHANNEL_BLOCK;
use crate::net::{Plan, Weights};
use crate::volume::Meter;
use crate::window::{Slab, Tile};

/// What the parts of the device share: a stream of its own on a GPU, and the kernels.
pub(crate) struct Gpu {
    /// All work of this device, in order.
    pub(crate) stream: Stream,
    /// How activations are held.
    pub(crate) precision: Precision,
    /// How networks are scheduled from now on.
    shortcuts: Shortcuts,
    module: Module,
}

impl Gpu {
    /// A new stream on a GPU, and the kernels loaded for it.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if no kernels are made for it; [`Error::Device`].
    pub(crate) fn new(context: &Context, precision: Precision) -> Result<Self> {
        let mut failed = too_old(context.properties());
        for image in images::covering(context.limits()) {
            let what = format!("{image} on {}", context.name());
            match Module::new(context, &what, &images::read(image)?) {
                Ok(module) => {
                    let (stream, shortcuts) = (Stream::new(context)?, Shortcuts::default());
                    return Ok(Self { stream, precision, shortcuts, module });
                }
                // A driver may be older than the tool that made an image; PTX is made by an old one.
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The GPU's context.
    pub(crate) fn context(&self) -> &Context {
        self.stream.context()
    }

    /// What the GPU can do.
    pub(crate) fn limits(&self) -> Limits {
        self.context().limits()
    }

    /// Of two names of a kernel, that of the one for activations as they are held here.
    pub(crate) fn named(&self, half: &'static str, float: &'static str) -> &'static str {
        match self.precision {
            Precision::F32 => float,
            _ => half,
        }
    }

    /// The kernel of a name.
    ///
    /// # Errors
    /// [`Error::Device`] if there is none.
    pub(crate) fn kernel(&self, name: &str) -> Result<Kernel> {
        self.module.kernel(name)
    }
}

fn too_old(gpu: &Properties) -> Error {
    let Limits { capability, .. } = gpu.limits;
    Error::NoDevice(format!(
        "{} has compute capability {}.{}; voxtile's kernels need 8.0 or newer",
        gpu.name,
        capability / 10,
        capability % 10
    ))
}

/// The driver, or why there is none that will do.
fn driver() -> Result<Driver> {
    Driver::open().map_err(|reason| Error::NoDevice(reason.to_string()))
}

/// How many GPUs the driver sees, at least one.
///
/// # Errors
/// [`Error::NoDevice`]: why there is none.
pub fn count() -> Result<u32> {
    Ok(driver()?.devices())
}

/// An error if GPUs don't hold values in a precision.
pub(super) fn check(precision: Precision) -> Result<()> {
    match precision {
        Precision::F32 | Precision::F16 => Ok(()),
        Precision::Bf16 | Precision::Int8 => Err(Error::Unsupported(format!(
            "{} is a precision of the processor; a GPU's are f16 and f32",
            precision.name()
        ))),
    }
}

/// What the GPU with an ordinal is.
///
/// # Errors
/// [`Error::NoDevice`] if there is none; [`Error::Device`].
pub fn info(ordinal: u32) -> Result<DeviceInfo> {
    let driver = driver()?;
    let properties = Properties::of(&driver, ordinal)?;
    // A GPU may refuse a context, such as one that another process has to itself.
    let context = Context::new(&driver, properties.clone());
    let free = context.and_then(|context| context.free_bytes()).unwrap_or(0);
    Ok(described(&driver, &properties, free))
}

fn described(driver: &Driver, gpu: &Properties, free: u64) -> DeviceInfo {
    let Limits { capability, .. } = gpu.limits;
    DeviceInfo {
        kind: "cuda",
        name: gpu.name.clone(),
        memory_total_bytes: gpu.total_bytes,
        memory_free_bytes: free,
        gpu: Some(GpuInfo {
            ordinal: gpu.ordinal,
            capability: [capability / 10, capability % 10],
            driver: driver.version().to_string(),
            kernels: images::covering(gpu.limits).next(),
        }),
    }
}

/// An NVIDIA GPU as a device. What is asked of it is done in order, and later: the processor goes on
/// meanwhile, at most two tiles ahead.
pub struct Cuda {
    info: DeviceInfo,
    // What they allocated goes first, then the context.
    mosaic: Option<Mosaic>,
    metering: Option<Metering>,
    network: Option<Loaded>,
    /// The ends of the passes that are under way, in a ring.
    passes: [Event; AHEAD],
    /// How many were asked for.
    asked: usize,
    gpu: Gpu,
}

/// Bytes that are left alone when all that is free may be taken: the driver hands out memory in pieces
/// of 2 MiB, so that each of about thirty buffers may take as much more than was asked for.
const MARGIN: u64 = 64 << 20;

/// How many passes may be under way: one that runs, and one whose launch it hides. More would only
/// make a cancelled run end later.
const AHEAD: usize = 2;

/// A network on the device.
struct Loaded {
    plan: Arc<Plan>,
    forward: Forward,
    head: Head,
}

impl Cuda {
    /// The GPU with an ordinal.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it is to hold values in bf16 or int8; [`Error::NoDevice`] if there is none or
    /// our kernels don't cover it; [`Error::Device`].
    pub fn open(ordinal: u32, precision: Precision) -> Result<Self> {
        check(precision)?;
        let driver = driver()?;
        let properties = Properties::of(&driver, ordinal)?;
        if images::covering(properties.limits).next().is_none() {
            return Err(too_old(&properties));
        }
        let context = Context::new(&driver, properties)?;
        let info = described(&driver, context.properties(), context.free_bytes()?);
        let passes = [Event::new(&context)?, Event::new(&context)?];
        let gpu = Gpu::new(&context, precision)?;
        Ok(Self { info, mosaic: None, metering: None, network: None, passes, asked: 0, gpu })
    }

    /// Waits for everything that was asked of it; failures of work that nobody waits for are found
    /// again by whoever asks next.
    fn settle(&self) {
        let _ = self.gpu.stream.wait("finishing");
    }
}

/// How long one operation of a network takes.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTime {
    /// The name of its weights, without their ending.
    pub name: String,
    /// The kernel that does most of it.
    pub kernel: String,
    /// What it took, on the GPU's clock.
    pub seconds: f64,
    /// Two for each multiplication.
    pub operations: f64,
    /// Of each tensor and weight that it reads or writes, each counted once.
    pub bytes: f64,
}

/// For benchmarks.
impl Cuda {
    /// Has the shortcuts of the networks that are loaded next made together with their blocks' first
    /// convolutions, or apart from them.
    pub fn make_shortcuts(&mut self, how: Shortcuts) {
        self.gpu.shortcuts = how;
    }

    /// The median time of each operation of the loaded network over `rounds` passes, in the order
    /// they run.
    ///
    /// # Errors
    /// If nothing is loaded, or the device fails.
    pub fn layer_times(&mut self, rounds: usize) -> Result<Vec<LayerTime>> {
        let network = out_of_order(self.network.as_ref(), "load")?;
        network.forward.layer_times(&self.gpu, rounds)
    }

    /// Seconds that what `work` asks of the device takes, on the GPU's clock.
    ///
    /// # Errors
    /// Those of `work`; if the device fails.
    pub fn timed(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<f64> {
        let doing = "timing";
        self.gpu.stream.wait(doing)?;
        let [begin, end] = [Event::new(self.gpu.context())?, Event::new(self.gpu.context())?];
        begin.record(&self.gpu.stream)?;
        work(self)?;
        end.record(&self.gpu.stream)?;
        end.wait(doing)?;
        end.seconds_since(&begin)
    }
}

impl Device for Cuda {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn precision(&self) -> Precision {
        self.gpu.precision
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let free = self.gpu.context().free_bytes()?;
        Ok(Some(free.saturating_sub(MARGIN)))
    }

    fn loaded_memory(&self, plan: &Plan, folds: usize) -> Result<Vec<MemoryPart>> {
        let mut parts = Schedule::of(plan, &self.gpu)?.memory(folds);
        parts.push(Head::memory(&plan.network, folds));
        Ok(parts)
    }

    fn job_memory(&self, plan: &Plan, folds: usize, job: &JobSize) -> Vec<MemoryPart> {
        let network = &plan.network;
        let padded = |channels: usize| channels.next_multiple_of(CHANNEL_BLOCK);
        let features = padded(network.tensors[network.output.0].channels);
        let head = [features, folds, padded(network.classes), network.classes];
        mosaic::memory(job, head, network.patch())
    }

    fn meter_bytes(&self, native: [usize; 3], resampled: Option<&JobSize>) -> u64 {
        meter::bytes(native, resampled)
    }

    fn load(&mut self, plan: Arc<Plan>, weights: &dyn Weights) -> Result<()> {
        if !plan.displaced.is_empty() {
            return Err(another_device_s_plan());
        }
        self.finish();
        // Before the next one takes memory.
        self.network = None;
        let forward = Forward::load(&self.gpu, Arc::clone(&plan), weights)?;
        let head = Head::load(&self.gpu, &plan.network, weights)?;
        self.network = Some(Loaded { plan, forward, head });
        Ok(())
    }

    fn begin(&mut self, job: Job) -> Result<()> {
        self.finish();
        let network = out_of_order(self.network.as_ref(), "load")?;
        self.mosaic =
            Some(Mosaic::new(&self.gpu, job, &network.head, network.plan.network.patch())?);
        Ok(())
    }

    fn feed(&mut self, planes: Range<usize>, values: &[f32]) -> Result<()> {
        out_of_order(self.mosaic.as_mut(), "begin")?.feed(&self.gpu, planes, values)
    }

    fn resamples(&self) -> bool {
        true
    }

    fn meter(&mut self) -> Option<&mut dyn Meter> {
        Some(self)
    }

    fn feed_native(&mut self, channel: usize, planes: Range<usize>, values: &[f32]) -> Result<()> {
        let mosaic = out_of_order(self.mosaic.as_mut(), "begin")?;
        mosaic.feed_native(&self.gpu, channel, planes, values)
    }

    fn resample(&mut self, planes: Range<usize>) -> Result<()> {
        out_of_order(self.mosaic.as_ref(), "begin")?.resample(&self.gpu, &planes)
    }

    fn gather(&mut self, tile: &Tile, mirror: [bool; 3]) -> Result<()> {
        let network = out_of_order(self.network.as_ref(), "load")?;
        let mosaic = out_of_order(self.mosaic.as_ref(), "begin")?;
        mosaic.gather(&self.gpu, tile, mirror, network.forward.input())
    }

    fn measure(&mut self, limit_seconds: f64) -> Result<f64> {
        out_of_order(self.network.as_ref(), "load")?.forward.measure(&self.gpu, limit_seconds)
    }

    fn forward(&mut self, fold: usize) -> Result<()> {
        let network = out_of_order(self.network.as_ref(), "load")?;
        let end = &self.passes[self.asked % AHEAD];
        if self.asked >= AHEAD {
            end.wait("running the network")?;
        }
        network.forward.run(&self.gpu, fold)?;
        end.record(&self.gpu.stream)?;
        self.asked += 1;
        Ok(())
    }

    fn blend(&mut self, tile: &Tile, mirror: [bool; 3], fold: usize) -> Result<()> {
        let network = out_of_order(self.network.as_ref(), "load")?;
        let mosaic = out_of_order(self.mosaic.as_mut(), "begin")?;
        let features = network.forward.output();
        mosaic.blend(&self.gpu, tile, mirror, fold, &network.head, features)
    }

    fn ask_resolve(&mut self, slab: &Slab, _: &mut SlabOutput) -> Result<bool> {
        let network = out_of_order(self.network.as_ref(), "load")?;
        let mosaic = out_of_order(self.mosaic.as_mut(), "begin")?;
        mosaic.ask_resolve(&self.gpu, slab, &network.head)?;
        Ok(false)
    }

    fn collect(&mut self, output: &mut SlabOutput) -> Result<()> {
        let network = out_of_order(self.network.as_ref(), "load")?;
        let mosaic = out_of_order(self.mosaic.as_mut(), "begin")?;
        mosaic.collect(&self.gpu, output, &network.head)
    }

    fn finish(&mut self) {
        if self.mosaic.is_some() || self.metering.is_some() {
            self.settle();
        }
        self.mosaic = None;
        self.metering = None;
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.settle();
    }
}
