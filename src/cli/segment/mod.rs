//! `voxtile segment`.

mod batch;
mod case;
mod cases;
mod outputs;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use voxtile::formats::OutputFile;
use voxtile::{Error, Model, RunOptions, Session};

pub use self::batch::Tally;
pub use self::case::check_channels;
use self::case::{Case, Work};
use super::arguments::Segment;
use super::console::Console;
use super::failure::{Exit, Failure};
use super::statistics::{self, Form};
use super::{run_options, system};

const NO_MODEL: &str = "\
no model: name a model package with -m MODEL.
  There is no default model, so that no patient is labelled by accident.
  `voxtile convert` makes packages of STU-Net's and nnU-Net's checkpoints. In voxtile's sources,
  examples/demo.safetensors is a small demonstration package.";

/// Segments one image, or many into a folder. Everything that can be refused is refused before the
/// network runs.
pub fn segment(arguments: &Segment) -> Result<(), Failure> {
    segment_for(arguments, &Console::new(arguments.quiet, arguments.json_lines)).map(|_| ())
}

/// As [`segment`], for who listens at `console`; what was done.
pub fn segment_for(arguments: &Segment, console: &Console) -> Result<Tally, Failure> {
    let started = Instant::now();
    system::catch_interrupts();
    let mut tally = Tally::default();
    let result = match &arguments.model {
        None => Err(Failure::new(Exit::Usage, NO_MODEL)),
        Some(model) if cases::is_folder(&arguments.output) => {
            segment_all(arguments, model, console, &mut tally, started)
        }
        Some(model) => segment_one(arguments, model, console, &mut tally, started),
    };
    let (exit, error) = match &result {
        Ok(()) => (0, None),
        Err(failure) => (failure.exit as u8, Some(&failure.message)),
    };
    console.event(&json!({
        "event": "finished",
        "done": tally.done,
        "skipped": tally.skipped,
        "failed": tally.failed,
        "exit": exit,
        "error": error,
        "seconds": started.elapsed().as_secs_f64(),
    }));
    result.map(|()| tally)
}

fn segment_one(
    arguments: &Segment,
    model_path: &Path,
    console: &Console,
    tally: &mut Tally,
    started: Instant,
) -> Result<(), Failure> {
    if let Some(folder) = arguments.inputs.iter().find(|input| input.is_dir()) {
        return Err(Failure::new(
            Exit::Input,
            format!(
                "{} is a folder (DICOM series are not read); to segment each image in it, \
                 name a folder for the label maps: -o labels/",
                folder.display()
            ),
        ));
    }
    let form = arguments.statistics.as_deref().map(|path| Ok((path, Form::of(path)?)));
    let form = form.transpose()?;
    outputs::check(arguments, model_path)?;
    let model = Arc::new(Model::open(model_path).map_err(Failure::of(Exit::Model))?);
    let case = Case {
        name: cases::stem(&arguments.inputs[0]),
        number: 1,
        of: 1,
        inputs: arguments.inputs.clone(),
        output: arguments.output.clone(),
        problem: None,
    };
    case.announce(console);
    let mut segment = || {
        let options = options(arguments, &model, model_path)?;
        let mask = arguments.run.region_mask.as_deref();
        let read = case::read(&case, model.package(), model_path, mask)?;
        let _held = run_options::hold(&arguments.run)?;
        case::check_memory(arguments, &model, &options, &read)?;
        let work = prepare(arguments, console, Arc::clone(&model), options)?;
        let computed = case::compute(&work, &case, read, 0)?;
        let mut done = case::write(&case, computed)?;
        done.seconds.total = started.elapsed().as_secs_f64();
        let outcome = done.outcome(&case, &work);
        if let Some((path, form)) = &form {
            statistics::write(path, *form, outcome.found).map_err(Failure::of(Exit::Output))?;
        }
        if let Some(path) = &arguments.report {
            write_report(path, &outcome.json()).map_err(Failure::of(Exit::Output))?;
        }
        case.tell_done(console, outcome.seconds.total);
        tally.structures = outcome.found.iter().filter(|found| found.is_present()).count();
        console.result(&outcome.summary())
    };
    let result = segment();
    match &result {
        Ok(()) => tally.done = 1,
        Err(failure) if failure.exit == Exit::Cancelled => {}
        Err(failure) => {
            tally.failed.push(case.name.clone());
            case.tell_failed(console, failure);
        }
    }
    result
}

fn segment_all(
    arguments: &Segment,
    model_path: &Path,
    console: &Console,
    tally: &mut Tally,
    started: Instant,
) -> Result<(), Failure> {
    let model = Arc::new(Model::open(model_path).map_err(Failure::of(Exit::Model))?);
    let cases = cases::list(&arguments.inputs, model.package().channels(), &arguments.output)?;
    outputs::check_batch(arguments, model_path, &cases)?;
    let options = options(arguments, &model, model_path)?;
    let work = prepare(arguments, console, model, options)?;
    batch::segment(&work, model_path, &cases, tally);
    if let Some(path) = &arguments.report {
        let report = tally.report(&work, started.elapsed().as_secs_f64());
        write_report(path, &report).map_err(Failure::of(Exit::Output))?;
    }
    tally.verdict(&work, cases.len())
}

/// Makes the model ready for runs with `options`.
fn prepare<'a>(
    arguments: &'a Segment,
    console: &'a Console,
    model: Arc<Model>,
    options: RunOptions,
) -> Result<Work<'a>, Failure> {
    let clock = Instant::now();
    let session_options = run_options::session_options(&arguments.run);
    let memory = session_options.host_budget_bytes;
    let session = Session::new(model, &session_options).map_err(Failure::of(Exit::Model))?;
    let load_seconds = clock.elapsed().as_secs_f64();
    let device = session.chosen_device();
    if let Some(why) = &device.fallback {
        console.say(&format!("on the processor: {why}"));
    }
    console.event(&json!({
        "event": "device",
        "kind": device.info.kind,
        "name": device.info.name,
        "ordinal": device.info.gpu.as_ref().map(|gpu| gpu.ordinal),
        "precision": device.precision.name(),
        "fallback": device.fallback,
    }));
    Ok(Work { arguments, console, session, options, memory, load_seconds })
}

/// What a run is asked to do, but for what differs from case to case.
fn options(arguments: &Segment, model: &Model, path: &Path) -> Result<RunOptions, Failure> {
    Ok(RunOptions {
        scores: arguments.scores.is_some(),
        preprocessed: arguments.preprocessed.is_some(),
        ..run_options::run_options(&arguments.run, model.package(), path)?
    })
}

fn write_report(path: &Path, report: &Value) -> voxtile::Result<()> {
    let mut output = OutputFile::create(path)?;
    let text = format!("{report:#}\n");
    output.write_all(text.as_bytes()).map_err(|source| Error::io(path, source))?;
    output.finish()
}
