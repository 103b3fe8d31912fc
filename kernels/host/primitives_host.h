// The primitives of ../primitives.cuh for g++: each forwards to the emulator.
#pragma once
#include "emulator.h"

#define DEVICE inline
#define UNROLL
#define UNROLL_BY(n)
#define KERNEL(name, threads, minimum_blocks, Parameters)                                          \
    static void name(const Parameters& p);                                                         \
    static const emulator::Registration name##_registration(                                       \
        {#name, threads, minimum_blocks, sizeof(Parameters), alignof(Parameters),                  \
         [](const void* parameters) { name(*static_cast<const Parameters*>(parameters)); }});      \
    static void name([[maybe_unused]] const Parameters& p)
#define SHARED(pointer) u8* pointer = emulator::shared_memory()
#define HAS_BULK_COPY 1
#define HAS_WARPGROUP_MULTIPLY 1

// Where a primitive stands in the kernel's source.
#define VOXTILE_SITE emulator::Site site = emulator::here()

DEVICE u32 thread_index() { return emulator::current->index; }
DEVICE u32 warp_index() { return emulator::current->index >> 5; }
DEVICE u32 lane_index() { return emulator::current->index & 31; }
DEVICE u32 block_index_x() { return emulator::current->place->block[0]; }
DEVICE u32 block_index_y() { return emulator::current->place->block[1]; }
DEVICE u32 block_index_z() { return emulator::current->place->block[2]; }
DEVICE u32 grid_size_x() { return emulator::current->place->grid[0]; }
DEVICE u32 shared_address(const void* pointer) { return emulator::shared_address(pointer); }

// ---- half

DEVICE half to_half(float value) { return half{emulator::half_bits(value)}; }
DEVICE float to_float(half value) { return emulator::half_value(value.bits); }
DEVICE u32 pack_half2(float low, float high) {
    return u32(emulator::half_bits(low)) | u32(emulator::half_bits(high)) << 16;
}
DEVICE float2 unpack_half2(u32 pair) {
    return float2{emulator::half_value(u16(pair)), emulator::half_value(u16(pair >> 16))};
}
// A product of two halves is exact in float, and so rounded once.
DEVICE u32 multiply_half2(u32 a, u32 b) {
    float2 x = unpack_half2(a), y = unpack_half2(b);
    return emulator::rounded_half_bits(x.x * y.x) | u32(emulator::rounded_half_bits(x.y * y.y)) << 16;
}
DEVICE u32 maximum_half2(u32 a, u32 b) {
    float2 x = unpack_half2(a), y = unpack_half2(b);
    return emulator::rounded_half_bits(fmaxf(x.x, y.x)) | u32(emulator::rounded_half_bits(fmaxf(x.y, y.y))) << 16;
}

template <class T> DEVICE T min(T a, T b) { return b < a ? b : a; }
template <class T> DEVICE T max(T a, T b) { return a < b ? b : a; }
// As CUDA's: of a number and NaN the number.
template <> inline float min(float a, float b) { return fminf(a, b); }
template <> inline float max(float a, float b) { return fmaxf(a, b); }
template <> inline double min(double a, double b) { return fmin(a, b); }
template <> inline double max(double a, double b) { return fmax(a, b); }

// ---- block and warp

DEVICE void block_barrier(VOXTILE_SITE) { emulator::block_barrier(site); }
DEVICE void named_barrier_wait(u32 id, u32 threads, VOXTILE_SITE) {
    emulator::named_barrier(id, threads, true, site);
}
DEVICE void named_barrier_arrive(u32 id, u32 threads, VOXTILE_SITE) {
    emulator::named_barrier(id, threads, false, site);
}

template <class T> DEVICE T shuffle_xor(T value, u32 mask, VOXTILE_SITE) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "values of 4 or 8 bytes are shuffled");
    u64 bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = emulator::shuffle_xor(bits, mask, site);
    memcpy(&value, &bits, sizeof(T));
    return value;
}
DEVICE u32 warp_ballot(bool value, VOXTILE_SITE) { return emulator::ballot(value, site); }
DEVICE bool any_lane(bool value, VOXTILE_SITE) { return emulator::ballot(value, site) != 0; }

// ---- matrices

DEVICE void load_matrix_x4(u32 (&r)[4], const void* row, VOXTILE_SITE) {
    emulator::load_matrix_x4(r, row, site);
}
DEVICE void multiply_accumulate(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], VOXTILE_SITE) {
    emulator::multiply_accumulate(d, a, b, 1, 1, site);
}
template <u32 N>
DEVICE void multiply_accumulate(float (&d)[N][4], const u32 (&a)[4], const u32 (&b)[N][2], VOXTILE_SITE) {
    emulator::multiply_accumulate(d[0], a, b[0], 1, N, site);
}
template <u32 M, u32 N>
DEVICE void multiply_accumulate(float (&d)[M][N][4], const u32 (&a)[M][4], const u32 (&b)[N][2], VOXTILE_SITE) {
    emulator::multiply_accumulate(d[0][0], a[0], b[0], M, N, site);
}

// ---- vectors

template <class T> DEVICE T emulator_load(const void* pointer, emulator::Site site) {
    emulator::check_alignment(pointer, sizeof(T), site);
    return *static_cast<const T*>(pointer);
}
template <class T> DEVICE void emulator_store(void* pointer, T value, emulator::Site site) {
    emulator::check_alignment(pointer, sizeof(T), site);
    *static_cast<T*>(pointer) = value;
}
DEVICE uint4 load_global_16(const void* pointer, VOXTILE_SITE) { return emulator_load<uint4>(pointer, site); }
DEVICE uint4 load_shared_16(const void* pointer, VOXTILE_SITE) { return emulator_load<uint4>(pointer, site); }
DEVICE void store_shared_16(void* pointer, uint4 v, VOXTILE_SITE) { emulator_store(pointer, v, site); }

// ---- asynchronous copies of each thread

DEVICE void copy_async_16(void* shared, const void* global, VOXTILE_SITE) {
    emulator::copy_async_16(shared, global, site);
}
DEVICE void copy_async_commit(VOXTILE_SITE) { emulator::copy_async_commit(site); }
template <u32 GROUPS> DEVICE void copy_async_wait(VOXTILE_SITE) { emulator::copy_async_wait(GROUPS, site); }

// ---- atomics

DEVICE u32 atomic_or(u32* pointer, u32 value, VOXTILE_SITE) {
    emulator::before_atomic(pointer, site);
    return __atomic_fetch_or(pointer, value, __ATOMIC_SEQ_CST);
}

// ---- Hopper and later

DEVICE void mbarrier_initialise(u64* barrier, u32 arrivals, VOXTILE_SITE) {
    emulator::mbarrier_initialise(barrier, arrivals, site);
}
DEVICE void mbarrier_fence_initialise() {}
DEVICE void mbarrier_arrive(u64* barrier, VOXTILE_SITE) { emulator::mbarrier_arrive(barrier, 0, site); }
DEVICE void mbarrier_arrive_expect(u64* barrier, u32 bytes, VOXTILE_SITE) {
    emulator::mbarrier_arrive(barrier, bytes, site);
}
DEVICE void mbarrier_wait(u64* barrier, u32 parity, VOXTILE_SITE) { emulator::mbarrier_wait(barrier, parity, site); }
DEVICE void copy_bulk(void* shared, const void* global, u32 bytes, u64* barrier, VOXTILE_SITE) {
    emulator::copy_bulk(shared, global, bytes, barrier, site);
}
DEVICE void fence_async_shared() {}
template <u32 N> DEVICE void raise_register_limit() { static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg"); }
template <u32 N> DEVICE void lower_register_limit() { static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg"); }
DEVICE void warpgroup_fence(VOXTILE_SITE) { emulator::warpgroup_fence(site); }
DEVICE void warpgroup_commit(VOXTILE_SITE) { emulator::warpgroup_commit(site); }
template <u32 GROUPS> DEVICE void warpgroup_wait(VOXTILE_SITE) { emulator::warpgroup_wait(GROUPS, site); }
DEVICE u64 matrix_descriptor(const void* pointer, u32 leading_bytes, u32 stride_bytes) {
    return (u64)((shared_address(pointer) & 0x3ffff) >> 4) | ((u64)(leading_bytes >> 4) << 16) |
           ((u64)(stride_bytes >> 4) << 32);
}
template <u32 N> DEVICE void warpgroup_multiply_accumulate(float (&d)[N / 2], u64 a, u64 b, VOXTILE_SITE) {
    static_assert(N == 16 || N == 32 || N == 48 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256,
                  "no wgmma of this width is declared");
    emulator::warpgroup_multiply_accumulate(d, N, a, b, site);
}
