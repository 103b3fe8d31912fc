//! A file's bytes, mapped or read.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

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

/// A file's bytes, whichever way they came into memory.
pub enum Bytes {
    /// Mapped from a file.
    Mapped(memmap2::Mmap),
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
        // Nothing can be mapped of an empty file.
        if loading == Loading::Read || file.metadata().map_err(failed)?.len() == 0 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(failed)?;
            return Ok(Self::Owned(bytes));
        }
        // SAFETY: the map is private and read-only. Another process that truncates the file while
        // it is mapped breaks it for us; `Loading::Mapped` states that.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) };
        map.map(Self::Mapped).map_err(failed)
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
