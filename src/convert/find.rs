//! Finds the trainings of a folder or zip.

use super::tree::Tree;
use crate::base::{Error, Result};

/// Where a training lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its folder below the tree's root; empty is the root.
    pub(super) folder: String,
    pub(super) version: Version,
    /// Names of its folds, and their folders below the training's.
    pub(super) folds: Vec<(String, String)>,
}

/// Which nnU-Net wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

impl Found {
    /// The path of one of its files.
    pub(super) fn path(&self, name: &str) -> String {
        if self.folder.is_empty() { name.into() } else { format!("{}/{name}", self.folder) }
    }

    /// Its checkpoint of a fold.
    pub(super) fn checkpoint(&self, fold: &str, stem: &str) -> String {
        let ending = if self.version == Version::V1 { "model" } else { "pth" };
        self.path(&format!("{fold}/{stem}.{ending}"))
    }
}

/// All trainings: folders that have `fold_X/STEM.pth` (v2) or `fold_X/STEM.model` (v1).
pub(super) fn trainings(tree: &Tree, v1_stem: &str, v2_stem: &str) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for file in tree.files() {
        let (place, name) = file.rsplit_once('/').unwrap_or(("", file));
        let version = match name.rsplit_once('.') {
            Some((stem, "pth")) if stem == v2_stem => Version::V2,
            Some((stem, "model")) if stem == v1_stem => Version::V1,
            _ => continue,
        };
        let (folder, fold_folder) = place.rsplit_once('/').unwrap_or(("", place));
        let fold = fold_folder.strip_prefix("fold_").unwrap_or(fold_folder);
        if fold_folder != "all" && !fold_folder.starts_with("fold_") {
            continue;
        }
        let fold = (fold.to_owned(), fold_folder.to_owned());
        match found.iter_mut().find(|found| found.folder == folder) {
            Some(found) => found.folds.push(fold),
            None => found.push(Found { folder: folder.into(), version, folds: vec![fold] }),
        }
    }
    found
}

/// The folds that were asked for; without, all that are numbered, or `all` if there are none.
pub(super) fn folds(tree: &Tree, found: &Found, asked: &[String]) -> Result<Vec<(String, String)>> {
    let known = || found.folds.iter().map(|(fold, _)| fold.as_str()).collect::<Vec<_>>().join(", ");
    if asked.is_empty() {
        let numbered: Vec<_> =
            found.folds.iter().filter(|(fold, _)| fold != "all").cloned().collect();
        return Ok(if numbered.is_empty() { found.folds.clone() } else { numbered });
    }
    let fold = |name: &String| {
        found.folds.iter().find(|(fold, _)| fold == name).cloned().ok_or_else(|| {
            Error::argument(format!("{} has no fold {name}; it has {}", tree.shown(), known()))
        })
    };
    asked.iter().map(fold).collect()
}
