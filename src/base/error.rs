//! The one error type. A message names the file, tensor or argument, what was found and what
//! was expected.

use std::path::PathBuf;

/// What can go wrong in voxtile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value from the caller can't be used; nothing was done.
    #[error("{0}")]
    Argument(String),
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file or memory block was read and is not what it should be.
    #[error("{what}: {reason}")]
    Format {
        /// The file, or the part of it.
        what: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// Valid, but this build or device can't do it.
    #[error("{0}")]
    Unsupported(String),
    /// There is no such device, or it can't be used; the sentence says why.
    #[error("{0}")]
    NoDevice(String),
    /// The memory budget, or the machine's memory, does not suffice.
    #[error("{what} needs {needed_bytes} bytes, but {available_bytes} are allowed")]
    Memory {
        /// What needs the memory.
        what: String,
        /// How much it needs, in bytes.
        needed_bytes: u64,
        /// How much it may use, in bytes.
        available_bytes: u64,
    },
    /// The device's memory does not suffice.
    #[error(
        "{what} needs {needed_bytes} bytes of the memory of {device}, of which {available_bytes} are \
         available"
    )]
    DeviceMemory {
        /// What needs the memory.
        what: String,
        /// The device's name.
        device: String,
        /// How much it needs, in bytes.
        needed_bytes: u64,
        /// How much of it is free, or allowed, in bytes.
        available_bytes: u64,
    },
    /// The device or its driver reported an error.
    #[error("{doing}: {name} ({reason})")]
    Device {
        /// What was being done.
        doing: String,
        /// The driver's number of the error.
        number: i32,
        /// Its name: `CUDA_ERROR_LAUNCH_FAILED`.
        name: String,
        /// What the driver says of it.
        reason: String,
    },
    /// The session is running on another thread.
    #[error("the session is busy with another run")]
    Busy,
    /// The caller asked to stop; outputs are untouched.
    #[error("cancelled")]
    Cancelled,
    /// A bug in voxtile.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A caller's value that can't be used.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::Argument(message.into())
    }

    /// A file or memory block that is not what it should be.
    pub fn format(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Format { what: what.into(), reason: reason.into() }
    }

    /// A file that could not be opened, read or written.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// An empty vector with room for `length` elements, or [`Error::Memory`] if the machine has none.
pub fn reserved<T>(what: &str, length: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(length).map_err(|_| Error::Memory {
        what: what.into(),
        needed_bytes: (length as u64).saturating_mul(size_of::<T>() as u64),
        available_bytes: 0,
    })?;
    Ok(vector)
}

/// A vector of `length` copies of `value`, or [`Error::Memory`] if the machine has no room for it.
pub fn filled<T: Clone>(what: &str, length: usize, value: T) -> Result<Vec<T>> {
    let mut vector = reserved(what, length)?;
    vector.resize(length, value);
    Ok(vector)
}

/// As [`refill`], but what `vector` holds already may stay.
pub fn resize<T: Clone>(what: &str, vector: &mut Vec<T>, length: usize, value: T) -> Result<()> {
    if length > vector.capacity() {
        return refill(what, vector, length, value);
    }
    vector.resize(length, value);
    Ok(())
}

/// As [`filled`], in the memory that `vector` has where that is enough.
pub fn refill<T: Clone>(what: &str, vector: &mut Vec<T>, length: usize, value: T) -> Result<()> {
    if length > vector.capacity() {
        *vector = Vec::new(); // before the new memory is asked for
        *vector = reserved(what, length)?;
    }
    vector.clear();
    vector.resize(length, value);
    Ok(())
}
