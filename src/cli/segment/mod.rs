//! `voxtile segment`.

mod case;
mod outputs;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use voxtile::device;
use voxtile::formats::OutputFile;
use voxtile::{Error, Model, RunOptions, Session, SessionOptions};

use self::case::{Case, Work};
use super::arguments::Segment;
use super::failure::{Exit, Failure};
use super::report::Outcome;
use super::{print, system};

const NO_MODEL: &str = "\
no model: name a model package with -m MODEL.
  There is no default model, so that no patient is labelled by accident.
  `voxtile convert` makes packages of STU-Net's and nnU-Net's checkpoints. In voxtile's sources,
  examples/demo.safetensors is a small demonstration package.";

/// Segments one image. Everything that can be refused is refused before the network runs.
pub fn segment(arguments: &Segment) -> Result<(), Failure> {
    let started = Instant::now();
    system::catch_interrupts();
    let Some(model_path) = &arguments.model else {
        return Err(Failure::new(Exit::Usage, NO_MODEL));
    };
    outputs::check(arguments, model_path)?;
    let model = Arc::new(Model::open(model_path).map_err(Failure::of(Exit::Model))?);
    let case = Case { inputs: arguments.inputs.clone(), output: arguments.output.clone() };
    let read = case::read(&case, model.package(), model_path)?;
    let work = prepare(arguments, model)?;
    let estimate = case::estimate(&work, &read)?;
    let computed = case::compute(&work, read, &estimate)?;
    let mut done = case::write(&case, computed)?;
    done.seconds.total = started.elapsed().as_secs_f64();
    let outcome = done.outcome(&case, &work);
    if let Some(path) = &arguments.report {
        write_report(path, &outcome).map_err(Failure::of(Exit::Output))?;
    }
    if arguments.quiet { Ok(()) } else { print(&outcome.summary()) }
}

/// Makes the model ready.
fn prepare(arguments: &Segment, model: Arc<Model>) -> Result<Work<'_>, Failure> {
    let clock = Instant::now();
    let memory = memory(arguments);
    let options = SessionOptions {
        device: arguments.device.into(),
        threads: arguments.threads.unwrap_or(0),
        host_budget_bytes: memory,
    };
    let session = Session::new(model, &options).map_err(Failure::of(Exit::Model))?;
    let options = RunOptions {
        step: arguments.step,
        mirror: arguments.mirror,
        scores: arguments.scores.is_some(),
        export: arguments.export.into(),
        raw: arguments.raw,
        ..RunOptions::default()
    };
    let load_seconds = clock.elapsed().as_secs_f64();
    Ok(Work { arguments, session, options, memory, load_seconds })
}

/// What may be used: without a limit, no more than the machine has, so that a header that claims
/// a volume of kilometres is refused before it is tried.
fn memory(arguments: &Segment) -> Option<u64> {
    let machine = || device::devices().first().map(|device| device.memory_total_bytes);
    arguments.memory.or_else(machine).filter(|bytes| *bytes > 0)
}

fn write_report(path: &Path, outcome: &Outcome<'_>) -> voxtile::Result<()> {
    let mut output = OutputFile::create(path)?;
    let text = format!("{:#}\n", outcome.json());
    output.write_all(text.as_bytes()).map_err(|source| Error::io(path, source))?;
    output.finish()
}
