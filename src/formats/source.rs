//! The bytes of an image file, decompressed if need be.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::{GzDecoder, ZlibDecoder};

use crate::base::mapping::open_file;
use crate::base::{Error, Result};

/// No deflate stream expands by more than this (RFC 1951: 258 bytes from two bits).
const LARGEST_EXPANSION: u64 = 1032;
/// Text headers are a few kilobytes; those of segmentations with many segments some hundred.
const LONGEST_TEXT_HEADER: u64 = 8 << 20;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A text of a header as messages show it: one line, not long, whatever the file holds.
pub(super) fn printable(text: &str) -> String {
    const LONGEST: usize = 80;
    let start: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() { start + "..." } else { start }
}

/// A file that is read from its beginning to its end.
pub(super) struct Source {
    pub(super) reader: Reader,
    pub(super) path: PathBuf,
    pub(super) file_bytes: u64,
}

/// Its bytes one after another.
pub(super) enum Reader {
    Plain(BufReader<File>),
    Gzip(Box<Members>),
    Zlib(Box<ZlibDecoder<BufReader<File>>>),
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(into),
            Self::Gzip(members) => members.read(into),
            Self::Zlib(stream) => stream.read(into),
        }
    }
}

impl Source {
    /// Opens a file at its beginning, as it is.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let expected = "an image file: NIfTI, NRRD or MetaImage (DICOM series are not read; convert \
                        them first, for example with dcm2niix)";
        let file = open_file(path, expected)?;
        let metadata = file.metadata().map_err(|source| Error::io(path, source))?;
        let reader = Reader::Plain(BufReader::with_capacity(1 << 16, file));
        Ok(Self { reader, path: path.into(), file_bytes: metadata.len() })
    }

    /// What comes next in a file that is not decompressed, at least one byte unless it ends.
    pub(super) fn ahead(&mut self) -> Result<&[u8]> {
        match &mut self.reader {
            Reader::Plain(file) => file.fill_buf().map_err(|error| Error::io(&self.path, error)),
            _ => Ok(&[]),
        }
    }

    /// From here on the file is a gzip stream.
    pub(super) fn gunzip(mut self) -> Self {
        if let Reader::Plain(file) = self.reader {
            self.reader = Reader::Gzip(Box::new(Members::new(file)));
        }
        self
    }

    /// From here on the file is a gzip stream if it looks like one.
    pub(super) fn gunzip_if_compressed(mut self) -> Result<Self> {
        let compressed = self.ahead()?.starts_with(&GZIP);
        Ok(if compressed { self.gunzip() } else { self })
    }

    /// From here on the file is a zlib or gzip stream.
    pub(super) fn inflate(mut self) -> Result<Self> {
        if self.ahead()?.starts_with(&GZIP) {
            return Ok(self.gunzip());
        }
        if let Reader::Plain(file) = self.reader {
            self.reader = Reader::Zlib(Box::new(ZlibDecoder::new(file)));
        }
        Ok(self)
    }

    /// The lines of a text header that begins here.
    pub(super) fn lines(&mut self) -> Lines<'_> {
        Lines { source: self, position: 0 }
    }

    /// An error while reading: of the compressed stream, or of the operating system.
    pub(super) fn failed(&self, error: io::Error) -> Error {
        let stream_broken = matches!(
            error.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        );
        if self.compressed() && stream_broken {
            let stream = match self.reader {
                Reader::Zlib(_) => "zlib",
                _ => "gzip",
            };
            let reason = format!("the {stream} stream is damaged or cut short ({error})");
            Error::format(self.path.display().to_string(), reason)
        } else {
            Error::io(&self.path, error)
        }
    }

    pub(super) fn compressed(&self) -> bool {
        !matches!(self.reader, Reader::Plain(_))
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

/// The lines of a text header. What is longer than any header is refused.
pub(super) struct Lines<'s> {
    source: &'s mut Source,
    /// Bytes that have been read.
    pub(super) position: u64,
}

impl Lines<'_> {
    /// The next line without its end; `None` where the file ends.
    pub(super) fn next(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let Reader::Plain(file) = &mut self.source.reader else {
            return Err(Error::Internal("a compressed text header".into()));
        };
        let left = LONGEST_TEXT_HEADER.saturating_sub(self.position);
        let count = file.take(left).read_until(b'\n', &mut line);
        let count = count.map_err(|error| Error::io(&self.source.path, error))?;
        self.position += count as u64;
        if count as u64 == left {
            return Err(Error::format(
                self.source.path.display().to_string(),
                format!("its header does not end within {LONGEST_TEXT_HEADER} bytes"),
            ));
        }
        if count == 0 {
            return Ok(None);
        }
        while line.last().is_some_and(|end| matches!(end, b'\n' | b'\r')) {
            line.pop();
        }
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats;

    #[test]
    fn texts_of_headers_are_shown_on_one_short_line() {
        assert_eq!(printable("left"), "left");
        assert_eq!(printable("Größe\n\u{1b}[31m"), "Größe\\n\\u{1b}[31m");
        assert_eq!(printable(&"x".repeat(80)), "x".repeat(80));
        assert_eq!(printable(&"x".repeat(81)), "x".repeat(80) + "...");
    }

    /// A header can't write to the user's terminal, nor fill it.
    #[test]
    fn whatever_a_header_holds_messages_are_short_and_printable() {
        let nrrd = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n\
                    sizes: 2 2 2\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain \
                    domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\nlineskip: 0\n\
                    byteskip: 0\ndata file: x.raw\n\n";
        let metaimage = "ObjectType = Image\nNDims = 3\nBinaryData = True\nOffset = 0 0 0\n\
                         TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementSpacing = 1 1 1\n\
                         DimSize = 2 2 2\nElementNumberOfChannels = 1\nElementType = MET_SHORT\n\
                         HeaderSize = 0\nElementDataFile = LOCAL\n";
        let folder = tempfile::tempdir().unwrap();
        let mut messages = 0;
        for (name, text) in [("x.nrrd", nrrd), ("x.mha", metaimage)] {
            let lines: Vec<&str> = text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                let Some(value) = line.find([':', '=']).map(|at| at + 2) else { continue };
                for hostile in ["\u{1b}[31m\u{7}".repeat(5000), "9 ".repeat(5000), "(".repeat(99)] {
                    for changed in [format!("{}{hostile}", &line[..value]), hostile.clone()] {
                        let mut lines = lines.clone();
                        lines[number] = &changed;
                        let path = folder.path().join(name);
                        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
                        let Err(error) = formats::read(&path) else { continue };
                        let message = error.to_string();
                        assert!(message.len() < 1200, "{message}");
                        assert!(!message.contains(char::is_control), "{message:?}");
                        messages += 1;
                    }
                }
            }
        }
        assert!(messages > 100, "only {messages} were refused");
    }
}
