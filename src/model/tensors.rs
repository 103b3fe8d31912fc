//! The tensors of a package's file.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use safetensors::{Dtype, SafeTensors};

use crate::base::mapping::Bytes;
use crate::base::{Element, Error, Result};
use crate::net::Parameter;

/// Where a tensor lies in the file.
struct Place {
    element: Element,
    shape: Vec<usize>,
    /// First byte in the file.
    start: usize,
}

/// A file's tensors.
pub(super) struct Tensors {
    bytes: Bytes,
    places: HashMap<String, Place>,
}

/// Tensors that a file may hold.
pub(super) struct Known {
    /// What stands before the names of each fold.
    pub(super) prefixes: Vec<String>,
    pub(super) required: Vec<Parameter>,
    /// They may be absent.
    pub(super) optional: Vec<Parameter>,
}

impl Tensors {
    pub(super) fn release_pages(&self) {
        self.bytes.release_pages();
    }

    /// Reads the header; returns the tensors' places and the package's document.
    pub(super) fn read(origin: &str, bytes: Bytes) -> Result<(Self, String)> {
        let damaged = |error: safetensors::SafeTensorError| {
            Error::format(origin, format!("is no intact safetensors file: {error}"))
        };
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let document = metadata.metadata().as_ref().and_then(|map| map.get("voxtile")).cloned();
        let document = document.ok_or_else(|| {
            Error::format(
                origin,
                "is no voxtile model package: its header has no `voxtile` document (bare weights \
                 need packing first)",
            )
        })?;
        // The header's length comes first, in 8 bytes; offsets count from the header's end. That
        // they cover the file without gaps has been checked.
        let data = header + 8;
        let mut places = HashMap::new();
        for (name, info) in metadata.tensors() {
            let element = match info.dtype {
                Dtype::F32 => Element::F32,
                Dtype::F16 => Element::F16,
                Dtype::BF16 => Element::Bf16,
                other => {
                    return Err(Error::format(
                        origin,
                        format!("tensor {name} is of type {other:?}, expected F32, F16 or BF16"),
                    ));
                }
            };
            let place =
                Place { element, shape: info.shape.clone(), start: data + info.data_offsets.0 };
            places.insert(name.clone(), place);
        }
        Ok((Self { bytes, places }, document))
    }

    /// Whether there are just the tensors that are known, in their shapes.
    pub(super) fn check(&self, origin: &str, parts: &[Known]) -> Result<()> {
        let wrong = |reason: String| Err(Error::format(origin, reason));
        let mut known = HashSet::new();
        for (prefix, part) in
            parts.iter().flat_map(|part| part.prefixes.iter().map(move |prefix| (prefix, part)))
        {
            let required = part.required.iter().map(|parameter| (parameter, true));
            for (parameter, required) in
                required.chain(part.optional.iter().map(|parameter| (parameter, false)))
            {
                let name = format!("{prefix}{}", parameter.name);
                match self.places.get(&name) {
                    None if required => return wrong(format!("tensor {name} is missing")),
                    Some(place) if place.shape != parameter.shape => {
                        return wrong(format!(
                            "tensor {name} has shape {:?}, expected {:?}",
                            place.shape, parameter.shape
                        ));
                    }
                    _ => {}
                }
                known.insert(name);
            }
        }
        let mut unknown: Vec<_> =
            self.places.keys().filter(|name| !known.contains(*name)).collect();
        unknown.sort_unstable();
        match unknown.as_slice() {
            [] => Ok(()),
            [first, rest @ ..] => wrong(format!(
                "tensor {first} is not part of the architecture (nor are {} others)",
                rest.len()
            )),
        }
    }

    /// How many values the tensors of a prefix have.
    pub(super) fn values_below(&self, prefix: &str) -> u64 {
        let below = self.places.iter().filter(|(name, _)| name.starts_with(prefix));
        below.map(|(_, place)| place.shape.iter().product::<usize>() as u64).sum()
    }

    /// A tensor's values. Those of `f32` are borrowed where they lie aligned.
    pub(super) fn values(&self, origin: &str, name: &str) -> Result<Cow<'_, [f32]>> {
        let missing = || Error::format(origin, format!("tensor {name} is missing"));
        let place = self.places.get(name).ok_or_else(missing)?;
        let size = place.element.size();
        // The file's header was checked: shape and offsets agree and lie within the file.
        let length = place.shape.iter().product::<usize>();
        let bytes = &self.bytes[place.start..place.start + length * size];
        let values: Cow<[f32]> = match bytemuck::try_cast_slice::<u8, f32>(bytes) {
            Ok(values) if place.element == Element::F32 && cfg!(target_endian = "little") => {
                Cow::Borrowed(values)
            }
            _ => {
                bytes.chunks_exact(size).map(|value| little_endian(place.element, value)).collect()
            }
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(Error::format(
                origin,
                format!("tensor {name} has the value {} at {at}, expected finite", values[at]),
            )),
        }
    }
}

fn little_endian(element: Element, bytes: &[u8]) -> f32 {
    let half = || [bytes[0], bytes[1]];
    match element {
        Element::F16 => half::f16::from_le_bytes(half()).to_f32(),
        Element::Bf16 => half::bf16::from_le_bytes(half()).to_f32(),
        _ => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
    }
}
