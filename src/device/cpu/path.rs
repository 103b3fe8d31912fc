//! The two ways to compute a convolution, and which one it takes.

use super::conv::{ConvLayout, ConvWeights, Scratch};
use super::kernels::Kernels;
use super::reading::ConvRun;
use super::statistics::Partial;
use super::winograd::{Tiling, Winograd};
use crate::base::Result;
use crate::net::{Conv, Network};

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
