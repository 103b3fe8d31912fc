//! nnU-Net v1's `Generic_UNet`: stacks of convolutions, strided ones down, transposed ones up.
//! Its decoder takes each kernel from one resolution deeper than nnU-Net v2's.

use super::Built;
use super::builder::{Builder, Layer};
use crate::model::package::Part;

pub(super) fn build(part: &Part) -> Built {
    let (mut build, mut last) = Builder::new(part);
    let shape = build.shape;
    let steps = shape.strides.len();
    let mut skips = Vec::new();
    for level in 0..=steps {
        let name = format!("conv_blocks_context.{level}");
        let (blocks, kernel) = (shape.blocks[level], shape.kernels[level]);
        for number in 0..blocks {
            let block = match level == steps {
                true => in_two_lists(&name, number, blocks),
                false => format!("{name}.blocks.{number}"),
            };
            let stride = if number == 0 { shape.stride_into(level) } else { [1; 3] };
            let channels = shape.channels[level];
            let layer = Layer { sources: vec![last], channels, kernel, stride };
            last = build.named_block(&block, "instnorm", layer);
        }
        skips.push(last);
    }
    for up in 0..steps {
        let level = steps - 1 - up;
        let (channels, kernel) = (shape.channels[level], shape.kernels[level + 1]);
        let raised = build.transposed(&format!("tu.{up}"), last, channels, shape.strides[level]);
        let name = format!("conv_blocks_localization.{up}");
        let blocks = shape.decoder_blocks(up);
        let mut sources = vec![raised, skips[level]];
        for number in 0..blocks {
            let block = in_two_lists(&name, number, blocks);
            let layer = Layer { sources, channels, kernel, stride: [1; 3] };
            last = build.named_block(&block, "instnorm", layer);
            sources = vec![last];
        }
    }
    build.finish(last, "seg_outputs")
}

/// The name of a convolution of the deepest stack or of a decoder's: the last is in a list of its
/// own.
fn in_two_lists(stack: &str, number: usize, blocks: usize) -> String {
    match number + 1 == blocks {
        true => format!("{stack}.1.blocks.0"),
        false => format!("{stack}.0.blocks.{number}"),
    }
}
