//! `voxtile info` and `voxtile devices`.

use std::fmt::Write as _;

use serde_json::json;
use voxtile::Model;
use voxtile::device;
use voxtile::model::{
    Blend, Normalization, OrientationName, Output, Package, Part, Postprocessing,
};
use voxtile::volume::Generation;

use super::arguments::Info;
use super::failure::{Exit, Failure};
use super::print;
use super::report::bytes_text;

/// Says what a model package is.
pub fn info(arguments: &Info) -> Result<(), Failure> {
    let model = Model::open(&arguments.model).map_err(Failure::of(Exit::Model))?;
    let package = model.package();
    if arguments.json {
        let document = json!({
            "file": arguments.model,
            "parameters_per_fold": model.parameters(),
            "notice": package.demo_notice(),
            "package": package,
        });
        return print(&format!("{document:#}\n"));
    }
    print(&describe(package, model.parameters()))
}

fn describe(package: &Package, parameters: u64) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    for part in &package.parts {
        if package.parts.len() > 1 {
            line("part", part.name.clone());
        }
        describe_part(part, &mut line);
    }
    for Postprocessing::LargestComponent { labels, connectivity, .. } in &package.postprocessing {
        let text = format!("largest component of labels {labels:?}, by {connectivity} neighbours");
        line("afterwards", text);
    }
    let provenance = &package.provenance;
    line("weights", format!("{parameters} parameters per fold"));
    line("source", provenance.source.clone());
    line("license", provenance.license.clone());
    for file in &provenance.files {
        line("made from", format!("{} sha256:{}", file.name, file.sha256));
    }
    let about = package.demo_notice().unwrap_or_else(|| package.description.clone());
    let mut text = format!("{}\n{about}\n{text}  {} labels\n", package.name, package.labels.len());
    for label in &package.labels {
        let code = label.code.as_deref().unwrap_or("");
        let _ = writeln!(text, "  {:>7}  {}  {code}", label.value, label.name);
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// What each line says: its name and its value.
fn describe_part(part: &Part, line: &mut impl FnMut(&str, String)) {
    let architecture = &part.architecture;
    line(
        "network",
        format!("{}, channels {:?}", architecture.family.name(), architecture.channels),
    );
    line("folds", part.folds.join(", "));
    line("patch", format!("{:?} voxels, slowest axis first", part.patch));
    let spacing = part.spacing.map(|mm| mm.map_or("its own".into(), |mm| mm.to_string()));
    line("spacing", format!("[{}] mm, slowest axis first", spacing.join(", ")));
    let orientation = match part.axes.orientation {
        OrientationName::Stored => "as stored",
        OrientationName::Ras => "RAS",
    };
    line("axes", format!("{orientation}, transpose {:?} of (k, j, i)", part.axes.transpose));
    let preprocessing = match part.generation {
        Generation::V1 => "resample, then normalise (nnU-Net v1)",
        Generation::V2 => "normalise, then resample (nnU-Net v2)",
    };
    line("preprocess", preprocessing.into());
    let blend = match part.blend {
        Blend::Logits => "raw scores (nnU-Net v2)",
        Blend::Softmax => "probabilities (nnU-Net v1)",
    };
    line("blends", blend.into());
    if matches!(part.output, Output::Regions(_)) {
        line("rows are", "regions, the later over the earlier".into());
    }
    line("mirror axes", format!("{:?}", part.mirror_axes));
    for (channel, normalization) in part.normalization.iter().enumerate() {
        let (how, masked) = match normalization {
            Normalization::Ct { lower, upper, mean, deviation, masked } => (
                format!("CT: clip to {lower} .. {upper}, mean {mean}, deviation {deviation}"),
                *masked,
            ),
            Normalization::Ct2 { lower, upper, masked } => {
                (format!("CT: clip to {lower} .. {upper}, z-score of what lies between"), *masked)
            }
            Normalization::Zscore { masked } => ("z-score".into(), *masked),
            Normalization::None {} => ("values as they are".into(), false),
            Normalization::RescaleTo01 {} => ("rescaled to 0 .. 1".into(), false),
        };
        let mask = if masked { " inside the non-zero mask" } else { "" };
        line(&format!("input {channel}"), format!("{how}{mask}"));
    }
    if let Some(previous) = &part.previous {
        line("input", format!("and one channel for each label that {previous} found"));
    }
}

/// Lists the devices.
pub fn devices() -> Result<(), Failure> {
    let mut text = String::new();
    for device in device::devices() {
        let _ = write!(text, "{:<6} {}", device.kind, device.name);
        if device.memory_total_bytes > 0 {
            let total = bytes_text(device.memory_total_bytes);
            let _ = write!(text, ", {total} of memory");
        }
        if device.memory_free_bytes > 0 {
            let _ = write!(text, ", {} free", bytes_text(device.memory_free_bytes));
        }
        text.push('\n');
    }
    print(&text)
}
