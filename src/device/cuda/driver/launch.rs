//! Kernels and how they are launched, one by one or as a recorded graph; time between events.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUfunction_attribute as Attribute};

use super::context::Current;
use super::{Context, Stream};
use crate::base::{Error, Result};

/// Bytes of dynamic shared memory that need no asking.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

/// Kernels that the driver has loaded.
#[derive(Clone)]
pub struct Module(Arc<Loaded>);

struct Loaded {
    context: Context,
    module: sys::CUmodule,
}

// SAFETY: modules may be used from any thread.
unsafe impl Send for Loaded {}
// SAFETY: the driver's functions lock what they need; no field changes.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: loaded by `Module::new`; every kernel of it holds a clone.
            let _ = unsafe { (current.cuModuleUnload)(self.module) };
        }
    }
}

impl Module {
    /// Loads a cubin or a PTX text; `what` names it.
    ///
    /// # Errors
    /// [`Error::Device`], also if the driver can't make this GPU's code of it.
    pub fn new(context: &Context, what: &str, image: &[u8]) -> Result<Self> {
        let current = context.enter()?;
        // PTX must end in NUL, and a cubin be aligned: both are copied once.
        let mut words = vec![0u128; image.len() / size_of::<u128>() + 1];
        bytemuck::cast_slice_mut(&mut words)[..image.len()].copy_from_slice(image);
        let mut module = std::ptr::null_mut();
        // SAFETY: writes one handle; the image is whole, ends in NUL and is copied by the call.
        let result = unsafe { (current.cuModuleLoadData)(&raw mut module, words.as_ptr().cast()) };
        current.check(result, &format!("loading the kernels of {what}"))?;
        Ok(Self(Arc::new(Loaded { context: context.clone(), module })))
    }

    /// The kernel of a name.
    ///
    /// # Errors
    /// [`Error::Device`] if there is none.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let doing = format!("looking for the kernel {name}");
        let current = self.0.context.enter()?;
        let c_name = CString::new(name)
            .map_err(|_| Error::Internal(format!("a kernel's name {name:?} has a NUL")))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: writes one handle of a module that lives; the name ends in NUL.
        let result = unsafe {
            (current.cuModuleGetFunction)(&raw mut function, self.0.module, c_name.as_ptr())
        };
        current.check(result, &doing)?;
        // Drivers load code when it is asked about or launched for the first time. That must not
        // happen in a capture, which forbids what it waits for.
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_BINARY_VERSION;
        let mut version = 0;
        // SAFETY: writes one number about a function that lives.
        let asked = unsafe { (current.cuFuncGetAttribute)(&raw mut version, attribute, function) };
        current.check(asked, &doing)?;
        let shared_bytes = AtomicU32::new(DEFAULT_SHARED_BYTES);
        Ok(Kernel { module: self.clone(), name: name.into(), function, shared_bytes })
    }
}

/// One kernel.
pub struct Kernel {
    module: Module,
    name: String,
    function: sys::CUfunction,
    /// Dynamic shared memory that it was allowed.
    shared_bytes: AtomicU32,
}

// SAFETY: functions may be used from any thread.
unsafe impl Send for Kernel {}
// SAFETY: the driver's functions lock what they need.
unsafe impl Sync for Kernel {}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Launches it in the order of `stream`; a grid without blocks does nothing.
    ///
    /// # Safety
    /// `parameters` is the kernel's only parameter, and every address in it leads to device memory
    /// as large as the kernel takes it to be. That memory and this kernel live until the launch, or
    /// the graph that records it, has run for the last time, and no other stream writes to what it
    /// reads or writes meanwhile.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub unsafe fn launch<P: Pod>(
        &self,
        stream: &Stream,
        launch: Launch,
        parameters: &P,
    ) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        self.prepare(launch)?;
        let current = stream.context().enter()?;
        let ([x, y, z], threads) = (launch.grid, launch.threads);
        let mut list = [std::ptr::from_ref(parameters).cast_mut().cast()];
        // SAFETY: the driver copies the parameters during the call; the rest is the caller's word.
        let result = unsafe {
            (current.cuLaunchKernel)(
                self.function,
                x,
                y,
                z,
                threads,
                1,
                1,
                launch.shared_bytes,
                stream.handle(),
                list.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        current.check(result, &format!("launching {}", self.name))
    }

    /// Asks for what a launch needs beforehand: all that is left to a capture is to record it.
    ///
    /// # Errors
    /// [`Error::Device`], also if the GPU has no block of so much shared memory.
    pub fn prepare(&self, launch: Launch) -> Result<()> {
        let Launch { shared_bytes, .. } = launch;
        if shared_bytes <= self.shared_bytes.load(Ordering::Relaxed) {
            return Ok(());
        }
        let current = self.context().enter()?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
        // SAFETY: sets a number of a function that lives.
        let result = unsafe { (current.cuFuncSetAttribute)(self.function, attribute, bytes) };
        current.check(
            result,
            &format!("giving {} {shared_bytes} bytes of shared memory", self.name),
        )?;
        self.shared_bytes.store(shared_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The context it was loaded into.
    pub fn context(&self) -> &Context {
        &self.module.0.context
    }
}

/// A point in a stream's work.
pub struct Event {
    context: Context,
    event: sys::CUevent,
}

// SAFETY: events may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// An event that was not recorded yet.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(context: &Context) -> Result<Self> {
        let current = context.enter()?;
        let mut event = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: writes one handle; the context is current.
        let made = unsafe { (current.cuEventCreate)(&raw mut event, flags) };
        current.check(made, "making an event")?;
        Ok(Self { context: context.clone(), event })
    }

    /// Marks the end of what was asked of `stream` so far.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn record(&self, stream: &Stream) -> Result<()> {
        let current = self.context.enter()?;
        // SAFETY: both handles live.
        current.check(
            unsafe { (current.cuEventRecord)(self.event, stream.handle()) },
            "recording an event",
        )
    }

    /// Waits until the stream gets there; the work before it is called `doing` if it failed.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn wait(&self, doing: &str) -> Result<()> {
        let current = self.context.enter()?;
        // SAFETY: the handle lives.
        current.check(unsafe { (current.cuEventSynchronize)(self.event) }, doing)
    }

    /// Seconds on the device's clock since another event; both were recorded and waited for.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64> {
        let current = self.context.enter()?;
        let mut milliseconds = 0.0f32;
        // SAFETY: writes one number; both handles live.
        let result = unsafe {
            (current.cuEventElapsedTime)(&raw mut milliseconds, earlier.event, self.event)
        };
        current.check(result, "measuring time").map(|()| f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: made by `new`.
            let _ = unsafe { (current.cuEventDestroy_v2)(self.event) };
        }
    }
}

/// Work that was recorded and can be launched as one.
pub struct Graph {
    context: Context,
    executable: sys::CUgraphExec,
}

// SAFETY: an executable graph may be launched from any thread, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Takes over what a capture left, and makes it ready.
    pub(super) fn new(
        context: &Context,
        current: &Current,
        graph: sys::CUgraph,
        ended: Result<()>,
    ) -> Result<Self> {
        let mut executable = std::ptr::null_mut();
        let made = ended.and_then(|()| {
            // SAFETY: writes one handle; the graph came out of a capture that succeeded.
            let result =
                unsafe { (current.cuGraphInstantiateWithFlags)(&raw mut executable, graph, 0) };
            current.check(result, "making a graph")
        });
        if !graph.is_null() {
            // SAFETY: the executable graph does not refer to it.
            let _ = unsafe { (current.cuGraphDestroy)(graph) };
        }
        made.map(|()| Self { context: context.clone(), executable })
    }

    /// Does the recorded work in the order of `stream`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        let current = self.context.enter()?;
        // SAFETY: both handles live; whoever launched the recorded kernels keeps their memory.
        let result = unsafe { (current.cuGraphLaunch)(self.executable, stream.handle()) };
        current.check(result, "launching a graph")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: made by `new`; what is under way goes on.
            let _ = unsafe { (current.cuGraphExecDestroy)(self.executable) };
        }
    }
}
