// Operations of a whole warp.
#include "block.h"

namespace emulator {

void warp_barrier(Site site) {
    Thread& self = running();
    self.warp->block->may_preempt(self);
    meet(self, "warp_barrier", site, [](Warp&) {});
}

u64 shuffle(Shuffle kind, u64 bits, u32 by, Site site) {
    static const char* const names[] = {"shuffle_index", "shuffle_xor", "shuffle_up", "shuffle_down"};
    Thread& self = running();
    self.warp->block->may_preempt(self);
    // The lane to read from; where there is none, the lane itself.
    u32 from = self.lane;
    switch (kind) {
    case Shuffle::Index: from = by % 32; break;
    case Shuffle::Xor: from = (from ^ by) < 32 ? from ^ by : from; break;
    case Shuffle::Up: from = by <= from ? from - by : from; break;
    case Shuffle::Down: from = by < 32 - from ? from + by : from; break;
    }
    self.detail = from;
    self.warp->values[self.lane] = bits;
    meet(self, names[int(kind)], site, [](Warp& warp) {
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

void load_matrix(u32* r, u32 matrices, bool transposed, const void* row, Site site) {
    Thread& self = running();
    Block& block = *self.warp->block;
    block.may_preempt(self);
    if (self.lane < 8 * matrices) {
        size_t offset = size_t(static_cast<const u8*>(row) - block.shared);
        if (offset > block.launch.shared_bytes || offset + 16 > block.launch.shared_bytes) {
            misuse(site, "a row of a matrix at byte %td of %u bytes of shared memory", ptrdiff_t(offset), block.launch.shared_bytes);
        }
        check_alignment(row, 16, site);
    }
    self.warp->pointers[self.lane] = r;
    self.warp->values[self.lane] = u64(uintptr_t(row));
    auto straight = [matrices](Warp& warp) {
        for (u32 lane = 0; lane < 32; lane++) {
            u32* to = static_cast<u32*>(warp.pointers[lane]);
            for (u32 m = 0; m < matrices; m++) {
                memcpy(to + m, reinterpret_cast<const u8*>(warp.values[8 * m + lane / 4]) + lane % 4 * 4, 4);
            }
        }
    };
    auto turned = [matrices](Warp& warp) {
        for (u32 lane = 0; lane < 32; lane++) {
            u32* to = static_cast<u32*>(warp.pointers[lane]);
            for (u32 m = 0; m < matrices; m++) {
                u16 pair[2];
                for (u32 i = 0; i < 2; i++) {
                    memcpy(pair + i, reinterpret_cast<const u8*>(warp.values[8 * m + 2 * (lane % 4) + i]) + lane / 4 * 2, 2);
                }
                memcpy(to + m, pair, 4);
            }
        }
    };
    if (transposed) {
        meet(self, matrices == 4 ? "load_matrix_x4_transposed" : "load_matrix_x2_transposed", site, turned);
    } else {
        meet(self, matrices == 4 ? "load_matrix_x4" : "load_matrix_x2", site, straight);
    }
}

// Eight columns, or sixteen where registers are that wide.
typedef float Columns __attribute__((vector_size(32)));

static void widen(const u16* halves, float* floats, u32 count) {
#ifdef __F16C__
    for (u32 i = 0; i < count; i += 8) {
        _mm256_storeu_ps(floats + i, _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(halves + i))));
    }
#else
    for (u32 i = 0; i < count; i++) floats[i] = half_value(halves[i]);
#endif
}

// sums[16][8] += a[16][16] * b[16][8], where each sum is made anew.
static void multiply_tile(const float* a, const float* b, float* sums) {
    const Columns* rows_of_b = reinterpret_cast<const Columns*>(b);
    for (u32 row = 0; row < 16; row += 8) {
        Columns sum[8] = {};
        for (u32 k = 0; k < 16; k++) {
            for (u32 r = 0; r < 8; r++) sum[r] += a[(row + r) * 16 + k] * rows_of_b[k];
        }
        for (u32 r = 0; r < 8; r++) reinterpret_cast<Columns*>(sums)[row + r] = sum[r];
    }
}

static void multiply_warp(Warp& warp, u32 m_tiles, u32 n_tiles) {
    alignas(64) float b[MOST_COLUMN_TILES][16 * 8];
    for (u32 n = 0; n < n_tiles; n++) widen(&warp.b[n][0][0], b[n], 16 * 8);
    for (u32 m = 0; m < m_tiles; m++) {
        alignas(64) float a[16 * 16];
        alignas(64) float sums[16 * 8];
        widen(reinterpret_cast<const u16*>(&warp.a[m][0][0]), a, 16 * 16);
        for (u32 n = 0; n < n_tiles; n++) {
            multiply_tile(a, b[n], sums);
            for (u32 lane = 0; lane < 32; lane++) {
                float* d = static_cast<float*>(warp.pointers[lane]) + (m * n_tiles + n) * 4;
                const float* upper = sums + lane / 4 * 8 + lane % 4 * 2;
                d[0] += upper[0];
                d[1] += upper[1];
                d[2] += upper[64];
                d[3] += upper[65];
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
    for (u32 n = 0; n < n_tiles; n++, b += 2) {
        warp.b[n][2 * t][g] = u16(b[0]);
        warp.b[n][2 * t + 1][g] = u16(b[0] >> 16);
        warp.b[n][2 * t + 8][g] = u16(b[1]);
        warp.b[n][2 * t + 9][g] = u16(b[1] >> 16);
    }
    warp.pointers[self.lane] = d;
    meet(self, "multiply_accumulate", site, [=](Warp& all) { multiply_warp(all, m_tiles, n_tiles); });
}

} // namespace emulator
