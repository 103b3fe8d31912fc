//! Which tiles and bricks suit a convolution: the one table of what costs what.

use super::super::conv::TASKS;
use super::axis::Length;
use crate::net::{Conv, Network};

/// How the work is cut.
pub(super) struct Shape {
    /// Tiles of a brick.
    pub(super) brick: [usize; 3],
    /// Chunks of input channels that are in memory together.
    pub(super) chunks: usize,
    /// Groups of output channels that one task computes.
    pub(super) groups: usize,
}

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Shape
pub(super) fn shape(
    lengths: [Length; 3],
    tiles: [usize; 3],
    chunks: usize,
    blocks: usize,
    wide: usize,
) -> Shape {
    let brick = [env("BZ", 2), env("BY", 2), env("BX", 4)];
    let brick = std::array::from_fn(|a| brick[a].min(tiles[a]));
    let lines: usize = (0..2).map(|axis| tiles[axis].div_ceil(brick[axis])).product();
    let groups = blocks.div_ceil(wide / 16);
    let per = groups.div_ceil(TASKS.div_ceil(lines).min(groups)).min(env("GR", 2));
    let _ = lengths;
    Shape { brick, chunks: chunks.min(env("CH", 4)), groups: per }
}

pub(super) fn multiplications(
    lengths: [Length; 3],
    tiles: [usize; 3],
    chunks: usize,
    channels: usize,
) -> f64 {
    let points: usize = lengths.iter().map(|length| length.points()).product();
    (tiles.iter().product::<usize>() * points * chunks * 16) as f64 * channels as f64
}

/// The tiles of `conv` if they are to have `outputs` outputs along the first axis and along the
/// others; `None` if the algorithm does not apply.
pub(in super::super) fn lengths(conv: &Conv, outputs: [Length; 2]) -> Option<[Length; 3]> {
    if conv.stride != [1; 3] || conv.expand.is_some() {
        return None;
    }
    match conv.kernel {
        [3, 3, 3] => Some([outputs[0], outputs[1], outputs[1]]),
        [1, 3, 3] => Some([Length::One, outputs[1], outputs[1]]),
        _ => None,
    }
}

/// The tiles that take the least time, or `None` if the direct sum does.
pub(in super::super) fn best_lengths(_network: &Network, conv: &Conv) -> Option<[Length; 3]> {
    let l = |n| match n {
        2 => Length::Two,
        _ => Length::Four,
    };
    let e = env("WINO", 44);
    if e == 0 {
        return None;
    }
    lengths(conv, [l(e / 10), l(e % 10)])
}
