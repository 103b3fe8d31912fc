//! A file's bytes, mapped or read.

use std::fs::File;
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

/// A file's bytes, whichever way they came into memory.
pub enum Bytes {
    /// Mapped from a file.
    Mapped(memmap2::Mmap),
    /// Owned by this value.
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps or reads the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be opened, mapped or read.
    pub fn open(path: &Path, loading: Loading) -> Result<Self> {
        let failed = |source| Error::io(path, source);
        match loading {
            Loading::Read => std::fs::read(path).map(Self::Owned).map_err(failed),
            Loading::Mapped => {
                let file = File::open(path).map_err(failed)?;
                // SAFETY: the map is private and read-only. Another process that truncates the
                // file while it is mapped breaks it for us; `Loading::Mapped` states that.
                #[allow(unsafe_code)]
                let map = unsafe { memmap2::Mmap::map(&file) };
                map.map(Self::Mapped).map_err(failed)
            }
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
