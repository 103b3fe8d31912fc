//! What a MetaImage header says of the voxels, checked.

use super::super::axes;
use super::super::source::printable;
use super::super::voxels::{Claims, voxel_bytes};
use super::fields::Fields;
use crate::base::Element;
use crate::volume::Geometry;

/// Checks the fields. The claims' offset is left to be set. The error is a reason, without the
/// file's name; `Ok(Err)` is an image that is valid and not read.
pub(super) fn parse(fields: &Fields) -> Result<Result<Claims, String>, String> {
    if let Some(found) = fields.get(&["ObjectType"]).filter(|found| *found != "Image") {
        return Ok(Err(format!("it holds a `{}`, not an image", printable(found))));
    }
    if !fields.flag(&["BinaryData"], true)? {
        return Ok(Err("voxels are written as text; only binary ones are read".into()));
    }
    let rank = match fields.get(&["NDims"]).map(str::parse) {
        Some(Ok(rank @ 2..=4)) => rank,
        _ => {
            let found = fields.get(&["NDims"]).unwrap_or_default();
            return Err(format!(
                "NDims is `{}`; expected 2, 3, or 4 with the channels last",
                printable(found)
            ));
        }
    };
    let kind = fields.get(&["ElementType"]).unwrap_or_default();
    let Some(element) = element(kind) else {
        return Ok(Err(format!(
            "ElementType is `{}`; integers and floating point numbers of 8 to 64 bits are read",
            printable(kind)
        )));
    };
    let (dims, mut channels) = sizes(fields, rank)?;
    let components = fields.get(&["ElementNumberOfChannels"]).unwrap_or("1");
    let components = match components.parse() {
        Ok(count @ 1..=65536) => count,
        _ => {
            return Err(format!(
                "ElementNumberOfChannels is `{}`; expected a number from 1",
                printable(components)
            ));
        }
    };
    if components > 1 && channels > 1 {
        return Ok(Err(format!(
            "it has {channels} volumes of {components} channels each; one of both is read"
        )));
    }
    channels *= components;
    let voxel_bytes = voxel_bytes(dims, channels, element)?;
    let mut warnings = Vec::new();
    let geometry = geometry(fields, rank, &mut warnings)?;
    let scaling = ["ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"];
    for (name, neutral) in scaling.into_iter().zip([1.0, 0.0]) {
        let found = fields.numbers(&[name], 1)?;
        if found.is_some_and(|found| found[0] != neutral) {
            warnings.push(format!("its field `{name}` is not heeded, as in ITK"));
        }
    }
    let big = fields.flag(&["BinaryDataByteOrderMSB", "ElementByteOrderMSB"], false)?;
    Ok(Ok(Claims {
        dims,
        channels,
        interleaved: components > 1,
        element,
        swapped: big != cfg!(target_endian = "big"),
        offset: 0,
        voxel_bytes,
        slope: 1.0,
        intercept: 0.0,
        geometry,
        warnings,
    }))
}

/// `MET_LONG` has 32 bits wherever a file was written.
fn element(name: &str) -> Option<Element> {
    Some(match name {
        "MET_CHAR" => Element::I8,
        "MET_UCHAR" => Element::U8,
        "MET_SHORT" => Element::I16,
        "MET_USHORT" => Element::U16,
        "MET_INT" | "MET_LONG" => Element::I32,
        "MET_UINT" | "MET_ULONG" => Element::U32,
        "MET_LONG_LONG" => Element::I64,
        "MET_ULONG_LONG" => Element::U64,
        "MET_FLOAT" => Element::F32,
        "MET_DOUBLE" => Element::F64,
        _ => return None,
    })
}

/// Voxels along i, j, k and the number of volumes.
fn sizes(fields: &Fields, rank: usize) -> Result<([usize; 3], usize), String> {
    let text = fields.get(&["DimSize"]).ok_or("its header has no field `DimSize`")?;
    let sizes: Option<Vec<usize>> =
        text.split_whitespace().map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    match sizes.filter(|sizes| sizes.len() == rank) {
        Some(sizes) => {
            let size = |axis: usize| sizes.get(axis).copied().unwrap_or(1);
            Ok(([size(0), size(1), size(2)], size(3)))
        }
        None => {
            Err(format!("DimSize is `{}`; expected {rank} numbers of at least 1", printable(text)))
        }
    }
}

fn geometry(fields: &Fields, rank: usize, warnings: &mut Vec<String>) -> Result<Geometry, String> {
    let in_space = rank.min(3);
    let mut spacing = [1.0; 3];
    if let Some(found) = fields.numbers(&["ElementSpacing", "ElementSize"], rank)? {
        spacing[..in_space].copy_from_slice(&found[..in_space]);
    }
    let mut origin = [0.0; 3];
    if let Some(found) = fields.numbers(&["Offset", "Position", "Origin"], rank)? {
        origin[..in_space].copy_from_slice(&found[..in_space]);
    }
    // Its rows are the directions of the axes.
    let mut unit = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let names = ["TransformMatrix", "Rotation", "Orientation"];
    if let Some(found) = fields.numbers(&names, rank * rank)? {
        for axis in 0..in_space {
            unit[axis][..in_space].copy_from_slice(&found[axis * rank..][..in_space]);
            let length = axes::length(unit[axis]);
            unit[axis] = unit[axis].map(|value| value / length + 0.0);
        }
    }
    let (geometry, warning) = axes::geometry(spacing, origin, unit)?;
    warnings.extend(warning);
    Ok(geometry)
}
