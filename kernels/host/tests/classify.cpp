// Classifying finished planes: heads of few and many classes, folds, regions, voxels that no tile
// touched, scores that are not finite.
#include "../../classify.cuh"
#include "cases.h"

struct Case {
    Random random;
    int classes, depth, folds, decision;
    bool by_class;
    HeadMemory head;
    int planes, first;
    MosaicMemory memory;
    std::vector<float> sums, weights;
    emulator::Buffer<u32> flags;

    explicit Case(u64 seed)
        : random(seed + 1), classes(class_count(seed)), depth(16 * random.whole(1, 4)), folds(random.whole(1, 3)),
          decision(random.whole(0, 1)), by_class(random.whole(0, 3) == 0),
          head(by_class ? HeadMemory(classes) : HeadMemory(random, depth, classes)), planes(random.whole(1, 3)),
          first(random.whole(0, 9)),
          memory(planes + random.whole(0, 3), planes + 1, random.whole(1, 12), random.whole(1, 40),
                 by_class ? head.padded : depth, random.coin()),
          flags(1) {
        const Mosaic& mosaic = memory.mosaic;
        float low = by_class ? 0 : -3;
        sums = random.reals(memory.weight_sums.size() * mosaic.depth, low, 3);
        for (float& sum : sums) sum = memory.kept(sum);
        weights = random.reals(memory.weight_sums.size(), 0.5f, 4);
        // What no tile touched: some voxels, or whole stretches.
        bool stretches = random.coin();
        for (size_t voxel = 0; voxel < weights.size(); voxel++) {
            if (stretches ? voxel / 150 % 2 : random.whole(0, 9) == 0) weights[voxel] = 0;
        }
        for (int plane = first; plane < first + planes; plane++) {
            for (size_t place = 0; place < area(); place++) {
                for (int value = 0; value < mosaic.depth; value++) {
                    float& sum = sums[memory.index(plane, place, value)];
                    if (weights[memory.voxel(plane, place)] == 0) sum = 0;
                    if (by_class && value >= classes) sum = 0;
                }
            }
        }
        memory.write_sums(sums);
        memory.weight_sums.write(weights);
        flags.write({0});
    }

    static int class_count(u64 seed) {
        static const int counts[] = {3, 105, 16, 40, 260, 1, 128};
        return counts[seed % 7];
    }
    size_t area() const { return size_t(memory.mosaic.rows) * memory.mosaic.columns; }

    void launch(float* scores, float* probabilities, const std::vector<int>& wanted) {
        emulator::Buffer<int> device(wanted);
        Classify parameters = {memory.mosaic, head.head(), scores, probabilities, device.data(), flags.data(), first,
                               planes, int(wanted.size()), by_class ? 1.f : float(folds), by_class, decision};
        emulator::launch("classify", {parts(int(area()), scored_voxels(head.padded)), u32(planes)}, HEAD_SHARED_BYTES,
                         parameters);
    }

    // Of a voxel after dividing; `scores` are those of its classes.
    int expect(int plane, size_t place, std::vector<float>& scores) {
        float weight = weights[memory.voxel(plane, place)];
        float share = weight > 0 ? 1 / (weight * (by_class ? 1.f : float(folds))) : 0;
        std::vector<float> values;
        for (int value = 0; value < memory.mosaic.depth; value++) {
            float& sum = sums[memory.index(plane, place, value)];
            sum = memory.kept(sum * share);
            values.push_back(sum);
        }
        scores = head.scores(values);
        return weight == 0 ? NO_CLASS : head.decide(scores, decision, by_class);
    }
};

TEST(classifies) {
    emulator::for_seeds(28, [] {
        Case c(emulator::configuration().seed);
        c.launch(nullptr, nullptr, {});
        std::vector<u16> classes = c.memory.classes.read();
        bool untouched = false;
        for (int plane = c.first; plane < c.first + c.planes; plane++) {
            for (size_t place = 0; place < c.area(); place++) {
                std::vector<float> scores;
                int expected = c.expect(plane, place, scores);
                untouched |= expected == NO_CLASS;
                CHECK(classes[plane % (c.planes + 1) * c.area() + place] == expected);
            }
        }
        // Stretches that no tile touched are zeros, divided or not; other planes are as they were.
        CHECK(c.memory.sums() == c.sums);
        CHECK(c.flags.read()[0] == (untouched ? u32(FLAG_UNTOUCHED) : 0));
    });
}

TEST(shows_scores_and_probabilities) {
    emulator::for_seeds(28, [] {
        Case c(emulator::configuration().seed);
        std::vector<int> wanted;
        for (int number = c.random.whole(0, 2); number < c.classes; number += c.random.whole(1, 40)) {
            wanted.push_back(number);
        }
        std::reverse(wanted.begin(), wanted.end());
        size_t outputs = c.planes * c.area();
        emulator::Buffer<float> scores(c.classes * outputs), probabilities(wanted.size() * outputs);
        c.launch(scores.data(), wanted.empty() ? nullptr : probabilities.data(), wanted);
        std::vector<u16> classes = c.memory.classes.read();
        std::vector<float> shown = scores.read(), shares = probabilities.read();
        for (int plane = 0; plane < c.planes; plane++) {
            for (size_t place = 0; place < c.area(); place++) {
                std::vector<float> own;
                int expected = c.expect(c.first + plane, place, own);
                CHECK(classes[(c.first + plane) % (c.planes + 1) * c.area() + place] == expected);
                size_t at = plane * c.area() + place;
                for (int number = 0; number < c.classes; number++) CHECK(shown[number * outputs + at] == own[number]);
                std::vector<double> probable = c.head.probabilities(own, c.decision);
                for (size_t index = 0; index < wanted.size(); index++) {
                    double value = c.by_class ? own[wanted[index]] : probable[wanted[index]];
                    CHECK(fabs(shares[index * outputs + at] - value) < 1e-5);
                }
            }
        }
        CHECK(c.memory.sums() == c.sums);
    });
}

TEST(says_when_scores_are_not_finite) {
    for (u64 seed = 0; seed < 14; seed++) {
        for (float value : {not_a_number(), float(INFINITY), float(-INFINITY)}) {
            Case c(seed);
            size_t place = c.area() - 1;
            size_t voxel = c.memory.voxel(c.first, place);
            c.weights[voxel] = 1;
            c.memory.weight_sums.write(c.weights);
            // The mosaic's half precision has no infinity of its own making.
            for (int i = 0; i < c.memory.mosaic.depth; i++) c.sums[c.memory.index(c.first, place, i)] = value;
            if (c.memory.mosaic.half_sums && !isnan(value)) continue;
            c.memory.write_sums(c.sums);
            c.launch(nullptr, nullptr, {});
            CHECK(c.flags.read()[0] & FLAG_NOT_FINITE);
        }
    }
}

TESTS_MAIN
