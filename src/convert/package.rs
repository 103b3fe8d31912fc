//! Trainings as the parts of one package.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::labels::Known;
use super::network::Tensor;
use super::training::Training;
use super::{Options, Progress, go_on};
use crate::base::{Error, Result};
use crate::model::{Label, Output, Package, Postprocessing, Provenance, SourceFile, prefixes};

/// The document, and the tensors under their full names. Each group is a training, after those
/// that run before it.
pub(super) fn assemble(
    groups: Vec<Vec<Training>>,
    options: &Options,
    known: &Known,
    progress: &dyn Progress,
) -> Result<(Package, Vec<(String, Tensor)>)> {
    let last = groups.last().and_then(|group| group.last());
    let last = last.ok_or_else(|| Error::Internal("no training".into()))?;
    let mut package = Package {
        format_version: 1,
        name: options.name.clone().unwrap_or_else(|| last.dataset.clone()),
        description: options.description.clone(),
        demo: false,
        labels: Vec::new(),
        parts: Vec::new(),
        postprocessing: Vec::new(),
        provenance: Provenance {
            source: String::new(),
            license: options.license.clone().unwrap_or_else(|| "NOASSERTION".into()),
            files: Vec::new(),
        },
    };
    let several = groups.len() > 1;
    let mut same = BTreeMap::new();
    let mut names = BTreeSet::new();
    let mut sources = Vec::new();
    let mut folds = Vec::new();
    for group in groups {
        let mut values = BTreeMap::new();
        let mut previous: Option<String> = None;
        let last_stage = group.len().saturating_sub(1);
        for (index, training) in group.into_iter().enumerate() {
            let base = if several { &training.dataset } else { &training.configuration };
            let name = distinct(&package, base);
            if !(several && training.invented) {
                names.extend(training.labels.iter().map(|(_, name)| name.clone()));
            }
            if values.is_empty() {
                let part = several.then_some(name.as_str());
                values = new_values(&mut package.labels, &mut same, &training, part, known);
            }
            let value = |value: u32| values.get(&value).copied().unwrap_or(value);
            let mut part = training.part;
            part.name = name;
            part.blend = options.blend.unwrap_or(part.blend);
            part.axes.orientation = options.orientation.unwrap_or(part.axes.orientation);
            part.output = match part.output {
                Output::Classes(rows) => Output::Classes(rows.into_iter().map(value).collect()),
                Output::Regions(rows) => Output::Regions(rows.into_iter().map(value).collect()),
            };
            part.previous = training.previous.and(previous.take());
            previous = Some(part.name.clone());
            // What a stage before the last found is the next one's input, not the result.
            let steps = if index == last_stage { training.postprocessing } else { Vec::new() };
            for Postprocessing::LargestComponent { labels, connectivity, minimum_mm3 } in steps {
                let labels = labels.into_iter().map(value).collect();
                let step = Postprocessing::LargestComponent { labels, connectivity, minimum_mm3 };
                package.postprocessing.push(step);
            }
            sources.push(format!(
                "{} {} {}",
                training.dataset, training.trainer, training.configuration
            ));
            for (name, path) in &training.files {
                let file = SourceFile { name: name.clone(), sha256: digest(path, progress)? };
                package.provenance.files.push(file);
            }
            package.parts.push(part);
            folds.push(training.folds);
        }
    }
    known.check(&package.labels, &names)?;
    package.provenance.source = sources.join(", ");
    let mut tensors = Vec::new();
    for (part, folds) in package.parts.iter().zip(folds) {
        for (prefix, fold) in prefixes(&package, part).iter().zip(folds) {
            tensors.extend(
                fold.into_iter().map(|tensor| (format!("{prefix}{}", tensor.name), tensor)),
            );
        }
    }
    Ok((package, tensors))
}

/// The value in the package for each of a training's: that of the same name, or the next. `same`
/// has the values of the names so far. Names that are made up are those of their `part` alone.
fn new_values(
    labels: &mut Vec<Label>,
    same: &mut BTreeMap<String, u32>,
    training: &Training,
    part: Option<&str>,
    known: &Known,
) -> BTreeMap<u32, u32> {
    let mut values = BTreeMap::new();
    let first = labels.is_empty();
    for (value, name) in &training.labels {
        let invented = training.invented && *value != 0;
        let found = match *value {
            0 => labels.first().map(|background| background.value),
            _ if invented => None,
            _ => same.get(name).copied(),
        };
        let written = found.unwrap_or_else(|| {
            let next = labels.last().map_or(0, |label| label.value + 1);
            let written = if first { *value } else { next };
            let name = match part {
                Some(part) if invented => format!("{name} of {part}"),
                _ => name.clone(),
            };
            labels.push(known.label(written, &name));
            written
        });
        if !invented {
            same.insert(name.clone(), written);
        }
        values.insert(*value, written);
    }
    values
}

/// A name for a part: letters, digits, `_` and `-`, not used yet.
fn distinct(package: &Package, base: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let base: String = base.chars().map(plain).collect();
    let base = if base.is_empty() { "main".to_owned() } else { base };
    let used = |name: &String| package.parts.iter().any(|part| part.name == *name);
    let names = (2..).map(|number| format!("{base}_{number}"));
    std::iter::once(base.clone()).chain(names).find(|name| !used(name)).unwrap_or(base)
}

fn digest(path: &Path, progress: &dyn Progress) -> Result<String> {
    let io = |source| Error::io(path, source);
    let mut file = File::open(path).map_err(io)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        go_on(progress)?;
        match std::io::Read::read(&mut file, &mut buffer).map_err(io)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
