//! x86-64: AVX2 with FMA, AVX-512F, and that with AVX512-BF16.

use core::arch::x86_64::*;

use super::Simd;

#[derive(Clone, Copy)]
pub(in super::super) struct Avx2;

#[derive(Clone, Copy)]
pub(in super::super) struct Avx512;

#[derive(Clone, Copy)]
pub(in super::super) struct Avx512Bf16;

// SAFETY: loads and stores stay within `LANES` values; callers have checked for AVX2 and FMA.
unsafe impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: __m256) {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe { _mm256_storeu_ps(to, vector) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m256 {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe {
            let values = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(values))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, vector: __m256) {
        // SAFETY: the caller vouches for `LANES` values.
        unsafe {
            let bits = _mm256_castps_si256(vector);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let strange = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(vector, vector));
            let bits = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, strange));
            let (low, high) = (_mm256_castsi256_si128(bits), _mm256_extracti128_si256::<1>(bits));
            _mm_storeu_si128(to.cast(), _mm_packus_epi32(low, high));
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: FMA is there.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn where_greater(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: AVX2 is there; the caller vouches for 8 rows and 8 columns.
        unsafe {
            let rows: [_; 8] =
                std::array::from_fn(|row| _mm256_loadu_ps(from.add(row * from_step)));
            // Each half holds columns of four rows...
            let mut fours = rows;
            for first in [0, 4] {
                let [a, b, c, d] = std::array::from_fn(|row| rows[first + row]);
                let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (low2, high2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                fours[first] = _mm256_shuffle_ps::<0x44>(low, low2);
                fours[first + 1] = _mm256_shuffle_ps::<0xee>(low, low2);
                fours[first + 2] = _mm256_shuffle_ps::<0x44>(high, high2);
                fours[first + 3] = _mm256_shuffle_ps::<0xee>(high, high2);
            }
            // ...and the halves of the first four rows meet those of the last.
            for n in 0..4 {
                let (a, b) = (fours[n], fours[4 + n]);
                _mm256_storeu_ps(to.add(n * to_step), _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(to.add((4 + n) * to_step), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }
}

/// AVX-512F, with a way to round to `bf16`.
macro_rules! avx512 {
    ($set:ident, $narrow:ident) => {
        // SAFETY: loads and stores stay within `LANES` values; callers have checked for the
        // instructions.
        unsafe impl Simd for $set {
            type Vector = __m512;
            const LANES: usize = 16;

            #[inline(always)]
            unsafe fn splat(value: f32) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { _mm512_set1_ps(value) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> __m512 {
                // SAFETY: the caller vouches for `LANES` values.
                unsafe { _mm512_loadu_ps(from) }
            }
            #[inline(always)]
            unsafe fn store(to: *mut f32, vector: __m512) {
                // SAFETY: the caller vouches for `LANES` values.
                unsafe { _mm512_storeu_ps(to, vector) }
            }
            #[inline(always)]
            unsafe fn stream(to: *mut f32, vector: __m512) {
                // SAFETY: the caller vouches for `LANES` values at the start of a cache line.
                unsafe { _mm512_stream_ps(to, vector) }
            }
            #[inline(always)]
            unsafe fn fence() {
                // SAFETY: every x86-64 processor has it.
                unsafe { _mm_sfence() }
            }
            #[inline(always)]
            unsafe fn prefetch(at: *const f32) {
                // SAFETY: a prefetch never faults.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
            }
            #[inline(always)]
            unsafe fn load_bf16(from: *const u16) -> __m512 {
                // SAFETY: the caller vouches for `LANES` values.
                unsafe { widened(_mm256_loadu_si256(from.cast())) }
            }
            #[inline(always)]
            unsafe fn round_bf16(vector: __m512) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { widened($narrow(vector)) }
            }
            #[inline(always)]
            unsafe fn store_bf16(to: *mut u16, vector: __m512) {
                // SAFETY: the caller vouches for `LANES` values.
                unsafe { _mm256_storeu_si256(to.cast(), $narrow(vector)) }
            }
            #[inline(always)]
            unsafe fn stream_bf16(to: *mut u16, vector: __m512) {
                // SAFETY: the caller vouches for `LANES` values, aligned to 32 bytes.
                unsafe { _mm256_stream_si256(to.cast(), $narrow(vector)) }
            }
            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { _mm512_add_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: __m512, b: __m512) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { _mm512_sub_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn mul(a: __m512, b: __m512) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { _mm512_mul_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            unsafe fn max(a: __m512, b: __m512) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { _mm512_max_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn min(a: __m512, b: __m512) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { _mm512_min_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn store_low_bytes(to: *mut u8, vector: __m512) {
                // SAFETY: the caller vouches for `LANES` bytes.
                unsafe {
                    let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(vector));
                    _mm_storeu_si128(to.cast(), bytes);
                }
            }
            #[inline(always)]
            unsafe fn where_greater(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
                // SAFETY: AVX-512F is there.
                unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x) }
            }
            #[inline(always)]
            unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
                // SAFETY: as the caller promises.
                unsafe { transpose_16(from, from_step, to, to_step) }
            }
        }
    };
}

avx512!(Avx512, rounded);
avx512!(Avx512Bf16, rounded_at_once);

/// Values of `bf16` in single precision.
#[inline(always)]
unsafe fn widened(values: __m256i) -> __m512 {
    // SAFETY: AVX-512F is there.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(values))) }
}

/// The values as `bf16`.
#[inline(always)]
unsafe fn rounded(vector: __m512) -> __m256i {
    // SAFETY: AVX-512F is there.
    unsafe {
        let bits = _mm512_castps_si512(vector);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let strange = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(vector, vector);
        let bits = _mm512_mask_or_epi32(rounded, strange, bits, _mm512_set1_epi32(0x40_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits))
    }
}

/// As [`rounded`], in one instruction, which makes zeros of magnitudes below 2^-126.
#[inline(always)]
unsafe fn rounded_at_once(vector: __m512) -> __m256i {
    // SAFETY: AVX512-BF16 is there; both are 16 values of 16 bits.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(vector)) }
}

impl Avx512Bf16 {
    /// In each lane, of which `a` and `b` hold two values each: the products of the second and
    /// of the first values, added to `c` in that order.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(in super::super) unsafe fn dot_bf16(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: AVX512-BF16 is there; the casts keep all bits.
        unsafe {
            let pairs = |vector| std::mem::transmute::<__m512, __m512bh>(vector);
            _mm512_dpbf16_ps(c, pairs(a), pairs(b))
        }
    }
}

/// [`Simd::transpose`] of 16 rows.
#[inline(always)]
unsafe fn transpose_16(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
    // SAFETY: AVX-512F is there; the caller vouches for 16 rows and 16 columns.
    unsafe {
        let rows: [_; 16] = std::array::from_fn(|row| _mm512_loadu_ps(from.add(row * from_step)));
        // Each quarter holds columns of four rows...
        let mut fours = rows;
        for first in [0, 4, 8, 12] {
            let [a, b, c, d] = std::array::from_fn(|row| rows[first + row]);
            let (low, high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (low2, high2) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            fours[first] = _mm512_shuffle_ps::<0x44>(low, low2);
            fours[first + 1] = _mm512_shuffle_ps::<0xee>(low, low2);
            fours[first + 2] = _mm512_shuffle_ps::<0x44>(high, high2);
            fours[first + 3] = _mm512_shuffle_ps::<0xee>(high, high2);
        }
        // ...and the quarters of one column meet, even ones and odd ones apart.
        for n in 0..4 {
            let [a, b, c, d] = [fours[n], fours[4 + n], fours[8 + n], fours[12 + n]];
            let even = _mm512_shuffle_f32x4::<0x88>(a, b);
            let odd = _mm512_shuffle_f32x4::<0xdd>(a, b);
            let even2 = _mm512_shuffle_f32x4::<0x88>(c, d);
            let odd2 = _mm512_shuffle_f32x4::<0xdd>(c, d);
            let column = |quarter: usize| to.add((4 * quarter + n) * to_step);
            _mm512_storeu_ps(column(0), _mm512_shuffle_f32x4::<0x88>(even, even2));
            _mm512_storeu_ps(column(1), _mm512_shuffle_f32x4::<0x88>(odd, odd2));
            _mm512_storeu_ps(column(2), _mm512_shuffle_f32x4::<0xdd>(even, even2));
            _mm512_storeu_ps(column(3), _mm512_shuffle_f32x4::<0xdd>(odd, odd2));
        }
    }
}
