// The emulator itself: threads, blocks, warps, half precision and memory do what CUDA says, and
// misuse is noticed.
#include "../launch.h"

#include <cmath>
#include <set>

using emulator::Buffer;
using emulator::for_seeds;
using emulator::is_caught;
using emulator::is_noticed;
using emulator::launch;

struct Exchange {
    const u32* in;
    u32* out;
};

static std::vector<u32> numbers(size_t count) {
    std::vector<u32> values(count);
    for (size_t i = 0; i < count; i++) values[i] = u32(i * 2654435761u);
    return values;
}

// ---- block barriers

template <bool BARRIER> DEVICE void reverse(const Exchange& p) {
    SHARED(shared);
    u32* values = (u32*)shared;
    u32 t = thread_index(), base = block_index_x() * 256;
    values[t] = p.in[base + t];
    if (BARRIER) block_barrier();
    p.out[base + t] = values[255 - t];
}
KERNEL(reverse_block, 256, 1, Exchange) { reverse<true>(p); }
KERNEL(reverse_without_barrier, 256, 1, Exchange) { reverse<false>(p); }

static void check_reversed(const char* kernel) {
    auto in = numbers(256 * 7);
    Buffer<u32> from(in), to(in.size());
    launch(kernel, {7}, 1024, Exchange{from.data(), to.data()});
    auto out = to.read();
    for (u32 i = 0; i < in.size(); i++) CHECK(out[i] == in[i / 256 * 256 + 255 - i % 256]);
}
TEST(block_barrier_separates) {
    for_seeds(20, [] { check_reversed("reverse_block"); });
}
TEST(a_missing_barrier_is_noticed) {
    for_seeds(5, [] { CHECK(is_noticed([] { check_reversed("reverse_without_barrier"); })); });
}

// Warp 1 produces into two places in turns, warp 0 consumes.
KERNEL(named_barriers, 64, 1, Exchange) {
    SHARED(shared);
    u32 lane = lane_index();
    for (u32 round = 0; round < 6; round++) {
        u32 place = round % 2, full = 1 + place, empty = 3 + place;
        u32* values = (u32*)shared + 32 * place;
        if (warp_index() == 0) {
            named_barrier_wait(full, 64);
            p.out[round * 32 + lane] = values[31 - lane];
            if (round + 2 < 6) named_barrier_arrive(empty, 64);
        } else {
            if (round >= 2) named_barrier_wait(empty, 64);
            values[lane] = p.in[round * 32 + lane];
            named_barrier_arrive(full, 64);
        }
    }
}
TEST(named_barriers_hand_over) {
    auto in = numbers(6 * 32);
    for_seeds(20, [&] {
        Buffer<u32> from(in), to(in.size());
        launch("named_barriers", {1}, 256, Exchange{from.data(), to.data()});
        auto out = to.read();
        for (u32 i = 0; i < in.size(); i++) CHECK(out[i] == in[i / 32 * 32 + 31 - i % 32]);
    });
}

KERNEL(early_exit, 64, 1, Exchange) {
    if (thread_index() >= 40) return;
    block_barrier();
    p.out[thread_index()] = 1;
}
TEST(barriers_do_not_wait_for_threads_that_ended) {
    for_seeds(8, [] {
        Buffer<u32> out(40);
        launch("early_exit", {1}, 0, Exchange{nullptr, out.data()});
        for (u32 value : out.read()) CHECK(value == 1);
    });
}

KERNEL(deadlock, 64, 1, Exchange) {
    if (warp_index() == 0) named_barrier_wait(1, 64);
    else named_barrier_wait(2, 64);
    (void)p;
}
KERNEL(half_a_warp, 32, 1, Exchange) {
    if (lane_index() < 16) p.out[lane_index()] = shuffle_xor(lane_index(), 1);
}
KERNEL(two_operations, 32, 1, Exchange) {
    if (lane_index() < 16) p.out[lane_index()] = shuffle_xor(lane_index(), 1);
    else p.out[lane_index()] = shuffle_xor(lane_index(), 2);
}
KERNEL(divergent_barrier, 32, 1, Exchange) {
    if (lane_index() < 16) block_barrier();
    else block_barrier();
    (void)p;
}
TEST(what_never_meets_is_reported) {
    for_seeds(4, [] {
        Buffer<u32> out(32);
        for (auto [kernel, message] : {std::pair<const char*, const char*>{"deadlock", "warp 1 lanes 0-31: named_barrier_wait 2"},
                                       {"half_a_warp", "lanes of one warp are at different operations"},
                                       {"two_operations", "lanes of one warp are at different operations"},
                                       {"divergent_barrier", "lanes of one warp are at different operations"}}) {
            CHECK(is_caught(message, [&] { launch(kernel, {1}, 0, Exchange{nullptr, out.data()}); }));
        }
    });
}

// ---- warps

KERNEL(warp_operations, 64, 1, Exchange) {
    u32 lane = lane_index(), value = p.in[thread_index()];
    u32* out = p.out + thread_index() * 5;
    out[0] = shuffle_xor(value, 9);
    out[1] = warp_ballot(value & 1);
    out[2] = any_lane(lane == 31) * 2 + any_lane(lane == 32);
    double wide = shuffle_xor(double(value) * 0x1p40, 1);
    out[3] = u32(wide * 0x1p-40);
    out[4] = u32(shuffle_xor(float(lane), 31));
}
TEST(warp_operations_exchange) {
    auto in = numbers(64);
    for_seeds(10, [&] {
        Buffer<u32> from(in), to(320);
        launch("warp_operations", {1}, 0, Exchange{from.data(), to.data()});
        auto out = to.read();
        for (u32 t = 0; t < 64; t++) {
            u32 lane = t % 32;
            const u32 *warp = in.data() + t / 32 * 32, *of = out.data() + t * 5;
            u32 odd = 0;
            for (u32 i = 0; i < 32; i++) odd |= (warp[i] & 1) << i;
            CHECK(of[0] == warp[lane ^ 9] && of[1] == odd && of[2] == 2);
            CHECK(of[3] == warp[lane ^ 1] && of[4] == 31 - lane);
        }
    });
}

// ---- atomics and grids

struct Count {
    u32* counters;
};
KERNEL(count, 96, 1, Count) {
    u32 block = block_index_x() + grid_size_x() * (block_index_y() + 3 * block_index_z());
    // How often a thread came: the first time finds its bit unset.
    u32* word = p.counters + block * 3 + warp_index();
    u32 bit = 1u << lane_index();
    if (atomic_or(word, bit) & bit) atomic_or(p.counters + 90, 1);
}
TEST(every_block_runs_once) {
    for_seeds(10, [] {
        std::vector<u32> zeros(91, 0);
        Buffer<u32> counters(zeros);
        launch("count", {5, 3, 2}, 0, Count{counters.data()});
        auto counts = counters.read();
        for (u32 warp = 0; warp < 90; warp++) CHECK(counts[warp] == ~0u);
        CHECK(counts[90] == 0);
    });
}

// Each thread says how many came before it in its block: with seeds, the order must change.
KERNEL(order_of_threads, 64, 1, Count) {
    SHARED(shared);
    u32* came = (u32*)shared;
    if (thread_index() < 2) came[thread_index()] = 0;
    block_barrier();
    u32 own = warp_index(), before = atomic_or(came + own, 1u << lane_index());
    p.counters[thread_index()] = u32(__builtin_popcount(before) + __builtin_popcount(atomic_or(came + 1 - own, 0)));
}
TEST(schedules_differ_and_repeat) {
    std::set<std::vector<u32>> orders;
    u64 before = emulator::configuration().seed;
    for (u64 seed = 0; seed < 10; seed++) {
        emulator::configuration().seed = seed;
        Buffer<u32> out(64);
        launch("order_of_threads", {1}, 8, Count{out.data()});
        orders.insert(out.read());
    }
    emulator::configuration().seed = before;
    CHECK(orders.size() >= 8);
}

// ---- half precision

TEST(halves_convert_as_ieee_says) {
    for (u32 bits = 0; bits < 65536; bits++) {
        float value = emulator::portable_half_value(u16(bits));
        int exponent = int(bits >> 10 & 31);
        double magnitude = exponent == 0 ? std::ldexp(double(bits & 1023), -24) : std::ldexp(double(1024 + (bits & 1023)), exponent - 25);
        bool nan = exponent == 31 && (bits & 1023);
        double expected = nan ? NAN : exponent == 31 ? INFINITY : magnitude;
        if (bits & 0x8000) expected = -expected;
        float hardware = to_float(half{u16(bits)});
        CHECK(nan ? std::isnan(value) && std::isnan(hardware) : double(value) == expected && double(hardware) == expected);
        // There and back, but for infinities, which become the largest finite value.
        u16 back = to_half(value).bits;
        CHECK(nan ? std::isnan(to_float(half{back})) : back == (exponent == 31 ? (bits & 0x8000) | 0x7bff : bits));
        CHECK(nan || emulator::portable_half_bits(value) == bits);
    }
    u32 random = 1;
    for (int i = 0; i < 2000000; i++) { // the portable conversion and the processor's agree
        random = random * 1664525u + 1013904223u;
        float value;
        memcpy(&value, &random, 4);
        if (!std::isnan(value)) CHECK(emulator::portable_half_bits(value) == emulator::rounded_half_bits(value));
    }
    CHECK(emulator::rounded_half_bits(65519.9f) == 0x7bff && emulator::rounded_half_bits(65520.f) == 0x7c00);
    CHECK(emulator::portable_half_bits(65519.9f) == 0x7bff && emulator::portable_half_bits(-65520.f) == 0xfc00);
    u32 product = multiply_half2(pack_half2(300.f, 0x1p-14f), pack_half2(300.f, 0.5f));
    CHECK(product == 0x02007c00 && maximum_half2(product, 0x7e00c000) == 0x02007c00);
    CHECK(to_half(65519.f).bits == 0x7bff && to_half(-1e30f).bits == 0xfbff && to_half(INFINITY).bits == 0x7bff);
    CHECK(to_half(2049.f).bits == to_half(2048.f).bits && to_half(2051.f).bits == to_half(2052.f).bits);
    CHECK(to_half(0x1p-25f).bits == 0 && to_half(0x1.8p-25f).bits == 1);
    float2 pair = unpack_half2(pack_half2(1.5f, -2.f));
    CHECK(pair.x == 1.5f && pair.y == -2.f && std::isnan(unpack_half2(pack_half2(NAN, 0.f)).x));
}

// ---- memory

struct Touch {
    const float* in;
    float* out;
    long at;
};
KERNEL(touch_global, 32, 1, Touch) {
    if (thread_index() == 7) p.out[p.at] = p.in[0];
}
KERNEL(read_global, 32, 1, Touch) {
    if (thread_index() == 7) p.out[0] = p.in[p.at];
}
KERNEL(touch_shared, 32, 1, Touch) {
    SHARED(shared);
    if (thread_index() == 7) ((float*)shared)[p.at] = 1;
}
KERNEL(overflow_stack, 32, 1, Touch) {
    volatile char large[1 << 20];
    large[p.at] = 0;
    p.out[0] = large[p.at];
}
TEST(access_out_of_bounds_is_reported) {
    for_seeds(3, [] {
        Buffer<float> in({1, 1, 1, 1}), out(4);
        auto run = [&](const char* kernel, long at, const char* message) {
            return is_caught(message, [&] { launch(kernel, {1}, 64, Touch{in.data(), out.data(), at}); });
        };
        CHECK(run("touch_global", 4, "kernel touch_global, block 0 0 0, thread 7 (warp 0 lane 7)"));
        CHECK(run("touch_global", 4, "wrote address"));
        CHECK(run("touch_global", 4, "0 bytes after the end of an allocation of 16 bytes"));
        CHECK(run("read_global", 4, "read address"));
        CHECK(run("touch_global", -1025, "bytes before an allocation of 16 bytes"));
        CHECK(run("touch_global", -1, "wrote 4 bytes before the start of an allocation of 16 bytes"));
        CHECK(run("touch_shared", 16, "shared memory was written 0 bytes beyond the end of its 64 bytes"));
        CHECK(run("touch_shared", 32, "wrote address"));
        CHECK(run("touch_shared", 32, "byte 128 of shared memory of 64 bytes"));
        CHECK(run("overflow_stack", 0, "its stack overflowed"));
    });
}

KERNEL(read_uninitialised, 32, 1, Touch) {
    SHARED(shared);
    u32 t = thread_index();
    if (t == 0) p.out[0] = ((float*)shared)[3];
    if (t == 1) p.out[1] = to_float(((half*)shared)[11]);
    if (t == 2) p.out[2] = p.in[0];
    if (t == 3) p.out[3] = to_float(((const half*)p.in)[2]);
}
TEST(uninitialised_memory_is_not_a_number) {
    for_seeds(3, [] {
        Buffer<float> in(2), out(4);
        launch("read_uninitialised", {1}, 64, Touch{in.data(), out.data(), 0});
        for (float value : out.read()) CHECK(std::isnan(value));
    });
}

KERNEL(misaligned, 32, 1, Touch) { store_shared_16((u8*)p.out + 8, load_global_16(p.in)); }
TEST(misaligned_vectors_are_reported) {
    Buffer<float> in(8), out(8);
    CHECK(is_caught("is not a multiple of 16", [&] { launch("misaligned", {1}, 0, Touch{in.data(), out.data(), 0}); }));
}

TESTS_MAIN
