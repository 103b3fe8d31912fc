//! Headers of NRRD files that are written.

use std::path::{Path, PathBuf};

use super::segments::Segment;
use crate::base::{Element, Error, Result};
use crate::volume::Geometry;

/// The file beside `header` that its voxels are written to.
pub(in super::super) fn data_file_name(header: &Path) -> PathBuf {
    header.with_extension("raw.gz")
}

/// A header of little-endian voxels, `[channels][k][j][i]`; without channels, of one
/// grid. `data_file` is the name of the file with the voxels, if they do not follow.
///
/// # Errors
/// [`Error::Argument`] for a type that NRRD has not.
pub(in super::super) fn header_lines(
    element: Element,
    dims: [usize; 3],
    channels: Option<usize>,
    geometry: &Geometry,
    compressed: bool,
    data_file: Option<&str>,
) -> Result<String> {
    let name = match element {
        Element::U8 => "unsigned char",
        Element::U16 => "unsigned short",
        Element::F32 => "float",
        other => return Err(Error::argument(format!("NRRD is not written with {other:?}"))),
    };
    let Geometry { spacing, origin, direction } = geometry;
    let vector = |[x, y, z]: [f64; 3]| format!("({x},{y},{z})");
    let axes = [0, 1, 2].map(|axis| vector(direction.map(|row| row[axis] * spacing[axis])));
    let [i, j, k] = dims;
    let (rank, more_sizes, more_directions, more_kinds) = match channels {
        None => (3, String::new(), "", ""),
        Some(count) => (4, format!(" {count}"), " none", " list"),
    };
    let mut lines = vec![
        "NRRD0005".to_string(),
        format!("type: {name}"),
        format!("dimension: {rank}"),
        "space: left-posterior-superior".into(),
        format!("sizes: {i} {j} {k}{more_sizes}"),
        format!("space directions: {}{more_directions}", axes.join(" ")),
        format!("kinds: domain domain domain{more_kinds}"),
        "endian: little".into(),
        format!("encoding: {}", if compressed { "gzip" } else { "raw" }),
        format!("space origin: {}", vector(*origin)),
    ];
    lines.extend(data_file.map(|name| format!("data file: {name}")));
    Ok(lines.join("\n") + "\n")
}

/// What makes a label map one of 3D Slicer's segmentations.
pub(in super::super) fn segmentation_lines(segments: &[Segment], dims: [usize; 3]) -> String {
    let mut lines: Vec<String> =
        segments.iter().enumerate().flat_map(|(n, segment)| segment.lines(n, dims)).collect();
    lines.extend(
        [
            "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
            "Segmentation_MasterRepresentation:=Binary labelmap",
            "Segmentation_ReferenceImageExtentOffset:=0 0 0",
        ]
        .map(String::from),
    );
    lines.join("\n") + "\n"
}
