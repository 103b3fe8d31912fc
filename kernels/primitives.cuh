// Everything a kernel may use, once for NVRTC (inline PTX) and once for g++ (kernels/host, the
// emulator). Kernels include this file only, no system header, and use no other CUDA builtin, so
// that the code that runs on a GPU is the code that is tested without one.
//
//   Types       u8 u16 u32 u64 i64, half (storage only), uint4 int2 int4 float2 float4
//   Functions   DEVICE (qualifier of every function), UNROLL and UNROLL_BY(n) (before a loop)
//   Kernel      KERNEL(name, threads, minimum_blocks, Parameters) { ... p.field ... }
//               blocks are one-dimensional, of `threads` threads, a multiple of 32
//   Shared      SHARED(pointer);                 u8* pointer to the launch's dynamic shared memory,
//               aligned to 128 bytes; there is no static __shared__
//               shared_address(pointer)          u32, its address inside shared memory
//   Indices     thread_index() warp_index() lane_index()
//               block_index_x() _y() _z()  grid_size_x()
//   half        to_half(float)                   to nearest even, saturates at +-65504, NaN stays NaN
//               to_float(half)
//               pack_half2(low, high)            u32, saturates likewise; low in the low 16 bits
//               unpack_half2(u32)                float2 {low, high}
//               multiply_half2(u32, u32) maximum_half2(u32, u32)   of each half, rounded to nearest even;
//               the maximum of a number and NaN is the number
//   Math        fmaf fminf fmaxf fabsf expf, min max of equal types, sqrt of double
//   Block       block_barrier()
//   Warp        all 32 lanes take part in every warp operation
//               shuffle_xor(value, mask)         4 or 8 byte arithmetic types
//               warp_ballot(bool) any_lane(bool)
//   Matrices    load_matrix_x4(u32 (&r)[4], row)                           ldmatrix m8n8 b16;
//               lane l passes the address of row l % 8 of matrix l / 8, 16-byte aligned
//               multiply_accumulate(float (&d)[4], a[4], b[2])             mma m16n8k16, fp16 in,
//               multiply_accumulate(float (&d)[N][4], a[4], b[N][2])       fp32 sums; the larger
//               multiply_accumulate(float (&d)[M][N][4], a[M][4], b[N][2]) ones are emulated faster
//                 a: rows g, g+8, g, g+8 and columns 2t, 2t, 2t+8, 2t+8 of a 16x16 matrix,
//                 b: rows 2t, 2t+8 and column g of a 16x8 matrix (pairs along k),
//                 d: rows g, g, g+8, g+8 and columns 2t, 2t+1, 2t, 2t+1; g = lane/4, t = lane%4
//   Vectors     load_global_16(p)                uint4, read-only cache: only for memory that this
//               kernel does not write
//               load_shared_16(p) store_shared_16(p, uint4)
//   Async copy  copy_async_16(shared, global)
//               copy_async_commit(), copy_async_wait<groups that may stay in flight>()
//   Atomics     atomic_or(u32*, u32) returns the old value. No atomics on floats.
//
// For pipelines of Hopper, whose parts are proven on the emulator; no kernel has one yet:
//   Barriers    named_barrier_wait(id, threads), named_barrier_arrive(id, threads)   id 1 to 15
//   Hopper and later, inside #if HAS_BULK_COPY
//               mbarrier_initialise(u64*, arrivals), mbarrier_fence_initialise()
//               mbarrier_arrive(u64*), mbarrier_arrive_expect(u64*, bytes), mbarrier_wait(u64*, parity)
//               copy_bulk(shared, global, bytes, u64* mbarrier)     16-byte aligned, multiple of 16
//               fence_async_shared()             after plain stores that bulk copies or wgmma follow
//   Hopper only, inside #if HAS_WARPGROUP_MULTIPLY
//               warpgroup_fence(), warpgroup_commit(), warpgroup_wait<groups that may stay in flight>()
//               warpgroup_multiply_accumulate<N>(float (&d)[N/2], u64 a, u64 b)   m64nNk16, N one of
//               16 32 48 64 96 128 192 256; both operands in shared memory
//               matrix_descriptor(pointer, leading_bytes, stride_bytes)    no swizzle, K-major: core
//               matrices of 8 rows of 16 bytes; leading: to the next 8 of k, stride: to the next 8 rows
//               raise_register_limit<N>(), lower_register_limit<N>()
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// IEEE binary16 as it lies in memory. Arithmetic is done in float.
struct half {
    u16 bits;
};

#ifndef __CUDACC__
#include "host/primitives_host.h"
#else

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define VOXTILE_PRAGMA(text) _Pragma(#text)
#define UNROLL_BY(n) VOXTILE_PRAGMA(unroll n)
#define KERNEL(name, threads, minimum_blocks, Parameters)                                          \
    extern "C" __global__ void __launch_bounds__(threads, minimum_blocks)                          \
        name(const __grid_constant__ Parameters p)
extern __shared__ __align__(128) u8 voxtile_shared_memory[];
#define SHARED(pointer) u8* pointer = voxtile_shared_memory

#if __CUDA_ARCH__ >= 900
#define HAS_BULK_COPY 1
#else
#define HAS_BULK_COPY 0
#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HAS_WARPGROUP_MULTIPLY 1
#else
#define HAS_WARPGROUP_MULTIPLY 0
#endif

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 warp_index() { return threadIdx.x >> 5; }
DEVICE u32 lane_index() { return threadIdx.x & 31; }
DEVICE u32 block_index_x() { return blockIdx.x; }
DEVICE u32 block_index_y() { return blockIdx.y; }
DEVICE u32 block_index_z() { return blockIdx.z; }
DEVICE u32 grid_size_x() { return gridDim.x; }
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// ---- half

// min and max that keep NaN, on the packed pair: infinities become the largest finite value. The
// satfinite conversion would do the same, but needs PTX 8.1 and so a newer driver.
DEVICE u32 pack_half2(float low, float high) {
    u32 pair;
    asm("{.reg .b32 t;\n"
        "cvt.rn.f16x2.f32 t, %2, %1;\n"
        "min.NaN.f16x2 t, t, %3;\n"
        "max.NaN.f16x2 %0, t, %4;}"
        : "=r"(pair)
        : "f"(low), "f"(high), "r"(0x7bff7bffu), "r"(0xfbfffbffu));
    return pair;
}
DEVICE half to_half(float value) { return half{(u16)pack_half2(value, 0.f)}; }
DEVICE float to_float(half value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}
DEVICE float2 unpack_half2(u32 pair) {
    return float2{to_float(half{(u16)pair}), to_float(half{(u16)(pair >> 16)})};
}

DEVICE u32 multiply_half2(u32 a, u32 b) {
    u32 result;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}
DEVICE u32 maximum_half2(u32 a, u32 b) {
    u32 result;
    asm("max.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}


// ---- block and warp

DEVICE void block_barrier() { __syncthreads(); }
DEVICE void named_barrier_wait(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEVICE void named_barrier_arrive(u32 id, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
template <class T> DEVICE T shuffle_xor(T value, u32 mask) { return __shfl_xor_sync(~0u, value, mask); }
DEVICE u32 warp_ballot(bool value) { return __ballot_sync(~0u, value); }
DEVICE bool any_lane(bool value) { return __any_sync(~0u, value); }

// ---- matrices

DEVICE void load_matrix_x4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void multiply_accumulate(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <u32 N>
DEVICE void multiply_accumulate(float (&d)[N][4], const u32 (&a)[4], const u32 (&b)[N][2]) {
    UNROLL
    for (u32 n = 0; n < N; n++) multiply_accumulate(d[n], a, b[n]);
}
template <u32 M, u32 N>
DEVICE void multiply_accumulate(float (&d)[M][N][4], const u32 (&a)[M][4], const u32 (&b)[N][2]) {
    UNROLL
    for (u32 n = 0; n < N; n++) {
        UNROLL
        for (u32 m = 0; m < M; m++) multiply_accumulate(d[m][n], a[m], b[n]);
    }
}

// ---- vectors

DEVICE uint4 load_global_16(const void* pointer) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(pointer));
    return v;
}
DEVICE uint4 load_shared_16(const void* pointer) { return *(const uint4*)pointer; }
DEVICE void store_shared_16(void* pointer, uint4 v) { *(uint4*)pointer = v; }

// ---- asynchronous copies of each thread

DEVICE void copy_async_16(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 GROUPS> DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// ---- atomics

DEVICE u32 atomic_or(u32* pointer, u32 value) { return atomicOr(pointer, value); }

// ---- Hopper and later

#if HAS_BULK_COPY
DEVICE void mbarrier_initialise(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
DEVICE void mbarrier_fence_initialise() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
DEVICE void mbarrier_arrive_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Waits until the phase of this parity (0 first) has ended.
DEVICE void mbarrier_wait(u64* barrier, u32 parity) {
    asm volatile("{.reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}
DEVICE void copy_bulk(void* shared, const void* global, u32 bytes, u64* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}
DEVICE void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#endif

#if HAS_WARPGROUP_MULTIPLY
template <u32 N> DEVICE void raise_register_limit() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <u32 N> DEVICE void lower_register_limit() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
DEVICE void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <u32 GROUPS> DEVICE void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}
DEVICE u64 matrix_descriptor(const void* pointer, u32 leading_bytes, u32 stride_bytes) {
    return (u64)((shared_address(pointer) & 0x3ffff) >> 4) | ((u64)(leading_bytes >> 4) << 16) |
           ((u64)(stride_bytes >> 4) << 32);
}

// The sums are N/2 operands of one instruction, eight to a macro.
#define VOXTILE_D8(i)                                                                              \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),     \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define VOXTILE_D32(i) VOXTILE_D8(i), VOXTILE_D8(i + 8), VOXTILE_D8(i + 16), VOXTILE_D8(i + 24)
#define VOXTILE_R8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define VOXTILE_R16 VOXTILE_R8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define VOXTILE_R24 VOXTILE_R16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define VOXTILE_R32 VOXTILE_R24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define VOXTILE_R48 VOXTILE_R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define VOXTILE_R64 VOXTILE_R48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define VOXTILE_R96                                                                                \
    VOXTILE_R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"                 \
                ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define VOXTILE_R128                                                                               \
    VOXTILE_R96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"     \
                ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define VOXTILE_WGMMA(n, registers, a_operand, b_operand, ...)                                     \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" registers              \
                 "}, " a_operand ", " b_operand ", 1, 1, 1, 0, 0;"                                 \
                 : __VA_ARGS__                                                                     \
                 : "l"(a), "l"(b))

template <u32 N> DEVICE void warpgroup_multiply_accumulate(float (&d)[N / 2], u64 a, u64 b) {
    if constexpr (N == 16) {
        VOXTILE_WGMMA(16, VOXTILE_R8, "%8", "%9", VOXTILE_D8(0));
    } else if constexpr (N == 32) {
        VOXTILE_WGMMA(32, VOXTILE_R16, "%16", "%17", VOXTILE_D8(0), VOXTILE_D8(8));
    } else if constexpr (N == 48) {
        VOXTILE_WGMMA(48, VOXTILE_R24, "%24", "%25", VOXTILE_D8(0), VOXTILE_D8(8), VOXTILE_D8(16));
    } else if constexpr (N == 64) {
        VOXTILE_WGMMA(64, VOXTILE_R32, "%32", "%33", VOXTILE_D32(0));
    } else if constexpr (N == 96) {
        VOXTILE_WGMMA(96, VOXTILE_R48, "%48", "%49", VOXTILE_D32(0), VOXTILE_D8(32), VOXTILE_D8(40));
    } else if constexpr (N == 128) {
        VOXTILE_WGMMA(128, VOXTILE_R64, "%64", "%65", VOXTILE_D32(0), VOXTILE_D32(32));
    } else if constexpr (N == 192) {
        VOXTILE_WGMMA(192, VOXTILE_R96, "%96", "%97", VOXTILE_D32(0), VOXTILE_D32(32), VOXTILE_D32(64));
    } else {
        static_assert(N == 256, "no wgmma of this width is declared here");
        VOXTILE_WGMMA(256, VOXTILE_R128, "%128", "%129", VOXTILE_D32(0), VOXTILE_D32(32), VOXTILE_D32(64),
                      VOXTILE_D32(96));
    }
}
#endif // HAS_WARPGROUP_MULTIPLY

#endif // __CUDACC__
