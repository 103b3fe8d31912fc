//! How a convolution is cut into bricks and tiles, where a brick's parts lie in a thread's memory,
//! and the order of the transformed weights.

use std::ops::Range;

use super::super::conv::{ConvWeights, ranges};
use super::super::kernels::Kernels;
use super::super::memory::{BLOCK, Buffer};
use super::super::path::TaskRow;
use super::super::reading::{Chunk, conv_input};
use super::super::statistics::WIDTH;
use super::axis::Length;
use super::cost::{Cut, Sizes, Tiling};
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

/// First values of the parts of a thread's memory, and values from one piece of them to the next.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// Voxels along each axis of a brick's input, whose rows begin at 0: `[plane][voxel][16]`.
    pub(super) brick_input: [usize; 3],
    /// `[chunk][layer][point][row][voxel][16]`: the input, transformed along the first axis.
    pub(super) depth: usize,
    pub(super) depth_chunk: usize,
    /// `[chunk][point][tile][16]`: the input of one plane of points.
    pub(super) inputs: usize,
    pub(super) inputs_chunk: usize,
    pub(super) inputs_point: usize,
    /// `[point][tile][output channel]`: products of one plane of points and one group.
    pub(super) products: usize,
    /// `[point][input channel][output channel]`: weights of such a plane, if they aren't kept.
    pub(super) weights: usize,
    /// `[group][point][row][voxel][tile][output channel]`: transformed back along two axes.
    pub(super) sums: usize,
    pub(super) sums_group: usize,
    pub(super) end: usize,
    tiles: usize,
}

impl Parts {
    pub(super) fn new(sizes: &Sizes, cut: &Cut) -> Self {
        let [depth_points, side_points, _] = sizes.lengths.map(Length::points);
        let plane_points = side_points * side_points;
        let brick_input: [usize; 3] = std::array::from_fn(|axis| {
            let length = sizes.lengths[axis];
            cut.brick[axis] * length.outputs() + length.taps() - 1
        });
        let [planes, lines, columns] = brick_input;
        let tiles: usize = cut.brick.iter().product();
        let width = BLOCK * sizes.group_blocks.min(sizes.blocks);
        let mut parts = Self {
            brick_input,
            depth: if depth_points > 1 { planes * columns * BLOCK } else { 0 },
            depth_chunk: cut.brick[0] * depth_points * lines * columns * BLOCK,
            inputs: 0,
            // A cache line more than the tiles take, lest all points fall on the same lines of
            // the cache; and so below.
            inputs_point: (tiles + 1) * BLOCK,
            inputs_chunk: plane_points * (tiles + 1) * BLOCK,
            products: 0,
            weights: 0,
            sums: 0,
            sums_group: 0,
            end: 0,
            tiles,
        };
        parts.inputs = parts.depth + cut.chunks * parts.depth_chunk;
        parts.products = parts.inputs + cut.chunks * parts.inputs_chunk;
        parts.weights = parts.products + plane_points * parts.sums_stride(width);
        let channels = sizes.inputs.min(cut.chunks * BLOCK);
        parts.sums = parts.weights
            + if sizes.stored { 0 } else { plane_points * (channels * width + BLOCK) };
        parts.sums_group =
            depth_points * sizes.lengths[1].outputs().pow(2) * parts.sums_stride(width);
        parts.end = parts.sums + cut.groups * parts.sums_group;
        parts
    }

    /// Values between one point and the next of [`Parts::products`], for `width` output channels,
    /// and between one voxel and the next of [`Parts::sums`].
    pub(super) fn sums_stride(&self, width: usize) -> usize {
        self.tiles * width + BLOCK
    }
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
    pub(super) memory: Parts,
    /// Whether the packed weights are transformed.
    pub(super) stored: bool,
    /// Whether the output passes by the caches.
    pub(super) streamed: bool,
    cost: f64,
    packed_weights: usize,
}

impl Winograd {
    /// `conv` with tiles of `tiling`, or `None` if the algorithm does not apply.
    pub(in super::super) fn new(
        network: &Network,
        conv: &Conv,
        kernels: &Kernels,
        tiling: Tiling,
    ) -> Option<Self> {
        let sizes = tiling.sizes(network, conv, kernels)?;
        let (cut, cost) = sizes.best_cut();
        let chunks = Chunk::of(network, conv);
        let target = &network.tensors[conv.output.0];
        let chunk_channels: Vec<usize> = chunks.iter().map(|chunk| chunk.channels).collect();
        let kept = if sizes.stored { Length::points } else { Length::taps };
        let kept: usize = sizes.lengths.map(kept).iter().product();
        let mut groups = Vec::new();
        let mut packed_weights = 0;
        let mut first_block = 0;
        while first_block < sizes.blocks {
            let blocks = match sizes.blocks - first_block >= sizes.group_blocks {
                true => sizes.group_blocks,
                false => 1,
            };
            groups.push(Group { first_block, width: blocks * BLOCK, weights: packed_weights });
            first_block += blocks;
            packed_weights += kept * sizes.inputs * blocks * BLOCK;
        }
        let segments = ranges(chunks.len(), cut.chunks);
        Some(Self {
            conv: conv.clone(),
            chunks,
            segment_inputs: segments
                .iter()
                .map(|segment| chunk_channels[..segment.start].iter().sum())
                .collect(),
            segments,
            chunk_channels,
            splits: ranges(groups.len(), cut.groups),
            groups,
            lengths: sizes.lengths,
            input: conv_input(network, conv),
            output: target.shape,
            output_channels: target.channels,
            tiles: sizes.tiles,
            brick: cut.brick,
            memory: Parts::new(&sizes, &cut),
            stored: sizes.stored,
            streamed: sizes.streamed,
            cost,
            packed_weights,
        })
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

    pub(in super::super) fn task_row(&self) -> TaskRow {
        let [_, lines] = self.lines();
        TaskRow {
            tasks: lines * self.splits.len(),
            planes: self.brick[0] * self.lengths[0].outputs(),
        }
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

    /// Multiplications that would take as long, about.
    pub(in super::super) fn multiplications(&self) -> f64 {
        self.cost * BLOCK as f64
    }

    /// Brings weights, `[out][in][k0][k1][k2]`, into the order
    /// `[group][segment][point][input channel][output channel]`, or, if they aren't transformed
    /// yet, `[group][input channel][tap][output channel]`.
    pub(in super::super) fn pack(
        &self,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<ConvWeights> {
        let name = "packed weights";
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
                    if self.stored {
                        for length in self.lengths {
                            along_first(length, from, to);
                            std::mem::swap(from, to);
                        }
                    }
                    for (point, sums) in from.iter().enumerate() {
                        let row = match self.stored {
                            true => before * points + point * channels + channel,
                            false => (before + channel) * taps + point,
                        };
                        let row = group.weights + row * group.width;
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
