//! Convolutions with 3 taps along two or three axes and stride 1, by Winograd's algorithm: fewer
//! multiplications than the sum itself has.
//!
//! The output is cut into tiles of 2 or 4 voxels along each axis, and a brick of them is computed
//! at a time, out of memory that fits a second-level cache. The input of the brick, halo included,
//! is read as [`super::reading`] reads it and transformed along the first axis at once. Then, for
//! each point along the first axis, it is transformed along the other two, multiplied with the
//! weights, and the products are transformed back along those two. At last the sums of all points
//! are transformed back along the first axis, and written. How the work is cut depends on shapes
//! only.

pub(super) mod axis;
mod cost;
mod layout;
pub(super) mod product;
pub(super) mod transform;

#[cfg(test)]
pub(super) use self::axis::Length;
pub(super) use self::cost::{STREAMED_BYTES, Tiling};
pub(super) use self::layout::Winograd;
use self::layout::{Brick, Group};
use self::product::Product;
use self::transform::{InputPlanes, InputRows, OutputPlanes, OutputTile, WeightPlanes};
use super::conv_tile::TileEpilogue;
use super::memory::{BLOCK, Place};
use super::quantise::Quantisation;
use super::reading::{ConvRun, ReadRow};
use super::statistics::Running;
use crate::net::Epilogue;

/// The compiled kernels, by the outputs of a tile along an axis.
#[derive(Clone, Copy)]
pub(super) struct WinogradKernels {
    /// Along the first axis: 2 and 4.
    pub(super) input_rows: [unsafe fn(&InputRows); 2],
    /// Along the other two: 2 and 4.
    pub(super) input_planes: [unsafe fn(&InputPlanes); 2],
    pub(super) output_planes: [unsafe fn(&OutputPlanes); 2],
    pub(super) weight_planes: [unsafe fn(&WeightPlanes); 2],
    /// Along the first axis: 1, 2 and 4.
    pub(super) output_tile: [unsafe fn(&OutputTile); 3],
    /// After [`OutputTile::stream`].
    pub(super) fence: unsafe fn(),
    /// For 16 output channels, and for as many as a wide tile has.
    pub(super) product: [unsafe fn(&Product); 2],
}

impl Winograd {
    /// Computes one row of bricks for some of the output channels.
    ///
    /// # Safety
    /// As for [`super::conv::ConvLayout::run_task`].
    pub(super) unsafe fn run_task(&self, run: &ConvRun, memory: &mut [f32], task: usize) {
        let (line, split) = (task / self.splits.len(), task % self.splits.len());
        let groups = &self.groups[self.splits[split].clone()];
        let mut running = [Running::EMPTY; layout::MOST_GROUPS];
        for brick in self.bricks_of(line) {
            for number in 0..self.segments.len() {
                // SAFETY: as the caller promises; the memory was sized for the largest brick.
                unsafe {
                    self.read(run, memory, &brick, number);
                    self.multiply(run, memory, &brick, number, groups);
                }
            }
            for (number, group) in groups.iter().enumerate() {
                // SAFETY: as above.
                unsafe { self.write(run, memory, &brick, number, group, &mut running[number]) }
            }
        }
        if self.streamed {
            // SAFETY: as above.
            unsafe { (run.kernels.winograd.fence)() };
        }
        if !matches!(self.conv.epilogue, Epilogue::Statistics(_)) {
            return;
        }
        for (group, running) in groups.iter().zip(&running) {
            let at = line * self.padded_channels() + group.first_block * BLOCK;
            for channel in 0..group.width {
                // SAFETY: there is an entry for each row of bricks and channel; this task alone
                // writes it.
                unsafe {
                    *run.partials.get().add(at + channel) = running.channel(channel);
                }
            }
        }
    }

    /// Reads the input of a brick and transforms it along the first axis.
    unsafe fn read(&self, run: &ConvRun, memory: &mut [f32], brick: &Brick, segment: usize) {
        let [outputs, side, _] = self.lengths.map(|length| length.outputs());
        let points = self.lengths[0].points();
        let [layers, ..] = brick.tiles;
        let planes = layers * outputs + self.lengths[0].taps() - 1;
        let lines = brick.tiles[1] * side + 2;
        let columns = brick.tiles[2] * side + 2;
        let row_values = self.memory.brick_input[2] * BLOCK;
        let plane_values = self.memory.brick_input[1] * row_values;
        // The (enlarged) input's index at place `at` of the brick, if it is not padding.
        let index = |axis: usize, at: usize| {
            (brick.first[axis] * self.lengths[axis].outputs() + at)
                .checked_sub((self.lengths[axis].taps() - 1) / 2)
                .filter(|&index| index < self.input[axis])
        };
        let left = usize::from(brick.first[2] == 0);
        let first = index(2, left).unwrap_or(0);
        let count = columns.min(left + self.input[2] - first) - left;
        let (rows, rest) = memory.split_at_mut(self.memory.depth);
        for (number, chunk) in self.chunks[self.segments[segment].clone()].iter().enumerate() {
            for line in 0..lines {
                let next = line + 1 < lines;
                let to = number * self.memory.depth_chunk + line * row_values;
                for plane in 0..planes {
                    let row = match points {
                        1 => &mut rest[to + plane * plane_values..],
                        _ => &mut rows[plane * row_values..],
                    };
                    let row = &mut row[..columns * BLOCK];
                    let (Some(z), Some(y)) = (index(0, plane), index(1, line)) else {
                        row.fill(0.0);
                        continue;
                    };
                    row[..left * BLOCK].fill(0.0);
                    row[(left + count) * BLOCK..].fill(0.0);
                    let row = &mut row[left * BLOCK..(left + count) * BLOCK];
                    // SAFETY: as the caller promises; the voxels lie in the input.
                    unsafe {
                        run.read_row(
                            &run.kernels.read,
                            &ReadRow {
                                conv: &self.conv,
                                chunk,
                                first: [z, y, first],
                                stride: 1,
                                next,
                                to: Place::of(row.as_ptr()),
                                how: Quantisation::default(),
                                count,
                            },
                        );
                    }
                }
                if points == 1 {
                    continue;
                }
                for layer in 0..layers {
                    // SAFETY: both pieces of memory have room for the rows of a brick.
                    unsafe {
                        let from = rows.as_ptr().add(layer * outputs * row_values);
                        let to = rest.as_mut_ptr().add(to + layer * points * plane_values);
                        (run.kernels.winograd.input_rows[outputs / 4])(&InputRows {
                            from,
                            from_stride: row_values,
                            to,
                            to_stride: plane_values,
                            voxels: columns,
                        });
                    }
                }
            }
        }
    }

    /// Adds a segment's products to the brick's sums.
    unsafe fn multiply(
        &self,
        run: &ConvRun,
        memory: &mut [f32],
        brick: &Brick,
        segment: usize,
        groups: &[Group],
    ) {
        let kernels = &run.kernels.winograd;
        let points = self.lengths[0].points();
        let side = self.lengths[1].outputs();
        let plane_points = self.lengths[1].points().pow(2);
        let row_values = self.memory.brick_input[2] * BLOCK;
        let plane_values = self.memory.brick_input[1] * row_values;
        let channels = &self.chunk_channels[self.segments[segment].clone()];
        let inputs: usize = channels.iter().sum();
        let tiles: usize = brick.tiles.iter().product();
        let memory = memory.as_mut_ptr();
        for point in 0..points {
            for chunk in 0..channels.len() {
                let from = chunk * self.memory.depth_chunk + point * plane_values;
                // SAFETY: every part of the memory has room for a brick's tiles.
                unsafe {
                    kernels.input_planes[side / 4](&InputPlanes {
                        from: memory.add(self.memory.depth + from),
                        layer: points * plane_values,
                        row: row_values,
                        tiles: brick.tiles,
                        to: memory.add(self.memory.inputs + chunk * self.memory.inputs_chunk),
                        point_stride: self.memory.inputs_point,
                    });
                }
            }
            for (number, group) in groups.iter().enumerate() {
                let before = self.segment_inputs[segment];
                // SAFETY: the weights were packed in this order; the memory has room for a plane.
                let (weights, weights_stride) = unsafe {
                    let packed = run.weights.packed.pointer().add(group.weights);
                    if self.stored {
                        let values = (before * points + point * inputs) * plane_points;
                        (packed.add(values * group.width), inputs * group.width)
                    } else {
                        let depth = self.lengths[0].taps();
                        // A cache line more, lest all points fall on the same lines.
                        let point_stride = inputs * group.width + BLOCK;
                        kernels.weight_planes[side / 4](&WeightPlanes {
                            from: packed.add(before * depth * 9 * group.width),
                            channels: inputs,
                            width: group.width,
                            factors: self.lengths[0].factors(point),
                            depth,
                            to: memory.add(self.memory.weights),
                            point_stride,
                        });
                        (memory.add(self.memory.weights).cast_const(), point_stride)
                    }
                };
                // SAFETY: as above.
                unsafe {
                    kernels.product[usize::from(group.width > BLOCK)](&Product {
                        inputs: memory.add(self.memory.inputs),
                        chunk_stride: self.memory.inputs_chunk,
                        inputs_stride: self.memory.inputs_point,
                        chunk_channels: channels.as_ptr(),
                        chunks: channels.len(),
                        points: plane_points,
                        tiles,
                        weights,
                        weights_stride,
                        sums: memory.add(self.memory.products),
                        sums_stride: self.memory.sums_stride(group.width),
                    });
                    kernels.output_planes[side / 4](&OutputPlanes {
                        from: memory.add(self.memory.products),
                        point_stride: self.memory.sums_stride(group.width),
                        values: tiles * group.width,
                        to: memory.add(
                            self.memory.sums
                                + number * self.memory.sums_group
                                + point * side * side * self.memory.sums_stride(group.width),
                        ),
                        voxel_stride: self.memory.sums_stride(group.width),
                        add: segment > 0,
                    });
                }
            }
        }
    }

    /// Transforms the sums of a group of output channels along the first axis, and writes them.
    unsafe fn write(
        &self,
        run: &ConvRun,
        memory: &mut [f32],
        brick: &Brick,
        number: usize,
        group: &Group,
        running: &mut Running,
    ) {
        let [_, lines, columns] = brick.tiles;
        let [outputs, side, _] = self.lengths.map(|length| length.outputs());
        let [_, s1, s2] = self.output;
        let block_stride = s1 * s2 * BLOCK;
        let blocks = self.padded_channels() / BLOCK;
        let stride = self.memory.sums_stride(group.width);
        let sums = self.memory.sums + number * self.memory.sums_group;
        for tile in 0..brick.tiles.iter().product() {
            let place = [tile / columns / lines, tile / columns % lines, tile % columns];
            let first: [usize; 3] = std::array::from_fn(|axis| {
                (brick.first[axis] + place[axis]) * self.lengths[axis].outputs()
            });
            let voxels = std::array::from_fn(|axis| {
                self.lengths[axis].outputs().min(self.output[axis] - first[axis])
            });
            let at = (first[0] * blocks + group.first_block) * block_stride
                + (first[1] * s2 + first[2]) * BLOCK;
            // SAFETY: as the caller promises; output and main are tensors of the output's shape,
            // and tasks write to rows and channels of their own.
            unsafe {
                let epilogue = match self.conv.epilogue {
                    Epilogue::Plain => TileEpilogue::Store,
                    Epilogue::Statistics(_) => TileEpilogue::Statistics(&raw mut *running),
                    Epilogue::AddNormalized { main, normalization } => {
                        let coefficients = &run.coefficients[run.coefficients.len() - 1];
                        let affine = coefficients.affine(group.first_block);
                        TileEpilogue::AddNormalized {
                            main: run.arena.at(run.offsets[main.0] + at),
                            mean: affine.mean,
                            scale: affine.scale,
                            shift: affine.shift,
                            slope: normalization.slope,
                        }
                    }
                };
                (run.kernels.winograd.output_tile[outputs / 2])(&OutputTile {
                    from: memory.as_ptr().add(sums + tile * group.width),
                    point_stride: side * side * stride,
                    voxel_stride: stride,
                    side,
                    width: group.width,
                    bias: run.weights.bias.pointer().add(group.first_block * BLOCK),
                    output: run.arena.at(run.offsets[self.conv.output.0] + at),
                    block_stride,
                    plane_stride: blocks * block_stride,
                    row_stride: s2 * BLOCK,
                    voxels,
                    stream: self.streamed,
                    epilogue,
                });
            }
        }
    }
}
