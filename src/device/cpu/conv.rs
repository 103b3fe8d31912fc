//! A convolution over the whole patch.
//!
//! The output is cut into bricks of a few planes and rows. A task copies the input that one brick
//! needs, halo included, into memory of its own: it concatenates, enlarges, normalises and
//! activates on the way, and writes zeros where the padding is. Then it computes all output
//! channels of the brick from there. How the work is cut depends on shapes only, never on the
//! number of threads, so that every sum is formed in the same order.

mod integer;
mod packing;

use std::ops::Range;

use self::integer::{IntegerOutput, IntegerRows};
use super::conv_tile::{Tile, TileEpilogue};
use super::kernels::{BrickValues, Kernels, TileKernel, TileKernels};
use super::memory::{BLOCK, Buffer, Values};
use super::path::TaskRow;
use super::quantise::Quantisation;
use super::reading::{Chunk, ConvRun, ReadRow, conv_input};
use super::statistics::{Running, WIDTH};
use super::winograd::STREAMED_BYTES;
use crate::base::Result;
use crate::net::{Conv, Epilogue, Network};

/// Memory for one brick: with a segment's weights it fits the second-level cache of most cores.
const BRICK_BYTES: usize = 384 << 10;
/// Weights of one segment of input channels.
const SEGMENT_BYTES: usize = 256 << 10;
/// Tasks that an operation is cut into where its shape allows.
pub(super) const TASKS: usize = 32;

/// Output channels that are computed together.
struct Group {
    /// Of a transposed convolution: which of the voxels that an input voxel makes.
    phase: [usize; 3],
    first_block: usize,
    wide: bool,
    /// First value of the packed weights.
    weights: usize,
    /// First value of what follows them where integers are multiplied: the sum of each output
    /// channel's weights, then what a step of them is worth.
    factors: usize,
}

/// Rows of output that one task computes.
struct Brick {
    number: usize,
    /// The first plane and row, and how many there are.
    first: [usize; 2],
    rows: [usize; 2],
    /// How its input is quantised, if it is.
    how: Quantisation,
}

/// How a row is cut for one width of output channels.
struct RowTiles {
    width: usize,
    /// First voxel, number of voxels, kernel.
    tiles: Vec<(usize, usize, TileKernel)>,
}

/// How one convolution is computed; depends on shapes only.
pub(super) struct ConvLayout {
    pub(super) conv: Conv,
    chunks: Vec<Chunk>,
    chunk_channels: Vec<usize>,
    /// Chunks whose weights are used together.
    segments: Vec<Range<usize>>,
    groups: Vec<Group>,
    /// Groups that one task computes.
    splits: Vec<Range<usize>>,
    narrow: RowTiles,
    wide: RowTiles,
    /// Voxels of the (enlarged) input and of the output; of a transposed convolution, the voxels
    /// of one phase of it.
    input: [usize; 3],
    output: [usize; 3],
    /// Output voxels that each of those makes.
    expand: [usize; 3],
    output_channels: usize,
    /// Planes and rows of a brick of output.
    brick_output: [usize; 2],
    /// Voxels of a brick of input.
    brick: [usize; 3],
    /// Brick voxels from one output voxel to the next.
    step: [usize; 3],
    /// Values from the first tap to each.
    taps: Vec<usize>,
    brick_values: BrickValues,
    integer_rows: Option<IntegerRows>,
    packed_weights: usize,
}

/// Weights of one fold, in the order the kernels read them.
pub(super) struct ConvWeights {
    pub(super) packed: Buffer,
    pub(super) bias: Buffer,
}

/// Memory of one thread.
pub(super) struct Scratch {
    pub(super) brick: Buffer,
    sums: Buffer,
}

impl ConvLayout {
    pub(super) fn new(network: &Network, conv: &Conv, kernels: &Kernels) -> Self {
        let chunks = Chunk::of(network, conv);
        let input = conv_input(network, conv);
        let target = &network.tensors[conv.output.0];
        let expand = conv.expand.unwrap_or([1; 3]);
        let output: [usize; 3] = std::array::from_fn(|axis| target.shape[axis] / expand[axis]);
        let step: [usize; 3] = std::array::from_fn(|axis| match conv.kernel[axis] {
            1 => 1,
            _ => conv.stride[axis],
        });
        let extent = |axis: usize, output: usize| (output - 1) * step[axis] + conv.kernel[axis];
        let brick_values = kernels.brick;
        let row_bytes = chunks.len() * extent(2, output[2]) * BLOCK * brick_values.near_bytes();
        let brick_output = brick_output(row_bytes, output, extent);
        let brick = [extent(0, brick_output[0]), extent(1, brick_output[1]), extent(2, output[2])];
        let taps: Vec<usize> = (0..conv.kernel[0])
            .flat_map(|a| (0..conv.kernel[1]).map(move |b| (a, b)))
            .flat_map(|(a, b)| (0..conv.kernel[2]).map(move |c| (a, b, c)))
            .map(|(a, b, c)| ((a * brick[1] + b) * brick[2] + c) * BLOCK)
            .collect();

        let blocks = target.channels.div_ceil(BLOCK);
        let wide_blocks = kernels.wide.width / BLOCK;
        let rows_of = |chunk: &Chunk| brick_values.rows(chunk.channels) * taps.len();
        let rows: usize = chunks.iter().map(rows_of).sum();
        let mut groups = Vec::new();
        let mut packed_weights = 0;
        for phase in phases(expand) {
            let mut first_block = 0;
            while first_block < blocks {
                let wide = blocks - first_block >= wide_blocks;
                let width = if wide { wide_blocks } else { 1 };
                let factors = packed_weights + rows * width * BLOCK;
                groups.push(Group { phase, first_block, wide, weights: packed_weights, factors });
                first_block += width;
                packed_weights = factors + brick_values.factors() * width * BLOCK;
            }
        }
        let chunk_bytes = taps.len() * BLOCK * kernels.wide.width * 4 / brick_values.channels();
        let chunks_per_segment = (SEGMENT_BYTES / chunk_bytes).max(1);
        let output_bytes = output.iter().product::<usize>() * blocks * BLOCK * kernels.value_bytes;
        let streamed = expand == [1; 3] && output_bytes >= STREAMED_BYTES;
        let integer_rows = (brick_values == BrickValues::Quads)
            .then_some(kernels.quantise.as_ref().and_then(|kernels| kernels.multiply.as_ref()))
            .flatten()
            .map(|kernels| IntegerRows::new(kernels, output[2], step[2], streamed));
        let bricks: usize = (0..2).map(|axis| output[axis].div_ceil(brick_output[axis])).product();
        let groups_per_task = groups.len().div_ceil(TASKS.div_ceil(bricks).min(groups.len()));
        Self {
            conv: conv.clone(),
            chunk_channels: chunks.iter().map(|chunk| chunk.channels).collect(),
            segments: ranges(chunks.len(), chunks_per_segment),
            splits: ranges(groups.len(), groups_per_task),
            narrow: RowTiles::new(&kernels.narrow, output[2], step[2]),
            wide: RowTiles::new(&kernels.wide, output[2], step[2]),
            chunks,
            groups,
            input,
            output,
            expand,
            output_channels: target.channels,
            brick_output,
            brick,
            step,
            taps,
            brick_values,
            integer_rows,
            packed_weights,
        }
    }

    fn bricks(&self) -> [usize; 2] {
        std::array::from_fn(|axis| self.output[axis].div_ceil(self.brick_output[axis]))
    }

    /// Tasks that [`ConvLayout::run_task`] is to be called for.
    pub(super) fn tasks(&self) -> usize {
        self.bricks().iter().product::<usize>() * self.splits.len()
    }

    pub(super) fn task_row(&self) -> TaskRow {
        let [_, rows] = self.bricks();
        TaskRow { tasks: rows * self.splits.len(), planes: self.brick_output[0] }
    }

    pub(super) fn padded_channels(&self) -> usize {
        self.output_channels.next_multiple_of(BLOCK)
    }

    /// Entries of [`ConvRun::partials`] that a run writes.
    pub(super) fn partials(&self) -> usize {
        match self.conv.epilogue {
            Epilogue::Statistics(_) => {
                self.bricks().iter().product::<usize>() * self.padded_channels()
            }
            _ => 0,
        }
    }

    /// Values of the packed weights and biases of one fold.
    pub(super) fn weight_values(&self) -> usize {
        self.packed_weights + self.padded_channels()
    }

    /// Values, of single precision, that a brick takes, and sums between segments.
    pub(super) fn scratch_values(&self) -> [usize; 2] {
        let rows = self.brick_output[0] * self.brick_output[1];
        let (rows, voxels) = match (&self.integer_rows, self.segments.len()) {
            (None, 1) => (0, 0),
            (None, _) => (rows, self.output[2]),
            (Some(integer), 1) => (1, integer.voxels()),
            (Some(integer), _) => (rows, integer.voxels()),
        };
        let brick = self.chunks.len() * self.chunk_stride() * self.brick_values.bytes();
        let brick = match self.integer_rows {
            Some(_) => (brick + integer::AFTER_BRICK).div_ceil(4),
            None => brick / 4,
        };
        [brick, rows * voxels * self.wide.width]
    }

    fn chunk_stride(&self) -> usize {
        self.brick.iter().product::<usize>() * BLOCK
    }

    /// Computes one brick for some of the output channels.
    ///
    /// # Safety
    /// The processor has the kernels' instructions; arena, offsets, weights and coefficients
    /// belong to this convolution's network; no two threads run the same task, and nobody else
    /// touches the arena, but for other tasks of the same run.
    pub(super) unsafe fn run_task(&self, run: &ConvRun, scratch: &mut Scratch, task: usize) {
        let bricks = self.bricks();
        let (brick, split) = (task / self.splits.len(), task % self.splits.len());
        let first: [usize; 2] =
            [brick / bricks[1] * self.brick_output[0], brick % bricks[1] * self.brick_output[1]];
        let rows: [usize; 2] = std::array::from_fn(|axis| {
            self.brick_output[axis].min(self.output[axis] - first[axis])
        });
        // SAFETY: as the caller promises; the scratch memory was sized for the largest brick.
        unsafe {
            let brick_memory = Values::new(&mut scratch.brick, self.brick_values.bytes());
            let how = self.quantisation(run, first, rows);
            let brick = Brick { number: brick, first, rows, how };
            self.fill_brick(run, brick_memory, &brick);
            for group in &self.groups[self.splits[split].clone()] {
                self.run_group(run, scratch, group, &brick);
            }
            if self.integer_rows.as_ref().is_some_and(|rows| rows.streamed) {
                (run.kernels.winograd.fence)();
            }
        }
    }

    /// Input plane (or row) that plane (or row) `at` of a brick holds whose output starts at
    /// `first`, if it is not padding.
    fn read_index(&self, axis: usize, first: [usize; 2], at: usize) -> Option<usize> {
        match self.conv.kernel[axis] {
            1 => Some((first[axis] + at) * self.conv.stride[axis]),
            _ => (first[axis] * self.conv.stride[axis] + at)
                .checked_sub(1)
                .filter(|&index| index < self.input[axis]),
        }
    }

    /// Planes and rows of a brick that so many planes and rows of output need.
    fn brick_rows(&self, rows: [usize; 2]) -> [usize; 2] {
        std::array::from_fn(|axis| (rows[axis] - 1) * self.step[axis] + self.conv.kernel[axis])
    }

    /// Copies the input that the output rows from `first` need.
    unsafe fn fill_brick(&self, run: &ConvRun, memory: Values, brick: &Brick) {
        let &Brick { first, rows, how, .. } = brick;
        let row_values = self.brick[2] * BLOCK;
        let [planes, lines] = self.brick_rows(rows);
        for (index, chunk) in self.chunks.iter().enumerate() {
            for plane in 0..planes {
                for line in 0..lines {
                    let start =
                        index * self.chunk_stride() + (plane * self.brick[1] + line) * row_values;
                    // SAFETY: as the caller promises; plane and line lie in brick and input.
                    unsafe {
                        match (self.read_index(0, first, plane), self.read_index(1, first, line)) {
                            (Some(z), Some(y)) => {
                                self.fill_row(run, chunk, [z, y], memory, start, how);
                            }
                            _ => memory.clear(start..start + row_values, how),
                        }
                    }
                }
            }
        }
    }

    /// Of a row of a brick: the voxels of padding before, how far apart voxels of input are, and
    /// how many.
    fn row_read(&self) -> (usize, usize, usize) {
        match self.conv.kernel[2] {
            1 => (0, self.conv.stride[2], self.output[2]),
            _ => (1, 1, self.input[2].min(self.brick[2] - 1)),
        }
    }

    unsafe fn fill_row(
        &self,
        run: &ConvRun,
        chunk: &Chunk,
        [z, y]: [usize; 2],
        brick: Values,
        start: usize,
        how: Quantisation,
    ) {
        let (pad, stride, count) = self.row_read();
        let first = start + pad * BLOCK;
        // SAFETY: as the caller promises; the row holds `count` voxels, which lie in the input,
        // and those of the padding.
        unsafe {
            brick.clear(start..first, how);
            brick.clear(first + count * BLOCK..start + self.brick[2] * BLOCK, how);
            run.read_row(
                &run.kernels.read_brick,
                &ReadRow {
                    conv: &self.conv,
                    chunk,
                    first: [z, y, 0],
                    stride,
                    next: false,
                    to: brick.at(first),
                    how,
                    count,
                },
            );
        }
    }

    /// What happens to the sums of a group at a place of the output.
    unsafe fn tile_epilogue(
        &self,
        run: &ConvRun,
        group: &Group,
        place: usize,
        running: *mut Running,
    ) -> TileEpilogue {
        match self.conv.epilogue {
            Epilogue::Plain => TileEpilogue::Store,
            Epilogue::Statistics(_) => TileEpilogue::Statistics(running),
            Epilogue::AddNormalized { main, normalization } => {
                let coefficients = &run.coefficients[run.coefficients.len() - 1];
                let affine = coefficients.affine(group.first_block);
                TileEpilogue::AddNormalized {
                    // SAFETY: the place lies in the output, whose shape `main` has.
                    main: unsafe { run.arena.at(run.offsets[main.0] + place) },
                    mean: affine.mean,
                    scale: affine.scale,
                    shift: affine.shift,
                    slope: normalization.slope,
                }
            }
        }
    }

    unsafe fn run_group(&self, run: &ConvRun, scratch: &mut Scratch, group: &Group, brick: &Brick) {
        let &Brick { number: brick, first, rows, how } = brick;
        let tiles = if group.wide { &self.wide } else { &self.narrow };
        let [e0, e1, e2] = self.expand;
        let [p0, p1, p2] = group.phase;
        let (rows_out, columns_out) = (self.output[1] * e1, self.output[2] * e2);
        let plane_values = rows_out * columns_out * BLOCK;
        let blocks = self.padded_channels() / BLOCK;
        let mut running = Running::EMPTY;
        let factors = self.integer_rows.as_ref().map(|_| self.group_factors(run, group, how));
        let mut weights_before = group.weights;
        for (number, segment) in self.segments.iter().enumerate() {
            let channels = &self.chunk_channels[segment.clone()];
            for row in 0..rows[0] * rows[1] {
                let (plane, line) = (row / rows[1], row % rows[1]);
                let in_brick = (plane * self.step[0] * self.brick[1] + line * self.step[1])
                    * self.brick[2]
                    * BLOCK;
                let (z, y) = ((first[0] + plane) * e0 + p0, (first[1] + line) * e1 + p1);
                let in_plane = (y * columns_out + p2) * BLOCK;
                let in_tensor = (z * blocks + group.first_block) * plane_values + in_plane;
                if let Some(factors) = &factors {
                    // SAFETY: output and main are tensors of the output's shape, and tasks write
                    // to rows and channels of their own.
                    unsafe {
                        self.integer_row(
                            run,
                            scratch,
                            group,
                            factors,
                            &IntegerOutput {
                                row: if self.segments.len() > 1 { row } else { 0 },
                                segment: number,
                                weights: weights_before,
                                in_brick,
                                output: run.arena.at(run.offsets[self.conv.output.0] + in_tensor),
                                output_step: e2 * BLOCK,
                                block_stride: plane_values,
                                epilogue: self.tile_epilogue(run, group, in_tensor, &mut running),
                            },
                        );
                    }
                    continue;
                }
                for &(x, _, kernel) in &tiles.tiles {
                    let place = in_tensor + x * e2 * BLOCK;
                    // SAFETY: every pointer stays in its buffer: brick and sums were sized for
                    // this layout, output and main are tensors of the output's shape, and tasks
                    // write to rows and channels of their own.
                    unsafe {
                        let brick = Values::new(&mut scratch.brick, self.brick_values.bytes());
                        let epilogue = self.tile_epilogue(run, group, place, &mut running);
                        kernel(&Tile {
                            brick: brick.at(segment.start * self.chunk_stride()
                                + in_brick
                                + x * self.step[2] * BLOCK),
                            chunk_stride: self.chunk_stride(),
                            chunk_channels: channels.as_ptr(),
                            chunks: channels.len(),
                            taps: self.taps.as_ptr(),
                            tap_count: self.taps.len(),
                            weights: run.weights.packed.pointer().add(weights_before),
                            bias: run.weights.bias.pointer().add(group.first_block * BLOCK),
                            sums: scratch.sums.shared().get().add(if self.segments.len() > 1 {
                                (row * self.output[2] + x) * tiles.width
                            } else {
                                0
                            }),
                            first: number == 0,
                            last: number + 1 == self.segments.len(),
                            output: run.arena.at(run.offsets[self.conv.output.0] + place),
                            output_step: e2 * BLOCK,
                            block_stride: plane_values,
                            epilogue,
                        });
                    }
                }
            }
            let weight_rows: usize =
                channels.iter().map(|&channels| self.brick_values.rows(channels)).sum();
            weights_before += weight_rows * self.taps.len() * tiles.width;
        }
        if matches!(self.conv.epilogue, Epilogue::Statistics(_)) {
            let at = brick * self.padded_channels() + group.first_block * BLOCK;
            for channel in 0..tiles.width {
                // SAFETY: there is an entry for each brick and channel; this task alone writes it.
                unsafe {
                    *run.partials.get().add(at + channel) = running.channel(channel);
                }
            }
        }
    }
}

impl RowTiles {
    /// Cuts `voxels` into tiles of nearly the same size.
    fn new(kernels: &TileKernels, voxels: usize, stride: usize) -> Self {
        debug_assert!(kernels.width <= WIDTH);
        let count = voxels.div_ceil(kernels.most_voxels());
        let tiles = (0..count)
            .map(|tile| {
                let (start, end) = (tile * voxels / count, (tile + 1) * voxels / count);
                (start, end - start, kernels.of(end - start, stride))
            })
            .collect();
        Self { width: kernels.width, tiles }
    }
}

impl Scratch {
    /// Memory for any of several convolutions, given the most of [`ConvLayout::scratch_values`].
    pub(super) fn new(values: [usize; 2]) -> Result<Self> {
        let name = "scratch memory of a thread";
        Ok(Self { brick: Buffer::zeroed(name, values[0])?, sums: Buffer::zeroed(name, values[1])? })
    }
}

/// Every place in a box of `expand` voxels.
fn phases([e0, e1, e2]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..e0 * e1 * e2).map(move |phase| [phase / e2 / e1, phase / e2 % e1, phase % e2])
}

/// `0..length` in pieces of `piece`.
pub(super) fn ranges(length: usize, piece: usize) -> Vec<Range<usize>> {
    (0..length).step_by(piece).map(|start| start..length.min(start + piece)).collect()
}

/// Planes and rows of a brick: of those that fit the memory and leave enough bricks to share,
/// the one that reads the least input per output.
fn brick_output(
    row_bytes: usize,
    output: [usize; 3],
    extent: impl Fn(usize, usize) -> usize,
) -> [usize; 2] {
    let wanted = TASKS.min(output[0] * output[1]) / 2;
    let mut best = ([1, 1], f64::INFINITY);
    for planes in 1..=output[0] {
        for rows in 1..=output[1] {
            let read = extent(0, planes) * extent(1, rows);
            let bricks = output[0].div_ceil(planes) * output[1].div_ceil(rows);
            if read * row_bytes > BRICK_BYTES || bricks < wanted {
                break;
            }
            let cost = (read * bricks) as f64;
            if cost < best.1 {
                best = ([planes, rows], cost);
            }
        }
    }
    best.0
}
