//! What is different where a convolution multiplies 8-bit integers.

use super::*;
use crate::device::cpu::integer_tile::{FinishRow, IntegerKernel, IntegerKernels, IntegerTile};
use crate::device::cpu::memory::Place;
use crate::device::cpu::quantise::{Extent, Quantisation};

/// Bytes after a brick: tiles beyond the end of a row read there.
pub(super) const AFTER_BRICK: usize = 1024;

/// How a row is cut into tiles of integers, for one width of output channels.
pub(super) struct IntegerRow {
    /// First voxel and kernel.
    tiles: Vec<(usize, IntegerKernel)>,
    /// Voxels of all tiles, a few more than the row's.
    voxels: usize,
}

impl IntegerRow {
    fn new(kernels: &[(usize, IntegerKernel)], voxels: usize) -> Self {
        let mut tiles = Vec::new();
        let mut done = 0;
        while done < voxels {
            let fits = kernels.iter().find(|&&(most, _)| most <= voxels - done);
            let Some(&(most, kernel)) = fits.or(kernels.last()) else { break };
            tiles.push((done, kernel));
            done += most;
        }
        Self { tiles, voxels: done }
    }
}

/// How a convolution that multiplies integers cuts its rows.
pub(super) struct IntegerRows {
    /// Of 16 output channels, and of as many as a wide tile has.
    rows: [IntegerRow; 2],
    finish_row: unsafe fn(&FinishRow),
    /// Whether the output passes by the caches.
    pub(super) streamed: bool,
}

impl IntegerRows {
    pub(super) fn new(
        kernels: &IntegerKernels,
        voxels: usize,
        stride: usize,
        streamed: bool,
    ) -> Self {
        let rows = kernels.tiles.map(|tiles| IntegerRow::new(tiles[stride - 1], voxels));
        Self { rows, finish_row: kernels.finish_row, streamed }
    }

    /// Voxels of a row of sums.
    pub(super) fn voxels(&self) -> usize {
        self.rows.iter().map(|row| row.voxels).max().unwrap_or(0)
    }
}

/// What turns a group's sums of integers into those that are wanted.
pub(super) struct GroupFactors {
    /// What sums start from: `-zero * (sum of the weights)`.
    start: [i32; WIDTH],
    scale: [f32; WIDTH],
}

/// One row of a group's output channels.
pub(super) struct IntegerOutput {
    /// The row of sums, if they are kept between segments.
    pub(super) row: usize,
    pub(super) segment: usize,
    /// First value of the segment's weights.
    pub(super) weights: usize,
    /// First value of the input of the row's first voxel in the brick.
    pub(super) in_brick: usize,
    pub(super) output: Place,
    pub(super) output_step: usize,
    pub(super) block_stride: usize,
    pub(super) epilogue: TileEpilogue,
}

impl ConvLayout {
    /// How the brick of the output rows from `first` is quantised, if it is to be.
    ///
    /// # Safety
    /// As for [`ConvLayout::run_task`].
    pub(super) unsafe fn quantisation(
        &self,
        run: &ConvRun,
        first: [usize; 2],
        rows: [usize; 2],
    ) -> Quantisation {
        let Some(kernels) = &run.kernels.quantise else { return Quantisation::default() };
        let mut extent = Extent::default();
        let to = Place::of(&raw mut extent);
        let [planes, lines] = self.brick_rows(rows);
        let (_, stride, count) = self.row_read();
        for chunk in &self.chunks {
            for plane in 0..planes {
                let Some(z) = self.read_index(0, first, plane) else { continue };
                for line in 0..lines {
                    let Some(y) = self.read_index(1, first, line) else { continue };
                    let first = [z, y, 0];
                    let (conv, how) = (&self.conv, Quantisation::default());
                    let next = line + 1 < lines;
                    let row = ReadRow { conv, chunk, first, stride, next, to, how, count };
                    // SAFETY: as the caller promises; the voxels lie in the input.
                    unsafe { run.read_row(&kernels.see, &row) };
                }
            }
        }
        Quantisation::of(&extent)
    }

    /// What a group needs of a brick's quantisation.
    pub(super) fn group_factors(
        &self,
        run: &ConvRun,
        group: &Group,
        how: Quantisation,
    ) -> GroupFactors {
        let width = if group.wide { self.wide.width } else { self.narrow.width };
        let packed = &run.weights.packed.values()[group.factors..][..2 * width];
        let (totals, scales) = packed.split_at(width);
        let mut factors = GroupFactors { start: [0; WIDTH], scale: [0.0; WIDTH] };
        for channel in 0..width {
            let total = totals[channel].to_bits() as i32;
            factors.start[channel] = total.wrapping_mul(-(how.zero as i32));
            factors.scale[channel] = scales[channel] * how.step;
        }
        factors
    }

    /// Computes one row of a segment.
    ///
    /// # Safety
    /// As for [`ConvLayout::run_task`]; the brick has been quantised.
    pub(super) unsafe fn integer_row(
        &self,
        run: &ConvRun,
        scratch: &mut Scratch,
        group: &Group,
        factors: &GroupFactors,
        row: &IntegerOutput,
    ) {
        let Some(rows) = &self.integer_rows else { return };
        let IntegerRow { tiles, voxels } = &rows.rows[usize::from(group.wide)];
        let width = if group.wide { self.wide.width } else { self.narrow.width };
        let segment = &self.segments[row.segment];
        let channels = &self.chunk_channels[segment.clone()];
        let last = row.segment + 1 == self.segments.len();
        // SAFETY: every pointer stays in its buffer: brick and sums were sized for this layout,
        // and what is written is as the caller promises.
        unsafe {
            let brick = scratch.brick.pointer().cast::<u8>();
            let brick = brick.add(segment.start * self.chunk_stride() + row.in_brick);
            let sums = scratch.sums.shared().get().add(row.row * voxels * width);
            let bias = run.weights.bias.pointer().add(group.first_block * BLOCK);
            for &(x, kernel) in tiles {
                kernel(&IntegerTile {
                    brick: brick.add(x * self.step[2] * BLOCK),
                    chunk_stride: self.chunk_stride(),
                    chunk_channels: channels.as_ptr(),
                    chunks: channels.len(),
                    taps: self.taps.as_ptr(),
                    tap_count: self.taps.len(),
                    weights: run.weights.packed.pointer().add(row.weights),
                    sums: sums.add(x * width),
                    start: (row.segment == 0).then_some(factors.start.as_ptr()),
                    finish: last.then_some([factors.scale.as_ptr(), bias]),
                });
            }
            if last {
                (rows.finish_row)(&FinishRow {
                    sums,
                    width,
                    voxels: self.output[2],
                    output: row.output,
                    output_step: row.output_step,
                    block_stride: row.block_stride,
                    stream: rows.streamed,
                    epilogue: row.epilogue,
                });
            }
        }
    }
}
