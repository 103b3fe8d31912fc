//! NRRD images: `.nrrd`, `.nhdr` with its data file, and 3D Slicer's segmentations, `.seg.nrrd`.
//!
//! Fields and their meaning: <https://teem.sourceforge.net/nrrd/format.html>; which of them places
//! the image in space is decided as ITK's `NrrdImageIO` does. Keys of segmentations: "Segmentations"
//! in 3D Slicer's developer guide.

mod fields;
mod header;
mod read;
mod segments;
mod write;

pub use read::read_segments;
pub use segments::{Code, Segment, Terminology};

pub(super) use read::{open, recognizes};
pub(super) use write::{data_file_name, header_lines, segmentation_lines};
