//! What the session is asked to do, of the arguments and the model.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use voxtile::base::Pool;
use voxtile::device::{self, DeviceChoice, MemoryPart, Precision};
use voxtile::formats::tensors::GATHERED_BYTES;
use voxtile::formats::volumes::VolumeFormat;
use voxtile::model::{Blend, Package};
use voxtile::session::{Cleanup, Estimate, Region};
use voxtile::{Error, RunOptions, SessionOptions};

use super::arguments::{ExportName, Labels, device_name};
use super::failure::{Exit, Failure};
use super::run_arguments::{GridName, ProbabilityType, RunArguments};

/// What may be used: without a limit, no more than the machine has, so that a header that claims
/// a volume of kilometres is refused before it is tried.
pub fn memory(arguments: &RunArguments) -> Option<u64> {
    let machine = || device::cpu::info().memory_total_bytes;
    Some(arguments.memory.unwrap_or_else(machine)).filter(|bytes| *bytes > 0)
}

/// How the session is set up.
pub fn session_options(arguments: &RunArguments) -> SessionOptions {
    SessionOptions {
        device: arguments.device,
        precision: arguments.precision.map(Into::into),
        threads: arguments.threads.unwrap_or(0),
        host_budget_bytes: memory(arguments),
        device_budget_bytes: arguments.gpu_memory,
    }
}

/// Opens the device, for as long as what is returned lives: a GPU takes a moment to start, and would
/// again when it is asked for its memory and when the model is loaded.
pub fn hold(arguments: &RunArguments) -> Result<device::Opened, Failure> {
    let pool = Pool::new(1).map_err(Failure::of(Exit::Other))?;
    let precision = arguments.precision.map(Into::into);
    device::open(arguments.device, precision, &Arc::new(pool), Ok).map_err(Failure::of(Exit::Usage))
}

/// What a run is asked to do, but for the mask of a region.
pub fn run_options(
    arguments: &RunArguments,
    package: &Package,
    model: &Path,
) -> Result<RunOptions, Failure> {
    let names = |names: &[String], option| -> Result<Vec<u32>, Failure> {
        names.iter().map(|name| label_value(name, option, package, model)).collect()
    };
    if arguments.device == DeviceChoice::Cpu && arguments.gpu_memory.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "--gpu-memory: --device cpu takes no GPU; leave out one of them",
        ));
    }
    let keep = names(&arguments.labels, "--labels")?;
    let region = arguments.region.as_ref().map(|region| Region::Box(region.0.clone()));
    let mut probabilities = Vec::new();
    if arguments.probabilities.is_some() {
        if arguments.export != ExportName::Scores {
            return Err(Failure::new(
                Exit::Usage,
                "--probabilities: there are none where labels come to the image's grid; leave out \
                 --export",
            ));
        }
        probabilities = match arguments.probability_labels.as_slice() {
            [] => with_probabilities(package),
            some => names(some, "--probability-labels")?,
        };
        check_probabilities(arguments, package, &probabilities)?;
    }
    Ok(RunOptions {
        step: arguments.step,
        mirror: arguments.mirror,
        keep: (!keep.is_empty()).then_some(keep),
        region,
        skip_air_below: arguments.skip_air,
        probabilities,
        probability_grid: arguments.probability_grid.into(),
        export: arguments.export.into(),
        accumulators: arguments.sums.into(),
        raw: arguments.raw,
        cleanup: cleanup(arguments, package, model)?,
        ..RunOptions::default()
    })
}

/// The value of a label that is given by its name or value.
fn label_value(text: &str, option: &str, package: &Package, model: &Path) -> Result<u32, Failure> {
    let text = text.trim();
    let mut labels = package.labels.iter();
    let named = labels.clone().find(|label| label.name == text);
    let found = named.or_else(|| labels.find(|label| text.parse() == Ok(label.value)));
    found.map(|label| label.value).ok_or_else(|| no_label(text, option, model))
}

fn no_label(text: &str, option: &str, model: &Path) -> Failure {
    let model = model.display();
    Failure::new(
        Exit::Usage,
        format!("{option}: {model} has no label `{text}`; `voxtile info {model}` lists them"),
    )
}

/// What is to be done to the labels, small parts first: what they leave behind inside another
/// label is a hole.
fn cleanup(
    arguments: &RunArguments,
    package: &Package,
    model: &Path,
) -> Result<Vec<Cleanup>, Failure> {
    let structure = |name: &String, option: &str| -> Result<u32, Failure> {
        match label_value(name, option, package, model)? {
            0 => Err(no_label(name, option, model)), // the background
            value => Ok(value),
        }
    };
    let values = |option: &str, labels: &Labels| -> Result<Option<Vec<u32>>, Failure> {
        let values = labels.0.iter().map(|name| structure(name, option));
        let values: Vec<u32> = values.collect::<Result<_, _>>()?;
        Ok((!values.is_empty()).then_some(values))
    };
    let connectivity = 26;
    let mut steps = Vec::new();
    if let Some(labels) = &arguments.largest_component {
        let labels = values("--largest-component", labels)?;
        steps.push(Cleanup::LargestComponent { labels, connectivity });
    }
    if let Some(sizes) = &arguments.minimum_size {
        let option = "--minimum-size";
        let mut named = Vec::new();
        for (name, mm3) in &sizes.of {
            let value = structure(name, option)?;
            if named.contains(&value) {
                let text = format!("{option}: label {value} is named twice");
                return Err(Failure::new(Exit::Usage, text));
            }
            named.push(value);
            let labels = Some(vec![value]);
            steps.push(Cleanup::MinimumSize { labels, connectivity, mm3: *mm3 });
        }
        if let Some(mm3) = sizes.others {
            let values = package.labels.iter().map(|label| label.value);
            let others = values.filter(|value| *value != 0 && !named.contains(value)).collect();
            let labels = if named.is_empty() { None } else { Some(others) };
            steps.push(Cleanup::MinimumSize { labels, connectivity, mm3 });
        }
    }
    if let Some(labels) = &arguments.fill_holes {
        steps.push(Cleanup::FillHoles { labels: values("--fill-holes", labels)? });
    }
    Ok(steps)
}

/// The parts of a model that find a label.
fn parts_of(package: &Package, value: u32) -> impl DoubleEndedIterator<Item = usize> {
    let finds = move |part: &usize| package.parts[*part].output.values().contains(&value);
    (0..package.parts.len()).filter(|part| package.is_final(*part)).filter(finds)
}

/// The labels that have probabilities: the background has none where regions are found or several
/// parts each have one of their own.
fn with_probabilities(package: &Package) -> Vec<u32> {
    let values = package.labels.iter().map(|label| label.value);
    let has = |value: &u32| match parts_of(package, *value).count() {
        0 => false,
        parts => parts == 1 || *value != 0,
    };
    values.filter(has).collect()
}

/// Refuses labels that have no probabilities, come twice, or lie on different grids.
fn check_probabilities(
    arguments: &RunArguments,
    package: &Package,
    values: &[u32],
) -> Result<(), Failure> {
    let refused = |text: String| Err(Failure::new(Exit::Usage, text));
    let path = arguments.probabilities.as_deref().unwrap_or(Path::new(""));
    if VolumeFormat::of(path).map_err(Failure::of(Exit::Output))?.is_some() {
        if arguments.probability_grid == GridName::Network {
            return refused(format!(
                "--probability-grid network: {} is an image, which lies where the input does; name \
                 a .safetensors file",
                path.display()
            ));
        }
        if arguments.probability_type == ProbabilityType::F16 {
            return refused(format!(
                "--probability-type f16: {} is an image, and those have no half precision; name a \
                 .safetensors file, or f32 or u8",
                path.display()
            ));
        }
    }
    let known = with_probabilities(package);
    if let Some(value) = values.iter().find(|value| !known.contains(value)) {
        return refused(format!("--probability-labels: label {value} has none in this model"));
    }
    let twice = |(at, value): (usize, &u32)| values[..at].contains(value);
    if let Some(value) = values.iter().enumerate().find(|each| twice(*each)).map(|each| each.1) {
        return refused(format!("--probability-labels: label {value} is named twice"));
    }
    let last = |value: &u32| parts_of(package, *value).next_back();
    if arguments.probability_grid == GridName::Network
        && values.windows(2).any(|pair| last(&pair[0]) != last(&pair[1]))
    {
        return refused(
            "--probability-grid network: the labels are found by several networks, each with a \
             grid of its own; name those of one with --probability-labels"
                .into(),
        );
    }
    Ok(())
}

/// Bytes that writing a run's further outputs takes.
pub fn writing_bytes(options: &RunOptions) -> u64 {
    match options.probabilities.is_empty() {
        true => 0,
        false => GATHERED_BYTES as u64,
    }
}

/// Refuses what takes more than the user allows; the limit is for images too.
pub fn obey(memory: Option<u64>, needed_bytes: u64) -> Result<(), Failure> {
    match memory {
        Some(available_bytes) if needed_bytes > available_bytes => {
            Err(Failure::of(Exit::Input)(Error::Memory {
                what: "segmenting this volume, the image included,".into(),
                needed_bytes,
                available_bytes,
            }))
        }
        _ => Ok(()),
    }
}

/// The options that shape a run, for programs.
pub fn json(arguments: &RunArguments) -> Value {
    json!({
        "device": device_name(arguments.device),
        "precision": arguments.precision.map(|name| Precision::from(name).name()),
        "threads": arguments.threads,
        "step": arguments.step,
        "mirror": arguments.mirror,
        "export": match arguments.export {
            ExportName::Scores => "scores",
            ExportName::Labels => "labels",
            ExportName::NearestLabels => "nearest-labels",
        },
        "raw": arguments.raw,
        "labels": (!arguments.labels.is_empty()).then_some(&arguments.labels),
        "region": arguments.region.as_ref().map(|region| {
            region.0.each_ref().map(|range| [range.start, range.end])
        }),
        "region_mask": arguments.region_mask,
        "skip_air_below": arguments.skip_air,
        "accumulators": arguments.sums.name(),
        "largest_component": arguments.largest_component.as_ref().map(|labels| &labels.0),
        "minimum_size_mm3": arguments.minimum_size.as_ref().and_then(|sizes| sizes.others),
        "minimum_size_mm3_of": arguments.minimum_size.as_ref().map(|sizes| {
            sizes.of.iter().map(|(name, mm3)| (name.clone(), json!(mm3))).collect::<Map<_, _>>()
        }),
        "fill_holes": arguments.fill_holes.as_ref().map(|labels| &labels.0),
        "memory_bytes": arguments.memory,
        "gpu_memory_bytes": arguments.gpu_memory,
    })
}

/// What is averaged where the tiles of each part overlap, for programs.
pub fn blends(package: &Package) -> Vec<&'static str> {
    let name = |blend: Blend| match blend {
        Blend::Logits => "logits",
        Blend::Softmax => "softmax",
    };
    package.parts.iter().map(|part| name(part.blend)).collect()
}

/// What memory an estimate names, what is outside the session included, the largest first.
pub fn memory_parts(estimate: &Estimate, further: &[(&'static str, u64)]) -> Vec<MemoryPart> {
    let mut parts = estimate.memory.clone();
    parts.extend(further.iter().map(|(name, bytes)| MemoryPart::new(name, *bytes)));
    parts.retain(|part| part.bytes > 0);
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    parts
}
