// Kernels by name, what the environment sets, and running a grid of blocks.
#pragma once
#ifndef __CUDACC__
#include "../primitives.cuh"
#endif

namespace emulator {

// Marsaglia's xorshift, from a seed that is mixed as in splitmix64: neighbouring seeds have nothing in
// common.
struct Random {
    u64 state;
    explicit Random(u64 seed = 0) {
        u64 z = seed + 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        state = (z ^ z >> 31) | 1;
    }
    u32 next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return u32(state >> 20);
    }
    // From 0 to n - 1.
    u32 below(u32 n) { return u32(u64(next()) * n >> 32); }
    bool one_in(u32 n) { return below(n) == 0; }
};

struct Configuration {
    // VOXTILE_EMULATOR_SEED: of adversarial schedules; 0 runs threads in order.
    u64 seed;
    // VOXTILE_EMULATOR_THREADS: host threads that run blocks.
    u32 threads;
    // VOXTILE_EMULATOR_MEMORY: bytes of device memory.
    u64 memory;
    // VOXTILE_EMULATOR_CAPABILITY: "9.0" is 90.
    u32 capability;
    // VOXTILE_EMULATOR_DEVICES: how many devices there are.
    u32 devices;
    // VOXTILE_EMULATOR_FAULT: the launch, counted from 1, that fails as if it had touched memory that
    // is not there; 0 for none. Counts down.
    u64 fault;
    // VOXTILE_EMULATOR_BUSY: so many devices, the first, refuse contexts.
    u32 busy;
};
// Read from the environment at first; may be changed between launches.
Configuration& configuration();

// Of a compute capability: dynamic shared memory that a block may have, in bytes.
u32 largest_shared_memory(u32 capability);
constexpr u32 SHARED_MEMORY_WITHOUT_ASKING = 48 << 10;

// Null if there is no kernel of this name.
const Kernel* find_kernel(const char* name);

struct Launch {
    const Kernel* kernel;
    u32 grid[3];
    u32 shared_bytes;
    const void* parameters;
};
// Runs all blocks and returns. One grid at a time.
void run_grid(const Launch& launch);
// In a forked process, whose other threads are not there.
void forget_threads();

} // namespace emulator
