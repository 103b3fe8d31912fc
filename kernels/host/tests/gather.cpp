// Gathering tiles: any order of axes, mirrors, padding, rings.
#include "../../gather.cuh"
#include "cases.h"

template <class Value> void gathers(const char* kernel) {
    emulator::for_seeds(40, [&] {
        Random random(emulator::configuration().seed + 1);
        Placement placement = random_placement(random, random.coin() ? 12 : 40);
        int channels = random.whole(1, 3);
        int ring = random.whole(touched_planes(placement), placement.volume[0]);
        size_t plane = size_t(placement.volume[1]) * placement.volume[2];
        // Only planes that the tile touches are there.
        std::vector<float> volume(channels * ring * plane, not_a_number());
        int first = std::max(placement.start[0] - placement.pad_before[0], 0);
        for (int channel = 0; channel < channels; channel++) {
            for (int at = first; at < first + touched_planes(placement); at++) {
                size_t from = (size_t(channel) * ring + at % ring) * plane;
                for (size_t i = 0; i < plane; i++) volume[from + i] = random.real(-9, 9);
            }
        }
        emulator::Buffer<float> device(volume);
        emulator::Buffer<Value> patch(channels * patch_voxels(placement));
        Gather parameters = {device.data(), patch.data(), placement, ring, channels};
        u32 tiles = parts(placement.patch[1], 8) * parts(placement.patch[2], 32);
        emulator::launch(kernel, {tiles, u32(placement.patch[0]), u32(channels)}, 0, parameters);
        std::vector<Value> found = patch.read();
        for (int channel = 0; channel < channels; channel++) {
            for_tile(placement, [&](bool inside, const int* voxel, size_t at, size_t) {
                float expected = 0;
                if (inside) {
                    size_t from = size_t(channel) * ring + voxel[0] % ring;
                    from = (from * placement.volume[1] + voxel[1]) * placement.volume[2] + voxel[2];
                    expected = volume[from];
                }
                float value = loaded(found[channel * patch_voxels(placement) + at]);
                CHECK(value == loaded(stored<Value>(expected)));
            });
        }
    });
}

TEST(gathers_half) { gathers<half>("gather_half"); }
TEST(gathers_float) { gathers<float>("gather_float"); }

TESTS_MAIN
