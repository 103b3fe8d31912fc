//! Which tiles and bricks suit a convolution: the one table of what costs what. Depends on shapes
//! only.
//!
//! Costs are counted in multiply-adds of 16 values, of which the direct sum is a known number; the
//! constants are what the parts took on a Zen 5 core with AVX-512.

use super::super::kernels::{BrickValues, Kernels};
use super::super::memory::BLOCK;
use super::super::reading::Chunk;
use super::axis::Length;
use super::layout::{MOST_GROUPS, Parts};
use crate::net::{Conv, Network};

/// Memory of a brick: it fits the second-level cache of most cores.
const BRICK_BYTES: usize = 640 << 10;
/// Transformed weights up to this size are kept. Larger ones, of which there are few tiles to
/// multiply, are made from the network's own each time: transformed they would be 8 times as
/// large, and take longer to read than to make.
const STORED_BYTES: usize = 8 << 20;
/// Transformed weights up to this size stay in a second-level cache.
const NEAR_BYTES: usize = 512 << 10;
/// Outputs of this size are no longer in a cache when they are read.
pub(in super::super) const STREAMED_BYTES: usize = 32 << 20;
/// What the call of a kernel for a row costs.
const CALL: f64 = 60.0;
/// What reading and normalising a voxel of 16 channels costs.
const READ: f64 = 20.0;
/// What reading, quantising and halos cost for 16 channels of a voxel where integers are multiplied,
/// and writing them.
const INTEGERS: [f64; 2] = [30.0, 15.0];
/// Threads for which tasks should suffice.
const THREADS: usize = 8;

/// The sizes of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Outputs of a tile along each axis.
    pub(super) lengths: [Length; 3],
    /// Tiles along each axis.
    pub(super) tiles: [usize; 3],
    /// Input channels, and how many pieces of up to 16 they make.
    pub(super) inputs: usize,
    pub(super) chunks: usize,
    /// Blocks of 16 output channels, and how many of them are computed together.
    pub(super) blocks: usize,
    pub(super) group_blocks: usize,
    /// Whether transformed weights are kept.
    pub(super) stored: bool,
    /// Whether the output passes by the caches.
    pub(super) streamed: bool,
    /// Bytes of a value of the output.
    pub(super) value_bytes: usize,
}

/// How the work is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Tiles of a brick.
    pub(super) brick: [usize; 3],
    /// Chunks of input channels that are in memory together.
    pub(super) chunks: usize,
    /// Groups of output channels that one task computes.
    pub(super) groups: usize,
}

/// Operations of the transforms of 16 channels of a tile in one plane of points: of inputs, of
/// products, of weights.
fn plane_costs(length: Length) -> [f64; 3] {
    match length {
        Length::One => [1.0, 1.0, 1.0],
        Length::Two => [100.0, 70.0, 130.0],
        Length::Four => [300.0, 240.0, 370.0],
    }
}

impl Sizes {
    fn points(&self) -> usize {
        self.lengths.iter().map(|length| length.points()).product()
    }

    fn groups(&self) -> usize {
        self.blocks / self.group_blocks + self.blocks % self.group_blocks
    }

    fn bricks(&self, cut: &Cut) -> [usize; 3] {
        std::array::from_fn(|axis| self.tiles[axis].div_ceil(cut.brick[axis]))
    }

    fn cost(&self, cut: &Cut) -> f64 {
        let [depth, side, _] = self.lengths;
        let [input_cost, output_cost, weight_cost] = plane_costs(side);
        let bricks = self.bricks(cut);
        let splits = self.groups().div_ceil(cut.groups);
        let tiles = self.tiles.iter().product::<usize>() as f64;
        let blocks = self.blocks as f64;
        let (chunks, points) = (self.chunks as f64, depth.points() as f64);
        // Halos make the input of all bricks larger than that of the layer.
        let [planes, lines, columns]: [f64; 3] = std::array::from_fn(|axis| {
            let length = self.lengths[axis];
            (self.tiles[axis] * length.outputs() + bricks[axis] * (length.taps() - 1)) as f64
        });
        let rows = lines * bricks[2] as f64;
        let mut read = planes * (rows * CALL + lines * columns * READ);
        if depth != Length::One {
            let layers = self.tiles[0] as f64;
            read += layers * (rows * CALL + lines * columns * points * 2.3);
        }
        let transforms = tiles * points * chunks * input_cost;
        let segments = self.chunks.div_ceil(cut.chunks) as f64;
        let outputs = tiles
            * blocks
            * (segments * points * output_cost
                + (depth.outputs() * side.outputs().pow(2)) as f64 * 8.0);
        let products = tiles * (self.points() * self.inputs) as f64 * blocks * 1.15;
        // Of one input channel and 16 output channels.
        let weight = match self.stored {
            true if self.weight_bytes() <= NEAR_BYTES => self.points() as f64,
            true => self.points() as f64 * 4.0,
            false => points * weight_cost,
        };
        let weights = (bricks.iter().product::<usize>() * self.inputs) as f64 * blocks * weight;
        let tasks = bricks[0] * bricks[1] * splits;
        let idle = (tasks.next_multiple_of(THREADS)) as f64 / tasks as f64;
        ((read * chunks + transforms) * splits as f64 + outputs + products + weights) * idle
    }

    /// The cut that costs the least, and what it costs.
    pub(super) fn best_cut(&self) -> (Cut, f64) {
        let least = Cut { brick: [1; 3], chunks: 1, groups: 1 };
        let mut best = (least, f64::INFINITY);
        let sizes = |axis: usize, most: usize| {
            let most = most.min(self.tiles[axis]);
            (0..).map(move |power| (1 << power).min(most)).take(most.ilog2() as usize + 1)
        };
        let powers = |most: usize| (0..=most.ilog2()).map(move |power| 1 << power);
        for first in sizes(0, 4) {
            for second in sizes(1, 4) {
                for third in sizes(2, 16) {
                    for chunks in powers(self.chunks.next_power_of_two()) {
                        for groups in powers(MOST_GROUPS.min(self.groups())) {
                            let (brick, chunks) = ([first, second, third], chunks.min(self.chunks));
                            let cut = Cut { brick, chunks, groups };
                            if Parts::new(self, &cut).end * 4 > BRICK_BYTES {
                                continue;
                            }
                            let cost = self.cost(&cut);
                            if cost < best.1 {
                                best = (cut, cost);
                            }
                        }
                    }
                }
            }
        }
        match best.1 {
            f64::INFINITY => (least, self.cost(&least)),
            _ => best,
        }
    }

    /// Bytes of the output.
    fn output_bytes(&self) -> usize {
        let voxels: usize =
            (0..3).map(|axis| self.tiles[axis] * self.lengths[axis].outputs()).product();
        self.value_bytes * voxels * self.blocks * BLOCK
    }

    /// Bytes of the transformed weights.
    fn weight_bytes(&self) -> usize {
        4 * self.points() * self.inputs * self.blocks * BLOCK
    }
}

/// What tiles are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Tiling {
    /// Outputs of a tile along the first axis (where the kernel has 3 taps there) and along the
    /// other two.
    pub(in super::super) lengths: [Length; 2],
    /// Whether transformed weights are kept.
    pub(in super::super) stored: bool,
    /// Whether the output passes by the caches.
    pub(in super::super) streamed: bool,
}

impl Tiling {
    /// The sizes of `conv`, or `None` if the algorithm does not apply.
    pub(super) fn sizes(self, network: &Network, conv: &Conv, kernels: &Kernels) -> Option<Sizes> {
        let [first, others] = self.lengths;
        let lengths = match conv.kernel {
            [3, 3, 3] => [first, others, others],
            [1, 3, 3] => [Length::One, others, others],
            _ => return None,
        };
        if conv.stride != [1; 3] || conv.expand.is_some() {
            return None;
        }
        let output = &network.tensors[conv.output.0];
        let chunks = Chunk::of(network, conv);
        Some(Sizes {
            lengths,
            tiles: std::array::from_fn(|axis| output.shape[axis].div_ceil(lengths[axis].outputs())),
            inputs: chunks.iter().map(|chunk| chunk.channels).sum(),
            chunks: chunks.len(),
            blocks: output.channels.div_ceil(BLOCK),
            group_blocks: kernels.wide.width / BLOCK,
            stored: self.stored,
            streamed: self.streamed,
            value_bytes: kernels.value_bytes,
        })
    }

    /// What takes the least time, or `None` if that is the direct sum.
    pub(in super::super) fn best(
        network: &Network,
        conv: &Conv,
        kernels: &Kernels,
    ) -> Option<Self> {
        let voxels = network.tensors[conv.output.0].shape.iter().product::<usize>() as f64;
        let taps = conv.kernel.iter().product::<usize>() as f64;
        let mut best = (None, f64::INFINITY);
        for first in [Length::Four, Length::Two] {
            for others in [Length::Four, Length::Two] {
                let lengths = [first, others];
                let mut tiling = Self { lengths, stored: true, streamed: false };
                let mut sizes = tiling.sizes(network, conv, kernels)?;
                tiling.stored = sizes.weight_bytes() <= STORED_BYTES;
                tiling.streamed = sizes.output_bytes() >= STREAMED_BYTES;
                sizes.stored = tiling.stored;
                let rows = sizes.inputs.div_ceil(kernels.brick.channels());
                let mut direct = voxels * taps * (rows * sizes.blocks) as f64 * 1.15;
                if kernels.brick == BrickValues::Quads {
                    let [read, write] = INTEGERS;
                    direct += voxels * (sizes.chunks as f64 * read + sizes.blocks as f64 * write);
                }
                let (_, cost) = sizes.best_cut();
                if cost < direct && cost < best.1 {
                    best = (Some(tiling), cost);
                }
            }
        }
        best.0
    }
}
