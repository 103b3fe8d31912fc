//! The boundary: nothing unwinds past it, every pointer is checked here.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::{Error, Result};

use crate::types::*;

/// A failure on its way to the caller.
pub(crate) struct Failure {
    pub(crate) status: voxtile_status,
    native: i32,
    text: String,
}

impl Failure {
    pub(crate) fn new(status: voxtile_status, text: impl Into<String>) -> Self {
        Self { status, native: 0, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let native = match &error {
            Error::Io { source, .. } => source.raw_os_error().unwrap_or(0),
            Error::Device { number, .. } => *number,
            _ => 0,
        };
        let status = match &error {
            Error::Argument(_) => VOXTILE_E_ARGUMENT,
            Error::Io { .. } => VOXTILE_E_IO,
            Error::Format { .. } => VOXTILE_E_FORMAT,
            Error::Unsupported(_) => VOXTILE_E_UNSUPPORTED,
            Error::Memory { .. } | Error::DeviceMemory { .. } => VOXTILE_E_MEMORY,
            Error::Device { .. } | Error::NoDevice(_) => VOXTILE_E_DEVICE,
            Error::Busy => VOXTILE_E_BUSY,
            Error::Cancelled => VOXTILE_CANCELLED,
            _ => VOXTILE_E_INTERNAL,
        };
        Self { status, native, text: error.to_string() }
    }
}

pub(crate) type Outcome = std::result::Result<(), Failure>;

/// Runs the body of one call; every failure reaches `error`.
///
/// # Safety
/// `error` is NULL or points to a struct that may be written.
pub(crate) unsafe fn guard(
    error: *mut voxtile_error,
    body: impl FnOnce() -> Outcome,
) -> voxtile_status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return VOXTILE_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            // Its destructor is foreign code and could panic again.
            std::mem::forget(payload);
            Failure::new(VOXTILE_E_INTERNAL, format!("internal error: {text}"))
        }
    };
    if !error.is_null() {
        let mut filled =
            voxtile_error { status: failure.status, native: failure.native, message: [0; 504] };
        write_text(&mut filled.message, &failure.text);
        // SAFETY: as the caller promises.
        unsafe { error.write_unaligned(filled) };
    }
    failure.status
}

/// Copies as much of `text` as fits, in whole characters, with a final NUL.
pub(crate) fn write_text(into: &mut [c_char], text: &str) {
    let mut length = text.len().min(into.len() - 1);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    for (place, byte) in into.iter_mut().zip(text[..length].bytes()) {
        *place = byte as c_char;
    }
    into[length] = 0;
}

/// The value behind a required pointer.
///
/// # Safety
/// `pointer` is NULL or valid for the length of `'a`.
pub(crate) unsafe fn required<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Error::argument(format!(
            "{name} is {pointer:?}, expected a pointer to an aligned value"
        )));
    }
    // SAFETY: as the caller promises, and it is aligned and not NULL.
    Ok(unsafe { &*pointer })
}

/// An array, which may be NULL if it is empty.
///
/// # Safety
/// `pointer` is NULL or valid for `count` values for the length of `'a`.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, count: u32, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: as the caller promises; `required` checks NULL and alignment.
    unsafe {
        required(pointer, name)?;
        Ok(std::slice::from_raw_parts(pointer, count as usize))
    }
}

/// Bytes from one to the next of `count` versioned structs, all of which have the first one's size:
/// the caller's may be shorter or longer than this library's.
///
/// # Safety
/// `first` is NULL or valid for as many structs, each as long as its first four bytes say.
pub(crate) unsafe fn stride<T>(first: *const T, count: u32, name: &str) -> Result<usize> {
    if first.is_null() {
        return Err(Error::argument(format!("{name} is NULL")));
    }
    let bytes = first.cast::<u8>();
    // SAFETY: as the caller promises.
    let size = |at: usize| unsafe { bytes.add(at).cast::<u32>().read_unaligned() };
    let step = checked_size(size(0), name)?;
    for index in 1..count as usize {
        let size = size(index * step);
        if size as usize != step {
            return Err(Error::argument(format!(
                "{name}[{index}].struct_size is {size}, expected {step} as that of {name}[0]"
            )));
        }
    }
    Ok(step)
}

/// The most bytes a versioned struct can have: larger sizes are not set or garbage.
const LARGEST_STRUCT: usize = 4096;

/// Checks a caller's `struct_size`.
pub(crate) fn checked_size(size: u32, name: &str) -> Result<usize> {
    let size = size as usize;
    if !(4..=LARGEST_STRUCT).contains(&size) {
        return Err(Error::argument(format!(
            "{name}: struct_size is {size}, expected sizeof(voxtile_{name})"
        )));
    }
    Ok(size)
}

/// Reads a caller's versioned struct: a shorter one is extended with zeros, a longer one must be
/// zero beyond what this library knows.
///
/// # Safety
/// `pointer` is NULL or valid for as many bytes as its first four say; any bytes are a valid `T`.
pub(crate) unsafe fn read_versioned<T: Copy>(
    pointer: *const T,
    name: &str,
) -> std::result::Result<T, Failure> {
    if pointer.is_null() {
        return Err(Error::argument(format!("{name} is NULL")).into());
    }
    let bytes = pointer.cast::<u8>();
    // SAFETY: the caller promises at least the size field, and what it says.
    unsafe {
        let theirs = checked_size(bytes.cast::<u32>().read_unaligned(), name)?;
        let ours = size_of::<T>();
        let mut value = MaybeUninit::<T>::zeroed();
        std::ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast(), theirs.min(ours));
        if theirs > ours {
            let tail = std::slice::from_raw_parts(bytes.add(ours), theirs - ours);
            if tail.iter().any(|&byte| byte != 0) {
                return Err(Failure::new(
                    VOXTILE_E_NEWER,
                    format!("{name}: a field is set that this library does not know"),
                ));
            }
        }
        Ok(value.assume_init())
    }
}

/// Writes a versioned struct into the caller's, as much of it as the caller knows; the caller's
/// `struct_size` stays.
///
/// # Safety
/// `pointer` is NULL or valid for as many bytes as its first four say.
pub(crate) unsafe fn write_versioned<T: Copy>(
    pointer: *mut T,
    value: &T,
    name: &str,
) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::argument(format!("{name} is NULL")));
    }
    let bytes = pointer.cast::<u8>();
    // SAFETY: the caller promises at least the size field, and what it says.
    unsafe {
        let theirs = checked_size(bytes.cast::<u32>().read_unaligned(), name)?;
        let known = theirs.min(size_of::<T>());
        let from = std::ptr::from_ref(value).cast::<u8>();
        std::ptr::copy_nonoverlapping(from.add(4), bytes.add(4), known - 4);
    }
    Ok(())
}
