//! Output files that are whole or absent.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::base::{Error, Result};

/// A file that appears under its name only when it is complete. Dropped unfinished, it leaves
/// nothing; nor does a program that is killed, where the file system has files without names
/// (Linux's `O_TMPFILE`: ext4, XFS, Btrfs, tmpfs). Elsewhere a killed one leaves a hidden
/// `.voxtile-*.tmp` beside the output.
pub struct OutputFile {
    temporary: Temporary,
    path: PathBuf,
}

/// Where the bytes go meanwhile, in the folder of the output.
enum Temporary {
    /// A file without a name, until it is complete.
    #[cfg(target_os = "linux")]
    Unnamed(File),
    Named(NamedTempFile),
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
        let folder = folder(path);
        if !folder.is_dir() {
            return Err(Error::argument(format!(
                "output {shown}: the folder {} does not exist; create it first",
                folder.display()
            )));
        }
        #[cfg(target_os = "linux")]
        if let Some(file) = unnamed::create(folder) {
            return Ok(Self { temporary: Temporary::Unnamed(file), path: path.into() });
        }
        let temporary =
            temporary().tempfile_in(folder).map_err(|source| Error::io(path, source))?;
        Ok(Self { temporary: Temporary::Named(temporary), path: path.into() })
    }

    /// Where the file will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path by which the file can be opened before it is complete, as long as this lives.
    pub fn temporary_path(&self) -> PathBuf {
        match &self.temporary {
            #[cfg(target_os = "linux")]
            Temporary::Unnamed(file) => unnamed::path(file),
            Temporary::Named(file) => file.path().into(),
        }
    }

    /// The file, open for reading and writing.
    pub fn file(&mut self) -> &mut File {
        match &mut self.temporary {
            #[cfg(target_os = "linux")]
            Temporary::Unnamed(file) => file,
            Temporary::Named(file) => file.as_file_mut(),
        }
    }

    /// Makes the file appear under its name, in place of one that was there.
    ///
    /// # Errors
    /// [`Error::Io`]; the temporary file is removed.
    pub fn finish(self) -> Result<()> {
        let Self { temporary, path } = self;
        match temporary {
            #[cfg(target_os = "linux")]
            Temporary::Unnamed(mut file) => unnamed::finish(&mut file, &path),
            Temporary::Named(file) => file.persist(&path).map(drop).map_err(|error| error.error),
        }
        .map_err(|source| Error::io(&path, source))
    }
}

/// A temporary file of ours. It is private by default; the finished one is meant to be as open as
/// the user's umask lets any other new file be.
fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".voxtile-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// Files without names, which are gone when nobody has them open.
#[cfg(target_os = "linux")]
mod unnamed {
    use std::fs::{File, OpenOptions};
    use std::io::{self, Seek};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::{Path, PathBuf};

    use rustix::fs::{AtFlags, CWD, linkat};

    use super::{folder, temporary};

    /// `None` where the file system has none, or nothing can give them a name later.
    pub(super) fn create(folder: &Path) -> Option<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o666).custom_flags(libc::O_TMPFILE);
        options.open(folder).ok().filter(|file| path(file).exists())
    }

    /// The kernel's own name of an open file.
    pub(super) fn path(file: &File) -> PathBuf {
        format!("/proc/self/fd/{}", file.as_raw_fd()).into()
    }

    /// Gives the file its name. One that is there is replaced by renaming, for a link can't.
    pub(super) fn finish(file: &mut File, to: &Path) -> io::Result<()> {
        let from = path(file);
        let link = |name: &Path| -> io::Result<()> {
            Ok(linkat(CWD, &from, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
        };
        match link(to) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // A file system that has such files, but gives them no names.
            Err(_) => return copy(file, to),
        }
        let linked = temporary().make_in(folder(to), link)?;
        linked.into_temp_path().persist(to).map_err(|error| error.error)
    }

    pub(super) fn copy(file: &mut File, to: &Path) -> io::Result<()> {
        let mut named = temporary().tempfile_in(folder(to))?;
        file.rewind()?;
        io::copy(file, &mut named)?;
        named.persist(to).map(drop).map_err(|error| error.error)
    }
}

/// The folder that a file is to lie in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file().flush()
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

    #[test]
    fn a_file_that_is_there_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        for bytes in [&b"first"[..], b"second"] {
            let mut output = OutputFile::create(&path).unwrap();
            output.write_all(bytes).unwrap();
            // What is not finished can be read, by those who must look before it is.
            assert_eq!(std::fs::read(output.temporary_path()).unwrap(), bytes);
            output.finish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(entries(folder.path()), 1);
    }

    /// Where the file system has files without names, as those of CI have.
    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_has_a_name_before_it_is_complete() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        let mut output = OutputFile::create(&path).unwrap();
        output.write_all(b"whole").unwrap();
        if !matches!(output.temporary, Temporary::Unnamed(_)) {
            println!("SKIPPED: files need names in {}", folder.path().display());
            return;
        }
        assert_eq!(entries(folder.path()), 0);
        output.finish().unwrap();
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
        let mut file = unnamed::create(folder.path()).unwrap();
        file.write_all(b"copied").unwrap();
        unnamed::copy(&mut file, &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"copied");
        assert_eq!(entries(folder.path()), 2);
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
