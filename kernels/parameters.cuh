// What kernels are handed: one structure by value per kernel, and how tensors lie in memory.
// `src/device/cuda/parameters.rs` declares the same structures; a test compares their sizes and
// the offsets of their fields.
//
// Axes. A network's axes are planes, rows and columns, columns fastest. A run goes along the same
// axes in an order of its own, the slowest first: its axis n is the network's axis axes[n].
//
// Layouts, the last index fastest:
//   activation   [padded channels / 8][planes][rows][columns][8], half or float; the channels are
//                padded to a multiple of 16 with zeros.
//   patch        [channels][planes][rows][columns], the network's input, half or float.
//   volume       [channels][plane % ring planes][rows][columns], float, along the run's axes.
//   mosaic       [plane % ring planes][depth / 8][rows][columns][8], float or half, along the
//                run's axes; the depth is the padded features of every fold, or the padded
//                classes.
//   weight sums  [plane % ring planes][rows][columns], float.
//   classes      [plane % class planes][rows][columns], 16-bit; NO_CLASS where no tile was blended.
//   output       [planes][rows][columns] of the output grid, along the run's axes.
// Strings of eight channels make 8 voxels x 8 channels of half precision 128 contiguous bytes: one
// ldmatrix tile, one wgmma core matrix, one full line of a store.
#pragma once

// Voxels along the three axes.
struct Shape {
    int planes, rows, columns;
};

// What is pending on a tensor and happens as it is read: instance normalisation, then LeakyReLU,
// leaky(x * factor + offset).
struct Pending {
    // [2][padded channels]: factor, offset; null if values are not normalised, and then the slope
    // is 1.
    const float* coefficients;
    int padded_channels;
    // LeakyReLU's slope below zero; 1 applies none.
    float slope;
};

// Count, mean and sum of squared deviations of the values that a block wrote to one channel.
struct Partial {
    float count, mean, deviations;
};

// One of the tensors that a convolution concatenates.
struct Source {
    const void* values;
    Pending pending;
    // As it is stored.
    Shape shape;
    // A multiple of 16, but for a patch, which has any number.
    int channels;
    // Nearest enlargement: voxel i reads i / upsample.
    int upsample[3];
    // Whether it lies as a patch does. Only conv_direct_half and conv_direct_float read patches, the
    // former no other tensors.
    int planar;
};

// What conv_mma copies of the input for one tile and 16 channels, or for one plane of the kernel of
// them. It follows from kernel, stride and tile; it is handed over because parameters cost no
// registers.
struct Brick {
    // Its planes and columns.
    int planes, columns;
    // Where the odd columns begin if the stride along the columns is 2, else 0.
    int odd_columns;
    // Voxels of a plane, and in all.
    int area, voxels;
    // Planes of input that the tile needs, of all groups.
    int tile_planes;
    // Strings that a thread copies between two products: a stage of weights where lines are shared,
    // else a row of taps.
    int copies;
    // tile_rows is 2 to the power of this.
    int row_bits;
    // Voxels from the input of one of the tile's planes or rows to that of the next.
    int plane_pitch, row_pitch;
};

enum Epilogue {
    // The sum is written.
    EPILOGUE_PLAIN = 0,
    // The sum is written, and partial statistics of it.
    EPILOGUE_STATISTICS = 1,
    // leaky(normalised main + sum) is written.
    EPILOGUE_ADD_NORMALIZED = 2,
};

// A 1x1x1 convolution over the same sources and with the same stride as another one, which
// conv_mma_64_shortcut makes on the way: what is written are its sums and the bias.
struct Shortcut {
    // As of a convolution of its own.
    const void* weights;
    const float* bias;
    void* output;
    // As Convolution::sums.
    float* sums;
};

// A convolution with padding (kernel - 1) / 2 over the concatenation of its sources; or a
// transposed one whose kernel is its stride: expand > 1 along some axis, kernel and stride 1, and
// input voxel i makes the output voxels i * expand + tap.
//
// conv_mma_N (half, C8 sources): a block makes one tile of tile_planes x tile_rows x 8 columns,
// tile_planes * tile_rows = 32, of N output channels. Grid: (tiles, expand taps * ceil(output
// channels / N), splits). A transposed convolution's tiles are of its input.
// conv_mma_64_shortcut: as conv_mma_64, and the shortcut, of as many output channels.
// conv_finish: a block makes 256 voxels of 8 output channels from the sums of the splits. Grid:
// (ceil(voxels / 256), output channels / 8, 2 with a shortcut, else 1).
// conv_direct_half (half, one patch): tiles as conv_mma_32. Grid: (tiles, ceil(output channels /
// 32), 1).
// conv_direct_float (any sources): a block makes 128 voxels of 16 output channels. Grid:
// (ceil(voxels / 128), expand taps * output channels / 16, 1); voxels of the input where it expands.
struct Convolution {
    Source sources[2];
    // Packed for the kernel by src/device/cuda/packing.rs.
    const void* weights;
    // [padded output channels]; null if there is none.
    const float* bias;
    // The tensor that EPILOGUE_ADD_NORMALIZED adds, of the output's shape; it may be the output.
    const void* main;
    Pending main_pending;
    void* output;
    // EPILOGUE_STATISTICS: [padded output channels][grid x] of the kernel that writes the output.
    Partial* partials;
    // Where splits > 1: [splits][padded output channels / 8][voxels][8] sums in single precision.
    float* sums;
    // Of the concatenated sources, after enlargement.
    Shape input;
    Shape output_shape;
    int source_count;
    // A multiple of 16; channels beyond the network's have zero weights.
    int output_channels;
    int kernel[3];
    int stride[3];
    int expand[3];
    // Tiles along each axis.
    int tiles[3];
    int tile_planes;
    int tile_rows;
    // 3 if the kernel's planes are read one after the other, into smaller bricks; else 1.
    int plane_groups;
    Brick brick;
    // Whether the kernel has three rows of stride 1 and a tile a multiple of eight rows, so that a
    // warp reads each line once for three taps.
    int shares_lines;
    // Parts that the input channels are cut into; each makes a share of the sum.
    int splits;
    int epilogue;
    Shortcut shortcut;
};

// Partial statistics of a tensor become the coefficients of its normalisation (Chan, Golub and
// LeVeque 1983, section 3), summed in a fixed order. Grid: (padded channels, 1, 1).
struct Coefficients {
    // [padded channels][tiles]
    const Partial* partials;
    // [channels]; null means ones and zeros.
    const float* scale;
    const float* shift;
    // [2][padded channels]; zeros beyond the channels.
    float* coefficients;
    int tiles;
    int channels;
    int padded_channels;
    float epsilon;
};

// leaky(normalised main + shortcut), voxel by voxel; without a shortcut what is pending on main.
// Grid: (ceil(voxels / 1024), padded channels / 8, 1).
struct Join {
    const void* main;
    Pending main_pending;
    // Null if there is none.
    const void* shortcut;
    Pending shortcut_pending;
    void* output;
    int voxels;
    int padded_channels;
};

// The mean of boxes that do not overlap. Grid: (ceil(output voxels / 256), padded channels / 8, 1).
struct AveragePool {
    const void* values;
    Pending pending;
    void* output;
    Shape input;
    Shape output_shape;
    int size[3];
    int padded_channels;
};

// Where a patch lies in a run.
struct Placement {
    // First voxel of the tile along each axis of the run, in the padded volume.
    int start[3];
    // Zero voxels before the volume along each axis of the run.
    int pad_before[3];
    // Voxels of the volume along each axis of the run, without padding.
    int volume[3];
    // The network's axis that each axis of the run is.
    int axes[3];
    // Whether each axis of the network is reversed.
    int mirror[3];
    // Voxels of the patch along the network's axes.
    int patch[3];
};

// A tile of the volume becomes the network's input; zero where there is no volume. Grid:
// (ceil(rows / 8) * ceil(columns / 32), planes, channels) of the patch.
struct Gather {
    const float* volume;
    void* patch;
    Placement placement;
    int ring_planes;
    int channels;
};

// The last layer, in single precision. A block scores 256 voxels at a time if there are up to 32
// padded classes, else 64.
struct Head {
    // [depth][padded classes] with the folds' features one after the other.
    const float* weights;
    // [padded classes]; minus infinity beyond the classes.
    const float* bias;
    int classes;
    // A multiple of 16.
    int padded_classes;
};

// Dynamic shared memory of blocks that score voxels: of blend_probabilities and classify, and of
// interpolate.
const int HEAD_SHARED_BYTES = 25600;
const int INTERPOLATE_SHARED_BYTES = 27776;

// The place where tiles add up.
struct Mosaic {
    void* sums;
    float* weight_sums;
    unsigned short* classes;
    int ring_planes;
    // Values of a voxel, a multiple of 16.
    int depth;
    // Whether sums are half precision.
    int half_sums;
    int class_planes;
    int rows;
    int columns;
};

// Adds the features of a pass, weighted, at the tile's place. Grid: (ceil(rows / 8) *
// ceil(columns / 32), planes, padded features / 8) of the patch along the run's axes.
struct Blend {
    Mosaic mosaic;
    // An activation of the patch's shape.
    const void* features;
    // [patch] along the run's axes.
    const float* window;
    Placement placement;
    int padded_features;
    // First value of a mosaic's voxel that is added to.
    int first;
    // Whether the window is added to the sums of weights.
    int counts_weight;
    int reserved;
};

// As Blend, but what is added are the classes' probabilities. Grid: (ceil(rows * columns / scored
// voxels of a block), planes, 1) of the patch along the run's axes.
struct BlendProbabilities {
    Blend blend;
    // Of the pass's fold: [padded features][padded classes].
    Head head;
    int decision;
    int reserved;
};

enum Decision {
    // The class of the highest score, of equal ones the lowest.
    DECISION_HIGHEST = 0,
    // 1 plus the last row whose score is above the threshold, or 0.
    DECISION_LAST_POSITIVE = 1,
};

const unsigned short NO_CLASS = 65535;

// Bits that kernels set in Classify::flags.
enum Flag {
    FLAG_NOT_FINITE = 1,
    FLAG_UNTOUCHED = 2,
};

// Planes of the mosaic that no later tile touches: divides them by their weights, in place, and
// classifies their voxels. Grid: (ceil(rows * columns / scored voxels of a block), planes, 1).
struct Classify {
    Mosaic mosaic;
    Head head;
    // [classes][planes][rows][columns]; null if not wanted.
    float* scores;
    // [wanted][planes][rows][columns]; null if not wanted.
    float* probabilities;
    // [wanted] classes.
    const int* wanted;
    unsigned int* flags;
    // The planes first .. first + planes.
    int first;
    int planes;
    int wanted_count;
    // What a voxel's sums are divided by besides its weight.
    float folds;
    // Whether the mosaic holds probabilities instead of features; the head's weights are the
    // identity then, and the bias of classes 0.
    int by_class;
    int decision;
};

// Where each voxel of one axis of the output grid lies on the volume's grid.
struct AxisMap {
    const unsigned int* low;
    const unsigned int* high;
    // Weight of the upper neighbour.
    const float* fraction;
};

// Planes of the output grid, from classified planes of the mosaic. Grid: (ceil(output rows / 32) *
// ceil(output columns / 32), planes, 1).
struct Interpolate {
    Mosaic mosaic;
    Head head;
    AxisMap maps[3];
    // [planes][output rows][output columns]; 0 outside the region.
    unsigned short* classes;
    // [wanted][planes][output rows][output columns]; null if not wanted.
    float* probabilities;
    const int* wanted;
    // Whether any voxel of the run was touched by no tile: Classify's flags.
    const unsigned int* flags;
    // The output planes first .. first + planes.
    int first;
    int planes;
    int output_rows;
    int output_columns;
    // [begin, end) along each axis of the output grid.
    int region[3][2];
    int wanted_count;
    int by_class;
    int decision;
    int reserved;
};

// What is known of a line of values.
struct LineStatistics {
    // Of the values that count: mean, sum of squared differences from it; zeros if there is none.
    double mean, squares;
    // Smallest and largest value of all.
    float low, high;
    // Values that count.
    int count;
    int reserved;
};

// Grid: (ceil(lines / 8), 1, 1).
struct MeasureLines {
    // [lines][columns], one column at least.
    const float* values;
    // [lines]
    LineStatistics* statistics;
    // A value counts if it lies between these.
    double above, below;
    int lines;
    int columns;
};

// What becomes of a value: clipped, less the mean, divided by the deviation.
struct Intensity {
    float lower, upper;
    float mean, deviation;
};

// Grid: (ceil(count / 256), 1, 1).
struct NormalizeValues {
    float* values;
    Intensity how;
    int count;
    int reserved;
};

// Where the voxels of one axis come from: each is a weighted sum of neighbouring ones.
struct Band {
    // [outputs]: the first of them.
    const unsigned int* first;
    // [taps][outputs]
    const float* weights;
    int taps;
    int outputs;
};

// One axis of a channel of the prepared volume.
struct Resample {
    // [groups][input ring][inner]
    const float* input;
    // [group ring][output ring][inner]
    float* output;
    Band band;
    // [voxels of an axis][2]: what values are clipped to; null if they are not.
    const float* limits;
    // The axis whose voxels have limits of their own: 0 the one that is resampled, 1 and 2 rows and
    // columns of the inner values; -1 if they are all the same.
    int limits_axis;
    // Columns of the inner values.
    int columns;
    int inner;
    int groups;
    int first_group;
    int group_ring;
    int input_ring;
    int output_ring;
    // The output voxels first .. first + count.
    int first;
    int count;
    // Whether values are normalised at last.
    int normalizes;
    Intensity how;
    int reserved;
};
