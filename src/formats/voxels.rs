//! What a header says of an image's voxels, and bringing them into memory.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::Image;
use super::narrow::Values;
use super::source::{Reader, Source, printable};
use crate::base::mapping::{Bytes, Loading};
use crate::base::{Element, Error, Result};
use crate::volume::Geometry;

/// How far behind the voxels a compressed stream is followed to its checksum.
const LONGEST_TAIL: u64 = 64 << 20;
/// Bytes that are read at a time: whole voxels of every type, and few enough for the cache.
const BLOCK_BYTES: usize = 1 << 16;

/// What a header says, checked before anything is allocated for it.
pub(super) struct Claims {
    /// Voxels along i, j, k.
    pub(super) dims: [usize; 3],
    /// Volumes, or components of each voxel.
    pub(super) channels: usize,
    /// Whether the channels of a voxel lie side by side.
    pub(super) interleaved: bool,
    /// Type of the stored values.
    pub(super) element: Element,
    /// Whether the stored values are in the other byte order than the machine's.
    pub(super) swapped: bool,
    /// Bytes of their file before the voxels, or before the compressed stream they are in.
    pub(super) offset: u64,
    /// Bytes of all voxels.
    pub(super) voxel_bytes: u64,
    pub(super) slope: f64,
    pub(super) intercept: f64,
    pub(super) geometry: Geometry,
    pub(super) warnings: Vec<String>,
}

/// Bytes of all voxels. The error is a reason, without the file's name.
pub(super) fn voxel_bytes(
    dims: [usize; 3],
    channels: usize,
    element: Element,
) -> std::result::Result<u64, String> {
    dims.iter()
        .chain([&channels])
        .try_fold(element.size() as u64, |bytes, count| bytes.checked_mul(*count as u64))
        .filter(|bytes| *bytes <= isize::MAX as u64)
        .ok_or_else(|| format!("dimensions {dims:?} times {channels} are too many voxels"))
}

/// An image whose header has been read.
pub(super) struct Opened {
    pub(super) claims: Claims,
    /// The file with the voxels.
    pub(super) source: Source,
    /// Bytes that `source` gives before them.
    pub(super) skip: u64,
}

impl Opened {
    /// Brings the voxels into memory; `path` is what warnings call the image.
    pub(super) fn read(self, path: &Path, loading: Loading) -> Result<Image> {
        let Self { claims, source, skip } = self;
        let (bytes, element) = if loading == Loading::Mapped && can_be_mapped(&claims, &source) {
            (map_voxels(&source, &claims)?, claims.element)
        } else {
            read_voxels(source, &claims, skip)?
        };
        Ok(image(path, claims, bytes, element))
    }

    /// The image without its voxels.
    pub(super) fn without_voxels(self, path: &Path) -> Image {
        let element = self.claims.element;
        image(path, self.claims, Vec::new().into(), element)
    }

    /// Bytes of memory that [`Opened::read`] takes at most.
    pub(super) fn memory_bytes(&self) -> u64 {
        if can_be_mapped(&self.claims, &self.source) { 0 } else { self.claims.voxel_bytes }
    }
}

/// What a file holds: its voxels, of type `element`, and what its header says.
fn image(path: &Path, claims: Claims, bytes: Bytes, element: Element) -> Image {
    Image {
        bytes,
        element,
        stored: claims.element,
        dims: claims.dims,
        channels: claims.channels,
        interleaved: claims.interleaved && claims.channels > 1,
        slope: claims.slope,
        intercept: claims.intercept,
        geometry: claims.geometry,
        warnings: claims.warnings.iter().map(|w| format!("{}: {w}", path.display())).collect(),
    }
}

/// The file beside a header that the header says has the voxels. One that lies elsewhere is
/// refused: an image has no business with the rest of the machine.
pub(super) fn beside(header: &Path, name: &str) -> Result<PathBuf> {
    let plain = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    let path = Path::new(name);
    let sane = name.len() <= 4096 && !name.chars().any(char::is_control);
    if !sane || path.file_name().is_none() || !path.components().all(plain) {
        return Err(Error::format(
            header.display().to_string(),
            format!(
                "its voxels are in `{}`; expected a file in the header's folder or below it",
                printable(name)
            ),
        ));
    }
    Ok(header.with_file_name("").join(path))
}

/// Whether the voxels lie in the file as they are to lie in memory.
fn can_be_mapped(claims: &Claims, source: &Source) -> bool {
    !source.compressed() && (!claims.swapped || claims.element.size() == 1)
}

fn map_voxels(source: &Source, claims: &Claims) -> Result<Bytes> {
    check_size(source, claims)?;
    match &source.reader {
        Reader::Plain(file) => Bytes::map(file.get_ref(), claims.offset, claims.voxel_bytes)
            .map_err(|error| source.failed(error)),
        _ => Err(Error::Internal("a compressed file can't be mapped".into())),
    }
}

/// The error of a file that has fewer voxels than its header says.
fn short(source: &Source, claims: &Claims, found: &str) -> Error {
    let [i, j, k] = claims.dims;
    let channels = match claims.channels {
        1 => String::new(),
        channels => format!(" times {channels}"),
    };
    let (needed, offset) = (claims.voxel_bytes, claims.offset);
    Error::format(
        source.path.display().to_string(),
        format!(
            "its header promises {i} x {j} x {k} voxels{channels} in {needed} bytes from byte \
             {offset}, but {found}"
        ),
    )
}

/// Refuses files that are too short, by their size alone.
fn check_size(source: &Source, claims: &Claims) -> Result<()> {
    if claims.offset.saturating_add(claims.voxel_bytes) <= source.most_bytes() {
        return Ok(());
    }
    let bytes = source.file_bytes;
    let found = match source.compressed() {
        true => format!("{bytes} compressed bytes can't hold them"),
        false => format!("the file ends after {bytes} bytes"),
    };
    Err(short(source, claims, &found))
}

/// Reads the voxels after `skip` bytes in one pass, in the machine's byte order.
fn read_voxels(mut source: Source, claims: &Claims, skip: u64) -> Result<(Bytes, Element)> {
    check_size(&source, claims)?;
    let skipped = io::copy(&mut source.reader.by_ref().take(skip), &mut io::sink())
        .map_err(|error| source.failed(error))?;
    if skipped < skip {
        return Err(short(&source, claims, "the file ends before them"));
    }
    let size = claims.element.size();
    let needed = claims.voxel_bytes as usize;
    let what = format!("the voxels of {}", source.path.display());
    let mut values = Values::new(what, claims.element, needed / size)?;
    let mut block = vec![0; BLOCK_BYTES.min(needed)];
    let mut done = 0;
    while done < needed {
        let block = &mut block[..BLOCK_BYTES.min(needed - done)];
        let count = fill(&mut source.reader, block).map_err(|error| source.failed(error))?;
        if count < block.len() {
            let found = format!("only {} bytes are there", done + count);
            return Err(short(&source, claims, &found));
        }
        if claims.swapped && size > 1 {
            block.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        values.append(block)?;
        done += count;
    }
    if source.compressed() {
        // The checksum is at the stream's end, which is normally right here.
        io::copy(&mut source.reader.by_ref().take(LONGEST_TAIL), &mut io::sink())
            .map_err(|error| source.failed(error))?;
    }
    let (bytes, element) = values.finish();
    Ok((bytes.into(), element))
}

/// Reads until `into` is full or the file ends; how many bytes there were.
fn fill(reader: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < into.len() {
        match reader.read(&mut into[count..]) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
