//! NVIDIA GPUs: our own kernels, and the driver that is found at run time.
#![allow(unsafe_code)]

pub mod driver;
mod head;
mod images;
mod mosaic;
mod parameters;
mod resolve;
mod volume;

use self::driver::{Context, Driver, Kernel, Limits, Module, Properties, Stream};
use std::ops::Range;
use std::sync::Arc;

use super::{Device, DeviceInfo, GpuInfo, Job, JobSize, MemoryPart, Precision, SlabOutput};
use crate::base::{Error, Result};
use crate::net::{Plan, Weights};
use crate::window::{Slab, Tile};

/// What the parts of the device share: a stream of its own on a GPU, and the kernels.
pub(crate) struct Gpu {
    /// All work of this device, in order.
    pub(crate) stream: Stream,
    /// How activations are held.
    pub(crate) precision: Precision,
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
                Ok(module) => return Ok(Self { stream: Stream::new(context)?, precision, module }),
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

/// What the GPU with an ordinal is.
///
/// # Errors
/// [`Error::NoDevice`] if there is none; [`Error::Device`].
pub fn info(ordinal: u32) -> Result<DeviceInfo> {
    let driver = driver()?;
    let properties = Properties::of(&driver, ordinal)?;
    // A GPU may refuse a context, such as one that another process has to itself.
    let context = Context::new(properties.clone());
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

/// The GPU with an ordinal, or the first that our kernels cover.
fn choose(driver: &Driver, ordinal: Option<u32>) -> Result<Properties> {
    if let Some(ordinal) = ordinal {
        return Properties::of(driver, ordinal);
    }
    let first = Properties::of(driver, 0)?;
    for ordinal in 0..driver.devices() {
        let gpu = Properties::of(driver, ordinal)?;
        if images::covering(gpu.limits).next().is_some() {
            return Ok(gpu);
        }
    }
    Err(too_old(&first))
}

/// An NVIDIA GPU as a device.
pub struct Cuda {
    info: DeviceInfo,
    gpu: Gpu,
}

impl Cuda {
    /// The GPU with an ordinal, or the first that our kernels cover.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is none or our kernels don't cover it; [`Error::Device`].
    pub fn open(ordinal: Option<u32>, precision: Precision) -> Result<Self> {
        let driver = driver()?;
        let context = Context::new(choose(&driver, ordinal)?)?;
        let info = described(&driver, context.properties(), context.free_bytes()?);
        Ok(Self { info, gpu: Gpu::new(&context, precision)? })
    }
}

fn unfinished<T>() -> Result<T> {
    Err(Error::Internal("the kernels are not here yet".into()))
}

impl Device for Cuda {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn precision(&self) -> Precision {
        self.gpu.precision
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.gpu.context().free_bytes().map(Some)
    }

    fn loaded_memory(&self, _plan: &Plan, _folds: usize) -> Vec<MemoryPart> {
        Vec::new()
    }

    fn job_memory(&self, _plan: &Plan, _folds: usize, _job: &JobSize) -> Vec<MemoryPart> {
        Vec::new()
    }

    fn load(&mut self, _plan: Arc<Plan>, _weights: &dyn Weights) -> Result<()> {
        unfinished()
    }

    fn begin(&mut self, _job: Job) -> Result<()> {
        unfinished()
    }

    fn feed(&mut self, _planes: Range<usize>, _values: &[f32]) -> Result<()> {
        unfinished()
    }

    fn gather(&mut self, _tile: &Tile, _mirror: [bool; 3]) -> Result<()> {
        unfinished()
    }

    fn measure(&mut self, _limit_seconds: f64) -> Result<f64> {
        unfinished()
    }

    fn forward(&mut self, _fold: usize) -> Result<()> {
        unfinished()
    }

    fn blend(&mut self, _tile: &Tile, _mirror: [bool; 3], _fold: usize) -> Result<()> {
        unfinished()
    }

    fn resolve(&mut self, _slab: &Slab, _output: &mut SlabOutput) -> Result<()> {
        unfinished()
    }

    fn finish(&mut self) {}
}
