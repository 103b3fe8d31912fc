//! Reading NIfTI-1 files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use crate::base::error::reserved;
use crate::base::mapping::open_file;
use crate::base::{Error, Result};

use super::super::Image;
use super::header::{self, Claims, HEADER_BYTES};

/// No deflate stream expands by more than this (RFC 1951: 258 bytes from two bits).
const LARGEST_EXPANSION: u64 = 1032;
/// How far behind the voxels a gzip stream is followed to its checksum.
const LONGEST_TAIL: u64 = 64 << 20;

/// Reads a NIfTI-1 image: a `.nii` file, or either file of a `.hdr`/`.img` pair, plain or
/// gzip-compressed whatever its name says.
///
/// # Errors
/// [`Error::Io`] if the file can't be read, [`Error::Format`] if it is not what it should be,
/// [`Error::Unsupported`] for other image formats, NIfTI-2, and voxels that are not plain numbers,
/// [`Error::Memory`]. Nothing is allocated on the word of a header that the file's size
/// contradicts.
pub fn read(path: &Path) -> Result<Image> {
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
    let voxels = if claims.separate {
        if pair == header_path {
            return Err(Error::format(
                header_path.display().to_string(),
                "the header says that the voxels are in an .img file, but this file is not named \
                 .hdr",
            ));
        }
        read_voxels(Source::open(&pair)?, &claims, claims.offset)?
    } else {
        read_voxels(source, &claims, claims.offset - HEADER_BYTES as u64)?
    };
    Ok(Image {
        bytes: voxels,
        element: claims.element,
        dims: claims.dims,
        channels: claims.channels,
        slope: claims.slope,
        intercept: claims.intercept,
        geometry: claims.geometry,
        warnings: claims.warnings.iter().map(|w| format!("{}: {w}", path.display())).collect(),
    })
}

/// Reads the channel files of one case, such as nnU-Net's `case_0000.nii.gz`, `case_0001.nii.gz`,
/// in the order given, into one image.
///
/// # Errors
/// As [`read`], and [`Error::Argument`] if there is no file or the files do not share one grid.
pub fn read_channels<P: AsRef<Path>>(paths: &[P]) -> Result<Image> {
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

/// A file, decompressed if it is gzip.
struct Source {
    reader: Box<dyn Read>,
    path: PathBuf,
    compressed: bool,
    file_bytes: u64,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::io(path, source);
        let expected = "a NIfTI file (DICOM series are not read; convert them first, for example \
                        with dcm2niix)";
        let file = open_file(path, expected)?;
        let metadata = file.metadata().map_err(failed)?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let compressed = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn Read> =
            if compressed { Box::new(Members::new(file)) } else { Box::new(file) };
        Ok(Self { reader, path: path.into(), compressed, file_bytes: metadata.len() })
    }

    /// An error while reading: of the gzip stream, or of the operating system.
    fn failed(&self, error: io::Error) -> Error {
        let stream_broken = matches!(
            error.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        );
        if self.compressed && stream_broken {
            let reason = format!("the gzip stream is damaged or cut short ({error})");
            Error::format(self.path.display().to_string(), reason)
        } else {
            Error::io(&self.path, error)
        }
    }

    /// The bytes the rest of the file can't exceed.
    fn most_bytes(&self) -> u64 {
        if self.compressed {
            self.file_bytes.saturating_mul(LARGEST_EXPANSION)
        } else {
            self.file_bytes
        }
    }
}

/// The members of a gzip file one after another. Bytes behind them that are no member are ignored,
/// as gzip and zlib do.
struct Members {
    current: Option<GzDecoder<BufReader<File>>>,
}

impl Members {
    fn new(file: BufReader<File>) -> Self {
        Self { current: Some(GzDecoder::new(file)) }
    }
}

impl Read for Members {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(mut member) = self.current.take() else { return Ok(0) };
            let count = member.read(into)?;
            if count > 0 || into.is_empty() {
                self.current = Some(member);
                return Ok(count);
            }
            let mut rest = member.into_inner();
            if rest.fill_buf()?.first() == Some(&0x1f) {
                self.current = Some(GzDecoder::new(rest));
            }
        }
    }
}

/// Reads the voxels after `skip` bytes, in the machine's byte order.
fn read_voxels(mut source: Source, claims: &Claims, skip: u64) -> Result<Vec<u8>> {
    let name = source.path.display().to_string();
    let needed = claims.voxel_bytes;
    let short = |found: String| {
        let [i, j, k] = claims.dims;
        let channels = claims.channels;
        Error::format(
            name.as_str(),
            format!(
                "its header promises {i} x {j} x {k} voxels{} in {needed} bytes from byte {}, but \
                 {found}",
                if channels == 1 { String::new() } else { format!(" times {channels}") },
                claims.offset
            ),
        )
    };
    if claims.offset.saturating_add(needed) > source.most_bytes() {
        return Err(short(if source.compressed {
            format!("{} compressed bytes can't hold them", source.file_bytes)
        } else {
            format!("the file ends after {} bytes", source.file_bytes)
        }));
    }
    let skipped = io::copy(&mut source.reader.by_ref().take(skip), &mut io::sink())
        .map_err(|error| source.failed(error))?;
    if skipped < skip {
        return Err(short("the file ends before them".into()));
    }
    let mut bytes = reserved(&format!("the voxels of {name}"), needed as usize)?;
    let mut voxels = source.reader.by_ref().take(needed);
    let read = voxels.read_to_end(&mut bytes).map_err(|error| source.failed(error))?;
    if (read as u64) < needed {
        return Err(short(format!("only {read} bytes are there")));
    }
    if source.compressed {
        // The checksum is at the stream's end, which is normally right here.
        io::copy(&mut source.reader.by_ref().take(LONGEST_TAIL), &mut io::sink())
            .map_err(|error| source.failed(error))?;
    }
    if claims.swapped && claims.element.size() > 1 {
        for value in bytes.chunks_exact_mut(claims.element.size()) {
            value.reverse();
        }
    }
    Ok(bytes)
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
