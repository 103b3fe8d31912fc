//! Reading NIfTI-1 files.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::Image;
use super::super::narrow::Values;
use super::header::{self, Claims, HEADER_BYTES};
use super::source::{Reader, Source};
use crate::base::mapping::{Bytes, Loading};
use crate::base::{Element, Error, Result};

/// How far behind the voxels a gzip stream is followed to its checksum.
const LONGEST_TAIL: u64 = 64 << 20;
/// Bytes that are read at a time: whole voxels of every type, and few enough for the cache.
const BLOCK_BYTES: usize = 1 << 16;

/// Reads a NIfTI-1 image: a `.nii` file, or either file of a `.hdr`/`.img` pair, plain or
/// gzip-compressed whatever its name says.
///
/// Voxels of a plain file in the machine's byte order are mapped, not copied, so what
/// [`Loading::Mapped`] says of the file holds while the image is in use; [`read_with`] can leave
/// that out.
///
/// # Errors
/// [`Error::Io`] if the file can't be read, [`Error::Format`] if it is not what it should be,
/// [`Error::Unsupported`] for other image formats, NIfTI-2, and voxels that are not plain numbers,
/// [`Error::Memory`]. Nothing is allocated on the word of a header that the file's size
/// contradicts.
pub fn read(path: &Path) -> Result<Image> {
    read_with(path, Loading::Mapped)
}

/// As [`read`], mapping the voxels only if `loading` says so.
///
/// # Errors
/// As [`read`].
pub fn read_with(path: &Path, loading: Loading) -> Result<Image> {
    let (claims, source, skip) = open(path)?;
    let (bytes, element) = if loading == Loading::Mapped && can_be_mapped(&claims, &source) {
        (map_voxels(&source, &claims)?, claims.element)
    } else {
        read_voxels(source, &claims, skip)?
    };
    Ok(image(path, claims, bytes, Some(element)))
}

/// What a file holds: its voxels, of type `element` if not of the file's, and what its header says.
fn image(path: &Path, claims: Claims, bytes: Bytes, element: Option<Element>) -> Image {
    Image {
        bytes,
        element: element.unwrap_or(claims.element),
        stored: claims.element,
        dims: claims.dims,
        channels: claims.channels,
        slope: claims.slope,
        intercept: claims.intercept,
        geometry: claims.geometry,
        warnings: claims.warnings.iter().map(|w| format!("{}: {w}", path.display())).collect(),
    }
}

/// What [`read_channels`] reads of these files, without the voxels.
///
/// # Errors
/// As [`read_channels`], for what the headers say.
pub fn read_headers<P: AsRef<Path>>(paths: &[P]) -> Result<Image> {
    let read = |path: &Path| {
        let (claims, _, _) = open(path)?;
        Ok(image(path, claims, Vec::new().into(), None))
    };
    channels(paths, read)
}

/// Bytes of memory that [`read_channels`] takes at most for these files, by their headers.
///
/// # Errors
/// As [`read`], for what the headers say.
pub fn memory_bytes<P: AsRef<Path>>(paths: &[P]) -> Result<u64> {
    let mut bytes = 0u64;
    for path in paths {
        let (claims, source, _) = open(path.as_ref())?;
        let voxels = claims.voxel_bytes / claims.element.size() as u64;
        bytes = bytes.saturating_add(match paths {
            [_] if can_be_mapped(&claims, &source) => 0,
            [_] => claims.voxel_bytes,
            // Several are put together, as they are or as `f32`; the last may be there twice.
            _ => 2 * claims.voxel_bytes.max(4 * voxels),
        });
    }
    Ok(bytes)
}

/// A file's header, the file with the voxels, and how many of its bytes are before them.
fn open(path: &Path) -> Result<(Claims, Source, u64)> {
    let (header_path, pair) = match partner(path) {
        Some((image, header)) if is_image_name(path) => (header, image),
        Some((image, _)) => (path.into(), image),
        None => (path.into(), path.into()),
    };
    let mut source = Source::open(&header_path)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    let mut start = source.reader.by_ref().take(HEADER_BYTES as u64);
    start.read_to_end(&mut bytes).map_err(|error| source.failed(error))?;
    let claims = match header::parse(&bytes) {
        Ok(Ok(claims)) => claims,
        Ok(Err(reason)) => {
            return Err(Error::Unsupported(format!("{}: {reason}", header_path.display())));
        }
        Err(reason) => {
            return Err(match foreign_format(path) {
                Some(format) => Error::Unsupported(format!(
                    "{}: {format} is not read; convert it to NIfTI (.nii.gz) first, for example \
                     with SimpleITK or 3D Slicer",
                    path.display()
                )),
                None => Error::format(header_path.display().to_string(), reason),
            });
        }
    };
    if !claims.separate {
        let skip = claims.offset - HEADER_BYTES as u64;
        return Ok((claims, source, skip));
    }
    if pair == header_path {
        return Err(Error::format(
            header_path.display().to_string(),
            "the header says that the voxels are in an .img file, but this file is not named .hdr",
        ));
    }
    let skip = claims.offset;
    Ok((claims, Source::open(&pair)?, skip))
}

/// Reads the channel files of one case, such as nnU-Net's `case_0000.nii.gz`, `case_0001.nii.gz`,
/// in the order given, into one image.
///
/// # Errors
/// As [`read`], and [`Error::Argument`] if there is no file or the files do not share one grid.
pub fn read_channels<P: AsRef<Path>>(paths: &[P]) -> Result<Image> {
    channels(paths, read)
}

/// What `read` makes of each file, in one image.
fn channels<P: AsRef<Path>>(paths: &[P], read: impl Fn(&Path) -> Result<Image>) -> Result<Image> {
    let [first, further @ ..] = paths else {
        return Err(Error::argument("no input file"));
    };
    let first = first.as_ref();
    let mut image = read(first)?;
    for path in further {
        let path = path.as_ref();
        image.append(&first.display().to_string(), read(path)?, &path.display().to_string())?;
    }
    Ok(image)
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
        Reader::Compressed(_) => Err(Error::Internal("a compressed file can't be mapped".into())),
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

/// For a file of a pair, by its name: the image file and the header file.
fn partner(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let name = path.file_name()?.to_str()?;
    let (stem, compressed) = match name.strip_suffix(".gz") {
        Some(stem) => (stem, true),
        None => (name, false),
    };
    let stem = stem.strip_suffix(".hdr").or_else(|| stem.strip_suffix(".img"))?;
    let find = |extension: &str| {
        let mut names = [format!("{stem}.{extension}"), format!("{stem}.{extension}.gz")];
        if compressed {
            names.reverse();
        }
        let [preferred, other] = names.map(|name| path.with_file_name(name));
        if !preferred.exists() && other.exists() { other } else { preferred }
    };
    Some((find("img"), find("hdr")))
}

fn is_image_name(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".img") || name.ends_with(".img.gz")
}

/// The name of another image format, by the file's name.
fn foreign_format(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let formats = [
        (".mha", "MetaImage"),
        (".mhd", "MetaImage"),
        (".nrrd", "NRRD"),
        (".nhdr", "NRRD"),
        (".dcm", "DICOM"),
        (".mgz", "MGH"),
        (".mgh", "MGH"),
        (".gipl", "GIPL"),
        (".gipl.gz", "GIPL"),
        (".npy", "NumPy"),
        (".npz", "NumPy"),
        (".b2nd", "Blosc2"),
        (".tif", "TIFF"),
        (".tiff", "TIFF"),
        (".png", "PNG"),
        (".jpg", "JPEG"),
        (".zip", "a ZIP archive"),
        (".safetensors", "safetensors as an image"),
    ];
    formats.iter().find(|(extension, _)| name.ends_with(extension)).map(|(_, format)| *format)
}
