// conv_direct_half: the first layers, whose input is a patch of a few channels.
// conv_direct_float: every convolution in single precision.
#pragma once
#include "convolution.cuh"

// conv_direct_half. As a product of matrices, k going over channels and taps in the order of the
// weights, 27 for a 3x3x3 convolution of one channel, filled up to a multiple of 16 with zero
// weights: a block copies the brick of input that its tile needs into shared memory,
// [channels][planes][rows][columns], and lanes gather the operands of mma.m16n8k16 from there, two
// bytes each, by a table of where each k lies.
//
// In:  the patch, [channels][planes][rows][columns], half; weights, [output channels / 32]
//      [k / 16][2][lane] pairs of operands, from the first-level cache, which all blocks fill alike.
// Out: an activation, half, and its partial statistics.
// Per voxel of a 3x3x3 convolution: 27 multiplications per pair of channels; 2.3 x 2 bytes read per
// input channel, 2 bytes written per output channel, which bounds it; 2.5 bytes from shared memory
// for each k, operand and place.
//
// Tile: 32 lines of 8 columns, 4 planes x 8 rows unless another suits the tensor better, of 32
// output channels, as write_tile writes them: first layers have 16 to 96 output channels, so the
// brick, the expensive part, is gathered one to three times, and the sums leave room for four blocks.
//
// Grid: (tiles, ceil(output channels / 32), 1).
const int DIRECT_CHANNELS = 32;

KERNEL(conv_direct_half, CONVOLUTION_THREADS, 4, Convolution) {
    SHARED(shared);
    const int thread = thread_index(), lane = lane_index();
    const Tile tile = tile_of_block(p, DIRECT_CHANNELS);
    const Source& source = p.sources[0];
    const int step[3] = {p.kernel[0] == 1 ? 1 : p.stride[0], p.kernel[1] == 1 ? 1 : p.stride[1],
                         p.kernel[2] == 1 ? 1 : p.stride[2]};
    const int planes = (p.tile_planes - 1) * step[0] + p.kernel[0];
    const int rows = (p.tile_rows - 1) * step[1] + p.kernel[1];
    const int columns = (TILE_COLUMNS - 1) * step[2] + p.kernel[2];
    const int brick = planes * rows * columns;
    const int taps = p.kernel[0] * p.kernel[1] * p.kernel[2], inputs = source.channels * taps;
    const int k_steps = (inputs + 15) / 16;

    int* offsets = (int*)shared;
    u16* values = (u16*)(offsets + k_steps * 16);
    for (int k = thread; k < k_steps * 16; k += CONVOLUTION_THREADS) {
        const int tap = k % taps, column = tap % p.kernel[2], row = tap / p.kernel[2] % p.kernel[1];
        const int plane = tap / p.kernel[2] / p.kernel[1];
        offsets[k] =
            k < inputs ? k / taps * brick + (plane * rows + row) * columns + column : 0;
    }
    for (int at = thread; at < source.channels * brick; at += CONVOLUTION_THREADS) {
        const int in_brick = at % brick;
        const int column = input_voxel(in_brick % columns, tile.columns, p.kernel[2], p.stride[2],
                                       p.input.columns);
        const int row = input_voxel(in_brick / columns % rows, tile.rows, p.kernel[1], p.stride[1],
                                    p.input.rows);
        const int plane = input_voxel(in_brick / columns / rows, tile.planes, p.kernel[0],
                                      p.stride[0], p.input.planes);
        u16 value = 0;
        if (column >= 0 && row >= 0 && plane >= 0) {
            const i64 line = ((i64)(at / brick) * source.shape.planes + plane / source.upsample[0]) *
                                 source.shape.rows +
                             row / source.upsample[1];
            value = ((const u16*)source.values)[line * source.shape.columns +
                                                column / source.upsample[2]];
        }
        values[at] = value;
    }
    block_barrier();

    int lines[WARP_LINES];
    UNROLL
    for (int i = 0; i < WARP_LINES; i++) {
        const int line = warp_index() * WARP_LINES + i;
        lines[i] = (line / p.tile_rows * step[0] * rows + line % p.tile_rows * step[1]) * columns +
                   lane / 4 * step[2];
    }
    float sums[4][DIRECT_CHANNELS / 8][4];
    clear(sums);
    const u8* weights =
        (const u8*)p.weights + ((i64)block_index_y() * k_steps * 2 * 32 + lane) * 16;
    for (int k = 0; k < k_steps; k++) {
        u32 b[DIRECT_CHANNELS / 8][2];
        UNROLL
        for (int j = 0; j < DIRECT_CHANNELS / 16; j++) {
            const uint4 v = load_global_16(weights + (k * 2 + j) * 32 * 16);
            b[2 * j][0] = v.x, b[2 * j][1] = v.y, b[2 * j + 1][0] = v.z, b[2 * j + 1][1] = v.w;
        }
        const int2 low = *(const int2*)(offsets + k * 16 + lane % 4 * 2);
        const int2 high = *(const int2*)(offsets + k * 16 + lane % 4 * 2 + 8);
        u32 a[4][4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            UNROLL
            for (int line = 0; line < 2; line++) {
                const u16* from = values + lines[2 * i + line];
                a[i][line] = from[low.x] | (u32)from[low.y] << 16;
                a[i][line + 2] = from[high.x] | (u32)from[high.y] << 16;
            }
        }
        multiply_accumulate(sums, a, b);
    }
    block_barrier();
    write_tile<DIRECT_CHANNELS, WARP_LINES>(p, written_of(p), tile, sums, (Partial*)shared);
}

// conv_direct_float: the sums in the order of the weights, by fused multiply-adds.
//
// In:  up to two activations or a patch, float; weights, [expand tap][output channels / 16][string
//      of input channels][tap][8 of the string][16]; of a patch [channel][tap][1][16].
// Out: an activation, float, and its partial statistics.
// Per voxel: a multiplication per tap and pair of channels; for every 16 output channels 4 bytes of
// input per tap and input channel, from caches; 4 bytes written per output channel. Of eight input
// channels and a tap, 128 multiplications use 32 bytes of input and 512 bytes of weights, which are
// the same for the whole block and come from the first-level cache. It is here to check the others
// by, and to be exact, not to be fast.
//
// A thread makes 16 channels of one voxel, as many sums as leave room for a string and its
// coefficients in registers; a block 128 neighbouring voxels.
//
// Grid: (ceil(voxels / 128), expand taps * output channels / 16, 1); voxels of the input where it
// expands.
const int SINGLE_CHANNELS = 16;

// The sum goes on over one string of `width` channels.
template <int width>
DEVICE void add_string(float (&sums)[SINGLE_CHANNELS], const float (&values)[width],
                       const float* weights) {
    UNROLL
    for (int i = 0; i < width; i++) {
        UNROLL
        for (int j = 0; j < SINGLE_CHANNELS / 4; j++) {
            const float4 weight = ((const float4*)weights)[i * SINGLE_CHANNELS / 4 + j];
            sums[4 * j] = fmaf(values[i], weight.x, sums[4 * j]);
            sums[4 * j + 1] = fmaf(values[i], weight.y, sums[4 * j + 1]);
            sums[4 * j + 2] = fmaf(values[i], weight.z, sums[4 * j + 2]);
            sums[4 * j + 3] = fmaf(values[i], weight.w, sums[4 * j + 3]);
        }
    }
}

// The sum over one source; `weights` moves on behind its weights.
DEVICE void add_source(float (&sums)[SINGLE_CHANNELS], const Convolution& p, const Source& source,
                       bool inside, int plane, int row, int column, const float*& weights) {
    const i64 voxels = voxels_of(source.shape);
    const int width = source.planar ? 1 : 8;
    for (int string = 0; string < source.channels / width; string++) {
        Affine affine;
        const bool pending = source.pending.coefficients != nullptr;
        if (pending) affine = load_affine(source.pending, string * width);
        for (int i = 0; i < p.kernel[0]; i++) {
            const int z = input_voxel(p.kernel[0] == 1 ? 0 : i + plane * p.stride[0],
                                      p.kernel[0] == 1 ? plane : 0, p.kernel[0], p.stride[0],
                                      p.input.planes);
            for (int j = 0; j < p.kernel[1]; j++) {
                const int y = input_voxel(p.kernel[1] == 1 ? 0 : j + row * p.stride[1],
                                          p.kernel[1] == 1 ? row : 0, p.kernel[1], p.stride[1],
                                          p.input.rows);
                for (int k = 0; k < p.kernel[2]; k++, weights += width * SINGLE_CHANNELS) {
                    const int x = input_voxel(p.kernel[2] == 1 ? 0 : k + column * p.stride[2],
                                              p.kernel[2] == 1 ? column : 0, p.kernel[2],
                                              p.stride[2], p.input.columns);
                    if (!inside || z < 0 || y < 0 || x < 0) continue;
                    const i64 voxel = ((i64)(z / source.upsample[0]) * source.shape.rows +
                                       y / source.upsample[1]) *
                                          source.shape.columns +
                                      x / source.upsample[2];
                    if (source.planar) {
                        const float value[1] = {
                            ((const float*)source.values)[string * voxels + voxel]};
                        add_string(sums, value, weights);
                        continue;
                    }
                    float values[8];
                    load_string<float>(values, source.values, string * voxels + voxel);
                    if (pending) {
                        UNROLL
                        for (int c = 0; c < 8; c++) {
                            values[c] = leaky(fmaf(values[c], affine.factor[c], affine.offset[c]),
                                              source.pending.slope);
                        }
                    }
                    add_string(sums, values, weights);
                }
            }
        }
    }
}

KERNEL(conv_direct_float, CONVOLUTION_THREADS, 2, Convolution) {
    SHARED(shared);
    const int groups = p.output_channels / SINGLE_CHANNELS;
    const int group = block_index_y() % groups, tap = block_index_y() / groups;
    const int rows = p.output_shape.rows / p.expand[1];
    const int columns = p.output_shape.columns / p.expand[2];
    const int at = block_index_x() * CONVOLUTION_THREADS + thread_index();
    const int column = at % columns, row = at / columns % rows, plane = at / columns / rows;
    const bool inside = plane < p.output_shape.planes / p.expand[0];

    float sums[SINGLE_CHANNELS] = {};
    int inputs = p.sources[0].channels;
    if (p.source_count > 1) inputs += p.sources[1].channels;
    const i64 taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
    const float* weights =
        (const float*)p.weights + block_index_y() * inputs * taps * SINGLE_CHANNELS;
    add_source(sums, p, p.sources[0], inside, plane, row, column, weights);
    if (p.source_count > 1) add_source(sums, p, p.sources[1], inside, plane, row, column, weights);

    const i64 voxels = voxels_of(p.output_shape);
    const int z = plane * p.expand[0] + tap / p.expand[2] / p.expand[1];
    const int y = row * p.expand[1] + tap / p.expand[2] % p.expand[1];
    const int x = column * p.expand[2] + tap % p.expand[2];
    const i64 voxel = ((i64)z * p.output_shape.rows + y) * p.output_shape.columns + x;
    UNROLL
    for (int half = 0; half < 2; half++) {
        float values[8];
        const int channel = group * SINGLE_CHANNELS + half * 8;
        UNROLL
        for (int c = 0; c < 8; c++) {
            if (p.bias) sums[half * 8 + c] += p.bias[channel + c];
            values[c] = sums[half * 8 + c];
        }
        if (!inside) continue;
        const i64 string = channel / 8 * voxels + voxel;
        if (p.epilogue == EPILOGUE_ADD_NORMALIZED) {
            float main[8];
            load_string<float>(main, p.main, string);
            const Affine affine = load_affine(p.main_pending, channel);
            UNROLL
            for (int c = 0; c < 8; c++) {
                const float value = fmaf(main[c], affine.factor[c], affine.offset[c]) + values[c];
                values[c] = leaky(value, p.main_pending.slope);
            }
        }
        store_string<float>(p.output, string, values);
    }
    if (p.epilogue != EPILOGUE_STATISTICS) return;
    write_thread_statistics<CONVOLUTION_WARPS>(p, sums, inside, group * SINGLE_CHANNELS,
                                               (Partial*)shared);
}
