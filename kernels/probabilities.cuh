// blend_probabilities_half, blend_probabilities_float: the classes' probabilities of a pass,
// weighted, are added at their tile's place.
//
// In:  as blend; the head of the pass's fold.
// Out: the mosaic, sums of class c += weight * softmax(scores)[c], or sigmoid of each score where
//      classes are regions; once per pass, weight sums += weight.
// Per voxel: 2 (4) bytes per feature, 8 (4) bytes per padded class, 2 * features * padded classes
// operations: 105 classes of 32 features are bound by arithmetic.
//
// A block makes 64 (256) neighbouring voxels of a plane of the run, as head.cuh says. Probabilities
// need all classes first: with more than fit a tile, scores are computed twice.
//
// Grid: (ceil(rows * columns / 64), planes) of the patch along the run's axes; with up to 32
// classes a block makes 256 voxels. HEAD_SHARED_BYTES of shared memory.
#pragma once
#include "head.cuh"
#include "mosaic.cuh"

// Voxels of a plane of a tile, from `first` on, and their features.
template <class Value> struct TileFeatures {
    const Blend& blend;
    i64 first;

    DEVICE bool at(int voxel, TileVoxel& found) const {
        const int columns = patch_extent(blend.placement, 2);
        const int place = first + voxel;
        return tile_voxel(blend.placement, block_index_y(), place / columns, place % columns,
                          found);
    }

    DEVICE void values(int voxel, int string, float (&values)[8]) const {
        TileVoxel found;
        if (at(voxel, found)) {
            const Placement& placement = blend.placement;
            const i64 patch = (i64)placement.patch[0] * placement.patch[1] * placement.patch[2];
            load_string<Value>(values, blend.features, string * patch + found.patch);
        } else {
            UNROLL
            for (int j = 0; j < 8; j++) values[j] = 0;
        }
    }
};

template <class Value, int VOXEL_THREADS>
DEVICE void blend_probabilities(const BlendProbabilities& p, u8* shared) {
    Scorer<VOXEL_THREADS> scorer(shared);
    const Blend& blend = p.blend;
    const int voxels = patch_extent(blend.placement, 1) * patch_extent(blend.placement, 2);
    TileFeatures<Value> features = {blend, (i64)block_index_x() * scorer.VOXELS};
    if (features.first >= voxels) return;
    const bool softmax = p.decision == DECISION_HIGHEST;
    const bool fits = p.head.padded_classes <= scorer.CLASSES;
    float scores[4][8];
    float* shares = scorer.highest + scorer.VOXELS;
    Decided decided = undecided();
    // Softmax first finds the highest score and the sum of exponentials.
    UNROLL_BY(1)
    for (int pass = softmax ? 0 : 1; pass < 2; pass++) {
        UNROLL_BY(1)
        for (int first = 0; first < p.head.padded_classes; first += scorer.CLASSES) {
            if (pass == 0 || !softmax || !fits) {
                scorer.score(p.head, blend.padded_features, first, features, scores);
            }
            if (pass == 0) {
                scorer.find_total(scores, first, decided);
                if (scorer.thread < scorer.VOXELS) shares[scorer.thread] = 1 / decided.total;
                block_barrier();
                continue;
            }
            const int own = first + 8 * scorer.class_thread;
            if (own >= p.head.padded_classes) continue;
            UNROLL
            for (int i = 0; i < 4; i++) {
                TileVoxel found;
                if (!features.at(scorer.voxel + i, found)) continue;
                const float highest = softmax ? scorer.highest[scorer.voxel + i] : 0;
                const float share = softmax ? shares[scorer.voxel + i] : 0;
                float values[8];
                UNROLL
                for (int j = 0; j < 8; j++) {
                    const float score = scores[i][j];
                    values[j] = softmax ? expf(score - highest) * share : sigmoid(score);
                }
                add_weighted(blend.mosaic,
                             mosaic_string(blend.mosaic, found.plane, found.place, own / 8),
                             blend.window[found.window], values);
            }
        }
    }
    TileVoxel found;
    if (scorer.thread < scorer.VOXELS && features.at(scorer.thread, found)) {
        float* sum = blend.mosaic.weight_sums +
                     mosaic_voxel(blend.mosaic, found.plane, found.place);
        *sum += blend.window[found.window];
    }
}

template <class Value> DEVICE void blend_probabilities(const BlendProbabilities& p, u8* shared) {
    if (p.head.padded_classes <= Scorer<64>::CLASSES) {
        blend_probabilities<Value, 64>(p, shared);
    } else {
        blend_probabilities<Value, 16>(p, shared);
    }
}

KERNEL(blend_probabilities_half, 256, 3, BlendProbabilities) {
    SHARED(shared);
    blend_probabilities<half>(p, shared);
}
KERNEL(blend_probabilities_float, 256, 3, BlendProbabilities) {
    SHARED(shared);
    blend_probabilities<float>(p, shared);
}
