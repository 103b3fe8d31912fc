//! What was found and what it took, for people and for programs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use voxtile::device::{DeviceInfo, GpuInfo, MemoryPart, Place, Precision};
use voxtile::formats::Image;
use voxtile::model::{Label, Package};
use voxtile::session::{ChosenDevice, LabelStatistics, Report};

use super::arguments::Segment;
use super::run_options;

/// A label of the model and what was found of it.
pub struct Found {
    pub label: Label,
    /// None if no voxel has it.
    pub statistics: Option<LabelStatistics>,
}

impl Found {
    pub fn voxels(&self) -> u64 {
        self.statistics.as_ref().map_or(0, |statistics| statistics.voxels)
    }

    /// Whether any voxel has it.
    pub fn is_present(&self) -> bool {
        self.voxels() > 0
    }

    pub fn milliliters(&self) -> f64 {
        self.statistics.as_ref().map_or(0.0, |statistics| statistics.milliliters)
    }

    /// For programs; what is not known is null.
    pub fn json(&self) -> Value {
        let statistics = self.statistics.as_ref();
        let intensity = statistics.and_then(|statistics| statistics.intensity);
        json!({
            "value": self.label.value,
            "name": self.label.name,
            "code": self.label.code,
            "voxels": self.voxels(),
            "milliliters": self.milliliters(),
            "mean": intensity.map(|intensity| intensity.mean),
            "standard_deviation": intensity.map(|intensity| intensity.deviation),
            "minimum": intensity.map(|intensity| intensity.minimum),
            "maximum": intensity.map(|intensity| intensity.maximum),
            "bounding_box": statistics.map(|statistics| {
                let [low, high] = statistics.bounding_box;
                json!({ "low": low, "high": high })
            }),
            "centroid_mm_lps": statistics.map(|statistics| statistics.centroid_mm),
        })
    }
}

/// Seconds of the steps outside the session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seconds {
    pub read: f64,
    pub load: f64,
    pub write: f64,
    pub total: f64,
}

/// A finished run.
pub struct Outcome<'a> {
    pub arguments: &'a Segment,
    pub inputs: &'a [PathBuf],
    pub output: &'a Path,
    pub package: &'a Package,
    pub image: &'a Image,
    pub device: &'a ChosenDevice,
    pub threads: usize,
    pub report: &'a Report,
    pub found: &'a [Found],
    pub seconds: Seconds,
    /// What the run was estimated to need, the image included.
    pub estimated_bytes: u64,
    /// Voxels that were mapped: the system counts them with the peak while it has memory for them.
    pub mapped_bytes: u64,
    /// What the estimate is made of.
    pub memory: &'a [MemoryPart],
    pub peak_bytes: Option<u64>,
}

/// Every label of the model but the background, in the model's order, then those that the model
/// does not know.
pub fn by_label(statistics: &[LabelStatistics], labels: &[Label]) -> Vec<Found> {
    let known = labels.iter().filter(|label| label.value != 0);
    let of = |value| statistics.iter().find(|statistics| statistics.value == value).cloned();
    let known = known.map(|label| Found { label: label.clone(), statistics: of(label.value) });
    let unknown = statistics
        .iter()
        .filter(|statistics| labels.iter().all(|label| label.value != statistics.value));
    let unnamed = |value| Label { value, name: String::new(), color: None, code: None };
    known
        .chain(unknown.map(|statistics| Found {
            label: unnamed(statistics.value),
            statistics: Some(statistics.clone()),
        }))
        .collect()
}

impl Outcome<'_> {
    /// The summary at the end of a run.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let present: Vec<&Found> = self.found.iter().filter(|found| found.is_present()).collect();
        let [i, j, k] = self.image.dims;
        let _ = writeln!(
            text,
            "{}: {} of {} labels found on {i} x {j} x {k} voxels",
            self.output.display(),
            present.len(),
            self.found.len()
        );
        if !present.is_empty() {
            let width = present.iter().map(|found| found.label.name.chars().count()).max();
            let width = width.unwrap_or(0).max(4);
            let _ = writeln!(text, "  value  {:width$}  {:>10}", "name", "mL");
            for found in present {
                let (label, milliliters) = (&found.label, found.milliliters());
                let _ = writeln!(
                    text,
                    "  {:5}  {:width$}  {milliliters:10.2}",
                    label.value, label.name
                );
            }
        }
        let Seconds { read, load, write, total } = self.seconds;
        let report = self.report;
        let _ = writeln!(
            text,
            "time: {}; read {read:.2} s, load {load:.2} s, prepare {:.2} s, network {:.2} s, blend \
             {:.2} s, resolve {:.2} s, write {write:.2} s",
            duration_text(total),
            report.prepare_seconds,
            report.network_seconds,
            report.blend_seconds,
            report.resolve_seconds,
        );
        let peak = self.peak_bytes.map_or_else(|| "unknown".into(), bytes_text);
        let mapped = match self.mapped_bytes {
            0 => String::new(),
            bytes => format!(", {} of mapped voxels included", bytes_text(bytes)),
        };
        let _ = writeln!(
            text,
            "memory: peak {peak}{mapped}; image, network and run were estimated to take at most {}",
            bytes_text(self.estimated_bytes)
        );
        text
    }

    /// One line about a case of several.
    pub fn line(&self) -> String {
        let present = self.found.iter().filter(|found| found.is_present()).count();
        let [i, j, k] = self.image.dims;
        format!(
            "{}: {present} of {} labels found on {i} x {j} x {k} voxels, {}\n",
            self.output.display(),
            self.found.len(),
            duration_text(self.seconds.total)
        )
    }

    /// The report of a run of one case, for programs.
    pub fn json(&self) -> Value {
        let mut all = setting(self.arguments, self.package, self.device, self.threads);
        if let (Value::Object(all), Value::Object(case)) = (&mut all, self.case_json()) {
            all.extend(case);
        }
        all
    }

    /// What differs from case to case, for programs.
    pub fn case_json(&self) -> Value {
        let Self { arguments, image, report, seconds, .. } = self;
        let labels: Vec<Value> = self.found.iter().map(Found::json).collect();
        let parts = parts_json(self.memory);
        json!({
            "inputs": self.inputs,
            "outputs": {
                "labels": self.output,
                "scores": arguments.scores,
                "preprocessed": arguments.preprocessed,
                "statistics": arguments.statistics,
                "probabilities": arguments.run.probabilities,
            },
            "warnings": image.warnings,
            "image": {
                "dims": image.dims,
                "channels": image.channels,
                "element": format!("{:?}", image.stored).to_lowercase(),
                "slope": image.slope,
                "intercept": image.intercept,
                "spacing_mm": image.geometry.spacing,
                "origin_mm_lps": image.geometry.origin,
                "direction_lps": image.geometry.direction,
            },
            "run": {
                "tiles": report.tiles,
                "skipped_tiles": report.skipped_tiles,
                "network_passes": report.passes,
                "network_shape": report.network_shape,
            },
            "seconds": {
                "read": seconds.read,
                "load": seconds.load,
                "prepare": report.prepare_seconds,
                "network": report.network_seconds,
                "blend": report.blend_seconds,
                "resolve": report.resolve_seconds,
                "write": seconds.write,
                "total": seconds.total,
            },
            "memory": {
                "estimated_bytes": self.estimated_bytes,
                "estimated_gpu_bytes": report.estimate.device_bytes,
                "peak_bytes": self.peak_bytes,
                "mapped_bytes": self.mapped_bytes,
                "parts": parts,
                "slab_planes": report.estimate.choices.slab_planes,
                "prepared_volume_kept": report.estimate.choices.keep_prepared,
            },
            "labels": labels,
        })
    }
}

/// What is the same for all cases of a run, for programs.
pub fn setting(
    arguments: &Segment,
    package: &Package,
    device: &ChosenDevice,
    threads: usize,
) -> Value {
    json!({
        "voxtile": { "version": env!("CARGO_PKG_VERSION"), "report_version": 1 },
        "model": {
            "file": arguments.model,
            "name": package.name,
            "description": package.description,
            "demo": package.demo,
            "format_version": package.format_version,
            "parts": package.parts.iter().map(|part| &part.name).collect::<Vec<_>>(),
            "blends": run_options::blends(package),
            "provenance": package.provenance,
        },
        "options": run_options::json(&arguments.run),
        "device": device_json(device, Some(threads)),
    })
}

/// What memory is for, for programs.
pub fn parts_json(parts: &[MemoryPart]) -> Vec<Value> {
    let part = |part: &MemoryPart| json!({ "name": part.name, "bytes": part.bytes, "place": place_name(part.place) });
    parts.iter().map(part).collect()
}

fn place_name(place: Place) -> &'static str {
    match place {
        Place::Host => "host",
        Place::Device => "gpu",
    }
}

/// "cpu (x86_64 AVX2)", "cpu (x86_64 AVX2), bf16", "cuda:0 (NVIDIA H100 80GB HBM3), f16".
pub fn device_text(device: &ChosenDevice) -> String {
    let DeviceInfo { kind, name, gpu, .. } = &device.info;
    match gpu {
        None if device.precision == Precision::F32 => format!("{kind} ({name})"),
        None => format!("{kind} ({name}), {}", device.precision.name()),
        Some(gpu) => format!("{kind}:{} ({name}), {}", gpu.ordinal, device.precision.name()),
    }
}

/// Where a session runs, for programs. `threads` are the processor's.
pub fn device_json(device: &ChosenDevice, threads: Option<usize>) -> Value {
    let gpu = device.info.gpu.as_ref();
    json!({
        "kind": device.info.kind,
        "name": device.info.name,
        "threads": threads,
        "precision": device.precision.name(),
        "fallback": device.fallback,
        "gpu": gpu.map(gpu_json),
    })
}

/// What a GPU is, for programs.
pub fn gpu_json(gpu: &GpuInfo) -> Value {
    let [major, minor] = gpu.capability;
    json!({
        "ordinal": gpu.ordinal,
        "compute_capability": format!("{major}.{minor}"),
        "driver_cuda": gpu.driver,
        "kernels": gpu.kernels,
    })
}

/// "512 bytes", "1.50 GiB".
pub fn bytes_text(bytes: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} bytes"),
    }
}

/// "1.5 s", "40 s", "2 min 5 s", "1 h 10 min".
pub fn duration_text(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=59 => format!("{whole} s"),
        60..=3599 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations() {
        assert_eq!(bytes_text(512), "512 bytes");
        assert_eq!(bytes_text(3 << 29), "1.50 GiB");
        assert_eq!(bytes_text(700 << 20), "700.00 MiB");
        assert_eq!(duration_text(1.49), "1.5 s");
        assert_eq!(duration_text(42.2), "42 s");
        assert_eq!(duration_text(125.0), "2 min 5 s");
        assert_eq!(duration_text(4200.0), "1 h 10 min");
    }
}
