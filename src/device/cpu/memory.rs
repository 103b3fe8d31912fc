//! Buffers whose rows of 16 values start on cache lines, and pointers that threads share.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::quantise::{Extent, Quantisation};
use super::value::Value;
use crate::base::{Error, Result};

/// Channels that lie together in memory: a tensor is `[s0][ceil(C / 16)][s1][s2][16]`.
pub(super) const BLOCK: usize = crate::net::plan::CHANNEL_BLOCK;

/// 16 values on a cache line of their own.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Zeroed `f32` values that start on a cache line.
#[derive(Default)]
pub(in crate::device) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// `length` zeros, rounded up to whole lines.
    pub(super) fn zeroed(what: &str, length: usize) -> Result<Self> {
        let lines = bytemuck::allocation::try_zeroed_vec(length.div_ceil(16)).map_err(|()| {
            Error::Memory {
                what: what.into(),
                needed_bytes: (length as u64).saturating_mul(4),
                available_bytes: 0,
            }
        })?;
        Ok(Self { lines })
    }

    pub(in crate::device) fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.lines)
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    pub(super) fn pointer(&self) -> *const f32 {
        self.values().as_ptr()
    }

    /// A pointer that the tasks of one operation may share.
    pub(super) fn shared(&mut self) -> Shared<f32> {
        Shared(self.values_mut().as_mut_ptr())
    }
}

/// Values whose type the kernels know; all others count them.
#[derive(Clone, Copy)]
pub(super) struct Values {
    first: Shared<u8>,
    value_bytes: usize,
}

impl Values {
    pub(super) fn new(buffer: &mut Buffer, value_bytes: usize) -> Self {
        Self::starting(buffer.values_mut().as_mut_ptr(), value_bytes)
    }

    /// The values from a place on.
    pub(super) fn starting(at: *mut f32, value_bytes: usize) -> Self {
        Self { first: Shared(at.cast()), value_bytes }
    }

    /// The values of a buffer from `start` on, to be read only.
    pub(super) fn of(buffer: &Buffer, value_bytes: usize, start: usize) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(buffer.values());
        Self { first: Shared(bytes[start * value_bytes..].as_ptr().cast_mut()), value_bytes }
    }

    /// The place of a value.
    ///
    /// # Safety
    /// The value is one of the buffer's, or what follows its last.
    #[inline(always)]
    pub(super) unsafe fn at(self, value: usize) -> Place {
        // SAFETY: as the caller promises.
        Place(unsafe { self.first.get().add(value * self.value_bytes) })
    }

    /// The place that many values from another one.
    ///
    /// # Safety
    /// Both lie in the buffer.
    #[inline(always)]
    pub(super) unsafe fn offset(self, from: Place, values: isize) -> Place {
        // SAFETY: as the caller promises.
        Place(unsafe { from.0.offset(values * self.value_bytes as isize) })
    }

    /// Makes zeros of some values: of bytes, what zero is among them.
    ///
    /// # Safety
    /// They are the buffer's, and nobody else touches them.
    pub(super) unsafe fn clear(self, values: Range<usize>, how: Quantisation) {
        let zero = if self.value_bytes == 1 { how.zero as u8 } else { 0 };
        // SAFETY: as the caller promises; zeros are values of every type.
        unsafe { self.at(values.start).0.write_bytes(zero, values.len() * self.value_bytes) }
    }
}

/// Where values lie whose type the kernels know.
#[derive(Clone, Copy)]
pub(super) struct Place(*mut u8);

impl Place {
    /// Of values of a known type.
    pub(super) fn of<T>(values: *const T) -> Self {
        Self(values.cast_mut().cast())
    }

    #[inline(always)]
    pub(super) fn values<T: Value>(self) -> *mut T {
        self.0.cast()
    }

    /// Of an extent, where values are seen instead of copied.
    pub(super) fn extent(self) -> *mut Extent {
        self.0.cast()
    }
}

/// A pointer to values that several threads read, or write at places of their own.
pub(super) struct Shared<T>(pub(super) *mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: whoever dereferences it states which thread touches which values.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The pointer itself; a method so that closures capture the whole, shareable value.
    pub(super) fn get(self) -> *mut T {
        self.0
    }
}
