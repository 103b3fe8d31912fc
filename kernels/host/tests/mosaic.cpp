// Blending tiles: features of several folds, probabilities; any order of axes, mirrors, rings.
#include "../../probabilities.cuh"
#include "cases.h"

template <class Value> struct Pass {
    Placement placement;
    int features;
    std::vector<Value> values;
    std::vector<float> window;

    Pass(Random& random, const Placement& placement, int features)
        : placement(placement), features(features), window(random.reals(patch_voxels(placement), 0.1f, 1)) {
        for (float value : random.reals(features * patch_voxels(placement), -2, 2)) {
            values.push_back(stored<Value>(value));
        }
    }

    float feature(size_t voxel, int feature) const {
        return loaded(values[(feature / 8 * patch_voxels(placement) + voxel) * 8 + feature % 8]);
    }
    int extent(int axis) const { return placement.patch[placement.axes[axis]]; }
};

// Another tile of the same volume.
inline Placement moved(Random& random, Placement placement) {
    for (int axis = 0; axis < 3; axis++) {
        int patch = placement.patch[placement.axes[axis]];
        int padded = std::max(patch, placement.volume[axis]);
        placement.start[axis] = random.whole(0, padded - patch);
        placement.mirror[axis] = random.coin();
    }
    return placement;
}

template <class Value> void blends(const char* kernel) {
    emulator::for_seeds(24, [&] {
        Random random(emulator::configuration().seed + 1);
        Placement placement = random_placement(random, random.coin() ? 9 : 36);
        int features = 16 * random.whole(1, 2), folds = random.whole(1, 3);
        MosaicMemory memory(placement.volume[0], 1, placement.volume[1], placement.volume[2],
                            features * folds, random.coin());
        std::vector<float> sums(memory.weight_sums.size() * features * folds, 0.f);
        std::vector<float> weights(memory.weight_sums.size(), 0.f);
        memory.write_sums(sums);
        memory.weight_sums.write(weights);
        for (int tile = 0; tile < 2; tile++) {
            placement = moved(random, placement);
            for (int fold = 0; fold < folds; fold++) {
                Pass<Value> pass(random, placement, features);
                emulator::Buffer<Value> values(pass.values);
                emulator::Buffer<float> window(pass.window);
                Blend parameters = {memory.mosaic, values.data(), window.data(), placement,
                                    features, fold * features, fold == 0, 0};
                u32 tiles = parts(pass.extent(1), 8) * parts(pass.extent(2), 32);
                emulator::launch(kernel, {tiles, u32(pass.extent(0)), u32(features / 8)}, 0, parameters);
                for_tile(placement, [&](bool inside, const int* voxel, size_t at, size_t place) {
                    if (!inside) return;
                    size_t plane_place = size_t(voxel[1]) * placement.volume[2] + voxel[2];
                    float weight = pass.window[place];
                    if (fold == 0) weights[memory.voxel(voxel[0], plane_place)] += weight;
                    for (int f = 0; f < features; f++) {
                        float& sum = sums[memory.index(voxel[0], plane_place, fold * features + f)];
                        sum = memory.kept(fmaf(weight, pass.feature(at, f), sum));
                    }
                });
            }
        }
        CHECK(memory.sums() == sums);
        CHECK(memory.weight_sums.read() == weights);
    });
}

TEST(blends_half) { blends<half>("blend_half"); }
TEST(blends_float) { blends<float>("blend_float"); }

// A ring that holds fewer planes than the volume has: what wraps around does not touch the others.
TEST(blends_into_a_ring) {
    Random random(5);
    Placement placement = {{6, 0, 0}, {0, 0, 0}, {12, 5, 40}, {0, 1, 2}, {0, 1, 0}, {4, 5, 40}};
    int ring = 5;
    MosaicMemory memory(ring, 1, 5, 40, 16, false);
    std::vector<float> sums(memory.float_sums.size(), 7.f), weights(memory.weight_sums.size(), 3.f);
    memory.write_sums(sums);
    memory.weight_sums.write(weights);
    Pass<half> pass(random, placement, 16);
    emulator::Buffer<half> values(pass.values);
    emulator::Buffer<float> window(pass.window);
    Blend parameters = {memory.mosaic, values.data(), window.data(), placement, 16, 0, 1, 0};
    emulator::launch("blend_half", {2, 4, 2}, 0, parameters);
    for_tile(placement, [&](bool, const int* voxel, size_t at, size_t place) {
        size_t plane_place = size_t(voxel[1]) * 40 + voxel[2];
        weights[memory.voxel(voxel[0], plane_place)] += pass.window[place];
        for (int f = 0; f < 16; f++) {
            float& sum = sums[memory.index(voxel[0], plane_place, f)];
            sum = fmaf(pass.window[place], pass.feature(at, f), sum);
        }
    });
    CHECK(memory.sums() == sums);
    CHECK(memory.weight_sums.read() == weights);
}

template <class Value> void blends_probabilities(const char* kernel) {
    static const int class_counts[] = {2, 5, 31, 33, 105, 128, 130, 260};
    emulator::for_seeds(16, [&] {
        u64 seed = emulator::configuration().seed;
        Random random(seed + 1);
        int classes = class_counts[seed % 8];
        Placement placement = random_placement(random, random.coin() ? 5 : 12);
        int features = 16 * random.whole(1, 3), decision = random.whole(0, 1);
        HeadMemory head(random, features, classes);
        MosaicMemory memory(placement.volume[0], 1, placement.volume[1], placement.volume[2],
                            head.padded, random.coin());
        std::vector<float> sums(memory.weight_sums.size() * head.padded, 0.f);
        std::vector<float> weights(memory.weight_sums.size(), 0.f);
        memory.write_sums(sums);
        memory.weight_sums.write(weights);
        for (int tile = 0; tile < 2; tile++) {
            placement = moved(random, placement);
            Pass<Value> pass(random, placement, features);
            emulator::Buffer<Value> values(pass.values);
            emulator::Buffer<float> window(pass.window);
            BlendProbabilities parameters = {
                {memory.mosaic, values.data(), window.data(), placement, features, 0, 1, 0},
                head.head(), decision, 0};
            u32 blocks = parts(pass.extent(1) * pass.extent(2), scored_voxels(head.padded));
            emulator::launch(kernel, {blocks, u32(pass.extent(0))}, HEAD_SHARED_BYTES, parameters);
            for_tile(placement, [&](bool inside, const int* voxel, size_t at, size_t place) {
                if (!inside) return;
                size_t plane_place = size_t(voxel[1]) * placement.volume[2] + voxel[2];
                float weight = pass.window[place];
                weights[memory.voxel(voxel[0], plane_place)] += weight;
                std::vector<float> own;
                for (int f = 0; f < features; f++) own.push_back(pass.feature(at, f));
                std::vector<double> probabilities = head.probabilities(head.scores(own), decision);
                for (int c = 0; c < head.padded; c++) {
                    sums[memory.index(voxel[0], plane_place, c)] += float(weight * probabilities[c]);
                }
            });
        }
        std::vector<float> found = memory.sums();
        float tolerance = memory.mosaic.half_sums ? 2e-3f : 1e-5f;
        for (size_t i = 0; i < sums.size(); i++) CHECK(fabsf(found[i] - sums[i]) <= tolerance);
        CHECK(memory.weight_sums.read() == weights);
    });
}

TEST(blends_probabilities_half) { blends_probabilities<half>("blend_probabilities_half"); }
TEST(blends_probabilities_float) { blends_probabilities<float>("blend_probabilities_float"); }

TESTS_MAIN
