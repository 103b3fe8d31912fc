//! nnU-Net v2's `ResidualEncoderUNet` (Isensee et al., "nnU-Net Revisited", MICCAI 2024,
//! arXiv 2404.09556): residual blocks down, the decoder of the plain network up.

use super::Built;
use super::builder::{Builder, Layer};
use crate::model::package::Part;
use crate::net::{Normalization, Source};

pub(super) fn build(part: &Part) -> Built {
    let (mut build, input) = Builder::new(part);
    let shape = build.shape;
    let channels = shape.stem_channels.unwrap_or(shape.channels[0]);
    let layer = Layer { sources: vec![input], channels, kernel: shape.kernels[0], stride: [1; 3] };
    let mut last = build.named_block("encoder.stem.convs.0", "norm", layer);
    let mut skips = Vec::new();
    for level in 0..shape.channels.len() {
        for number in 0..shape.blocks[level] {
            let stride = if number == 0 { shape.stride_into(level) } else { [1; 3] };
            let name = format!("encoder.stages.{level}.blocks.{number}");
            last = block(&mut build, &name, last, level, stride);
        }
        skips.push(last);
    }
    build.unet_decoder(&skips)
}

/// `activate(main + shortcut)`; the shortcut is the mean of the voxels that a stride leaves out,
/// projected if the channels change.
fn block(
    build: &mut Builder,
    name: &str,
    input: Source,
    level: usize,
    stride: [usize; 3],
) -> Source {
    let (channels, kernel) = (build.shape.channels[level], build.shape.kernels[level]);
    let layer = Layer { sources: vec![input], channels, kernel, stride };
    let inner = build.named_block(&format!("{name}.conv1"), "norm", layer);
    let layer = Layer { sources: vec![inner], channels, kernel, stride: [1; 3] };
    let (conv, norm) = (format!("{name}.conv2.conv"), format!("{name}.conv2.norm"));
    let (main, normalization) = build.conv_block(&conv, &norm, layer, true);

    let mut shortcut = input;
    let pooled = stride != [1; 3];
    if pooled {
        shortcut = build.average_pool(shortcut, stride);
    }
    if build.channels(&input) != channels {
        let name = format!("{name}.skip.{}", usize::from(pooled));
        let layer = Layer { sources: vec![shortcut], channels, kernel: [1; 3], stride: [1; 3] };
        let (conv, norm) = (format!("{name}.conv"), format!("{name}.norm"));
        let (tensor, normalization) = build.conv_block(&conv, &norm, layer, false);
        // No activation comes before the sum.
        let normalization = Normalization { slope: 1.0, ..normalization };
        shortcut = Source { tensor, upsample: [1; 3], normalization: Some(normalization) };
    }
    build.join(main, normalization, shortcut)
}
