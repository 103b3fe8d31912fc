//! The bytes of a file, decompressed if need be.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use crate::base::mapping::open_file;
use crate::base::{Error, Result};

/// No deflate stream expands by more than this (RFC 1951: 258 bytes from two bits).
const LARGEST_EXPANSION: u64 = 1032;

/// A file, decompressed if it is gzip.
pub(super) struct Source {
    pub(super) reader: Reader,
    pub(super) path: PathBuf,
    pub(super) file_bytes: u64,
}

/// Its bytes one after another.
pub(super) enum Reader {
    Plain(BufReader<File>),
    Compressed(Box<Members>),
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(into),
            Self::Compressed(members) => members.read(into),
        }
    }
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::io(path, source);
        let expected = "a NIfTI file (DICOM series are not read; convert them first, for example \
                        with dcm2niix)";
        let file = open_file(path, expected)?;
        let metadata = file.metadata().map_err(failed)?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let compressed = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
        let reader = if compressed {
            Reader::Compressed(Box::new(Members::new(file)))
        } else {
            Reader::Plain(file)
        };
        Ok(Self { reader, path: path.into(), file_bytes: metadata.len() })
    }

    /// An error while reading: of the gzip stream, or of the operating system.
    pub(super) fn failed(&self, error: io::Error) -> Error {
        let stream_broken = matches!(
            error.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        );
        if self.compressed() && stream_broken {
            let reason = format!("the gzip stream is damaged or cut short ({error})");
            Error::format(self.path.display().to_string(), reason)
        } else {
            Error::io(&self.path, error)
        }
    }

    pub(super) fn compressed(&self) -> bool {
        matches!(self.reader, Reader::Compressed(_))
    }

    /// The bytes the rest of the file can't exceed.
    pub(super) fn most_bytes(&self) -> u64 {
        if self.compressed() {
            self.file_bytes.saturating_mul(LARGEST_EXPANSION)
        } else {
            self.file_bytes
        }
    }
}

/// The members of a gzip file one after another. Bytes behind them that are no member are ignored,
/// as gzip and zlib do.
pub(super) struct Members {
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
