//! How a convolution is cut into bricks and tiles, where a brick's parts lie in a thread's memory,
//! and the order of the transformed weights.

use std::ops::Range;

use super::super::conv::{ConvWeights, TASKS, ranges};
use super::super::kernels::Kernels;
use super::super::memory::{BLOCK, Buffer};
use super::super::reading::{Chunk, conv_input};
use super::super::statistics::WIDTH;
use super::axis::Length;
use super::cost;
use crate::base::Result;
use crate::net::{Conv, Epilogue, Network};

/// Groups of output channels that one task may compute.
pub(super) const MOST_GROUPS: usize = 8;

/// Output channels that are computed together.
pub(super) struct Group {
    pub(super) first_block: usize,
    pub(super) width: usize,
    /// First value of the packed weights.
    pub(super) weights: usize,
}

/// Tiles that are computed together.
pub(super) struct Brick {
    /// The first tile along each axis.
    pub(super) first: [usize; 3],
    pub(super) tiles: [usize; 3],
}

/// First values of the parts of a thread's memory; the first part begins at 0.
#[derive(Default)]
pub(super) struct Parts {
    /// `[chunk][layer][point][row][voxel][16]`: the input, transformed along the first axis.
    pub(super) depth: usize,
    /// `[chunk][point][tile][16]`: the input of one plane of points.
    pub(super) inputs: usize,
    /// `[point][tile][output channel]`: products of one plane of points and one group.
    pub(super) products: usize,
    /// `[group][point][row][voxel][tile][output channel]`: transformed back along two axes.
    pub(super) sums: usize,
    pub(super) end: usize,
}

/// How one convolution is computed by Winograd's algorithm; depends on shapes only.
pub(in super::super) struct Winograd {
    pub(in super::super) conv: Conv,
    pub(super) chunks: Vec<Chunk>,
    pub(super) chunk_channels: Vec<usize>,
    /// Chunks that are in memory together, and the input channels before each such segment.
    pub(super) segments: Vec<Range<usize>>,
    pub(super) segment_inputs: Vec<usize>,
    pub(super) groups: Vec<Group>,
    /// Groups that one task computes.
    pub(super) splits: Vec<Range<usize>>,
    /// Outputs of a tile along each axis; the last two are equal.
    pub(super) lengths: [Length; 3],
    /// Voxels of the (enlarged) input, which are those of the output but for channels.
    pub(super) input: [usize; 3],
    pub(super) output: [usize; 3],
    output_channels: usize,
    /// Tiles of the output, and the most of a brick.
    tiles: [usize; 3],
    brick: [usize; 3],
    /// Planes, rows and voxels of a row of a brick's input.
    pub(super) brick_input: [usize; 3],
    pub(super) memory: Parts,
    packed_weights: usize,
}

impl Winograd {
    /// `conv` with tiles of `lengths`.
    pub(in super::super) fn new(
        network: &Network,
        conv: &Conv,
        kernels: &Kernels,
        lengths: [Length; 3],
    ) -> Self {
        let chunks = Chunk::of(network, conv);
        let input = conv_input(network, conv);
        let target = &network.tensors[conv.output.0];
        let output = target.shape;
        let tiles: [usize; 3] =
            std::array::from_fn(|axis| output[axis].div_ceil(lengths[axis].outputs()));
        let blocks = target.channels.div_ceil(BLOCK);
        let cost::Shape { brick, chunks: chunks_per_segment, groups: groups_per_task } =
            cost::shape(lengths, tiles, chunks.len(), blocks, kernels.wide.width);
        let points: usize = lengths.iter().map(|length| length.points()).product();
        let chunk_channels: Vec<usize> = chunks.iter().map(|chunk| chunk.channels).collect();
        let inputs: usize = chunk_channels.iter().sum();
        let mut groups = Vec::new();
        let mut packed_weights = 0;
        let mut first_block = 0;
        while first_block < blocks {
            let width = match (blocks - first_block) * BLOCK >= kernels.wide.width {
                true => kernels.wide.width,
                false => BLOCK,
            };
            groups.push(Group { first_block, width, weights: packed_weights });
            first_block += width / BLOCK;
            packed_weights += points * inputs * width;
        }
        let segments = ranges(chunks.len(), chunks_per_segment);
        let brick_input = std::array::from_fn(|axis| {
            brick[axis] * lengths[axis].outputs() + lengths[axis].taps() - 1
        });
        let mut layout = Self {
            conv: conv.clone(),
            chunks,
            segment_inputs: segments
                .iter()
                .map(|segment| chunk_channels[..segment.start].iter().sum())
                .collect(),
            segments,
            chunk_channels,
            splits: ranges(groups.len(), groups_per_task),
            groups,
            lengths,
            input,
            output,
            output_channels: target.channels,
            tiles,
            brick,
            brick_input,
            memory: Parts::default(),
            packed_weights,
        };
        layout.memory = layout.parts();
        layout
    }

    fn parts(&self) -> Parts {
        let chunks = self.segments[0].len();
        let width = self.groups[0].width;
        let plane_points = self.lengths[1].points().pow(2);
        let rows = match self.lengths[0] {
            Length::One => 0,
            _ => self.brick_input[0] * self.brick_input[2] * BLOCK,
        };
        let depth = rows;
        let inputs = depth + chunks * self.depth_stride();
        let products = inputs + chunks * self.inputs_chunk();
        let sums = products + plane_points * self.sums_stride(width);
        let end = sums + self.splits[0].len() * self.sums_group();
        Parts { depth, inputs, products, sums, end }
    }

    /// Values between one chunk and the next of [`Parts::depth`].
    pub(super) fn depth_stride(&self) -> usize {
        let planes = self.brick[0] * self.lengths[0].points();
        planes * self.brick_input[1] * self.brick_input[2] * BLOCK
    }

    /// Values between one point and the next of [`Parts::inputs`]: a cache line more than the
    /// tiles take, lest all points fall on the same lines of the cache.
    pub(super) fn inputs_stride(&self) -> usize {
        (self.brick.iter().product::<usize>() + 1) * BLOCK
    }

    /// Values between one chunk and the next of [`Parts::inputs`].
    pub(super) fn inputs_chunk(&self) -> usize {
        self.lengths[1].points().pow(2) * self.inputs_stride()
    }

    /// Values between one point and the next of [`Parts::products`], for `width` output channels,
    /// and between one voxel and the next of [`Parts::sums`].
    pub(super) fn sums_stride(&self, width: usize) -> usize {
        self.brick.iter().product::<usize>() * width + BLOCK
    }

    /// Values between one group and the next of [`Parts::sums`].
    pub(super) fn sums_group(&self) -> usize {
        let planes = self.lengths[0].points() * self.lengths[1].outputs().pow(2);
        planes * self.sums_stride(self.groups[0].width)
    }

    fn lines(&self) -> [usize; 2] {
        std::array::from_fn(|axis| self.tiles[axis].div_ceil(self.brick[axis]))
    }

    /// The bricks of one row of them.
    pub(super) fn bricks_of(&self, line: usize) -> impl Iterator<Item = Brick> + use<'_> {
        let [_, lines] = self.lines();
        (0..self.tiles[2]).step_by(self.brick[2]).map(move |column| {
            let first = [line / lines * self.brick[0], line % lines * self.brick[1], column];
            let tiles =
                std::array::from_fn(|axis| self.brick[axis].min(self.tiles[axis] - first[axis]));
            Brick { first, tiles }
        })
    }

    /// Tasks that [`Winograd::run_task`] is to be called for.
    pub(in super::super) fn tasks(&self) -> usize {
        self.lines().iter().product::<usize>() * self.splits.len()
    }

    pub(in super::super) fn padded_channels(&self) -> usize {
        self.output_channels.next_multiple_of(BLOCK)
    }

    /// Entries of [`super::super::reading::ConvRun::partials`] that a run writes.
    pub(in super::super) fn partials(&self) -> usize {
        match self.conv.epilogue {
            Epilogue::Statistics(_) => {
                self.lines().iter().product::<usize>() * self.padded_channels()
            }
            _ => 0,
        }
    }

    /// Values of the transformed weights and biases of one fold.
    pub(in super::super) fn weight_values(&self) -> usize {
        self.packed_weights + self.padded_channels()
    }

    /// Values of memory that a thread needs.
    pub(in super::super) fn scratch_values(&self) -> usize {
        self.memory.end
    }

    /// Multiplications, about, the transforms included.
    pub(in super::super) fn multiplications(&self) -> f64 {
        cost::multiplications(self.lengths, self.tiles, self.chunks.len(), self.padded_channels())
    }

    /// Transforms weights, `[out][in][k0][k1][k2]`, into the order
    /// `[group][segment][point][input channel][output channel]`.
    pub(in super::super) fn pack(
        &self,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<ConvWeights> {
        let name = "transformed weights";
        let mut packed = Buffer::zeroed(name, self.packed_weights)?;
        let values = packed.values_mut();
        let [taps, points] = [Length::taps, Length::points]
            .map(|of| self.lengths.iter().map(|&length| of(length)).product::<usize>());
        let inputs: usize = self.chunk_channels.iter().sum();
        // Of one input channel and all output channels of a group.
        let mut parts: [Vec<[f64; WIDTH]>; 2] = [Vec::new(), Vec::new()];
        for group in &self.groups {
            let first_output = group.first_block * BLOCK;
            let outputs = group.width.min(self.output_channels - first_output);
            for (segment, &before) in self.segments.iter().zip(&self.segment_inputs) {
                let channels: usize = self.chunk_channels[segment.clone()].iter().sum();
                for channel in 0..channels {
                    let [from, to] = &mut parts;
                    from.clear();
                    from.resize(taps, [0.0; WIDTH]);
                    for output in 0..outputs {
                        let first = ((first_output + output) * inputs + before + channel) * taps;
                        for (tap, values) in from.iter_mut().enumerate() {
                            values[output] = f64::from(weight[first + tap]);
                        }
                    }
                    for length in self.lengths {
                        along_first(length, from, to);
                        std::mem::swap(from, to);
                    }
                    for (point, sums) in from.iter().enumerate() {
                        let row = group.weights
                            + (before * points + point * channels + channel) * group.width;
                        let row = &mut values[row..row + group.width];
                        for (value, &sum) in row.iter_mut().zip(sums) {
                            *value = sum as f32;
                        }
                    }
                }
            }
        }
        let mut biases = Buffer::zeroed(name, self.padded_channels())?;
        if let Some(bias) = bias {
            biases.values_mut()[..bias.len()].copy_from_slice(bias);
        }
        Ok(ConvWeights { packed, bias: biases })
    }
}

/// Transforms the first axis of `[tap][rest]` and makes it the last: `[rest][point]`.
fn along_first(length: Length, from: &[[f64; WIDTH]], to: &mut Vec<[f64; WIDTH]>) {
    let rest = from.len() / length.taps();
    to.clear();
    for place in 0..rest {
        for factors in length.weights() {
            let mut sums = [0.0; WIDTH];
            for (tap, &factor) in factors.iter().enumerate() {
                for (sum, value) in sums.iter_mut().zip(&from[tap * rest + place]) {
                    *sum += factor * value;
                }
            }
            to.push(sums);
        }
    }
}
