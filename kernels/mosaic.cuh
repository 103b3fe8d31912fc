// blend_half, blend_float: the features of a pass, weighted, are added at their tile's place.
//
// In:  features, [padded features / 8][planes][rows][columns][8], half or float, along the
//      network's axes; the tile's weights, [patch] along the run's axes.
// Out: the mosaic, sums += weight * features and, once per tile, weight sums += weight, at the
//      voxels of the tile that lie in the volume, mirrored back.
// Per voxel and 8 features: 16 (32) bytes of features and 32 (16) bytes of sums read, as many
// bytes of sums written, 8 multiplications and additions; bound by memory.
//
// A block adds 8 features at 8 rows of 32 columns of the run, a voxel per thread: a warp changes
// whole lines of the mosaic. Passes are added one launch after the other, in a fixed order.
//
// Grid: (ceil(rows / 8) * ceil(columns / 32), planes, padded features / 8) of the patch along the
// run's axes.
#pragma once
#include "activation.cuh"
#include "placement.cuh"

// Where a string of a voxel of the volume lies in the mosaic, in strings.
DEVICE i64 mosaic_string(const Mosaic& mosaic, int plane, i64 place, int string) {
    const i64 slot = (i64)(plane % mosaic.ring_planes) * (mosaic.depth / 8) + string;
    return slot * mosaic.rows * mosaic.columns + place;
}

// Where a voxel of the volume lies among the sums of weights.
DEVICE i64 mosaic_voxel(const Mosaic& mosaic, int plane, i64 place) {
    return (i64)(plane % mosaic.ring_planes) * mosaic.rows * mosaic.columns + place;
}

DEVICE void read_sums(const Mosaic& mosaic, i64 at, float (&values)[8]) {
    if (mosaic.half_sums) {
        load_string<half>(values, mosaic.sums, at);
    } else {
        load_string<float>(values, mosaic.sums, at);
    }
}

DEVICE void write_sums(const Mosaic& mosaic, i64 at, const float (&values)[8]) {
    if (mosaic.half_sums) {
        store_string<half>(mosaic.sums, at, values);
    } else {
        store_string<float>(mosaic.sums, at, values);
    }
}

// sums += weight * values
DEVICE void add_weighted(const Mosaic& mosaic, i64 at, float weight, const float (&values)[8]) {
    float sums[8];
    read_sums(mosaic, at, sums);
    UNROLL
    for (int i = 0; i < 8; i++) sums[i] = fmaf(weight, values[i], sums[i]);
    write_sums(mosaic, at, sums);
}

// A voxel of a tile, along the run's axes.
struct TileVoxel {
    // Of the volume; place = row * columns + column.
    int plane;
    i64 place;
    // Into the patch along the network's axes, and along the run's.
    int patch, window;
};

// False where there is no volume, or no such voxel.
DEVICE bool tile_voxel(const Placement& placement, int plane, int row, int column,
                       TileVoxel& voxel) {
    const int rows = patch_extent(placement, 1), columns = patch_extent(placement, 2);
    if (row >= rows || column >= columns) return false;
    int volume_row, volume_column;
    if (!volume_voxel(placement, 0, plane, voxel.plane) ||
        !volume_voxel(placement, 1, row, volume_row) ||
        !volume_voxel(placement, 2, column, volume_column)) {
        return false;
    }
    voxel.place = (i64)volume_row * placement.volume[2] + volume_column;
    voxel.patch = patch_offset(placement, 0, plane) + patch_offset(placement, 1, row) +
                  patch_offset(placement, 2, column);
    voxel.window = (plane * rows + row) * columns + column;
    return true;
}

template <class Value> DEVICE void blend(const Blend& p) {
    const Placement& placement = p.placement;
    const int tiles = (patch_extent(placement, 2) + 31) / 32, tile = block_index_x();
    const int row = tile / tiles * 8 + warp_index(), column = tile % tiles * 32 + lane_index();
    const int string = block_index_z();
    TileVoxel voxel;
    if (!tile_voxel(placement, block_index_y(), row, column, voxel)) return;
    const float weight = p.window[voxel.window];
    const i64 patch = (i64)placement.patch[0] * placement.patch[1] * placement.patch[2];
    float values[8];
    load_string<Value>(values, p.features, string * patch + voxel.patch);
    add_weighted(p.mosaic, mosaic_string(p.mosaic, voxel.plane, voxel.place, p.first / 8 + string),
                 weight, values);
    if (string == 0 && p.counts_weight) {
        p.mosaic.weight_sums[mosaic_voxel(p.mosaic, voxel.plane, voxel.place)] += weight;
    }
}

KERNEL(blend_half, 256, 1, Blend) { blend<half>(p); }
KERNEL(blend_float, 256, 1, Blend) { blend<float>(p); }
