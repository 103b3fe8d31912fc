//! x86-64: AVX2 with FMA, and AVX-512F.

use core::arch::x86_64::*;

use super::Simd;

#[derive(Clone, Copy)]
pub(in super::super) struct Avx2;

#[derive(Clone, Copy)]
pub(in super::super) struct Avx512;

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

// SAFETY: loads and stores stay within `LANES` values; callers have checked for AVX-512F.
unsafe impl Simd for Avx512 {
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
    unsafe fn where_greater(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: AVX-512F is there.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: AVX-512F is there; the caller vouches for 16 rows and 16 columns.
        unsafe {
            let rows: [_; 16] =
                std::array::from_fn(|row| _mm512_loadu_ps(from.add(row * from_step)));
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
}
