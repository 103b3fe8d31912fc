//! The machine that a pickle is a program for.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use super::globals::Global;
use super::{Id, Node, Number, NumpyType, Pickle};

/// Bytes of a pickle: those of checkpoints have some hundred thousand.
const MOST_BYTES: usize = 64 << 20;
/// Values of a pickle, counted as often as they are put on the stack or in the memo.
const MOST_VALUES: usize = 4_000_000;
/// Bytes that all calls of a pickle may copy: a short pickle can ask for much.
const MOST_COPIED: usize = 128 << 20;
/// Axes of an array or tensor.
const MOST_AXES: usize = 8;

/// Why a pickle can't be read.
type Refusal = String;

/// Reads one pickle from the front of a stream.
pub(in crate::convert) struct Machine<'a> {
    input: &'a mut dyn BufRead,
    read: usize,
    copied: usize,
    nodes: Vec<Node>,
    /// Values that were put on the stack.
    pushed: usize,
    stack: Vec<Id>,
    /// Where the stack stood at each mark.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// Reads up to the pickle's end; an error says what was found.
    pub(in crate::convert) fn run(input: &'a mut dyn BufRead) -> Result<Pickle, Refusal> {
        let mut machine = Self {
            input,
            read: 0,
            copied: 0,
            nodes: Vec::new(),
            pushed: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        loop {
            let [opcode] = machine.take()?;
            if opcode == b'.' {
                let root = machine.pop()?;
                return Ok(Pickle { nodes: machine.nodes, root });
            }
            machine.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Refusal> {
        match opcode {
            0x80 => match self.take()? {
                [2..=5] => Ok(()),
                [version] => Err(format!("the pickle's protocol is {version}, expected 2 to 5")),
            },
            0x95 => self.take::<8>().map(|_| ()),
            b'(' => {
                self.marks.push(self.stack.len());
                if self.marks.len() > MOST_VALUES {
                    return Err("the pickle has too many marks".into());
                }
                Ok(())
            }
            b'0' => self.pop().map(|_| ()),
            b'1' => self.since_mark().map(|_| ()),
            b'2' => {
                let top = self.top()?;
                self.push_id(top)
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => self.take().map(i32::from_le_bytes).and_then(|v| self.push_int(v.into())),
            b'K' => self.take().map(u8::from_le_bytes).and_then(|v| self.push_int(v.into())),
            b'M' => self.take().map(u16::from_le_bytes).and_then(|v| self.push_int(v.into())),
            0x8a => {
                let [length] = self.take()?;
                self.long(length.into())
            }
            0x8b => {
                let length = u32::from_le_bytes(self.take()?);
                self.long(length.into())
            }
            b'G' => {
                let value = f64::from_be_bytes(self.take()?);
                self.push(Node::Float(value))
            }
            b'U' | b'T' | 0x8c | b'X' | 0x8d => {
                let length = self.length(match opcode {
                    b'U' | 0x8c => 1,
                    b'T' | b'X' => 4,
                    _ => 8,
                })?;
                let bytes = self.bytes(length)?;
                // Python 2 wrote bytes, which hold text here.
                let text = match opcode {
                    b'U' | b'T' => bytes.iter().map(|&byte| char::from(byte)).collect(),
                    _ => String::from_utf8(bytes).map_err(|_| "a text is no UTF-8".to_owned())?,
                };
                self.push(Node::Text(text))
            }
            b'C' | b'B' | 0x8e | 0x96 => {
                let length = self.length(match opcode {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                let bytes = self.bytes(length)?;
                self.push(Node::Bytes(bytes))
            }
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => {
                let length = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(length).ok_or_else(empty)?;
                self.above_mark(start)?;
                let items = self.stack.split_off(start);
                self.push(Node::Tuple(items))
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items))
            }
            b'l' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Node::List(items))
            }
            b'd' => {
                let items = self.since_mark()?;
                let entries = pairs(&items)?;
                self.push(Node::Dict(entries))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.extend(&items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])
            }
            b'u' => {
                let items = self.since_mark()?;
                let entries = pairs(&items)?;
                self.set(entries)
            }
            b'q' | b'r' | 0x94 => {
                let key = match opcode {
                    b'q' => u8::from_le_bytes(self.take()?).into(),
                    b'r' => u32::from_le_bytes(self.take()?).into(),
                    _ => self.memo.len() as u64,
                };
                let top = self.top()?;
                if self.memo.len() >= MOST_VALUES {
                    return Err(too_many());
                }
                self.memo.insert(key, top);
                Ok(())
            }
            b'h' | b'j' => {
                let key = match opcode {
                    b'h' => u64::from(u8::from_le_bytes(self.take()?)),
                    _ => u32::from_le_bytes(self.take()?).into(),
                };
                let found = self.memo.get(&key).copied();
                self.push_id(found.ok_or_else(|| format!("the pickle has no memo {key}"))?)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.node(module), self.node(name)) {
                    (Node::Text(module), Node::Text(name)) => {
                        let (module, name) = (module.clone(), name.clone());
                        self.global(&module, &name)
                    }
                    _ => Err("a global's name is no text".into()),
                }
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.charge(arguments)?;
                let Node::Tuple(arguments) = self.node(arguments).clone() else {
                    return Err("a call has no list of arguments".into());
                };
                let Node::Global(function) = *self.node(function) else {
                    return Err("the pickle calls what is no function; nothing was run".into());
                };
                let node = self.call(function, &arguments)?;
                self.push(node)
            }
            b'b' => {
                let state = self.pop()?;
                self.charge(state)?;
                let object = self.top()?;
                self.build(object, state)
            }
            b'Q' => {
                let id = self.pop()?;
                self.charge(id)?;
                let node = self.persistent(id)?;
                self.push(node)
            }
            _ => Err(format!(
                "the pickle has the opcode {opcode:#04x}, which no checkpoint needs; nothing was \
                 run"
            )),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Refusal> {
        let shown = |text: &str| text.chars().take(80).collect::<String>();
        let global = Global::named(module, name).ok_or_else(|| {
            format!(
                "the pickle asks for `{}.{}`, which is no part of a plain checkpoint; nothing was \
                 run",
                shown(module),
                shown(name)
            )
        })?;
        self.push(Node::Global(global))
    }

    /// Counts what a call may copy of its arguments.
    fn charge(&mut self, arguments: Id) -> Result<(), Refusal> {
        let one = |node: &Node| match node {
            Node::Text(text) => text.len(),
            Node::Bytes(bytes) => bytes.len() * size_of::<Number>(),
            Node::List(items) | Node::Tuple(items) => items.len() * size_of::<(Id, Id)>(),
            _ => 0,
        };
        let node = self.node(arguments);
        let inner: usize = match node {
            Node::Tuple(items) => items.iter().take(16).map(|id| one(self.node(*id))).sum(),
            _ => 0,
        };
        self.copied = self.copied.saturating_add(one(node)).saturating_add(inner);
        match self.copied <= MOST_COPIED {
            true => Ok(()),
            false => Err(format!("the pickle's calls copy more than {MOST_COPIED} bytes")),
        }
    }

    /// What a known function makes of its arguments.
    fn call(&self, function: Global, arguments: &[Id]) -> Result<Node, Refusal> {
        let wrong = || format!("{function:?} has arguments that no checkpoint has");
        let nodes: Vec<&Node> = arguments.iter().map(|id| self.node(*id)).collect();
        match (function, nodes.as_slice()) {
            (Global::OrderedDict, []) => Ok(Node::Dict(Vec::new())),
            (Global::OrderedDict, [Node::List(items)]) => {
                let mut entries = Vec::new();
                for item in items {
                    match self.node(*item) {
                        Node::List(pair) | Node::Tuple(pair) if pair.len() == 2 => {
                            entries.push((pair[0], pair[1]));
                        }
                        _ => return Err(wrong()),
                    }
                }
                Ok(Node::Dict(entries))
            }
            (Global::Set, []) => Ok(Node::List(Vec::new())),
            (Global::Set, [Node::List(items)]) => Ok(Node::List(items.clone())),
            (Global::Size, [Node::Tuple(items) | Node::List(items)]) => {
                Ok(Node::Tuple(items.clone()))
            }
            (Global::Opaque, _) => Ok(Node::Opaque),
            (Global::Encode, [Node::Text(text), ..]) => {
                let bytes: Result<Vec<u8>, _> =
                    text.chars().map(|c| u8::try_from(u32::from(c))).collect();
                bytes.map(Node::Bytes).map_err(|_| wrong())
            }
            (Global::NumpyType, [Node::Text(name), ..]) => {
                let kind = name.bytes().next().ok_or_else(wrong)?;
                let size = name[1..].parse().map_err(|_| wrong())?;
                if !matches!(
                    (kind, size),
                    (b'f', 2 | 4 | 8) | (b'i' | b'u', 1 | 2 | 4 | 8) | (b'b', 1)
                ) {
                    return Err(format!("the NumPy type {name:?} is not supported"));
                }
                Ok(Node::Type(NumpyType { kind, size, big_endian: false }))
            }
            (Global::NumpyScalar, [Node::Type(of), Node::Bytes(bytes)]) => {
                if bytes.len() != of.size {
                    return Err(wrong());
                }
                Ok(match number(*of, bytes) {
                    Number::Int(value) => Node::Int(value),
                    Number::Float(value) => Node::Float(value),
                    Number::Bool(value) => Node::Bool(value),
                })
            }
            (Global::NumpyReconstruct, [Node::Global(Global::NumpyArray), ..]) => {
                Ok(Node::Array { shape: vec![0], values: Vec::new() })
            }
            (
                Global::RebuildTensor,
                [
                    Node::Storage { .. },
                    Node::Int(offset),
                    Node::Tuple(shape),
                    Node::Tuple(strides),
                    ..,
                ],
            ) => {
                let (shape, strides) = (self.extents(shape)?, self.extents(strides)?);
                let offset = u64::try_from(*offset).map_err(|_| wrong())?;
                if shape.len() != strides.len() {
                    return Err(wrong());
                }
                Ok(Node::Tensor { storage: arguments[0], offset, shape, strides })
            }
            (Global::RebuildParameter, [tensor @ Node::Tensor { .. }, ..]) => Ok((*tensor).clone()),
            _ => Err(wrong()),
        }
    }

    /// Gives an object its state.
    fn build(&mut self, object: Id, state: Id) -> Result<(), Refusal> {
        let state = match self.node(state) {
            Node::Tuple(items) => items.clone(),
            _ => Vec::new(),
        };
        let nodes: Vec<&Node> = state.iter().map(|id| self.node(*id)).collect();
        let made = match (self.node(object), nodes.as_slice()) {
            // Attributes of a dictionary (`_metadata`), or of what is opaque.
            (Node::Dict(_) | Node::Opaque, _) => return Ok(()),
            (Node::Type(of), [_, Node::Text(order), ..]) => {
                Node::Type(NumpyType { big_endian: order == ">", ..*of })
            }
            (
                Node::Array { .. },
                [_, Node::Tuple(shape), Node::Type(of), Node::Bool(fortran), Node::Bytes(bytes)],
            ) => {
                let shape = self.extents(shape)?;
                let count = shape.iter().try_fold(1u64, |count, &extent| count.checked_mul(extent));
                let expected = count.and_then(|count| count.checked_mul(of.size as u64));
                if expected != Some(bytes.len() as u64) || (*fortran && shape.len() > 1) {
                    return Err(format!(
                        "a NumPy array of shape {shape:?} has {} bytes",
                        bytes.len()
                    ));
                }
                let values = bytes.chunks_exact(of.size).map(|bytes| number(*of, bytes)).collect();
                Node::Array { shape, values }
            }
            (found, _) => {
                return Err(format!("the pickle gives a state to {}", kind(found)));
            }
        };
        self.nodes[object.0 as usize] = made;
        Ok(())
    }

    /// PyTorch's `('storage', type, key, location, length)`.
    fn persistent(&self, id: Id) -> Result<Node, Refusal> {
        let wrong = || "a storage's description is not PyTorch's".to_owned();
        let Node::Tuple(items) = self.node(id) else { return Err(wrong()) };
        let nodes: Vec<&Node> = items.iter().map(|id| self.node(*id)).collect();
        match nodes.as_slice() {
            [
                Node::Text(tag),
                Node::Global(Global::Storage(element)),
                Node::Text(key),
                _,
                Node::Int(length),
                ..,
            ] if tag == "storage" => {
                let length = u64::try_from(*length).map_err(|_| wrong())?;
                Ok(Node::Storage { element: *element, key: key.clone(), length })
            }
            _ => Err(wrong()),
        }
    }

    fn extents(&self, items: &[Id]) -> Result<Vec<u64>, Refusal> {
        if items.len() > MOST_AXES {
            return Err(format!("an array has {} axes, expected up to {MOST_AXES}", items.len()));
        }
        items
            .iter()
            .map(|item| match self.node(*item) {
                Node::Int(value) => u64::try_from(*value).ok(),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(|| "an array's shape is no list of numbers".into())
    }

    fn extend(&mut self, items: &[Id]) -> Result<(), Refusal> {
        let list = self.top()?;
        match &mut self.nodes[list.0 as usize] {
            Node::List(list) => list.extend_from_slice(items),
            other => return Err(format!("the pickle appends to {}", kind(other))),
        }
        Ok(())
    }

    fn set(&mut self, new: Vec<(Id, Id)>) -> Result<(), Refusal> {
        let dict = self.top()?;
        match &mut self.nodes[dict.0 as usize] {
            Node::Dict(entries) => entries.extend(new),
            other => return Err(format!("the pickle sets entries of {}", kind(other))),
        }
        Ok(())
    }

    fn long(&mut self, length: u64) -> Result<(), Refusal> {
        let bytes = self.bytes(length)?;
        if bytes.len() > 8 {
            return self.push(Node::Large(bytes));
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut value = [if negative { 0xff } else { 0 }; 8];
        value[..bytes.len()].copy_from_slice(&bytes);
        self.push_int(i64::from_le_bytes(value))
    }

    fn push_int(&mut self, value: i64) -> Result<(), Refusal> {
        self.push(Node::Int(value))
    }

    fn push(&mut self, node: Node) -> Result<(), Refusal> {
        self.nodes.push(node);
        self.push_id(Id((self.nodes.len() - 1) as u32))
    }

    fn push_id(&mut self, id: Id) -> Result<(), Refusal> {
        if self.pushed >= MOST_VALUES {
            return Err(too_many());
        }
        self.pushed += 1;
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, Refusal> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn top(&self) -> Result<Id, Refusal> {
        let last = self.stack.len().checked_sub(1).ok_or_else(empty)?;
        self.above_mark(last)?;
        Ok(self.stack[last])
    }

    /// What lies below a mark belongs to another list.
    fn above_mark(&self, place: usize) -> Result<(), Refusal> {
        match self.marks.last() {
            Some(&mark) if place < mark => Err(empty()),
            _ => Ok(()),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, Refusal> {
        let mark = self.marks.pop().ok_or_else(|| "the pickle misses a mark".to_owned())?;
        Ok(self.stack.split_off(mark))
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn length(&mut self, bytes: usize) -> Result<u64, Refusal> {
        let mut length = [0; 8];
        for byte in &mut length[..bytes] {
            [*byte] = self.take()?;
        }
        Ok(u64::from_le_bytes(length))
    }

    fn line(&mut self) -> Result<String, Refusal> {
        let mut line = Vec::new();
        loop {
            match self.take()? {
                [b'\n'] => break,
                [byte] if line.len() < 256 => line.push(byte),
                _ => return Err("a global's name is longer than 256 bytes".into()),
            }
        }
        String::from_utf8(line).map_err(|_| "a global's name is no text".into())
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, Refusal> {
        self.count(length)?;
        let mut bytes = Vec::new();
        let read = self.input.take(length).read_to_end(&mut bytes);
        match read.map_err(|error| error.to_string())? as u64 == length {
            true => Ok(bytes),
            false => Err("the pickle ends in the middle".into()),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        self.count(N as u64)?;
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err("the pickle ends in the middle".into())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn count(&mut self, bytes: u64) -> Result<(), Refusal> {
        let read = (self.read as u64).checked_add(bytes);
        match read.filter(|read| *read <= MOST_BYTES as u64) {
            Some(read) => {
                self.read = read as usize;
                Ok(())
            }
            None => Err(format!("the pickle is longer than {MOST_BYTES} bytes")),
        }
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Refusal> {
    if !items.len().is_multiple_of(2) {
        return Err("a dictionary has a key without a value".into());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn number(of: NumpyType, bytes: &[u8]) -> Number {
    let mut little = [0; 8];
    little[..of.size].copy_from_slice(bytes);
    if of.big_endian {
        little[..of.size].reverse();
    }
    let value = u64::from_le_bytes(little);
    // The bits above the type's own.
    let spare = 64 - 8 * of.size as u32;
    match (of.kind, of.size) {
        (b'f', 8) => Number::Float(f64::from_bits(value)),
        (b'f', 4) => Number::Float(f32::from_bits(value as u32).into()),
        (b'f', _) => Number::Float(half::f16::from_bits(value as u16).to_f64()),
        (b'i', _) => Number::Int((value << spare) as i64 >> spare),
        (b'b', _) => Number::Bool(value != 0),
        _ => Number::Int(value as i64),
    }
}

fn kind(node: &Node) -> &'static str {
    match node {
        Node::List(_) => "a list",
        Node::Tuple(_) => "a tuple",
        Node::Dict(_) => "a dictionary",
        Node::Global(_) => "a function",
        Node::Tensor { .. } => "a tensor",
        _ => "a plain value",
    }
}

fn empty() -> Refusal {
    "the pickle takes a value that is not there".into()
}

fn too_many() -> Refusal {
    format!("the pickle has more than {MOST_VALUES} values")
}
