//! Reading MetaImage files.

use std::path::Path;

use super::super::source::{Source, printable};
use super::super::voxels::{Opened, beside};
use super::fields::Fields;
use super::header;
use crate::base::{Error, Result};

/// Whether a file is MetaImage, by its name or its first bytes.
pub(in super::super) fn recognizes(path: &Path, start: &[u8]) -> bool {
    let named = |ending: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
    let begins = |field: &[u8]| start.starts_with(field);
    named("mha") || named("mhd") || begins(b"ObjectType =") || begins(b"NDims =")
}

/// Reads the header of a file that stands at its beginning.
pub(in super::super) fn open(mut source: Source) -> Result<Opened> {
    let shown = source.path.display().to_string();
    let fields = Fields::read(&mut source.lines(), &shown)?;
    let wrong = |reason: String| Error::format(&shown, reason);
    let unsupported = |reason: String| Error::Unsupported(format!("{shown}: {reason}"));
    let mut claims = header::parse(&fields).map_err(wrong)?.map_err(unsupported)?;
    let name = fields.get(&["ElementDataFile"]).unwrap_or_default();
    let mut start = fields.bytes;
    if name.split_whitespace().next() == Some("LIST") || name.contains('%') {
        return Err(unsupported(
            "its voxels are in several files; write them into one, for example with SimpleITK or \
             3D Slicer"
                .into(),
        ));
    }
    if !name.eq_ignore_ascii_case("LOCAL") {
        source = Source::open(&beside(&source.path, name)?)?;
        start = 0;
    }
    if fields.flag(&["CompressedData"], false).map_err(wrong)? {
        claims.offset = start;
        return Ok(Opened { claims, source: source.inflate()?, skip: 0 });
    }
    let skip = match fields.get(&["HeaderSize"]).unwrap_or("0") {
        // The voxels are the file's end.
        "-1" => source.file_bytes.checked_sub(claims.voxel_bytes + start).ok_or_else(|| {
            let (needed, bytes) = (claims.voxel_bytes, source.file_bytes);
            wrong(format!("its voxels take {needed} bytes of a file of {bytes}"))
        })?,
        text => match text.parse() {
            Ok(size @ 0..=0xff_ffff_ffff) => size,
            _ => {
                return Err(wrong(format!(
                    "HeaderSize is `{}`; expected a number from 0, or -1",
                    printable(text)
                )));
            }
        },
    };
    claims.offset = start.saturating_add(skip);
    Ok(Opened { claims, source, skip })
}
