//! How a convolution is cut into blocks: kernel, tile, grid, shared memory. All of it follows from
//! the network and the GPU's number of multiprocessors, so that it can be tested, printed and
//! counted without a GPU.

use super::driver::Launch;
use super::parameters::{Brick, Partial};
use super::sizes::ConvSizes;
use crate::base::{Error, Result};
use crate::device::Precision;
use crate::net::plan::CHANNEL_BLOCK;
use crate::net::{Conv, Network};

/// Channels of a string: eight channels of a voxel lie together.
pub(super) const STRING: usize = 8;
/// Columns of a tile; with its planes and rows it has [`LINES`] lines of them.
const COLUMNS: usize = 8;
const LINES: usize = 32;
/// Lines of a warp.
const WARP_LINES: usize = 8;
/// Stages of weights that `conv_mma` keeps in shared memory.
const STAGES: usize = 3;
/// Threads of most convolution kernels, and voxels of a block of `conv_direct_float`.
const THREADS: usize = 128;
/// Threads of `conv_mma_64_shortcut`.
const SHORTCUT_THREADS: usize = 256;
/// Threads and voxels of a block of `conv_finish`.
pub(super) const FINISH_THREADS: usize = 256;
/// Shared memory that a block can have on every GPU since compute capability 8.0.
const LARGEST_SHARED_BYTES: usize = 99 << 10;

/// Products of half precision that a multiprocessor adds in a cycle by `mma.sync`, about.
const PRODUCTS_PER_CYCLE: usize = 1024;
/// Strings that a multiprocessor reads, normalises and writes to shared memory in a cycle, about.
const STRINGS_PER_CYCLE: usize = 2;
/// Bytes that a multiprocessor's share of the second-level cache moves in a cycle, about.
const CACHE_BYTES_PER_CYCLE: usize = 24;
/// Bytes that a multiprocessor's share of the device's memory moves in a cycle, about.
const MEMORY_BYTES_PER_CYCLE: usize = 13;
/// What one more kernel costs.
const LAUNCH_CYCLES: usize = 4000;

/// Which kernel computes a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConvKernel {
    /// `conv_mma_N` of so many output channels.
    Mma(usize),
    /// `conv_mma_64_shortcut`: as `conv_mma_64`, and a convolution of one tap beside it.
    MmaShortcut,
    /// `conv_direct_half`, for patches.
    DirectHalf,
    /// `conv_direct_float`.
    DirectFloat,
}

impl ConvKernel {
    /// Its name in the kernels' sources.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mma(16) => "conv_mma_16",
            Self::Mma(32) => "conv_mma_32",
            Self::Mma(48) => "conv_mma_48",
            Self::Mma(_) => "conv_mma_64",
            Self::MmaShortcut => "conv_mma_64_shortcut",
            Self::DirectHalf => "conv_direct_half",
            Self::DirectFloat => "conv_direct_float",
        }
    }

    /// Output channels of a block.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Mma(width) => width,
            Self::MmaShortcut => 64,
            Self::DirectHalf => 32,
            Self::DirectFloat => 16,
        }
    }

    /// Threads of a block.
    fn threads(self) -> usize {
        match self {
            Self::MmaShortcut => SHORTCUT_THREADS,
            _ => THREADS,
        }
    }

    /// Taps that it multiplies besides the convolution's own.
    fn more_taps(self) -> usize {
        usize::from(self == Self::MmaShortcut)
    }

    /// Blocks that fit a multiprocessor, about: what its registers allow.
    fn resident(self) -> usize {
        match self {
            Self::MmaShortcut => 1,
            Self::Mma(64) => 2,
            Self::Mma(48) => 2,
            _ => 4,
        }
    }
}

/// The tile of a block: planes and rows; and whether the kernel's planes are read one after the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) planes: usize,
    pub(super) rows: usize,
    pub(super) plane_groups: usize,
}

impl Tile {
    /// Tiles along each axis.
    pub(super) fn count(&self, domain: [usize; 3]) -> [usize; 3] {
        let tile = [self.planes, self.rows, COLUMNS];
        std::array::from_fn(|axis| domain[axis].div_ceil(tile[axis]))
    }

    /// Whether a warp reads each line of a brick once for three rows of taps.
    pub(super) fn shares_lines(&self, sizes: &ConvSizes) -> bool {
        sizes.kernel[1] == 3 && sizes.stride[1] == 1 && self.rows.is_multiple_of(WARP_LINES)
    }

    /// What `conv_mma` is told about its brick.
    pub(super) fn brick(&self, kernel: ConvKernel, sizes: &ConvSizes) -> Brick {
        let [tile_planes, rows, columns] = self.extent(sizes);
        let planes = if self.plane_groups > 1 { self.planes } else { tile_planes };
        let (area, odd) = (rows * columns, sizes.kernel[2] > 1 && sizes.stride[2] == 2);
        let plane_taps = if self.plane_groups > 1 { 1 } else { sizes.kernel[0] };
        let row_rounds = if self.shares_lines(sizes) { 1 } else { sizes.kernel[1] };
        let rounds = plane_taps * sizes.kernel[2] * row_rounds;
        let step = |axis: usize| if sizes.kernel[axis] == 1 { 1 } else { sizes.stride[axis] };
        let plane_step = if self.plane_groups > 1 { 1 } else { step(0) };
        Brick {
            planes: planes as i32,
            columns: columns as i32,
            odd_columns: if odd { columns.div_ceil(2) as i32 } else { 0 },
            area: area as i32,
            voxels: (planes * area) as i32,
            tile_planes: tile_planes as i32,
            copies: (2 * planes * area).div_ceil(kernel.threads()).div_ceil(rounds) as i32,
            row_bits: self.rows.ilog2() as i32,
            plane_pitch: (plane_step * area) as i32,
            row_pitch: (step(1) * columns) as i32,
        }
    }

    /// Voxels of input that the tile needs along each axis.
    fn extent(&self, sizes: &ConvSizes) -> [usize; 3] {
        let tile = [self.planes, self.rows, COLUMNS];
        std::array::from_fn(|axis| match sizes.kernel[axis] {
            1 => tile[axis],
            kernel => (tile[axis] - 1) * sizes.stride[axis] + kernel,
        })
    }

    /// Strings of eight channels that are copied for 16 channels.
    fn strings(&self, sizes: &ConvSizes) -> usize {
        let [planes, rows, columns] = self.extent(sizes);
        let planes = if self.plane_groups > 1 { self.plane_groups * self.planes } else { planes };
        2 * planes * rows * columns
    }

    /// Dynamic shared memory of a block.
    fn shared_bytes(&self, kernel: ConvKernel, sizes: &ConvSizes, splits: usize) -> usize {
        let [planes, rows, columns] = self.extent(sizes);
        let inputs: usize = sizes.stored_inputs().sum();
        let used = match kernel {
            ConvKernel::Mma(_) | ConvKernel::MmaShortcut => {
                let steps = sizes.chunks().div_ceil(splits) * self.plane_groups;
                let bricks = 16 * self.strings(sizes) / self.plane_groups * steps.min(2);
                let taps = sizes.kernel[1] + kernel.more_taps();
                let weights = STAGES * taps * kernel.width() * 32;
                let places = 4 * sizes.inputs.len() * (planes + rows * columns);
                bricks + weights + places
            }
            ConvKernel::DirectHalf => {
                let table = 4 * (inputs * sizes.taps()).next_multiple_of(16);
                table + (2 * inputs * planes * rows * columns).next_multiple_of(16)
            }
            ConvKernel::DirectFloat => 0,
        };
        used.max(kernel.threads() / 32 * kernel.width() * size_of::<Partial>())
    }

    /// Cycles of a multiprocessor for one tile's products of 16 input channels, and for copying
    /// what they read.
    fn cycles(&self, kernel: ConvKernel, sizes: &ConvSizes) -> usize {
        let taps = sizes.taps() + kernel.more_taps();
        let products = LINES * COLUMNS * kernel.width() * CHANNEL_BLOCK * taps;
        let slower = if sizes.kernel[1] == 1 || self.shares_lines(sizes) { 8 } else { 9 };
        products * slower / 8 / PRODUCTS_PER_CYCLE + self.strings(sizes) / STRINGS_PER_CYCLE
    }
}

/// How a convolution is computed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConvTiles {
    pub(super) sizes: ConvSizes,
    pub(super) kernel: ConvKernel,
    pub(super) tile: Tile,
    /// Parts that the input channels are cut into.
    pub(super) splits: usize,
    pub(super) launch: Launch,
    /// Where there are several splits: what adds them up.
    pub(super) finish: Option<Launch>,
}

impl ConvTiles {
    /// # Errors
    /// [`Error::Unsupported`] if no kernel can compute it.
    pub(super) fn new(
        network: &Network,
        conv: &Conv,
        precision: Precision,
        multiprocessors: usize,
    ) -> Result<Self> {
        let sizes = ConvSizes::new(network, conv);
        if sizes.planar && (conv.sources.len() > 1 || conv.sources[0].normalization.is_some()) {
            return Err(unsupported("an image that is concatenated or normalised in the network"));
        }
        let voxels = |shape: [usize; 3]| shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        let largest = [voxels(sizes.input), voxels(sizes.output)].into_iter().max().flatten();
        if largest.is_none_or(|voxels| i32::try_from(voxels).is_err()) {
            return Err(unsupported("a patch of 2^31 or more voxels"));
        }
        match precision {
            Precision::F32 => Ok(Self::float(sizes)),
            _ => {
                let kernel = match sizes.planar {
                    true => ConvKernel::DirectHalf,
                    false => ConvKernel::Mma(width(sizes.padded_outputs())),
                };
                Self::half(sizes, kernel, multiprocessors)
            }
        }
    }

    /// As these, in half precision, but with the shortcut's convolution.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if no tile fits.
    pub(super) fn with_shortcut(&self, multiprocessors: usize) -> Result<Self> {
        Self::half(self.sizes.clone(), ConvKernel::MmaShortcut, multiprocessors)
    }

    fn float(sizes: ConvSizes) -> Self {
        let kernel = ConvKernel::DirectFloat;
        let tile = Tile { planes: 4, rows: 8, plane_groups: 1 };
        let voxels = sizes.domain().iter().product::<usize>();
        let groups = sizes.padded_outputs() / kernel.width() * sizes.expanded();
        let launch = Launch {
            grid: [voxels.div_ceil(THREADS) as u32, groups as u32, 1],
            threads: THREADS as u32,
            shared_bytes: tile.shared_bytes(kernel, &sizes, 1) as u32,
        };
        Self { sizes, kernel, tile, splits: 1, launch, finish: None }
    }

    fn half(sizes: ConvSizes, kernel: ConvKernel, multiprocessors: usize) -> Result<Self> {
        let domain = sizes.domain();
        let mut best: Option<(usize, Tile)> = None;
        for planes in (0..=LINES.ilog2()).map(|shift| 1usize << shift) {
            let groups: &[usize] = match kernel {
                ConvKernel::Mma(_) | ConvKernel::MmaShortcut if sizes.kernel[0] == 3 => &[1, 3],
                _ => &[1],
            };
            for &plane_groups in groups {
                let tile = Tile { planes, rows: LINES / planes, plane_groups };
                if tile.shared_bytes(kernel, &sizes, 1) > LARGEST_SHARED_BYTES {
                    continue;
                }
                let tiles: usize = tile.count(domain).iter().product();
                let cost = tiles * tile.cycles(kernel, &sizes);
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, tile));
                }
            }
        }
        let Some((_, tile)) = best else {
            let channels: usize = sizes.inputs.iter().sum();
            return Err(unsupported(&format!("an image of {channels} channels")));
        };
        let tiles: usize = tile.count(domain).iter().product();
        let groups = sizes.padded_outputs().div_ceil(kernel.width()) * sizes.expanded();
        let splits = match kernel {
            ConvKernel::Mma(_) | ConvKernel::MmaShortcut => {
                let cost = |&splits: &usize| {
                    split_cycles(&sizes, kernel, tile, tiles * groups, splits, multiprocessors)
                };
                (1..=sizes.chunks().min(32)).min_by_key(cost).unwrap_or(1)
            }
            _ => 1,
        };
        let launch = Launch {
            grid: [tiles as u32, groups as u32, splits as u32],
            threads: kernel.threads() as u32,
            shared_bytes: tile.shared_bytes(kernel, &sizes, splits) as u32,
        };
        let finish = (splits > 1).then(|| Launch {
            grid: [
                sizes.output_voxels().div_ceil(FINISH_THREADS) as u32,
                (sizes.padded_outputs() / STRING) as u32,
                1 + kernel.more_taps() as u32,
            ],
            threads: FINISH_THREADS as u32,
            shared_bytes: (FINISH_THREADS / 32 * STRING * size_of::<Partial>()) as u32,
        });
        Ok(Self { sizes, kernel, tile, splits, launch, finish })
    }

    /// Blocks, each with its own partial statistics, of the kernel that writes the output.
    pub(super) fn partial_tiles(&self) -> usize {
        self.finish.unwrap_or(self.launch).grid[0] as usize
    }

    /// Partial statistics in all.
    pub(super) fn partials(&self) -> usize {
        self.partial_tiles() * self.sizes.padded_outputs()
    }

    /// Single-precision sums of the splits; behind them come as many of the shortcut, if there is
    /// one.
    pub(super) fn sums(&self) -> usize {
        match self.splits {
            1 => 0,
            splits => splits * self.sizes.outputs_in_all(),
        }
    }

    /// About how many cycles of the GPU a convolution on the tensor cores takes, one that also
    /// reads `also_read` tensors of the output's size.
    fn cycles(&self, also_read: usize, multiprocessors: usize) -> usize {
        let (sizes, [tiles, groups, splits]) = (&self.sizes, self.launch.grid);
        let (blocks, splits) = ((tiles * groups) as usize, splits as usize);
        let blocks = split_cycles(sizes, self.kernel, self.tile, blocks, splits, multiprocessors);
        // Of what a strided convolution of one tap skips, neighbours along the columns come along.
        let skipped = match sizes.taps() {
            1 => sizes.stride[0] * sizes.stride[1],
            _ => 1,
        };
        let input = sizes.stored_inputs().sum::<usize>() * sizes.input.iter().product::<usize>();
        let tensors = 1 + also_read + self.kernel.more_taps();
        let values = input / skipped + tensors * sizes.outputs_in_all();
        blocks.max(memory_cycles(values, multiprocessors)) + LAUNCH_CYCLES
    }
}

/// About how many cycles the device's memory needs for so many values of half precision.
fn memory_cycles(values: usize, multiprocessors: usize) -> usize {
    2 * values / (MEMORY_BYTES_PER_CYCLE * multiprocessors.max(1))
}

/// Whether the first convolution of a strided residual block makes the 1x1x1 convolution of its
/// shortcut, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortcuts {
    /// Where that is expected to be faster.
    #[default]
    Expected,
    /// Wherever there is a kernel for both.
    Together,
    /// Nowhere.
    Apart,
}

/// The first convolution of a residual block together with that of its shortcut, if this is asked for
/// or expected to be the faster way: where tensors are small enough for the launches to count. In large ones the
/// shortcut's values would only be written and read once more, since the sum must wait for the
/// block's second convolution.
pub(super) fn together(
    first: &ConvTiles,
    shortcut: &ConvTiles,
    how: Shortcuts,
    multiprocessors: usize,
) -> Option<ConvTiles> {
    let both = first.with_shortcut(multiprocessors).ok()?;
    let apart = first.cycles(0, multiprocessors) + shortcut.cycles(1, multiprocessors);
    let join = memory_cycles(3 * first.sizes.outputs_in_all(), multiprocessors) + LAUNCH_CYCLES;
    let faster = || both.cycles(0, multiprocessors) + join < apart;
    match how {
        Shortcuts::Expected => faster().then_some(both),
        Shortcuts::Together => Some(both),
        Shortcuts::Apart => None,
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported(format!("the CUDA kernels can't compute {what}"))
}

/// Output channels of a block: what wastes the least, if reading the input takes as long as 16
/// channels' products.
fn width(outputs: usize) -> usize {
    let cost = |&width: &usize| outputs.div_ceil(width) * (width + 16);
    [64, 48, 32, 16].into_iter().min_by_key(cost).unwrap_or(64)
}

/// About how many cycles a convolution takes whose input channels are cut into `splits`, so that every
/// multiprocessor has work where there are few tiles: waves of blocks, times their length, and the
/// sums' way through the second-level cache.
fn split_cycles(
    sizes: &ConvSizes,
    kernel: ConvKernel,
    tile: Tile,
    blocks: usize,
    splits: usize,
    multiprocessors: usize,
) -> usize {
    let (resident, multiprocessors) = (kernel.resident(), multiprocessors.max(1));
    let waves = (blocks * splits).div_ceil(multiprocessors * resident);
    let sums = match splits {
        1 => 0,
        _ => {
            let values = sizes.outputs_in_all() * (1 + kernel.more_taps());
            LAUNCH_CYCLES + values * 8 * splits / (CACHE_BYTES_PER_CYCLE * multiprocessors)
        }
    };
    waves * sizes.chunks().div_ceil(splits) * tile.cycles(kernel, sizes) * resident + sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(
        inputs: &[usize],
        outputs: usize,
        output: [usize; 3],
        stride: [usize; 3],
    ) -> ConvSizes {
        ConvSizes {
            inputs: inputs.to_vec(),
            outputs,
            planar: false,
            transposed: false,
            kernel: [3; 3],
            stride,
            expand: [1; 3],
            input: std::array::from_fn(|axis| output[axis] * stride[axis]),
            output,
        }
    }

    fn halves(sizes: ConvSizes, multiprocessors: usize) -> Result<ConvTiles> {
        let kernel = match sizes.planar {
            true => ConvKernel::DirectHalf,
            false => ConvKernel::Mma(width(sizes.padded_outputs())),
        };
        ConvTiles::half(sizes, kernel, multiprocessors)
    }

    #[test]
    fn shortcuts_are_made_together_where_launches_count() {
        // The strided blocks of STU-Net-B on an H100.
        let expected = [(32, 64, false), (64, 32, false), (128, 16, true), (256, 8, true)];
        for (channels, extent, wanted) in expected {
            let sizes = sizes(&[channels], 2 * channels, [extent; 3], [2; 3]);
            let one = ConvSizes { kernel: [1; 3], ..sizes.clone() };
            let first = halves(sizes, 132).unwrap();
            let apart = halves(one, 132).unwrap();
            let both = together(&first, &apart, Shortcuts::Expected, 132);
            assert_eq!(both.is_some(), wanted, "{channels} channels");
            let Some(both) = both else { continue };
            assert_eq!(both.launch.threads, 256);
            assert!(both.launch.shared_bytes as usize <= LARGEST_SHARED_BYTES);
            assert!(both.finish.is_none_or(|finish| finish.grid[2] == 2));
        }
    }

    #[test]
    fn widths_waste_little() {
        let widths =
            [(16, 16), (32, 32), (48, 48), (64, 64), (80, 48), (96, 48), (128, 64), (320, 64)];
        for (outputs, expected) in widths {
            assert_eq!(width(outputs), expected, "{outputs} channels");
        }
    }

    #[test]
    fn large_volumes_are_cut_into_cubes_that_leave_room_for_several_blocks() {
        let tiles = halves(sizes(&[32, 32], 32, [128; 3], [1; 3]), 132).unwrap();
        assert_eq!(tiles.kernel, ConvKernel::Mma(32));
        assert_eq!(tiles.tile, Tile { planes: 4, rows: 8, plane_groups: 1 });
        assert_eq!(tiles.launch.grid, [32 * 16 * 16, 1, 1]);
        assert_eq!(tiles.splits, 1);
        // Two bricks of 6 x 10 x 10 strings, three stages of weights, tables of two sources.
        assert_eq!(tiles.launch.shared_bytes, 2 * 600 * 32 + 3 * 3 * 32 * 32 + 2 * 4 * (6 + 100));
        // Four blocks on an H100.
        assert!(4 * (tiles.launch.shared_bytes + 1024) <= 228 << 10);
    }

    #[test]
    fn strided_bricks_are_read_plane_by_plane() {
        let tiles = halves(sizes(&[32], 64, [64; 3], [2; 3]), 132).unwrap();
        assert_eq!(tiles.tile.plane_groups, 3);
        assert!(tiles.launch.shared_bytes as usize <= LARGEST_SHARED_BYTES);
    }

    #[test]
    fn deep_levels_are_split_until_every_multiprocessor_works() {
        for (extent, channels) in [([8, 8, 8], 320), ([16, 16, 16], 256), ([4, 4, 4], 320)] {
            let tiles = halves(sizes(&[channels], channels, extent, [1; 3]), 132).unwrap();
            let blocks: u32 = tiles.launch.grid.iter().product();
            assert!(tiles.splits > 1 && blocks >= 80, "{extent:?}: {blocks} blocks");
            assert!(tiles.sums() * 4 < 64 << 20, "{extent:?}: {} sums", tiles.sums());
            assert!(tiles.finish.is_some());
        }
    }

    #[test]
    fn what_no_kernel_computes_is_refused() {
        let image =
            |channels| ConvSizes { planar: true, ..sizes(&[channels], 32, [32; 3], [1; 3]) };
        assert!(halves(image(40), 132).is_ok());
        let error = halves(image(400), 132).unwrap_err();
        assert!(error.to_string().contains("an image of 400 channels"), "{error}");
        // Single precision has no such limit.
        assert_eq!(ConvTiles::float(image(400)).kernel, ConvKernel::DirectFloat);
    }

    #[test]
    fn every_shape_fits_shared_memory() {
        for kernel in [[1, 1, 1], [3, 3, 3], [1, 3, 3], [3, 1, 1], [3, 3, 1]] {
            for stride in [[1, 1, 1], [2, 2, 2], [1, 2, 2], [2, 1, 1], [1, 1, 2]] {
                for extent in [[1, 1, 1], [5, 40, 40], [128, 128, 128], [200, 3, 7]] {
                    for (inputs, outputs) in [(16, 16), (48, 300), (1024, 1024)] {
                        let sizes = ConvSizes {
                            kernel,
                            ..sizes(&[inputs, inputs], outputs, extent, stride)
                        };
                        let tiles = halves(sizes, 132).unwrap();
                        assert!(tiles.launch.shared_bytes as usize <= LARGEST_SHARED_BYTES);
                        assert_eq!(tiles.tile.planes * tiles.tile.rows, LINES);
                        assert!(tiles.launch.grid[1] <= 65535);
                    }
                }
            }
        }
    }
}
