//! STU-Net (Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models",
//! arXiv 2304.06716): residual blocks down and up.
//!
//! The 1x1x1 convolution that follows a nearest-neighbour enlargement runs before it, which gives
//! the same values.

use super::Built;
use super::builder::{Builder, Layer};
use crate::model::package::Part;
use crate::net::{Epilogue, Normalization, Source, TensorId};

pub(super) fn build(part: &Part) -> Built {
    let (mut build, mut last) = Builder::new(part);
    let shape = build.shape;
    let mut skips = Vec::new();
    for (level, (&channels, &blocks)) in shape.channels.iter().zip(&shape.blocks).enumerate() {
        let name = format!("conv_blocks_context.{level}");
        last = stage(&mut build, &name, vec![last], channels, blocks, shape.stride_into(level));
        skips.push(last);
    }
    let steps = shape.strides.len();
    for up in 0..steps {
        let level = steps - 1 - up;
        let channels = shape.channels[level];
        let layer = Layer { sources: vec![last], channels, kernel: [1; 3], stride: [1; 3] };
        let name = format!("upsample_layers.{up}.conv");
        let raised = build.conv(&name, layer, true, Epilogue::Plain);
        let raised = Source { upsample: shape.strides[level], ..Source::plain(raised) };
        let sources = vec![raised, skips[level]];
        let name = format!("conv_blocks_localization.{up}");
        last = stage(&mut build, &name, sources, channels, shape.decoder_blocks(up), [1; 3]);
    }
    build.finish(last, "seg_outputs")
}

/// Residual blocks; the first changes channels and stride and projects its shortcut.
fn stage(
    build: &mut Builder,
    name: &str,
    sources: Vec<Source>,
    channels: usize,
    blocks: usize,
    stride: [usize; 3],
) -> Source {
    let block = format!("{name}.0");
    let layer = Layer { sources: sources.clone(), channels, kernel: [3; 3], stride };
    let (main, normalization) = two_convs(build, &block, layer);
    let epilogue = Epilogue::AddNormalized { main, normalization };
    let layer = Layer { sources, channels, kernel: [1; 3], stride };
    let mut last = Source::plain(build.conv(&format!("{block}.conv3"), layer, true, epilogue));
    for number in 1..blocks {
        let sources = vec![last];
        let layer = Layer { sources, channels, kernel: [3; 3], stride: [1; 3] };
        let (main, normalization) = two_convs(build, &format!("{name}.{number}"), layer);
        last = build.join(main, normalization, last);
    }
    last
}

/// The main branch of a residual block: two convolutions, and what is pending on its result.
fn two_convs(build: &mut Builder, block: &str, first: Layer) -> (TensorId, Normalization) {
    let channels = first.channels;
    let mut conv = |number: usize, layer: Layer| {
        let (conv, norm) = (format!("{block}.conv{number}"), format!("{block}.norm{number}"));
        build.conv_block(&conv, &norm, layer, true)
    };
    let (tensor, normalization) = conv(1, first);
    let source = Source { tensor, upsample: [1; 3], normalization: Some(normalization) };
    conv(2, Layer { sources: vec![source], channels, kernel: [3; 3], stride: [1; 3] })
}
