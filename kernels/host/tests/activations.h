// Activations in device memory and as plain arrays, for the tests of the network's kernels.
#pragma once
#include "cases.h"

inline int rounded_up(int value, int to) { return (value + to - 1) / to * to; }
inline int voxels(const Shape& shape) { return shape.planes * shape.rows * shape.columns; }
inline Shape random_shape(Random& random, int planes, int rows, int columns) {
    return Shape{random.whole(1, planes), random.whole(1, rows), random.whole(1, columns)};
}

// Coefficients that are pending on a tensor.
struct PendingMemory {
    int channels, padded;
    float slope;
    std::vector<float> values;
    emulator::Buffer<float> device;

    PendingMemory(Random& random, int channels)
        : channels(channels), padded(rounded_up(channels, 16)),
          slope(random.coin() ? 0.01f : random.real(0, 1)), values(made(random)), device(values) {}

    Pending pending() const { return Pending{device.data(), padded, slope}; }
    // As the kernels compute: one rounding.
    float normalized(int channel, float value) const {
        return fmaf(value, values[channel], values[padded + channel]);
    }
    float applied(int channel, float value) const {
        float result = normalized(channel, value);
        return std::max(result, result * slope);
    }
    // As the convolutions apply it to halves: rounded before the slope, which is a half too.
    float applied_to_half(int channel, float value) const {
        auto rounded = [](float x) { return to_float(to_half(x)); };
        float result = rounded(normalized(channel, value));
        return std::max(result, rounded(result * rounded(slope)));
    }

  private:
    std::vector<float> made(Random& random) {
        std::vector<float> result(2 * padded, 0.f);
        for (int c = 0; c < channels; c++) {
            result[c] = random.real(-2, 2), result[padded + c] = random.real(-1, 1);
        }
        return result;
    }
};

// A tensor [padded channels / 8][voxels][8], or a patch [channels][voxels].
template <class Value> struct Activation {
    int channels, stored;
    Shape shape;
    bool planar;
    emulator::Buffer<Value> device;

    // Without values: as memory is at first.
    Activation(int channels, Shape shape, bool planar = false)
        : channels(channels), stored(planar ? channels : rounded_up(channels, 16)), shape(shape),
          planar(planar), device(size_t(stored) * voxels(shape)) {}
    Activation(Random& random, int channels, Shape shape, bool planar = false)
        : Activation(channels, shape, planar) {
        std::vector<Value> values(device.size(), ::stored<Value>(0));
        for (int c = 0; c < channels; c++) {
            for (int v = 0; v < voxels(shape); v++) values[index(c, v)] = ::stored<Value>(random.real(-2, 2));
        }
        device.write(values);
    }

    size_t index(int channel, int voxel) const {
        if (planar) return size_t(channel) * voxels(shape) + voxel;
        return (size_t(channel / 8) * voxels(shape) + voxel) * 8 + channel % 8;
    }
    int voxel(int plane, int row, int column) const {
        return (plane * shape.rows + row) * shape.columns + column;
    }
    // [stored][voxels]
    std::vector<float> plain() const {
        std::vector<Value> values = device.read();
        std::vector<float> result(values.size());
        for (int c = 0; c < stored; c++) {
            for (int v = 0; v < voxels(shape); v++) {
                result[size_t(c) * voxels(shape) + v] = loaded(values[index(c, v)]);
            }
        }
        return result;
    }
};

// Rounding of what is stored, as a share of the value.
template <class Value> constexpr double rounding();
template <> constexpr double rounding<half>() { return 0x1p-11; }
template <> constexpr double rounding<float>() { return 0x1p-24; }
template <class Value> bool close(double found, double expected, double scale) {
    // The least that half precision can tell apart.
    const double least = std::is_same<Value, half>::value ? 0x1p-25 : 0;
    return fabs(found - expected) <= fabs(expected) * rounding<Value>() + least + scale * 1e-6;
}
