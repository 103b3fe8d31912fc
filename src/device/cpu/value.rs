//! The types that a tensor's values, and those of a brick, can have in memory.
//!
//! Arithmetic is single precision on vectors of `f32`; what is narrower widens as it is loaded
//! and is rounded to nearest, ties to even, as it is stored.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::quantise::{Quantisation, WHOLE};
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
    /// What a value is, if it is to be quantised that way.
    fn quantise(value: f32, _how: &Quantisation) -> Self {
        Self::of(value)
    }
    /// What is to be stored of values, if they are to be quantised that way.
    #[inline(always)]
    unsafe fn quantised<S: Simd>(vector: S::Vector, _how: &Quantisation) -> S::Vector {
        vector
    }
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

/// A number of a brick's steps, 0 to 255.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Steps(u8);

impl Value for Steps {
    fn of(value: f32) -> Self {
        Self(value as u8)
    }

    fn get(self) -> f32 {
        f32::from(self.0)
    }

    fn quantise(value: f32, how: &Quantisation) -> Self {
        Self((value * how.inverse + (WHOLE + how.zero)).to_bits() as u8)
    }

    #[inline(always)]
    unsafe fn quantised<S: Simd>(vector: S::Vector, how: &Quantisation) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe { S::multiply_add(vector, S::splat(how.inverse), S::splat(WHOLE + how.zero)) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as the caller promises; `LANES` is a divisor of 16.
        unsafe {
            let values: [f32; 16] = std::array::from_fn(|lane| match lane < S::LANES {
                true => (*from.add(lane)).get(),
                false => 0.0,
            });
            S::load(values.as_ptr())
        }
    }

    /// Stores what [`Value::quantised`] made.
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::store_low_bytes(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn stream<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { Self::store::<S>(to, vector) }
    }
}

/// Single precision, what a number of a brick's steps is worth: for processors that multiply no bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Worth(f32);

impl Value for Worth {
    fn of(value: f32) -> Self {
        Self(value)
    }

    fn get(self) -> f32 {
        self.0
    }

    fn quantise(value: f32, how: &Quantisation) -> Self {
        let zero = WHOLE + how.zero;
        Self((value * how.inverse + zero - zero) * how.step)
    }

    #[inline(always)]
    unsafe fn quantised<S: Simd>(vector: S::Vector, how: &Quantisation) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe {
            let zero = S::splat(WHOLE + how.zero);
            let steps = S::multiply_add(vector, S::splat(how.inverse), zero);
            S::mul(S::sub(steps, zero), S::splat(how.step))
        }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as the caller promises.
        unsafe { S::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::store(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn stream<S: Simd>(to: *mut Self, vector: S::Vector) {
        // SAFETY: as the caller promises.
        unsafe { S::stream(to.cast(), vector) }
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
