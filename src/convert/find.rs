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
    /// The checkpoint's name, where it lies in no fold's folder: a `.model` beside its
    /// `.model.pkl`, as STU-Net's are published.
    pub(super) pair: Option<String>,
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

    /// What it is called among others.
    pub(super) fn name(&self) -> String {
        self.pair.as_ref().map_or_else(|| self.folder.clone(), |stem| self.path(stem))
    }

    /// Its checkpoint of a fold.
    pub(super) fn checkpoint(&self, fold: &str, stem: &str) -> String {
        if let Some(stem) = &self.pair {
            return self.path(&format!("{stem}.model"));
        }
        let ending = if self.version == Version::V1 { "model" } else { "pth" };
        self.path(&format!("{fold}/{stem}.{ending}"))
    }
}

/// All trainings: folders that have `fold_X/STEM.pth` (v2) or `fold_X/STEM.model` (v1), and any
/// other `.model` beside its `.model.pkl`.
pub(super) fn trainings(tree: &Tree, v1_stem: &str, v2_stem: &str) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for file in tree.files() {
        let (place, name) = file.rsplit_once('/').unwrap_or(("", file));
        let (folder, fold_folder) = place.rsplit_once('/').unwrap_or(("", place));
        let in_fold = fold_folder == "all" || fold_folder.starts_with("fold_");
        if let (false, Some(stem)) = (in_fold, name.strip_suffix(".model"))
            && tree.files().contains(&format!("{file}.pkl"))
        {
            found.push(Found {
                folder: place.into(),
                version: Version::V1,
                folds: vec![("0".into(), String::new())],
                pair: Some(stem.into()),
            });
            continue;
        }
        let version = match name.rsplit_once('.') {
            Some((stem, "pth")) if stem == v2_stem => Version::V2,
            Some((stem, "model")) if stem == v1_stem => Version::V1,
            _ => continue,
        };
        let fold = fold_folder.strip_prefix("fold_").unwrap_or(fold_folder);
        if !in_fold {
            continue;
        }
        let fold = (fold.to_owned(), fold_folder.to_owned());
        match found.iter_mut().find(|found| found.folder == folder && found.pair.is_none()) {
            // `all` and `fold_all` are one.
            Some(found) if found.folds.iter().any(|(name, _)| *name == fold.0) => {}
            Some(found) => found.folds.push(fold),
            None => {
                let folder = folder.into();
                found.push(Found { folder, version, folds: vec![fold], pair: None });
            }
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
    let twice = |(at, name): (usize, &String)| asked[..at].contains(name);
    if let Some((_, name)) = asked.iter().enumerate().find(|each| twice(*each)) {
        return Err(Error::argument(format!("fold {name} is named twice")));
    }
    let fold = |name: &String| {
        found.folds.iter().find(|(fold, _)| fold == name).cloned().ok_or_else(|| {
            Error::argument(format!("{} has no fold {name}; it has {}", tree.shown(), known()))
        })
    };
    asked.iter().map(fold).collect()
}
