// measure_lines: what a volume's normalisation depends on. normalize_values: that normalisation.
#pragma once
#include "parameters.cuh"
#include "primitives.cuh"

// measure_lines: first count, sum and range of each line, then the squared differences from the
// mean, all sums in double precision, each lane's in the order of the line and the lanes' by a tree.
// Two passes lose nothing where the mean is far above the deviation. The host puts the lines
// together (Chan, Golub and LeVeque 1979), in their order.
//
// In:  [lines][columns], float.
// Out: [lines] of LineStatistics, 32 bytes each.
// Per value: 4 bytes of memory, about 8 operations, of which 4 in double precision.
//
// A warp makes a line, so that the second pass finds it in the first-level cache; a block eight.
//
// Grid: (ceil(lines / 8), 1, 1).
const int LINES_THREADS = 256;

DEVICE double sum_of_lanes(double value) {
    UNROLL
    for (int mask = 1; mask < 32; mask *= 2) value += shuffle_xor(value, mask);
    return value;
}

KERNEL(measure_lines, LINES_THREADS, 1, MeasureLines) {
    const int line = block_index_x() * (LINES_THREADS / 32) + warp_index(), lane = lane_index();
    if (line >= p.lines) return;
    const float* values = p.values + (i64)line * p.columns;
    int count = 0;
    double sum = 0, squares = 0;
    float low = values[0], high = low;
    for (int column = lane; column < p.columns; column += 32) {
        const float value = values[column];
        low = fminf(low, value), high = fmaxf(high, value);
        if (value > p.above && value < p.below) count++, sum += value;
    }
    UNROLL
    for (int mask = 1; mask < 32; mask *= 2) {
        count += shuffle_xor(count, mask);
        low = fminf(low, shuffle_xor(low, mask)), high = fmaxf(high, shuffle_xor(high, mask));
    }
    sum = sum_of_lanes(sum);
    const double mean = count > 0 ? sum / count : 0;
    for (int column = lane; column < p.columns; column += 32) {
        const float value = values[column];
        const double apart = value - mean;
        if (value > p.above && value < p.below) squares += apart * apart;
    }
    squares = sum_of_lanes(squares);
    if (lane == 0) p.statistics[line] = LineStatistics{mean, squares, low, high, count, 0};
}

// normalize_values: clipped, less the mean, divided by the deviation, with the processor's roundings.
//
// In, out: [count], float, in place.
// Per value: 4 bytes read, 4 written, 4 operations; bound by memory.
//
// A thread makes one value: neighbouring threads whole lines.
//
// Grid: (ceil(count / 256), 1, 1).
const int NORMALIZE_THREADS = 256;

DEVICE float normalized_intensity(const Intensity& how, float value) {
    return (fminf(fmaxf(value, how.lower), how.upper) - how.mean) / how.deviation;
}

KERNEL(normalize_values, NORMALIZE_THREADS, 1, NormalizeValues) {
    const int at = block_index_x() * NORMALIZE_THREADS + thread_index();
    if (at < p.count) p.values[at] = normalized_intensity(p.how, p.values[at]);
}
