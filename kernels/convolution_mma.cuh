// conv_mma_16, _32, _48, _64: convolutions of half activations on the tensor cores, 16, 32, 48 or
// 64 output channels to a block. conv_mma_64_shortcut: and a convolution of one tap beside it.
// conv_finish: what follows where the input channels were split.
//
// As a product of matrices: rows are the 256 voxels of a tile, columns the output channels, and the
// sum goes over the input channels, 16 at a time (a chunk), times the taps of the kernel. But there
// is no im2col: a block copies the brick of input that its tile needs, halo included, into shared
// memory once per chunk, and a tap is a start address into it. On the way the copy concatenates,
// enlarges, normalises and activates, and writes zeros where the padding is, so that padding is
// zero after the normalisation.
//
// In:  one or two activations, [channels / 8][planes][rows][columns][8], half; weights, [expand tap]
//      [output channels / N][input channels / 16] and for each of these the stages below.
// Out: an activation, half, and its partial statistics, [output channels][tiles]; or, of splits, the
//      sums, [splits][output channels / 8][voxels][8], float.
//
// Brick in shared memory: [2 strings][planes][rows][columns][8], 16 bytes a string. Eight columns of
// a line are 128 bytes: one matrix of ldmatrix, without bank conflicts. Where the stride along the
// columns is 2, even columns come first, then the odd ones, so that a line's columns are neighbours
// again.
//
// Where the kernel has 3 rows of stride 1, a warp loads each of the ten lines that its eight lines
// need once for all three taps: 20 matrices instead of 48 for every plane and column of the kernel.
//
// Tile: 4 planes x 8 rows x 8 columns, or what suits the tensor better; 256 voxels let a warp reuse
// each operand of weights for 64 voxels, and a brick of 4 x 8 lines is 2.3 times its tile, nearly the
// least there is. Two bricks and three stages of weights take 38 KB + 288 N bytes, so that four
// blocks of 32 output channels, or as many of 64 as registers allow (two), share an H100's
// multiprocessor. Where strides of 2 make bricks too large, the kernel's planes are read one after
// the other.
//
// A stage is the taps of one plane and column of the kernel. Its weights, [rows][N / 16][lane] pairs
// of operands in the order that a lane needs them, come through a ring by cp.async; the next
// chunk's brick comes by way of registers, a part in each stage: read before the stage's products,
// written after them. One barrier per stage.
//
// The sums, 2 N per thread, stay in registers: 64 voxels x N channels of a warp.
//
// A residual block's first convolution and the 1x1x1 convolution of its shortcut read the same
// tensors with the same stride, and what the latter reads of a tile are the operands of the former's
// centre tap: conv_mma_64_shortcut multiplies them by a second matrix of weights, into sums of their
// own, and writes both. Eight warps make a tile there, 32 voxels each, so that both sums of a thread
// are as many as conv_mma_64 has of one.
//
// Of a 3x3x3 convolution, per voxel: 27 x input x output channels multiplications; 2.3 x 2 bytes of
// input per channel and block of N output channels (of stride 2: 10.2 x 2, or 12.9 x 2 and more
// where the kernel's planes are read one after the other), mostly from the second-level cache, and
// about 6 operations to normalise each value; from shared memory 22.5 bytes of input per channel
// (54 where lines are not shared), and 0.84 N bytes of weights per input channel and block; 2 bytes
// written per output channel. conv_mma_64_shortcut: 28 multiplications instead of 27; from shared
// memory 27 bytes (54) of input and 1.75 N of weights; twice the bytes written, and the input read
// once instead of twice.
//
// Grid: (tiles, expand taps * ceil(output channels / N), splits). A transposed convolution's tiles
// are of its input.
#pragma once
#include "convolution.cuh"

// Stages of weights in flight.
const int STAGES = 3;
// Of conv_mma_64_shortcut: threads of a block, and lines of a warp.
const int SHORTCUT_THREADS = 256, SHORTCUT_LINES = 4;

// What is copied of one chunk. It is derived from the parameters whenever it is needed, because
// registers are scarcer than arithmetic.
struct Chunk {
    // Strings of its first eight channels; those of the second follow `strings` later.
    const uint4* values;
    i64 strings;
    // Factor of the first channel, null if nothing is pending.
    const float* coefficients;
    int padded_channels;
    float slope;
    // Whether it is of the second source.
    bool second;
};

DEVICE Chunk chunk_of(const Convolution& p, int number) {
    const int first = p.sources[0].channels / 16;
    Chunk chunk;
    chunk.second = number >= first;
    const int channel = (chunk.second ? number - first : number) * 16;
    const Shape shape = chunk.second ? p.sources[1].shape : p.sources[0].shape;
    const Pending pending = chunk.second ? p.sources[1].pending : p.sources[0].pending;
    const void* values = chunk.second ? p.sources[1].values : p.sources[0].values;
    chunk.strings = voxels_of(shape);
    chunk.values = (const uint4*)values + channel / 8 * chunk.strings;
    chunk.coefficients = pending.coefficients ? pending.coefficients + channel : nullptr;
    chunk.padded_channels = pending.padded_channels;
    chunk.slope = pending.slope;
    return chunk;
}

// How far a thread is with the copy of a brick.
struct Copy {
    // Channels, and the first of the tile's planes.
    int chunk, first_plane;
    // The next string: its plane (of both halves), its place in the plane.
    int plane, place;
};

// Strings of a thread on their way from global to shared memory.
template <int HELD> struct Held {
    uint4 strings[HELD];
    // Number of the first in the brick.
    int first;
    // Bit i: string i is to be written. Bit 8 + i: something is pending on it. Bit 16 + i: it is of
    // the second eight channels.
    u32 which;
};

DEVICE Copy begin_copy(const Convolution& p, int first_chunk, int step) {
    const u32 thread = thread_index(), area = p.brick.area;
    return Copy{first_chunk + step / p.plane_groups, step % p.plane_groups, (int)(thread / area),
                (int)(thread % area)};
}

// `tables`: for each source the voxel that begins each of the tile's planes, then the voxel of a
// plane at each place of a brick's; -1 in the padding.
template <int THREADS, int HELD>
DEVICE void read_strings(const Convolution& p, const int* tables, Copy& copy, Held<HELD>& held,
                         int count) {
    const Chunk chunk = chunk_of(p, copy.chunk);
    const int* planes = tables + (chunk.second ? p.brick.tile_planes + p.brick.area : 0);
    const int* places = planes + p.brick.tile_planes;
    const int plane_step = p.plane_groups > 1 ? p.stride[0] : 1;
    held.first = copy.plane * p.brick.area + copy.place;
    held.which = 0;
    UNROLL
    for (int i = 0; i < HELD; i++) {
        held.strings[i] = uint4{0, 0, 0, 0};
        if (i >= count || copy.plane >= 2 * p.brick.planes) continue;
        const bool upper = copy.plane >= p.brick.planes;
        const int plane = copy.plane - (upper ? p.brick.planes : 0);
        const int begin = planes[plane * plane_step + copy.first_plane];
        const int place = places[copy.place];
        held.which |= 1u << i;
        if (begin >= 0 && place >= 0) {
            const uint4* half = chunk.values + (upper ? chunk.strings : 0);
            held.strings[i] = load_global_16(half + begin + place);
            if (chunk.coefficients) held.which |= (upper ? 0x10100u : 0x100u) << i;
        }
        copy.place += THREADS;
        while (copy.place >= p.brick.area) copy.place -= p.brick.area, copy.plane++;
    }
}

template <int THREADS, int HELD>
DEVICE void write_strings(const Convolution& p, const Copy& copy, const Held<HELD>& held, u8* to) {
    const Chunk chunk = chunk_of(p, copy.chunk);
    const u32 slopes = pack_half2(chunk.slope, chunk.slope);
    UNROLL
    for (int i = 0; i < HELD; i++) {
        uint4 string = held.strings[i];
        if (held.which >> i & 0x100) {
            const int channel = held.which >> i & 0x10000 ? 8 : 0;
            const Affine affine = load_affine(chunk.coefficients, chunk.padded_channels, channel);
            string = apply_pending(string, affine, slopes);
        }
        if (held.which >> i & 1) {
            store_shared_16(to + (held.first + i * THREADS) * 16, string);
        }
    }
}

// Fills the tables of one source.
template <int THREADS>
DEVICE void find_places(const Convolution& p, const Source& source, const Tile& tile,
                        int* to_planes) {
    const Brick& brick = p.brick;
    int* to_area = to_planes + brick.tile_planes;
    for (int at = thread_index(); at < brick.tile_planes; at += THREADS) {
        const int plane =
            input_voxel(at, tile.planes, p.kernel[0], p.stride[0], p.input.planes);
        to_planes[at] = plane < 0 ? -1
                                  : plane / source.upsample[0] * source.shape.rows *
                                        source.shape.columns;
    }
    for (int at = thread_index(); at < brick.area; at += THREADS) {
        const int place = (u32)at % (u32)brick.columns, odd = brick.odd_columns;
        const int column_at = odd == 0 ? place : place < odd ? 2 * place : 2 * (place - odd) + 1;
        const int row = input_voxel((u32)at / (u32)brick.columns, tile.rows, p.kernel[1],
                                    p.stride[1], p.input.rows);
        const int column =
            input_voxel(column_at, tile.columns, p.kernel[2], p.stride[2], p.input.columns);
        to_area[at] = row < 0 || column < 0 ? -1
                                            : row / source.upsample[1] * source.shape.columns +
                                                  column / source.upsample[2];
    }
}

// The operands of one tap that do not depend on the voxel: [N / 8] of two registers.
template <int N> DEVICE void load_weights(u32 (&b)[N / 8][2], const u8* weights) {
    UNROLL
    for (int j = 0; j < N / 16; j++) {
        const uint4 v = load_shared_16(weights + (j * 32 + lane_index()) * 16);
        b[2 * j][0] = v.x, b[2 * j][1] = v.y, b[2 * j + 1][0] = v.z, b[2 * j + 1][1] = v.w;
    }
}

// Whether a stage's taps are the kernel's middle plane and column.
DEVICE bool in_the_middle(const Convolution& p, int step, int in_step) {
    const int column = (u32)in_step % (u32)p.kernel[2];
    const int plane = p.plane_groups > 1 ? (u32)step % (u32)p.plane_groups
                                         : (u32)in_step / (u32)p.kernel[2];
    return plane == p.kernel[0] / 2 && column == p.kernel[2] / 2;
}

// LINES lines of the tile for each warp; WITH_SHORTCUT what p.shortcut says, too.
template <int N, int LINES, bool WITH_SHORTCUT> DEVICE void convolve_mma(const Convolution& p) {
    const int THREADS = TILE_LINES / LINES * 32;
    SHARED(shared);
    const Tile tile = tile_of_block(p, N);
    const int thread = thread_index(), lane = lane_index();

    const int chunks =
        (p.sources[0].channels + (p.source_count > 1 ? p.sources[1].channels : 0)) / 16;
    const int first_chunk = (int)((i64)chunks * block_index_z() / p.splits);
    const int end_chunk = (int)((i64)chunks * (block_index_z() + 1) / p.splits);
    // A step is one brick: a chunk, or one plane of the kernel of it.
    const int steps = (end_chunk - first_chunk) * p.plane_groups;
    const int step_stages = p.kernel[2] * (p.plane_groups > 1 ? 1 : p.kernel[0]);
    const int stages = steps * step_stages;
    const int stage_bytes = p.kernel[1] * N * 32;
    // Of the ring: a stage's weights, and those of the shortcut's tap.
    const int slot_bytes = stage_bytes + (WITH_SHORTCUT ? N * 32 : 0);

    u8* bricks = shared;
    u8* ring = bricks + (steps > 1 ? 2 : 1) * p.brick.voxels * 32;
    int* tables = (int*)(ring + STAGES * slot_bytes);

    const u8* weights =
        (const u8*)p.weights +
        ((i64)block_index_y() * chunks + first_chunk) * p.plane_groups * step_stages * stage_bytes;
    auto copy_weights = [&](int stage) {
        if (stage < stages) {
            u8* to = ring + stage % STAGES * slot_bytes;
            const u8* from = weights + (i64)stage * stage_bytes;
            UNROLL_BY(1)
            for (int at = thread * 16; at < stage_bytes; at += THREADS * 16) {
                copy_async_16(to + at, from + at);
            }
            const int step = (u32)stage / (u32)step_stages, in_step = stage - step * step_stages;
            if (WITH_SHORTCUT && in_the_middle(p, step, in_step) && thread < N * 2) {
                const int chunk = first_chunk + (u32)step / (u32)p.plane_groups;
                const i64 matrix = (i64)block_index_y() * chunks + chunk;
                const u8* tap = (const u8*)p.shortcut.weights + matrix * N * 32;
                copy_async_16(to + stage_bytes + thread * 16, tap + thread * 16);
            }
        }
        copy_async_commit();
    };
    UNROLL
    for (int stage = 0; stage < STAGES - 1; stage++) copy_weights(stage);

    find_places<THREADS>(p, p.sources[0], tile, tables);
    if (p.source_count > 1) {
        find_places<THREADS>(p, p.sources[1], tile, tables + p.brick.tile_planes + p.brick.area);
    }
    block_barrier();

    // What leaves room for four blocks of 32 output channels, and two of 64.
    const int HELD = N == 32 ? 2 : 4;
    Held<HELD> held;
    Copy copy = begin_copy(p, first_chunk, 0);
    UNROLL_BY(1)
    while (copy.plane < 2 * p.brick.planes) {
        read_strings<THREADS>(p, tables, copy, held, HELD);
        write_strings<THREADS>(p, copy, held, bricks);
    }

    // The string that ldmatrix reads for the first two lines of the warp: lanes 0-7 and 8-15 the two
    // halves of a line's eight columns, lanes 16-31 those of the next line.
    const u32 line = warp_index() * LINES + lane / 16;
    const int first_string = lane / 8 % 2 * p.brick.voxels +
                             (int)(line >> p.brick.row_bits) * p.brick.plane_pitch +
                             (int)(line & (p.tile_rows - 1)) * p.brick.row_pitch + lane % 8;
    // From there to those of the lines from `line` on, an even number.
    auto line_pitch = [&](int line) {
        return (line >> p.brick.row_bits) * p.brick.plane_pitch +
               (line & (p.tile_rows - 1)) * p.brick.row_pitch;
    };

    float sums[LINES / 2][N / 8][4], shortcut_sums[LINES / 2][N / 8][4];
    clear(sums);
    if (WITH_SHORTCUT) clear(shortcut_sums);

    // Reads what is copied of the next brick until the next products are done; more than a thread
    // can hold is written at once.
    auto read_ahead = [&](u8* to) {
        int left = p.brick.copies;
        UNROLL_BY(1)
        for (; left > HELD; left -= HELD) {
            read_strings<THREADS>(p, tables, copy, held, HELD);
            write_strings<THREADS>(p, copy, held, to);
        }
        read_strings<THREADS>(p, tables, copy, held, left);
    };

    int stage = 0;
    UNROLL_BY(1)
    for (int step = 0; step < steps; step++) {
        const u8* own = bricks + step % 2 * p.brick.voxels * 32;
        u8* next = bricks + (step + 1) % 2 * p.brick.voxels * 32;
        const bool ahead = step + 1 < steps;
        if (ahead) copy = begin_copy(p, first_chunk, step + 1);
        UNROLL_BY(1)
        for (int in_step = 0; in_step < step_stages; in_step++, stage++) {
            copy_async_wait<STAGES - 2>();
            // The stage's weights and its brick are there; nobody reads the previous ones any more.
            block_barrier();
            copy_weights(stage + STAGES - 1);
            const u8* operands = ring + stage % STAGES * slot_bytes;
            const int middle_row =
                WITH_SHORTCUT && in_the_middle(p, step, in_step) ? p.kernel[1] / 2 : -1;
            const int column_tap = (u32)in_step % (u32)p.kernel[2];
            const int column =
                p.brick.odd_columns ? column_tap % 2 * p.brick.odd_columns + column_tap / 2
                                    : column_tap;
            const u8* tap =
                own + ((int)((u32)in_step / (u32)p.kernel[2]) * p.brick.area + column) * 16;
            if (p.shares_lines) {
                if (ahead) read_ahead(next);
                // Lines that the warp needs, each its two halves.
                u32 lines[LINES + 2][2];
                UNROLL
                for (int i = 0; i < LINES + 2; i += 2) {
                    u32 r[4];
                    load_matrix_x4(r, tap + (first_string + i * p.brick.columns) * 16);
                    lines[i][0] = r[0], lines[i][1] = r[1];
                    lines[i + 1][0] = r[2], lines[i + 1][1] = r[3];
                }
                UNROLL
                for (int row = 0; row < 3; row++) {
                    u32 a[LINES / 2][4], b[N / 8][2];
                    UNROLL
                    for (int i = 0; i < LINES / 2; i++) {
                        a[i][0] = lines[2 * i + row][0], a[i][1] = lines[2 * i + row + 1][0];
                        a[i][2] = lines[2 * i + row][1], a[i][3] = lines[2 * i + row + 1][1];
                    }
                    load_weights<N>(b, operands + row * N * 32);
                    multiply_accumulate(sums, a, b);
                    if (WITH_SHORTCUT && row == middle_row) {
                        load_weights<N>(b, operands + stage_bytes);
                        multiply_accumulate(shortcut_sums, a, b);
                    }
                }
                if (ahead) write_strings<THREADS>(p, copy, held, next);
            } else {
                UNROLL_BY(1)
                for (int row = 0; row < p.kernel[1]; row++) {
                    if (ahead) read_ahead(next);
                    u32 a[LINES / 2][4], b[N / 8][2];
                    UNROLL
                    for (int i = 0; i < LINES / 2; i++) {
                        u32 r[4];
                        const int string = first_string + line_pitch(2 * i) + row * p.brick.columns;
                        load_matrix_x4(r, tap + string * 16);
                        a[i][0] = r[0], a[i][1] = r[2], a[i][2] = r[1], a[i][3] = r[3];
                    }
                    load_weights<N>(b, operands + row * N * 32);
                    multiply_accumulate(sums, a, b);
                    if (WITH_SHORTCUT && row == middle_row) {
                        load_weights<N>(b, operands + stage_bytes);
                        multiply_accumulate(shortcut_sums, a, b);
                    }
                    if (ahead) write_strings<THREADS>(p, copy, held, next);
                }
            }
        }
    }
    copy_async_wait<0>();
    block_barrier();
    if (WITH_SHORTCUT) {
        write_tile<N, LINES>(p, written_of(p.shortcut), tile, shortcut_sums, (Partial*)shared);
    }
    write_tile<N, LINES>(p, written_of(p), tile, sums, (Partial*)shared);
}

// Blocks of 32 output channels on a multiprocessor: as many as there is shared memory for, and as do
// not make the compiler spill registers.
#if __CUDA_ARCH__ == 900
#define BLOCKS_OF_32 4
#else
#define BLOCKS_OF_32 3
#endif

KERNEL(conv_mma_16, CONVOLUTION_THREADS, 4, Convolution) { convolve_mma<16, WARP_LINES, false>(p); }
KERNEL(conv_mma_32, CONVOLUTION_THREADS, BLOCKS_OF_32, Convolution) {
    convolve_mma<32, WARP_LINES, false>(p);
}
KERNEL(conv_mma_48, CONVOLUTION_THREADS, 2, Convolution) { convolve_mma<48, WARP_LINES, false>(p); }
KERNEL(conv_mma_64, CONVOLUTION_THREADS, 2, Convolution) { convolve_mma<64, WARP_LINES, false>(p); }
KERNEL(conv_mma_64_shortcut, SHORTCUT_THREADS, 1, Convolution) {
    convolve_mma<64, SHORTCUT_LINES, true>(p);
}

// conv_finish: adds the splits' sums, in their order, then bias, statistics or the end of a residual
// block as write_tile does.
//
// In:  sums, [splits][output channels / 8][voxels][8], float.
// Out: an activation, half, and its partial statistics, [output channels][grid x].
// Per value: 4 bytes read per split, which mostly still lie in the second-level cache, an addition
// for each, 2 bytes written (and 2 read of main at the end of a block); bound by memory.
//
// A thread makes eight channels of one voxel, a block 256 neighbouring voxels.
//
// Grid: (ceil(voxels / 256), output channels / 8, 2 with a shortcut, else 1): the second layer of
// blocks makes the shortcut's.
const int FINISH_THREADS = 256;

KERNEL(conv_finish, FINISH_THREADS, 2, Convolution) {
    SHARED(shared);
    const int voxels = voxels_of(p.output_shape), strings = p.output_channels / 8;
    const int voxel = block_index_x() * FINISH_THREADS + thread_index();
    const int string = block_index_y();
    const bool inside = voxel < voxels;
    const Written written = block_index_z() == 0 ? written_of(p) : written_of(p.shortcut);
    float sums[8] = {};
    if (inside) {
        for (int split = 0; split < p.splits; split++) {
            float part[8];
            load_string<float>(part, written.sums, ((i64)split * strings + string) * voxels + voxel);
            UNROLL
            for (int c = 0; c < 8; c++) sums[c] += part[c];
        }
        if (written.bias) {
            UNROLL
            for (int c = 0; c < 8; c++) sums[c] += written.bias[string * 8 + c];
        }
        const i64 at = (i64)string * voxels + voxel;
        if (written.epilogue == EPILOGUE_ADD_NORMALIZED) {
            float main[8];
            load_string<half>(main, p.main, at);
            const Affine affine = load_affine(p.main_pending, string * 8);
            UNROLL
            for (int c = 0; c < 8; c++) {
                const float value = fmaf(main[c], affine.factor[c], affine.offset[c]) + sums[c];
                main[c] = leaky(value, p.main_pending.slope);
            }
            store_string<half>(written.output, at, main);
        } else {
            store_string<half>(written.output, at, sums);
        }
    }
    if (written.epilogue != EPILOGUE_STATISTICS) return;
    write_thread_statistics<FINISH_THREADS / 32>(p, sums, inside, string * 8, (Partial*)shared);
}
