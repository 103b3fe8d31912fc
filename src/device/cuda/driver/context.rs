//! A GPU's context, and streams of work on it.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::api::Api;
use super::{Driver, Graph};
use crate::base::{Error, Result};

/// What a GPU can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Compute capability, 10 times major plus minor: 90 is 9.0.
    pub capability: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its number, from 0.
    pub ordinal: u32,
    /// "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// What it can do.
    pub limits: Limits,
    /// Bytes of its memory in all.
    pub total_bytes: u64,
    device: sys::CUdevice,
}

impl Properties {
    /// Those of the GPU with an ordinal.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is none; [`Error::Device`].
    pub fn of(driver: &Driver, ordinal: u32) -> Result<Self> {
        let (api, doing) = (driver.api, &format!("asking about GPU {ordinal}"));
        if ordinal >= driver.devices() {
            let last = driver.devices() - 1;
            let have = if last == 0 { "only GPU 0".into() } else { format!("GPUs 0 to {last}") };
            return Err(Error::NoDevice(format!("there is no GPU {ordinal}, but {have}")));
        }
        let mut device = 0;
        // SAFETY: writes one number; `Driver` says the driver is initialised.
        api.check(unsafe { (api.cuDeviceGet)(&raw mut device, ordinal as i32) }, doing)?;
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: writes one number of a device that exists.
            let asked = unsafe { (api.cuDeviceGetAttribute)(&raw mut value, attribute, device) };
            api.check(asked, doing).map(|()| u32::try_from(value).unwrap_or(0))
        };
        let limits = Limits {
            capability: 10 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
                + attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        };
        let mut name = [0u8; 256];
        // SAFETY: writes at most so many bytes, the last of them NUL.
        let asked = unsafe { (api.cuDeviceGetName)(name.as_mut_ptr().cast(), 256, device) };
        api.check(asked, doing)?;
        let name = std::ffi::CStr::from_bytes_until_nul(&name).unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let mut total = 0;
        // SAFETY: writes one number.
        api.check(unsafe { (api.cuDeviceTotalMem_v2)(&raw mut total, device) }, doing)?;
        Ok(Self { ordinal, name, limits, total_bytes: total as u64, device })
    }
}

/// A GPU's primary context, shared with whatever else in this process runs on the GPU. Clones are
/// the same context; it may be used from any thread.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    api: &'static Api,
    properties: Properties,
    context: sys::CUcontext,
}

// SAFETY: contexts may be used from any thread; nothing else in it is tied to one.
unsafe impl Send for Shared {}
// SAFETY: the driver's functions lock what they need; no field changes.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: retained once by `Context::new`; everything made in it holds a clone.
        let _ = unsafe { (self.api.cuDevicePrimaryCtxRelease_v2)(self.properties.device) };
    }
}

/// A context is current on this thread until this is dropped; then the one before it is again.
/// Meanwhile it is the driver's functions.
pub(super) struct Current {
    api: &'static Api,
    previous: sys::CUcontext,
    _this_thread_only: PhantomData<*const ()>,
}

impl Deref for Current {
    type Target = Api;

    fn deref(&self) -> &Api {
        self.api
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // SAFETY: it was current before, or is null for none.
        let _ = unsafe { (self.api.cuCtxSetCurrent)(self.previous) };
    }
}

impl Context {
    /// The context of a GPU.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(driver: &Driver, properties: Properties) -> Result<Self> {
        let api = driver.api;
        let mut context = std::ptr::null_mut();
        // SAFETY: writes one handle; released when `Shared` is dropped.
        let result = unsafe { (api.cuDevicePrimaryCtxRetain)(&raw mut context, properties.device) };
        api.check(result, &format!("opening {}", properties.name))?;
        Ok(Self(Arc::new(Shared { api, properties, context })))
    }

    /// What the GPU is.
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// The GPU's name.
    pub fn name(&self) -> &str {
        &self.properties().name
    }

    /// What the GPU can do.
    pub fn limits(&self) -> Limits {
        self.properties().limits
    }

    /// Bytes of the GPU's memory that nobody has now.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn free_bytes(&self) -> Result<u64> {
        let current = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers; the context is current.
        let asked = unsafe { (current.cuMemGetInfo_v2)(&raw mut free, &raw mut total) };
        current.check(asked, "asking for free memory").map(|()| free as u64)
    }

    /// Makes it current on this thread.
    pub(super) fn enter(&self) -> Result<Current> {
        let api = self.0.api;
        let mut previous = std::ptr::null_mut();
        // SAFETY: writes one handle.
        api.check(unsafe { (api.cuCtxGetCurrent)(&raw mut previous) }, "asking for the context")?;
        // SAFETY: the context lives as long as `self`.
        api.check(unsafe { (api.cuCtxSetCurrent)(self.0.context) }, "entering the context")?;
        Ok(Current { api, previous, _this_thread_only: PhantomData })
    }
}

/// Work in the order it was asked for, and in none with that of other streams.
pub struct Stream {
    context: Context,
    stream: sys::CUstream,
}

// SAFETY: streams may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// A new stream.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(context: &Context) -> Result<Self> {
        let current = context.enter()?;
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle; the context is current.
        let made = unsafe { (current.cuStreamCreate)(&raw mut stream, flags) };
        current.check(made, "making a stream")?;
        Ok(Self { context: context.clone(), stream })
    }

    /// The context it is in.
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.stream
    }

    /// Waits for its work, which is called `doing` if it failed.
    ///
    /// # Errors
    /// [`Error::Device`], also of work that was asked for earlier.
    pub fn wait(&self, doing: &str) -> Result<()> {
        let current = self.context.enter()?;
        // SAFETY: the stream and its context live.
        current.check(unsafe { (current.cuStreamSynchronize)(self.stream) }, doing)
    }

    /// Records what `work` asks of the stream instead of doing it. It may launch kernels and fill
    /// or copy on the device; it may neither allocate nor wait.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Device`].
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let current = self.context.enter()?;
        let doing = "recording a graph";
        // Other sessions go on allocating meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream and its context live.
        current.check(unsafe { (current.cuStreamBeginCapture_v2)(self.stream, mode) }, doing)?;
        let done = work();
        let mut graph = std::ptr::null_mut();
        // SAFETY: ends what was begun above; writes one handle, null if the capture failed.
        let ended = unsafe { (current.cuStreamEndCapture)(self.stream, &raw mut graph) };
        let ended = done.and_then(|()| current.check(ended, doing));
        Graph::new(&self.context, &current, graph, ended)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: made by `new`; what is under way is finished before it is gone.
            let _ = unsafe { (current.cuStreamDestroy_v2)(self.stream) };
        }
    }
}
