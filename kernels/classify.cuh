// classify: planes of the mosaic that no later tile touches are divided by their weights, in place,
// and their voxels classified.
//
// In:  the mosaic's sums, [plane % ring planes][depth / 8][rows][columns][8], and sums of weights.
// Out: the same sums, divided; classes, [plane % class planes][rows][columns], NO_CLASS where no
//      tile was blended; if wanted, scores [classes][planes][rows][columns] and probabilities
//      [wanted][planes][rows][columns]; flags.
// Per voxel: 8 (4) bytes per value of the depth, 6 more; 2 * depth * padded classes operations.
//
// A block owns 64 (256) neighbouring voxels of a plane, as head.cuh says, so that dividing in place
// races with nobody. Blocks whose voxels no tile touched skip the scores.
//
// Grid: (ceil(rows * columns / 64), planes); with up to 32 classes a block makes 256 voxels.
// HEAD_SHARED_BYTES of shared memory.
#pragma once
#include "head.cuh"
#include "mosaic.cuh"

// Classes whose probabilities are wanted, and where they go.
struct Wanted {
    const int* classes;
    int count;
    // [wanted][outputs]
    float* probabilities;
    i64 outputs;
};

// Decides the voxels of a block; threads below VOXELS return their voxel's class, or NOT_FINITE.
// `voxels.place(voxel)` is where a voxel lies among the outputs, negative if there is none;
// `voxels.scored` is shown the scores.
template <int VOXEL_THREADS, class Voxels>
DEVICE int decide(Scorer<VOXEL_THREADS>& scorer, const Head& head, int depth, bool by_class,
                  int decision, const Wanted& wanted, Voxels& voxels) {
    const bool highest = decision == DECISION_HIGHEST;
    const bool softmax = highest && !by_class && wanted.count > 0;
    Decided decided = undecided();
    UNROLL_BY(1)
    for (int first = 0; first < head.padded_classes; first += scorer.CLASSES) {
        float scores[4][8];
        scorer.score(head, depth, first, voxels, scores);
        const int own = first + 8 * scorer.class_thread;
        voxels.scored(scorer.voxel, own, scores);
        UNROLL_BY(1)
        for (int index = 0; index < wanted.count; index++) {
            const int number = wanted.classes[index] - own;
            if (number < 0 || number >= 8) continue;
            float values[4];
            UNROLL
            for (int j = 0; j < 8; j++) {
                UNROLL
                for (int i = 0; i < 4; i++) {
                    if (j == number || j == 0) values[i] = scores[i][j];
                }
            }
            UNROLL
            for (int i = 0; i < 4; i++) {
                const i64 place = voxels.place(scorer.voxel + i);
                if (place >= 0) wanted.probabilities[index * wanted.outputs + place] = values[i];
            }
        }
        if (softmax) {
            scorer.find_total(scores, first, decided);
        } else if (highest) {
            scorer.find_highest(scores, first, decided);
        } else {
            scorer.find_last(scores, first, head.classes, by_class ? 0.5f : 0.f, decided);
        }
    }
    // The scores of wanted classes were written before the last barrier.
    if (scorer.thread >= scorer.VOXELS) return 0;
    const i64 place = voxels.place(scorer.thread);
    if (place < 0) return 0;
    UNROLL_BY(1)
    for (int index = 0; index < wanted.count && !by_class; index++) {
        float& value = wanted.probabilities[index * wanted.outputs + place];
        value = highest ? expf(value - decided.highest) / decided.total : sigmoid(value);
    }
    if (!highest) return decided.last;
    return fabsf(decided.highest) <= LARGEST_FLOAT ? decided.highest_class : NOT_FINITE;
}

// Voxels of a plane of the mosaic, from `first` on.
struct PlaneVoxels {
    const Classify& p;
    i64 first;
    // Of each of the block's voxels, what its sums are multiplied with.
    const float* shares;

    DEVICE i64 place_in_plane(int voxel) const {
        const i64 place = first + voxel;
        return place < (i64)p.mosaic.rows * p.mosaic.columns ? place : -1;
    }

    DEVICE i64 place(int voxel) const {
        const i64 place = place_in_plane(voxel);
        return place < 0 ? -1 : (i64)block_index_y() * p.mosaic.rows * p.mosaic.columns + place;
    }

    // Divides as it reads for the first time, when classes from 0 on are scored.
    DEVICE void values(int voxel, int string, float (&values)[8]) {
        const i64 place = place_in_plane(voxel);
        if (place < 0) {
            UNROLL
            for (int j = 0; j < 8; j++) values[j] = 0;
            return;
        }
        const i64 at = mosaic_string(p.mosaic, p.first + block_index_y(), place, string);
        read_sums(p.mosaic, at, values);
        if (divided) return;
        UNROLL
        for (int j = 0; j < 8; j++) values[j] *= shares[voxel];
        write_sums(p.mosaic, at, values);
        // What is scored is what is kept, which may be rounded.
        if (p.mosaic.half_sums) read_sums(p.mosaic, at, values);
    }

    DEVICE void scored(int voxel, int own, const float (&scores)[4][8]) {
        divided = true;
        if (!p.scores) return;
        const i64 outputs = (i64)p.planes * p.mosaic.rows * p.mosaic.columns;
        UNROLL
        for (int i = 0; i < 4; i++) {
            const i64 at = place(voxel + i);
            UNROLL
            for (int j = 0; j < 8; j++) {
                if (at >= 0 && own + j < p.head.classes) {
                    p.scores[(own + j) * outputs + at] = scores[i][j];
                }
            }
        }
    }

    bool divided;
};

template <int VOXEL_THREADS> DEVICE void classify_block(const Classify& p, u8* shared) {
    Scorer<VOXEL_THREADS> scorer(shared);
    const Mosaic& mosaic = p.mosaic;
    const i64 area = (i64)mosaic.rows * mosaic.columns;
    const int plane = p.first + block_index_y();
    float* shares = scorer.highest + scorer.VOXELS;
    PlaneVoxels voxels = {p, (i64)block_index_x() * scorer.VOXELS, shares, false};
    if (voxels.first >= area) return;

    const i64 own = scorer.thread < scorer.VOXELS ? voxels.place_in_plane(scorer.thread) : -1;
    float weight = 0;
    if (own >= 0) weight = mosaic.weight_sums[mosaic_voxel(mosaic, plane, own)];
    if (scorer.thread < scorer.VOXELS) {
        shares[scorer.thread] = weight > 0 ? 1 / (weight * p.folds) : 0;
    }
    // Whether each warp saw a voxel that was touched.
    u32* touched = reinterpret_cast<u32*>(shares + scorer.VOXELS);
    const bool any = any_lane(weight != 0);
    if (lane_index() == 0) touched[warp_index()] = any;
    block_barrier();
    bool shown = p.scores || p.probabilities;
    for (int warp = 0; warp < HEAD_THREADS / 32; warp++) shown = shown || touched[warp];

    int found = 0;
    if (shown) {
        const Wanted wanted = {p.wanted, p.probabilities ? p.wanted_count : 0, p.probabilities,
                               (i64)p.planes * area};
        found = decide(scorer, p.head, mosaic.depth, p.by_class, p.decision, wanted, voxels);
    }
    const bool untouched = own >= 0 && weight == 0;
    const bool infinite = own >= 0 && found == NOT_FINITE;
    if (own >= 0) {
        const i64 slot = (plane % mosaic.class_planes) * area;
        mosaic.classes[slot + own] = untouched || infinite ? NO_CLASS : (u16)found;
    }
    const bool any_untouched = any_lane(untouched), any_infinite = any_lane(infinite);
    const u32 flags =
        (any_untouched ? FLAG_UNTOUCHED : 0) | (any_infinite ? FLAG_NOT_FINITE : 0);
    if (flags && lane_index() == 0) atomic_or(p.flags, flags);
}

KERNEL(classify, 256, 2, Classify) {
    SHARED(shared);
    if (p.head.padded_classes <= Scorer<64>::CLASSES) {
        classify_block<64>(p, shared);
    } else {
        classify_block<16>(p, shared);
    }
}
