// Statistics to coefficients, and the ends of residual blocks.
#include "../../normalization.cuh"
#include "activations.h"

// Partials of random tiles, some of them empty, whose mean is far from 0 against the deviation.
TEST(coefficients_of_partials) {
    emulator::for_seeds(30, [] {
        Random random(emulator::configuration().seed + 1);
        int channels = random.whole(1, 20), padded = rounded_up(channels, 16), tiles = random.whole(1, 700);
        bool affine = random.coin();
        float epsilon = 1e-5f, far = random.coin() ? 100 : 0;
        std::vector<Partial> partials(size_t(padded) * tiles, Partial{0, 0, 0});
        std::vector<double> means(channels), variances(channels);
        int filled = random.whole(0, tiles - 1);
        std::vector<int> counts(tiles);
        for (int tile = 0; tile < tiles; tile++) {
            counts[tile] = tile == filled ? 7 : random.whole(0, 3) ? random.whole(1, 256) : 0;
        }
        for (int c = 0; c < padded; c++) {
            double count = 0, sum = 0, squares = 0;
            for (int tile = 0; tile < tiles; tile++) {
                Partial& partial = partials[size_t(c) * tiles + tile];
                partial = {float(counts[tile]), 0, 0};
                if (counts[tile]) partial.mean = far + random.real(-1, 1), partial.deviations = random.real(0, 50);
                count += partial.count, sum += double(partial.count) * partial.mean;
            }
            double mean = sum / count;
            for (int tile = 0; tile < tiles; tile++) {
                const Partial& partial = partials[size_t(c) * tiles + tile];
                squares += partial.deviations + partial.count * (partial.mean - mean) * (partial.mean - mean);
            }
            if (c < channels) means[c] = mean, variances[c] = squares / count;
        }
        std::vector<float> scale = random.reals(channels, -2, 2), shift = random.reals(channels, -2, 2);
        emulator::Buffer<Partial> device_partials(partials);
        emulator::Buffer<float> device_scale(scale), device_shift(shift), found(2 * padded);
        Coefficients p = {device_partials.data(), affine ? device_scale.data() : nullptr,
                          affine ? device_shift.data() : nullptr, found.data(), tiles, channels, padded, epsilon};
        emulator::launch("coefficients", {u32(padded)}, COEFFICIENTS_THREADS * sizeof(double), p);
        std::vector<float> values = found.read();
        for (int c = 0; c < padded; c++) {
            double factor = c >= channels ? 0 : affine ? scale[c] : 1, offset = c < channels && affine ? shift[c] : 0;
            if (c < channels) {
                factor /= sqrt(variances[c] + epsilon);
                offset -= means[c] * factor;
            }
            CHECK(close<float>(values[c], factor, 1e-3 * fabs(factor)));
            CHECK(close<float>(values[padded + c], offset, 1e-3 * (fabs(offset) + 1)));
        }
    });
}

template <class Value> void joins(const char* kernel) {
    emulator::for_seeds(24, [&] {
        Random random(emulator::configuration().seed + 1);
        int channels = random.whole(1, 40);
        Shape shape = random_shape(random, 8, 18, 20);
        Activation<Value> main(random, channels, shape), shortcut(random, channels, shape), output(channels, shape);
        PendingMemory main_pending(random, channels), shortcut_pending(random, channels);
        bool adds = random.coin(), pending = random.coin(), in_place = random.coin();
        std::vector<float> before = main.plain(), added = shortcut.plain();
        Activation<Value>& written = in_place ? main : output;
        Join p = {main.device.data(), main_pending.pending(), adds ? shortcut.device.data() : nullptr,
                  pending ? shortcut_pending.pending() : Pending{nullptr, 0, 1}, written.device.data(),
                  voxels(shape), main.stored};
        emulator::launch(kernel, {parts(voxels(shape), JOIN_THREADS * JOIN_VOXELS), u32(main.stored / 8)}, 0, p);
        std::vector<float> found = written.plain();
        for (int c = 0; c < main.stored; c++) {
            for (int v = 0; v < voxels(shape); v++) {
                size_t at = size_t(c) * voxels(shape) + v;
                double value = main_pending.normalized(c, before[at]);
                if (adds) value += pending ? shortcut_pending.applied(c, added[at]) : added[at];
                value = std::max(value, value * main_pending.slope);
                if (!CHECK(close<Value>(found[at], value, 8))) return;
            }
        }
    });
}
TEST(join_in_half) { joins<half>("join_half"); }
TEST(join_in_float) { joins<float>("join_float"); }
TESTS_MAIN
