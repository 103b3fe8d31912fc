//! Python's pickles, read without running anything.
//!
//! The machine knows a fixed list of globals and builds plain data; whatever else a pickle asks
//! for is named and refused. Values live in one list and refer to each other by number, so that
//! no pickle, however it repeats or nests its values, needs more memory than its length implies.
//!
//! The opcodes are those of CPython's `pickletools`, protocols 2 to 5, without those that only
//! arbitrary classes need.

mod globals;
mod json;
mod machine;

pub(super) use self::globals::{Global, StorageType};
pub(super) use self::machine::Machine;

/// A value, by position among a pickle's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u32);

/// Plain data.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian, two's complement.
    Large(Vec<u8>),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A storage of a PyTorch checkpoint.
    Storage {
        element: StorageType,
        key: String,
        /// In elements.
        length: u64,
    },
    /// A tensor of a PyTorch checkpoint; offset and strides in elements.
    Tensor {
        storage: Id,
        offset: u64,
        shape: Vec<u64>,
        strides: Vec<u64>,
    },
    /// A NumPy type.
    Type(NumpyType),
    /// A NumPy array; empty until its state has been read.
    Array {
        shape: Vec<u64>,
        /// Flat, the last axis fastest.
        values: Vec<Number>,
    },
    /// Something that no one asks about, such as a device.
    Opaque,
}

/// A number of a NumPy array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Float(f64),
    Bool(bool),
}

/// A NumPy type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NumpyType {
    /// `i`, `u`, `f` or `b`.
    kind: u8,
    size: usize,
    big_endian: bool,
}

/// A pickle's values.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// A dictionary's entry; of several with the same key the last, as in Python.
    pub(super) fn get(&self, dict: Id, key: &str) -> Option<Id> {
        let Node::Dict(entries) = self.node(dict) else { return None };
        let found = entries
            .iter()
            .rev()
            .find(|(name, _)| matches!(self.node(*name), Node::Text(name) if name == key));
        found.map(|(_, value)| *value)
    }

    /// Key and bytes per value of each storage that is named.
    pub(super) fn storages(&self) -> impl Iterator<Item = (&str, usize)> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage { element, key, .. } => Some((key.as_str(), element.size())),
            _ => None,
        })
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }
}
