//! `voxtile info` and `voxtile devices`.

use std::fmt::Write as _;

use serde_json::json;
use voxtile::Model;
use voxtile::device;
use voxtile::model::{Blend, Normalization, OrientationName, Package, Preprocessing};

use super::arguments::Info;
use super::failure::{Exit, Failure};
use super::print;
use super::report::bytes_text;

/// What is said of a demonstration model.
fn demo_notice(package: &Package) -> Option<String> {
    package.demo.then(|| {
        let period = if package.description.ends_with('.') { "" } else { "." };
        format!(
            "`{}` is a DEMONSTRATION model, not for use on patients. {}{period}",
            package.name, package.description
        )
    })
}

/// Says what a model package is.
pub fn info(arguments: &Info) -> Result<(), Failure> {
    let model = Model::open(&arguments.model).map_err(Failure::of(Exit::Model))?;
    let package = model.package();
    if arguments.json {
        let document = json!({
            "file": arguments.model,
            "parameters_per_fold": model.parameters(),
            "notice": demo_notice(package),
            "package": package,
        });
        return print(&format!("{document:#}\n"));
    }
    print(&describe(package, model.parameters()))
}

fn describe(package: &Package, parameters: u64) -> String {
    let mut text = String::new();
    let architecture = &package.architecture;
    let provenance = &package.provenance;
    let _ = writeln!(text, "{}", package.name);
    match demo_notice(package) {
        Some(notice) => {
            let _ = writeln!(text, "{notice}");
        }
        None if !package.description.is_empty() => {
            let _ = writeln!(text, "{}", package.description);
        }
        None => {}
    }
    let orientation = match package.axes.orientation {
        OrientationName::Stored => "as stored",
        OrientationName::Ras => "RAS",
    };
    let preprocessing = match package.preprocessing {
        Preprocessing::NormalizeThenResample => "normalise, then resample (nnU-Net v2)",
    };
    let blend = match package.blend {
        Blend::Logits => "raw scores (nnU-Net v2)",
        Blend::Softmax => "softmax probabilities (nnU-Net v1)",
    };
    let lines = [
        ("network", format!("{}, channels {:?}", architecture.family, architecture.channels)),
        ("weights", format!("{parameters} per fold, folds {}", package.folds.join(", "))),
        ("patch", format!("{:?} voxels, slowest axis first", package.patch)),
        ("spacing", format!("{:?} mm, slowest axis first", package.spacing)),
        ("axes", format!("{orientation}, transpose {:?} of (k, j, i)", package.axes.transpose)),
        ("preprocess", preprocessing.into()),
        ("blends", blend.into()),
        ("mirror axes", format!("{:?}", package.mirror_axes)),
        ("source", provenance.source.clone()),
        ("license", provenance.license.clone()),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "  {name:<12} {value}");
    }
    for file in &provenance.files {
        let _ = writeln!(text, "  {:<12} {} sha256:{}", "made from", file.name, file.sha256);
    }
    for (channel, normalization) in package.normalization.iter().enumerate() {
        let how = match normalization {
            Normalization::Ct { lower, upper, mean, deviation } => {
                format!("CT: clip to {lower} .. {upper}, mean {mean}, deviation {deviation}")
            }
            Normalization::Zscore { masked: false } => "z-score".into(),
            Normalization::Zscore { masked: true } => "z-score inside the non-zero mask".into(),
            Normalization::None {} => "values as they are".into(),
            Normalization::RescaleTo01 {} => "rescaled to 0 .. 1".into(),
        };
        let _ = writeln!(text, "  {:<12} {how}", format!("input {channel}"));
    }
    let _ = writeln!(text, "  {} labels", package.labels.len());
    for label in &package.labels {
        let code = label.code.as_deref().unwrap_or("");
        let _ = writeln!(text, "  {:>7}  {}  {code}", label.value, label.name);
    }
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
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
