// Classes and probabilities on the output grid: finer, coarser and identical grids, nearest axes,
// regions of interest, voxels that no tile touched.
#include "../../interpolate.cuh"
#include "cases.h"
#include <memory>

// Where the voxels of an output axis lie, with borders aligned.
struct Map {
    std::vector<u32> low, high;
    std::vector<float> fraction;
    std::unique_ptr<emulator::Buffer<u32>> lows, highs;
    std::unique_ptr<emulator::Buffer<float>> fractions;

    Map(int input, int output, bool nearest) {
        for (int voxel = 0; voxel < output; voxel++) {
            double place = (voxel + 0.5) * (double(input) / output) - 0.5;
            place = std::min(std::max(place, 0.0), double(input - 1));
            if (nearest) place = floor(place + 0.5);
            float share = float(place - floor(place));
            low.push_back(u32(place));
            high.push_back(u32(place) + (share > 0));
            fraction.push_back(share);
        }
        lows.reset(new emulator::Buffer<u32>(low));
        highs.reset(new emulator::Buffer<u32>(high));
        fractions.reset(new emulator::Buffer<float>(fraction));
    }
    AxisMap map() const { return {lows->data(), highs->data(), fractions->data()}; }
};

struct Grid3 {
    Random random;
    int classes, depth, decision;
    bool by_class, any_untouched;
    HeadMemory head;
    int volume[3], output[3], region[3][2];
    Map maps[3];
    MosaicMemory memory;
    std::vector<float> sums;
    std::vector<u16> found;
    emulator::Buffer<u32> flags;

    explicit Grid3(u64 seed)
        : random(seed + 1), classes(class_count(seed)), depth(16 * random.whole(1, 3)), decision(random.whole(0, 1)),
          by_class(random.whole(0, 3) == 0), any_untouched(random.coin()),
          head(by_class ? HeadMemory(classes) : HeadMemory(random, depth, classes)),
          volume{random.whole(1, 6), random.whole(1, 12), random.whole(1, 20)},
          output{random.whole(1, 9), random.whole(1, 40), random.whole(1, 40)},
          maps{map(0), map(1), map(2)},
          memory(volume[0], volume[0], volume[1], volume[2], by_class ? head.padded : depth, random.coin()), flags(1) {
        for (int axis = 0; axis < 3; axis++) {
            bool all = random.coin();
            region[axis][0] = all ? 0 : random.whole(0, output[axis] - 1);
            region[axis][1] = all ? output[axis] : random.whole(region[axis][0], output[axis]);
        }
        // Features that vary slowly, so that neighbours mostly agree.
        sums.resize(memory.weight_sums.size() * memory.mosaic.depth);
        std::vector<float> slopes = random.reals(3 * memory.mosaic.depth, -0.3f, 0.3f);
        std::vector<u16> classes_of(memory.classes.size());
        for (int plane = 0; plane < volume[0]; plane++) {
            for (int row = 0; row < volume[1]; row++) {
                for (int column = 0; column < volume[2]; column++) {
                    size_t place = size_t(row) * volume[2] + column;
                    std::vector<float> values;
                    for (int i = 0; i < memory.mosaic.depth; i++) {
                        float value = slopes[3 * i] * plane + slopes[3 * i + 1] * row + slopes[3 * i + 2] * column;
                        value = by_class ? i < classes ? fabsf(sinf(value)) : 0 : sinf(value);
                        sums[memory.index(plane, place, i)] = memory.kept(value);
                        values.push_back(memory.kept(value));
                    }
                    bool none = any_untouched && (plane + row / 3 + column / 4) % 5 == 0;
                    int own = none ? int(NO_CLASS) : head.decide(head.scores(values), decision, by_class);
                    classes_of[plane * size_t(volume[1]) * volume[2] + place] = u16(own);
                }
            }
        }
        memory.write_sums(sums);
        memory.classes.write(classes_of);
        found = classes_of;
        flags.write({any_untouched ? u32(FLAG_UNTOUCHED) : 0});
    }

    static int class_count(u64 seed) {
        static const int counts[] = {3, 105, 16, 40, 260, 1, 128};
        return counts[seed % 7];
    }
    Map map(int axis) {
        if (random.whole(0, 3) == 0) output[axis] = volume[axis];
        return Map(volume[axis], output[axis], random.whole(0, 3) == 0);
    }

    // The class and, from features in double precision, the scores; -1 where near ties decide.
    int expect(int plane, int row, int column, std::vector<float>& scores, int& certain) {
        certain = -1;
        int at[3] = {plane, row, column};
        for (int axis = 0; axis < 3; axis++) {
            if (at[axis] < region[axis][0] || at[axis] >= region[axis][1]) return 0;
        }
        std::vector<float> values(memory.mosaic.depth, 0.f);
        int agreed = -1, nearest_class = 0;
        bool agree = true, untouched = false;
        float nearest = -1;
        for (int corner = 0; corner < 8; corner++) {
            int voxel[3];
            float share[3];
            for (int axis = 0; axis < 3; axis++) {
                bool upper = corner >> (2 - axis) & 1;
                voxel[axis] = int(upper ? maps[axis].high[at[axis]] : maps[axis].low[at[axis]]);
                share[axis] = upper ? maps[axis].fraction[at[axis]] : 1 - maps[axis].fraction[at[axis]];
            }
            size_t place = size_t(voxel[1]) * volume[2] + voxel[2];
            int own = found[voxel[0] * size_t(volume[1]) * volume[2] + place];
            agree = agree && (agreed < 0 || own == agreed);
            agreed = own;
            untouched |= own == NO_CLASS;
            float weight = share[0] * share[1] * share[2];
            if (weight >= nearest) {
                nearest = weight;
                nearest_class = own == NO_CLASS ? 0 : own;
            }
            for (int i = 0; i < memory.mosaic.depth && weight != 0; i++) {
                values[i] = fmaf(weight, sums[memory.index(voxel[0], place, i)], values[i]);
            }
        }
        scores = head.scores(values);
        if (untouched) certain = nearest_class;
        if (agree) return agreed == NO_CLASS ? 0 : agreed;
        return untouched ? nearest_class : head.decide(scores, decision, by_class);
    }
};

void interpolates(bool with_probabilities) {
    emulator::for_seeds(35, [&] {
        Grid3 c(emulator::configuration().seed);
        int first = c.random.whole(0, c.output[0] - 1), planes = c.random.whole(1, c.output[0] - first);
        std::vector<int> wanted;
        for (int number = 0; number < c.classes && with_probabilities; number += c.random.whole(1, 30)) {
            wanted.push_back(number);
        }
        size_t outputs = size_t(planes) * c.output[1] * c.output[2];
        emulator::Buffer<u16> classes(outputs);
        emulator::Buffer<float> probabilities(wanted.size() * outputs);
        emulator::Buffer<int> device(wanted);
        Interpolate p = {};
        p.mosaic = c.memory.mosaic;
        p.head = c.head.head();
        for (int axis = 0; axis < 3; axis++) {
            p.maps[axis] = c.maps[axis].map();
            p.region[axis][0] = c.region[axis][0];
            p.region[axis][1] = c.region[axis][1];
        }
        p.classes = classes.data();
        p.probabilities = wanted.empty() ? nullptr : probabilities.data();
        p.wanted = device.data();
        p.flags = c.flags.data();
        p.first = first;
        p.planes = planes;
        p.output_rows = c.output[1];
        p.output_columns = c.output[2];
        p.wanted_count = int(wanted.size());
        p.by_class = c.by_class;
        p.decision = c.decision;
        u32 tiles = parts(c.output[1], 32) * parts(c.output[2], 32);
        emulator::launch("interpolate", {tiles, u32(planes)}, INTERPOLATE_SHARED_BYTES, p);
        std::vector<u16> found = classes.read();
        std::vector<float> shares = probabilities.read();
        size_t at = 0;
        for (int plane = first; plane < first + planes; plane++) {
            for (int row = 0; row < c.output[1]; row++) {
                for (int column = 0; column < c.output[2]; column++, at++) {
                    std::vector<float> scores;
                    int certain;
                    int expected = c.expect(plane, row, column, scores, certain);
                    // Where corners agree on a class the exact scores have it as well, but for ties.
                    if (with_probabilities && found[at] != expected && !scores.empty() && certain < 0) {
                        int own = c.head.decide(scores, c.decision, c.by_class);
                        CHECK(found[at] == own);
                    } else {
                        CHECK(found[at] == expected);
                    }
                    for (size_t index = 0; index < wanted.size(); index++) {
                        double value = 0;
                        if (certain == 0) {
                            value = c.decision == DECISION_HIGHEST && wanted[index] == 0;
                        } else if (!scores.empty() && c.by_class) {
                            value = scores[wanted[index]];
                        } else if (!scores.empty()) {
                            value = c.head.probabilities(scores, c.decision)[wanted[index]];
                        }
                        CHECK(fabs(shares[index * outputs + at] - value) < 1e-5);
                    }
                }
            }
        }
    });
}

TEST(interpolates_classes) { interpolates(false); }
TEST(interpolates_probabilities) { interpolates(true); }

TESTS_MAIN
