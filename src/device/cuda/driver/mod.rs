//! A small layer over CUDA's driver API: handles that free themselves, errors that say what was
//! being done, and the context made current for the length of each call.
//!
//! The driver is looked for at run time. Its version 12.0 (driver 525) is the oldest that can load
//! what we ship, and it has every function called here.

mod context;
mod launch;
mod memory;

use std::ffi::CStr;
use std::fmt;

use cudarc::driver::sys;

pub use context::{Context, Limits, Properties, Stream};
pub use launch::{Event, Graph, Kernel, Launch, Module};
pub use memory::{Address, Buffer, Pinned};

use crate::base::{Error, Result};

/// The oldest version of the driver's interface that will do.
const OLDEST: Version = Version(12000);

/// The newest CUDA that a driver supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// Why CUDA can't be used on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// libcuda was not found.
    #[error("no NVIDIA driver was found (libcuda)")]
    NoDriver,
    /// The driver is older than what we ship.
    #[error(
        "the NVIDIA driver supports CUDA {found}; voxtile needs {OLDEST} (driver 525) or newer"
    )]
    OldDriver {
        /// What it supports.
        found: Version,
    },
    /// The driver sees no GPU.
    #[error("the NVIDIA driver sees no GPU")]
    NoDevice,
    /// The driver does not start.
    #[error("{0}")]
    Broken(String),
}

/// The driver, initialised.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    version: Version,
    devices: u32,
}

impl Driver {
    /// Looks for the driver and starts it.
    ///
    /// # Errors
    /// Why there is none that will do.
    pub fn open() -> std::result::Result<Self, Unavailable> {
        // SAFETY: opens and closes the library; its initialisers are the driver's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(Unavailable::NoDriver);
        }
        let broken = |error: Error| Unavailable::Broken(error.to_string());
        let mut version = 0;
        // SAFETY: writes one number; needs no initialisation.
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        check(asked, "asking for the driver's version").map_err(broken)?;
        let found = Version(version);
        if found < OLDEST {
            return Err(Unavailable::OldDriver { found });
        }
        // SAFETY: may be called any number of times, from any thread.
        match unsafe { sys::cuInit(0) } {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(Unavailable::NoDevice),
            result => check(result, "starting the NVIDIA driver").map_err(broken)?,
        }
        let mut count = 0;
        // SAFETY: writes one number; the driver is initialised.
        let asked = unsafe { sys::cuDeviceGetCount(&raw mut count) };
        check(asked, "counting GPUs").map_err(broken)?;
        match u32::try_from(count) {
            Ok(devices @ 1..) => Ok(Self { version: found, devices }),
            _ => Err(Unavailable::NoDevice),
        }
    }

    /// The newest CUDA it supports.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many GPUs it sees, at least one; their ordinals count from 0.
    pub fn devices(&self) -> u32 {
        self.devices
    }
}

/// An error, if `result` is one, of what was being done.
fn check(result: sys::CUresult, doing: &str) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    type Describe = unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult;
    let text = |describe: Describe| {
        let mut text = std::ptr::null();
        // SAFETY: writes a pointer to a static string, or leaves it or makes it null.
        unsafe { describe(result, &raw mut text) };
        // SAFETY: if not null it is a static string that ends in NUL.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    Err(Error::Device {
        doing: doing.into(),
        number: result as i32,
        name: text(sys::cuGetErrorName).unwrap_or_else(|| format!("CUDA error {}", result as u32)),
        reason: text(sys::cuGetErrorString).unwrap_or_else(|| "no description".into()),
    })
}

/// The error of a range that leaves its buffer: a bug of ours, not of the user.
fn out_of_bounds(doing: &str, end: Option<usize>, length: usize) -> Result<()> {
    match end {
        Some(end) if end <= length => Ok(()),
        _ => Err(Error::Internal(format!("{doing}: element {end:?} of {length}"))),
    }
}
