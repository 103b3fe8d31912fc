//! Where every tensor lies in one arena.

use super::{Epilogue, Network, Op, Tensor, TensorId};
use crate::base::{Error, Result};

/// Channels that lie together in a device's memory: tensors are
/// `[ceil(channels / 16)][s0][s1][s2][16]`, but for the network's input, which is
/// `[channels][s0][s1][s2]`.
pub const CHANNEL_BLOCK: usize = 16;

/// Tensors begin at multiples of this many elements (256 bytes of `f32`).
const ALIGNMENT: usize = 64;

/// A network and the place of each of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The network.
    pub network: Network,
    /// First element of each tensor in the arena.
    pub offsets: Vec<usize>,
    /// Elements of the arena.
    pub arena: usize,
}

/// A tensor's life, in operations: written by `first`, read for the last time by `last`.
#[derive(Clone, Copy)]
struct Life {
    first: usize,
    last: usize,
    length: usize,
}

impl Plan {
    /// Places the tensors of `network`: those that live at the same time do not overlap, except
    /// that the end of a residual block may take the place of its main branch.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the arena's size does not fit the address space.
    pub fn new(network: Network) -> Result<Self> {
        let lives = lives(&network)?;
        // A tensor that replaces another one lies where that one lies.
        let mut home: Vec<usize> = (0..lives.len()).collect();
        let mut merged = lives.clone();
        for (at, op) in network.ops.iter().enumerate() {
            let (main, output) = match op {
                Op::Conv(conv) => match conv.epilogue {
                    Epilogue::AddNormalized { main, .. } => (main, conv.output),
                    _ => continue,
                },
                Op::Join(join) => (join.main, join.output),
                Op::AveragePool(_) => continue,
            };
            if lives[main.0].last == at && lives[main.0].length == lives[output.0].length {
                home[output.0] = home[main.0];
                merged[home[main.0]].last = lives[output.0].last;
            }
        }
        let (places, arena) = place(&merged, &home)?;
        let offsets = home.iter().map(|&home| places[home]).collect();
        Ok(Self { network, offsets, arena })
    }
}

/// The tensors an operation reads.
fn reads(op: &Op) -> Vec<TensorId> {
    match op {
        Op::Conv(conv) => {
            let mut tensors: Vec<_> = conv.sources.iter().map(|source| source.tensor).collect();
            if let Epilogue::AddNormalized { main, .. } = conv.epilogue {
                tensors.push(main);
            }
            tensors
        }
        Op::Join(join) => {
            [Some(join.main), join.shortcut.map(|s| s.tensor)].into_iter().flatten().collect()
        }
        Op::AveragePool(pool) => vec![pool.source.tensor],
    }
}

/// Elements a tensor occupies.
fn length(tensor: &Tensor, is_input: bool) -> Result<usize> {
    let channels = match is_input {
        true => Some(tensor.channels),
        false => tensor.channels.checked_next_multiple_of(CHANNEL_BLOCK),
    };
    channels
        .and_then(|channels| {
            tensor.shape.iter().try_fold(channels, |length, &extent| length.checked_mul(extent))
        })
        .and_then(|length| length.checked_next_multiple_of(ALIGNMENT))
        .ok_or_else(|| too_large(tensor))
}

fn too_large(tensor: &Tensor) -> Error {
    Error::Unsupported(format!(
        "a tensor of {} channels and {:?} voxels does not fit the address space",
        tensor.channels, tensor.shape
    ))
}

fn lives(network: &Network) -> Result<Vec<Life>> {
    let mut lives = Vec::with_capacity(network.tensors.len());
    for (index, tensor) in network.tensors.iter().enumerate() {
        let length = length(tensor, TensorId(index) == network.input)?;
        lives.push(Life { first: 0, last: 0, length });
    }
    for (at, op) in network.ops.iter().enumerate() {
        let output = &mut lives[op.output().0];
        (output.first, output.last) = (at, at);
        for read in reads(op) {
            lives[read.0].last = at;
        }
    }
    lives[network.output.0].last = network.ops.len();
    Ok(lives)
}

/// Puts the largest first, each into the smallest gap that holds it among those that live at the
/// same time.
fn place(lives: &[Life], home: &[usize]) -> Result<(Vec<usize>, usize)> {
    let mut order: Vec<usize> = (0..lives.len()).filter(|&tensor| home[tensor] == tensor).collect();
    order.sort_by_key(|&tensor| (std::cmp::Reverse(lives[tensor].length), tensor));
    let mut offsets = vec![0; lives.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for tensor in order {
        let life = lives[tensor];
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&other| lives[other].first <= life.last && life.first <= lives[other].last)
            .map(|&other| (offsets[other], offsets[other] + lives[other].length))
            .collect();
        taken.sort_unstable();
        let (mut end, mut best) = (0, None);
        for (start, stop) in taken {
            if start >= end + life.length && best.is_none_or(|(gap, _)| start - end < gap) {
                best = Some((start - end, end));
            }
            end = end.max(stop);
        }
        offsets[tensor] = best.map_or(end, |(_, offset)| offset);
        let stop =
            offsets[tensor].checked_add(life.length).filter(|&s| s <= isize::MAX as usize / 4);
        arena = arena.max(stop.ok_or_else(|| {
            Error::Unsupported("the network's activations do not fit the address space".into())
        })?);
        placed.push(tensor);
    }
    Ok((offsets, arena))
}
