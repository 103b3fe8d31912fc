//! The two ways to compute a convolution, which one it takes, and whether its output may overlap
//! its source.

use super::conv::{ConvLayout, ConvWeights, Scratch};
use super::kernels::Kernels;
use super::memory::BLOCK;
use super::reading::ConvRun;
use super::statistics::Partial;
use super::winograd::{Tiling, Winograd};
use crate::base::Result;
use crate::base::pool::MOST_ROWS;
use crate::net::{Conv, Epilogue, Network};

/// How a convolution is to be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Method {
    /// The way that is expected to take the least time.
    #[default]
    Fastest,
    /// The sum as it is written.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests to compare with"))]
    Direct,
    /// Winograd's algorithm where the kernel allows it.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests to compare with"))]
    Winograd(Tiling),
}

/// How a convolution is computed; depends on shapes only, so that neither the number of threads
/// nor a budget changes a bit of the result.
pub(super) enum Path {
    Direct(Box<ConvLayout>),
    Winograd(Box<Winograd>),
}

/// Tasks that compute the same planes of the output; their numbers follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskRow {
    pub(super) tasks: usize,
    /// Output planes.
    pub(super) planes: usize,
}

impl TaskRow {
    /// Rows that may be under way at once where the output overlaps the source: more than one, and
    /// twice as many tasks as there are threads, so that few wait.
    pub(super) fn under_way(self, threads: usize) -> usize {
        (2 * threads).div_ceil(self.tasks).clamp(2, MOST_ROWS)
    }
}

impl Path {
    pub(super) fn new(network: &Network, conv: &Conv, kernels: &Kernels, method: Method) -> Self {
        let tiling = match method {
            Method::Direct => None,
            Method::Fastest => Tiling::best(network, conv, kernels),
            Method::Winograd(tiling) => Some(tiling),
        };
        match tiling.and_then(|tiling| Winograd::new(network, conv, kernels, tiling)) {
            None => Self::Direct(Box::new(ConvLayout::new(network, conv, kernels))),
            Some(layout) => Self::Winograd(Box::new(layout)),
        }
    }

    pub(super) fn conv(&self) -> &Conv {
        match self {
            Self::Direct(layout) => &layout.conv,
            Self::Winograd(layout) => &layout.conv,
        }
    }

    /// Tasks that [`Path::run_task`] is to be called for.
    pub(super) fn tasks(&self) -> usize {
        match self {
            Self::Direct(layout) => layout.tasks(),
            Self::Winograd(layout) => layout.tasks(),
        }
    }

    pub(super) fn task_row(&self) -> TaskRow {
        match self {
            Self::Direct(layout) => layout.task_row(),
            Self::Winograd(layout) => layout.task_row(),
        }
    }

    /// How many values before its only source the output is to begin, at least, if it may overlap
    /// it; `None` if it may not, or would not save memory.
    ///
    /// Of rows of `n` planes, row `r` reads the planes from `r n - 1` to `(r + 1) n`. With `k` of
    /// them under way, the rows from `r - k + 1` on may not have ended when a task of row `r` writes,
    /// so that it may write what lies before plane `(r - k + 1) n - 1` of the source. The row ends
    /// at plane `(r + 1) n` of the output, which is to lie `k n + 1` planes before that of the source.
    pub(super) fn displacement(&self, network: &Network, threads: usize) -> Option<usize> {
        let Conv { sources, output, stride, expand, epilogue, .. } = self.conv();
        let [source] = sources.as_slice() else { return None };
        let (from, to) = (&network.tensors[source.tensor.0], &network.tensors[output.0]);
        let blocks = to.channels.div_ceil(BLOCK);
        let possible = source.tensor != network.input
            && source.upsample == [1; 3]
            && *stride == [1; 3]
            && expand.is_none()
            && !matches!(epilogue, Epilogue::AddNormalized { .. })
            && from.channels.div_ceil(BLOCK) == blocks;
        let row = self.task_row();
        let planes = row.under_way(threads) * row.planes + 1;
        (possible && planes < to.shape[0])
            .then(|| planes * blocks * to.shape[1] * to.shape[2] * BLOCK)
    }

    /// Entries of [`ConvRun::partials`] that a run writes.
    pub(super) fn partials(&self) -> usize {
        match self {
            Self::Direct(layout) => layout.partials(),
            Self::Winograd(layout) => layout.partials(),
        }
    }

    /// Values of the packed weights and biases of one fold.
    pub(super) fn weight_values(&self) -> usize {
        match self {
            Self::Direct(layout) => layout.weight_values(),
            Self::Winograd(layout) => layout.weight_values(),
        }
    }

    /// Values of both parts of a thread's memory.
    pub(super) fn scratch_values(&self) -> [usize; 2] {
        match self {
            Self::Direct(layout) => layout.scratch_values(),
            Self::Winograd(layout) => [layout.scratch_values(), 0],
        }
    }

    /// Multiplications, about.
    pub(super) fn multiplications(&self, network: &Network) -> f64 {
        match self {
            Self::Direct(layout) => {
                let output = &network.tensors[layout.conv.output.0];
                let voxels = output.shape.iter().product::<usize>();
                voxels as f64 * layout.weight_values() as f64
            }
            Self::Winograd(layout) => layout.multiplications(),
        }
    }

    /// Brings weights, `[out][in][k0][k1][k2]` (or `[in][out][e0][e1][e2]`), into the order in
    /// which they are read.
    pub(super) fn pack(&self, weight: &[f32], bias: Option<&[f32]>) -> Result<ConvWeights> {
        match self {
            Self::Direct(layout) => layout.pack(weight, bias),
            Self::Winograd(layout) => layout.pack(weight, bias),
        }
    }

    /// Computes one task.
    ///
    /// # Safety
    /// The processor has the kernels' instructions; arena, offsets, weights and coefficients
    /// belong to this convolution's network; no two threads run the same task, and nobody else
    /// touches the arena, but for other tasks of the same run.
    pub(super) unsafe fn run_task(&self, run: &ConvRun, scratch: &mut Scratch, task: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            match self {
                Self::Direct(layout) => layout.run_task(run, scratch, task),
                Self::Winograd(layout) => layout.run_task(run, scratch.brick.values_mut(), task),
            }
        }
    }

    /// Merges what the tasks left, piece by piece, into one entry for each channel.
    pub(super) fn merge_partials(&self, partials: &[Partial], statistics: &mut [Partial]) {
        let channels = match self {
            Self::Direct(layout) => layout.padded_channels(),
            Self::Winograd(layout) => layout.padded_channels(),
        };
        for (channel, merged) in statistics.iter_mut().enumerate().take(channels) {
            *merged = partials[..self.partials()]
                .iter()
                .skip(channel)
                .step_by(channels)
                .fold(Partial::default(), |sum, &partial| sum.merge(partial));
        }
    }
}
