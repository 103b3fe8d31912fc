//! Labels that the command line names, and what is to be done to them.

use std::path::Path;

use voxtile::model::Package;
use voxtile::session::Cleanup;

use crate::cli::arguments::{Labels as LabelNames, Segment};
use crate::cli::failure::{Exit, Failure};

/// What the options ask to be done to the labels, small parts first: what they leave behind inside
/// another label is a hole.
pub fn cleanup(
    arguments: &Segment,
    package: &Package,
    model: &Path,
) -> Result<Vec<Cleanup>, Failure> {
    let values = |option: &str, labels: &LabelNames| match &labels.0[..] {
        [] => Ok(None),
        names => names
            .iter()
            .map(|name| label_value(name, option, package, model))
            .collect::<Result<_, _>>()
            .map(Some),
    };
    let connectivity = 26;
    let mut steps = Vec::new();
    if let Some(labels) = &arguments.largest_component {
        let labels = values("--largest-component", labels)?;
        steps.push(Cleanup::LargestComponent { labels, connectivity });
    }
    if let Some(mm3) = arguments.minimum_size {
        steps.push(Cleanup::MinimumSize { labels: None, connectivity, mm3 });
    }
    if let Some(labels) = &arguments.fill_holes {
        steps.push(Cleanup::FillHoles { labels: values("--fill-holes", labels)? });
    }
    Ok(steps)
}

/// The value of a label that is given by its name or value.
fn label_value(text: &str, option: &str, package: &Package, model: &Path) -> Result<u32, Failure> {
    let mut structures = package.labels.iter().filter(|label| label.value != 0);
    let named = structures.clone().find(|label| label.name == text);
    let found = named.or_else(|| structures.find(|label| text.parse() == Ok(label.value)));
    found.map(|label| label.value).ok_or_else(|| {
        let model = model.display();
        Failure::new(
            Exit::Usage,
            format!("{option}: {model} has no label `{text}`; `voxtile info {model}` lists them"),
        )
    })
}
