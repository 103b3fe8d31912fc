//! Families of networks: each maps tensor names to a graph, in a file of its own.
//!
//! Graphs are emitted fused: each convolution's normalisation and activation happen where its
//! output is read, and a bias that an instance normalisation cancels is not loaded.

mod builder;
mod generic_unet;
mod plain_unet;
mod residual_encoder_unet;
mod stunet;

use super::package::{Family, Part};
use crate::net::{Network, Parameter};

/// A network, and the tensors that belong to it and that inference does not need: biases that are
/// cancelled, the heads of deep supervision.
pub(super) struct Built {
    pub(super) network: Network,
    pub(super) unused: Vec<Parameter>,
}

/// The network of a checked part.
pub(super) fn build(part: &Part) -> Built {
    match part.architecture.family {
        Family::Stunet => stunet::build(part),
        Family::PlainUnet => plain_unet::build(part),
        Family::ResidualEncoderUnet => residual_encoder_unet::build(part),
        Family::GenericUnet => generic_unet::build(part),
    }
}

#[cfg(test)]
mod tests {
    use super::super::package::{Architecture, Part};
    use super::build;

    /// A part of a document that leaves everything but its network's shape as it may be.
    fn part(architecture: &serde_json::Value) -> Part {
        serde_json::from_value(serde_json::json!({
            "name": "sizes", "architecture": architecture, "folds": ["0"],
            "patch": [128, 128, 128], "spacing": [1.5, 1.5, 1.5],
            "axes": {"orientation": "stored", "transpose": [0, 1, 2]},
            "generation": "nnunet_v1", "normalization": [{"scheme": "zscore"}],
            "blend": "softmax", "mirror_axes": [],
            "output": {"classes": (0..105).collect::<Vec<u32>>()},
        }))
        .unwrap()
    }

    /// Weights and tensors, as many as the published checkpoint has.
    fn count(architecture: &serde_json::Value) -> (usize, usize) {
        let built = build(&part(architecture));
        let all = built.network.parameters.iter().chain(&built.unused);
        let weights = all.clone().map(|parameter| parameter.shape.iter().product::<usize>()).sum();
        (weights, all.count())
    }

    #[test]
    fn stu_nets_have_their_published_sizes() {
        let sizes = [
            (16, 1, 14_596_941, 130),
            (32, 1, 58_262_669, 130),
            (64, 2, 440_302_605, 218),
            (96, 3, 1_457_326_221, 306),
        ];
        for (base, depth, weights, tensors) in sizes {
            let found = count(&serde_json::json!({
                "family": "stunet", "input_channels": 1, "classes": 105,
                "channels": ([1, 2, 4, 8, 16, 16].map(|factor| factor * base)),
                "blocks": vec![depth; 6],
                "strides": [[2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 2]],
                "kernels": vec![[3, 3, 3]; 6],
            }));
            assert_eq!(found, (weights, tensors));
        }
    }

    // The numbers are PyTorch's, of the same networks (see docs/model-format.md on the families).
    #[test]
    fn nnu_nets_have_pytorch_s_sizes() {
        let network = |family: &str, blocks: &[usize], stages: usize, classes: usize| {
            serde_json::json!({
                "family": family, "input_channels": 1, "classes": classes,
                "channels": (0..stages).map(|i| (32 << i).min(320)).collect::<Vec<_>>(),
                "blocks": blocks, "strides": vec![[2, 2, 2]; stages - 1],
                "kernels": vec![[3, 3, 3]; stages],
            })
        };
        let plain = network("plain_unet", &[2; 6], 6, 2);
        assert_eq!(count(&plain), (31_195_594, 108));
        let mut residual = network("residual_encoder_unet", &[1, 3, 4, 6, 6, 6], 6, 2);
        residual["decoder_blocks"] = serde_json::json!([1, 1, 1, 1, 1]);
        assert_eq!(count(&residual), (102_349_770, 264));
        let mut residual = network("residual_encoder_unet", &[1, 3, 4, 6, 6, 6, 6], 7, 2);
        residual["decoder_blocks"] = serde_json::json!([1, 1, 1, 1, 1, 1]);
        assert_eq!(count(&residual), (141_889_612, 320));
        let mut generic = network("generic_unet", &[2; 6], 6, 105);
        generic["transposed_bias"] = serde_json::json!(false);
        generic["head_bias"] = serde_json::json!(false);
        assert_eq!(count(&generic), (31_277_184, 98));
    }

    #[test]
    fn a_network_without_normalization_loads_every_bias() {
        let architecture: Architecture = serde_json::from_value(serde_json::json!({
            "family": "plain_unet", "input_channels": 1, "classes": 105, "channels": [4, 8],
            "blocks": [1, 1], "strides": [[2, 2, 2]], "kernels": [[3, 3, 3], [3, 3, 3]],
            "normalization": "none",
        }))
        .unwrap();
        let built = build(&part(&serde_json::to_value(&architecture).unwrap()));
        let names: Vec<_> =
            built.network.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        assert!(names.contains(&"encoder.stages.0.0.convs.0.conv.bias"), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("norm")), "{names:?}");
        assert_eq!(built.network.statistics, 0);
    }
}
