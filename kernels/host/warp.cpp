// Operations of a whole warp.
#include "block.h"

// A product of halves is exact in single precision, so that adding it in one operation or two is the
// same; what else is computed here is not rounded.
#pragma GCC optimize("fp-contract=fast")

namespace emulator {

u64 shuffle_xor(u64 bits, u32 mask, Site site) {
    Thread& self = running();
    self.warp->block->may_preempt(self);
    // The lane to read from; where there is none, the lane itself.
    self.detail = (self.lane ^ mask) < 32 ? self.lane ^ mask : self.lane;
    self.warp->values[self.lane] = bits;
    meet(self, "shuffle_xor", site, [](Warp& warp) {
        u64 before[32];
        memcpy(before, warp.values, sizeof(before));
        for (u32 lane = 0; lane < 32; lane++) warp.values[lane] = before[warp.threads[lane].detail];
    });
    return self.warp->values[self.lane];
}

u32 ballot(bool value, Site site) {
    Thread& self = running();
    self.warp->block->may_preempt(self);
    self.warp->values[self.lane] = value;
    meet(self, "vote", site, [](Warp& warp) {
        u32 bits = 0;
        for (u32 lane = 0; lane < 32; lane++) bits |= u32(warp.values[lane]) << lane;
        for (u32 lane = 0; lane < 32; lane++) warp.values[lane] = bits;
    });
    return u32(self.warp->values[self.lane]);
}

void load_matrix_x4(u32* r, const void* row, Site site) {
    Thread& self = running();
    Block& block = *self.warp->block;
    block.may_preempt(self);
    size_t offset = size_t(static_cast<const u8*>(row) - block.shared);
    if (offset > block.launch.shared_bytes || offset + 16 > block.launch.shared_bytes) {
        misuse(site, "a row of a matrix at byte %td of %u bytes of shared memory", ptrdiff_t(offset), block.launch.shared_bytes);
    }
    check_alignment(row, 16, site);
    self.warp->pointers[self.lane] = r;
    self.warp->values[self.lane] = u64(uintptr_t(row));
    meet(self, "load_matrix_x4", site, [](Warp& warp) {
        for (u32 lane = 0; lane < 32; lane++) {
            u32* to = static_cast<u32*>(warp.pointers[lane]);
            for (u32 m = 0; m < 4; m++) {
                memcpy(to + m, reinterpret_cast<const u8*>(warp.values[8 * m + lane / 4]) + lane % 4 * 4, 4);
            }
        }
    });
}

// As many columns as a register holds.
#ifdef __AVX512F__
constexpr u32 WIDTH = 16;
#else
constexpr u32 WIDTH = 8;
#endif
typedef float Columns __attribute__((vector_size(WIDTH * 4)));
typedef float Four __attribute__((vector_size(16), aligned(4)));
constexpr u32 MOST_COLUMNS = MOST_COLUMN_TILES * 8;

static void widen(const u16* halves, float* floats, u32 count) {
#ifdef __F16C__
    for (u32 i = 0; i < count; i += 8) {
        _mm256_store_ps(floats + i, _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(halves + i))));
    }
#else
    for (u32 i = 0; i < count; i++) floats[i] = half_value(halves[i]);
#endif
}

// sums[16][stride] = a[16][16] * b[16][stride], for VECTORS * WIDTH columns.
template <u32 VECTORS> static void multiply_columns(const float* a, const float* b, float* sums, u32 stride) {
    constexpr u32 ROWS = 4; // and 8 sums: they stay in registers
    for (u32 row = 0; row < 16; row += ROWS) {
        Columns sum[ROWS][VECTORS] = {};
        for (u32 k = 0; k < 16; k++) {
            Columns of_b[VECTORS];
#pragma GCC unroll 4
            for (u32 v = 0; v < VECTORS; v++) of_b[v] = reinterpret_cast<const Columns*>(b + k * stride)[v];
#pragma GCC unroll 4
            for (u32 r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
                for (u32 v = 0; v < VECTORS; v++) sum[r][v] += a[(row + r) * 16 + k] * of_b[v];
            }
        }
#pragma GCC unroll 4
        for (u32 r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
            for (u32 v = 0; v < VECTORS; v++) reinterpret_cast<Columns*>(sums + (row + r) * stride)[v] = sum[r][v];
        }
    }
}

static void multiply_warp(Warp& warp, u32 m_tiles, u32 n_tiles) {
    u32 stride = warp.columns;
    alignas(64) float b[16 * MOST_COLUMNS];
    alignas(64) float sums[16 * MOST_COLUMNS];
    alignas(64) float a[16 * 16];
    widen(warp.b, b, 16 * stride);
    for (u32 m = 0; m < m_tiles; m++) {
        widen(reinterpret_cast<const u16*>(&warp.a[m][0][0]), a, 16 * 16);
        u32 column = 0;
        for (; column + 2 * WIDTH <= stride; column += 2 * WIDTH) multiply_columns<2>(a, b + column, sums + column, stride);
        for (; column < stride; column += WIDTH) multiply_columns<1>(a, b + column, sums + column, stride);
        for (u32 lane = 0; lane < 32; lane++) {
            float* d = static_cast<float*>(warp.pointers[lane]) + m * n_tiles * 4;
            const float* upper = sums + lane / 4 * stride + lane % 4 * 2;
            for (u32 n = 0; n < n_tiles; n++, d += 4, upper += 8) {
                const float* lower = upper + 8 * stride;
                *reinterpret_cast<Four*>(d) += Four{upper[0], upper[1], lower[0], lower[1]};
            }
        }
    }
}

void multiply_accumulate(float* d, const u32* a, const u32* b, u32 m_tiles, u32 n_tiles, Site site) {
    Thread& self = running();
    Warp& warp = *self.warp;
    warp.block->may_preempt(self);
    if (m_tiles > MOST_ROW_TILES || n_tiles > MOST_COLUMN_TILES) {
        misuse(site, "%u x %u tiles in one multiply_accumulate; %u x %u are emulated", m_tiles, n_tiles, MOST_ROW_TILES,
               MOST_COLUMN_TILES);
    }
    u32 g = self.lane / 4, t = self.lane % 4;
    for (u32 m = 0; m < m_tiles; m++, a += 4) {
        warp.a[m][g][t] = a[0];
        warp.a[m][g + 8][t] = a[1];
        warp.a[m][g][t + 4] = a[2];
        warp.a[m][g + 8][t + 4] = a[3];
    }
    u32 stride = (n_tiles * 8 + WIDTH - 1) / WIDTH * WIDTH;
    u16* column = warp.b + 2 * t * stride + g;
    for (u32 n = 0; n < n_tiles; n++, b += 2, column += 8) {
        column[0] = u16(b[0]);
        column[stride] = u16(b[0] >> 16);
        column[8 * stride] = u16(b[1]);
        column[9 * stride] = u16(b[1] >> 16);
    }
    warp.pointers[self.lane] = d;
    warp.columns = stride;
    meet(self, "multiply_accumulate", site, [=](Warp& all) { multiply_warp(all, m_tiles, n_tiles); });
}

} // namespace emulator
