// Statistics of lines beside two plain passes in double precision; normalisation to the bit.
#include "../../intensity.cuh"
#include "cases.h"

TEST(measures_lines) {
    emulator::for_seeds(30, [] {
        Random random(emulator::configuration().seed + 1);
        int lines = random.whole(1, 40), columns = random.whole(1, 100);
        // Far from zero, where one pass over squares would lose everything.
        float centre = random.coin() ? 0.f : random.real(-1e6f, 1e6f), spread = random.real(0.01f, 1000);
        std::vector<float> values = random.reals(size_t(lines) * columns, centre - spread, centre + spread);
        double infinite = HUGE_VAL, above = -infinite, below = infinite;
        if (random.coin()) above = centre - spread / 2, below = centre + spread * random.real(-0.4f, 0.5f);
        // Limits themselves do not count.
        if (random.coin()) above = values[0];
        emulator::Buffer<float> from(values);
        emulator::Buffer<LineStatistics> to(lines);
        emulator::launch("measure_lines", {parts(lines, 8)}, 0, MeasureLines{from.data(), to.data(), above, below, lines, columns});
        std::vector<LineStatistics> found = to.read();
        for (int line = 0; line < lines; line++) {
            const float* own = values.data() + size_t(line) * columns;
            double sum = 0, squares = 0;
            float low = own[0], high = own[0];
            int count = 0;
            for (int i = 0; i < columns; i++) {
                low = fminf(low, own[i]), high = fmaxf(high, own[i]);
                if (own[i] > above && own[i] < below) count++, sum += own[i];
            }
            double mean = count ? sum / count : 0;
            for (int i = 0; i < columns; i++) {
                if (own[i] > above && own[i] < below) squares += (own[i] - mean) * (own[i] - mean);
            }
            const LineStatistics& got = found[line];
            CHECK(got.count == count && got.low == low && got.high == high);
            CHECK(fabs(got.mean - mean) <= 1e-14 * (fabs(centre) + spread));
            CHECK(fabs(got.squares - squares) <= 1e-9 * squares + 1e-12);
        }
    });
}

TEST(normalizes) {
    emulator::for_seeds(10, [] {
        Random random(emulator::configuration().seed + 1);
        std::vector<float> values = random.reals(random.whole(1, 700), -900, 900);
        emulator::Buffer<float> device(values);
        Intensity how = {random.real(-800, -100), random.real(100, 800), random.real(-99, 99), random.real(0.1f, 50)};
        if (random.coin()) how.lower = -HUGE_VALF, how.upper = HUGE_VALF;
        emulator::launch("normalize_values", {parts(int(values.size()), 256)}, 0, NormalizeValues{device.data(), how, int(values.size()), 0});
        std::vector<float> found = device.read();
        for (size_t i = 0; i < values.size(); i++) {
            CHECK(found[i] == (fminf(fmaxf(values[i], how.lower), how.upper) - how.mean) / how.deviation);
        }
    });
}

TESTS_MAIN
