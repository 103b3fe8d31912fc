//! Whether outputs can be written, before anything is computed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use voxtile::Error;
use voxtile::formats::{LabelFormat, OutputFile, labels};

use super::case::Case;
use crate::cli::arguments::Segment;
use crate::cli::failure::{Exit, Failure};

/// Whether every output can be written and overwrites nothing it should not.
pub fn check(arguments: &Segment, model: &Path) -> Result<(), Failure> {
    let failed = Failure::of(Exit::Output);
    LabelFormat::of(&arguments.output).map_err(&failed)?;
    let data_file = labels::data_file(&arguments.output);
    let outputs = [
        Some(&arguments.output),
        data_file.as_ref(),
        arguments.scores.as_ref(),
        arguments.preprocessed.as_ref(),
        arguments.run.probabilities.as_ref(),
        arguments.report.as_ref(),
        arguments.statistics.as_ref(),
    ];
    let mut taken: Vec<(PathBuf, &str)> =
        arguments.inputs.iter().map(|input| (resolved(input), "an input")).collect();
    taken.push((resolved(model), "the model"));
    let mask = arguments.run.region_mask.as_deref();
    taken.extend(mask.map(|mask| (resolved(mask), "the mask")));
    for output in outputs.into_iter().flatten() {
        // Opens a temporary file there and removes it.
        OutputFile::create(output).map_err(&failed)?;
        let place = resolved(output);
        if let Some((_, what)) = taken.iter().find(|(other, _)| *other == place) {
            return Err(Failure::new(
                Exit::Output,
                format!("output {} is also {what}; name another file", output.display()),
            ));
        }
        taken.push((place, "another output"));
    }
    Ok(())
}

/// As [`check`], for the label maps of many cases in a folder, which is made if need be.
pub fn check_batch(arguments: &Segment, model: &Path, cases: &[Case]) -> Result<(), Failure> {
    let failed = Failure::of(Exit::Output);
    for (option, path) in [
        ("--scores", &arguments.scores),
        ("--preprocessed", &arguments.preprocessed),
        ("--statistics", &arguments.statistics),
        ("--probabilities", &arguments.run.probabilities),
        ("--region-mask", &arguments.run.region_mask),
    ] {
        if path.is_some() {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{option} is for one case, but {} is a folder for label maps of many; name a \
                     label map with -o",
                    arguments.output.display()
                ),
            ));
        }
    }
    let folder = &arguments.output;
    std::fs::create_dir_all(folder).map_err(|source| failed(Error::io(folder, source)))?;
    // Opens a temporary file there and removes it.
    OutputFile::create(&folder.join("labels.nii.gz")).map_err(&failed)?;

    let inputs = cases.iter().flat_map(|case| &case.inputs);
    let mut taken: HashMap<PathBuf, &str> =
        inputs.map(|input| (resolved(input), "an input")).collect();
    taken.insert(resolved(model), "the model");
    let outputs = cases.iter().map(|case| &case.output);
    for output in outputs.chain(&arguments.report) {
        if let Some(what) = taken.insert(resolved(output), "another output") {
            return Err(Failure::new(
                Exit::Output,
                format!("output {} is also {what}; name another place", output.display()),
            ));
        }
    }
    if let Some(report) = &arguments.report {
        OutputFile::create(report).map_err(&failed)?;
    }
    Ok(())
}

/// A path by which the same file is recognised, whether it exists yet or not.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize();
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.into(),
    }
}
