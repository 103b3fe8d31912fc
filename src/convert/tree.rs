//! Where trainings lie: a folder, or a zip of one.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zip::ZipArchive;

use super::{Progress, go_on};
use crate::base::mapping::open_file;
use crate::base::{Error, Result};

/// Files that are looked at.
const MOST_FILES: usize = 200_000;
/// Folders that are looked into; links may lead to one of them in many ways.
const MOST_FOLDERS: usize = 20_000;
/// Folders within folders.
const MOST_DEPTH: usize = 8;
/// Times that a zip may shrink a file: weights hardly shrink, bombs a thousandfold.
const MOST_RATIO: u64 = 200;
/// The same of all files together, beside which there are small ones.
const MOST_TOTAL_RATIO: u64 = 16;
const SMALL_FILES: u64 = 64 << 20;

/// Files by their path below a root, with `/` between folders.
pub(super) enum Tree {
    Folder {
        root: PathBuf,
        files: Vec<String>,
    },
    /// `left` is how many bytes may still be unpacked.
    Archive {
        path: PathBuf,
        files: Vec<String>,
        unpacked: TempDir,
        left: Cell<u64>,
    },
}

impl Tree {
    pub(super) fn folder(root: &Path, progress: &dyn Progress) -> Result<Self> {
        let mut walk = Walk { files: Vec::new(), folders: 0, around: Vec::new(), progress };
        walk.folder(root, "")?;
        let mut files = walk.files;
        files.sort_unstable();
        Ok(Self::Folder { root: root.into(), files })
    }

    /// Lists a zip. Files are unpacked when they are asked for.
    pub(super) fn archive(path: &Path) -> Result<Self> {
        let archive = open(path)?;
        let mut files = Vec::new();
        for name in archive.file_names() {
            let name = name.map_err(|error| wrong(path, error.to_string()))?;
            if files.len() == MOST_FILES {
                return Err(wrong(path, format!("has more than {MOST_FILES} files")));
            }
            let plain = Path::new(&*name)
                .components()
                .all(|component| matches!(component, std::path::Component::Normal(_)));
            if !plain || name.contains(['\\', '\0']) {
                return Err(wrong(path, format!("has a file {name:?}, which leads elsewhere")));
            }
            if !name.ends_with('/') {
                files.push(name.into_owned());
            }
        }
        files.sort_unstable();
        let unpacked = TempDir::new().map_err(|source| Error::io(std::env::temp_dir(), source))?;
        let length = length(path)?;
        let left = Cell::new(length.saturating_mul(MOST_TOTAL_RATIO).saturating_add(SMALL_FILES));
        Ok(Self::Archive { path: path.into(), files, unpacked, left })
    }

    pub(super) fn files(&self) -> &[String] {
        match self {
            Self::Folder { files, .. } | Self::Archive { files, .. } => files,
        }
    }

    /// What it is called in messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Folder { root, .. } => root.display().to_string(),
            Self::Archive { path, .. } => path.display().to_string(),
        }
    }

    /// An error as the user knows its file: by its name in the zip, not where it was unpacked.
    pub(super) fn named(&self, error: Error) -> Error {
        let Self::Archive { path, unpacked, .. } = self else { return error };
        let place = format!("{}{}", unpacked.path().display(), std::path::MAIN_SEPARATOR);
        let named = |text: String| text.replace(&place, &format!("{}: ", path.display()));
        match error {
            Error::Format { what, reason } => Error::format(named(what), named(reason)),
            Error::Argument(message) => Error::Argument(named(message)),
            Error::Unsupported(message) => Error::Unsupported(named(message)),
            other => other,
        }
    }

    /// Where one of the files lies, on disk.
    pub(super) fn fetch(&self, name: &str, progress: &dyn Progress) -> Result<PathBuf> {
        match self {
            Self::Folder { root, .. } => Ok(root.join(name)),
            Self::Archive { path, unpacked, left, .. } => {
                let target = unpacked.path().join(name);
                if !target.exists() {
                    unpack(path, name, &target, left, progress)?;
                }
                Ok(target)
            }
        }
    }
}

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let file = open_file(path, "a zip")?;
    ZipArchive::new(BufReader::new(file)).map_err(|error| wrong(path, error.to_string()))
}

fn length(path: &Path) -> Result<u64> {
    std::fs::metadata(path).map(|found| found.len()).map_err(|source| Error::io(path, source))
}

fn unpack(
    path: &Path,
    name: &str,
    target: &Path,
    left: &Cell<u64>,
    progress: &dyn Progress,
) -> Result<()> {
    let mut archive = open(path)?;
    let entry = archive.by_name(name).map_err(|error| wrong(path, format!("{name}: {error}")))?;
    let (size, packed) = (entry.size(), entry.compressed_size());
    // The packed size is only said, too.
    let length = length(path)?;
    let end = entry.data_start().and_then(|start| start.checked_add(packed));
    if end.is_none_or(|end| end > length) {
        return Err(wrong(path, format!("{name} has {packed} bytes in a file of {length}")));
    }
    if size > packed.saturating_mul(MOST_RATIO).saturating_add(1 << 20) {
        return Err(wrong(path, format!("{name} grows from {packed} to {size} bytes")));
    }
    match left.get().checked_sub(size) {
        Some(rest) => left.set(rest),
        None => {
            let grown = format!("grows to much more than its {length} bytes, at {name}");
            return Err(wrong(path, grown));
        }
    }
    let io = |source| Error::io(target, source);
    let folder = target.parent().unwrap_or(target);
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut file = File::create(target).map_err(io)?;
    // What is inside may be more than the directory says.
    let mut entry = entry.take(size.saturating_add(1));
    let mut buffer = vec![0; 1 << 20];
    let mut copied = 0;
    loop {
        go_on(progress)?;
        let count =
            entry.read(&mut buffer).map_err(|error| wrong(path, format!("{name}: {error}")))?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).map_err(io)?;
        copied += count as u64;
    }
    match copied == size {
        true => Ok(()),
        false => Err(wrong(path, format!("{name} is not of the {size} bytes it is said to have"))),
    }
}

/// A folder as it is looked through.
struct Walk<'a> {
    files: Vec<String>,
    folders: usize,
    /// The folders around the present one, by their true paths.
    around: Vec<PathBuf>,
    progress: &'a dyn Progress,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        go_on(self.progress)?;
        let io = |source| Error::io(folder, source);
        let own = folder.canonicalize().map_err(io)?;
        // A link that leads back.
        if self.around.contains(&own) {
            return Ok(());
        }
        self.folders += 1;
        if self.folders > MOST_FOLDERS {
            return Err(wrong(folder, format!("is one of more than {MOST_FOLDERS} folders")));
        }
        self.around.push(own);
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = entry.path();
            let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if path.is_dir() {
                if self.around.len() <= MOST_DEPTH {
                    self.folder(&path, &name)?;
                }
            } else if self.files.len() < MOST_FILES {
                self.files.push(name);
            } else {
                return Err(wrong(folder, format!("has more than {MOST_FILES} files")));
            }
        }
        self.around.pop();
        Ok(())
    }
}

fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::format(path.display().to_string(), reason)
}

#[cfg(test)]
mod tests {
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A zip of files of zeros.
    fn zeros(path: &Path, files: usize, length: usize) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        for index in 0..files {
            zip.start_file(index.to_string(), SimpleFileOptions::default()).unwrap();
            zip.write_all(&vec![0; length]).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn all_files_together_grow_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.zip");
        // Each is small enough alone.
        zeros(&path, 64, 1_200_000);
        let tree = Tree::archive(&path).unwrap();
        let refused = tree.files().iter().find_map(|name| tree.fetch(name, &()).err());
        let message = refused.unwrap().to_string();
        assert!(message.contains("much more than its"), "{message}");
        // What is unpacked already costs nothing.
        tree.fetch("0", &()).unwrap();
    }

    #[test]
    fn packed_sizes_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.zip");
        zeros(&path, 1, 32 << 20);
        let mut bytes = std::fs::read(&path).unwrap();
        let directory = bytes.windows(4).rposition(|four| four == b"PK\x01\x02").unwrap();
        bytes[directory + 20..][..4].copy_from_slice(&0x7fff_fff0_u32.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let message = Tree::archive(&path).unwrap().fetch("0", &()).unwrap_err().to_string();
        assert!(message.contains("has 2147483632 bytes in a file of"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_back_are_not_followed_and_others_are() {
        let folder = tempfile::tempdir().unwrap();
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(to, folder.path().join(at)).unwrap();
        };
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/file"), b"").unwrap();
        link("a/b", "linked");
        for index in 0..12 {
            link(".", &format!("self_{index}"));
            link("../..", &format!("a/b/up_{index}"));
        }
        let tree = Tree::folder(folder.path(), &()).unwrap();
        assert_eq!(tree.files(), ["a/b/file", "linked/file"]);

        // Ways to the same folder that multiply: twelve at each of eight levels.
        let folder = tempfile::tempdir().unwrap();
        for level in 0..8 {
            let own = folder.path().join(format!("own_{level}"));
            std::fs::create_dir(&own).unwrap();
            for index in 0..12 {
                let below = format!("../own_{}", level + 1);
                std::os::unix::fs::symlink(below, own.join(index.to_string())).unwrap();
            }
        }
        std::fs::create_dir(folder.path().join("own_8")).unwrap();
        let error = Tree::folder(folder.path(), &()).err().unwrap().to_string();
        assert!(error.contains("one of more than 20000 folders"), "{error}");
    }

    #[test]
    fn looking_and_unpacking_stop_when_asked_to() {
        struct Stopped;
        impl Progress for Stopped {
            fn written(&mut self, _: u64, _: u64) -> Result<()> {
                Ok(())
            }

            fn cancelled(&self) -> bool {
                true
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.zip");
        zeros(&path, 1, 10);
        let stopped = Tree::archive(&path).unwrap().fetch("0", &Stopped);
        assert!(matches!(stopped, Err(Error::Cancelled)));
        assert!(matches!(Tree::folder(folder.path(), &Stopped), Err(Error::Cancelled)));
        let output = folder.path().join("out.safetensors");
        let options = crate::convert::Options::default();
        let stopped = crate::convert::convert(&[path], &output, &options, &mut Stopped);
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
