//! The input of a convolution: its sources concatenated, enlarged, normalised and activated.

use super::conv::ConvWeights;
use super::kernels::{Kernels, ReadKernels};
use super::memory::{BLOCK, Place, Shared, Values};
use super::norm::Coefficients;
use super::quantise::Quantisation;
use super::rows::{GatherRow, SpreadRow};
use super::statistics::Partial;
use crate::net::{Conv, Network};

/// Up to 16 channels of one source.
pub(super) struct Chunk {
    pub(super) source: usize,
    pub(super) block: usize,
    pub(super) channels: usize,
}

impl Chunk {
    /// All channels that `conv` reads, in order.
    pub(super) fn of(network: &Network, conv: &Conv) -> Vec<Self> {
        conv.sources
            .iter()
            .enumerate()
            .flat_map(|(source, read)| {
                let channels = network.tensors[read.tensor.0].channels;
                (0..channels.div_ceil(BLOCK)).map(move |block| Self {
                    source,
                    block,
                    channels: (channels - block * BLOCK).min(BLOCK),
                })
            })
            .collect()
    }
}

/// Voxels of the (enlarged) input of `conv` along each axis.
pub(super) fn conv_input(network: &Network, conv: &Conv) -> [usize; 3] {
    let first = &conv.sources[0];
    let stored = network.tensors[first.tensor.0].shape;
    std::array::from_fn(|axis| stored[axis] * first.upsample[axis])
}

/// What a run of a convolution needs besides its layout.
pub(super) struct ConvRun<'a> {
    pub(super) network: &'a Network,
    pub(super) kernels: &'a Kernels,
    pub(super) arena: Values,
    /// First value of each tensor in the arena.
    pub(super) offsets: &'a [usize],
    pub(super) weights: &'a ConvWeights,
    /// One for each source that is normalised, in the sources' order; then the epilogue's.
    pub(super) coefficients: &'a [Coefficients],
    /// `[brick][padded output channels]`
    pub(super) partials: Shared<Partial>,
}

/// A row, `[voxel][16]`, to fill with a chunk of the (enlarged) input of a convolution.
pub(super) struct ReadRow<'a> {
    pub(super) conv: &'a Conv,
    pub(super) chunk: &'a Chunk,
    /// The first voxel, and how far apart they are along the last axis.
    pub(super) first: [usize; 3],
    pub(super) stride: usize,
    /// Whether the next row of the same plane will be read soon.
    pub(super) next: bool,
    /// Where they go; for kernels that look up the range of values, the
    /// [`Extent`](super::quantise::Extent).
    pub(super) to: Place,
    /// How they are quantised, if the kernels do that.
    pub(super) how: Quantisation,
    /// Voxels of the row.
    pub(super) count: usize,
}

impl ConvRun<'_> {
    /// Fills a row.
    ///
    /// # Safety
    /// The processor has the kernels' instructions; arena, offsets and coefficients belong to the
    /// convolution's network; every voxel lies in the input; the row has room for them.
    pub(super) unsafe fn read_row(&self, read: &ReadKernels, row: &ReadRow) {
        let &ReadRow { conv, chunk, first, stride, next, to, how, count } = row;
        let source = &conv.sources[chunk.source];
        let stored = &self.network.tensors[source.tensor.0];
        let [s0, s1, s2] = stored.shape;
        let [u0, u1, upsample] = source.upsample;
        let (plane, line) = (first[0] / u0, first[1] / u1);
        let tensor = self.offsets[source.tensor.0];
        // SAFETY: offsets and shapes are those of the arena's tensors.
        unsafe {
            if source.tensor == self.network.input {
                let channel_stride = s0 * s1 * s2;
                (read.spread_row)(&SpreadRow {
                    from: self.arena.at(tensor
                        + chunk.block * BLOCK * channel_stride
                        + (plane * s1 + line) * s2),
                    channel_stride,
                    channels: chunk.channels,
                    padded_channels: self.kernels.brick.written_channels(chunk.channels),
                    to,
                    count,
                    first: first[2],
                    stride,
                    upsample,
                    how,
                });
            } else {
                let block = plane * stored.channels.div_ceil(BLOCK) + chunk.block;
                (read.gather_row)(&GatherRow {
                    from: self.arena.at(tensor + (block * s1 + line) * s2 * BLOCK),
                    to,
                    count,
                    first: first[2],
                    stride,
                    upsample,
                    ahead: if next { s2 * BLOCK * conv.stride[1] } else { 0 },
                    affine: source.normalization.as_ref().map(|_| {
                        let normalized = conv.sources[..chunk.source]
                            .iter()
                            .filter(|source| source.normalization.is_some())
                            .count();
                        self.coefficients[normalized].affine(chunk.block)
                    }),
                    how,
                });
            }
        }
    }
}
