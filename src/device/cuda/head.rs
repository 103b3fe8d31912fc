//! The last layer's weights on the device.

use super::Gpu;
use super::driver::{Buffer, Stream};
use super::parameters as kernel;
use crate::base::Result;
use crate::device::MemoryPart;
use crate::device::cpu::head::Head as HostHead;
use crate::net::{Network, Weights};

/// Voxels that a block of a scoring kernel takes at a time.
pub(super) fn scored_voxels(padded_classes: usize) -> usize {
    if padded_classes <= 32 { 256 } else { 64 }
}

/// The heads of all folds, laid out as the processor's.
pub(super) struct Head {
    pub(super) classes: usize,
    /// Classes, rounded up to whole blocks of channels.
    pub(super) padded_classes: usize,
    /// Features of one fold, rounded up likewise.
    pub(super) features: usize,
    pub(super) folds: usize,
    /// `[fold][feature][padded classes]`
    weights: Buffer<f32>,
    /// `[fold][padded classes]`, and then the folds' mean.
    bias: Buffer<f32>,
}

impl Head {
    /// What it occupies.
    pub(super) fn memory(network: &Network, folds: usize) -> MemoryPart {
        MemoryPart::on_device("head", HostHead::bytes(network, folds))
    }

    /// Brings the heads of all folds to the device.
    pub(super) fn load(gpu: &Gpu, network: &Network, source: &dyn Weights) -> Result<Self> {
        let host = HostHead::load(network, source)?;
        let HostHead { classes, padded_classes, features, folds, .. } = host;
        let weights = &host.weights.values()[..folds * features * padded_classes];
        let mut bias = host.bias.values()[..folds * padded_classes].to_vec();
        bias.extend_from_slice(&host.mean_bias.values()[..padded_classes]);
        Ok(Self {
            classes,
            padded_classes,
            features,
            folds,
            weights: Buffer::of(&gpu.stream, "the network's head", weights)?,
            bias: Buffer::of(&gpu.stream, "the network's head", &bias)?,
        })
    }

    /// One fold's, for the features of its own.
    pub(super) fn of_fold(&self, fold: usize) -> kernel::Head {
        kernel::Head {
            weights: self.weights.at(fold * self.features * self.padded_classes),
            bias: self.bias.at(fold * self.padded_classes),
            classes: self.classes as i32,
            padded_classes: self.padded_classes as i32,
        }
    }

    /// All folds' together, for their features one after the other.
    pub(super) fn of_all(&self) -> kernel::Head {
        kernel::Head { bias: self.bias.at(self.folds * self.padded_classes), ..self.of_fold(0) }
    }
}

/// A head that leaves the classes' values as they are, where they are what was blended.
pub(super) struct Identity {
    weights: Buffer<f32>,
    bias: Buffer<f32>,
}

impl Identity {
    pub(super) fn bytes(padded_classes: usize) -> u64 {
        4 * (padded_classes * (padded_classes + 1)) as u64
    }

    pub(super) fn new(stream: &Stream, head: &Head) -> Result<Self> {
        let width = head.padded_classes;
        let mut weights = vec![0.0; width * width];
        weights.iter_mut().step_by(width + 1).take(head.classes).for_each(|weight| *weight = 1.0);
        let mut bias = vec![0.0; width];
        bias[head.classes..].fill(f32::NEG_INFINITY);
        let what = "scores of blended classes";
        Ok(Self {
            weights: Buffer::of(stream, what, &weights)?,
            bias: Buffer::of(stream, what, &bias)?,
        })
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.weights.bytes() + self.bias.bytes()
    }

    pub(super) fn kernel_head(&self, head: &Head) -> kernel::Head {
        kernel::Head {
            weights: self.weights.address(),
            bias: self.bias.address(),
            ..head.of_fold(0)
        }
    }
}
