//! `voxtile plan`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use voxtile::device::{MemoryPart, Place};
use voxtile::formats;
use voxtile::session::{self, ChosenDevice, Estimate, Region};
use voxtile::{Geometry, Model, RunOptions, Session, VolumeView};

use super::arguments::Plan;
use super::failure::{Exit, Failure};
use super::information::{imagined, network_spacing};
use super::report::{bytes_text, device_json, device_text, duration_text, parts_json};
use super::segment::check_channels;
use super::{mask, print, run_options};

/// Parts of the memory from this size on are told to people.
const WORTH_TELLING_BYTES: u64 = 1_000_000;

/// The volume that is to be segmented, without its voxels.
struct Subject {
    dims: [usize; 3],
    geometry: Geometry,
    channels: usize,
    /// What its voxels take in memory, at most.
    bytes: u64,
    warnings: Vec<String>,
}

impl Subject {
    fn view(&self) -> VolumeView<'static> {
        imagined(self.dims, self.channels, self.geometry)
    }
}

/// What a run would take.
struct Forecast<'a> {
    subject: &'a Subject,
    estimate: Estimate,
    /// Where it would run.
    chosen: ChosenDevice,
    memory: Vec<MemoryPart>,
    /// What lies outside the session: image, mask, what is being written.
    outside_bytes: u64,
    /// Seconds of the network, unless they are not wanted.
    network_seconds: Option<f64>,
}

/// Says what a run would take, before it is made.
pub fn plan(arguments: &Plan) -> Result<(), Failure> {
    let model = Model::open(&arguments.model).map_err(Failure::of(Exit::Model))?;
    let package = model.package();
    let mut options = run_options::run_options(&arguments.run, package, &arguments.model)?;
    let subject = subject(arguments, &model)?;
    check_channels(subject.channels, package, &arguments.model)?;
    let mask_bytes = add_mask(arguments, &subject, &mut options)?;
    let further = [
        ("image", subject.bytes),
        ("mask of the region", mask_bytes),
        ("probabilities to be written", run_options::writing_bytes(&options)),
    ];
    options.taken_bytes = further.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes));
    let session_options = run_options::session_options(&arguments.run);
    let _held = run_options::hold(&arguments.run)?;
    let estimate = |options: &RunOptions| {
        session::estimate(&model, &session_options, &subject.view(), options).map_err(Failure::of(
            if arguments.volume.is_some() { Exit::Usage } else { Exit::Input },
        ))
    };
    let outside_bytes = options.taken_bytes;
    let (mut found, mut chosen) = estimate(&options)?;
    let least = found.least_host_bytes.saturating_add(outside_bytes);
    run_options::obey(session_options.host_budget_bytes, least)?;
    if let Some(path) = &arguments.run.region_mask {
        let mask = mask::read(path, subject.dims, &subject.geometry, arguments.input())?;
        options.region = Some(Region::Mask(mask));
        (found, chosen) = estimate(&options)?;
    }
    let estimate = found;
    let memory = run_options::memory_parts(&estimate, &further);
    let mut forecast = Forecast {
        subject: &subject,
        estimate,
        chosen,
        memory,
        outside_bytes,
        network_seconds: None,
    };
    if !arguments.no_timing {
        let session = Session::new(Arc::new(model), &session_options);
        let session = session.map_err(Failure::of(Exit::Model))?;
        forecast.chosen = session.chosen_device().clone();
        let seconds = session.network_seconds(&forecast.estimate);
        forecast.network_seconds = Some(seconds.map_err(Failure::of(Exit::Model))?);
        return tell(arguments, session.model(), &forecast, &options);
    }
    tell(arguments, &model, &forecast, &options)
}

impl Plan {
    /// What a mask is to have the grid of.
    fn input(&self) -> &Path {
        self.inputs.first().map_or(Path::new("--volume"), |input| input.as_path())
    }
}

/// The volume that the arguments name.
fn subject(arguments: &Plan, model: &Model) -> Result<Subject, Failure> {
    let package = model.package();
    if let Some(dims) = arguments.volume {
        let spacing = arguments.spacing.unwrap_or_else(|| network_spacing(&package.parts[0]));
        let channels = package.channels();
        return Ok(Subject {
            dims,
            geometry: Geometry::axis_aligned(spacing),
            channels,
            bytes: dims.iter().fold(2 * channels as u64, |n, d| n.saturating_mul(*d as u64)),
            warnings: Vec::new(),
        });
    }
    let failed = Failure::of(Exit::Input);
    let image = formats::read_headers(&arguments.inputs).map_err(&failed)?;
    Ok(Subject {
        dims: image.dims,
        geometry: image.geometry,
        channels: image.channels,
        bytes: formats::memory_bytes(&arguments.inputs).map_err(&failed)?,
        warnings: image.warnings,
    })
}

/// Makes the options those of a run with as large a mask as the arguments name, by its header; the
/// bytes that it takes.
fn add_mask(arguments: &Plan, subject: &Subject, options: &mut RunOptions) -> Result<u64, Failure> {
    let Some(path) = &arguments.run.region_mask else { return Ok(0) };
    let mask = formats::read_headers(&[path]).map_err(Failure::of(Exit::Input))?;
    mask::check(&mask, path, subject.dims, &subject.geometry, arguments.input())?;
    options.region = Some(Region::Box(subject.dims.map(|extent| 0..extent)));
    Ok(subject.dims.iter().map(|extent| *extent as u64).product())
}

fn tell(
    arguments: &Plan,
    model: &Model,
    forecast: &Forecast,
    options: &RunOptions,
) -> Result<(), Failure> {
    match arguments.json {
        true => print(&format!("{:#}\n", forecast.json(arguments, model, options))),
        false => print(&forecast.text(arguments, model)),
    }
}

impl Forecast<'_> {
    /// Image, session and run.
    fn bytes(&self) -> u64 {
        self.estimate.host_bytes.saturating_add(self.outside_bytes)
    }

    fn least_bytes(&self) -> u64 {
        self.estimate.least_host_bytes.saturating_add(self.outside_bytes)
    }

    fn text(&self, arguments: &Plan, model: &Model) -> String {
        let Subject { dims: [i, j, k], geometry, .. } = self.subject;
        let [x, y, z] = geometry.spacing;
        let Estimate { tiles, skipped_tiles, passes, choices, .. } = &self.estimate;
        let mut text = format!("{i} x {j} x {k} voxels of {x} x {y} x {z} mm\n");
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<16} {value}");
        };
        line("device", device_text(&self.chosen));
        if let Some(why) = &self.chosen.fallback {
            line("", why.clone());
        }
        let skipped = match (skipped_tiles, arguments.run.skip_air) {
            (0, None) => String::new(),
            (0, Some(_)) => ", those of air included".into(),
            (_, None) => format!(", {skipped_tiles} of them outside the region"),
            (_, Some(_)) => {
                format!(", {skipped_tiles} of them outside the region; those of air count")
            }
        };
        line("tiles", format!("at most {tiles}{skipped}"));
        line("network passes", format!("at most {passes}"));
        match self.network_seconds {
            Some(seconds) => line("network", format!("about {}", duration_text(seconds))),
            None => line("network", "not timed".into()),
        }
        let mut memory = |name: &str, bytes: u64, place: Place| {
            line(name, format!("at most {}", bytes_text(bytes)));
            let there = self.memory.iter().filter(|part| part.place == place);
            for part in there.filter(|part| part.bytes >= WORTH_TELLING_BYTES) {
                line("", format!("{:>12}  {}", bytes_text(part.bytes), part.name));
            }
        };
        memory("memory", self.bytes(), Place::Host);
        if self.estimate.device_bytes > 0 {
            memory("GPU memory", self.estimate.device_bytes, Place::Device);
        }
        let least = self.least_bytes();
        line("least --memory", format!("{least} ({})", bytes_text(least)));
        let least = self.estimate.least_device_bytes;
        if least > 0 {
            line("least of the GPU", format!("{least} ({})", bytes_text(least)));
        }
        let kept = if choices.keep_prepared { "kept" } else { "not kept" };
        line("slabs", format!("of up to {} planes; prepared volume {kept}", choices.slab_planes));
        let blends = run_options::blends(model.package()).join(", ");
        line("blends", format!("{blends} in {}", arguments.run.sums.name()));
        for warning in &self.subject.warnings {
            line("warning", warning.clone());
        }
        text
    }

    fn json(&self, arguments: &Plan, model: &Model, options: &RunOptions) -> Value {
        let Estimate { tiles, skipped_tiles, passes, part_passes, choices, .. } = &self.estimate;
        json!({
            "voxtile": { "version": env!("CARGO_PKG_VERSION"), "plan_version": 1 },
            "model": {
                "file": arguments.model,
                "name": model.package().name,
                "blends": run_options::blends(model.package()),
            },
            "inputs": arguments.inputs,
            "image": {
                "dims": self.subject.dims,
                "channels": self.subject.channels,
                "spacing_mm": self.subject.geometry.spacing,
            },
            "options": run_options::json(&arguments.run),
            "probability_labels": options.probabilities,
            "device": device_json(&self.chosen, None),
            "run": {
                "tiles": tiles,
                "skipped_tiles": skipped_tiles,
                "network_passes": passes,
                "network_passes_of_parts": part_passes,
            },
            "seconds": { "network": self.network_seconds },
            "memory": {
                "estimated_bytes": self.bytes(),
                "least_bytes": self.least_bytes(),
                "estimated_gpu_bytes": self.estimate.device_bytes,
                "least_gpu_bytes": self.estimate.least_device_bytes,
                "image_bytes": self.subject.bytes,
                "parts": parts_json(&self.memory),
                "slab_planes": choices.slab_planes,
                "prepared_volume_kept": choices.keep_prepared,
            },
            "warnings": self.subject.warnings,
        })
    }
}
