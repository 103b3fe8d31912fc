// Where the voxels of a tile lie in the volume.
#pragma once
#include "parameters.cuh"
#include "primitives.cuh"

// An element of an array that must not be indexed by a variable, which would put it in memory.
DEVICE int chosen(const int (&values)[3], int index) {
    return index == 0 ? values[0] : index == 1 ? values[1] : values[2];
}

// The volume's voxel at a tile's voxel `at`, both along one axis of the run; false where there is
// no volume.
DEVICE bool volume_voxel(const Placement& placement, int axis, int at, int& voxel) {
    voxel = placement.start[axis] + at - placement.pad_before[axis];
    return voxel >= 0 && voxel < placement.volume[axis];
}

// The network's voxel at a tile's voxel `at` along one axis of the run, as an offset into the patch.
DEVICE int patch_offset(const Placement& placement, int axis, int at) {
    const int own = placement.axes[axis];
    const int rows = placement.patch[1], columns = placement.patch[2];
    const int step = own == 0 ? rows * columns : own == 1 ? columns : 1;
    const int last = chosen(placement.patch, own) - 1;
    return (chosen(placement.mirror, own) ? last - at : at) * step;
}

// Voxels of the patch along one axis of the run.
DEVICE int patch_extent(const Placement& placement, int axis) {
    return chosen(placement.patch, placement.axes[axis]);
}
