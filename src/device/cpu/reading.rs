//! The input of a convolution: its sources concatenated, enlarged, normalised and activated.

use super::conv::ConvWeights;
use super::kernels::Kernels;
use super::memory::{BLOCK, Shared};
use super::norm::Coefficients;
use super::rows::GatherRow;
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
    pub(super) arena: Shared<f32>,
    /// First value of each tensor in the arena.
    pub(super) offsets: &'a [usize],
    pub(super) weights: &'a ConvWeights,
    /// One for each source that is normalised, in the sources' order; then the epilogue's.
    pub(super) coefficients: &'a [Coefficients],
    /// `[brick][padded output channels]`
    pub(super) partials: Shared<Partial>,
}

impl ConvRun<'_> {
    /// Fills a row, `[voxel][16]`, with a chunk of `conv`'s (enlarged) input from voxel `first`
    /// on, `stride` voxels apart along the last axis. `next` says whether the next row of the same
    /// plane will be read soon.
    ///
    /// # Safety
    /// The processor has the kernels' instructions; arena, offsets and coefficients belong to the
    /// convolution's network; every voxel lies in the input.
    pub(super) unsafe fn read_row(
        &self,
        conv: &Conv,
        chunk: &Chunk,
        first: [usize; 3],
        stride: usize,
        next: bool,
        row: &mut [f32],
    ) {
        let source = &conv.sources[chunk.source];
        let [s0, s1, s2] = self.network.tensors[source.tensor.0].shape;
        let [u0, u1, upsample] = source.upsample;
        let line = (first[0] / u0 * s1 + first[1] / u1) * s2;
        let count = row.len() / BLOCK;
        // SAFETY: offsets and shapes are those of the arena's tensors; the row holds `count`
        // voxels.
        unsafe {
            let tensor = self.arena.get().cast_const().add(self.offsets[source.tensor.0]);
            if source.tensor == self.network.input {
                // The network's input lies channel by channel.
                for channel in 0..chunk.channels {
                    let plane = (chunk.block * BLOCK + channel) * s0 * s1 * s2;
                    let from = tensor.add(plane + line);
                    for x in 0..count {
                        row[x * BLOCK + channel] = *from.add((first[2] + x * stride) / upsample);
                    }
                }
            } else {
                (self.kernels.gather_row)(&GatherRow {
                    from: tensor.add((chunk.block * s0 * s1 * s2 + line) * BLOCK),
                    to: row.as_mut_ptr(),
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
                });
            }
        }
    }
}
