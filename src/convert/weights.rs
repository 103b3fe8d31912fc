//! Tensors where they lie in a checkpoint's file, read a piece at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};

use crate::base::mapping::{Bytes, Loading};
use crate::base::{Element, Error, Result};

/// Values read at a time.
const PIECE: usize = 1 << 20;
/// Bytes that a tensor may span whose values do not lie one after the other.
const MOST_SPAN: u64 = 1 << 30;

/// A tensor in a file. Its extent has been checked against the file's.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) file: Arc<File>,
    pub(super) origin: Arc<str>,
    pub(super) name: String,
    pub(super) element: Element,
    /// First byte in the file.
    pub(super) start: u64,
    pub(super) shape: Vec<usize>,
    /// Distance of neighbours along each axis, in values.
    pub(super) strides: Vec<usize>,
}

impl Stored {
    pub(super) fn length(&self) -> usize {
        self.shape.iter().product()
    }

    /// Hands over the values in order, `[..]` flat with the last axis fastest, and where each
    /// piece begins.
    pub(super) fn pieces(
        &self,
        mut use_piece: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let length = self.length();
        if self.is_contiguous() {
            for start in (0..length).step_by(PIECE) {
                let count = PIECE.min(length - start);
                use_piece(start, &self.read(start, count)?)?;
            }
            return Ok(());
        }
        let last: usize = self
            .shape
            .iter()
            .zip(&self.strides)
            .map(|(extent, stride)| (extent - 1) * stride)
            .sum();
        if (last as u64 + 1) * self.element.size() as u64 > MOST_SPAN {
            return Err(self.wrong("its values are scattered over more than 1 GiB"));
        }
        let span = self.read(0, last + 1)?;
        let mut index = vec![0; self.shape.len()];
        let mut piece = Vec::with_capacity(PIECE.min(length));
        for at in 0..length {
            piece.push(
                span[index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum::<usize>()],
            );
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
            if piece.len() == PIECE || at + 1 == length {
                use_piece(at + 1 - piece.len(), &piece)?;
                piece.clear();
            }
        }
        Ok(())
    }

    /// All values of a small tensor.
    pub(super) fn values(&self) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.pieces(|_, piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(values)
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&extent, &stride)| {
            let fits = extent == 1 || stride == expected;
            expected *= extent;
            fits
        })
    }

    fn read(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        let size = self.element.size();
        let mut bytes = vec![0; count * size];
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.start + (first * size) as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| Error::io(self.origin.to_string(), source))?;
        let values: Vec<f32> = match self.element {
            Element::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Element::F16 => bytes
                .chunks_exact(2)
                .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            Element::Bf16 => bytes
                .chunks_exact(2)
                .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            Element::F64 => bytes
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")) as f32)
                .collect(),
            other => return Err(self.wrong(&format!("it is of type {other:?}, expected floats"))),
        };
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => {
                Err(self.wrong(&format!("it has the value {value}, expected finite ones")))
            }
            None => Ok(values),
        }
    }

    pub(super) fn wrong(&self, reason: &str) -> Error {
        Error::format(self.origin.to_string(), format!("tensor {}: {reason}", self.name))
    }
}

/// A network's tensors by name.
pub(super) type State = BTreeMap<String, Stored>;

/// Adds a tensor under its name without what wrappers of PyTorch put before it.
pub(super) fn insert(state: &mut State, mut tensor: Stored) -> Result<()> {
    let mut name = tensor.name.as_str();
    while let Some(rest) = name.strip_prefix("module.").or_else(|| name.strip_prefix("_orig_mod."))
    {
        name = rest;
    }
    let name = name.to_owned();
    tensor.name.clone_from(&name);
    let origin = tensor.origin.to_string();
    match state.insert(name.clone(), tensor) {
        None => Ok(()),
        Some(_) => Err(Error::format(origin, format!("tensor {name} is there twice"))),
    }
}

/// The tensors of a safetensors file.
pub(super) fn safetensors(path: &Path) -> Result<State> {
    let origin: Arc<str> = path.display().to_string().into();
    let bytes = Bytes::open(path, "a safetensors file", Loading::Mapped)?;
    let damaged = |error: safetensors::SafeTensorError| {
        Error::format(origin.to_string(), format!("is no intact safetensors file: {error}"))
    };
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let file = Arc::new(File::open(path).map_err(|source| Error::io(path, source))?);
    let mut state = State::new();
    for (name, info) in metadata.tensors() {
        let element = match info.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::F64 => Element::F64,
            _ if name.ends_with(".num_batches_tracked") => continue,
            other => {
                return Err(Error::format(
                    origin.to_string(),
                    format!("tensor {name} is of type {other:?}, expected floats"),
                ));
            }
        };
        let mut strides = vec![1; info.shape.len()];
        for axis in (1..info.shape.len()).rev() {
            strides[axis - 1] = strides[axis] * info.shape[axis];
        }
        if info.shape.contains(&0) {
            return Err(Error::format(origin.to_string(), format!("tensor {name} is empty")));
        }
        let tensor = Stored {
            file: file.clone(),
            origin: origin.clone(),
            name,
            element,
            start: (header + 8 + info.data_offsets.0) as u64,
            shape: info.shape.clone(),
            strides,
        };
        insert(&mut state, tensor)?;
    }
    Ok(state)
}
