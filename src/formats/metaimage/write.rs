//! Headers of MetaImage files that are written.

use std::path::{Path, PathBuf};

use crate::base::{Element, Error, Result};
use crate::volume::Geometry;

/// The file beside `header` that its voxels are written to.
pub(in super::super) fn data_file_name(header: &Path) -> PathBuf {
    header.with_extension("zraw")
}

/// A header of little-endian voxels, `[channels][k][j][i]`; without channels, of one
/// grid. `compressed_bytes` says how many bytes of a zlib stream follow or are in `data_file`;
/// headers of the same image are equally long whatever it says.
///
/// # Errors
/// [`Error::Argument`] for a type that is not written.
pub(in super::super) fn header(
    element: Element,
    dims: [usize; 3],
    channels: Option<usize>,
    geometry: &Geometry,
    compressed_bytes: Option<u64>,
    data_file: Option<&str>,
) -> Result<String> {
    let name = match element {
        Element::U8 => "MET_UCHAR",
        Element::U16 => "MET_USHORT",
        Element::F32 => "MET_FLOAT",
        other => return Err(Error::argument(format!("MetaImage is not written with {other:?}"))),
    };
    let Geometry { spacing, origin, direction } = geometry;
    let rank = if channels.is_some() { 4 } else { 3 };
    let along = |values: [f64; 3], fourth: f64| {
        let values = values.into_iter().chain([fourth]).take(rank);
        values.map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
    };
    let mut rows: Vec<String> =
        (0..3).map(|axis| along(direction.map(|row| row[axis]), 0.0)).collect();
    rows.extend(channels.map(|_| along([0.0; 3], 1.0)));
    let [i, j, k] = dims;
    let more = channels.map_or(String::new(), |count| format!(" {count}"));
    let mut lines = vec![
        "ObjectType = Image".to_string(),
        format!("NDims = {rank}"),
        "BinaryData = True".into(),
        "BinaryDataByteOrderMSB = False".into(),
        format!("CompressedData = {}", if compressed_bytes.is_some() { "True" } else { "False" }),
    ];
    lines.extend(compressed_bytes.map(|bytes| format!("CompressedDataSize = {bytes:<20}")));
    lines.extend([
        format!("TransformMatrix = {}", rows.join(" ")),
        format!("Offset = {}", along(*origin, 0.0)),
        format!("CenterOfRotation = {}", along([0.0; 3], 0.0)),
        format!("ElementSpacing = {}", along(*spacing, 1.0)),
        format!("DimSize = {i} {j} {k}{more}"),
        format!("ElementType = {name}"),
        format!("ElementDataFile = {}", data_file.unwrap_or("LOCAL")),
    ]);
    Ok(lines.join("\n") + "\n")
}
