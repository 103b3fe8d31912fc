//! A small layer over CUDA's driver API: handles that free themselves, errors that say what was
//! being done, and the context made current for the length of each call.
//!
//! The driver is looked for at run time. Its version 12.0 (driver 525) is the oldest that can load
//! what we ship, and it has every function called here.

mod api;
mod context;
mod launch;
mod memory;

use std::ffi::CStr;
use std::fmt;

use api::{Api, Status};
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
#[derive(Clone, Copy)]
pub struct Driver {
    api: &'static Api,
    version: Version,
    devices: u32,
}

impl Driver {
    /// Looks for the driver and starts it.
    ///
    /// # Errors
    /// Why there is none that will do.
    pub fn open() -> std::result::Result<Self, Unavailable> {
        let api = Api::get().ok_or(Unavailable::NoDriver)?;
        let broken = |error: Error| Unavailable::Broken(error.to_string());
        let mut version = 0;
        // SAFETY: writes one number; needs no initialisation.
        let asked = unsafe { (api.cuDriverGetVersion)(&raw mut version) };
        api.check(asked, "asking for the driver's version").map_err(broken)?;
        let found = Version(version);
        if found < OLDEST {
            return Err(Unavailable::OldDriver { found });
        }
        // SAFETY: may be called any number of times, from any thread.
        match unsafe { (api.cuInit)(0) } {
            Status::NO_DEVICE => return Err(Unavailable::NoDevice),
            result => api.check(result, "starting the NVIDIA driver").map_err(broken)?,
        }
        let mut count = 0;
        // SAFETY: writes one number; the driver is initialised.
        let asked = unsafe { (api.cuDeviceGetCount)(&raw mut count) };
        api.check(asked, "counting GPUs").map_err(broken)?;
        match u32::try_from(count) {
            Ok(devices @ 1..) => Ok(Self { api, version: found, devices }),
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

impl Api {
    /// An error, if `status` is one, of what was being done.
    fn check(&self, status: Status, doing: &str) -> Result<()> {
        if status == Status::SUCCESS {
            return Ok(());
        }
        type Describe = unsafe extern "C" fn(Status, *mut *const std::ffi::c_char) -> Status;
        let text = |describe: Describe| {
            let mut text = std::ptr::null();
            // SAFETY: writes a pointer to a static string, or leaves it or makes it null.
            unsafe { describe(status, &raw mut text) };
            // SAFETY: if not null it is a static string that ends in NUL.
            let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) });
            text.map(|text| text.to_string_lossy().into_owned())
        };
        let Status(number) = status;
        Err(Error::Device {
            doing: doing.into(),
            number,
            name: text(self.cuGetErrorName).unwrap_or_else(|| format!("CUDA error {number}")),
            reason: text(self.cuGetErrorString).unwrap_or_else(|| "no description".into()),
        })
    }
}

/// The error of a range that leaves its buffer: a bug of ours, not of the user.
fn out_of_bounds(doing: &str, end: Option<usize>, length: usize) -> Result<()> {
    match end {
        Some(end) if end <= length => Ok(()),
        _ => Err(Error::Internal(format!("{doing}: element {end:?} of {length}"))),
    }
}
