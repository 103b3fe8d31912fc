// Means of boxes that do not overlap.
#include "../../pool.cuh"
#include "activations.h"

template <class Value> void pools(const char* kernel) {
    emulator::for_seeds(24, [&] {
        Random random(emulator::configuration().seed + 1);
        int channels = random.whole(1, 40);
        int size[3] = {random.whole(1, 3), random.whole(1, 3), random.whole(1, 3)};
        Shape out = random_shape(random, 5, 9, 9);
        // What is left over is dropped.
        Shape in = {out.planes * size[0] + random.whole(0, size[0] - 1), out.rows * size[1] + random.whole(0, size[1] - 1),
                    out.columns * size[2] + random.whole(0, size[2] - 1)};
        Activation<Value> input(random, channels, in), output(channels, out);
        PendingMemory memory(random, channels);
        bool pending = random.coin();
        AveragePool p = {input.device.data(), pending ? memory.pending() : Pending{nullptr, 0, 1}, output.device.data(),
                         in, out, {size[0], size[1], size[2]}, input.stored};
        emulator::launch(kernel, {parts(voxels(out), POOL_THREADS), u32(input.stored / 8)}, 0, p);
        std::vector<float> found = output.plain(), values = input.plain();
        for (int c = 0; c < input.stored; c++) {
            for (int v = 0; v < voxels(out); v++) {
                double sum = 0;
                for (int i = 0; i < size[0] * size[1] * size[2]; i++) {
                    int z = v / out.columns / out.rows * size[0] + i / size[2] / size[1];
                    int y = v / out.columns % out.rows * size[1] + i / size[2] % size[1];
                    int x = v % out.columns * size[2] + i % size[2];
                    float value = values[size_t(c) * voxels(in) + input.voxel(z, y, x)];
                    sum += pending ? memory.applied(c, value) : value;
                }
                sum /= size[0] * size[1] * size[2];
                if (!CHECK(close<Value>(found[size_t(c) * voxels(out) + v], sum, 5))) return;
            }
        }
    });
}
TEST(pool_in_half) { pools<half>("pool_half"); }
TEST(pool_in_float) { pools<float>("pool_float"); }
TESTS_MAIN
