//! The last layer's weights: from features to class scores.

use super::kernels::Kernels;
use super::memory::{BLOCK, Buffer};
use super::scores::{Scored, Side};
use crate::base::Result;
use crate::net::{Network, Weights};

/// The heads of all folds.
pub(in crate::device) struct Head {
    pub(in crate::device) classes: usize,
    /// Classes, rounded up to whole blocks.
    pub(in crate::device) padded_classes: usize,
    /// Features of one fold, rounded up to whole blocks.
    pub(in crate::device) features: usize,
    pub(in crate::device) folds: usize,
    /// `[fold][feature][padded classes]`
    pub(in crate::device) weights: Buffer,
    /// `[fold][padded classes]`; minus infinity where there is no class.
    pub(in crate::device) bias: Buffer,
    /// The folds' mean of `bias`.
    pub(in crate::device) mean_bias: Buffer,
}

impl Head {
    pub(in crate::device) fn bytes(network: &Network, folds: usize) -> u64 {
        let features = network.tensors[network.output.0].channels.next_multiple_of(BLOCK);
        let classes = network.classes.next_multiple_of(BLOCK);
        4 * (folds * classes * (features + 1) + classes) as u64
    }

    pub(in crate::device) fn load(network: &Network, source: &dyn Weights) -> Result<Self> {
        let channels = network.tensors[network.output.0].channels;
        let features = channels.next_multiple_of(BLOCK);
        let classes = network.classes;
        let padded_classes = classes.next_multiple_of(BLOCK);
        let folds = source.folds();
        let mut weights = Buffer::zeroed("head", folds * features * padded_classes)?;
        let mut bias = Buffer::zeroed("head", folds * padded_classes)?;
        let mut mean_bias = Buffer::zeroed("head", padded_classes)?;
        for fold in 0..folds {
            let weight = source.parameter(fold, network.head.weight)?;
            let packed = &mut weights.values_mut()[fold * features * padded_classes..];
            for (class, row) in weight.chunks_exact(channels).enumerate() {
                for (feature, &value) in row.iter().enumerate() {
                    packed[feature * padded_classes + class] = value;
                }
            }
            let packed = &mut bias.values_mut()[fold * padded_classes..][..padded_classes];
            packed[classes..].fill(f32::NEG_INFINITY);
            if let Some(id) = network.head.bias {
                packed[..classes].copy_from_slice(&source.parameter(fold, id)?);
            }
            for (mean, &bias) in mean_bias.values_mut().iter_mut().zip(&*packed) {
                *mean += bias / folds as f32;
            }
        }
        Ok(Self { classes, padded_classes, features, folds, weights, bias, mean_bias })
    }

    /// The scores, `[class]`, of voxels whose features lie side by side: those of one fold, or of all
    /// folds, one fold's after the other, for the mean of their scores. `values` and `scores` are
    /// buffers of a thread's scratch memory.
    ///
    /// # Safety
    /// `values` holds the features and `scores` has room for the padded classes, of as many voxels
    /// as lie side by side; the kernels' instructions are there.
    pub(super) unsafe fn score<'s>(
        &self,
        kernels: &Kernels,
        fold: Option<usize>,
        values: &Buffer,
        scores: &'s mut Buffer,
    ) -> &'s mut [Side] {
        let [features, classes] = [self.features, self.padded_classes];
        // SAFETY: there are `folds` sets of weights; the rest as the caller promises.
        unsafe {
            let (feature_count, weights, bias) = match fold {
                Some(fold) => (
                    features,
                    self.weights.pointer().add(fold * features * classes),
                    self.bias.pointer().add(fold * classes),
                ),
                None => (features * self.folds, self.weights.pointer(), self.mean_bias.pointer()),
            };
            (kernels.score)(&Scored {
                features: values.pointer(),
                feature_count,
                weights,
                bias,
                classes: self.classes,
                padded_classes: classes,
                scores: scores.values_mut().as_mut_ptr(),
            });
        }
        &mut bytemuck::cast_slice_mut(scores.values_mut())[..self.classes]
    }
}
