//! The few vector operations the kernels are written in, and the instruction sets that have them.
//!
//! Every kernel is written once, generic over [`Simd`], and compiled once for each set inside a
//! function that enables its instructions. The order of the arithmetic of one output value does
//! not depend on the set; sets with fused multiply-add round once where the portable one rounds
//! twice.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::base::{Error, Result};

#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;
pub(super) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, Avx512Bf16};

/// A vector of `f32` and what can be done with it.
///
/// # Safety
/// Callers of every method must run on a processor that has the instruction set; `load` and
/// `store` need `LANES` valid values behind the pointer, of any alignment.
pub(super) unsafe trait Simd: Copy {
    /// The vector.
    type Vector: Copy;
    /// Values in it: a divisor of 16.
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, vector: Self::Vector);
    /// Asks for the line of cache around `at`, which may point anywhere.
    #[inline(always)]
    unsafe fn prefetch(_at: *const f32) {}
    /// Stores past the caches, where a vector is a whole line of them and `to` is the start of
    /// one; [`Simd::fence`] comes after.
    #[inline(always)]
    unsafe fn stream(to: *mut f32, vector: Self::Vector) {
        // SAFETY: as the caller promises.
        unsafe { Self::store(to, vector) }
    }
    /// Lets other threads see what was stored by [`Simd::stream`].
    #[inline(always)]
    unsafe fn fence() {}
    /// Widens values of type `bf16`.
    unsafe fn load_bf16(from: *const u16) -> Self::Vector;
    /// Rounds to `bf16`: to nearest, ties to even; what is not a number stays so. Whether
    /// magnitudes below 2^-126 become zeros is the set's choice.
    unsafe fn store_bf16(to: *mut u16, vector: Self::Vector);
    /// As [`Simd::store_bf16`], past the caches where that is possible.
    #[inline(always)]
    unsafe fn stream_bf16(to: *mut u16, vector: Self::Vector) {
        // SAFETY: as the caller promises.
        unsafe { Self::store_bf16(to, vector) }
    }
    /// What [`Simd::load_bf16`] would find after [`Simd::store_bf16`].
    #[inline(always)]
    unsafe fn round_bf16(vector: Self::Vector) -> Self::Vector {
        let mut values = [0; 16];
        // SAFETY: `LANES` is a divisor of 16.
        unsafe {
            Self::store_bf16(values.as_mut_ptr(), vector);
            Self::load_bf16(values.as_ptr())
        }
    }
    /// Stores the lowest 8 bits of each value.
    #[inline(always)]
    unsafe fn store_low_bytes(to: *mut u8, vector: Self::Vector) {
        let mut values = [0f32; 16];
        // SAFETY: `LANES` is a divisor of 16.
        unsafe {
            Self::store(values.as_mut_ptr(), vector);
            for (lane, value) in values.iter().enumerate().take(Self::LANES) {
                *to.add(lane) = value.to_bits() as u8;
            }
        }
    }
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    #[inline(always)]
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as the caller promises.
        unsafe { Self::where_greater(a, b, b, a) }
    }
    /// In each lane `x` where `a > b`, else `y`.
    unsafe fn where_greater(
        a: Self::Vector,
        b: Self::Vector,
        x: Self::Vector,
        y: Self::Vector,
    ) -> Self::Vector;
    /// Transposes `LANES` rows of as many values, `to[column][row] = from[row][column]`; rows are
    /// `from_step` values apart, columns `to_step`.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        for row in 0..Self::LANES {
            for column in 0..Self::LANES {
                // SAFETY: as the caller promises.
                unsafe { *to.add(column * to_step + row) = *from.add(row * from_step + column) };
            }
        }
    }
}

const VARIABLE: &str = "VOXTILE_INSTRUCTIONS";

/// The instruction sets voxtile has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// x86-64 with AVX-512F and AVX512-BF16.
    Avx512Bf16,
    /// x86-64 with AVX-512F.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// AArch64.
    Neon,
    /// Any processor.
    Portable,
}

impl Instructions {
    /// The sets this processor has, the fastest first; never empty.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma");
            // int8 of AVX-512 without AVX512-VNNI has AVX2's kernels.
            if avx2 && std::arch::is_x86_feature_detected!("avx512f") {
                if std::arch::is_x86_feature_detected!("avx512bf16") {
                    sets.push(Self::Avx512Bf16);
                }
                sets.push(Self::Avx512);
            }
            if avx2 {
                sets.push(Self::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            sets.push(Self::Neon);
        }
        sets.push(Self::Portable);
        sets
    }

    /// The fastest set, unless the environment variable `VOXTILE_INSTRUCTIONS` names another:
    /// `avx512bf16`, `avx512`, `avx2`, `neon` or `portable`.
    ///
    /// # Errors
    /// [`Error::Argument`] if it names none, or one that this processor has not.
    pub fn chosen() -> Result<Self> {
        match std::env::var_os(VARIABLE) {
            Some(name) => Self::named(&name.to_string_lossy()),
            None => Ok(Self::available()[0]),
        }
    }

    fn named(name: &str) -> Result<Self> {
        let sets = [
            ("avx512bf16", Self::Avx512Bf16),
            ("avx512", Self::Avx512),
            ("avx2", Self::Avx2),
            ("neon", Self::Neon),
            ("portable", Self::Portable),
        ];
        let available = Self::available();
        let has = |set: &Self| available.contains(set);
        match sets.iter().find(|(known, _)| *known == name) {
            Some((_, set)) if has(set) => Ok(*set),
            found => {
                let here = sets.iter().filter(|(_, set)| has(set)).map(|(name, _)| *name);
                let here = here.collect::<Vec<_>>().join(" or ");
                let what = if found.is_some() { "this processor has not" } else { "are unknown" };
                Err(Error::argument(format!(
                    "{VARIABLE} names instructions that {what}: `{name}`, expected {here}"
                )))
            }
        }
    }

    /// The set's name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Bf16 => "AVX-512 BF16",
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Neon => "NEON",
            Self::Portable => "portable",
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Rounds and widens values of every sign, exponent and upper half, just below, at and just
    /// above what two `bf16` have in the middle.
    #[inline(always)]
    unsafe fn round_and_widen<S: Simd>() {
        const LOWER: [u32; 8] = [0, 1, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0x8002, 0xffff];
        for upper in 0..=0xffff_u32 {
            let mut values = [0.0; 16];
            for (value, lower) in values.iter_mut().zip(LOWER.into_iter().cycle()) {
                *value = f32::from_bits(upper << 16 | lower);
            }
            let (mut narrow, mut wide, mut rounded) = ([0_u16; 16], [0.0_f32; 16], [0.0_f32; 16]);
            for lane in (0..16).step_by(S::LANES) {
                // SAFETY: the caller vouches for the set; there are 16 values.
                unsafe {
                    let vector = S::load(values.as_ptr().add(lane));
                    S::store_bf16(narrow.as_mut_ptr().add(lane), vector);
                    S::store(wide.as_mut_ptr().add(lane), S::load_bf16(narrow.as_ptr().add(lane)));
                    S::store(rounded.as_mut_ptr().add(lane), S::round_bf16(vector));
                }
            }
            for lane in 0..16 {
                let (value, found) = (values[lane], bf16::from_bits(narrow[lane]));
                let expected = bf16::from_f32(value);
                let tiny = value.abs() < f32::MIN_POSITIVE && found == bf16::ZERO;
                let strange = value.is_nan() && found.is_nan();
                assert!(tiny || strange || found.to_bits() == expected.to_bits(), "{value:e}");
                assert_eq!(wide[lane].to_bits(), u32::from(narrow[lane]) << 16, "{value:e}");
                assert_eq!(rounded[lane].to_bits(), wide[lane].to_bits(), "{value:e}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn of_avx2() {
        // SAFETY: as the caller promises.
        unsafe { round_and_widen::<Avx2>() }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn of_avx512() {
        // SAFETY: as the caller promises.
        unsafe { round_and_widen::<Avx512>() }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn of_avx512_bf16() {
        // SAFETY: as the caller promises.
        unsafe { round_and_widen::<Avx512Bf16>() }
    }

    #[test]
    fn every_set_rounds_to_bf16_alike() {
        for set in Instructions::available() {
            // SAFETY: the processor has the set.
            unsafe {
                match set {
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512Bf16 => of_avx512_bf16(),
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512 => of_avx512(),
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx2 => of_avx2(),
                    #[cfg(target_arch = "aarch64")]
                    Instructions::Neon => round_and_widen::<Neon>(),
                    _ => round_and_widen::<Portable>(),
                }
            }
        }
    }

    #[test]
    fn sets_are_chosen_by_name() {
        assert_eq!(Instructions::named("portable").unwrap(), Instructions::Portable);
        let absent = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
        for (name, told) in [(absent, "has not"), ("AVX-512", "are unknown"), ("", "are unknown")] {
            let message = Instructions::named(name).unwrap_err().to_string();
            assert!(message.contains(told) && message.contains("portable"), "{message}");
        }
    }
}
