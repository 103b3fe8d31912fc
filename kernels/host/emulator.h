// What kernels call when they run on the host. A CUDA thread is a fiber; one block runs at a time on
// each host thread, and blocks of a grid run on several. An operation of a whole warp is computed by
// the lane that arrives last.
//
// What hardware does as late as it likes happens here as late, or as early, as is allowed; shared
// memory begins as NaN between guard pages; with a seed, threads run in orders that a GPU seldom
// shows. Misuse ends the process with a message that names kernel, block, thread and source line.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __F16C__
#include <immintrin.h>
#endif

// The built-in vector types of CUDA.
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace emulator {

struct Site {
    const char* file;
    int line;
};
// As a default argument of a primitive: the line that calls the primitive.
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

struct Kernel {
    const char* name;
    u32 threads;
    u32 minimum_blocks;
    size_t parameter_bytes;
    size_t parameter_alignment;
    void (*run)(const void* parameters);
};
// A static object per kernel, so that kernels are found by name.
struct Registration {
    Registration(const Kernel& kernel);
};

// Which block a thread belongs to.
struct Place {
    u32 block[3];
    u32 grid[3];
};
// The part of a running thread that primitives read directly.
struct ThreadFace {
    u32 index;
    const Place* place;
    u8* shared;
};
extern __thread ThreadFace* current; // without the calls that thread_local makes

inline u8* shared_memory() { return current->shared; }
u32 shared_address(const void* pointer);

// binary16, to nearest even, NaN stays NaN.
u16 portable_half_bits(float value);
float portable_half_value(u16 bits);
// What is too large becomes infinity.
inline u16 rounded_half_bits(float value) {
#ifdef __F16C__
    return u16(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
    return portable_half_bits(value);
#endif
}
// What is too large becomes the largest finite value.
inline u16 half_bits(float value) {
    float largest = 65504.f;
    return rounded_half_bits(value > largest ? largest : value < -largest ? -largest : value);
}
inline float half_value(u16 bits) {
#ifdef __F16C__
    return _cvtsh_ss(bits);
#else
    return portable_half_value(bits);
#endif
}

[[noreturn]] void misuse(Site site, const char* format, ...) __attribute__((format(printf, 2, 3)));
inline void check_alignment(const void* pointer, size_t bytes, Site site) {
    if (uintptr_t(pointer) % bytes) misuse(site, "address %p is not a multiple of %zu", pointer, bytes);
}

void block_barrier(Site site);
void named_barrier(u32 id, u32 threads, bool waits, Site site);
u64 shuffle_xor(u64 bits, u32 mask, Site site);
u32 ballot(bool value, Site site);
void load_matrix_x4(u32* r, const void* row, Site site);
// d[m][n][4] += a[m][4] * b[n][2]
void multiply_accumulate(float* d, const u32* a, const u32* b, u32 m_tiles, u32 n_tiles, Site site);
void copy_async_16(void* shared, const void* global, Site site);
void copy_async_commit(Site site);
void copy_async_wait(u32 groups, Site site);
void before_atomic(const void* pointer, Site site);
void mbarrier_initialise(u64* barrier, u32 arrivals, Site site);
void mbarrier_arrive(u64* barrier, u32 expected_bytes, Site site);
void mbarrier_wait(u64* barrier, u32 parity, Site site);
void copy_bulk(void* shared, const void* global, u32 bytes, u64* barrier, Site site);
void warpgroup_fence(Site site);
void warpgroup_multiply_accumulate(float* d, u32 n, u64 a, u64 b, Site site);
void warpgroup_commit(Site site);
void warpgroup_wait(u32 groups, Site site);

} // namespace emulator
