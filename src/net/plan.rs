//! Where every tensor lies in one arena.

use super::Network;

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

/// Channels that lie together in a device's memory.
pub const CHANNEL_BLOCK: usize = 16;
