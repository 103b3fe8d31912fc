// What the convolutions share: tiles, and what happens to a tile's sums before they are written.
//
// A tile is 32 lines of 8 neighbouring columns: tile_planes x tile_rows lines. Four warps make 8
// lines each, or eight warps 4. A warp's sums lie as mma.m16n8k16 leaves them: sums[i][j][r] belongs
// to line 2 i + r / 2 of the warp, column lane / 4, and channel 8 j + 2 (lane % 4) + r % 2 of the
// block. So groups of four lanes write the 16 bytes of a string, and a warp whole lines of 128 bytes.
#pragma once
#include "activation.cuh"

const int CONVOLUTION_THREADS = 128, CONVOLUTION_WARPS = 4;
const int TILE_LINES = 32, TILE_COLUMNS = 8, WARP_LINES = 8;

// A block's place. Where a convolution expands, lines and columns are those of its input.
struct Tile {
    // First plane, row and column.
    int planes, rows, columns;
    // Which voxel of those that one input voxel makes; zeros unless the convolution expands.
    int expand_plane, expand_row, expand_column;
    int first_channel;
};

DEVICE Tile tile_of_block(const Convolution& p, int width) {
    Tile tile;
    const int at = block_index_x(), across = p.tiles[2] * p.tiles[1];
    tile.columns = at % p.tiles[2] * TILE_COLUMNS;
    tile.rows = at / p.tiles[2] % p.tiles[1] * p.tile_rows;
    tile.planes = at / across * p.tile_planes;
    const int groups = (p.output_channels + width - 1) / width;
    tile.first_channel = block_index_y() % groups * width;
    const int tap = block_index_y() / groups;
    tile.expand_column = tap % p.expand[2];
    tile.expand_row = tap / p.expand[2] % p.expand[1];
    tile.expand_plane = tap / p.expand[2] / p.expand[1];
    return tile;
}

DEVICE int voxels_of(const Shape& shape) { return shape.planes * shape.rows * shape.columns; }

// The input voxel at place `at` of a tile's input along one axis, or -1 in the padding.
DEVICE int input_voxel(int at, int first, int kernel, int stride, int extent) {
    const int voxel = kernel == 1 ? (first + at) * stride : first * stride + at - 1;
    return (u32)voxel < (u32)extent ? voxel : -1;
}

template <int PAIRS, int COUNT> DEVICE void clear(float (&sums)[PAIRS][COUNT][4]) {
    UNROLL
    for (int i = 0; i < PAIRS; i++) {
        UNROLL
        for (int j = 0; j < COUNT; j++) {
            sums[i][j][0] = 0, sums[i][j][1] = 0, sums[i][j][2] = 0, sums[i][j][3] = 0;
        }
    }
}

// The output voxel of each line of the warp in the thread's column; -1 outside.
template <int LINES>
DEVICE void output_voxels(const Convolution& p, const Tile& tile, int (&voxels)[LINES]) {
    const int column = (tile.columns + (int)lane_index() / 4) * p.expand[2] + tile.expand_column;
    UNROLL
    for (int i = 0; i < LINES; i++) {
        const int line = warp_index() * LINES + i;
        const int row = (tile.rows + line % p.tile_rows) * p.expand[1] + tile.expand_row;
        const int plane = (tile.planes + line / p.tile_rows) * p.expand[0] + tile.expand_plane;
        const bool inside = plane < p.output_shape.planes && row < p.output_shape.rows &&
                            column < p.output_shape.columns;
        voxels[i] =
            inside ? (plane * p.output_shape.rows + row) * p.output_shape.columns + column : -1;
    }
}

// Sum over the lanes of one column each (lanes of equal lane % 4), in a fixed order.
DEVICE float sum_of_columns(float value) {
    value += shuffle_xor(value, 4);
    value += shuffle_xor(value, 8);
    return value + shuffle_xor(value, 16);
}

// Count, mean and deviations of the tile's sums: first each warp's, by two passes over its
// registers, then the warps' merged. `scratch` holds [warps][N] and is used by nobody else.
template <int N, int LINES>
DEVICE void write_statistics(const Convolution& p, const Tile& tile,
                             const float (&sums)[LINES / 2][N / 8][4], const int (&voxels)[LINES],
                             Partial* scratch) {
    const int lane = lane_index();
    int inside = 0;
    UNROLL
    for (int i = 0; i < LINES; i++) inside += voxels[i] >= 0;
    const float count = sum_of_columns((float)inside);
    const float share = count > 0 ? 1 / count : 0;
    UNROLL
    for (int j = 0; j < N / 8; j++) {
        UNROLL
        for (int c = 0; c < 2; c++) {
            float sum = 0, squares = 0;
            UNROLL
            for (int i = 0; i < LINES; i++) {
                sum += voxels[i] >= 0 ? sums[i / 2][j][i % 2 * 2 + c] : 0;
            }
            const float mean = sum_of_columns(sum) * share;
            UNROLL
            for (int i = 0; i < LINES; i++) {
                const float delta = sums[i / 2][j][i % 2 * 2 + c] - mean;
                squares += voxels[i] >= 0 ? delta * delta : 0;
            }
            squares = sum_of_columns(squares);
            if (lane < 4) {
                scratch[warp_index() * N + 8 * j + 2 * lane + c] = Partial{count, mean, squares};
            }
        }
    }
    block_barrier();
    const int channel = thread_index();
    if (channel < N && tile.first_channel + channel < p.output_channels) {
        Partial total = scratch[channel];
        UNROLL
        for (int warp = 1; warp < TILE_LINES / LINES; warp++) {
            total = merged(total, scratch[warp * N + channel]);
        }
        p.partials[(i64)(tile.first_channel + channel) * grid_size_x() + block_index_x()] = total;
    }
}

// Where a convolution's sums go, and what happens to them.
struct Written {
    void* output;
    const float* bias;
    float* sums;
    int epilogue;
};

DEVICE Written written_of(const Convolution& p) {
    return Written{p.output, p.bias, p.sums, p.epilogue};
}

DEVICE Written written_of(const Shortcut& shortcut) {
    return Written{shortcut.output, shortcut.bias, shortcut.sums, EPILOGUE_PLAIN};
}

// Writes a tile of half precision, and its statistics. `scratch` is shared memory, [warps][N], that
// no thread uses any more.
template <int N, int LINES>
DEVICE void write_tile(const Convolution& p, const Written& written, const Tile& tile,
                       float (&sums)[LINES / 2][N / 8][4], Partial* scratch) {
    int voxels[LINES];
    output_voxels(p, tile, voxels);
    const int all = voxels_of(p.output_shape), lane = lane_index();
    if (p.splits > 1) {
        UNROLL
        for (int j = 0; j < N / 8; j++) {
            const int channel = tile.first_channel + 8 * j;
            if (channel >= p.output_channels) break;
            const i64 split = (i64)block_index_z() * (p.output_channels / 8);
            float2* to = (float2*)written.sums + (split + channel / 8) * all * 4 + lane % 4;
            UNROLL
            for (int i = 0; i < LINES; i++) {
                if (voxels[i] < 0) continue;
                const float* sum = &sums[i / 2][j][i % 2 * 2];
                to[(i64)voxels[i] * 4] = float2{sum[0], sum[1]};
            }
        }
        return;
    }
    UNROLL
    for (int j = 0; j < N / 8; j++) {
        const int channel = tile.first_channel + 8 * j;
        if (channel >= p.output_channels) break;
        const int own = channel + 2 * (lane % 4);
        if (written.bias) {
            const float2 bias = *(const float2*)(written.bias + own);
            UNROLL
            for (int i = 0; i < LINES / 2; i++) {
                sums[i][j][0] += bias.x, sums[i][j][1] += bias.y;
                sums[i][j][2] += bias.x, sums[i][j][3] += bias.y;
            }
        }
        const i64 string = (i64)channel / 8 * all;
        u32* to = (u32*)written.output + string * 4 + lane % 4;
        if (written.epilogue == EPILOGUE_ADD_NORMALIZED) {
            const u32* main = (const u32*)p.main + string * 4 + lane % 4;
            float2 factor = {1, 1}, offset = {0, 0};
            if (const float* coefficients = p.main_pending.coefficients) {
                factor = *(const float2*)(coefficients + own);
                offset = *(const float2*)(coefficients + p.main_pending.padded_channels + own);
            }
            const float slope = p.main_pending.slope;
            UNROLL
            for (int i = 0; i < LINES; i++) {
                if (voxels[i] < 0) continue;
                const float* sum = &sums[i / 2][j][i % 2 * 2];
                const float2 value = unpack_half2(main[(i64)voxels[i] * 4]);
                const float low = fmaf(value.x, factor.x, offset.x) + sum[0];
                const float high = fmaf(value.y, factor.y, offset.y) + sum[1];
                to[(i64)voxels[i] * 4] = pack_half2(leaky(low, slope), leaky(high, slope));
            }
        } else {
            UNROLL
            for (int i = 0; i < LINES; i++) {
                const float* sum = &sums[i / 2][j][i % 2 * 2];
                if (voxels[i] >= 0) to[(i64)voxels[i] * 4] = pack_half2(sum[0], sum[1]);
            }
        }
    }
    if (written.epilogue == EPILOGUE_STATISTICS) {
        write_statistics<N, LINES>(p, tile, sums, voxels, scratch);
    }
}

DEVICE float sum_of_warp(float value) {
    UNROLL
    for (int mask = 1; mask < 32; mask *= 2) value += shuffle_xor(value, mask);
    return value;
}

// Statistics where each thread of a block holds CHANNELS sums of one voxel. `scratch` holds
// [WARPS][CHANNELS].
template <int WARPS, int CHANNELS>
DEVICE void write_thread_statistics(const Convolution& p, const float (&sums)[CHANNELS],
                                    bool inside, int first_channel, Partial* scratch) {
    const float count = sum_of_warp(inside ? 1 : 0), share = count > 0 ? 1 / count : 0;
    UNROLL
    for (int c = 0; c < CHANNELS; c++) {
        const float mean = sum_of_warp(inside ? sums[c] : 0) * share;
        const float delta = sums[c] - mean;
        const float squares = sum_of_warp(inside ? delta * delta : 0);
        if (lane_index() == 0) {
            scratch[warp_index() * CHANNELS + c] = Partial{count, mean, squares};
        }
    }
    block_barrier();
    const int channel = thread_index();
    if (channel < CHANNELS) {
        Partial total = scratch[channel];
        for (int warp = 1; warp < WARPS; warp++) {
            total = merged(total, scratch[warp * CHANNELS + channel]);
        }
        p.partials[(i64)(first_channel + channel) * grid_size_x() + block_index_x()] = total;
    }
}
