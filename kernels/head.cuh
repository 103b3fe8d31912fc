// The last layer in single precision: scores of voxels, their highest class, their softmax.
//
// scores = bias + features * weights, a matrix of voxels x features times one of features x
// padded classes, exact products added by fused multiply-adds in ascending order of the features:
// the CPU's sums bit for bit where features are.
//
// A block of 256 threads scores 4 * VOXEL_THREADS voxels for 8 * CLASS_THREADS classes at a time,
// a thread 4 voxels x 8 classes in 32 registers: 12 values from shared memory, three loads of 16
// bytes, feed 32 multiply-adds, so that arithmetic bounds it. VOXEL_THREADS is 16 (64 voxels x 128
// classes) or, up to 32 classes, 64 (256 voxels x 32 classes). Features and weights pass through
// shared memory in chunks, so any number of folds fits; more classes than a tile has take further
// passes over the features.
//
// Of a warp's threads neighbours hold neighbouring voxels; thread t scores the voxels from
// 4 * (t % VOXEL_THREADS) on and the classes from 8 * (t / VOXEL_THREADS) on.
#pragma once
#include "parameters.cuh"
#include "primitives.cuh"

const int HEAD_THREADS = 256;

const float LARGEST_FLOAT = 3.402823466e38f;

DEVICE float from_bits(u32 bits) {
    union {
        u32 bits;
        float value;
    } word = {bits};
    return word.value;
}
DEVICE float infinity() { return from_bits(0x7f800000); }

// More than any class: a score was not finite.
const int NOT_FINITE = 0x7fffffff;

// What is known of a voxel.
struct Decided {
    float highest;
    // The lowest class of the highest score.
    int highest_class;
    // 1 plus the last class above the threshold, or 0, or NOT_FINITE.
    int last;
    // Sum over classes of exp(score - highest).
    float total;
};

DEVICE Decided undecided() { return Decided{-infinity(), 0, 0, 0.f}; }

DEVICE float sigmoid(float score) {
    const float small = expf(-fabsf(score));
    return (score < 0 ? small : 1.f) / (1.f + small);
}

template <int VOXEL_THREADS> struct Scorer {
    static constexpr int CLASS_THREADS = HEAD_THREADS / VOXEL_THREADS;
    static constexpr int VOXELS = 4 * VOXEL_THREADS, CLASSES = 8 * CLASS_THREADS;
    // Features of a chunk; the depth is a multiple of 16.
    static constexpr int FEATURES = VOXEL_THREADS == 16 ? 32 : 16;
    static_assert(4 * (FEATURES * (VOXELS + CLASSES) + VOXELS) <= HEAD_SHARED_BYTES, "");
    static_assert(2 * CLASS_THREADS * VOXELS <= FEATURES * (VOXELS + CLASSES), "");

    // [FEATURES][VOXELS]
    float* features;
    // [FEATURES][CLASSES]
    float* weights;
    // [VOXELS], of each voxel.
    float* highest;
    // [CLASS_THREADS][VOXELS], where the features are; what threads found.
    float* found_scores;
    int* found_classes;
    int thread, voxel, class_thread;

    DEVICE explicit Scorer(u8* shared) {
        features = reinterpret_cast<float*>(shared);
        weights = features + FEATURES * VOXELS;
        highest = weights + FEATURES * CLASSES;
        found_scores = features;
        found_classes = reinterpret_cast<int*>(features) + CLASS_THREADS * VOXELS;
        thread = thread_index();
        voxel = 4 * (thread % VOXEL_THREADS);
        class_thread = thread / VOXEL_THREADS;
    }

    // The scores of the classes `first` .. `first + CLASSES`; minus infinity beyond the padded ones.
    // `voxels.values(voxel, string, values)` reads 8 features of a voxel.
    template <class Voxels>
    DEVICE void score(const Head& head, int depth, int first, Voxels& voxels,
                      float (&scores)[4][8]) {
        const int own = first + 8 * class_thread;
        const bool counts = own < head.padded_classes;
        UNROLL
        for (int j = 0; j < 8; j++) {
            const float bias = counts ? head.bias[own + j] : -infinity();
            UNROLL
            for (int i = 0; i < 4; i++) scores[i][j] = bias;
        }
        UNROLL_BY(1)
        for (int start = 0; start < depth; start += FEATURES) {
            const int chunk = min(FEATURES, depth - start);
            // Nobody reads what was there before.
            block_barrier();
            UNROLL_BY(1)
            for (int item = thread; item < VOXELS * chunk / 8; item += HEAD_THREADS) {
                const int to = item % VOXELS, string = item / VOXELS;
                float values[8];
                voxels.values(to, start / 8 + string, values);
                UNROLL
                for (int j = 0; j < 8; j++) features[(8 * string + j) * VOXELS + to] = values[j];
            }
            UNROLL_BY(1)
            for (int item = thread; item < chunk * CLASSES / 4; item += HEAD_THREADS) {
                const int feature = item / (CLASSES / 4), place = item % (CLASSES / 4) * 4;
                if (first + place < head.padded_classes) {
                    const i64 from = (i64)(start + feature) * head.padded_classes + first + place;
                    store_shared_16(weights + feature * CLASSES + place,
                                    load_global_16(head.weights + from));
                }
            }
            block_barrier();
            if (!counts) continue;
            UNROLL_BY(2)
            for (int feature = 0; feature < chunk; feature++) {
                const float4 of_voxels =
                    *reinterpret_cast<const float4*>(features + feature * VOXELS + voxel);
                const float4* of_classes =
                    reinterpret_cast<const float4*>(weights + feature * CLASSES) + 2 * class_thread;
                const float4 low = of_classes[0], high = of_classes[1];
                const float values[4] = {of_voxels.x, of_voxels.y, of_voxels.z, of_voxels.w};
                const float factors[8] = {low.x,  low.y,  low.z,  low.w,
                                          high.x, high.y, high.z, high.w};
                UNROLL
                for (int i = 0; i < 4; i++) {
                    UNROLL
                    for (int j = 0; j < 8; j++) {
                        scores[i][j] = fmaf(values[i], factors[j], scores[i][j]);
                    }
                }
            }
        }
    }

    // Takes the scores of classes `first` .. `first + CLASSES` into account: highest score and its
    // class. Threads below VOXELS own a voxel's `decided`.
    DEVICE void find_highest(const float (&scores)[4][8], int first, Decided& decided) {
        float best[4];
        int classes[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            best[i] = scores[i][0];
            classes[i] = 0;
            // Comparisons would pass NaN over; infinity stands for it.
            bool finite = true;
            UNROLL
            for (int j = 0; j < 8; j++) {
                finite = finite && scores[i][j] <= LARGEST_FLOAT;
                if (scores[i][j] > best[i]) {
                    best[i] = scores[i][j];
                    classes[i] = j;
                }
            }
            if (!finite) best[i] = infinity();
            classes[i] += first + 8 * class_thread;
        }
        block_barrier();
        const int at = class_thread * VOXELS + voxel;
        *reinterpret_cast<float4*>(found_scores + at) = float4{best[0], best[1], best[2], best[3]};
        *reinterpret_cast<int4*>(found_classes + at) =
            int4{classes[0], classes[1], classes[2], classes[3]};
        block_barrier();
        if (thread >= VOXELS) return;
        UNROLL_BY(4)
        for (int part = 0; part < CLASS_THREADS; part++) {
            const float score = found_scores[part * VOXELS + thread];
            if (score > decided.highest) {
                decided.highest = score;
                decided.highest_class = found_classes[part * VOXELS + thread];
            }
        }
    }

    // As `find_highest`, and the total of exponentials; leaves the highest scores in `highest`.
    DEVICE void find_total(const float (&scores)[4][8], int first, Decided& decided) {
        const float before = decided.highest;
        find_highest(scores, first, decided);
        if (thread < VOXELS) {
            if (before < decided.highest) decided.total *= expf(before - decided.highest);
            highest[thread] = decided.highest;
        }
        block_barrier();
        float totals[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            totals[i] = 0;
            UNROLL
            for (int j = 0; j < 8; j++) totals[i] += expf(scores[i][j] - highest[voxel + i]);
        }
        *reinterpret_cast<float4*>(found_scores + class_thread * VOXELS + voxel) =
            float4{totals[0], totals[1], totals[2], totals[3]};
        block_barrier();
        if (thread >= VOXELS) return;
        UNROLL_BY(4)
        for (int part = 0; part < CLASS_THREADS; part++) {
            decided.total += found_scores[part * VOXELS + thread];
        }
    }

    // As `find_highest`: the last class whose score is above `threshold`.
    DEVICE void find_last(const float (&scores)[4][8], int first, int class_count, float threshold,
                          Decided& decided) {
        int last[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            last[i] = 0;
            bool finite = true;
            UNROLL
            for (int j = 0; j < 8; j++) {
                const int number = first + 8 * class_thread + j;
                if (number >= class_count) continue;
                finite = finite && fabsf(scores[i][j]) <= LARGEST_FLOAT;
                if (scores[i][j] > threshold) last[i] = number + 1;
            }
            if (!finite) last[i] = NOT_FINITE;
        }
        block_barrier();
        *reinterpret_cast<int4*>(found_classes + class_thread * VOXELS + voxel) =
            int4{last[0], last[1], last[2], last[3]};
        block_barrier();
        if (thread >= VOXELS) return;
        UNROLL_BY(4)
        for (int part = 0; part < CLASS_THREADS; part++) {
            decided.last = max(decided.last, found_classes[part * VOXELS + thread]);
        }
    }
};
