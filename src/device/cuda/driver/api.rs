//! The functions of CUDA's driver API that are called, as they are found in libcuda at run time.
//!
//! cudarc finds the library and declares the handles. Its own functions are not called: they return
//! an enumeration, which must not hold the numbers that a newer driver may return, and panic where
//! the library lacks one. What an older library lacks returns `CUDA_ERROR_NOT_FOUND` here.

use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys;

/// What a function returns: `CUresult`, but any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Status(pub(super) i32);

impl Status {
    pub(super) const SUCCESS: Self = Self(sys::CUresult::CUDA_SUCCESS as i32);
    pub(super) const OUT_OF_MEMORY: Self = Self(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as i32);
    pub(super) const NO_DEVICE: Self = Self(sys::CUresult::CUDA_ERROR_NO_DEVICE as i32);
    const NOT_FOUND: Self = Self(sys::CUresult::CUDA_ERROR_NOT_FOUND as i32);
}

/// Declares functions by their names in the library and their arguments.
macro_rules! functions {
    ($($name:ident($($argument:ty),*);)*) => {
        /// The functions.
        #[allow(non_snake_case)]
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Api {
            fn load() -> Self {
                // SAFETY: it was asked for just before, so that nothing panics; its initialisers are
                // the driver's own.
                let library = unsafe { sys::culib() };
                Self {
                    $($name: {
                        let symbol = concat!(stringify!($name), "\0").as_bytes();
                        unsafe extern "C" fn missing($(_: $argument),*) -> Status {
                            Status::NOT_FOUND
                        }
                        // SAFETY: a function of this name has these arguments in every version of
                        // CUDA's driver that has it, and returns an int.
                        unsafe { library.get(symbol) }.map_or(missing as _, |found| *found)
                    },)*
                }
            }
        }
    };
}

functions! {
    cuCtxGetCurrent(*mut sys::CUcontext);
    cuCtxSetCurrent(sys::CUcontext);
    cuDeviceGet(*mut sys::CUdevice, i32);
    cuDeviceGetAttribute(*mut i32, sys::CUdevice_attribute, sys::CUdevice);
    cuDeviceGetCount(*mut i32);
    cuDeviceGetName(*mut c_char, i32, sys::CUdevice);
    cuDevicePrimaryCtxRelease_v2(sys::CUdevice);
    cuDevicePrimaryCtxRetain(*mut sys::CUcontext, sys::CUdevice);
    cuDeviceTotalMem_v2(*mut usize, sys::CUdevice);
    cuDriverGetVersion(*mut i32);
    cuEventCreate(*mut sys::CUevent, u32);
    cuEventDestroy_v2(sys::CUevent);
    cuEventElapsedTime(*mut f32, sys::CUevent, sys::CUevent);
    cuEventRecord(sys::CUevent, sys::CUstream);
    cuEventSynchronize(sys::CUevent);
    cuFuncGetAttribute(*mut i32, sys::CUfunction_attribute, sys::CUfunction);
    cuFuncSetAttribute(sys::CUfunction, sys::CUfunction_attribute, i32);
    cuGetErrorName(Status, *mut *const c_char);
    cuGetErrorString(Status, *mut *const c_char);
    cuGraphDestroy(sys::CUgraph);
    cuGraphExecDestroy(sys::CUgraphExec);
    cuGraphInstantiateWithFlags(*mut sys::CUgraphExec, sys::CUgraph, u64);
    cuGraphLaunch(sys::CUgraphExec, sys::CUstream);
    cuInit(u32);
    cuLaunchKernel(
        sys::CUfunction, u32, u32, u32, u32, u32, u32, u32, sys::CUstream, *mut *mut c_void,
        *mut *mut c_void
    );
    cuMemAlloc_v2(*mut u64, usize);
    cuMemFreeHost(*mut c_void);
    cuMemFree_v2(u64);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemHostAlloc(*mut *mut c_void, usize, u32);
    cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, sys::CUstream);
    cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, sys::CUstream);
    cuMemsetD8Async(u64, u8, usize, sys::CUstream);
    cuModuleGetFunction(*mut sys::CUfunction, sys::CUmodule, *const c_char);
    cuModuleLoadData(*mut sys::CUmodule, *const c_void);
    cuModuleUnload(sys::CUmodule);
    cuStreamBeginCapture_v2(sys::CUstream, sys::CUstreamCaptureMode);
    cuStreamCreate(*mut sys::CUstream, u32);
    cuStreamDestroy_v2(sys::CUstream);
    cuStreamEndCapture(sys::CUstream, *mut sys::CUgraph);
    cuStreamSynchronize(sys::CUstream);
}

impl Api {
    /// The functions of this machine's driver, if it has one.
    pub(super) fn get() -> Option<&'static Self> {
        static API: OnceLock<Api> = OnceLock::new();
        // SAFETY: opens and closes the library; its initialisers are the driver's own.
        if API.get().is_none() && !unsafe { sys::is_culib_present() } {
            return None;
        }
        Some(API.get_or_init(Self::load))
    }
}
