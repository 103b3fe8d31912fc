// Random cases of the mosaic's kernels: volumes, tiles, heads, and what the kernels mean, plainly.
#pragma once
#include "../launch.h"
#include <math.h>
#include <random>

struct Random {
    std::mt19937_64 engine;
    explicit Random(u64 seed) : engine(seed) {}

    // From low to high, both possible.
    int whole(int low, int high) { return low + int(engine() % u64(high - low + 1)); }
    float real(float low, float high) { return low + (high - low) * float(engine() >> 40) * 0x1p-24f; }
    bool coin() { return engine() & 1; }
    std::vector<float> reals(size_t count, float low, float high) {
        std::vector<float> values(count);
        for (float& value : values) value = real(low, high);
        return values;
    }
};

inline float not_a_number() { return nanf(""); }

template <class Value> Value stored(float value);
template <> inline float stored<float>(float value) { return value; }
template <> inline half stored<half>(float value) { return to_half(value); }
inline float loaded(float value) { return value; }
inline float loaded(half value) { return to_float(value); }

// A tile of a volume, somewhere; axes of the run are a permutation of the network's.
inline Placement random_placement(Random& random, int largest) {
    static const int orders[6][3] = {{0, 1, 2}, {1, 0, 2}, {2, 0, 1}, {0, 2, 1}, {1, 2, 0}, {2, 1, 0}};
    Placement placement = {};
    const int* order = orders[random.whole(0, 5)];
    for (int axis = 0; axis < 3; axis++) {
        placement.patch[axis] = random.whole(1, largest);
        placement.mirror[axis] = random.coin();
    }
    for (int axis = 0; axis < 3; axis++) {
        placement.axes[axis] = order[axis];
        int patch = placement.patch[order[axis]];
        placement.volume[axis] = random.whole(1, patch * 2);
        int padded = std::max(patch, placement.volume[axis]);
        placement.pad_before[axis] = (padded - placement.volume[axis]) / 2;
        placement.start[axis] = random.whole(0, padded - patch);
    }
    return placement;
}

// Calls `visit(at of the run's axes in the patch, voxel of the volume or -1s, patch's voxel)`.
template <class Visit> void for_tile(const Placement& placement, Visit visit) {
    int extent[3];
    for (int axis = 0; axis < 3; axis++) extent[axis] = placement.patch[placement.axes[axis]];
    int at[3];
    for (at[0] = 0; at[0] < extent[0]; at[0]++) {
        for (at[1] = 0; at[1] < extent[1]; at[1]++) {
            for (at[2] = 0; at[2] < extent[2]; at[2]++) {
                int voxel[3], network[3];
                bool inside = true;
                for (int axis = 0; axis < 3; axis++) {
                    int own = placement.axes[axis];
                    network[own] = placement.mirror[own] ? placement.patch[own] - 1 - at[axis] : at[axis];
                    voxel[axis] = placement.start[axis] + at[axis] - placement.pad_before[axis];
                    inside = inside && voxel[axis] >= 0 && voxel[axis] < placement.volume[axis];
                }
                size_t patch = (size_t(network[0]) * placement.patch[1] + network[1]) * placement.patch[2] + network[2];
                size_t window = (size_t(at[0]) * extent[1] + at[1]) * extent[2] + at[2];
                visit(inside, voxel, patch, window);
            }
        }
    }
}

inline size_t patch_voxels(const Placement& placement) {
    return size_t(placement.patch[0]) * placement.patch[1] * placement.patch[2];
}

// Planes of the volume that the tile touches.
inline int touched_planes(const Placement& placement) {
    int first = std::max(placement.start[0] - placement.pad_before[0], 0);
    int end = placement.start[0] - placement.pad_before[0] + placement.patch[placement.axes[0]];
    return std::min(end, placement.volume[0]) - first;
}

inline u32 parts(int whole, int part) { return u32((whole + part - 1) / part); }

// A mosaic in device memory; sums in half or single precision.
struct MosaicMemory {
    Mosaic mosaic;
    emulator::Buffer<half> half_sums;
    emulator::Buffer<float> float_sums, weight_sums;
    emulator::Buffer<u16> classes;

    MosaicMemory(int ring_planes, int class_planes, int rows, int columns, int depth, bool halves)
        : half_sums(halves ? size_t(ring_planes) * rows * columns * depth : 0),
          float_sums(halves ? 0 : size_t(ring_planes) * rows * columns * depth),
          weight_sums(size_t(ring_planes) * rows * columns), classes(size_t(class_planes) * rows * columns) {
        mosaic = Mosaic{};
        mosaic.sums = halves ? static_cast<void*>(half_sums.data()) : float_sums.data();
        mosaic.weight_sums = weight_sums.data();
        mosaic.classes = classes.data();
        mosaic.ring_planes = ring_planes;
        mosaic.depth = depth;
        mosaic.half_sums = halves;
        mosaic.class_planes = class_planes;
        mosaic.rows = rows;
        mosaic.columns = columns;
    }

    size_t index(int plane, size_t place, int value) const {
        size_t slot = size_t(plane % mosaic.ring_planes) * (mosaic.depth / 8) + value / 8;
        return (slot * mosaic.rows * mosaic.columns + place) * 8 + value % 8;
    }
    size_t voxel(int plane, size_t place) const {
        return size_t(plane % mosaic.ring_planes) * mosaic.rows * mosaic.columns + place;
    }
    std::vector<float> sums() const {
        if (!mosaic.half_sums) return float_sums.read();
        std::vector<float> values;
        for (half value : half_sums.read()) values.push_back(to_float(value));
        return values;
    }
    void write_sums(const std::vector<float>& values) {
        if (!mosaic.half_sums) return float_sums.write(values);
        std::vector<half> halves;
        for (float value : values) halves.push_back(to_half(value));
        half_sums.write(halves);
    }
    // As it is kept.
    float kept(float value) const { return mosaic.half_sums ? to_float(to_half(value)) : value; }
};

// A head in device memory.
struct HeadMemory {
    int features, classes, padded;
    std::vector<float> weights, bias;
    emulator::Buffer<float> device_weights, device_bias;

    HeadMemory(Random& random, int features, int classes)
        : features(features), classes(classes), padded((classes + 15) / 16 * 16), weights(made(random)),
          bias(bias_of(random)), device_weights(weights), device_bias(bias) {}
    // That of a mosaic that holds classes.
    HeadMemory(int classes)
        : features((classes + 15) / 16 * 16), classes(classes), padded(features), weights(identity()),
          bias(zero_bias()), device_weights(weights), device_bias(bias) {}

    Head head() const { return Head{device_weights.data(), device_bias.data(), classes, padded}; }

    // As the kernels add: in ascending order.
    std::vector<float> scores(const std::vector<float>& values) const {
        std::vector<float> scores(bias);
        for (int c = 0; c < padded; c++) {
            for (int f = 0; f < features; f++) scores[c] = fmaf(values[f], weights[size_t(f) * padded + c], scores[c]);
        }
        return scores;
    }

    std::vector<double> probabilities(const std::vector<float>& scores, int decision) const {
        std::vector<double> result(padded, 0.0);
        double total = 0, highest = -INFINITY;
        for (int c = 0; c < classes; c++) highest = std::max(highest, double(scores[c]));
        for (int c = 0; c < classes; c++) total += exp(scores[c] - highest);
        for (int c = 0; c < classes; c++) {
            result[c] = decision == DECISION_HIGHEST ? exp(scores[c] - highest) / total : 1 / (1 + exp(-double(scores[c])));
        }
        return result;
    }

    int decide(const std::vector<float>& scores, int decision, bool by_class) const {
        int found = 0;
        for (int c = 0; c < classes; c++) {
            if (decision == DECISION_HIGHEST && scores[c] > scores[found]) found = c;
            if (decision == DECISION_LAST_POSITIVE && scores[c] > (by_class ? 0.5f : 0.f)) found = c + 1;
        }
        return found;
    }

  private:
    std::vector<float> made(Random& random) {
        std::vector<float> values = random.reals(size_t(features) * padded, -1, 1);
        // Ties: classes that score alike.
        for (int c = 3; c < classes; c += 5) {
            for (int f = 0; f < features; f++) values[size_t(f) * padded + c] = values[size_t(f) * padded + c - 2];
        }
        for (int c = classes; c < padded; c++) {
            for (int f = 0; f < features; f++) values[size_t(f) * padded + c] = 0;
        }
        return values;
    }
    std::vector<float> bias_of(Random& random) {
        std::vector<float> values = random.reals(padded, -1, 1);
        for (int c = 3; c < classes; c += 5) values[c] = values[c - 2];
        for (int c = classes; c < padded; c++) values[c] = -INFINITY;
        return values;
    }
    std::vector<float> identity() {
        std::vector<float> values(size_t(padded) * padded, 0.f);
        for (int c = 0; c < classes; c++) values[size_t(c) * padded + c] = 1;
        return values;
    }
    std::vector<float> zero_bias() {
        std::vector<float> values(padded, 0.f);
        for (int c = classes; c < padded; c++) values[c] = -INFINITY;
        return values;
    }
};

inline int scored_voxels(int padded_classes) { return padded_classes <= 32 ? 256 : 64; }
