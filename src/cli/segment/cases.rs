//! Which cases a batch has: files become cases, by nnU-Net's names.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::case::Case;
use crate::cli::failure::{Exit, Failure};

/// Endings of images, the longer ones first.
const ENDINGS: [&str; 10] =
    [".nii.gz", ".hdr.gz", ".img.gz", ".nii", ".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd"];
/// Those of images that a folder stands for; of pairs, the header's.
const IN_FOLDERS: [&str; 6] = [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"];

/// Whether label maps go to a folder: one that exists, or is written as one.
pub fn is_folder(output: &Path) -> bool {
    output.to_string_lossy().ends_with(std::path::is_separator) || output.is_dir()
}

/// A file's name without its ending.
pub fn stem(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let lower = name.to_ascii_lowercase();
    match ENDINGS.iter().find(|ending| lower.ends_with(*ending)) {
        Some(ending) => name[..name.len() - ending.len()].to_string(),
        None => path.file_stem().map(|stem| stem.to_string_lossy().into()).unwrap_or_default(),
    }
}

/// The case and channel of a name such as `case_0001`.
fn channel(stem: &str) -> Option<(&str, usize)> {
    let (case, digits) = stem.rsplit_once('_')?;
    let four = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_digit());
    if four && !case.is_empty() { Some((case, digits.parse().ok()?)) } else { None }
}

/// The files of one case, each with the channel in its name.
type Members<'a> = Vec<(Option<usize>, &'a Path)>;

/// The cases of `inputs`, files and folders of them, for a model of `channels` channels; label
/// maps go to `folder`.
pub fn list(inputs: &[PathBuf], channels: usize, folder: &Path) -> Result<Vec<Case>, Failure> {
    let files = files(inputs)?;
    let groups = grouped(&files, channels);
    let of = groups.len();
    let mut firsts: HashMap<String, &Path> = HashMap::new();
    let mut cases = Vec::with_capacity(of);
    for (number, (name, mut members)) in groups.into_iter().enumerate() {
        members.sort_by_key(|(channel, _)| *channel);
        let first = members[0].1;
        let twice = members.windows(2).find(|pair| pair[0].0 == pair[1].0);
        let twice = twice.map(|pair| (pair[0].1, pair[1].1));
        if let Some((a, b)) = twice.or_else(|| Some((firsts.insert(name.clone(), first)?, first))) {
            return Err(Failure::new(
                Exit::Output,
                format!(
                    "{} and {} would both become {}; segment them into different folders",
                    a.display(),
                    b.display(),
                    output(folder, &name).display()
                ),
            ));
        }
        cases.push(Case {
            number: number + 1,
            of,
            problem: problem(&members, channels),
            inputs: members.into_iter().map(|(_, path)| path.into()).collect(),
            output: output(folder, &name),
            name,
        });
    }
    Ok(cases)
}

/// Files by the case they belong to, in the order in which cases come first.
///
/// A name's `_0000` is a channel if the model has one of that number, or if there is a `_0000` of
/// the same name. Files without one are cases of their own.
fn grouped(files: &[PathBuf], channels: usize) -> Vec<(String, Members<'_>)> {
    let stems: Vec<String> = files.iter().map(|file| stem(file)).collect();
    let named: Vec<Option<(PathBuf, usize)>> = files
        .iter()
        .zip(&stems)
        .map(|(file, stem)| channel(stem).map(|(case, n)| (file.with_file_name(case), n)))
        .collect();
    let with_first: HashSet<&PathBuf> =
        named.iter().flatten().filter(|(_, n)| *n == 0).map(|(case, _)| case).collect();

    let mut groups: Vec<(String, Members<'_>)> = Vec::new();
    let mut index: HashMap<&PathBuf, usize> = HashMap::new();
    for ((file, stem), named) in files.iter().zip(stems).zip(&named) {
        match named {
            Some((case, n)) if *n < channels || with_first.contains(case) => {
                let group = *index.entry(case).or_insert(groups.len());
                if group == groups.len() {
                    let name = case.file_name().unwrap_or_default().to_string_lossy();
                    groups.push((name.into(), Vec::new()));
                }
                groups[group].1.push((Some(*n), file));
            }
            _ => groups.push((stem, vec![(None, file)])),
        }
    }
    groups
}

fn output(folder: &Path, case: &str) -> PathBuf {
    folder.join(format!("{case}.nii.gz"))
}

/// Why files can't be the channels of one case. A file without a channel in its name may hold all.
fn problem(members: &[(Option<usize>, &Path)], channels: usize) -> Option<String> {
    let found: Option<Vec<usize>> = members.iter().map(|(channel, _)| *channel).collect();
    let found = found.filter(|found| !found.iter().copied().eq(0..channels))?;
    let names: Vec<String> = found.iter().take(8).map(|n| format!("_{n:04}")).collect();
    let more = if found.len() > names.len() { ", ..." } else { "" };
    let expected = match channels {
        1 => "only _0000".to_string(),
        _ => format!("_0000 to _{:04}", channels - 1),
    };
    Some(format!(
        "its files are the channels {}{more}, but the model takes {expected}",
        names.join(", ")
    ))
}

/// Inputs, with folders replaced by the images in them, sorted by name.
fn files(inputs: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            files.push(input.clone());
            continue;
        }
        let failed = |error: std::io::Error| {
            Failure::new(Exit::Input, format!("{}: {error}", input.display()))
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(input).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
            let image = IN_FOLDERS.iter().any(|ending| name.ends_with(ending))
                && !name.ends_with(".seg.nrrd");
            if image && !name.starts_with('.') && entry.path().is_file() {
                found.push(entry.path());
            }
        }
        if found.is_empty() {
            let message = format!(
                "the folder {} has no image (.nii.gz, .nii, .nrrd, .nhdr, .mha, .mhd)",
                input.display()
            );
            return Err(Failure::new(Exit::Input, message));
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name and files of each case, or the message.
    fn listed(names: &[&str], channels: usize) -> Result<Vec<(String, Vec<String>)>, String> {
        let inputs: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        let cases = list(&inputs, channels, Path::new("out")).map_err(|failure| failure.message)?;
        let describe = |case: Case| {
            let files = case.inputs.iter().map(|input| input.display().to_string());
            let files: Vec<String> = files.chain(case.problem).collect();
            assert_eq!(case.output, Path::new("out").join(format!("{}.nii.gz", case.name)));
            (case.name, files)
        };
        Ok(cases.into_iter().map(describe).collect())
    }

    fn cases(names: &[&str], channels: usize) -> Vec<(String, Vec<String>)> {
        listed(names, channels).unwrap()
    }

    fn case(name: &str, files: &[&str]) -> (String, Vec<String>) {
        (name.into(), files.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_lose_their_endings() {
        for (path, expected) in [
            ("a/b.nii.gz", "b"),
            ("b.NII", "b"),
            ("b.c.hdr", "b.c"),
            ("b.img.gz", "b"),
            ("b.mha", "b"),
            ("b", "b"),
        ] {
            assert_eq!(stem(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn one_channel_may_be_named() {
        assert_eq!(
            cases(&["x/b_0000.nii.gz", "a.nii", "scan_2023.nii.gz", "_0000.nii"], 1),
            [
                case("b", &["x/b_0000.nii.gz"]),
                case("a", &["a.nii"]),
                case("scan_2023", &["scan_2023.nii.gz"]),
                case("_0000", &["_0000.nii"]),
            ]
        );
    }

    #[test]
    fn channels_are_grouped_and_ordered() {
        assert_eq!(
            cases(&["a_0001.nii", "b_0000.nii", "a_0000.nii", "b_0001.nii.gz", "all.nii"], 2),
            [
                case("a", &["a_0000.nii", "a_0001.nii"]),
                case("b", &["b_0000.nii", "b_0001.nii.gz"]),
                case("all", &["all.nii"]),
            ]
        );
    }

    #[test]
    fn missing_and_further_channels_are_a_problem_of_the_case() {
        let found = cases(&["a_0000.nii", "a_0002.nii", "b_0001.nii"], 2);
        assert!(found[0].1[2].contains("_0000, _0002, but the model takes _0000 to _0001"));
        assert!(found[1].1[1].contains("_0001, but"));
        let found = cases(&["a_0000.nii", "a_0001.nii"], 1);
        assert!(found[0].1[2].contains("_0000, _0001, but the model takes only _0000"));
    }

    #[test]
    fn what_would_become_one_file_is_refused() {
        for names in [
            ["x/a.nii", "y/a.nii.gz"],
            ["x/a_0000.nii", "y/a_0000.nii"],
            ["a_0000.nii", "a_0000.nii.gz"],
            ["a.nii", "a.nii"],
            ["a_0000.nii", "a.nii"],
        ] {
            let message = listed(&names, 1).unwrap_err();
            let both = format!("{} and {}", names[0], names[1]);
            assert!(message.contains(&both) && message.contains("a.nii.gz"), "{message}");
        }
    }

    #[test]
    fn folders_stand_for_their_images() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in
            ["b.nii.gz", "a.nii", ".hidden.nii", "notes.txt", "c.hdr", "e.MHA", "e.seg.nrrd"]
        {
            std::fs::write(at(name), "").unwrap();
        }
        std::fs::create_dir(at("d.nii")).unwrap();
        assert_eq!(
            files(&[folder.path().into()]).unwrap(),
            [at("a.nii"), at("b.nii.gz"), at("e.MHA")]
        );
        assert!(files(&[at("d.nii")]).unwrap_err().message.contains("no image"));
    }
}
