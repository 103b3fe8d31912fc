//! Output files that are whole or absent.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::base::{Error, Result};

/// A file that appears under its name only when it is complete: bytes go to a temporary file in
/// the same folder, which [`OutputFile::finish`] renames. Dropped unfinished, it leaves nothing.
pub struct OutputFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl OutputFile {
    /// Opens a temporary file next to `path`. A file that is already there stays as it is until
    /// [`OutputFile::finish`].
    ///
    /// # Errors
    /// [`Error::Argument`] if `path` names no file, a folder, a pipe, a device, or a folder that
    /// does not exist;
    /// [`Error::Io`] if the folder can't be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let shown = path.display();
        if path.file_name().is_none() {
            return Err(Error::argument(format!("output `{shown}` is not a file name")));
        }
        if path.is_dir() {
            return Err(Error::argument(format!(
                "output {shown} is a folder; name a file, such as {}",
                path.join("labels.nii.gz").display()
            )));
        }
        // The renaming would take the place of a pipe or a device.
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Error::argument(format!(
                "output {shown} is a pipe or a device; name a file"
            )));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(Error::argument(format!(
                "output {shown}: the folder {} does not exist; create it first",
                folder.display()
            )));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".voxtile-").suffix(".tmp");
        // A temporary file is private by default; the finished one is meant to be as open as the
        // user's umask lets any other new file be.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder.tempfile_in(folder).map_err(|source| Error::io(path, source))?;
        Ok(Self { temporary, path: path.into() })
    }

    /// Where the file will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the temporary file is.
    pub fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// The temporary file, open for reading and writing.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Makes the file appear under its name, in place of one that was there.
    ///
    /// # Errors
    /// [`Error::Io`]; the temporary file is removed.
    pub fn finish(mut self) -> Result<()> {
        self.temporary.flush().map_err(|source| Error::io(&self.path, source))?;
        match self.temporary.persist(&self.path) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io(&self.path, error.error)),
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.temporary.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn appears_only_when_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        let mut output = OutputFile::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        assert!(!path.exists());
        output.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(entries(folder.path()), 1);
    }

    #[test]
    fn dropped_unfinished_it_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        std::fs::write(&path, b"old").unwrap();
        let mut output = OutputFile::create(&path).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(entries(folder.path()), 1);
    }

    #[cfg(unix)]
    #[test]
    fn refuses_what_is_no_file_and_leaves_it() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        let _listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let linked = folder.path().join("link.bin");
        std::os::unix::fs::symlink(&path, &linked).unwrap();
        for refused in [&path, &linked] {
            let error = OutputFile::create(refused).err().unwrap();
            assert!(matches!(error, Error::Argument(_)), "{error}");
        }
        assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(entries(folder.path()), 2);
    }

    #[test]
    fn refuses_folders_and_missing_folders() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| match OutputFile::create(path) {
            Err(Error::Argument(message)) => message,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{} was accepted", path.display()),
        };
        assert!(refused(folder.path()).contains("is a folder"));
        assert!(refused(&folder.path().join("none/out.nii")).contains("does not exist"));
        assert!(refused(Path::new("")).contains("not a file name"));
    }
}
