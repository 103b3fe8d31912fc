//! nnU-Net v2's `PlainConvUNet` (Isensee et al., "nnU-Net: a self-configuring method for deep
//! learning-based biomedical image segmentation", Nature Methods 18, 2021): stacks of
//! convolutions, strided ones down, transposed ones up.

use super::Built;
use super::builder::{Builder, Layer};
use crate::model::package::Part;

pub(super) fn build(part: &Part) -> Built {
    let (mut build, mut last) = Builder::new(part);
    let shape = build.shape;
    let mut skips = Vec::new();
    for (level, (&channels, &kernel)) in shape.channels.iter().zip(&shape.kernels).enumerate() {
        for number in 0..shape.blocks[level] {
            let stride = if number == 0 { shape.stride_into(level) } else { [1; 3] };
            let block = format!("encoder.stages.{level}.0.convs.{number}");
            let layer = Layer { sources: vec![last], channels, kernel, stride };
            last = build.named_block(&block, "norm", layer);
        }
        skips.push(last);
    }
    build.unet_decoder(&skips)
}
