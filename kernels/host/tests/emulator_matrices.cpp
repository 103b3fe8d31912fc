// Operations on matrices, against plain loops that follow the figures of the PTX ISA (sections
// "Matrix load instruction: ldmatrix" and "Matrix fragments for mma.m16n8k16 with .f16").
#include "../launch.h"

#include <cmath>

using emulator::Buffer;
using emulator::for_seeds;
using emulator::is_caught;
using emulator::launch;

static u32 state = 12345;
static float uniform() {
    state = state * 1664525u + 1013904223u;
    return float(int(state >> 8) - (1 << 23)) / float(1 << 23);
}
static std::vector<half> random_halves(size_t count) {
    std::vector<half> values(count);
    for (half& value : values) value = to_half(uniform());
    return values;
}

struct Load {
    const u16* in;
    u32* out;
    u32 pitch; // bytes from row to row
};
DEVICE void stage(const Load& p, u8* shared) {
    for (u32 i = thread_index(); i < 1024; i += 32) ((u16*)shared)[i] = p.in[i];
    block_barrier();
}
KERNEL(load_x4, 32, 1, Load) {
    SHARED(shared);
    stage(p, shared);
    u32 r[4];
    load_matrix_x4(r, shared + lane_index() * p.pitch);
    for (u32 i = 0; i < 4; i++) p.out[lane_index() * 4 + i] = r[i];
}

TEST(load_matrix_gives_each_lane_its_pair) {
    std::vector<u16> in(1024);
    for (u32 i = 0; i < 1024; i++) in[i] = u16(i);
    for (u32 pitch : {16u, 48u}) {
        for_seeds(6, [&] {
            Buffer<u16> from(in);
            Buffer<u32> to(32 * 4);
            launch("load_x4", {1}, 2048, Load{from.data(), to.data(), pitch});
            auto out = to.read();
            for (u32 lane = 0; lane < 32; lane++) {
                for (u32 m = 0; m < 4; m++) {
                    auto element = [&](u32 row, u32 column) { return in[(8 * m + row) * pitch / 2 + column]; };
                    // Row lane / 4, columns 2 (lane % 4) and the next.
                    u32 pair = element(lane / 4, lane % 4 * 2) | u32(element(lane / 4, lane % 4 * 2 + 1)) << 16;
                    CHECK(out[lane * 4 + m] == pair);
                }
            }
        });
    }
}

KERNEL(load_bad, 32, 1, Load) {
    SHARED(shared);
    u32 r[4];
    load_matrix_x4(r, shared + lane_index() * p.pitch);
    p.out[lane_index()] = r[0];
}
TEST(load_matrix_stays_in_shared_memory_and_is_aligned) {
    Buffer<u32> out(32);
    CHECK(is_caught("a row of a matrix at byte 496 of 500", [&] { launch("load_bad", {1}, 500, Load{nullptr, out.data(), 16}); }));
    CHECK(is_caught("is not a multiple of 16", [&] { launch("load_bad", {1}, 512, Load{nullptr, out.data(), 8}); }));
}

// ---- mma

struct Product {
    const half* a; // [16 M][16]
    const half* b; // [16][8 N]
    float* d;      // [16 M][8 N], added to
};
template <u32 M, u32 N, class Multiply> DEVICE void multiply(const Product& p, Multiply with) {
    u32 g = lane_index() / 4, t = lane_index() % 4;
    auto pair = [](half low, half high) { return low.bits | u32(high.bits) << 16; };
    u32 a[M][4], b[N][2];
    float d[M][N][4];
    for (u32 m = 0; m < M; m++) {
        for (u32 i = 0; i < 4; i++) {
            const half* at = p.a + (16 * m + g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
            a[m][i] = pair(at[0], at[1]);
        }
    }
    for (u32 n = 0; n < N; n++) {
        for (u32 i = 0; i < 2; i++) b[n][i] = pair(p.b[(2 * t + 8 * i) * 8 * N + 8 * n + g], p.b[(2 * t + 8 * i + 1) * 8 * N + 8 * n + g]);
    }
    auto at = [&](u32 m, u32 n, u32 i) -> float& { return p.d[(16 * m + g + i / 2 * 8) * 8 * N + 8 * n + 2 * t + i % 2]; };
    for (u32 m = 0; m < M; m++) {
        for (u32 n = 0; n < N; n++) {
            for (u32 i = 0; i < 4; i++) d[m][n][i] = at(m, n, i);
        }
    }
    with(d, a, b);
    for (u32 m = 0; m < M; m++) {
        for (u32 n = 0; n < N; n++) {
            for (u32 i = 0; i < 4; i++) at(m, n, i) = d[m][n][i];
        }
    }
}
#define ALL_AT_ONCE(M, N)                                                                          \
    KERNEL(multiply_##M##_##N, 32, 1, Product) {                                                   \
        multiply<M, N>(p, [](float(&d)[M][N][4], const u32(&a)[M][4], const u32(&b)[N][2]) { multiply_accumulate(d, a, b); }); \
    }
ALL_AT_ONCE(1, 1)
ALL_AT_ONCE(1, 2)
ALL_AT_ONCE(2, 3)
ALL_AT_ONCE(2, 4)
ALL_AT_ONCE(4, 8)
ALL_AT_ONCE(8, 5)
ALL_AT_ONCE(1, 32)
KERNEL(multiply_one_by_one, 32, 1, Product) {
    multiply<2, 3>(p, [](float(&d)[2][3][4], const u32(&a)[2][4], const u32(&b)[3][2]) {
        for (u32 m = 0; m < 2; m++) {
            for (u32 n = 0; n < 3; n++) multiply_accumulate(d[m][n], a[m], b[n]);
        }
    });
}
KERNEL(multiply_by_rows, 32, 1, Product) {
    multiply<2, 3>(p, [](float(&d)[2][3][4], const u32(&a)[2][4], const u32(&b)[3][2]) {
        for (u32 m = 0; m < 2; m++) multiply_accumulate(d[m], a[m], b);
    });
}

static void check_product(const char* kernel, u32 rows, u32 columns) {
    auto a = random_halves(rows * 16), b = random_halves(16 * columns);
    std::vector<float> d(rows * columns);
    for (float& value : d) value = uniform();
    for_seeds(4, [&] {
        Buffer<half> from_a(a), from_b(b);
        Buffer<float> to(d);
        launch(kernel, {1}, 0, Product{from_a.data(), from_b.data(), to.data()});
        auto out = to.read();
        for (u32 row = 0; row < rows; row++) {
            for (u32 column = 0; column < columns; column++) {
                double sum = double(d[row * columns + column]);
                for (u32 k = 0; k < 16; k++) sum += double(to_float(a[row * 16 + k])) * double(to_float(b[k * columns + column]));
                CHECK(std::fabs(sum - double(out[row * columns + column])) < 1e-5);
            }
        }
    });
}
TEST(multiply_accumulate_is_a_matrix_product) {
    check_product("multiply_1_1", 16, 8);
    check_product("multiply_1_2", 16, 16);
    check_product("multiply_2_3", 32, 24);
    check_product("multiply_2_4", 32, 32);
    check_product("multiply_4_8", 64, 64);
    check_product("multiply_8_5", 128, 40);
    check_product("multiply_1_32", 16, 256);
    check_product("multiply_one_by_one", 32, 24);
    check_product("multiply_by_rows", 32, 24);
}

// Whatever is not a number in an operand is not a number in the sums that it takes part in.
TEST(not_a_number_spreads_only_along_its_row) {
    auto a = random_halves(16 * 16), b = random_halves(16 * 8);
    a[5 * 16 + 3] = half{0x7e00};
    Buffer<half> from_a(a), from_b(b);
    Buffer<float> to(std::vector<float>(16 * 8, 0));
    launch("multiply_1_1", {1}, 0, Product{from_a.data(), from_b.data(), to.data()});
    auto out = to.read();
    for (u32 i = 0; i < 16 * 8; i++) CHECK(std::isnan(out[i]) == (i / 8 == 5));
}

// ---- wgmma: D[64][N] = A[64][K] B[K][N], operands in shared memory as [K/8][rows][8]

struct Wide {
    const u8* a;
    const u8* b;
    float* d;
    u32 k;
    u32 leading_a, stride_a, leading_b, stride_b;
    u32 groups_in_flight;
};
template <u32 N> DEVICE void multiply_wide(const Wide& p) {
    SHARED(shared);
    u32 bytes_a = p.k / 8 * 64 * 16, bytes_b = p.k / 8 * N * 16;
    for (u32 i = thread_index(); i < bytes_a / 16; i += 128) store_shared_16(shared + i * 16, load_global_16(p.a + i * 16));
    for (u32 i = thread_index(); i < bytes_b / 16; i += 128) store_shared_16(shared + bytes_a + i * 16, load_global_16(p.b + i * 16));
    fence_async_shared();
    block_barrier();
    float d[N / 2];
    for (u32 i = 0; i < N / 2; i++) d[i] = 0;
    u64 a = matrix_descriptor(shared, p.leading_a, p.stride_a);
    u64 b = matrix_descriptor(shared + bytes_a, p.leading_b, p.stride_b);
    warpgroup_fence();
    for (u32 step = 0; step < p.k / 16; step++) {
        // A descriptor counts in 16 bytes.
        warpgroup_multiply_accumulate<N>(d, a + step * (2 * 64), b + step * (2 * N));
        warpgroup_commit();
    }
    if (p.groups_in_flight) warpgroup_wait<1>();
    else warpgroup_wait<0>();
    u32 row = warp_index() * 16 + lane_index() / 4, column = lane_index() % 4 * 2;
    for (u32 n = 0; n < N / 8; n++) {
        for (u32 i = 0; i < 4; i++) p.d[(row + i / 2 * 8) * N + n * 8 + column + i % 2] = d[n * 4 + i];
    }
    warpgroup_wait<0>();
}
#define WIDE(N) KERNEL(multiply_wide_##N, 128, 1, Wide) { multiply_wide<N>(p); }
WIDE(16)
WIDE(32)
WIDE(48)
WIDE(64)
WIDE(96)
WIDE(128)
WIDE(192)
WIDE(256)

// The largest error, or infinity for what is not a number.
static double wide_error(u32 n, u32 k, u32 stride_a, u32 groups_in_flight) {
    auto a = random_halves(64 * k), b = random_halves(n * k);
    auto bytes = [](const std::vector<half>& values) {
        return std::vector<u8>(reinterpret_cast<const u8*>(values.data()), reinterpret_cast<const u8*>(values.data() + values.size()));
    };
    Buffer<u8> from_a(bytes(a)), from_b(bytes(b));
    Buffer<float> to(64 * n);
    launch(("multiply_wide_" + std::to_string(n)).c_str(), {1}, (64 + n) * k * 2,
           Wide{from_a.data(), from_b.data(), to.data(), k, 64 * 16, stride_a, n * 16, 128, groups_in_flight});
    auto out = to.read();
    double worst = 0;
    for (u32 row = 0; row < 64; row++) {
        for (u32 column = 0; column < n; column++) {
            double sum = 0;
            for (u32 i = 0; i < k; i++) {
                sum += double(to_float(a[i / 8 * 64 * 8 + row * 8 + i % 8])) * double(to_float(b[i / 8 * n * 8 + column * 8 + i % 8]));
            }
            double error = std::fabs(sum - double(out[row * n + column]));
            worst = error < 1e30 ? std::fmax(worst, error) : INFINITY;
        }
    }
    return worst;
}
TEST(warpgroup_multiply_accumulate_is_a_matrix_product) {
    for_seeds(3, [] {
        for (u32 n : {16u, 32u, 48u, 64u, 96u, 128u, 192u, 256u}) CHECK(wide_error(n, 48, 128, 0) < 1e-4);
        CHECK(wide_error(32, 32, 256, 0) > 0.1); // another stride is another matrix
    });
}
TEST(products_that_were_not_waited_for_are_missing) {
    bool noticed = false;
    for_seeds(8, [&] { noticed |= wide_error(32, 48, 128, 1) > 1e-3; });
    CHECK(noticed);
}
TEST(only_hopper_has_wgmma) {
    CHECK(is_caught("on a device without wgmma", [] {
        emulator::configuration().capability = 120;
        wide_error(32, 32, 128, 0);
    }));
}

TESTS_MAIN
