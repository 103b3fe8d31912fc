//! Writes a package tensor by tensor, a piece in memory at a time.

use std::io::Write;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, tensor::TensorInfo};

use super::Progress;
use super::network::{Tensor, Values};
use crate::base::{Element, Error, Result};
use crate::formats::OutputFile;
use crate::model::{Model, Package};

/// Writes the tensors under their prefixes; the package is checked before its weights are written.
pub(super) fn package(
    mut output: OutputFile,
    package: &Package,
    mut tensors: Vec<(String, Tensor)>,
    element: Element,
    progress: &mut dyn Progress,
) -> Result<()> {
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let reason = format!("has the tensor {} twice", pair[0].0);
        return Err(Error::format("the converted model", reason));
    }
    let path = output.path().to_owned();
    let io = |source| Error::io(&path, source);
    let internal = |error: &dyn std::fmt::Display| Error::Internal(format!("header: {error}"));
    let dtype = match element {
        Element::F16 => Dtype::F16,
        Element::Bf16 => Dtype::BF16,
        _ => Dtype::F32,
    };
    let mut end = 0;
    let mut infos = Vec::new();
    for (name, tensor) in &tensors {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * element.size();
        let info = TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        infos.push((name.clone(), info));
    }
    let document = serde_json::to_string(package).map_err(|error| internal(&error))?;
    let document = [("voxtile".to_owned(), document)].into_iter().collect();
    let metadata = Metadata::new(Some(document), infos).map_err(|error| internal(&error))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| internal(&error))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    output.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    output.write_all(&header).map_err(io)?;
    let data = 8 + header.len() as u64;
    output.file().set_len(data + end as u64).map_err(io)?;
    // A model whose weights are still holes: whatever does not fit together shows here.
    Model::open(output.temporary_path()).map_err(|error| match error {
        Error::Format { reason, .. } => Error::format("the converted model", reason),
        other => other,
    })?;

    let mut done = 0;
    for (_, tensor) in &tensors {
        let mut write = |values: &[f32]| {
            let bytes = encoded(values, element).ok_or_else(|| {
                Error::Unsupported(format!(
                    "tensor {} has values beyond the range of f16; convert with --dtype bf16 or f32",
                    tensor.name
                ))
            })?;
            output.write_all(&bytes).map_err(io)?;
            done += bytes.len() as u64;
            progress.written(done, end as u64)
        };
        match &tensor.values {
            Values::Made(values) => write(values)?,
            Values::Stored(stored, None) => stored.pieces(|_, piece| write(piece))?,
            Values::Stored(stored, Some(factors)) => {
                let slice = stored.length() / factors.len();
                stored.pieces(|start, piece| {
                    let scaled = piece.iter().enumerate();
                    let scaled = scaled.map(|(at, value)| value * factors[(start + at) / slice]);
                    write(&scaled.collect::<Vec<_>>())
                })?;
            }
        }
    }
    output.finish()
}

/// Little-endian; `None` if a value is too large.
fn encoded(values: &[f32], element: Element) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() * element.size());
    for &value in values {
        match element {
            Element::F16 => {
                let value = half::f16::from_f32(value);
                if !value.is_finite() {
                    return None;
                }
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            Element::Bf16 => {
                let value = half::bf16::from_f32(value);
                if !value.is_finite() {
                    return None;
                }
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            _ => bytes.extend_from_slice(&value.to_le_bytes()),
        }
    }
    Some(bytes)
}
