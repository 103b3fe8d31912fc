// Strings of eight channels of one voxel: how kernels read, normalise and write them.
#pragma once
#include "parameters.cuh"
#include "primitives.cuh"

// Factor and offset of eight channels.
struct Affine {
    float factor[8];
    float offset[8];
};

DEVICE float leaky(float value, float slope) { return fmaxf(value, value * slope); }

// Of eight channels from `channel` on.
DEVICE Affine load_affine(const float* coefficients, int padded_channels, int channel) {
    Affine result;
    const float* from[2] = {coefficients + channel, coefficients + padded_channels + channel};
    UNROLL
    for (int part = 0; part < 2; part++) {
        float* to = part == 0 ? result.factor : result.offset;
        const float4 low = ((const float4*)from[part])[0], high = ((const float4*)from[part])[1];
        to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
        to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
    }
    return result;
}

DEVICE Affine load_affine(const Pending& pending, int channel) {
    if (pending.coefficients) {
        return load_affine(pending.coefficients, pending.padded_channels, channel);
    }
    Affine result;
    UNROLL
    for (int c = 0; c < 8; c++) result.factor[c] = 1, result.offset[c] = 0;
    return result;
}

// What is pending on a string, applied to its two bytes per value. The normalisation is rounded
// before the slope is applied: values below zero are rounded twice, but are small then.
DEVICE uint4 apply_pending(uint4 string, const Affine& affine, u32 slopes) {
    u32 pairs[4] = {string.x, string.y, string.z, string.w};
    UNROLL
    for (int i = 0; i < 4; i++) {
        const float2 value = unpack_half2(pairs[i]);
        const u32 pair =
            pack_half2(fmaf(value.x, affine.factor[2 * i], affine.offset[2 * i]),
                       fmaf(value.y, affine.factor[2 * i + 1], affine.offset[2 * i + 1]));
        pairs[i] = maximum_half2(pair, multiply_half2(pair, slopes));
    }
    return uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
}

// One string as eight floats. `index` counts strings. Plain loads: the memory may be one that the
// same kernel writes.
template <class Value> DEVICE void load_string(float (&values)[8], const void* tensor, i64 index);
template <> DEVICE void load_string<half>(float (&values)[8], const void* tensor, i64 index) {
    const uint4 string = ((const uint4*)tensor)[index];
    const u32 pairs[4] = {string.x, string.y, string.z, string.w};
    UNROLL
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack_half2(pairs[i]);
        values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
    }
}
template <> DEVICE void load_string<float>(float (&values)[8], const void* tensor, i64 index) {
    const float4 low = ((const float4*)tensor)[2 * index];
    const float4 high = ((const float4*)tensor)[2 * index + 1];
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

template <class Value> DEVICE void store_string(void* tensor, i64 index, const float (&values)[8]);
template <> DEVICE void store_string<half>(void* tensor, i64 index, const float (&values)[8]) {
    ((uint4*)tensor)[index] =
        uint4{pack_half2(values[0], values[1]), pack_half2(values[2], values[3]),
              pack_half2(values[4], values[5]), pack_half2(values[6], values[7])};
}
template <> DEVICE void store_string<float>(void* tensor, i64 index, const float (&values)[8]) {
    ((float4*)tensor)[2 * index] = float4{values[0], values[1], values[2], values[3]};
    ((float4*)tensor)[2 * index + 1] = float4{values[4], values[5], values[6], values[7]};
}

// Count, mean and deviations of two sets together, given counts above 0 in all.
DEVICE Partial merged(const Partial& a, const Partial& b) {
    const float count = a.count + b.count;
    if (count == 0) return a;
    const float delta = b.mean - a.mean, share = b.count / count;
    return Partial{count, fmaf(delta, share, a.mean),
                   a.deviations + b.deviations + delta * delta * a.count * share};
}
