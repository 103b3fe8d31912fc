//! Where every tensor lies in one arena.

use std::cmp::Reverse;

use super::{Conv, Epilogue, Network, Op, Tensor, TensorId};
use crate::base::{Error, Result};

/// Channels that lie together in a device's memory. On the processor tensors are
/// `[s0][ceil(channels / 16)][s1][s2][16]`, but for the network's input, which is
/// `[channels][s0][s1][s2]`.
pub const CHANNEL_BLOCK: usize = 16;

/// Tensors begin at multiples of this many elements (256 bytes of `f32`).
const ALIGNMENT: usize = 64;

/// Convolutions that may write over their source: the largest. Networks of thousands would take long
/// to plan, and the others save little.
const MOST_DISPLACED: usize = 64;

/// A network and the place of each of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The network.
    pub network: Network,
    /// First element of each tensor in the arena.
    pub offsets: Vec<usize>,
    /// Elements of the arena.
    pub arena: usize,
    /// Convolutions whose output overlaps their source.
    pub displaced: Vec<Displacement>,
}

/// A convolution whose output may overlap its only source: it begins that far before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Displacement {
    /// Which of the network's operations it is.
    pub op: usize,
    /// Elements.
    pub distance: usize,
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
        let Places { offsets, arena } = places(&network, &lives(&network)?, &[])?;
        Ok(Self { network, offsets, arena, displaced: Vec::new() })
    }

    /// As [`Plan::new`], but where that makes the arena smaller, the output of a convolution
    /// overlaps its source, as far from it as `possible` says, for a device that can do so. What is
    /// possible is passed over where the source is not the only one, is needed later, or differs
    /// from the output in size.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn displacing(network: Network, possible: &[Displacement]) -> Result<Self> {
        let lives = lives(&network)?;
        let overlaps = |to: &&Displacement| match &network.ops[to.op] {
            Op::Conv(Conv { sources, output, .. }) if sources.len() == 1 => {
                let (from, output) = (lives[sources[0].tensor.0], lives[output.0]);
                from.last == to.op && from.length == output.length && to.distance < from.length
            }
            _ => false,
        };
        let mut displaced: Vec<Displacement> = possible
            .iter()
            .filter(overlaps)
            .map(|to| Displacement { distance: to.distance.next_multiple_of(ALIGNMENT), ..*to })
            .collect();
        let separate = places(&network, &lives, &[])?;
        let output_length = |to: &Displacement| lives[network.ops[to.op].output().0].length;
        displaced.sort_by_key(|to| Reverse(output_length(to)));
        displaced.truncate(MOST_DISPLACED);
        // Most don't matter, for they are not large enough: the smallest are tried first.
        let order: Vec<_> = displaced.iter().copied().rev().collect();
        displaced.sort_by_key(|to| to.op);
        let mut best = places(&network, &lives, &displaced)?;
        for candidate in order {
            let fewer: Vec<_> = displaced.iter().copied().filter(|to| *to != candidate).collect();
            let without = places(&network, &lives, &fewer)?;
            if without.arena <= best.arena {
                (best, displaced) = (without, fewer);
            }
        }
        if separate.arena <= best.arena {
            (best, displaced) = (separate, Vec::new());
        }
        let Places { offsets, arena } = best;
        Ok(Self { network, offsets, arena, displaced })
    }
}

/// First element of each tensor, and elements of the arena.
struct Places {
    offsets: Vec<usize>,
    arena: usize,
}

fn places(network: &Network, lives: &[Life], displaced: &[Displacement]) -> Result<Places> {
    // A tensor that replaces another one lies in the group of that one.
    let mut home: Vec<usize> = (0..lives.len()).collect();
    let mut starts = vec![0; lives.len()];
    for (at, op) in network.ops.iter().enumerate() {
        let (main, output, distance) = match op {
            Op::Conv(conv) => match conv.epilogue {
                Epilogue::AddNormalized { main, .. } => (main, conv.output, 0),
                _ => match displaced.iter().find(|to| to.op == at) {
                    Some(to) => (conv.sources[0].tensor, conv.output, to.distance),
                    None => continue,
                },
            },
            Op::Join(join) => (join.main, join.output, 0),
            Op::AveragePool(_) => continue,
        };
        if lives[main.0].last == at && lives[main.0].length == lives[output.0].length {
            // The output comes first in the group.
            for tensor in (0..lives.len()).filter(|&tensor| home[tensor] == home[main.0]) {
                starts[tensor] += distance;
            }
            home[output.0] = home[main.0];
            starts[output.0] = starts[main.0] - distance;
        }
    }
    let (first, arena) = place(&groups(lives, &home, &starts))?;
    let offsets = home.iter().zip(starts).map(|(&home, start)| first[home] + start).collect();
    Ok(Places { offsets, arena })
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

/// Tensors that take each other's place, with their first elements in the group.
#[derive(Clone, Default)]
struct Group {
    tensors: Vec<(Life, usize)>,
    length: usize,
}

impl Group {
    /// The ranges of places where the group can't begin for one that is placed: a pair of tensors
    /// that live at the same time would overlap.
    fn refused(&self, placed: &Self, at: usize) -> Vec<(isize, isize)> {
        let mut ranges = Vec::new();
        for &(own, start) in &self.tensors {
            for &(other, other_start) in &placed.tensors {
                if other.first <= own.last && own.first <= other.last {
                    let first = (at + other_start) as isize - (start + own.length) as isize;
                    let end = (at + other_start + other.length) as isize - start as isize;
                    ranges.push((first, end));
                }
            }
        }
        ranges
    }
}

/// The groups, each at the number of its first tensor; the others' are empty.
fn groups(lives: &[Life], home: &[usize], starts: &[usize]) -> Vec<Group> {
    let mut groups = vec![Group::default(); lives.len()];
    for (tensor, &life) in lives.iter().enumerate() {
        let group = &mut groups[home[tensor]];
        group.tensors.push((life, starts[tensor]));
        group.length = group.length.max(starts[tensor] + life.length);
    }
    groups
}

/// Puts the largest first, each into the smallest gap that holds it among those that live at the
/// same time.
fn place(groups: &[Group]) -> Result<(Vec<usize>, usize)> {
    let mut order: Vec<usize> =
        (0..groups.len()).filter(|&group| !groups[group].tensors.is_empty()).collect();
    order.sort_by_key(|&group| (Reverse(groups[group].length), group));
    let mut offsets = vec![0; groups.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for group in order {
        let mut refused: Vec<(isize, isize)> = placed
            .iter()
            .flat_map(|&other| groups[group].refused(&groups[other], offsets[other]))
            .collect();
        refused.sort_unstable();
        // Where it may begin: from `end` on, or to `first` of the next range.
        let (mut end, mut best) = (0, None);
        for (first, stop) in refused {
            if first >= end && best.is_none_or(|(gap, _)| first - end < gap) {
                best = Some((first - end, end));
            }
            end = end.max(stop);
        }
        offsets[group] = best.map_or(end, |(_, offset)| offset) as usize;
        let stop = offsets[group]
            .checked_add(groups[group].length)
            .filter(|&stop| stop <= isize::MAX as usize / 4);
        arena = arena.max(stop.ok_or_else(|| {
            Error::Unsupported("the network's activations do not fit the address space".into())
        })?);
        placed.push(group);
    }
    Ok((offsets, arena))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Head, ParameterId, Source};
    use super::*;

    /// Convolutions on one grid; each reads an earlier tensor, or two.
    fn network(channels: &[usize], reads: &[(usize, Option<usize>)]) -> Network {
        let tensor = |&channels: &usize| Tensor { channels, shape: [9, 5, 7] };
        let conv = |(at, &(first, second)): (usize, &(usize, Option<usize>))| {
            let one = |from: usize| Source::plain(TensorId(from % (at + 1)));
            Op::Conv(Conv {
                sources: std::iter::once(first).chain(second).map(one).collect(),
                weight: ParameterId(0),
                bias: None,
                kernel: [3; 3],
                stride: [1; 3],
                expand: None,
                output: TensorId(at + 1),
                epilogue: Epilogue::Plain,
            })
        };
        Network {
            tensors: std::iter::once(&1).chain(channels).map(tensor).collect(),
            parameters: Vec::new(),
            statistics: 0,
            ops: reads.iter().enumerate().map(conv).collect(),
            input: TensorId(0),
            output: TensorId(channels.len()),
            head: Head { weight: ParameterId(0), bias: None },
            classes: 1,
        }
    }

    proptest! {
        #[test]
        fn only_what_is_displaced_overlaps_what_lives_at_the_same_time(
            (channels, reads) in (1usize..12).prop_flat_map(|count| (
                prop::collection::vec(prop::sample::select(vec![16, 16, 16, 32, 48]), count),
                prop::collection::vec((0usize..12, prop::option::of(0usize..12)), count),
            )),
            planes in 1usize..9,
        ) {
            let network = network(&channels, &reads);
            let lives = lives(&network).unwrap();
            let possible: Vec<_> = channels
                .iter()
                .enumerate()
                .map(|(op, channels)| Displacement { op, distance: planes * 35 * channels })
                .collect();
            let separate = Plan::new(network.clone()).unwrap();
            let plan = Plan::displacing(network, &possible).unwrap();
            prop_assert!(plan.arena <= separate.arena);
            prop_assert_eq!(plan.displaced.is_empty(), plan.arena == separate.arena);
            for (a, first) in lives.iter().enumerate() {
                prop_assert!(plan.offsets[a] + first.length <= plan.arena);
                for (b, second) in lives.iter().enumerate().skip(a + 1) {
                    let apart = plan.offsets[a] + first.length <= plan.offsets[b]
                        || plan.offsets[b] + second.length <= plan.offsets[a];
                    if apart || first.last < second.first || second.last < first.first {
                        continue;
                    }
                    // Tensor `b` is what operation `b - 1` wrote.
                    let Op::Conv(conv) = &plan.network.ops[b - 1] else { unreachable!() };
                    let displaced = plan.displaced.iter().find(|to| to.op == b - 1);
                    let Some(to) = displaced else { panic!("tensors {a} and {b} overlap") };
                    prop_assert_eq!(&conv.sources, &vec![Source::plain(TensorId(a))]);
                    prop_assert_eq!(first.last, b - 1);
                    prop_assert!(to.distance >= possible[b - 1].distance);
                    prop_assert_eq!(plan.offsets[a], plan.offsets[b] + to.distance);
                }
            }
        }
    }

    #[test]
    fn a_chain_of_convolutions_takes_the_place_of_one() {
        let network = network(&[32, 32, 32, 32], &[(0, None), (1, None), (2, None), (3, None)]);
        let distance = 2 * 35 * 32;
        let possible: Vec<_> = (1..4).map(|op| Displacement { op, distance }).collect();
        let [separate, plan] =
            [Plan::new(network.clone()).unwrap(), Plan::displacing(network, &possible).unwrap()];
        let length = (9 * 35 * 32usize).next_multiple_of(ALIGNMENT);
        assert_eq!(separate.arena, 2 * length);
        assert_eq!(plan.displaced, possible);
        assert_eq!(plan.arena, length + 3 * distance);
    }
}
