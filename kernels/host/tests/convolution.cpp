// Every convolution kernel against double precision: random shapes, kernels, strides, enlargements,
// sources, splits, tiles and epilogues.
#include "../../convolution_direct.cuh"
#include "../../convolution_mma.cuh"
#include "activations.h"
#include <cstring>
#include <memory>

enum Way { MMA, DIRECT_HALF, DIRECT_FLOAT };

struct Case {
    Way way;
    // Output channels of a block.
    int width;
    int kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, expand[3] = {1, 1, 1};
    Shape input, output;
    std::vector<int> channels;
    std::vector<std::array<int, 3>> upsample;
    std::vector<bool> pending;
    int outputs, epilogue, splits = 1;
    int tile_planes = 4, tile_rows = 8, plane_groups = 1;
    bool bias, in_place;
    // Whether conv_mma_64_shortcut makes it, and a 1x1x1 convolution with it.
    bool shortcut = false;

    int padded_outputs() const { return rounded_up(outputs, 16); }
    int taps() const { return kernel[0] * kernel[1] * kernel[2]; }
    int warps() const { return shortcut ? SHORTCUT_THREADS / 32 : CONVOLUTION_WARPS; }
    int expanded() const { return expand[0] * expand[1] * expand[2]; }
    int inputs() const {
        int sum = 0;
        for (int c : channels) sum += c;
        return sum;
    }
    // What a tile is of.
    Shape domain() const {
        return Shape{output.planes / expand[0], output.rows / expand[1], output.columns / expand[2]};
    }
};

const Shape LARGEST = {5, 19, 19};

Case random_case(Random& random, Way way, int width, bool shortcut) {
    Case c;
    c.shortcut = shortcut;
    c.way = way;
    c.width = way == MMA ? width : way == DIRECT_HALF ? 32 : 16;
    bool expands = way != DIRECT_HALF && !shortcut && random.whole(0, 5) == 0;
    for (int axis = 0; axis < 3; axis++) {
        if (expands) c.expand[axis] = random.whole(1, 2);
        else c.kernel[axis] = random.whole(0, 3) ? 3 : 1, c.stride[axis] = random.whole(0, 2) ? 1 : 2;
    }
    if (!expands && random.coin()) c.stride[0] = c.stride[1] = c.stride[2] = 1 + (random.whole(0, 3) == 0);
    if (!expands && random.coin()) c.kernel[0] = c.kernel[1] = c.kernel[2] = 3;
    expands = c.expand[0] * c.expand[1] * c.expand[2] > 1;
    int sources = way == DIRECT_HALF || expands ? 1 : random.whole(1, 2);
    bool planar = way == DIRECT_HALF || (way == DIRECT_FLOAT && sources == 1 && !expands && random.coin());
    int most[3] = {1, 1, 1};
    for (int s = 0; s < sources; s++) {
        std::array<int, 3> up = {1, 1, 1};
        if (!expands && !planar && random.coin()) {
            for (int axis = 0; axis < 3; axis++) up[axis] = random.whole(1, 2);
        }
        for (int axis = 0; axis < 3; axis++) most[axis] = std::max(most[axis], up[axis]);
        c.upsample.push_back(up);
        c.channels.push_back(planar ? random.whole(1, 5) : random.whole(1, 40));
        c.pending.push_back(!planar && random.whole(0, 3));
    }
    c.input = random_shape(random, LARGEST.planes, LARGEST.rows, LARGEST.columns);
    c.input.planes = rounded_up(c.input.planes, most[0]);
    c.input.rows = rounded_up(c.input.rows, most[1]);
    c.input.columns = rounded_up(c.input.columns, most[2]);
    auto extent = [&](int axis, int in) { return (in + c.stride[axis] - 1) / c.stride[axis] * c.expand[axis]; };
    c.output = Shape{extent(0, c.input.planes), extent(1, c.input.rows), extent(2, c.input.columns)};
    c.outputs = random.whole(1, width + width / 2);
    c.epilogue = expands ? EPILOGUE_PLAIN : random.whole(0, 2);
    c.bias = random.coin();
    c.in_place = random.coin();
    int chunks = 0;
    for (int channels : c.channels) chunks += rounded_up(channels, 16) / 16;
    if (way == MMA && random.coin()) c.splits = random.whole(1, chunks);
    c.tile_planes = 1 << random.whole(0, 5);
    if (way == MMA && c.kernel[0] == 3 && random.coin()) c.plane_groups = 3;
    c.tile_rows = 32 / c.tile_planes;
    // A tile much larger than the input wastes the test's time, and strided ones need much memory.
    while (c.tile_planes > 8) c.tile_planes /= 2, c.tile_rows *= 2;
    return c;
}

// [out][in][taps], or [in][out][expand taps].
float weight_at(const Case& c, const std::vector<float>& weights, int output, int input, int tap) {
    if (c.expanded() > 1) return weights[(size_t(input) * c.outputs + output) * c.expanded() + tap];
    return weights[(size_t(output) * c.inputs() + input) * c.taps() + tap];
}

// The network's input channel at a padded one, or -1.
int input_channel(const Case& c, int padded) {
    int first = 0;
    for (int channels : c.channels) {
        int stored = c.way == DIRECT_HALF ? channels : rounded_up(channels, 16);
        if (padded < stored) return padded < channels ? first + padded : -1;
        padded -= stored, first += channels;
    }
    return -1;
}

// Of tap (or expand tap) `tap` of the block's group; 0 for padding.
float block_weight(const Case& c, const std::vector<float>& weights, int output, int input, int tap) {
    return output < c.outputs && input >= 0 ? weight_at(c, weights, output, input, tap) : 0;
}

// Operands of mma in the order of lanes, for 16 columns: value(k, column).
template <class Value> void push_operands(std::vector<half>& packed, Value value) {
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 8; i++) {
            int k = lane % 4 * 2 + i % 2 + i / 2 % 2 * 8, column = lane / 4 + i / 4 * 8;
            packed.push_back(to_half(value(k, column)));
        }
    }
}

std::vector<half> packed_half(const Case& c, const std::vector<float>& weights) {
    std::vector<half> packed;
    int groups = parts(c.padded_outputs(), c.width);
    if (c.way == DIRECT_HALF) {
        int inputs = c.inputs() * c.taps();
        for (int group = 0; group < groups; group++) {
            for (int k = 0; k < inputs; k += 16) {
                for (int pair = 0; pair < c.width / 16; pair++) {
                    push_operands(packed, [&](int row, int column) {
                        int output = group * c.width + pair * 16 + column, at = k + row;
                        return at < inputs ? block_weight(c, weights, output, at / c.taps(), at % c.taps()) : 0;
                    });
                }
            }
        }
        return packed;
    }
    int chunks = 0;
    for (int channels : c.channels) chunks += rounded_up(channels, 16) / 16;
    for (int expanded = 0; expanded < c.expanded(); expanded++) {
        for (int group = 0; group < groups; group++) {
            for (int chunk = 0; chunk < chunks; chunk++) {
                for (int plane = 0; plane < c.kernel[0]; plane++) {
                    for (int column = 0; column < c.kernel[2]; column++) {
                        for (int row = 0; row < c.kernel[1]; row++) {
                            int tap = (plane * c.kernel[1] + row) * c.kernel[2] + column;
                            for (int pair = 0; pair < c.width / 16; pair++) {
                                push_operands(packed, [&](int k, int n) {
                                    return block_weight(c, weights, group * c.width + pair * 16 + n,
                                                        input_channel(c, chunk * 16 + k), tap + expanded);
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    return packed;
}

std::vector<float> packed_float(const Case& c, const std::vector<float>& weights, bool planar) {
    std::vector<float> packed;
    int inputs = 0, width = planar ? 1 : 8;
    for (int channels : c.channels) inputs += planar ? channels : rounded_up(channels, 16);
    for (int expanded = 0; expanded < c.expanded(); expanded++) {
        for (int group = 0; group < c.padded_outputs(); group += 16) {
            for (int string = 0; string < inputs; string += width) {
                for (int tap = 0; tap < c.taps(); tap++) {
                    for (int i = 0; i < width; i++) {
                        for (int j = 0; j < 16; j++) {
                            int input = planar ? string : input_channel(c, string + i);
                            packed.push_back(block_weight(c, weights, group + j, input, tap + expanded));
                        }
                    }
                }
            }
        }
    }
    return packed;
}

struct BrickSize {
    int strings, planes, area;
};
BrickSize brick_size(const Case& c) {
    auto extent = [&](int axis, int tile) {
        return c.kernel[axis] == 1 ? tile : (tile - 1) * c.stride[axis] + c.kernel[axis];
    };
    int planes = extent(0, c.tile_planes), area = extent(1, c.tile_rows) * extent(2, 8);
    return {(c.plane_groups > 1 ? c.tile_planes : planes) * area, planes, area};
}

u32 shared_bytes(const Case& c) {
    BrickSize brick = brick_size(c);
    u32 statistics = c.warps() * c.width * sizeof(Partial);
    if (c.way == DIRECT_FLOAT) return statistics;
    if (c.way == DIRECT_HALF) {
        u32 table = rounded_up(c.inputs() * c.taps(), 16) * 4;
        return std::max(statistics, table + rounded_up(c.inputs() * brick.planes * brick.area * 2, 16));
    }
    int chunks = 0;
    for (int channels : c.channels) chunks += rounded_up(channels, 16) / 16;
    int bricks = (chunks + c.splits - 1) / c.splits * c.plane_groups > 1 ? 2 : 1;
    u32 tables = u32(c.channels.size()) * (brick.planes + brick.area) * 4;
    return std::max(statistics, u32(bricks * brick.strings * 32 + STAGES * (c.kernel[1] + c.shortcut) * c.width * 32) + tables);
}

// What conv_mma is told about its brick.
void describe_brick(const Case& c, Convolution& p) {
    auto extent = [&](int axis, int tile) {
        return c.kernel[axis] == 1 ? tile : (tile - 1) * c.stride[axis] + c.kernel[axis];
    };
    Brick& brick = p.brick;
    brick.tile_planes = extent(0, c.tile_planes);
    brick.planes = c.plane_groups > 1 ? c.tile_planes : brick.tile_planes;
    brick.columns = extent(2, 8);
    brick.odd_columns = c.kernel[2] == 3 && c.stride[2] == 2 ? (brick.columns + 1) / 2 : 0;
    brick.area = extent(1, c.tile_rows) * brick.columns, brick.voxels = brick.planes * brick.area;
    while (1 << brick.row_bits < c.tile_rows) brick.row_bits++;
    brick.row_pitch = brick.columns * (c.kernel[1] == 1 ? 1 : c.stride[1]);
    brick.plane_pitch = brick.area * (c.kernel[0] == 1 || c.plane_groups > 1 ? 1 : c.stride[0]);
    p.shares_lines = c.kernel[1] == 3 && c.stride[1] == 1 && c.tile_rows % 8 == 0;
    int rounds = c.kernel[2] * (c.plane_groups > 1 ? 1 : c.kernel[0]) * (p.shares_lines ? 1 : c.kernel[1]);
    brick.copies = parts(parts(2 * brick.voxels, 32 * c.warps()), rounds);
}

// The 1x1x1 convolution that was made beside a larger one.
template <class Value>
void check_shortcut(const Case& c, const std::vector<float>& seen, const std::vector<float>& weights,
                    const std::vector<float>& bias, const Activation<Value>& output) {
    std::vector<float> found = output.plain();
    int wrong = 0;
    for (int channel = 0; channel < c.padded_outputs(); channel++) {
        for (int z = 0; z < c.output.planes; z++) {
            for (int y = 0; y < c.output.rows; y++) {
                for (int x = 0; x < c.output.columns; x++) {
                    double value = bias[channel], size = fabs(bias[channel]);
                    for (int input = 0; input < c.inputs() && channel < c.outputs; input++) {
                        size_t plane = size_t(input) * c.input.planes + z * c.stride[0];
                        size_t at = (plane * c.input.rows + y * c.stride[1]) * c.input.columns + x * c.stride[2];
                        double product = double(seen[at]) * weights[size_t(channel) * c.inputs() + input];
                        value += product, size += fabs(product);
                    }
                    wrong += !close<Value>(found[size_t(channel) * voxels(c.output) + output.voxel(z, y, x)], value, size);
                }
            }
        }
    }
    if (!CHECK(wrong == 0)) fprintf(stderr, "%d voxels of the shortcut are wrong, splits %d\n", wrong, c.splits);
}

template <class Value> void check_case(Random& random, const Case& c) {
    bool halves = std::is_same<Value, half>::value, planar = c.upsample.size() == 1 && c.way != MMA;
    if (c.way == DIRECT_FLOAT) planar = planar && !c.pending[0] && c.upsample[0] == std::array<int, 3>{1, 1, 1} && c.expanded() == 1;
    std::vector<std::unique_ptr<Activation<Value>>> sources;
    std::vector<std::unique_ptr<PendingMemory>> pendings;
    Convolution p = {};
    // What the convolution sees, [inputs][voxels of the input].
    std::vector<float> seen;
    for (size_t s = 0; s < c.channels.size(); s++) {
        const auto& up = c.upsample[s];
        Shape shape = {c.input.planes / up[0], c.input.rows / up[1], c.input.columns / up[2]};
        sources.push_back(std::make_unique<Activation<Value>>(random, c.channels[s], shape, planar));
        pendings.push_back(c.pending[s] ? std::make_unique<PendingMemory>(random, c.channels[s]) : nullptr);
        Source& source = p.sources[s];
        source = {sources[s]->device.data(), Pending{nullptr, 0, 1}, shape, sources[s]->stored,
                  {up[0], up[1], up[2]}, planar};
        if (c.pending[s]) source.pending = pendings[s]->pending();
        std::vector<float> plain = sources[s]->plain();
        for (int channel = 0; channel < c.channels[s]; channel++) {
            for (int z = 0; z < c.input.planes; z++) {
                for (int y = 0; y < c.input.rows; y++) {
                    for (int x = 0; x < c.input.columns; x++) {
                        int voxel = sources[s]->voxel(z / up[0], y / up[1], x / up[2]);
                        float value = plain[size_t(channel) * voxels(shape) + voxel];
                        if (c.pending[s]) {
                            value = halves ? pendings[s]->applied_to_half(channel, value) : pendings[s]->applied(channel, value);
                        }
                        seen.push_back(value);
                    }
                }
            }
        }
    }
    float scale = sqrtf(3.f / (c.inputs() * c.taps()));
    std::vector<float> weights = random.reals(size_t(c.outputs) * c.inputs() * c.taps() * c.expanded(), -scale, scale);
    if (halves) for (float& weight : weights) weight = to_float(to_half(weight));
    std::vector<float> bias(c.padded_outputs(), 0.f);
    if (c.bias) for (int i = 0; i < c.outputs; i++) bias[i] = random.real(-1, 1);

    emulator::Buffer<half> half_weights(halves ? packed_half(c, weights) : std::vector<half>());
    emulator::Buffer<float> float_weights(halves ? std::vector<float>() : packed_float(c, weights, planar));
    emulator::Buffer<float> device_bias(bias);
    Activation<Value> main(random, c.outputs, c.output), output(c.outputs, c.output);
    PendingMemory main_pending(random, c.outputs);
    std::vector<float> main_values = main.plain();
    bool adds = c.epilogue == EPILOGUE_ADD_NORMALIZED;
    Activation<Value>& written = adds && c.in_place ? main : output;

    p.weights = halves ? static_cast<const void*>(half_weights.data()) : float_weights.data();
    p.bias = c.bias ? device_bias.data() : nullptr;
    if (adds) p.main = main.device.data(), p.main_pending = main_pending.pending();
    p.output = written.device.data();
    p.input = c.input;
    p.output_shape = c.output;
    p.source_count = int(c.channels.size());
    p.output_channels = c.padded_outputs();
    for (int axis = 0; axis < 3; axis++) {
        p.kernel[axis] = c.kernel[axis], p.stride[axis] = c.stride[axis], p.expand[axis] = c.expand[axis];
    }
    p.tile_planes = c.tile_planes, p.tile_rows = c.tile_rows, p.plane_groups = c.plane_groups;
    p.splits = c.splits, p.epilogue = c.epilogue;
    if (c.way == MMA) describe_brick(c, p);
    Shape domain = c.domain();
    p.tiles[0] = parts(domain.planes, c.tile_planes);
    p.tiles[1] = parts(domain.rows, c.tile_rows);
    p.tiles[2] = parts(domain.columns, 8);
    u32 tiles = p.tiles[0] * p.tiles[1] * p.tiles[2];
    u32 groups = parts(c.padded_outputs(), c.width) * c.expanded();
    if (c.way == DIRECT_FLOAT) tiles = parts(voxels(domain), 128);
    u32 finish_tiles = parts(voxels(c.output), 256);
    u32 partial_tiles = c.splits > 1 ? finish_tiles : tiles;
    emulator::Buffer<Partial> partials(size_t(c.padded_outputs()) * partial_tiles);
    emulator::Buffer<float> sums(c.splits > 1 ? size_t(c.splits) * c.padded_outputs() * voxels(c.output) : 0);
    // The 1x1x1 convolution of the shortcut.
    Case one = c;
    one.kernel[0] = one.kernel[1] = one.kernel[2] = 1;
    std::vector<float> one_weights = random.reals(size_t(c.outputs) * c.inputs(), -scale, scale);
    for (float& weight : one_weights) weight = to_float(to_half(weight));
    std::vector<float> one_bias(c.padded_outputs(), 0.f);
    for (int i = 0; i < c.outputs; i++) one_bias[i] = random.real(-1, 1);
    emulator::Buffer<half> device_one_weights(c.shortcut ? packed_half(one, one_weights) : std::vector<half>());
    emulator::Buffer<float> device_one_bias(one_bias), one_sums(c.shortcut ? sums.read().size() : 0);
    Activation<Value> one_output(c.outputs, c.output);
    if (c.shortcut) {
        p.shortcut = {device_one_weights.data(), device_one_bias.data(), one_output.device.data(), one_sums.data()};
    }
    p.partials = partials.data();
    p.sums = sums.data();
    char name[32];
    snprintf(name, sizeof name, c.way == MMA ? "conv_mma_%d" : c.way == DIRECT_HALF ? "conv_direct_half" : "conv_direct_float", c.width);
    if (c.shortcut) strcat(name, "_shortcut");
    emulator::launch(name, {tiles, groups, u32(c.splits)}, shared_bytes(c), p);
    if (c.splits > 1) {
        emulator::launch("conv_finish", {finish_tiles, u32(c.padded_outputs() / 8), c.shortcut ? 2u : 1u}, 8 * 8 * sizeof(Partial), p);
    }

    if (c.shortcut) check_shortcut<Value>(c, seen, one_weights, one_bias, one_output);
    std::vector<float> found = written.plain();
    std::vector<Partial> statistics = partials.read();
    int wrong = 0;
    for (int channel = 0; channel < c.padded_outputs(); channel++) {
        double sum = 0, squares = 0;
        for (int z = 0; z < c.output.planes; z++) {
            for (int y = 0; y < c.output.rows; y++) {
                for (int x = 0; x < c.output.columns; x++) {
                    double value = bias[channel], size = fabs(bias[channel]);
                    int expanded = (z % c.expand[0] * c.expand[1] + y % c.expand[1]) * c.expand[2] + x % c.expand[2];
                    for (int input = 0; input < c.inputs() && channel < c.outputs; input++) {
                        for (int tap = 0; tap < c.taps(); tap++) {
                            int a = z / c.expand[0] * c.stride[0] + tap / c.kernel[2] / c.kernel[1] - (c.kernel[0] - 1) / 2;
                            int b = y / c.expand[1] * c.stride[1] + tap / c.kernel[2] % c.kernel[1] - (c.kernel[1] - 1) / 2;
                            int d = x / c.expand[2] * c.stride[2] + tap % c.kernel[2] - (c.kernel[2] - 1) / 2;
                            if (a < 0 || b < 0 || d < 0 || a >= c.input.planes || b >= c.input.rows || d >= c.input.columns) continue;
                            size_t at = ((size_t(input) * c.input.planes + a) * c.input.rows + b) * c.input.columns + d;
                            double product = double(seen[at]) * weight_at(c, weights, channel, input, tap + expanded);
                            value += product, size += fabs(product);
                        }
                    }
                    sum += value, squares += value * value;
                    size_t at = size_t(channel) * voxels(c.output) + output.voxel(z, y, x);
                    if (adds) {
                        value += main_pending.normalized(channel, main_values[at]);
                        value = std::max(value, value * main_pending.slope);
                        size += 4;
                    }
                    wrong += !close<Value>(found[at], value, size);
                }
            }
        }
        if (c.epilogue != EPILOGUE_STATISTICS) continue;
        double count = voxels(c.output), mean = sum / count, deviations = squares - sum * mean;
        double found_count = 0, found_sum = 0, found_squares = 0;
        for (u32 tile = 0; tile < partial_tiles; tile++) {
            const Partial& partial = statistics[channel * partial_tiles + tile];
            found_count += partial.count;
            found_sum += double(partial.count) * partial.mean;
            found_squares += partial.deviations + double(partial.count) * partial.mean * partial.mean;
        }
        double found_deviations = found_squares - found_sum * found_sum / count;
        CHECK(found_count == count);
        CHECK(fabs(found_sum / count - mean) < 1e-5);
        CHECK(fabs(found_deviations - deviations) <= 1e-4 * deviations + 1e-5 * count);
    }
    if (!CHECK(wrong == 0)) {
        fprintf(stderr, "%s: %d wrong; %d -> %d channels, kernel %d %d %d, stride %d %d %d, expand %d %d %d, %dx%dx%d -> %dx%dx%d, "
                "sources %zu, splits %d, tile %d %d, groups %d, epilogue %d\n", name, wrong, c.inputs(), c.outputs, c.kernel[0], c.kernel[1],
                c.kernel[2], c.stride[0], c.stride[1], c.stride[2], c.expand[0], c.expand[1], c.expand[2], c.input.planes, c.input.rows,
                c.input.columns, c.output.planes, c.output.rows, c.output.columns, c.channels.size(), c.splits, c.tile_planes, c.tile_rows,
                c.plane_groups, c.epilogue);
    }
}

template <class Value> void check_random(Way way, int width, u64 cases, bool shortcut = false) {
    emulator::for_seeds(cases, [&] {
        Random random(emulator::configuration().seed * 977 + width);
        check_case<Value>(random, random_case(random, way, width, shortcut));
    });
}

TEST(mma_16) { check_random<half>(MMA, 16, 40); }
TEST(mma_32) { check_random<half>(MMA, 32, 40); }
TEST(mma_48) { check_random<half>(MMA, 48, 30); }
TEST(mma_64) { check_random<half>(MMA, 64, 30); }
TEST(mma_64_shortcut) { check_random<half>(MMA, 64, 40, true); }
TEST(direct_half) { check_random<half>(DIRECT_HALF, 32, 40); }
TEST(direct_float) { check_random<float>(DIRECT_FLOAT, 16, 40); }
TESTS_MAIN
