//! PyTorch's checkpoints: the zip container, and the stream that came before it (PyTorch < 1.6).

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use flate2::CrcReader;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Id, Machine, Node, Pickle, StorageType};
use super::weights::{State, Stored, insert};
use crate::base::mapping::open_file;
use crate::base::{Error, Result};

/// Files within a checkpoint: one for each storage.
const MOST_FILES: usize = 1_000_000;
/// Bytes that are checked at a time.
const PIECE: usize = 1 << 20;
/// The number that the older stream begins with, 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Where a storage lies.
struct Storage {
    /// Its first byte in the file.
    start: u64,
    bytes: u64,
    /// CRC-32 of its bytes, where the file has one.
    checksum: Option<u32>,
}

/// A checkpoint: plain values, and where its storages lie.
pub(super) struct Checkpoint {
    origin: Arc<str>,
    file: Arc<File>,
    pub(super) pickle: Pickle,
    /// By key.
    storages: HashMap<String, Storage>,
}

impl Checkpoint {
    /// Opens either container.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let origin: Arc<str> = path.display().to_string().into();
        let wrong = |reason: String| Error::format(origin.to_string(), reason);
        let io = |source| Error::io(path, source);
        let file = open_file(path, "a checkpoint")?;
        let mut reader = BufReader::new(file.try_clone().map_err(io)?);
        let begins = reader.fill_buf().map_err(io)?;
        let (pickle, storages) = match begins {
            [b'P', b'K', ..] => zipped(reader).map_err(wrong)?,
            [0x80, ..] => stream(reader).map_err(wrong)?,
            _ => {
                return Err(wrong(
                    "is no checkpoint of PyTorch: it is neither a zip nor a pickle".into(),
                ));
            }
        };
        Ok(Self { origin, file: Arc::new(file), pickle, storages })
    }

    /// The network's weights: of an nnU-Net checkpoint, or a bare state dict.
    pub(super) fn state(&self) -> Result<State> {
        let root = self.pickle.root();
        let weights = ["network_weights", "state_dict"];
        let dict = weights.iter().find_map(|name| self.pickle.get(root, name)).unwrap_or(root);
        let Node::Dict(entries) = self.pickle.node(dict) else {
            return Err(self.wrong("holds no dictionary of tensors"));
        };
        let mut state = State::new();
        let mut keys = BTreeSet::new();
        for (key, value) in entries {
            let Node::Text(name) = self.pickle.node(*key) else {
                return Err(self.wrong("has a tensor whose name is no text"));
            };
            if name.ends_with(".num_batches_tracked") {
                continue;
            }
            match self.pickle.node(*value) {
                Node::Tensor { storage, .. } => {
                    insert(&mut state, self.tensor(name, *value)?)?;
                    if let Node::Storage { key, .. } = self.pickle.node(*storage) {
                        keys.insert(key.as_str());
                    }
                }
                Node::Dict(entries) if entries.is_empty() => {}
                _ => return Err(self.wrong(&format!("{name} is no tensor"))),
            }
        }
        if state.is_empty() {
            return Err(self.wrong("holds no tensors"));
        }
        self.check(&keys)?;
        Ok(state)
    }

    /// Whether the storages of these keys are what was written.
    fn check(&self, keys: &BTreeSet<&str>) -> Result<()> {
        let io = |source| Error::io(self.origin.to_string(), source);
        let mut file = &*self.file;
        let mut left = file.metadata().map_err(io)?.len();
        for key in keys {
            let Some(storage) = self.storages.get(*key) else { continue };
            // Else a small file could ask for much to be read.
            left = left
                .checked_sub(storage.bytes)
                .ok_or_else(|| self.wrong("has storages that overlap"))?;
            let Some(expected) = storage.checksum else { continue };
            file.seek(SeekFrom::Start(storage.start)).map_err(io)?;
            let mut found = CrcReader::new(file.take(storage.bytes));
            let mut piece = vec![0; PIECE];
            while found.read(&mut piece).map_err(io)? > 0 {}
            let found = found.crc().sum();
            if found != expected {
                return Err(self.wrong(&format!(
                    "is damaged: storage {key} has the checksum {found:08x}, expected {expected:08x}"
                )));
            }
        }
        Ok(())
    }

    /// A value of the checkpoint as JSON, along a path of keys.
    pub(super) fn json(&self, path: &[&str]) -> Result<Option<serde_json::Value>> {
        let mut id = self.pickle.root();
        for key in path {
            match self.pickle.get(id, key) {
                Some(found) => id = found,
                None => return Ok(None),
            }
        }
        let value = self.pickle.json(id);
        value.map(Some).map_err(|reason| self.wrong(&format!("{}: {reason}", path.join("."))))
    }

    /// A text of the checkpoint.
    pub(super) fn text(&self, path: &[&str]) -> Option<&str> {
        let found = path.iter().try_fold(self.pickle.root(), |id, key| self.pickle.get(id, key));
        found.and_then(|id| self.pickle.text(id))
    }

    fn tensor(&self, name: &str, id: Id) -> Result<Stored> {
        let wrong = |reason: String| self.wrong(&format!("tensor {name}: {reason}"));
        let Node::Tensor { storage, offset, shape, strides } = self.pickle.node(id) else {
            return Err(wrong("is none".into()));
        };
        let Node::Storage { element, key, length } = self.pickle.node(*storage) else {
            return Err(wrong("has no storage".into()));
        };
        let StorageType::Values(element) = *element else {
            return Err(wrong("is of truth values, expected floats".into()));
        };
        let &Storage { start, bytes, .. } = self
            .storages
            .get(key)
            .ok_or_else(|| wrong(format!("its storage {key} is not in the file")))?;
        let size = element.size() as u64;
        if length.checked_mul(size).is_none_or(|needed| needed > bytes) {
            return Err(wrong(format!("its storage has {bytes} bytes, expected {length} values")));
        }
        let count = shape.iter().try_fold(1u64, |count, &extent| count.checked_mul(extent));
        let last = shape.iter().zip(strides).try_fold(*offset, |last, (&extent, &stride)| {
            last.checked_add(extent.checked_sub(1)?.checked_mul(stride)?)
        });
        let fits =
            count.is_some_and(|count| count <= *length) && last.is_some_and(|last| last < *length);
        if !fits {
            return Err(wrong(format!(
                "shape {shape:?}, strides {strides:?} and offset {offset} do not lie in a storage \
                 of {length} values"
            )));
        }
        Ok(Stored {
            file: self.file.clone(),
            origin: self.origin.clone(),
            name: name.into(),
            element,
            start: start + offset * size,
            shape: shape.iter().map(|&extent| extent as usize).collect(),
            strides: strides.iter().map(|&stride| stride as usize).collect(),
        })
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::format(self.origin.to_string(), reason)
    }
}

/// The pickle of a `.pkl` file.
pub(super) fn pickle(path: &Path) -> Result<Pickle> {
    let file = open_file(path, "a pickle")?;
    Machine::run(&mut BufReader::new(file))
        .map_err(|reason| Error::format(path.display().to_string(), reason))
}

type Parts = (Pickle, HashMap<String, Storage>);

/// `<stem>/data.pkl` and `<stem>/data/<key>`.
fn zipped(reader: BufReader<File>) -> std::result::Result<Parts, String> {
    let end = reader.get_ref().metadata().map_err(|error| error.to_string())?.len();
    let mut archive = ZipArchive::new(reader).map_err(|error| error.to_string())?;
    if archive.len() > MOST_FILES {
        return Err(format!("has {} files, expected up to {MOST_FILES}", archive.len()));
    }
    let name = archive
        .file_names()
        .filter_map(|name| name.ok())
        .find(|name| name.ends_with("/data.pkl"))
        .map(|name| name.into_owned());
    let name = name.ok_or("is a zip without `data.pkl`: no checkpoint of PyTorch")?;
    let stem = name.trim_end_matches("data.pkl").to_owned();
    let pickle = {
        let entry = archive.by_name(&name).map_err(|error| error.to_string())?;
        Machine::run(&mut BufReader::new(entry))?
    };
    let order = format!("{stem}byteorder");
    if let Ok(entry) = archive.by_name(&order) {
        let mut text = String::new();
        entry.take(16).read_to_string(&mut text).map_err(|error| error.to_string())?;
        if text.trim() != "little" {
            return Err(format!("its byte order is {text:?}, expected \"little\""));
        }
    }
    let mut storages = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| error.to_string())?;
        let name = entry.name().map_err(|error| error.to_string())?;
        let Some(key) = name.strip_prefix(&stem).and_then(|name| name.strip_prefix("data/")) else {
            continue;
        };
        if entry.compression() != CompressionMethod::Stored {
            return Err(format!("storage {key} is compressed, which PyTorch's are not"));
        }
        let start = entry.data_start().ok_or_else(|| format!("storage {key} lies nowhere"))?;
        let bytes = entry.size();
        if start.checked_add(bytes).is_none_or(|stop| stop > end) {
            return Err(format!("storage {key} ends after the file"));
        }
        // PyTorch writes 0 where it has not computed one.
        let checksum = Some(entry.crc32()).filter(|checksum| *checksum != 0);
        storages.insert(key.to_owned(), Storage { start, bytes, checksum });
    }
    Ok((pickle, storages))
}

/// Five pickles (a magic number, a version, the machine, the object, the storages' keys), then
/// each storage: the number of values, and the values.
fn stream(mut reader: BufReader<File>) -> std::result::Result<Parts, String> {
    let magic = Machine::run(&mut reader)?;
    if *magic.node(magic.root()) != Node::Large(MAGIC.into()) {
        return Err("is a pickle, but no checkpoint of PyTorch".into());
    }
    let version = Machine::run(&mut reader)?;
    if *version.node(version.root()) != Node::Int(1001) {
        return Err("is of an unknown version of PyTorch's format".into());
    }
    let machine = Machine::run(&mut reader)?;
    let little = machine.get(machine.root(), "little_endian");
    if little.is_some_and(|id| *machine.node(id) == Node::Bool(false)) {
        return Err("was written on a big-endian machine".into());
    }
    let pickle = Machine::run(&mut reader)?;
    let keys = Machine::run(&mut reader)?;
    let Node::List(list) = keys.node(keys.root()) else {
        return Err("has no list of storages".into());
    };
    let sizes: HashMap<&str, usize> = pickle.storages().collect();
    let io = |error: std::io::Error| error.to_string();
    let mut place = reader.stream_position().map_err(io)?;
    let end = reader.get_ref().metadata().map_err(io)?.len();
    let mut storages = HashMap::new();
    for id in list {
        let key = keys.text(*id).ok_or("has a storage without a key")?;
        let size = *sizes.get(key).ok_or_else(|| format!("storage {key} belongs to no tensor"))?;
        reader.seek(SeekFrom::Start(place)).map_err(io)?;
        let mut count = [0; 8];
        reader.read_exact(&mut count).map_err(io)?;
        let bytes = u64::from_le_bytes(count).checked_mul(size as u64);
        let stop = bytes.and_then(|bytes| place.checked_add(8)?.checked_add(bytes));
        let (Some(bytes), Some(stop)) = (bytes, stop.filter(|stop| *stop <= end)) else {
            return Err(format!("storage {key} ends after the file"));
        };
        storages.insert(key.to_owned(), Storage { start: place + 8, bytes, checksum: None });
        place = stop;
    }
    Ok((pickle, storages))
}
