// Asynchronous copies, mbarriers and pipelines: right ones give right results in every schedule, and
// each of the classic mistakes is noticed.
#include "../launch.h"

#include <cmath>

using emulator::Buffer;
using emulator::for_seeds;
using emulator::is_caught;
using emulator::is_noticed;
using emulator::launch;

// Notices with how many of `count` schedules.
template <class Body> static int noticed_in(u64 count, Body body) {
    int noticed = 0;
    u64 before = emulator::configuration().seed;
    for (u64 seed = 1; seed <= count; seed++) {
        emulator::configuration().seed = seed;
        noticed += is_noticed(body);
    }
    emulator::configuration().seed = before;
    return noticed;
}

// ---- cp.async: sums of rows of 32 bytes, through two stages in shared memory

struct Sum {
    const u32* in; // [steps][128][8]
    u32* out;      // [128], the sums over steps of row 127 - t
    u32 steps;
};
enum CopyMistake { NONE, NO_BARRIER_AFTER_WAIT, NO_BARRIER_BEFORE_COPY, WEAK_WAIT, NOT_COMMITTED };
template <CopyMistake MISTAKE> DEVICE void sum_rows(const Sum& p) {
    SHARED(shared);
    u32 t = thread_index(), sum = 0;
    auto load = [&](u32 step) {
        u8* to = shared + step % 2 * 4096 + t * 32;
        const u32* from = p.in + (step * 128 + t) * 8;
        copy_async_16(to, from);
        copy_async_16(to + 16, from + 4);
        if (MISTAKE != NOT_COMMITTED || step + 1 < p.steps) copy_async_commit();
    };
    load(0);
    for (u32 step = 0; step < p.steps; step++) {
        if (step + 1 < p.steps) load(step + 1);
        else copy_async_commit();
        copy_async_wait<MISTAKE == WEAK_WAIT ? 2 : 1>();
        if (MISTAKE != NO_BARRIER_AFTER_WAIT) block_barrier();
        const u32* row = (const u32*)(shared + step % 2 * 4096 + (127 - t) * 32);
        for (u32 i = 0; i < 8; i++) sum += row[i];
        if (MISTAKE != NO_BARRIER_BEFORE_COPY) block_barrier();
    }
    p.out[t] = sum;
}
KERNEL(sum_rows_right, 128, 1, Sum) { sum_rows<NONE>(p); }
KERNEL(sum_rows_no_barrier_after_wait, 128, 1, Sum) { sum_rows<NO_BARRIER_AFTER_WAIT>(p); }
KERNEL(sum_rows_no_barrier_before_copy, 128, 1, Sum) { sum_rows<NO_BARRIER_BEFORE_COPY>(p); }
KERNEL(sum_rows_weak_wait, 128, 1, Sum) { sum_rows<WEAK_WAIT>(p); }
KERNEL(sum_rows_not_committed, 128, 1, Sum) { sum_rows<NOT_COMMITTED>(p); }

static void check_sums(const char* kernel) {
    const u32 steps = 5;
    std::vector<u32> in(steps * 128 * 8);
    for (size_t i = 0; i < in.size(); i++) in[i] = u32(i * 2654435761u);
    Buffer<u32> from(in), to(128);
    launch(kernel, {1}, 8192, Sum{from.data(), to.data(), steps});
    auto out = to.read();
    for (u32 t = 0; t < 128; t++) {
        u32 sum = 0, row = 127 - t;
        for (u32 step = 0; step < steps; step++) {
            for (u32 i = 0; i < 8; i++) sum += in[(step * 128 + row) * 8 + i];
        }
        CHECK(out[t] == sum);
    }
}
TEST(copies_arrive_when_waited_for) {
    for_seeds(30, [] { check_sums("sum_rows_right"); });
}
TEST(mistakes_with_copies_are_noticed) {
    for (const char* kernel : {"sum_rows_no_barrier_after_wait", "sum_rows_no_barrier_before_copy", "sum_rows_weak_wait", "sum_rows_not_committed"}) {
        int noticed = noticed_in(8, [=] { check_sums(kernel); });
        printf("       %s: noticed with %d of 8 seeds\n", kernel, noticed);
        CHECK(noticed >= 3);
    }
}

// ---- Hopper's pipeline: a warpgroup that copies in bulk, and one that multiplies

struct Gemm {
    const u8* a; // [chunks][2][64][8] halves
    const u8* b; // [chunks][2][32][8]
    float* d;    // [64][32]
    u32 chunks;
};
enum PipelineMistake {
    RIGHT,
    FREED_BEFORE_WAIT,
    NO_WAIT,
    EMPTY_IGNORED,
    EMPTY_INVERTED,
    FULL_IGNORED,
    TOO_FEW_BYTES,
    TOO_MANY_BYTES,
    TOO_MANY_ARRIVALS,
    NOT_INITIALISED,
};
template <int MISTAKE> DEVICE void pipeline(const Gemm& p) {
    constexpr u32 A = 2 * 64 * 16, B = 2 * 32 * 16, STAGE = A + B, STAGES = 2;
    SHARED(shared);
    u64* full = (u64*)(shared + STAGES * STAGE);
    u64* empty = full + STAGES;
    u32 t = thread_index();
    if (t == 0) {
        for (u32 s = 0; s < STAGES; s++) {
            mbarrier_initialise(full + s, 1);
            if (MISTAKE != NOT_INITIALISED) mbarrier_initialise(empty + s, MISTAKE == TOO_MANY_ARRIVALS ? 2 : 1);
        }
        mbarrier_fence_initialise();
    }
    block_barrier();
    if (t < 128) {
        lower_register_limit<40>();
        // One thread alone: others might lag by two phases, and parity tells only two apart.
        for (u32 chunk = 0; t == 0 && chunk < p.chunks; chunk++) {
            u32 s = chunk % STAGES, round = chunk / STAGES % 2;
            u8* stage = shared + s * STAGE;
            if (MISTAKE != EMPTY_IGNORED) mbarrier_wait(empty + s, MISTAKE == EMPTY_INVERTED ? round : round ^ 1);
            mbarrier_arrive_expect(full + s, STAGE + (MISTAKE == TOO_FEW_BYTES ? -16 : MISTAKE == TOO_MANY_BYTES ? 16 : 0));
            copy_bulk(stage, p.a + chunk * A, A, full + s);
            copy_bulk(stage + A, p.b + chunk * B, B, full + s);
        }
    } else {
        raise_register_limit<232>();
        float d[16];
        for (u32 i = 0; i < 16; i++) d[i] = 0;
        for (u32 chunk = 0; chunk < p.chunks; chunk++) {
            u32 s = chunk % STAGES, round = chunk / STAGES % 2;
            u8* stage = shared + s * STAGE;
            if (MISTAKE != FULL_IGNORED) mbarrier_wait(full + s, round);
            warpgroup_fence();
            warpgroup_multiply_accumulate<32>(d, matrix_descriptor(stage, 64 * 16, 128), matrix_descriptor(stage + A, 32 * 16, 128));
            warpgroup_commit();
            if (MISTAKE == FREED_BEFORE_WAIT && t == 128) mbarrier_arrive(empty + s);
            if (MISTAKE != NO_WAIT) warpgroup_wait<0>();
            if (MISTAKE != FREED_BEFORE_WAIT && t == 128) mbarrier_arrive(empty + s);
        }
        u32 row = (t - 128) / 32 * 16 + lane_index() / 4, column = lane_index() % 4 * 2;
        for (u32 n = 0; n < 4; n++) {
            for (u32 i = 0; i < 4; i++) p.d[(row + i / 2 * 8) * 32 + n * 8 + column + i % 2] = d[n * 4 + i];
        }
    }
}
#define PIPELINE(mistake) KERNEL(pipeline_##mistake, 256, 1, Gemm) { pipeline<mistake>(p); }
PIPELINE(RIGHT)
PIPELINE(FREED_BEFORE_WAIT)
PIPELINE(NO_WAIT)
PIPELINE(EMPTY_IGNORED)
PIPELINE(EMPTY_INVERTED)
PIPELINE(FULL_IGNORED)
PIPELINE(TOO_FEW_BYTES)
PIPELINE(TOO_MANY_BYTES)
PIPELINE(TOO_MANY_ARRIVALS)
PIPELINE(NOT_INITIALISED)

static void check_pipeline(const char* kernel) {
    const u32 chunks = 7;
    std::vector<half> a(chunks * 64 * 16), b(chunks * 32 * 16);
    u32 state = 7;
    auto fill = [&](std::vector<half>& values) {
        for (half& value : values) {
            state = state * 1664525u + 1013904223u;
            value = to_half(float(int(state >> 24) - 128) / 128);
        }
    };
    fill(a);
    fill(b);
    auto bytes = [](const std::vector<half>& values) {
        return std::vector<u8>(reinterpret_cast<const u8*>(values.data()), reinterpret_cast<const u8*>(values.data() + values.size()));
    };
    Buffer<u8> from_a(bytes(a)), from_b(bytes(b));
    Buffer<float> to(64 * 32);
    launch(kernel, {1}, 2 * (2 * 64 * 16 + 2 * 32 * 16) + 32, Gemm{from_a.data(), from_b.data(), to.data(), chunks});
    auto out = to.read();
    for (u32 row = 0; row < 64; row++) {
        for (u32 column = 0; column < 32; column++) {
            double sum = 0;
            for (u32 k = 0; k < chunks * 16; k++) {
                sum += double(to_float(a[k / 8 * 64 * 8 + row * 8 + k % 8])) * double(to_float(b[k / 8 * 32 * 8 + column * 8 + k % 8]));
            }
            CHECK(std::fabs(sum - double(out[row * 32 + column])) < 1e-4);
        }
    }
}
TEST(a_pipeline_of_bulk_copies_and_wgmma) {
    for_seeds(30, [] { check_pipeline("pipeline_RIGHT"); });
}
TEST(mistakes_in_a_pipeline_are_noticed) {
    for (const char* mistake : {"FREED_BEFORE_WAIT", "NO_WAIT", "EMPTY_IGNORED", "EMPTY_INVERTED", "FULL_IGNORED", "TOO_FEW_BYTES", "TOO_MANY_BYTES",
                                "TOO_MANY_ARRIVALS", "NOT_INITIALISED"}) {
        std::string kernel = std::string("pipeline_") + mistake;
        int noticed = noticed_in(8, [=] { check_pipeline(kernel.c_str()); });
        printf("       %s: noticed with %d of 8 seeds\n", kernel.c_str(), noticed);
        CHECK(noticed >= 3);
    }
    CHECK(is_caught("warp 0 lanes 0-0: mbarrier_wait", [] { check_pipeline("pipeline_EMPTY_INVERTED"); }));
    CHECK(is_caught("an mbarrier that was not initialised", [] { check_pipeline("pipeline_NOT_INITIALISED"); }));
    CHECK(is_caught("deadlock", [] { check_pipeline("pipeline_TOO_MANY_BYTES"); }));
}

TESTS_MAIN
