//! Buffers whose rows of 16 values start on cache lines, and pointers that threads share.

use bytemuck::{Pod, Zeroable};

use crate::base::{Error, Result};

/// Channels that lie together in memory: a tensor is `[ceil(C / 16)][s0][s1][s2][16]`.
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
