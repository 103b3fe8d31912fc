// Resampling one axis: weights of any number, rings, limits of slices, normalisation.
#include "../../resample.cuh"
#include "cases.h"

static float clipped(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

TEST(resamples) {
    emulator::for_seeds(40, [] {
        u64 seed = emulator::configuration().seed;
        Random random(seed + 1);
        bool columns = seed % 2;
        int voxels = random.whole(1, 40), outputs = random.whole(1, 70), taps = random.whole(1, std::min(voxels, 30));
        int inner_columns = columns ? 1 : random.whole(1, 20), inner = inner_columns * (columns ? 1 : random.whole(1, 6));
        // Not more of the line is there than the outputs from `first` on need.
        std::vector<u32> firsts;
        for (int o = 0; o < outputs; o++) firsts.push_back(u32((voxels - taps) * o / outputs));
        int first = random.whole(0, outputs - 1), count = random.whole(1, outputs - first);
        int begin = int(firsts[first]), end = int(firsts[first + count - 1]) + taps;
        int input_ring = random.whole(end - begin, voxels), output_ring = random.whole(count, outputs);
        int groups = random.whole(1, 20), first_group = random.whole(0, 30), group_ring = random.whole(groups, 25);
        std::vector<float> weights = random.reals(size_t(taps) * outputs, -1, 1);
        std::vector<float> input(size_t(groups) * input_ring * inner, not_a_number());
        for (int g = 0; g < groups; g++) {
            for (int voxel = begin; voxel < end; voxel++) {
                for (int i = 0; i < inner; i++) {
                    input[(size_t(g) * input_ring + voxel % input_ring) * inner + i] = random.real(-9, 9);
                }
            }
        }
        Resample p = {};
        p.limits_axis = random.whole(-1, 2);
        std::vector<float> limits;
        for (int at = 0; at < 200; at++) {
            limits.push_back(random.real(-9, 0));
            limits.push_back(random.real(0, 9));
        }
        emulator::Buffer<float> from(input), into(size_t(group_ring) * output_ring * inner), device(weights), clip(limits);
        emulator::Buffer<u32> places(firsts);
        p.input = from.data();
        p.output = into.data();
        p.band = {places.data(), device.data(), taps, outputs};
        p.limits = random.coin() ? clip.data() : nullptr;
        p.columns = inner_columns;
        p.inner = inner;
        p.groups = groups;
        p.first_group = first_group;
        p.group_ring = group_ring;
        p.input_ring = input_ring;
        p.output_ring = output_ring;
        p.first = first;
        p.count = count;
        p.normalizes = random.coin();
        p.how = {-5, 4, 0.5f, 3};
        std::vector<float> expected(into.size(), not_a_number());
        for (int g = 0; g < groups; g++) {
            for (int o = first; o < first + count; o++) {
                for (int i = 0; i < inner; i++) {
                    float sum = 0;
                    for (int tap = 0; tap < taps; tap++) {
                        int voxel = int(firsts[o]) + tap;
                        size_t at = (size_t(g) * input_ring + voxel % input_ring) * inner + i;
                        sum = fmaf(weights[size_t(tap) * outputs + o], input[at], sum);
                    }
                    int at[4] = {0, o, i / inner_columns, i % inner_columns};
                    int slice = at[p.limits_axis + 1];
                    if (p.limits) sum = clipped(sum, limits[2 * slice], limits[2 * slice + 1]);
                    if (p.normalizes) sum = (clipped(sum, p.how.lower, p.how.upper) - p.how.mean) / p.how.deviation;
                    size_t slot = (first_group + g) % group_ring;
                    expected[(slot * output_ring + o % output_ring) * inner + i] = sum;
                }
            }
        }
        if (columns) {
            emulator::launch("resample_columns", {parts(groups, 8), parts(count, 32)}, 0, p);
        } else {
            emulator::launch("resample_slices", {parts(inner, 32) * parts(count, 8), u32(groups)}, 0, p);
        }
        std::vector<float> found = into.read();
        for (size_t i = 0; i < found.size(); i++) {
            CHECK(isnan(expected[i]) ? isnan(found[i]) : found[i] == expected[i]);
        }
    });
}

TESTS_MAIN
