//! Finds the trainings of a folder or zip.

use super::tree::Tree;
use crate::base::{Error, Result};

/// Folds of a package.
const MOST_FOLDS: usize = 64;

/// Where a training lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its folder below the tree's root; empty is the root.
    pub(super) folder: String,
    pub(super) version: Version,
    /// Its checkpoints' name without the ending.
    pub(super) stem: String,
    /// Names of its folds, and their folders below the training's; empty is a pair that lies in
    /// the folder itself.
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

    /// What it is called and selected by.
    pub(super) fn name(&self) -> String {
        if self.is_pair() { self.path(&self.stem) } else { self.folder.clone() }
    }

    /// Whether it is a `.model` beside its `.model.pkl`, without folders of folds.
    pub(super) fn is_pair(&self) -> bool {
        self.folds.iter().any(|(_, folder)| folder.is_empty())
    }

    /// Its checkpoint of a fold.
    pub(super) fn checkpoint(&self, fold: &str) -> String {
        let ending = if self.version == Version::V1 { "model" } else { "pth" };
        let name = format!("{}.{ending}", self.stem);
        self.path(&if fold.is_empty() { name } else { format!("{fold}/{name}") })
    }
}

/// Whether a folder holds one fold.
fn is_fold(folder: &str) -> bool {
    folder == "all" || folder.starts_with("fold_")
}

/// Every `.model` beside its `.model.pkl` that is in no fold's folder; of several in one folder
/// the one named `stem`, if it is there.
pub(super) fn pairs(tree: &Tree, stem: &str) -> Vec<Found> {
    let is_there = |name: &String| tree.files().binary_search(name).is_ok();
    let mut found = Vec::new();
    for file in tree.files() {
        let Some(name) = file.strip_suffix(".model") else { continue };
        let (folder, own) = name.rsplit_once('/').unwrap_or(("", name));
        if !is_there(&format!("{file}.pkl")) || is_fold(folder.rsplit('/').next().unwrap_or("")) {
            continue;
        }
        let pair = |stem: &str| Found {
            folder: folder.into(),
            version: Version::V1,
            stem: stem.into(),
            folds: vec![("0".into(), String::new())],
        };
        let meant = pair(stem).checkpoint("");
        let has_meant = is_there(&meant) && is_there(&format!("{meant}.pkl"));
        if !has_meant || own == stem {
            found.push(pair(own));
        }
    }
    found
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
        if !is_fold(fold_folder) {
            continue;
        }
        let fold = (fold.to_owned(), fold_folder.to_owned());
        match found.iter_mut().find(|found| found.folder == folder) {
            Some(found) => found.folds.push(fold),
            None => {
                let stem = if version == Version::V1 { v1_stem } else { v2_stem };
                let (folder, stem) = (folder.into(), stem.into());
                found.push(Found { folder, version, stem, folds: vec![fold] });
            }
        }
    }
    found
}

/// The folds that were asked for; without, all that are numbered, or `all` if there are none.
pub(super) fn folds(tree: &Tree, found: &Found, asked: &[String]) -> Result<Vec<(String, String)>> {
    let known = || found.folds.iter().map(|(fold, _)| fold.as_str()).collect::<Vec<_>>().join(", ");
    for (index, name) in asked.iter().enumerate() {
        if asked[..index].contains(name) {
            return Err(Error::argument(format!("fold {name} is asked for twice")));
        }
        if !found.folds.iter().any(|(fold, _)| fold == name) {
            return Err(Error::argument(format!(
                "{} has no fold {name}; it has {}",
                tree.shown(),
                known()
            )));
        }
    }
    let has_numbers = found.folds.iter().any(|(fold, _)| fold != "all");
    let is_meant = |name: &String| match asked.is_empty() {
        true => !has_numbers || name != "all",
        false => asked.contains(name),
    };
    let mut folds: Vec<_> = found.folds.iter().filter(|(name, _)| is_meant(name)).collect();
    // Of folds that were asked for, the order is that of asking.
    folds.sort_by_key(|(name, _)| asked.iter().position(|asked| asked == name));
    if folds.len() > MOST_FOLDS {
        let reason = format!("has {} folds, expected at most {MOST_FOLDS}", folds.len());
        return Err(wrong(tree, found, reason));
    }
    for (index, (name, folder)) in folds.iter().enumerate() {
        if let Some((_, other)) = folds[..index].iter().find(|(earlier, _)| earlier == name) {
            return Err(wrong(tree, found, format!("has fold {name} as {other} and {folder}")));
        }
    }
    Ok(folds.into_iter().cloned().collect())
}

fn wrong(tree: &Tree, found: &Found, reason: String) -> Error {
    Error::format(format!("{}, training {:?}", tree.shown(), found.folder), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folders: &[&str]) -> Found {
        let name = |folder: &&str| folder.strip_prefix("fold_").unwrap_or(folder).to_owned();
        let folds = folders.iter().map(|folder| (name(folder), (*folder).to_owned())).collect();
        Found { folder: "T__P__3d_fullres".into(), version: Version::V1, stem: "m".into(), folds }
    }

    fn chosen(folders: &[&str], asked: &[&str]) -> std::result::Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::folder(folder.path(), &()).unwrap();
        let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
        let chosen = folds(&tree, &found(folders), &asked).map_err(|error| error.to_string())?;
        Ok(chosen.into_iter().map(|(_, folder)| folder).collect())
    }

    #[test]
    fn folds_are_those_asked_for_each_once() {
        let three = ["all", "fold_0", "fold_1"];
        assert_eq!(chosen(&three, &[]).unwrap(), ["fold_0", "fold_1"]);
        assert_eq!(chosen(&three, &["1", "0"]).unwrap(), ["fold_1", "fold_0"]);
        assert_eq!(chosen(&three, &["all"]).unwrap(), ["all"]);
        assert_eq!(chosen(&["fold_all"], &[]).unwrap(), ["fold_all"]);
        assert!(
            chosen(&three, &["0", "1", "0"]).unwrap_err().contains("fold 0 is asked for twice")
        );
        assert!(chosen(&three, &["2"]).unwrap_err().contains("has no fold 2; it has all, 0, 1"));
        let twice = ["all", "fold_all"];
        assert!(chosen(&twice, &[]).unwrap_err().contains("fold all as all and fold_all"));
        assert!(chosen(&twice, &["all"]).is_err());
        let many: Vec<String> = (0..65).map(|number| format!("fold_{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(chosen(&many, &[]).unwrap_err().contains("has 65 folds"));
    }
}
