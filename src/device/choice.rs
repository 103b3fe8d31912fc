//! Which devices there are, and which one is taken.

use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Device, DeviceInfo, Precision, cpu};
use crate::base::{Error, Pool, Result};

/// Which device a session runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that works, that our kernels cover, that can compute the model and that has
    /// room for it, or else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The NVIDIA GPU with this ordinal.
    Cuda(u32),
}

/// A device that was opened.
pub struct Opened {
    /// The device.
    pub device: Box<dyn Device>,
    /// Where the choice was left to voxtile and the processor was taken: why no GPU was.
    pub fallback: Option<String>,
}

/// Opens a device and makes something `ready` on it; the processor works with the threads of `pool`.
/// Without a `precision` a device takes the one it is made for.
///
/// With [`DeviceChoice::Auto`] each GPU is tried in turn; where it does not open, or `ready` fails for
/// a reason that another device may not have, the next one is, and then the processor.
///
/// # Errors
/// Those of `ready`; [`Error::NoDevice`] if there is no such device; [`Error::Unsupported`] if it
/// lacks the precision; [`Error::Device`] if it does not work; [`Error::Argument`] as
/// [`cpu::Instructions::chosen`].
pub fn open<T>(
    choice: DeviceChoice,
    precision: Option<Precision>,
    pool: &Arc<Pool>,
    ready: impl Fn(Opened) -> Result<T>,
) -> Result<T> {
    let on_gpu = |ordinal| ready(Opened { device: gpu(ordinal, precision)?, fallback: None });
    let processor = || cpu::Cpu::open(Arc::clone(pool), precision.unwrap_or(Precision::F32));
    let mut refused = Vec::new();
    match choice {
        DeviceChoice::Cpu => {
            return ready(Opened { device: Box::new(processor()?), fallback: None });
        }
        DeviceChoice::Cuda(ordinal) => return on_gpu(ordinal),
        DeviceChoice::Auto => match gpus(precision) {
            Err(error) => refused.push(error),
            Ok(ordinals) => {
                for ordinal in ordinals {
                    match on_gpu(ordinal) {
                        Err(error) if of_the_gpu(&error) => refused.push(error),
                        done => return done,
                    }
                }
            }
        },
    }
    let whys: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let why = whys.join("; ");
    match processor() {
        Ok(device) => ready(Opened { device: Box::new(device), fallback: Some(why) }),
        // A precision that GPUs alone have.
        Err(Error::Unsupported(needs)) => {
            let there = refused.into_iter().find(|error| !matches!(error, Error::NoDevice(_)));
            Err(there.unwrap_or_else(|| Error::NoDevice(format!("{needs}: {why}"))))
        }
        Err(error) => Err(error),
    }
}

/// Whether an error is one that another device may not have.
fn of_the_gpu(error: &Error) -> bool {
    matches!(
        error,
        Error::NoDevice(_)
            | Error::Unsupported(_)
            | Error::DeviceMemory { .. }
            | Error::Device { .. }
    )
}

/// How many GPUs the driver sees, at least one.
///
/// # Errors
/// [`Error::NoDevice`]: why there is none.
pub fn gpu_count() -> Result<u32> {
    #[cfg(feature = "cuda")]
    return cuda::count();
    #[cfg(not(feature = "cuda"))]
    Err(without_cuda())
}

/// What the GPU with an ordinal is. Asking for its free memory takes a moment.
///
/// # Errors
/// [`Error::NoDevice`] if there is none; [`Error::Device`].
pub fn gpu_info(
    #[cfg_attr(not(feature = "cuda"), allow(unused))] ordinal: u32,
) -> Result<DeviceInfo> {
    #[cfg(feature = "cuda")]
    return cuda::info(ordinal);
    #[cfg(not(feature = "cuda"))]
    Err(without_cuda())
}

/// The ordinals of the GPUs, at least one, that may be opened with a precision.
#[cfg(feature = "cuda")]
fn gpus(precision: Option<Precision>) -> Result<Range<u32>> {
    cuda::check(precision.unwrap_or(Precision::F16))?;
    Ok(0..cuda::count()?)
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: u32, precision: Option<Precision>) -> Result<Box<dyn Device>> {
    let precision = precision.unwrap_or(Precision::F16);
    Ok(Box::new(cuda::Cuda::open(ordinal, precision)?))
}

#[cfg(not(feature = "cuda"))]
fn gpus(_: Option<Precision>) -> Result<Range<u32>> {
    Err(without_cuda())
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: u32, _: Option<Precision>) -> Result<Box<dyn Device>> {
    Err(without_cuda())
}

#[cfg(not(feature = "cuda"))]
fn without_cuda() -> Error {
    Error::NoDevice("this build of voxtile has no CUDA".into())
}
