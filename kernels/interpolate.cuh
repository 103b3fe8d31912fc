// interpolate: classes, and probabilities if wanted, of planes of the output grid, from classified
// planes of the mosaic.
//
// In:  the mosaic's divided sums and classes; for each axis where the output's voxels lie.
// Out: classes [planes][output rows][output columns], 0 outside the region; probabilities
//      [wanted][planes][output rows][output columns], 0 outside the region.
// Per voxel: 2 bytes written and, mostly from caches, 16 read. Per voxel whose corners disagree:
// 8 corners of 4 (2) bytes per value of the depth, (16 + 2 * padded classes) * depth operations.
//
// Scores between voxels are interpolated linearly, so where the eight corners of a cell agree on a
// class it is the class inside as well; only the others' features are interpolated and scored. A
// block looks at 32 rows of 32 columns, lists the voxels whose corners disagree, in order, and
// scores 64 (256) of them at a time, as head.cuh says.
//
// Grid: (ceil(output rows / 32) * ceil(output columns / 32), planes). INTERPOLATE_SHARED_BYTES of
// shared memory.
#pragma once
#include "classify.cuh"

const int CELL_ROWS = 32, CELL_COLUMNS = 32;
static_assert(HEAD_SHARED_BYTES + 2 * CELL_ROWS * CELL_COLUMNS + 4 * CELL_ROWS <= INTERPOLATE_SHARED_BYTES, "");

// The eight voxels of the volume that an output voxel lies between.
struct Cell {
    int planes[2], rows[2], columns[2];
    float plane_shares[2], row_shares[2], column_shares[2];

    DEVICE static void ends(const AxisMap& map, int at, int (&places)[2], float (&shares)[2]) {
        const float fraction = map.fraction[at];
        places[0] = map.low[at];
        places[1] = map.high[at];
        shares[0] = 1 - fraction;
        shares[1] = fraction;
    }

    DEVICE Cell(const Interpolate& p, int plane, int row, int column) {
        ends(p.maps[0], plane, planes, plane_shares);
        ends(p.maps[1], row, rows, row_shares);
        ends(p.maps[2], column, columns, column_shares);
    }

    // Calls `visit(plane, place in the plane, weight)` for each corner.
    template <class Visit> DEVICE void corners(const Mosaic& mosaic, Visit visit) const {
        UNROLL
        for (int a = 0; a < 2; a++) {
            UNROLL
            for (int b = 0; b < 2; b++) {
                UNROLL
                for (int c = 0; c < 2; c++) {
                    visit(planes[a], (i64)rows[b] * mosaic.columns + columns[c],
                          plane_shares[a] * row_shares[b] * column_shares[c]);
                }
            }
        }
    }
};

// Bits that are set.
DEVICE int ones(u32 bits) {
    bits -= bits >> 1 & 0x55555555;
    bits = (bits & 0x33333333) + (bits >> 2 & 0x33333333);
    return ((bits + (bits >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
}

DEVICE int class_at(const Mosaic& mosaic, int plane, i64 place) {
    return mosaic.classes[(i64)(plane % mosaic.class_planes) * mosaic.rows * mosaic.columns + place];
}

// Voxels of a list, from `first` on.
struct ListedVoxels {
    const Interpolate& p;
    // Voxels of the block's part of the output: row * CELL_COLUMNS + column.
    const u16* list;
    int first, count;
    // Of the output.
    int plane, first_row, first_column;

    DEVICE bool at(int voxel, int& row, int& column) const {
        if (first + voxel >= count) return false;
        const int place = list[first + voxel];
        row = first_row + place / CELL_COLUMNS;
        column = first_column + place % CELL_COLUMNS;
        return true;
    }

    DEVICE i64 place(int voxel) const {
        int row, column;
        if (!at(voxel, row, column)) return -1;
        return ((i64)block_index_y() * p.output_rows + row) * p.output_columns + column;
    }

    DEVICE void values(int voxel, int string, float (&values)[8]) const {
        UNROLL
        for (int j = 0; j < 8; j++) values[j] = 0;
        int row, column;
        if (!at(voxel, row, column)) return;
        Cell(p, plane, row, column).corners(p.mosaic, [&](int corner, i64 place, float weight) {
            // Identity and nearest neighbours need one corner.
            if (weight == 0) return;
            float sums[8];
            read_sums(p.mosaic, mosaic_string(p.mosaic, corner, place, string), sums);
            UNROLL
            for (int j = 0; j < 8; j++) values[j] = fmaf(weight, sums[j], values[j]);
        });
    }

    DEVICE void scored(int, int, const float (&)[4][8]) const {}
};

// The class of the nearest corner, 0 if it has none; -1 if tiles touched all corners.
DEVICE int beside_untouched(const Mosaic& mosaic, const Cell& cell) {
    float nearest = -1;
    int found = 0;
    bool untouched = false;
    cell.corners(mosaic, [&](int plane, i64 place, float weight) {
        const int number = class_at(mosaic, plane, place);
        untouched = untouched || number == NO_CLASS;
        // Halves go to the upper neighbour.
        if (weight >= nearest) {
            nearest = weight;
            found = number == NO_CLASS ? 0 : number;
        }
    });
    return untouched ? found : -1;
}

template <int VOXEL_THREADS>
DEVICE void interpolate_listed(const Interpolate& p, ListedVoxels& voxels, u8* shared) {
    Scorer<VOXEL_THREADS> scorer(shared);
    const i64 outputs = (i64)p.planes * p.output_rows * p.output_columns;
    const Wanted wanted = {p.wanted, p.probabilities ? p.wanted_count : 0, p.probabilities, outputs};
    const bool any_untouched = *p.flags & FLAG_UNTOUCHED;
    UNROLL_BY(1)
    for (; voxels.first < voxels.count; voxels.first += scorer.VOXELS) {
        const int found = decide(scorer, p.head, p.mosaic.depth, p.by_class, p.decision, wanted,
                                 voxels);
        int row, column;
        if (scorer.thread >= scorer.VOXELS || !voxels.at(scorer.thread, row, column)) continue;
        const i64 place = voxels.place(scorer.thread);
        int certain = -1;
        if (any_untouched) {
            certain = beside_untouched(p.mosaic, Cell(p, voxels.plane, row, column));
        }
        p.classes[place] = certain >= 0 ? certain : found;
        if (certain != 0) continue;
        UNROLL_BY(1)
        for (int index = 0; index < wanted.count; index++) {
            const bool background = p.decision == DECISION_HIGHEST && p.wanted[index] == 0;
            p.probabilities[index * outputs + place] = background ? 1 : 0;
        }
    }
}

KERNEL(interpolate, 256, 2, Interpolate) {
    SHARED(shared);
    u16* list = reinterpret_cast<u16*>(shared + HEAD_SHARED_BYTES);
    int* counts = reinterpret_cast<int*>(list + CELL_ROWS * CELL_COLUMNS);
    const int tiles = (p.output_columns + CELL_COLUMNS - 1) / CELL_COLUMNS, tile = block_index_x();
    const int plane = p.first + block_index_y(), first_row = tile / tiles * CELL_ROWS;
    const int first_column = tile % tiles * CELL_COLUMNS, column = first_column + lane_index();
    const i64 outputs = (i64)p.planes * p.output_rows * p.output_columns;
    const int wanted = p.probabilities ? p.wanted_count : 0;
    const int warps = HEAD_THREADS / 32;

    u32 open[CELL_ROWS / warps];
    UNROLL
    for (int pass = 0; pass < CELL_ROWS / warps; pass++) {
        const int row = first_row + pass * warps + warp_index();
        bool opened = false;
        if (row < p.output_rows && column < p.output_columns) {
            const bool inside = plane >= p.region[0][0] && plane < p.region[0][1] &&
                                row >= p.region[1][0] && row < p.region[1][1] &&
                                column >= p.region[2][0] && column < p.region[2][1];
            int agreed = 0;
            if (inside) {
                int corner_count = 0;
                bool agree = true;
                Cell(p, plane, row, column).corners(p.mosaic, [&](int corner, i64 place, float) {
                    const int number = class_at(p.mosaic, corner, place);
                    agree = agree && (corner_count++ == 0 || number == agreed);
                    agreed = number;
                });
                opened = !agree || wanted > 0;
            }
            const i64 place = ((i64)block_index_y() * p.output_rows + row) * p.output_columns + column;
            if (!opened) p.classes[place] = agreed == NO_CLASS ? 0 : agreed;
            UNROLL_BY(1)
            for (int index = 0; index < wanted && !inside; index++) {
                p.probabilities[index * outputs + place] = 0;
            }
        }
        open[pass] = warp_ballot(opened);
        if (lane_index() == 0) counts[pass * warps + warp_index()] = ones(open[pass]);
    }
    block_barrier();
    int total = 0;
    UNROLL
    for (int pass = 0; pass < CELL_ROWS / warps; pass++) {
        UNROLL
        for (int warp = 0; warp < warps; warp++) {
            const bool own = warp == (int)warp_index();
            if (own && (open[pass] >> lane_index() & 1)) {
                const int before = total + ones(open[pass] & ((1u << lane_index()) - 1));
                list[before] = (pass * warps + warp) * CELL_COLUMNS + lane_index();
            }
            total += counts[pass * warps + warp];
        }
    }
    // Scoring begins with a barrier, so the list is complete when it is read.
    ListedVoxels voxels = {p, list, 0, total, plane, first_row, first_column};
    if (p.head.padded_classes <= Scorer<64>::CLASSES) {
        interpolate_listed<64>(p, voxels, shared);
    } else {
        interpolate_listed<16>(p, voxels, shared);
    }
}
