//! `voxtile info` and `voxtile devices`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use voxtile::device::{self, DeviceInfo, GpuInfo};
use voxtile::model::{
    Blend, Family, Normalization, OrientationName, Output, Package, Part, Postprocessing,
};
use voxtile::session::{self, Estimate};
use voxtile::volume::Generation;
use voxtile::{Element, Geometry, Model, RunOptions, SessionOptions, VolumeView};

use super::arguments::{Devices, Info};
use super::failure::{Exit, Failure};
use super::print;
use super::report::{bytes_text, gpu_json};

/// Says what a model package is.
pub fn info(arguments: &Info) -> Result<(), Failure> {
    let model = Model::open(&arguments.model).map_err(Failure::of(Exit::Model))?;
    let package = model.package();
    let parameters = model.parameters();
    let mut text = describe(package, parameters);
    let mut document = json!({
        "file": arguments.model,
        "parameters_per_fold": parameters,
        "size": size_name(package),
        "notice": package.demo_notice(),
        "package": package,
    });
    if let Some(dims) = arguments.volume {
        let spacing = arguments.spacing.unwrap_or_else(|| network_spacing(&package.parts[0]));
        let (device, estimate) = memory(&model, dims, spacing)?;
        let bytes = bytes_text(estimate.host_bytes);
        let gpu = match estimate.device_bytes {
            0 => String::new(),
            bytes => format!(" and {} of the GPU's memory", bytes_text(bytes)),
        };
        let _ = writeln!(
            text,
            "  a volume of {dims:?} voxels of {spacing:?} mm needs up to {bytes} on {device}{gpu}, in \
             at most {} tiles, besides itself",
            estimate.tiles
        );
        document["memory"] = json!({
            "device": device,
            "host_bytes": estimate.host_bytes,
            "gpu_bytes": estimate.device_bytes,
            "tiles": estimate.tiles,
        });
    }
    if arguments.json {
        return print(&format!("{document:#}\n"));
    }
    print(&text)
}

/// What the last network is called by its width and depth, if it is a published size of STU-Net.
fn size_name(package: &Package) -> Option<&'static str> {
    let architecture = &package.parts.last()?.architecture;
    let base = *architecture.channels.first()?;
    let widths = [1, 2, 4, 8, 16, 16].map(|factor| factor * base);
    let depth = *architecture.blocks.first()?;
    let regular = architecture.family == Family::Stunet
        && architecture.channels == widths
        && architecture.blocks.iter().all(|blocks| *blocks == depth);
    match (regular, base, depth) {
        (true, 16, 1) => Some("STU-Net-S"),
        (true, 32, 1) => Some("STU-Net-B"),
        (true, 64, 2) => Some("STU-Net-L"),
        (true, 96, 3) => Some("STU-Net-H"),
        _ => None,
    }
}

/// The network's spacing along i, j, k, in mm; 1 where it takes any.
pub fn network_spacing(part: &Part) -> [f64; 3] {
    let mut spacing = [1.0; 3];
    for (axis, mm) in part.spacing.iter().enumerate() {
        spacing[2 - part.axes.transpose[axis]] = mm.unwrap_or(1.0);
    }
    spacing
}

/// What a volume needs, without there being one.
fn memory(
    model: &Model,
    dims: [usize; 3],
    spacing: [f64; 3],
) -> Result<(String, Estimate), Failure> {
    let geometry = Geometry::axis_aligned(spacing);
    let view = imagined(dims, model.package().channels(), geometry);
    let options = SessionOptions::default();
    let estimate = session::estimate(model, &options, &view, &RunOptions::default());
    let (estimate, chosen) = estimate.map_err(Failure::of(Exit::Usage))?;
    Ok((chosen.info.kind.into(), estimate))
}

/// A volume that is not there: all its voxels are the same bytes.
pub fn imagined(dims: [usize; 3], channels: usize, geometry: Geometry) -> VolumeView<'static> {
    VolumeView {
        bytes: &[0; 2],
        element: Element::I16,
        dims,
        strides: [0; 3],
        channels,
        channel_stride: 0,
        first: 0,
        slope: 1.0,
        intercept: 0.0,
        geometry,
    }
}

/// One line about a package.
pub fn summary(package: &Package) -> String {
    let family = package.parts.last().map_or("", |part| part.architecture.family.name());
    let folds: usize = package.parts.iter().map(|part| part.folds.len()).sum();
    let network = size_name(package).unwrap_or(family);
    format!(
        "{}: {network}, {} part(s), {folds} fold(s), {} labels",
        package.name,
        package.parts.len(),
        package.labels.len()
    )
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
    if let Some(size) = size_name(package) {
        line("size", size.into());
    }
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
pub fn devices(arguments: &Devices) -> Result<(), Failure> {
    let (gpus, no_gpu) = match device::gpu_count() {
        Ok(count) => (count, None),
        Err(error) => (0, Some(error.to_string())),
    };
    let mut devices = vec![device::cpu::info()];
    for ordinal in 0..gpus {
        devices.push(device::gpu_info(ordinal).map_err(Failure::of(Exit::Device))?);
    }
    if arguments.json {
        let devices: Vec<Value> = devices.iter().map(device_entry).collect();
        let document = json!({
            "voxtile": { "version": env!("CARGO_PKG_VERSION"), "devices_version": 1 },
            "devices": devices,
            "no_gpu": no_gpu,
        });
        return print(&format!("{document:#}\n"));
    }
    let mut text: String = devices.iter().map(device_line).collect();
    if let Some(why) = no_gpu {
        let _ = writeln!(text, "no GPU: {why}");
    }
    print(&text)
}

/// A device, for programs.
fn device_entry(device: &DeviceInfo) -> Value {
    json!({
        "device": argument_of(device),
        "kind": device.kind,
        "name": device.name,
        "memory_total_bytes": device.memory_total_bytes,
        "memory_free_bytes": device.memory_free_bytes,
        "gpu": device.gpu.as_ref().map(gpu_json),
    })
}

/// What `--device` calls it.
fn argument_of(device: &DeviceInfo) -> String {
    match &device.gpu {
        None => device.kind.into(),
        Some(gpu) => format!("{}:{}", device.kind, gpu.ordinal),
    }
}

/// A device, for people.
fn device_line(device: &DeviceInfo) -> String {
    let mut text = format!("{:<6} {}", argument_of(device), device.name);
    if device.memory_total_bytes > 0 {
        let _ = write!(text, ", {} of memory", bytes_text(device.memory_total_bytes));
    }
    if device.memory_free_bytes > 0 {
        let _ = write!(text, ", {} free", bytes_text(device.memory_free_bytes));
    }
    if let Some(GpuInfo { capability: [major, minor], driver, kernels, .. }) = &device.gpu {
        let _ = write!(text, ", compute capability {major}.{minor}, driver for CUDA {driver}");
        let _ = match kernels {
            Some(kernels) if kernels.starts_with("compute_") => {
                write!(text, ", kernels {kernels} (compiled by the driver when they are loaded)")
            }
            Some(kernels) => write!(text, ", kernels {kernels}"),
            None => write!(text, "; no kernels: too old"),
        };
    }
    text + "\n"
}
