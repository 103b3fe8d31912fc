//! Checkpoints of STU-Net and nnU-Net become model packages, without Python and without running a
//! pickle.

#![forbid(unsafe_code)]

mod checkpoint;
mod find;
mod labels;
mod network;
mod nnunet_v1;
mod nnunet_v2;
mod package;
mod pickle;
mod read;
mod terminology;
mod training;
mod tree;
mod weights;
mod write;

use std::path::{Path, PathBuf};

pub use self::terminology::terminology;

use self::labels::Known;
use self::training::Training;
use crate::base::{Element, Error, Result};
use crate::formats::OutputFile;
use crate::model::{Blend, OrientationName, Package};

/// How to convert. The default is what nnU-Net's own prediction would do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names of the folds; empty means all that are numbered, or `all`.
    pub folds: Vec<String>,
    /// Parts of the paths of the trainings that are meant, where a source holds several.
    pub select: Vec<String>,
    /// The checkpoint's name without its ending; `None` is `checkpoint_final` of v2 and
    /// `model_final_checkpoint` of v1.
    pub checkpoint: Option<String>,
    /// nnU-Net v2's `plans.json`, or v1's `.model.pkl`, of a source that is bare weights.
    pub plans: Option<PathBuf>,
    /// `dataset.json` of a source that is bare weights.
    pub dataset: Option<PathBuf>,
    /// The configuration, of a source whose weights don't say; `None` is `3d_fullres`.
    pub configuration: Option<String>,
    /// Type of the stored weights: `F32` (also if `None`), `F16` or `Bf16`.
    pub element: Option<Element>,
    /// JSON with the labels' names, colours and codes.
    pub labels: Option<PathBuf>,
    /// What is averaged where tiles overlap; `None` is as the nnU-Net of the checkpoint.
    pub blend: Option<Blend>,
    /// The order of voxels that the network was trained on; `None` is what the plans say.
    pub orientation: Option<OrientationName>,
    /// The model's name; `None` is the dataset's.
    pub name: Option<String>,
    /// One sentence for people.
    pub description: String,
    /// SPDX identifier of the weights' licence; `None` is `NOASSERTION`.
    pub license: Option<String>,
}

/// Follows a conversion.
pub trait Progress {
    /// `done` of `total` bytes of weights are written.
    ///
    /// # Errors
    /// [`Error::Cancelled`] to stop; there is no output then.
    fn written(&mut self, done: u64, total: u64) -> Result<()>;

    /// Whether to stop; asked while sources are found, unpacked and read.
    fn cancelled(&self) -> bool {
        false
    }
}

fn go_on(progress: &dyn Progress) -> Result<()> {
    if progress.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

impl Progress for () {
    fn written(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Converts what lies at `sources` into one package at `output`, and returns its document. A
/// source is a results folder of nnU-Net v1 or v2, a zip of one, a `.model` beside its
/// `.model.pkl`, or a `.pth` or `.safetensors` with [`Options::plans`]. Several sources become the
/// parts of one model, whose label values follow each other.
///
/// Weights are read and written a piece at a time. The same sources give the same bytes.
///
/// # Errors
/// [`Error::Argument`] if a source holds several trainings and `select` names none of them;
/// [`Error::Io`]; [`Error::Format`] if something is damaged, or holds more than plain data;
/// [`Error::Unsupported`] for networks that voxtile does not run. There is no output then.
pub fn convert(
    sources: &[PathBuf],
    output: &Path,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Package> {
    if sources.is_empty() {
        return Err(Error::argument("there is no source to convert"));
    }
    let beside = [&options.plans, &options.dataset, &options.labels];
    not_a_source(output, sources.iter().chain(beside.into_iter().flatten()))?;
    let output = OutputFile::create(output)?;
    let known = Known::read(options.labels.as_deref())?;
    let mut groups: Vec<Vec<Training>> = Vec::new();
    // What was unpacked from zips lives as long as the weights are read.
    let mut trees = Vec::new();
    let kinds = sources.iter().map(|source| read::Kind::of(source));
    let kinds = kinds.collect::<Result<Vec<_>>>()?;
    read::heeded(&kinds, options)?;
    for (source, kind) in sources.iter().zip(kinds) {
        let (trainings, tree) = read::source(source, kind, options, &known, progress)?;
        groups.push(trainings);
        trees.extend(tree);
    }
    let read = groups.iter().flatten().flat_map(|training| &training.files);
    not_a_source(output.path(), read.map(|(_, path)| path))?;
    let (package, tensors) = package::assemble(groups, options, &known, progress)?;
    let element = options.element.unwrap_or(Element::F32);
    if !matches!(element, Element::F32 | Element::F16 | Element::Bf16) {
        return Err(Error::argument(format!("weights can't be stored as {element:?}")));
    }
    let named = |error| trees.iter().fold(error, |error, tree: &tree::Tree| tree.named(error));
    write::package(output, &package, tensors, element, progress).map_err(named)?;
    Ok(package)
}

/// Refuses an output whose renaming would destroy what it was made of.
fn not_a_source<'a>(output: &Path, mut sources: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    let Ok(found) = output.canonicalize() else { return Ok(()) };
    match sources.any(|source| source.canonicalize().is_ok_and(|source| source == found)) {
        true => Err(Error::argument(format!(
            "output {} is one of the sources; name another file",
            output.display()
        ))),
        false => Ok(()),
    }
}

/// What fuzzing reaches: anything may come back but a crash.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    use std::path::Path;

    /// Reads a pickle and makes JSON of it.
    pub fn pickle(mut bytes: &[u8]) {
        if let Ok(pickle) = super::pickle::Machine::run(&mut bytes) {
            let _ = pickle.json(pickle.root());
        }
    }

    /// Reads a checkpoint and its tensors.
    pub fn checkpoint(path: &Path) {
        let Ok(checkpoint) = super::checkpoint::Checkpoint::open(path) else { return };
        let Ok(state) = checkpoint.state() else { return };
        for tensor in state.values() {
            let _ = tensor.pieces(|_, _| Ok(()));
        }
    }

    /// Lists a zip and unpacks what is in it.
    pub fn archive(path: &Path) {
        let Ok(tree) = super::tree::Tree::archive(path) else { return };
        for name in tree.files().iter().take(8) {
            let _ = tree.fetch(name, &());
        }
    }
}
