// resample_columns, resample_slices: one axis of a channel goes from voxels to voxels, by cubic
// B-splines, linearly, by nearest neighbours or as it is.
//
// Each output voxel is a weighted sum of a few neighbouring input voxels. A cubic B-spline's
// coefficients depend on samples ever farther away by shares of (2 - sqrt 3)^distance, so prefilter
// and evaluation together are such a sum of about 30 voxels, borders included; the weights are
// computed in double precision by the host (src/volume/spline.rs). Against two recursions along the
// line this takes three times the arithmetic, none of it in sequence, and no line in shared memory.
//
// In:  [groups][voxel % input ring][inner], float.
// Out: [group % group ring][voxel % output ring][inner], float; at last clipped to the range that
//      the channel had before and normalised, where the parameters say so.
// Per output value: 4 bytes written, 4 per tap read, mostly from caches, a multiply-add per tap.
//
// resample_columns (inner = 1): a block makes 32 voxels of 8 groups, neighbouring threads
// neighbouring voxels. Grid: (ceil(groups / 8), ceil(count / 32), 1).
// resample_slices (any inner): a block makes 8 voxels of 32 inner values of a group, neighbouring
// threads neighbouring inner values. Grid: (ceil(inner / 32) * ceil(count / 8), groups, 1).
#pragma once
#include "intensity.cuh"

DEVICE void resample(const Resample& p, int group, int voxel, int inner) {
    if (group >= p.groups || voxel >= p.first + p.count || inner >= p.inner) return;
    const Band& band = p.band;
    const float* input = p.input + (i64)group * p.input_ring * p.inner + inner;
    int place = band.first[voxel] % p.input_ring;
    float sum = 0;
    for (int tap = 0; tap < band.taps; tap++) {
        sum = fmaf(band.weights[(i64)tap * band.outputs + voxel], input[(i64)place * p.inner], sum);
        place = place + 1 == p.input_ring ? 0 : place + 1;
    }
    if (p.limits) {
        const int at = p.limits_axis == 0   ? voxel
                       : p.limits_axis == 1 ? inner / p.columns
                       : p.limits_axis == 2 ? inner % p.columns
                                            : 0;
        sum = fminf(fmaxf(sum, p.limits[2 * at]), p.limits[2 * at + 1]);
    }
    if (p.normalizes) sum = normalized_intensity(p.how, sum);
    const i64 to = (i64)((p.first_group + group) % p.group_ring) * p.output_ring;
    p.output[(to + voxel % p.output_ring) * p.inner + inner] = sum;
}

KERNEL(resample_columns, 256, 1, Resample) {
    resample(p, block_index_x() * 8 + warp_index(),
             p.first + block_index_y() * 32 + lane_index(), 0);
}

KERNEL(resample_slices, 256, 1, Resample) {
    const int tiles = (p.inner + 31) / 32, tile = block_index_x();
    resample(p, block_index_y(), p.first + tile / tiles * 8 + warp_index(),
             tile % tiles * 32 + lane_index());
}
