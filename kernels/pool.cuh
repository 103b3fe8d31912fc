// pool_half, pool_float: the mean of boxes of voxels that do not overlap; what is left over at the
// end of an axis is dropped. What is pending on the input is applied before the mean.
//
// In:  an activation, [padded channels / 8][planes][rows][columns][8], half or float.
// Out: the same with each axis divided by the box's extent, rounded down.
// Per output value: 2 (4) bytes read and about 4 operations for each voxel of its box, 2 (4) bytes
// written; bound by memory.
//
// A thread makes eight channels of one output voxel, a block 256 neighbouring voxels of eight
// channels: what it writes is whole lines, what a warp reads are neighbouring boxes.
//
// Grid: (ceil(output voxels / 256), padded channels / 8, 1).
#pragma once
#include "activation.cuh"

const int POOL_THREADS = 256;

template <class Value> DEVICE void pool(const AveragePool& p) {
    const Shape in = p.input, out = p.output_shape;
    const int voxel = block_index_x() * POOL_THREADS + thread_index();
    if (voxel >= out.planes * out.rows * out.columns) return;
    const int string = block_index_y();
    const Affine affine = load_affine(p.pending, string * 8);
    const float slope = p.pending.coefficients ? p.pending.slope : 1;
    const int column = voxel % out.columns, row = voxel / out.columns % out.rows;
    const int plane = voxel / out.columns / out.rows;
    float sums[8] = {};
    for (int i = 0; i < p.size[0]; i++) {
        for (int j = 0; j < p.size[1]; j++) {
            const i64 line = ((i64)string * in.planes + plane * p.size[0] + i) * in.rows +
                             row * p.size[1] + j;
            for (int k = 0; k < p.size[2]; k++) {
                float values[8];
                load_string<Value>(values, p.values, line * in.columns + column * p.size[2] + k);
                UNROLL
                for (int c = 0; c < 8; c++) {
                    sums[c] += leaky(fmaf(values[c], affine.factor[c], affine.offset[c]), slope);
                }
            }
        }
    }
    const float share = 1.f / (float)(p.size[0] * p.size[1] * p.size[2]);
    UNROLL
    for (int c = 0; c < 8; c++) sums[c] *= share;
    store_string<Value>(p.output, (i64)string * out.planes * out.rows * out.columns + voxel, sums);
}

KERNEL(pool_half, POOL_THREADS, 1, AveragePool) { pool<half>(p); }
KERNEL(pool_float, POOL_THREADS, 1, AveragePool) { pool<float>(p); }
