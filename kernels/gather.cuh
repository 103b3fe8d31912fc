// gather_half, gather_float: a tile of the prepared volume becomes the network's input.
//
// In:  the ring of prepared planes, [channels][plane % ring planes][rows][columns], float, along
//      the run's axes.
// Out: the patch, [channels][planes][rows][columns], half or float, along the network's axes;
//      reversed along mirrored axes, zero where there is no volume.
// Per voxel and channel: 4 bytes read, 2 or 4 written, no arithmetic; bound by memory.
//
// A block makes 8 rows of 32 columns of one plane of one channel, a voxel per thread: a warp
// writes a whole row. Where the run goes along the network's columns, reads of neighbouring
// columns lie a plane apart, but then the volume is contiguous along the block's 8 rows: each
// sector of 32 bytes that is fetched is used by the block.
//
// Grid: (ceil(rows / 8) * ceil(columns / 32), planes, channels) of the patch.
#pragma once
#include "placement.cuh"

template <class Value> DEVICE Value rounded(float value);
template <> DEVICE half rounded<half>(float value) { return to_half(value); }
template <> DEVICE float rounded<float>(float value) { return value; }

template <class Value> DEVICE void gather(const Gather& p) {
    const Placement& placement = p.placement;
    const int rows = placement.patch[1], columns = placement.patch[2];
    const int tiles = (columns + 31) / 32, tile = block_index_x();
    const int plane = block_index_y(), channel = block_index_z();
    const int row = tile / tiles * 8 + warp_index(), column = tile % tiles * 32 + lane_index();
    if (row >= rows || column >= columns) return;
    const int at[3] = {plane, row, column};
    int voxel[3];
    bool inside = true;
    UNROLL
    for (int axis = 0; axis < 3; axis++) {
        const int own = placement.axes[axis];
        const int along = chosen(at, own), last = chosen(placement.patch, own) - 1;
        const int tile_voxel = chosen(placement.mirror, own) ? last - along : along;
        inside = volume_voxel(placement, axis, tile_voxel, voxel[axis]) && inside;
    }
    float value = 0;
    if (inside) {
        i64 from = (i64)channel * p.ring_planes + voxel[0] % p.ring_planes;
        from = from * placement.volume[1] + voxel[1];
        value = p.volume[from * placement.volume[2] + voxel[2]];
    }
    const i64 to = (((i64)channel * placement.patch[0] + plane) * rows + row) * columns + column;
    static_cast<Value*>(p.patch)[to] = rounded<Value>(value);
}

KERNEL(gather_half, 256, 1, Gather) { gather<half>(p); }
KERNEL(gather_float, 256, 1, Gather) { gather<float>(p); }
