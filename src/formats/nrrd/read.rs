//! Reading NRRD files.

use std::path::Path;

use super::super::source::Source;
use super::super::voxels::{Opened, beside};
use super::fields::Fields;
use super::header::{self, Encoding, Refused};
use super::segments::{self, Segment};
use crate::base::{Error, Result};

/// Whether a file is NRRD, by its first bytes or its name.
pub(in super::super) fn recognizes(path: &Path, start: &[u8]) -> bool {
    let named = |ending: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
    start.starts_with(b"NRRD000") || named("nrrd") || named("nhdr")
}

/// Reads the header of a file that stands at its beginning.
pub(in super::super) fn open(mut source: Source) -> Result<Opened> {
    let shown = source.path.display().to_string();
    let fields = Fields::read(&mut source.lines(), &shown)?;
    let (mut claims, place) = header::parse(&fields).map_err(|refused| match refused {
        Refused::Wrong(reason) => Error::format(&shown, reason),
        Refused::Unsupported(reason) => Error::Unsupported(format!("{shown}: {reason}")),
    })?;
    let mut start = fields.bytes;
    if let Some(name) = fields.get("datafile") {
        if name.split_whitespace().next() == Some("LIST") || name.contains('%') {
            return Err(Error::Unsupported(format!(
                "{shown}: its voxels are in several files; write them into one, for example with \
                 SimpleITK or 3D Slicer"
            )));
        }
        source = Source::open(&beside(&source.path, name)?)?;
        start = 0;
    }
    let mut lines = source.lines();
    for _ in 0..place.lines {
        if lines.next()?.is_none() {
            return Err(Error::format(
                shown,
                format!("its field `lineskip` is {}, but there are less lines", place.lines),
            ));
        }
    }
    start += lines.position;
    let skip = match place.bytes {
        Some(bytes) => bytes,
        None => source.file_bytes.checked_sub(claims.voxel_bytes + start).ok_or_else(|| {
            let (needed, bytes) = (claims.voxel_bytes, source.file_bytes);
            Error::format(shown, format!("its voxels take {needed} bytes of a file of {bytes}"))
        })?,
    };
    if place.encoding == Encoding::Gzip {
        claims.offset = start;
        return Ok(Opened { claims, source: source.gunzip(), skip });
    }
    claims.offset = start.saturating_add(skip);
    Ok(Opened { claims, source, skip })
}

/// What 3D Slicer's keys in a file's header say of its segments, in their order: none in an NRRD
/// file that is no segmentation, or a file of another format.
///
/// # Errors
/// [`Error::Io`] if the file can't be read, [`Error::Format`] if its header is not what it should
/// be.
pub fn read_segments(path: &Path) -> Result<Vec<Segment>> {
    let mut source = Source::open(path)?;
    if !recognizes(path, source.ahead()?) {
        return Ok(Vec::new());
    }
    let shown = path.display().to_string();
    let fields = Fields::read(&mut source.lines(), &shown)?;
    segments::parse(&fields.segments).map_err(|reason| Error::format(shown, reason))
}
