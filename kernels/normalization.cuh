// coefficients: partial statistics of a tensor become factor and offset of its normalisation.
// join_half, join_float: the end of a residual block, or what is pending on a tensor.
#pragma once
#include "activation.cuh"

// coefficients: factor = scale / sqrt(variance + epsilon), offset = shift - mean * factor. With the
// sets' counts n, means m and deviations d,
//   mean = sum(n m) / sum(n),   variance = (sum(d) + sum(n (m - mean)^2)) / sum(n),
// both sums of positive terms or of the means themselves, in double precision and in a fixed order
// (Chan, Golub and LeVeque 1983, section 3).
//
// In:  partials, [padded channels][tiles], one for each block of the kernel that wrote the tensor;
//      scale and shift, [channels].
// Out: coefficients, [2][padded channels], float; zeros beyond the channels, so that padding is
//      zero after the normalisation as well.
// Per partial: 12 bytes read twice, the second time from the cache, about 8 operations in double
// precision.
//
// A block makes one channel: a tensor has enough of them for all multiprocessors, and one block
// keeps the order of the sums.
//
// Grid: (padded channels, 1, 1). Dynamic shared memory: 256 doubles.
const int COEFFICIENTS_THREADS = 256;

// Sum over the block's threads, in the order of a tree; the same in all of them.
DEVICE double sum_of_block(double value, double* scratch) {
    const int thread = thread_index();
    block_barrier();
    scratch[thread] = value;
    block_barrier();
    for (int width = COEFFICIENTS_THREADS / 2; width > 0; width /= 2) {
        if (thread < width) scratch[thread] += scratch[thread + width];
        block_barrier();
    }
    return scratch[0];
}

KERNEL(coefficients, COEFFICIENTS_THREADS, 1, Coefficients) {
    SHARED(shared);
    double* scratch = (double*)shared;
    const int channel = block_index_x(), thread = thread_index();
    const Partial* partials = p.partials + (i64)channel * p.tiles;
    double count = 0, mean = 0, squares = 0;
    for (int tile = thread; tile < p.tiles; tile += COEFFICIENTS_THREADS) {
        const double n = partials[tile].count;
        count += n;
        mean += n * partials[tile].mean;
    }
    count = sum_of_block(count, scratch);
    mean = sum_of_block(mean, scratch) / count;
    for (int tile = thread; tile < p.tiles; tile += COEFFICIENTS_THREADS) {
        const double delta = partials[tile].mean - mean;
        squares += partials[tile].deviations + partials[tile].count * delta * delta;
    }
    squares = sum_of_block(squares, scratch);
    if (thread == 0) {
        const bool inside = channel < p.channels;
        const double scale = !inside ? 0 : p.scale ? p.scale[channel] : 1;
        const double shift = !inside || !p.shift ? 0 : p.shift[channel];
        const double factor = scale / sqrt(squares / count + p.epsilon);
        p.coefficients[channel] = (float)factor;
        p.coefficients[p.padded_channels + channel] = (float)(shift - mean * factor);
    }
}

// join: leaky(normalised main + shortcut); the shortcut normalised and activated first if that is
// pending on it; without a shortcut what is pending on main.
//
// In:  main and shortcut, activations of one shape, half or float.
// Out: the same; it may be main itself, for a thread reads what it writes before it does.
// Per voxel and channel: 2 (4) bytes read from each tensor and as many written, about 5
// operations; bound by memory.
//
// A thread makes the same eight channels of four voxels, a block 1024 neighbouring voxels of eight
// channels: its reads and writes are whole lines, and the coefficients are read once per thread.
//
// Grid: (ceil(voxels / 1024), padded channels / 8, 1).
const int JOIN_THREADS = 256, JOIN_VOXELS = 4;

template <class Value> DEVICE void join(const Join& p) {
    const int channel = block_index_y() * 8;
    const int first = block_index_x() * JOIN_THREADS * JOIN_VOXELS + thread_index();
    const Affine main = load_affine(p.main_pending, channel);
    Affine shortcut;
    if (p.shortcut) shortcut = load_affine(p.shortcut_pending, channel);
    for (int i = 0; i < JOIN_VOXELS; i++) {
        const int voxel = first + i * JOIN_THREADS;
        if (voxel >= p.voxels) return;
        const i64 at = (i64)block_index_y() * p.voxels + voxel;
        float values[8], added[8];
        load_string<Value>(values, p.main, at);
        if (p.shortcut) load_string<Value>(added, p.shortcut, at);
        UNROLL
        for (int c = 0; c < 8; c++) {
            float sum = fmaf(values[c], main.factor[c], main.offset[c]);
            if (p.shortcut) {
                const float other = fmaf(added[c], shortcut.factor[c], shortcut.offset[c]);
                sum += p.shortcut_pending.coefficients ? leaky(other, p.shortcut_pending.slope)
                                                       : added[c];
            }
            values[c] = leaky(sum, p.main_pending.slope);
        }
        store_string<Value>(p.output, at, values);
    }
}

KERNEL(join_half, JOIN_THREADS, 1, Join) { join<half>(p); }
KERNEL(join_float, JOIN_THREADS, 1, Join) { join<float>(p); }
