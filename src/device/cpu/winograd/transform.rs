//! The transforms of tiles: inputs to points along the first axis, then along the other two; and
//! from products back to outputs.

use super::super::conv_tile::TileEpilogue;
use super::super::memory::{BLOCK, Place};
use super::super::simd::Simd;
use super::super::statistics::WIDTH;
use super::super::value::Value;
use super::axis::Axis;

/// Rows of consecutive planes, of which each tile along the first axis takes [`Axis`]'s inputs.
pub(in super::super) struct InputRows {
    /// `[plane][voxel][16]`
    pub(in super::super) from: *const f32,
    /// Values between one plane's row and the next's.
    pub(in super::super) from_stride: usize,
    /// `[point][voxel][16]`
    pub(in super::super) to: *mut f32,
    /// Values between one point's row and the next's.
    pub(in super::super) to_stride: usize,
    pub(in super::super) voxels: usize,
}

/// Transforms rows along the first axis.
///
/// # Safety
/// The processor has `S`; every pointer is valid for what its comment says.
#[inline(always)]
pub(in super::super) unsafe fn input_rows<
    S: Simd,
    A: Axis<M, P>,
    const M: usize,
    const P: usize,
>(
    rows: &InputRows,
) {
    // SAFETY: as the caller promises.
    unsafe {
        for at in (0..rows.voxels * BLOCK).step_by(S::LANES) {
            let mut values = [S::splat(0.0); P];
            for (plane, value) in values.iter_mut().enumerate() {
                *value = S::load(rows.from.add(plane * rows.from_stride + at));
            }
            for (point, value) in A::input::<S>(values).into_iter().enumerate() {
                S::store(rows.to.add(point * rows.to_stride + at), value);
            }
        }
    }
}

/// Planes, one for each layer of tiles, to be transformed along the other two axes.
pub(in super::super) struct InputPlanes {
    /// `[layer][row][voxel][16]`
    pub(in super::super) from: *const f32,
    /// Values between one layer's plane and the next's, and between rows.
    pub(in super::super) layer: usize,
    pub(in super::super) row: usize,
    /// Tiles along each axis.
    pub(in super::super) tiles: [usize; 3],
    /// `[point][tile][16]`
    pub(in super::super) to: *mut f32,
    /// Values between one point's tiles and the next's.
    pub(in super::super) point_stride: usize,
}

/// Transforms planes along the second and third axes.
///
/// # Safety
/// As for [`input_rows`].
#[inline(always)]
pub(in super::super) unsafe fn input_planes<
    S: Simd,
    A: Axis<M, P>,
    const M: usize,
    const P: usize,
>(
    planes: &InputPlanes,
) {
    let [layers, lines, columns] = planes.tiles;
    // SAFETY: as the caller promises.
    unsafe {
        for layer in 0..layers {
            for line in 0..lines {
                for column in 0..columns {
                    let from = planes
                        .from
                        .add(layer * planes.layer + line * M * planes.row + column * M * BLOCK);
                    let tile = (layer * lines + line) * columns + column;
                    let to = planes.to.add(tile * BLOCK);
                    for lane in (0..BLOCK).step_by(S::LANES) {
                        let mut half = [[S::splat(0.0); P]; P];
                        #[expect(clippy::needless_range_loop, reason = "a column of `half`")]
                        for x in 0..P {
                            let mut values = [S::splat(0.0); P];
                            for (y, value) in values.iter_mut().enumerate() {
                                *value = S::load(from.add(y * planes.row + x * BLOCK + lane));
                            }
                            for (y, value) in A::input::<S>(values).into_iter().enumerate() {
                                half[y][x] = value;
                            }
                        }
                        for (y, row) in half.into_iter().enumerate() {
                            for (x, value) in A::input::<S>(row).into_iter().enumerate() {
                                S::store(to.add((y * P + x) * planes.point_stride + lane), value);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Products of the points of a plane, to be transformed back along the second and third axes.
pub(in super::super) struct OutputPlanes {
    /// `[point][tile][output channel]`
    pub(in super::super) from: *const f32,
    /// Values between one point's tiles and the next's.
    pub(in super::super) point_stride: usize,
    /// Tiles times output channels.
    pub(in super::super) values: usize,
    /// `[voxel of the tile][tile][output channel]`
    pub(in super::super) to: *mut f32,
    /// Values between one voxel's tiles and the next's.
    pub(in super::super) voxel_stride: usize,
    /// Whether to add to what is there.
    pub(in super::super) add: bool,
}

/// Transforms planes back.
///
/// # Safety
/// As for [`input_rows`].
#[inline(always)]
pub(in super::super) unsafe fn output_planes<
    S: Simd,
    A: Axis<M, P>,
    const M: usize,
    const P: usize,
>(
    planes: &OutputPlanes,
) {
    // SAFETY: as the caller promises.
    unsafe {
        for at in (0..planes.values).step_by(S::LANES) {
            let mut half = [[S::splat(0.0); P]; M];
            #[expect(clippy::needless_range_loop, reason = "a column of `half`")]
            for x in 0..P {
                let mut values = [S::splat(0.0); P];
                for (y, value) in values.iter_mut().enumerate() {
                    *value = S::load(planes.from.add((y * P + x) * planes.point_stride + at));
                }
                for (y, value) in A::output::<S>(values).into_iter().enumerate() {
                    half[y][x] = value;
                }
            }
            for (y, row) in half.into_iter().enumerate() {
                for (x, mut value) in A::output::<S>(row).into_iter().enumerate() {
                    let to = planes.to.add((y * M + x) * planes.voxel_stride + at);
                    if planes.add {
                        value = S::add(S::load(to), value);
                    }
                    S::store(to, value);
                }
            }
        }
    }
}

/// A tile whose planes are to be transformed along the first axis and written.
pub(in super::super) struct OutputTile {
    /// `[point][row][voxel of the row][output channel]`
    pub(in super::super) from: *const f32,
    /// Values between one point and the next, and between one voxel and the next.
    pub(in super::super) point_stride: usize,
    pub(in super::super) voxel_stride: usize,
    /// Rows, and voxels of a row, that a tile has.
    pub(in super::super) side: usize,
    /// Output channels.
    pub(in super::super) width: usize,
    /// One value for each output channel.
    pub(in super::super) bias: *const f32,
    /// The tile's first voxel in the first block of 16 output channels.
    pub(in super::super) output: Place,
    /// Values between one block, plane or row of the output and the next.
    pub(in super::super) block_stride: usize,
    pub(in super::super) plane_stride: usize,
    pub(in super::super) row_stride: usize,
    /// Voxels along each axis that lie in the output.
    pub(in super::super) voxels: [usize; 3],
    /// Whether the output is too large to stay in a cache: then it need not pass through one.
    pub(in super::super) stream: bool,
    pub(in super::super) epilogue: TileEpilogue,
}

/// Transforms a tile back along the first axis, and writes it.
///
/// # Safety
/// As for [`input_rows`].
#[inline(always)]
pub(in super::super) unsafe fn output_tile<
    S: Simd,
    T: Value,
    A: Axis<M, P>,
    const M: usize,
    const P: usize,
>(
    tile: &OutputTile,
) {
    let [planes, rows, columns] = tile.voxels;
    let count = (planes * rows * columns) as f32;
    let (mut means, mut deviations) = ([0.0; WIDTH], [0.0; WIDTH]);
    // SAFETY: as the caller promises.
    unsafe {
        for channel in (0..tile.width).step_by(S::LANES) {
            let bias = S::load(tile.bias.add(channel));
            let in_output = channel / BLOCK * tile.block_stride + channel % BLOCK;
            let output = tile.output.values::<T>().add(in_output);
            let mut total = S::splat(0.0);
            // `[row][column][plane]`; a tile has at most 4 rows and columns.
            let mut written = [[[S::splat(0.0); M]; 4]; 4];
            for (row, written) in written.iter_mut().enumerate().take(rows) {
                for (column, written) in written.iter_mut().enumerate().take(columns) {
                    let from =
                        tile.from.add((row * tile.side + column) * tile.voxel_stride + channel);
                    let mut values = [S::splat(0.0); P];
                    for (point, value) in values.iter_mut().enumerate() {
                        *value = S::load(from.add(point * tile.point_stride));
                    }
                    let in_plane = row * tile.row_stride + column * BLOCK;
                    for (plane, sum) in A::output::<S>(values).into_iter().enumerate() {
                        if plane >= planes {
                            break;
                        }
                        let at = plane * tile.plane_stride + in_plane;
                        let mut value = S::add(sum, bias);
                        if let TileEpilogue::AddNormalized { main, mean, scale, shift, slope } =
                            tile.epilogue
                        {
                            let main = T::load::<S>(main.values::<T>().add(in_output + at));
                            let centred = S::sub(main, S::load(mean.add(channel)));
                            let scale = S::load(scale.add(channel));
                            let shift = S::load(shift.add(channel));
                            let sum = S::add(S::multiply_add(centred, scale, shift), value);
                            value = S::max(sum, S::mul(sum, S::splat(slope)));
                        }
                        match tile.stream {
                            true => T::stream::<S>(output.add(at), value),
                            false => T::store::<S>(output.add(at), value),
                        }
                        written[plane] = value;
                        total = S::add(total, value);
                    }
                }
            }
            if let TileEpilogue::Statistics(_) = tile.epilogue {
                let mean = S::mul(total, S::splat(1.0 / count));
                let mut squares = S::splat(0.0);
                for row in written.iter().take(rows) {
                    for values in row.iter().take(columns) {
                        for &value in values.iter().take(planes) {
                            let difference = S::sub(value, mean);
                            squares = S::multiply_add(difference, difference, squares);
                        }
                    }
                }
                S::store(means.as_mut_ptr().add(channel), mean);
                S::store(deviations.as_mut_ptr().add(channel), squares);
            }
        }
        if let TileEpilogue::Statistics(running) = tile.epilogue {
            (*running).merge(f64::from(count), &means, &deviations);
        }
    }
}

/// Weights of one group of output channels, to be transformed for one plane of points.
pub(in super::super) struct WeightPlanes {
    /// `[input channel][tap][output channel]`
    pub(in super::super) from: *const f32,
    pub(in super::super) channels: usize,
    /// Output channels.
    pub(in super::super) width: usize,
    /// What each tap along the first axis adds to the plane; of 1 tap the first counts.
    pub(in super::super) factors: [f32; 3],
    /// Taps along the first axis: 1 or 3.
    pub(in super::super) depth: usize,
    /// `[point][input channel][output channel]`
    pub(in super::super) to: *mut f32,
    /// Values between one point and the next.
    pub(in super::super) point_stride: usize,
}

/// Transforms weights.
///
/// # Safety
/// As for [`input_rows`].
#[inline(always)]
pub(in super::super) unsafe fn weight_planes<
    S: Simd,
    A: Axis<M, P>,
    const M: usize,
    const P: usize,
>(
    planes: &WeightPlanes,
) {
    // SAFETY: as the caller promises.
    unsafe {
        match planes.depth {
            1 => weight_planes_of::<S, A, M, P, 1>(planes),
            _ => weight_planes_of::<S, A, M, P, 3>(planes),
        }
    }
}

#[inline(always)]
unsafe fn weight_planes_of<
    S: Simd,
    A: Axis<M, P>,
    const M: usize,
    const P: usize,
    const DEPTH: usize,
>(
    planes: &WeightPlanes,
) {
    let width = planes.width;
    // SAFETY: as the caller of `weight_planes` promises.
    unsafe {
        let factors = planes.factors.map(|factor| S::splat(factor));
        for channel in 0..planes.channels {
            for lane in (0..width).step_by(S::LANES) {
                let from = planes.from.add(channel * DEPTH * 9 * width + lane);
                let to = planes.to.add(channel * width + lane);
                let mut half = [[S::splat(0.0); 3]; P];
                #[expect(clippy::needless_range_loop, reason = "a column of `half`")]
                for x in 0..3 {
                    let mut values = [S::splat(0.0); 3];
                    for (y, value) in values.iter_mut().enumerate() {
                        *value = S::mul(S::load(from.add((y * 3 + x) * width)), factors[0]);
                        for (z, &factor) in factors.iter().enumerate().take(DEPTH).skip(1) {
                            let tap = S::load(from.add(((z * 3 + y) * 3 + x) * width));
                            *value = S::multiply_add(tap, factor, *value);
                        }
                    }
                    for (y, value) in A::weights::<S>(values).into_iter().enumerate() {
                        half[y][x] = value;
                    }
                }
                for (y, row) in half.into_iter().enumerate() {
                    for (x, value) in A::weights::<S>(row).into_iter().enumerate() {
                        S::store(to.add((y * P + x) * planes.point_stride), value);
                    }
                }
            }
        }
    }
}
