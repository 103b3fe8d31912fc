//! Memory of the device, and memory of the host that it reaches by itself.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys;

use super::api::{Api, Status};
use super::{Context, Event, Stream, out_of_bounds};
use crate::base::{Error, Result};

/// An address in the device's memory, as kernels are handed it. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address(u64);

impl Address {
    /// No memory.
    pub const NULL: Self = Self(0);
}

/// An array in the device's memory. What is in it at first is not defined.
pub struct Buffer<T> {
    context: Context,
    address: u64,
    length: usize,
    _values: PhantomData<T>,
}

// SAFETY: an address of the device, to be used from any thread.
unsafe impl<T: Send> Send for Buffer<T> {}

impl<T: Pod> Buffer<T> {
    /// Room for `length` values; `what` says for what: "the network's weights".
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] if the device has not enough; [`Error::Device`].
    pub fn new(context: &Context, what: &str, length: usize) -> Result<Self> {
        let current = context.enter()?;
        let needed = length.max(1).checked_mul(size_of::<T>());
        let mut address = 0;
        let result = match needed {
            // SAFETY: writes one address; the context is current.
            Some(bytes) => unsafe { (current.cuMemAlloc_v2)(&raw mut address, bytes) },
            None => Status::OUT_OF_MEMORY,
        };
        if result == Status::OUT_OF_MEMORY {
            return Err(Error::DeviceMemory {
                what: what.into(),
                device: context.name().into(),
                needed_bytes: needed.unwrap_or(usize::MAX) as u64,
                available_bytes: context.free_bytes().unwrap_or(0),
            });
        }
        current.check(result, &format!("allocating device memory for {what}"))?;
        Ok(Self { context: context.clone(), address, length, _values: PhantomData })
    }

    /// As [`Buffer::new`], filled with zeros in the order of `stream`.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn zeroed(stream: &Stream, what: &str, length: usize) -> Result<Self> {
        let buffer = Self::new(stream.context(), what, length)?;
        buffer.fill(stream, 0..length, 0)?;
        Ok(buffer)
    }

    /// As [`Buffer::new`], holding `values`.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn of(stream: &Stream, what: &str, values: &[T]) -> Result<Self> {
        let buffer = Self::new(stream.context(), what, values.len())?;
        buffer.write(stream, 0, values)?;
        Ok(buffer)
    }

    /// How many values it holds.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        (self.length * size_of::<T>()) as u64
    }

    /// Where it begins.
    pub fn address(&self) -> Address {
        Address(self.address)
    }

    /// Where value `index` is.
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, index: usize) -> Address {
        assert!(index < self.length.max(1), "element {index} of {}", self.length);
        Address(self.address + (index * size_of::<T>()) as u64)
    }

    /// Sets every byte of a range to `byte`, in the order of `stream`.
    ///
    /// # Errors
    /// [`Error::Internal`] if the range leaves the buffer; [`Error::Device`].
    pub fn fill(&self, stream: &Stream, range: Range<usize>, byte: u8) -> Result<()> {
        let doing = "filling device memory";
        out_of_bounds(doing, Some(range.end), self.length)?;
        if range.is_empty() {
            return Ok(());
        }
        let current = self.context.enter()?;
        let Address(address) = self.at(range.start);
        let bytes = range.len() * size_of::<T>();
        // SAFETY: the range lies in this allocation, which is freed after the stream's work.
        current.check(
            unsafe { (current.cuMemsetD8Async)(address, byte, bytes, stream.handle()) },
            doing,
        )
    }

    /// Copies `values` to the place of value `first`, after what was asked of `stream`, and waits
    /// for it. What is sent for every tile or plane goes through [`Pinned`] instead.
    ///
    /// # Errors
    /// [`Error::Internal`] if they leave the buffer; [`Error::Device`].
    pub fn write(&self, stream: &Stream, first: usize, values: &[T]) -> Result<()> {
        let (from, bytes) = (values.as_ptr().cast(), size_of_val(values));
        self.copy(stream, first, values.len(), "copying to the device", |api, address| {
            // SAFETY: both ranges were checked, and `values` outlives the wait for the copy.
            unsafe { (api.cuMemcpyHtoDAsync_v2)(address, from, bytes, stream.handle()) }
        })
    }

    /// Copies values from number `first` on, after what was asked of `stream`, and waits for them.
    ///
    /// # Errors
    /// [`Error::Internal`] if they leave the buffer; [`Error::Device`].
    pub fn read(&self, stream: &Stream, first: usize, values: &mut [T]) -> Result<()> {
        let (into, bytes) = (values.as_mut_ptr().cast(), size_of_val(values));
        self.copy(stream, first, values.len(), "copying from the device", |api, address| {
            // SAFETY: both ranges were checked, and `values` is borrowed until the wait for the
            // copy ends; any bits are a value of a `Pod`.
            unsafe { (api.cuMemcpyDtoHAsync_v2)(into, address, bytes, stream.handle()) }
        })
    }

    /// Lets `ask` ask for a copy of `count` values from number `first` on, and waits for it.
    fn copy(
        &self,
        stream: &Stream,
        first: usize,
        count: usize,
        doing: &str,
        ask: impl FnOnce(&Api, u64) -> Status,
    ) -> Result<()> {
        out_of_bounds(doing, first.checked_add(count), self.length)?;
        if count == 0 {
            return Ok(());
        }
        let current = self.context.enter()?;
        let Address(address) = self.at(first);
        current.check(ask(&current, address), doing)?;
        stream.wait(doing)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: allocated by `new`. The driver frees it after the work that is under way.
            let _ = unsafe { (current.cuMemFree_v2)(self.address) };
        }
    }
}

/// An array in the host's memory that copies reach while the host goes on.
pub struct Pinned<T> {
    context: Context,
    values: NonNull<T>,
    length: usize,
    /// The last copy from or to it, if there may be one under way.
    copied: Event,
    copying: bool,
}

// SAFETY: owns its memory; the event may be used from any thread.
unsafe impl<T: Send> Send for Pinned<T> {}

impl<T: Pod> Pinned<T> {
    /// `length` zeros; `what` says for what they are.
    ///
    /// # Errors
    /// [`Error::Memory`] if the host has not enough; [`Error::Device`].
    pub fn new(context: &Context, what: &str, length: usize) -> Result<Self> {
        let current = context.enter()?;
        let needed = length.max(1).checked_mul(size_of::<T>());
        let mut memory = std::ptr::null_mut();
        let result = match needed {
            // SAFETY: writes one pointer; the context is current.
            Some(bytes) => unsafe {
                (current.cuMemHostAlloc)(&raw mut memory, bytes, sys::CU_MEMHOSTALLOC_PORTABLE)
            },
            None => Status::OUT_OF_MEMORY,
        };
        let missing = || Error::Memory {
            what: what.into(),
            needed_bytes: needed.unwrap_or(usize::MAX) as u64,
            available_bytes: 0,
        };
        if result == Status::OUT_OF_MEMORY {
            return Err(missing());
        }
        current.check(result, &format!("allocating pinned memory for {what}"))?;
        let values = NonNull::new(memory.cast::<T>()).ok_or_else(missing)?;
        // SAFETY: so many bytes were allocated just now, and nobody else has them.
        unsafe { memory.cast::<u8>().write_bytes(0, needed.unwrap_or(0)) };
        let copied = match Event::new(context) {
            Ok(event) => event,
            Err(error) => {
                // SAFETY: allocated above, and given up.
                let _ = unsafe { (current.cuMemFreeHost)(memory) };
                return Err(error);
            }
        };
        Ok(Self { context: context.clone(), values, length, copied, copying: false })
    }

    /// How many values it holds.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Its values, once the last copy from or to it is done.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn values(&mut self) -> Result<&mut [T]> {
        self.settle()?;
        // SAFETY: `length` values live here, no copy is under way, and `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.values.as_ptr(), self.length) })
    }

    fn settle(&mut self) -> Result<()> {
        if self.copying {
            self.copied.wait("copying")?;
            self.copying = false;
        }
        Ok(())
    }

    /// Copies `range` to the place of value `first` of `buffer`, in the order of `stream`.
    ///
    /// # Errors
    /// [`Error::Internal`] if a range leaves its array; [`Error::Device`].
    pub fn send(
        &mut self,
        range: Range<usize>,
        buffer: &Buffer<T>,
        first: usize,
        stream: &Stream,
    ) -> Result<()> {
        let doing = "sending to the device";
        self.copy(range, buffer, first, stream, doing, |api, here, there, bytes| {
            // SAFETY: `copy` checked both ranges; this memory waits for the event.
            unsafe { (api.cuMemcpyHtoDAsync_v2)(there, here.cast(), bytes, stream.handle()) }
        })
    }

    /// Copies values of `buffer` from number `first` on into `range`, in the order of `stream`.
    ///
    /// # Errors
    /// [`Error::Internal`] if a range leaves its array; [`Error::Device`].
    pub fn fetch(
        &mut self,
        range: Range<usize>,
        buffer: &Buffer<T>,
        first: usize,
        stream: &Stream,
    ) -> Result<()> {
        let doing = "fetching from the device";
        self.copy(range, buffer, first, stream, doing, |api, here, there, bytes| {
            // SAFETY: `copy` checked both ranges; this memory waits for the event.
            unsafe { (api.cuMemcpyDtoHAsync_v2)(here.cast(), there, bytes, stream.handle()) }
        })
    }

    fn copy(
        &mut self,
        range: Range<usize>,
        buffer: &Buffer<T>,
        first: usize,
        stream: &Stream,
        doing: &str,
        ask: impl FnOnce(&Api, *mut T, u64, usize) -> Status,
    ) -> Result<()> {
        out_of_bounds(doing, Some(range.end), self.length)?;
        out_of_bounds(doing, first.checked_add(range.len()), buffer.length)?;
        if range.is_empty() {
            return Ok(());
        }
        let current = self.context.enter()?;
        let Address(there) = buffer.at(first);
        // SAFETY: the range was checked.
        let here = unsafe { self.values.as_ptr().add(range.start) };
        self.copying = true;
        current.check(ask(&current, here, there, range.len() * size_of::<T>()), doing)?;
        self.copied.record(stream).inspect_err(|_| {
            // Nothing else would say when the copy is done.
            let _ = stream.wait(doing);
        })
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let waited = !self.copying || self.copied.wait("copying").is_ok();
        // After a failed wait a copy may still come: the memory is left to the context's end.
        if let (true, Ok(current)) = (waited, self.context.enter()) {
            // SAFETY: allocated by `new`; no copy is under way.
            let _ = unsafe { (current.cuMemFreeHost)(self.values.as_ptr().cast()) };
        }
    }
}
