//! The types that a tensor's values, and those of a brick, can have in memory.
//!
//! Arithmetic is single precision on vectors of `f32`; what is narrower widens as it is loaded
//! and is rounded to nearest, ties to even, as it is stored.

use bytemuck::{Pod, Zeroable};
use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::simd::Avx512Bf16;
use super::simd::Simd;

/// A type that values have in memory.
///
/// # Safety
/// Callers of the unsafe methods must run on a processor that has `S`; pointers need `S::LANES`
/// valid values behind them, of any alignment but for [`Value::stream`].
pub(super) trait Value: Pod + Send + Sync {
    /// Neighbouring channels of a brick that one multiplication of the direct sum takes.
    const CHANNELS: usize = 1;

    fn of(value: f32) -> Self;
    fn get(self) -> f32;
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector;
    unsafe fn store<S: Simd>(to: *mut Self, vector: S::Vector);
    /// As [`Simd::stream`]; `to` is aligned to the vector's size.
    unsafe fn stream<S: Simd>(to: *mut Self, vector: S::Vector);
}

impl Value for f32 {
    fn of(value: f32) -> Self {
        value
    }

    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::store(to, vector) }
    }

    #[inline(always)]
    unsafe fn stream<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::stream(to, vector) }
    }
}

impl Value for bf16 {
    const CHANNELS: usize = 2;

    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn get(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe { S::load_bf16(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::store_bf16(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn stream<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::stream_bf16(to.cast(), vector) }
    }
}

/// Single precision that holds what `bf16` can: for processors that multiply nothing narrower.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Rounded(f32);

impl Value for Rounded {
    fn of(value: f32) -> Self {
        Self(bf16::from_f32(value).to_f32())
    }

    fn get(self) -> f32 {
        self.0
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe { S::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::store(to.cast(), S::round_bf16(vector)) }
    }

    #[inline(always)]
    unsafe fn stream<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::stream(to.cast(), S::round_bf16(vector)) }
    }
}

/// What the direct sum can multiply with vectors of `S`.
///
/// # Safety
/// As for [`Value`]; `from` has [`Value::CHANNELS`] valid values behind it.
pub(super) trait Factor<S: Simd>: Value {
    /// [`Value::CHANNELS`] values, in every lane.
    #[inline(always)]
    unsafe fn splat(from: *const Self) -> S::Vector {
        // SAFETY: as the caller promises; all but pairs are single precision.
        unsafe { S::splat(*from.cast()) }
    }

    /// `a * b + c`, where `a` and `b` hold [`Value::CHANNELS`] values in each lane.
    #[inline(always)]
    unsafe fn multiply_add(a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe { S::multiply_add(a, b, c) }
    }
}

impl<S: Simd> Factor<S> for f32 {}

impl<S: Simd> Factor<S> for Rounded {}

#[cfg(target_arch = "x86_64")]
impl Factor<Avx512Bf16> for bf16 {
    #[inline(always)]
    unsafe fn splat(from: *const Self) -> <Avx512Bf16 as Simd>::Vector {
        // SAFETY: as the caller promises: two values, the bits of one lane.
        unsafe { Avx512Bf16::splat(from.cast::<f32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn multiply_add(
        a: <Avx512Bf16 as Simd>::Vector,
        b: <Avx512Bf16 as Simd>::Vector,
        c: <Avx512Bf16 as Simd>::Vector,
    ) -> <Avx512Bf16 as Simd>::Vector {
        // SAFETY: as the caller promises.
        unsafe { Avx512Bf16::dot_bf16(a, b, c) }
    }
}
