//! A file's bytes, mapped or read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use super::{Error, Result};

/// How a file's bytes come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loading {
    /// Map the file: pages come in as they are read and can be dropped under pressure. The file
    /// must not be truncated or rewritten while it is mapped.
    #[default]
    Mapped,
    /// Read the whole file into memory; the file may change afterwards.
    Read,
}

/// Opens a file for reading. Folders, pipes and devices are refused: a pipe may never answer, a
/// device never end.
///
/// # Errors
/// [`Error::Io`] if it can't be opened; [`Error::Format`] if it is no file, `expected` being what
/// it should be.
pub fn open_file(path: &Path, expected: &str) -> Result<File> {
    let failed = |source| Error::io(path, source);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let what = match (metadata.is_file(), metadata.is_dir()) {
        (true, _) => return File::open(path).map_err(failed),
        (_, true) => "a folder",
        _ => "a pipe or a device",
    };
    Err(Error::format(path.display().to_string(), format!("is {what}; expected {expected}")))
}

/// A file's bytes, whichever way they came into memory. A clone of mapped bytes shares the map.
#[derive(Clone)]
pub enum Bytes {
    /// Mapped from a file.
    Mapped(Arc<memmap2::Mmap>),
    /// Owned by this value.
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps or reads the file at `path`, which should be what `expected` says.
    ///
    /// # Errors
    /// As [`open_file`].
    pub fn open(path: &Path, expected: &str, loading: Loading) -> Result<Self> {
        let failed = |source| Error::io(path, source);
        let mut file = open_file(path, expected)?;
        let length = file.metadata().map_err(failed)?.len();
        // Nothing can be mapped of an empty file.
        if loading == Loading::Read || length == 0 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(failed)?;
            return Ok(Self::Owned(bytes));
        }
        Self::map(&file, 0, length).map_err(failed)
    }

    /// Maps `length` bytes of a file, at least one, from byte `offset` on. What
    /// [`Loading::Mapped`] says of the file holds.
    ///
    /// # Errors
    /// What the operating system says; [`ErrorKind::UnexpectedEof`] if the file is shorter.
    pub fn map(file: &File, offset: u64, length: u64) -> std::io::Result<Self> {
        // Bytes behind a file's end could be mapped, and would end the program when read.
        if offset.checked_add(length).is_none_or(|end| end > file.metadata().map_or(0, |m| m.len()))
        {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(length).map_err(|_| ErrorKind::OutOfMemory)?;
        let mut options = memmap2::MmapOptions::new();
        options.offset(offset).len(length);
        // SAFETY: the map is private and read-only. Another process that truncates the file while
        // it is mapped breaks it for us; `Loading::Mapped` states that.
        #[allow(unsafe_code)]
        let map = unsafe { options.map(file) };
        map.map(|map| Self::Mapped(Arc::new(map)))
    }

    /// Bytes of memory that this value keeps from others: none if they are mapped, as the system
    /// can drop those and read them again.
    pub fn held(&self) -> usize {
        match self {
            Self::Mapped(_) => 0,
            Self::Owned(bytes) => bytes.len(),
        }
    }
}

impl Bytes {
    /// Lets go of mapped pages that are in memory; they come back from the file when read again.
    pub fn release_pages(&self) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: the map is read-only, so no page differs from the file's. Advice that the
            // system won't take changes nothing.
            #[allow(unsafe_code)]
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl PartialEq<Vec<u8>> for Bytes {
    fn eq(&self, other: &Vec<u8>) -> bool {
        **self == **other
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Mapped(_) => "mapped",
            Self::Owned(_) => "owned",
        };
        write!(formatter, "{} {kind} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn parts_of_a_file_are_mapped_and_what_it_lacks_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        file.write_all(&content).unwrap();
        for (offset, length) in [(0, 10_000), (5, 3), (4099, 5901), (9999, 1)] {
            let bytes = Bytes::map(&file, offset, length).unwrap();
            let expected = &content[offset as usize..][..length as usize];
            assert_eq!(&bytes[..], expected);
            assert_eq!((bytes.held(), Bytes::from(expected.to_vec()).held()), (0, expected.len()));
        }
        for (offset, length) in [(0, 10_001), (9999, 2), (10_000, 1), (u64::MAX, 2), (1, u64::MAX)]
        {
            let error = Bytes::map(&file, offset, length).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{offset} {length}");
        }
    }
}
