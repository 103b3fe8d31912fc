//! `voxtile segment`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use voxtile::base::Pool;
use voxtile::device;
use voxtile::formats::nifti::{self, Labels};
use voxtile::formats::{Image, OutputFile};
use voxtile::model::{Blend, Package};
use voxtile::session::{Cleanup, LabelMap, Segmentation};
use voxtile::{Error, Model, RunOptions, Session, SessionOptions};

use super::arguments::{Labels as LabelNames, Segment};
use super::failure::{Exit, Failure};
use super::observer::Follower;
use super::report::{Outcome, Seconds, by_label, bytes_text};
use super::statistics::{self, Form};
use super::{print, system};

const NO_MODEL: &str = "\
no model: name a model package with -m MODEL.
  There is no default model, so that no patient is labelled by accident.
  `voxtile convert` makes packages of STU-Net's and nnU-Net's checkpoints. In voxtile's sources,
  examples/demo.safetensors is a small demonstration package.";

/// Segments one image. Everything that can be refused is refused before the network runs.
pub fn segment(arguments: &Segment) -> Result<(), Failure> {
    let started = Instant::now();
    let mut seconds = Seconds::default();
    system::catch_interrupts();
    let Some(model_path) = &arguments.model else {
        return Err(Failure::new(Exit::Usage, NO_MODEL));
    };
    let form = arguments.statistics.as_deref().map(|path| Ok((path, Form::of(path)?)));
    let form = form.transpose()?;
    check_outputs(arguments, model_path)?;

    let model = Arc::new(Model::open(model_path).map_err(Failure::of(Exit::Model))?);
    let package = model.package();
    let clock = Instant::now();
    let image = nifti::read_channels(&arguments.inputs).map_err(Failure::of(Exit::Input))?;
    seconds.read = clock.elapsed().as_secs_f64();
    check_channels(&image, package, model_path)?;

    let cleanup = cleanup(arguments, package, model_path)?;

    let clock = Instant::now();
    let image_bytes = image.bytes.len() as u64;
    let session = new_session(arguments, &model, image_bytes)?;
    seconds.load = clock.elapsed().as_secs_f64();
    let options = RunOptions {
        step: arguments.step,
        mirror: arguments.mirror,
        scores: arguments.scores.is_some(),
        export: arguments.export.into(),
        raw: arguments.raw,
        cleanup,
        ..RunOptions::default()
    };
    let view = image.view();
    let with_image =
        |error| Failure::of(Exit::Input)(including(error, image_bytes, memory(arguments)));
    let estimate = session.estimate(&view, &options).map_err(with_image)?;

    let unit = if estimate.passes == estimate.tiles { "tiles" } else { "network passes" };
    let mut follower = Follower::new(arguments.quiet, unit);
    follower.part = package.parts.len() - 1;
    follower.preprocessed = arguments.preprocessed.as_deref();
    follower.scores = arguments.scores.as_deref().map(|path| (path, scores_name(package)));
    for warning in &image.warnings {
        follower.warn(warning);
    }
    let estimated_bytes = estimate.host_bytes.saturating_add(image_bytes);
    follower.say(&format!(
        "{} on {} ({}), {} threads; at most {} tiles and {}",
        package.name,
        session.device().kind,
        session.device().name,
        session.threads(),
        estimate.tiles,
        bytes_text(estimated_bytes)
    ));

    let result = session.run(&view, &options, &mut follower);
    follower.clear();
    let segmentation = match result {
        Ok(segmentation) if !system::cancelled() => segmentation,
        Ok(_) => return Err(Failure::of(Exit::Cancelled)(Error::Cancelled)),
        Err(error) if follower.output_failed => return Err(Failure::of(Exit::Output)(error)),
        // The image was read before; what is wrong now is the model.
        Err(error @ Error::Format { .. }) => return Err(Failure::of(Exit::Model)(error)),
        Err(error) => return Err(with_image(error)),
    };

    let pool = Pool::new(session.threads()).map_err(Failure::of(Exit::Other))?;
    let statistics = segmentation.statistics(&view, &pool).map_err(Failure::of(Exit::Other))?;
    let found = by_label(&statistics, &package.labels);
    let Segmentation { labels, report, .. } = segmentation;
    let clock = Instant::now();
    write_labels(arguments, &labels, &image, follower).map_err(Failure::of(Exit::Output))?;
    seconds.write = clock.elapsed().as_secs_f64();
    seconds.total = started.elapsed().as_secs_f64();
    let outcome = Outcome {
        arguments,
        package,
        image: &image,
        device: session.device(),
        threads: session.threads(),
        report: &report,
        found: &found,
        seconds,
        estimated_bytes,
        peak_bytes: system::peak_memory_bytes(),
    };
    if let Some((path, form)) = &form {
        statistics::write(path, *form, &found).map_err(Failure::of(Exit::Output))?;
    }
    if let Some(path) = &arguments.report {
        write_report(path, &outcome).map_err(Failure::of(Exit::Output))?;
    }
    if arguments.quiet { Ok(()) } else { print(&outcome.summary()) }
}

/// Whether every output can be written and overwrites nothing it should not.
fn check_outputs(arguments: &Segment, model: &Path) -> Result<(), Failure> {
    let failed = Failure::of(Exit::Output);
    nifti::check_output_name(&arguments.output).map_err(&failed)?;
    let outputs = [
        Some(&arguments.output),
        arguments.scores.as_ref(),
        arguments.preprocessed.as_ref(),
        arguments.report.as_ref(),
        arguments.statistics.as_ref(),
    ];
    let mut taken: Vec<(PathBuf, &str)> =
        arguments.inputs.iter().map(|input| (resolved(input), "an input")).collect();
    taken.push((resolved(model), "the model"));
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

fn check_channels(image: &Image, package: &Package, model: &Path) -> Result<(), Failure> {
    let (found, expected) = (image.channels, package.channels());
    if found == expected {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Input,
        format!(
            "the input has {found} {}, but {} takes {expected}; name one file for each channel, \
             in the model's order",
            if found == 1 { "channel" } else { "channels" },
            model.display()
        ),
    ))
}

/// What the options ask to be done to the labels, small parts first: what they leave behind inside
/// another label is a hole.
fn cleanup(arguments: &Segment, package: &Package, model: &Path) -> Result<Vec<Cleanup>, Failure> {
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

/// What may be used: without a limit, no more than the machine has, so that a header that claims
/// a volume of kilometres is refused before it is tried.
fn memory(arguments: &Segment) -> Option<u64> {
    let machine = || device::devices().first().map(|device| device.memory_total_bytes);
    arguments.memory.or_else(machine).filter(|bytes| *bytes > 0)
}

/// `--memory` is for everything, the image included.
fn new_session(
    arguments: &Segment,
    model: &Arc<Model>,
    image_bytes: u64,
) -> Result<Session, Failure> {
    let options = SessionOptions {
        device: arguments.device.into(),
        threads: arguments.threads.unwrap_or(0),
        // Not 0: an error with nothing available is one of the machine, not of the budget.
        host_budget_bytes: memory(arguments)
            .map(|memory| memory.saturating_sub(image_bytes).max(1)),
    };
    Session::new(Arc::clone(model), &options)
        .map_err(|error| Failure::of(Exit::Model)(including(error, image_bytes, memory(arguments))))
}

/// The session counts its own bytes; the user's limit is for the image's too.
fn including(error: Error, image_bytes: u64, memory: Option<u64>) -> Error {
    match (error, memory) {
        (Error::Memory { what, needed_bytes, available_bytes: 1.. }, Some(memory)) => {
            Error::Memory {
                what: format!("{what}, the image included,"),
                needed_bytes: needed_bytes.saturating_add(image_bytes),
                available_bytes: memory,
            }
        }
        (other, _) => other,
    }
}

/// The name of the scores' tensor, which are the last part's.
fn scores_name(package: &Package) -> &'static str {
    match package.parts[package.parts.len() - 1].blend {
        Blend::Logits => "logits",
        Blend::Softmax => "probabilities",
    }
}

fn write_labels(
    arguments: &Segment,
    labels: &LabelMap,
    image: &Image,
    follower: Follower<'_>,
) -> voxtile::Result<()> {
    let output = OutputFile::create(&arguments.output)?;
    let labels = match labels {
        LabelMap::U8(labels) => Labels::U8(labels),
        LabelMap::U16(labels) => Labels::U16(labels),
    };
    nifti::write_labels(output, labels, image.dims, &image.geometry)?;
    follower.finish()
}

fn write_report(path: &Path, outcome: &Outcome<'_>) -> voxtile::Result<()> {
    let mut output = OutputFile::create(path)?;
    let text = format!("{:#}\n", outcome.json());
    output.write_all(text.as_bytes()).map_err(|source| Error::io(path, source))?;
    output.finish()
}
