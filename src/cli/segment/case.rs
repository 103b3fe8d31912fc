//! One case: its image is read, segmented, and its label map written.

use std::path::{Path, PathBuf};
use std::time::Instant;

use voxtile::formats::nifti::{self, Labels};
use voxtile::formats::{Image, OutputFile};
use voxtile::model::{Blend, Package};
use voxtile::session::{Estimate, LabelMap, Report, Segmentation};
use voxtile::{Error, RunOptions, Session};

use crate::cli::arguments::Segment;
use crate::cli::failure::{Exit, Failure};
use crate::cli::observer::Follower;
use crate::cli::report::{Found, Outcome, Seconds, bytes_text, count};
use crate::cli::system;

/// What is the same for every case.
pub struct Work<'a> {
    pub arguments: &'a Segment,
    pub session: Session,
    pub options: RunOptions,
    /// Bytes that session and images may take together.
    pub memory: Option<u64>,
    pub load_seconds: f64,
}

impl Work<'_> {
    fn package(&self) -> &Package {
        self.session.model().package()
    }
}

/// What is to be done.
pub struct Case {
    /// The files of its channels.
    pub inputs: Vec<PathBuf>,
    /// Its label map.
    pub output: PathBuf,
}

/// A case's image.
pub struct Read {
    image: Image,
    seconds: f64,
}

impl Read {
    /// Bytes of memory; mapped voxels take none.
    fn bytes(&self) -> u64 {
        self.image.bytes.held() as u64
    }
}

/// A label map that is to be written, and how it came to be.
pub struct Computed<'a> {
    labels: LabelMap,
    follower: Follower<'a>,
    done: Done,
}

/// How a case went.
pub struct Done {
    image: Image,
    report: Report,
    found: Vec<Found>,
    pub seconds: Seconds,
    estimated_bytes: u64,
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
            device: work.session.device(),
            threads: work.session.threads(),
            report: &self.report,
            found: &self.found,
            seconds: self.seconds,
            estimated_bytes: self.estimated_bytes,
            peak_bytes: system::peak_memory_bytes(),
        }
    }
}

/// Reads a case's image.
pub fn read(case: &Case, package: &Package, model: &Path) -> Result<Read, Failure> {
    let clock = Instant::now();
    let image = nifti::read_channels(&case.inputs).map_err(Failure::of(Exit::Input))?;
    check_channels(&image, package, model)?;
    Ok(Read { image, seconds: clock.elapsed().as_secs_f64() })
}

/// What segmenting it takes at most.
pub fn estimate(work: &Work, read: &Read) -> Result<Estimate, Failure> {
    let view = read.image.view();
    let estimate = work.session.estimate(&view, &work.options);
    estimate.map_err(Failure::of(Exit::Input))
}

/// Refuses what takes more than the user allows; the limit is for images too.
fn obey(work: &Work, estimate: &Estimate, image_bytes: u64) -> Result<u64, Failure> {
    let needed_bytes = estimate.host_bytes.saturating_add(image_bytes);
    match work.memory {
        Some(available_bytes) if needed_bytes > available_bytes => {
            Err(Failure::of(Exit::Input)(Error::Memory {
                what: "segmenting this volume, the image included,".into(),
                needed_bytes,
                available_bytes,
            }))
        }
        _ => Ok(needed_bytes),
    }
}

/// Segments it.
pub fn compute<'a>(
    work: &Work<'a>,
    read: Read,
    estimate: &Estimate,
) -> Result<Computed<'a>, Failure> {
    let image_bytes = read.bytes();
    let estimated_bytes = obey(work, estimate, image_bytes)?;
    let Work { arguments, session, .. } = work;
    let Read { image, seconds } = read;
    let package = work.package();
    let unit = if estimate.passes == estimate.tiles { "tiles" } else { "network passes" };
    let mut follower = Follower::new(arguments.quiet, unit);
    follower.part = package.parts.len() - 1;
    follower.preprocessed = arguments.preprocessed.as_deref();
    follower.scores = arguments.scores.as_deref().map(|path| (path, scores_name(package)));
    for warning in &image.warnings {
        follower.warn(warning);
    }
    follower.say(&format!(
        "{} on {} ({}), {} threads; at most {} tiles and {}",
        package.name,
        session.device().kind,
        session.device().name,
        session.threads(),
        estimate.tiles,
        bytes_text(estimated_bytes)
    ));

    let result = session.run(&image.view(), &work.options, &mut follower);
    follower.clear();
    let segmentation = match result {
        Ok(segmentation) if !system::cancelled() => segmentation,
        Ok(_) => return Err(Failure::of(Exit::Cancelled)(Error::Cancelled)),
        Err(error) if follower.output_failed => return Err(Failure::of(Exit::Output)(error)),
        // The image was read before; what is wrong now is the model.
        Err(error @ Error::Format { .. }) => return Err(Failure::of(Exit::Model)(error)),
        Err(error) => return Err(Failure::of(Exit::Input)(error)),
    };
    let Segmentation { labels, report, .. } = segmentation;
    let found = count(&labels, package, image.geometry.spacing);
    let seconds = Seconds { read: seconds, load: work.load_seconds, ..Seconds::default() };
    let done = Done { image, report, found, seconds, estimated_bytes };
    Ok(Computed { labels, follower, done })
}

/// Writes its label map, and makes what was written on the way appear.
pub fn write(case: &Case, computed: Computed) -> Result<Done, Failure> {
    let clock = Instant::now();
    let Computed { labels, follower, mut done } = computed;
    let labels = match &labels {
        LabelMap::U8(labels) => Labels::U8(labels),
        LabelMap::U16(labels) => Labels::U16(labels),
    };
    OutputFile::create(&case.output)
        .and_then(|output| {
            nifti::write_labels(output, labels, done.image.dims, &done.image.geometry)
        })
        .and_then(|()| follower.finish())
        .map_err(Failure::of(Exit::Output))?;
    done.seconds.write = clock.elapsed().as_secs_f64();
    Ok(done)
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

/// The name of the scores' tensor, which are the last part's.
fn scores_name(package: &Package) -> &'static str {
    match package.parts[package.parts.len() - 1].blend {
        Blend::Logits => "logits",
        Blend::Softmax => "probabilities",
    }
}
