//! Library, devices, models and sessions.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::device::{self, DeviceChoice, DeviceInfo, Precision};
use engine::{Error, Model, Result, Session, SessionOptions};

use crate::guard::{
    Failure, Outcome, guard, read_versioned, required, write_text, write_versioned,
};
use crate::types::*;

/// Version of the library: 0x00MMmmpp.
#[unsafe(no_mangle)]
pub extern "C" fn voxtile_version() -> u32 {
    VOXTILE_VERSION_MAJOR << 16 | VOXTILE_VERSION_MINOR << 8 | VOXTILE_VERSION_PATCH
}

/// "VOXTILE_E_BUSY"; static, never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn voxtile_status_name(status: voxtile_status) -> *const c_char {
    let name = match status {
        VOXTILE_OK => c"VOXTILE_OK",
        VOXTILE_CANCELLED => c"VOXTILE_CANCELLED",
        VOXTILE_E_ARGUMENT => c"VOXTILE_E_ARGUMENT",
        VOXTILE_E_IO => c"VOXTILE_E_IO",
        VOXTILE_E_FORMAT => c"VOXTILE_E_FORMAT",
        VOXTILE_E_UNSUPPORTED => c"VOXTILE_E_UNSUPPORTED",
        VOXTILE_E_MEMORY => c"VOXTILE_E_MEMORY",
        VOXTILE_E_DEVICE => c"VOXTILE_E_DEVICE",
        VOXTILE_E_BUSY => c"VOXTILE_E_BUSY",
        VOXTILE_E_INTERNAL => c"VOXTILE_E_INTERNAL",
        VOXTILE_E_NEWER => c"VOXTILE_E_NEWER",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// Number of devices: the processor, and the GPUs that NVIDIA's driver sees.
#[unsafe(no_mangle)]
pub extern "C" fn voxtile_device_count() -> u32 {
    let mut count = 1;
    // SAFETY: no error struct is passed.
    let _ = unsafe {
        guard(std::ptr::null_mut(), || {
            count += device::gpu_count().unwrap_or(0);
            Ok(())
        })
    };
    count
}

/// Describes device `index`, counted from 0. Set `out->struct_size` first.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_device_get(
    index: u32,
    out: *mut voxtile_device,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; `guard` and `write_versioned` check them.
    unsafe {
        guard(error, || {
            let there_are = voxtile_device_count();
            if index >= there_are {
                return Err(
                    Error::argument(format!("device {index}: there are {there_are}")).into()
                );
            }
            let info = match index.checked_sub(1) {
                None => device::cpu::info(),
                Some(ordinal) => device::gpu_info(ordinal)?,
            };
            Ok(write_versioned(out, &described(&info), "device")?)
        })
    }
}

/// The id of the processor; GPUs follow in the order of their ordinals.
const CPU_ID: u32 = 1;

fn described(info: &DeviceInfo) -> voxtile_device {
    let mut device = voxtile_device {
        struct_size: 0,
        id: CPU_ID,
        kind: VOXTILE_CPU,
        ordinal: 0,
        memory_total: info.memory_total_bytes,
        memory_free: info.memory_free_bytes,
        name: [0; 96],
        capability_major: 0,
        capability_minor: 0,
        covered: 1,
        reserved: 0,
        driver: [0; 16],
        kernels: [0; 16],
    };
    write_text(&mut device.name, &info.name);
    if let Some(gpu) = &info.gpu {
        device.id = CPU_ID + 1 + gpu.ordinal;
        device.kind = VOXTILE_CUDA;
        device.ordinal = gpu.ordinal;
        [device.capability_major, device.capability_minor] = gpu.capability;
        device.covered = u32::from(gpu.kernels.is_some());
        write_text(&mut device.driver, &gpu.driver);
        write_text(&mut device.kernels, gpu.kernels.unwrap_or_default());
    }
    device
}

/// Weights and labels; opaque.
pub struct voxtile_model {
    pub(crate) model: Arc<Model>,
    name: CString,
    description: CString,
    family: CString,
    labels: Vec<(CString, Option<CString>)>,
}

fn text(string: &str) -> CString {
    CString::new(string.replace('\0', " ")).unwrap_or_default()
}

impl voxtile_model {
    fn handle(model: Model) -> *mut Self {
        let package = model.package();
        let last = &package.parts[package.parts.len() - 1];
        let handle = Self {
            name: text(&package.name),
            description: text(&package.description),
            family: text(last.architecture.family.name()),
            labels: package
                .labels
                .iter()
                .map(|label| (text(&label.name), label.code.as_deref().map(text)))
                .collect(),
            model: Arc::new(model),
        };
        Arc::into_raw(Arc::new(handle)).cast_mut()
    }
}

/// Opens the model package at `path`, one .safetensors file. The file is mapped: it must not
/// change while the model or a session of it lives. Release the model with voxtile_model_release.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_model_open(
    path: *const c_char,
    out: *mut *mut voxtile_model,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(path, "path")?;
            required(out, "out")?;
            let path = CStr::from_ptr(path)
                .to_str()
                .map_err(|_| Error::argument("path is not UTF-8, expected a path in UTF-8"))?;
            if path.is_empty() {
                return Err(Error::argument(
                    "path is empty, expected that of a model package, one .safetensors file",
                )
                .into());
            }
            out.write(voxtile_model::handle(Model::open(path)?));
            Ok(())
        })
    }
}

/// Opens a model package that lies in memory: the bytes of one .safetensors file. They are copied
/// before the call returns and may be freed at once.
///
/// # Safety
/// Pointers are NULL or valid; `data` for `size` bytes.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_model_open_memory(
    data: *const c_void,
    size: usize,
    out: *mut *mut voxtile_model,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(data.cast::<u8>(), "data")?;
            required(out, "out")?;
            if isize::try_from(size).is_err() {
                return Err(Error::argument(format!("size is {size} bytes")).into());
            }
            let mut copy = engine::base::error::reserved("copy of the model", size)?;
            copy.extend_from_slice(std::slice::from_raw_parts(data.cast::<u8>(), size));
            out.write(voxtile_model::handle(Model::from_bytes(copy)?));
            Ok(())
        })
    }
}

/// Describes a model. Set `out->struct_size` first.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_model_info_get(
    model: *const voxtile_model,
    out: *mut voxtile_model_info,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            let handle = required(model, "model")?;
            let package = handle.model.package();
            let last = &package.parts[package.parts.len() - 1];
            let info = voxtile_model_info {
                struct_size: 0,
                channels: package.channels() as u32,
                labels: package.labels.len() as u32,
                folds: last.folds.len() as u32,
                patch: last.patch.map(|extent| extent as i64),
                spacing: last.spacing.map(|mm| mm.unwrap_or(0.0)),
                parameters: handle.model.parameters(),
                demo: u32::from(package.demo),
                reserved: 0,
                name: handle.name.as_ptr(),
                description: handle.description.as_ptr(),
                family: handle.family.as_ptr(),
            };
            Ok(write_versioned(out, &info, "model_info")?)
        })
    }
}

/// Describes label `index`, counted from 0, the background. Set `out->struct_size` first.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_model_label_get(
    model: *const voxtile_model,
    index: u32,
    out: *mut voxtile_label,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            let handle = required(model, "model")?;
            let labels = &handle.model.package().labels;
            let label = labels.get(index as usize).ok_or_else(|| {
                Error::argument(format!("label {index}: the model has {}", labels.len()))
            })?;
            let (name, code) = &handle.labels[index as usize];
            let described = voxtile_label {
                struct_size: 0,
                value: label.value,
                rgb: label.color.unwrap_or_default(),
                has_rgb: u8::from(label.color.is_some()),
                reserved: 0,
                name: name.as_ptr(),
                code: code.as_ref().map_or(std::ptr::null(), |code| code.as_ptr()),
            };
            Ok(write_versioned(out, &described, "label")?)
        })
    }
}

/// One more owner of the model: it lives until each owner has released it. NULL is fine.
///
/// # Safety
/// `model` is NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn voxtile_model_retain(model: *const voxtile_model) {
    if !model.is_null() {
        // SAFETY: the handle came from `Arc::into_raw` and is alive, as the caller promises.
        unsafe { Arc::increment_strong_count(model) };
    }
}

/// Gives up a model. NULL is fine; sessions keep what they need.
///
/// # Safety
/// `model` is NULL or a live model, which the caller does not use any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn voxtile_model_release(model: *mut voxtile_model) {
    if !model.is_null() {
        // SAFETY: the handle came from `Arc::into_raw` and is alive, as the caller promises.
        let owned = unsafe { Arc::from_raw(model) };
        release(owned);
    }
}

/// Drops a value; a panic of its destructor stays inside.
fn release<T>(value: T) {
    // SAFETY: no error struct is passed.
    let _ = unsafe {
        guard(std::ptr::null_mut(), || {
            drop(value);
            Ok(())
        })
    };
}

/// A model made ready on one device; opaque.
pub struct voxtile_session {
    pub(crate) session: Session,
    pub(crate) log: Log,
    /// Set by an internal error: from then on only release is accepted.
    broken: AtomicBool,
}

/// Where messages go.
#[derive(Clone, Copy)]
pub(crate) struct Log {
    function: voxtile_log_fn,
    user: *mut c_void,
}

// SAFETY: the pointer is only handed back to the caller's function, on the caller's thread.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    pub(crate) fn say(self, level: i32, message: &str) {
        if let Some(function) = self.function {
            let message = text(message);
            // SAFETY: the caller gave function and pointer for this use.
            unsafe { function(self.user, level, message.as_ptr()) };
        }
    }
}

impl voxtile_session {
    /// Runs `body` unless an earlier call broke the session; an internal error breaks it.
    pub(crate) fn unbroken(&self, body: impl FnOnce(&Self) -> Outcome) -> Outcome {
        struct Breaks<'a>(&'a AtomicBool);
        impl Drop for Breaks<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(Failure::new(
                VOXTILE_E_INTERNAL,
                "an internal error broke this session; it only accepts release",
            ));
        }
        let _breaks = Breaks(&self.broken);
        let outcome = body(self);
        if matches!(&outcome, Err(failure) if failure.status == VOXTILE_E_INTERNAL) {
            self.broken.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

fn options(given: &voxtile_session_options) -> Result<SessionOptions> {
    let device = match given.device {
        0 => DeviceChoice::Auto,
        CPU_ID => DeviceChoice::Cpu,
        other => {
            let there_are = voxtile_device_count();
            if other > there_are {
                return Err(Error::argument(format!(
                    "session_options.device is {other}; expected 0 to choose, or the id of a device, 1 to \
                     {there_are}"
                )));
            }
            DeviceChoice::Cuda(other - CPU_ID - 1)
        }
    };
    let precision = match given.precision {
        VOXTILE_PRECISION_DEFAULT => None,
        VOXTILE_PRECISION_F32 => Some(Precision::F32),
        VOXTILE_PRECISION_F16 => Some(Precision::F16),
        VOXTILE_PRECISION_BF16 => Some(Precision::Bf16),
        VOXTILE_PRECISION_INT8 => Some(Precision::Int8),
        other => {
            return Err(Error::argument(format!(
                "session_options.precision is {other}, expected VOXTILE_PRECISION_DEFAULT ..."
            )));
        }
    };
    let limit = |bytes: u64| Some(bytes).filter(|&bytes| bytes > 0);
    Ok(SessionOptions {
        device,
        precision,
        threads: given.threads as usize,
        host_budget_bytes: limit(given.host_budget),
        device_budget_bytes: limit(given.device_budget),
    })
}

/// Makes `model` ready on a device. `options` may be NULL for the defaults. Release the session
/// with voxtile_session_release; it keeps what it needs of the model.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_session_create(
    model: *const voxtile_model,
    options: *const voxtile_session_options,
    out: *mut *mut voxtile_session,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            let handle = required(model, "model")?;
            required(out, "out")?;
            let (set, log) = if options.is_null() {
                let log = Log { function: None, user: std::ptr::null_mut() };
                (SessionOptions::default(), log)
            } else {
                let given = read_versioned(options, "session_options")?;
                let log = Log { function: given.log, user: given.log_user };
                (self::options(&given)?, log)
            };
            let session = Session::new(Arc::clone(&handle.model), &set)?;
            let (device, threads) = (&session.device().name, session.threads());
            if let Some(why) = &session.chosen_device().fallback {
                log.say(VOXTILE_LOG_INFO, &format!("on the processor: {why}"));
            }
            log.say(VOXTILE_LOG_INFO, &format!("ready on {device} with {threads} threads"));
            let session = voxtile_session { session, log, broken: AtomicBool::new(false) };
            out.write(Box::into_raw(Box::new(session)));
            Ok(())
        })
    }
}

/// Describes the device that a session runs on; its memory is what was free when the session was
/// made. Set `out->struct_size` first.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_session_device_get(
    session: *const voxtile_session,
    out: *mut voxtile_device,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(session, "session")?.unbroken(|handle| {
                Ok(write_versioned(out, &described(handle.session.device()), "device")?)
            })
        })
    }
}

/// Ends a session and joins its threads. NULL is fine.
///
/// # Safety
/// `session` is NULL or a live session that no other call uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn voxtile_session_release(session: *mut voxtile_session) {
    if !session.is_null() {
        // SAFETY: the handle came from `Box::into_raw` and is alive, as the caller promises.
        let owned = unsafe { Box::from_raw(session) };
        release(owned);
    }
}

/// Asks the run that is on, if any, to stop after its current tile. The one call meant for another
/// thread while voxtile_run is running; NULL is fine.
///
/// # Safety
/// `session` is NULL or a live session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn voxtile_session_cancel(session: *const voxtile_session) {
    // SAFETY: as the caller promises.
    if let Some(handle) = unsafe { session.as_ref() } {
        handle.session.cancel();
    }
}
