//! One case: its image is read, segmented, and its label map written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use voxtile::base::Pool;
use voxtile::base::mapping::Bytes;
use voxtile::convert::terminology;
use voxtile::device::MemoryPart;
use voxtile::formats::{self, Image, Labels, OutputFile, nrrd};
use voxtile::model::{Blend, Package};
use voxtile::session::{self, Estimate, LabelMap, Region, Report, Segmentation};
use voxtile::{Error, Model, RunOptions, Session};

use crate::cli::arguments::Segment;
use crate::cli::console::Console;
use crate::cli::failure::{Exit, Failure};
use crate::cli::observer::Follower;
use crate::cli::probabilities::Probabilities;
use crate::cli::report::{Found, Outcome, Seconds, by_label, bytes_text, device_text};
use crate::cli::run_options::{self, obey};
use crate::cli::{mask, system};

/// What is the same for every case.
pub struct Work<'a> {
    pub arguments: &'a Segment,
    pub console: &'a Console,
    pub session: Session,
    pub options: RunOptions,
    /// Bytes that session and images may take together.
    pub memory: Option<u64>,
    pub load_seconds: f64,
}

impl Work<'_> {
    pub fn package(&self) -> &Package {
        self.session.model().package()
    }

    /// Whether so many bytes may be used.
    pub fn allows(&self, bytes: u64) -> bool {
        self.memory.is_none_or(|memory| bytes <= memory)
    }
}

/// What is to be done.
#[derive(Debug)]
pub struct Case {
    /// What it is called, without channel and ending.
    pub name: String,
    /// From 1 on, and how many there are.
    pub number: usize,
    pub of: usize,
    /// The files of its channels.
    pub inputs: Vec<PathBuf>,
    /// Its label map.
    pub output: PathBuf,
    /// Why its files can't be the channels of one case.
    pub problem: Option<String>,
}

impl Case {
    /// Tells that it is begun.
    pub fn announce(&self, console: &Console) {
        console.event(&json!({
            "event": "case",
            "case": self.name,
            "number": self.number,
            "of": self.of,
            "inputs": self.inputs,
            "output": self.output,
        }));
    }

    /// Tells programs that it is done, and that its label map is there.
    pub fn tell_done(&self, console: &Console, seconds: f64) {
        console.event(&json!({
            "event": "done",
            "case": self.name,
            "output": self.output,
            "seconds": seconds,
        }));
    }

    /// Tells programs why it is not done.
    pub fn tell_failed(&self, console: &Console, failure: &Failure) {
        console.event(&json!({
            "event": "failed",
            "case": self.name,
            "error": failure.message,
            "exit": failure.exit as u8,
        }));
    }
}

/// A case's image, and where it is to be segmented if a mask says so.
pub struct Read {
    image: Image,
    mask: Option<Arc<[u8]>>,
    seconds: f64,
}

impl Read {
    /// Bytes of memory; mapped voxels take none.
    pub fn bytes(&self) -> u64 {
        let mask = self.mask.as_ref().map_or(0, |mask| mask.len());
        self.image.bytes.held() as u64 + mask as u64
    }
}

/// A label map that is to be written, and how it came to be.
pub struct Computed<'a> {
    labels: LabelMap,
    follower: Follower<'a>,
    done: Done,
    /// For statistics and compression.
    pool: Pool,
}

impl Computed<'_> {
    /// Bytes of memory, and what writing takes.
    pub fn bytes(&self) -> u64 {
        /// What a thread compresses, and what it becomes.
        const WRITING_BYTES: u64 = 2 << 20;
        self.labels.bytes() + self.pool.threads() as u64 * WRITING_BYTES
    }
}

/// How a case went.
pub struct Done {
    /// Without its voxels.
    image: Image,
    report: Report,
    found: Vec<Found>,
    pub seconds: Seconds,
    estimated_bytes: u64,
    mapped_bytes: u64,
    memory: Vec<MemoryPart>,
}

impl Done {
    /// What is to be told of it.
    pub fn outcome<'a>(&'a self, case: &'a Case, work: &'a Work) -> Outcome<'a> {
        Outcome {
            arguments: work.arguments,
            inputs: &case.inputs,
            output: &case.output,
            package: work.package(),
            image: &self.image,
            device: work.session.chosen_device(),
            threads: work.session.threads(),
            report: &self.report,
            found: &self.found,
            seconds: self.seconds,
            estimated_bytes: self.estimated_bytes,
            mapped_bytes: self.mapped_bytes,
            memory: &self.memory,
            peak_bytes: system::peak_memory_bytes(),
        }
    }
}

/// Reads a case's image, and the mask of its region if there is one.
pub fn read(
    case: &Case,
    package: &Package,
    model: &Path,
    mask: Option<&Path>,
) -> Result<Read, Failure> {
    if let Some(problem) = &case.problem {
        return Err(Failure::new(Exit::Input, problem));
    }
    let clock = Instant::now();
    let image = formats::read_channels(&case.inputs).map_err(Failure::of(Exit::Input))?;
    check_channels(image.channels, package, model)?;
    let read = |path| mask::read(path, image.dims, &image.geometry, &case.inputs[0]);
    let mask = mask.map(read).transpose()?;
    Ok(Read { image, mask, seconds: clock.elapsed().as_secs_f64() })
}

/// What segmenting it takes at most, while `beside_bytes` are held for other cases.
pub fn estimate(work: &Work, read: &Read, beside_bytes: u64) -> Result<Estimate, Failure> {
    let options = options(work, read, beside_bytes);
    let estimate = work.session.estimate(&read.image.view(), &options);
    estimate.map_err(Failure::of(Exit::Input))
}

fn options(work: &Work, read: &Read, beside_bytes: u64) -> RunOptions {
    own_options(&work.options, read, beside_bytes)
}

/// What the run of a case is asked to do.
fn own_options(options: &RunOptions, read: &Read, beside_bytes: u64) -> RunOptions {
    let own = read.bytes().saturating_add(run_options::writing_bytes(options));
    let mut options = options.clone();
    options.taken_bytes = own.saturating_add(beside_bytes);
    if let Some(mask) = &read.mask {
        options.region = Some(Region::Mask(Arc::clone(mask)));
    }
    options
}

/// Refuses a case that takes more than the user allows, before the model is made ready.
pub fn check_memory(
    arguments: &Segment,
    model: &Model,
    options: &RunOptions,
    read: &Read,
) -> Result<(), Failure> {
    let session = run_options::session_options(&arguments.run);
    let options = own_options(options, read, 0);
    let estimate = session::estimate(model, &session, &read.image.view(), &options);
    let least = estimate.map_err(Failure::of(Exit::Input))?.0.least_host_bytes;
    obey(session.host_budget_bytes, least.saturating_add(options.taken_bytes))
}

/// Segments it, while `beside_bytes` are held for other cases.
pub fn compute<'a>(
    work: &'a Work,
    case: &'a Case,
    read: Read,
    beside_bytes: u64,
) -> Result<Computed<'a>, Failure> {
    let clock = Instant::now();
    let options = options(work, &read, beside_bytes);
    let estimate = estimate(work, &read, beside_bytes)?;
    obey(work.memory, estimate.least_host_bytes.saturating_add(options.taken_bytes))?;
    let estimated_bytes = estimate.host_bytes.saturating_add(options.taken_bytes);
    let Work { arguments, console, session, .. } = work;
    let further_parts = [
        ("image", read.image.bytes.held() as u64),
        ("mask of the region", read.mask.as_ref().map_or(0, |mask| mask.len()) as u64),
        ("probabilities to be written", run_options::writing_bytes(&options)),
        ("other cases", beside_bytes),
    ];
    let memory = run_options::memory_parts(&estimate, &further_parts);
    let Read { mut image, mask, seconds } = read;
    drop(mask); // the options have it
    let package = work.package();
    let run = estimate.tiles - estimate.skipped_tiles;
    let unit = if estimate.passes == run { "tiles" } else { "network passes" };
    let mut follower = Follower::new(console, &case.name, unit);
    follower.part = package.parts.len() - 1;
    follower.preprocessed = arguments.preprocessed.as_deref();
    follower.scores = arguments.scores.as_deref().map(|path| (path, scores_name(package)));
    follower.probabilities = Probabilities::of(&arguments.run, package, &options, &image.geometry);
    for warning in &image.warnings {
        console.warn(&case.name, warning);
    }
    console.say(&format!(
        "{} on {}, {} threads; at most {} tiles and {}{}",
        package.name,
        device_text(session.chosen_device()),
        session.threads(),
        run,
        bytes_text(estimated_bytes),
        match estimate.device_bytes {
            0 => String::new(),
            bytes => format!(", and {} of the GPU", bytes_text(bytes)),
        }
    ));

    let result = session.run(&image.view(), &options, &mut follower);
    follower.clear();
    let segmentation = match result {
        Ok(segmentation) if !system::cancelled() => segmentation,
        Ok(_) => return Err(Failure::of(Exit::Cancelled)(Error::Cancelled)),
        Err(error) if follower.output_failed => return Err(Failure::of(Exit::Output)(error)),
        // The image was read before; what is wrong now is the model.
        Err(error @ Error::Format { .. }) => return Err(Failure::of(Exit::Model)(error)),
        Err(error) => return Err(Failure::of(Exit::Input)(error)),
    };
    let pool = Pool::new(session.threads()).map_err(Failure::of(Exit::Other))?;
    let statistics = segmentation.statistics(&image.view(), &pool);
    let found = by_label(&statistics.map_err(Failure::of(Exit::Other))?, &package.labels);
    let Segmentation { labels, report, .. } = segmentation;
    let mapped_bytes = (image.bytes.len() - image.bytes.held()) as u64;
    image.bytes = Bytes::default(); // what is told of it needs no voxels
    let total = seconds + clock.elapsed().as_secs_f64();
    let seconds = Seconds { read: seconds, load: work.load_seconds, write: 0.0, total };
    let done = Done { image, report, found, seconds, estimated_bytes, mapped_bytes, memory };
    Ok(Computed { labels, follower, pool, done })
}

/// Writes its label map, and makes what was written on the way appear.
pub fn write(case: &Case, computed: Computed) -> Result<Done, Failure> {
    let clock = Instant::now();
    let Computed { labels, follower, pool, mut done } = computed;
    let labels = match &labels {
        LabelMap::U8(labels) => Labels::U8(labels),
        LabelMap::U16(labels) => Labels::U16(labels),
    };
    OutputFile::create(&case.output)
        .and_then(|output| {
            let Image { dims, geometry, .. } = &done.image;
            let segments = segments(&done.found);
            formats::write_labels(output, labels, *dims, geometry, &segments, &pool)
        })
        .and_then(|()| follower.finish())
        .map_err(Failure::of(Exit::Output))?;
    done.seconds.write = clock.elapsed().as_secs_f64();
    done.seconds.total += done.seconds.write;
    Ok(done)
}

/// What there is to be told of the labels that were found.
fn segments(found: &[Found]) -> Vec<nrrd::Segment> {
    let present = found.iter().filter(|found| found.is_present());
    let segment = |Found { label, .. }: &Found| nrrd::Segment {
        value: label.value,
        layer: 0,
        name: label.name.clone(),
        color: label.color,
        terminology: label.code.as_deref().and_then(|code| terminology(&label.name, code)),
    };
    present.map(segment).collect()
}

/// Refuses a number of channels that the model does not take.
pub fn check_channels(found: usize, package: &Package, model: &Path) -> Result<(), Failure> {
    let expected = package.channels();
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

/// The name of the scores' tensor, which are the last part's.
fn scores_name(package: &Package) -> &'static str {
    match package.parts[package.parts.len() - 1].blend {
        Blend::Logits => "logits",
        Blend::Softmax => "probabilities",
    }
}
