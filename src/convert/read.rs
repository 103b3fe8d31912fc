//! Reads the trainings of a source.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::checkpoint::{self, Checkpoint};
use super::find::{self, Found, Version};
use super::labels::Known;
use super::network::{self, Hints, Tensor};
use super::training::Training;
use super::tree::Tree;
use super::weights::{self, State};
use super::{Options, Progress, go_on, nnunet_v1, nnunet_v2};
use crate::base::mapping::open_file;
use crate::base::{Error, Result};
use crate::model::{Architecture, Blend, Family, Output, Part};
use crate::volume::Generation;

/// Bytes of a JSON document.
const MOST_DOCUMENT: u64 = 64 << 20;
/// Trainings that a message lists.
const MOST_SHOWN: usize = 30;
const V1_CHECKPOINT: &str = "model_final_checkpoint";
const V2_CHECKPOINT: &str = "checkpoint_final";

/// What a source is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    Zip,
    /// A `.model` beside its `.model.pkl`.
    Pair,
    /// Weights alone.
    Bare,
}

impl Kind {
    pub(super) fn of(path: &Path) -> Result<Self> {
        Ok(if path.is_dir() {
            Self::Folder
        } else if pair(path).is_some() {
            Self::Pair
        } else if path.to_string_lossy().ends_with(".zip") && !is_checkpoint(path)? {
            Self::Zip
        } else {
            Self::Bare
        })
    }
}

/// Refuses options that none of the sources heeds.
pub(super) fn heeded(sources: &[Kind], options: &Options) -> Result<()> {
    let has = |kinds: &[Kind]| sources.iter().any(|kind| kinds.contains(kind));
    let trees = has(&[Kind::Folder, Kind::Zip]);
    let bare = has(&[Kind::Bare]);
    for (name, is_given, is_heeded, of) in [
        ("--plans", options.plans.is_some(), bare, "weights alone"),
        ("--dataset", options.dataset.is_some(), bare, "weights alone"),
        ("--configuration", options.configuration.is_some(), bare, "weights alone"),
        ("--select", !options.select.is_empty(), trees, "folders and zips"),
        ("--checkpoint", options.checkpoint.is_some(), trees, "folders and zips"),
        ("--folds", !options.folds.is_empty(), trees || bare, "folders and zips"),
        ("more than one of --folds", options.folds.len() > 1, trees, "folders and zips"),
    ] {
        if is_given && !is_heeded {
            return Err(Error::argument(format!("{name} is for {of}; no source is such")));
        }
    }
    Ok(())
}

/// The training that a source holds, after those that run before it; and what must live as long.
pub(super) fn source(
    path: &Path,
    kind: Kind,
    options: &Options,
    known: &Known,
    progress: &dyn Progress,
) -> Result<(Vec<Training>, Option<Tree>)> {
    go_on(progress)?;
    if kind == Kind::Folder {
        let tree = Tree::folder(path, progress)?;
        return Ok((tree_source(&tree, options, known, progress)?, Some(tree)));
    }
    if let Some(pkl) = pair(path) {
        let document = v1_document(&pkl)?;
        let fold = Fold::open("0", path)?;
        let files = vec![file_of(path), file_of(&pkl)];
        return Ok((
            vec![v1(&document, &pkl.display().to_string(), vec![fold], files, known)?],
            None,
        ));
    }
    if kind == Kind::Zip {
        let tree = Tree::archive(path)?;
        let trainings = tree_source(&tree, options, known, progress);
        return Ok((trainings.map_err(|error| tree.named(error))?, Some(tree)));
    }
    Ok((vec![bare(path, options, known)?], None))
}

/// The `.model.pkl` beside a `.model`.
fn pair(path: &Path) -> Option<std::path::PathBuf> {
    let is_model = path.extension().is_some_and(|ending| ending == "model");
    let pkl = path.with_extension("model.pkl");
    (is_model && pkl.is_file()).then_some(pkl)
}

/// Whether a zip is one of PyTorch's.
fn is_checkpoint(path: &Path) -> Result<bool> {
    let tree = Tree::archive(path)?;
    Ok(tree.files().iter().any(|name| name.ends_with("/data.pkl")))
}

fn tree_source(
    tree: &Tree,
    options: &Options,
    known: &Known,
    progress: &dyn Progress,
) -> Result<Vec<Training>> {
    let stem = options.checkpoint.as_deref();
    let (v1_stem, v2_stem) = (stem.unwrap_or(V1_CHECKPOINT), stem.unwrap_or(V2_CHECKPOINT));
    let mut all = find::trainings(tree, v1_stem, v2_stem);
    if all.is_empty() {
        all = find::pairs(tree, v1_stem);
        all.retain(|pair| stem.is_none_or(|stem| pair.stem == stem));
    }
    if all.is_empty() {
        return Err(Error::format(
            tree.shown(),
            format!(
                "holds no training: no fold_X/{v2_stem}.pth of nnU-Net v2, no fold_X/{v1_stem}.model \
                 of v1, no .model beside its .model.pkl; of a fold's folder of v2, give the folder \
                 around it"
            ),
        ));
    }
    let chosen = choose(tree, &all, options, progress)?;
    let training = folder(tree, chosen, options, known, progress)?;
    let Some(previous) = &training.previous else { return Ok(vec![training]) };
    // The stage before lies beside it: TRAINER__PLANS__CONFIGURATION.
    let (beside, own) = chosen.folder.rsplit_once('/').unwrap_or(("", &chosen.folder));
    let sibling = own.rsplit_once("__").map(|(trained, _)| format!("{trained}__{previous}"));
    let sibling = sibling.map(|name| match beside {
        "" => name,
        _ => format!("{beside}/{name}"),
    });
    let before = all.iter().find(|found| Some(&found.folder) == sibling.as_ref()).ok_or_else(|| {
        Error::argument(format!(
            "{} is a cascade's last stage, and {previous}, which runs before it, is not there; give \
             the folder that holds both",
            tree.shown()
        ))
    })?;
    let before = folder(tree, before, options, known, progress)?;
    Ok(vec![before, training])
}

/// The one training that is meant.
fn choose<'a>(
    tree: &Tree,
    all: &'a [Found],
    options: &Options,
    progress: &dyn Progress,
) -> Result<&'a Found> {
    let names: Vec<String> = all.iter().map(Found::name).collect();
    let asked: Vec<bool> = selected(&names, &options.select);
    let mut chosen: Vec<&Found> =
        all.iter().zip(asked).filter_map(|(found, asked)| asked.then_some(found)).collect();
    // Of a cascade the last stage is meant.
    if let [_, _] = chosen.as_slice() {
        let configuration = |found: &Found| found.folder.rsplit("__").next().map(str::to_owned);
        let previous: Vec<Option<String>> = chosen
            .iter()
            .map(|found| previous_stage(tree, found, progress))
            .collect::<Result<_>>()?;
        let runs_before = |found: &&Found| {
            previous.iter().any(|name| name.is_some() && *name == configuration(found))
        };
        chosen.retain(|found| !runs_before(found));
    }
    match chosen.as_slice() {
        [one] => Ok(one),
        _ => {
            let mut shown = names[..names.len().min(MOST_SHOWN)].join(", ");
            if names.len() > MOST_SHOWN {
                shown += &format!(" and {} more", names.len() - MOST_SHOWN);
            }
            let matching = if chosen.is_empty() { "none of them is" } else { "choose one" };
            Err(Error::argument(format!(
                "{} holds several trainings; {matching} with --select: {}",
                tree.shown(),
                shown
            )))
        }
    }
}

/// Which names are meant by these parts of them; all without any. A name that is, or ends with, a
/// part as a whole comes before those that only contain it.
fn selected(names: &[String], parts: &[String]) -> Vec<bool> {
    let mut all = vec![parts.is_empty(); names.len()];
    for part in parts {
        let whole = part.trim_end_matches('/');
        let ends = |name: &str, mark: &str| {
            name.strip_suffix(whole).is_some_and(|before| before.ends_with(mark))
        };
        let is_whole = |name: &String| name == whole || ends(name, "/");
        let is_configuration = |name: &String| ends(name, "__");
        let contains = |name: &String| name.contains(part.as_str());
        let rules: [&dyn Fn(&String) -> bool; 3] = [&is_whole, &is_configuration, &contains];
        if let Some(rule) = rules.iter().find(|rule| names.iter().any(rule)) {
            for (all, name) in all.iter_mut().zip(names) {
                *all |= rule(name);
            }
        }
    }
    all
}

fn previous_stage(tree: &Tree, found: &Found, progress: &dyn Progress) -> Result<Option<String>> {
    let plans = found.path("plans.json");
    let name = found.folder.rsplit("__").next().unwrap_or_default();
    if found.version == Version::V1 || !tree.files().contains(&plans) {
        return Ok(None);
    }
    let document = json_file(&tree.fetch(&plans, progress)?)?;
    let plans: nnunet_v2::Plans = nnunet_v2::parse(&plans, document)?;
    Ok(plans.configuration(&tree.shown(), name).ok().and_then(|found| found.previous_stage))
}

/// One training of a tree.
fn folder(
    tree: &Tree,
    found: &Found,
    options: &Options,
    known: &Known,
    progress: &dyn Progress,
) -> Result<Training> {
    let mut files = Vec::new();
    let mut folds = Vec::new();
    for (name, folder) in find::folds(tree, found, &options.folds)? {
        go_on(progress)?;
        let checkpoint = found.checkpoint(&folder);
        let path = tree.fetch(&checkpoint, progress)?;
        folds.push(Fold::open(&name, &path)?);
        files.push((checkpoint, path));
    }
    let optional = |name: &str| -> Result<Option<(String, std::path::PathBuf)>> {
        let name = found.path(name);
        match tree.files().contains(&name) {
            true => tree.fetch(&name, progress).map(|path| Some((name, path))),
            false => Ok(None),
        }
    };
    if found.version == Version::V1 {
        let pkl = format!("{}.pkl", files[0].0);
        let path = tree.fetch(&pkl, progress)?;
        let document = v1_document(&path)?;
        files.push((pkl.clone(), path));
        let mut training = v1(&document, &pkl, folds, files, known)?;
        if found.is_pair() {
            return Ok(training);
        }
        if let Some((name, path)) = optional("postprocessing.json")? {
            training.postprocessing = nnunet_v1::postprocessing(&name, json_file(&path)?)?;
            training.files.push((name, path));
        }
        let task = found.folder.split('/').rev().nth(1).unwrap_or_default();
        if !task.is_empty() {
            training.dataset = task.to_owned();
        }
        let configuration = found.folder.split('/').rev().nth(2).unwrap_or_default();
        if !configuration.is_empty() {
            training.configuration = configuration.to_owned();
        }
        return Ok(training);
    }
    let mut documents = [None, None];
    for (document, name) in documents.iter_mut().zip(["plans.json", "dataset.json"]) {
        if let Some((name, path)) = optional(name)? {
            *document = Some((name.clone(), json_file(&path)?));
            files.push((name, path));
        }
    }
    let [plans, dataset] = documents;
    let names: Vec<String> = folds.iter().map(|fold| fold.name.clone()).collect();
    let mut training = v2(folds, plans, dataset, None, files)?;
    if let Some(name) = crossvalidation(tree, found, &names) {
        let path = tree.fetch(&name, progress)?;
        training.postprocessing = nnunet_v2::postprocessing(&name, json_file(&path)?)?;
        training.files.push((name, path));
    }
    Ok(training)
}

/// The post-processing that was found with these folds, or the only one there is.
fn crossvalidation(tree: &Tree, found: &Found, folds: &[String]) -> Option<String> {
    let beginning = found.path("crossval_results_folds_");
    let known: Vec<&String> = tree
        .files()
        .iter()
        .filter(|name| name.starts_with(&beginning) && name.ends_with("/postprocessing.json"))
        .collect();
    let own = format!("{beginning}{}/postprocessing.json", folds.join("_"));
    let name = known.iter().find(|name| ***name == own);
    name.or(if let [only] = known.as_slice() { Some(only) } else { None })
        .map(|name| (*name).clone())
}

/// Weights without a folder around them.
fn bare(path: &Path, options: &Options, known: &Known) -> Result<Training> {
    let shown = path.display().to_string();
    let fold = Fold::open(options.folds.first().map_or("0", String::as_str), path)?;
    let mut files = vec![file_of(path)];
    if let Some(plans) =
        options.plans.as_deref().filter(|p| p.extension().is_some_and(|e| e == "pkl"))
    {
        files.push(file_of(plans));
        let document = v1_document(plans)?;
        return v1(&document, &plans.display().to_string(), vec![fold], files, known);
    }
    let mut documents = [None, None];
    for (document, path) in documents.iter_mut().zip([&options.plans, &options.dataset]) {
        if let Some(path) = path {
            *document = Some((path.display().to_string(), json_file(path)?));
            files.push(file_of(path));
        }
    }
    let [plans, dataset] = documents;
    let says =
        fold.checkpoint.as_ref().is_some_and(|c| c.text(&["init_args", "configuration"]).is_some());
    if !says && (plans.is_none() || dataset.is_none()) {
        return Err(Error::argument(format!(
            "{shown} holds weights alone; add --plans plans.json and --dataset dataset.json of nnU-Net \
             v2, or --plans with the .model.pkl of v1"
        )));
    }
    let configuration =
        (!says).then(|| options.configuration.clone().unwrap_or("3d_fullres".into()));
    v2(vec![fold], plans, dataset, options.configuration.clone().or(configuration), files)
}

/// The weights of a fold, and the checkpoint they are in.
struct Fold {
    name: String,
    origin: String,
    state: State,
    checkpoint: Option<Checkpoint>,
}

impl Fold {
    fn open(name: &str, path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let is_safetensors = path.extension().is_some_and(|ending| ending == "safetensors");
        let (state, checkpoint) = if is_safetensors {
            (weights::safetensors(path)?, None)
        } else {
            let checkpoint = Checkpoint::open(path)?;
            (checkpoint.state()?, Some(checkpoint))
        };
        Ok(Self { name: name.into(), origin, state, checkpoint })
    }
}

/// The architecture that all folds share, their names and tensors.
type Networks = (Architecture, Vec<String>, Vec<Vec<Tensor>>);

fn networks(folds: Vec<Fold>, hints: &Hints) -> Result<Networks> {
    let mut architecture: Option<Architecture> = None;
    let (mut names, mut all) = (Vec::new(), Vec::new());
    for fold in folds {
        let mut tensors = network::tensors(&fold.origin, fold.state)?;
        let own = network::architecture(&fold.origin, &mut tensors, hints)?;
        if architecture.as_ref().is_some_and(|first| *first != own) {
            return Err(Error::format(fold.origin, "has another network than the first fold"));
        }
        architecture = Some(own);
        names.push(fold.name);
        all.push(tensors);
    }
    let architecture = architecture.ok_or_else(|| Error::Internal("no folds".into()))?;
    Ok((architecture, names, all))
}

type Document = Option<(String, Value)>;

fn v2(
    folds: Vec<Fold>,
    plans: Document,
    dataset: Document,
    configuration: Option<String>,
    files: Vec<(String, std::path::PathBuf)>,
) -> Result<Training> {
    let checkpoint = folds[0].checkpoint.as_ref();
    let origin = folds[0].origin.clone();
    let inner = |key: &str| {
        checkpoint.map(|c| c.json(&["init_args", key])).transpose().map(Option::flatten)
    };
    let document = |given: Document, key: &str| -> Result<(String, Value)> {
        if let Some(given) = given {
            return Ok(given);
        }
        let found = inner(key)?;
        let found = found.ok_or_else(|| Error::format(origin.clone(), format!("has no {key}")))?;
        Ok((format!("{origin}, {key}"), found))
    };
    let (plans_origin, plans) = document(plans, "plans")?;
    let (dataset_origin, dataset) = document(dataset, "dataset_json")?;
    let plans: nnunet_v2::Plans = nnunet_v2::parse(&plans_origin, plans)?;
    let dataset: nnunet_v2::Dataset = nnunet_v2::parse(&dataset_origin, dataset)?;
    let said = checkpoint.and_then(|c| c.text(&["init_args", "configuration"])).map(str::to_owned);
    let name = configuration
        .or(said)
        .ok_or_else(|| Error::format(origin.clone(), "names no configuration"))?;
    let chosen = plans.configuration(&plans_origin, &name)?;
    let patch = chosen.patch(&plans_origin)?;
    let axes: Vec<u64> = match checkpoint
        .map(|c| c.json(&["inference_allowed_mirroring_axes"]))
        .transpose()?
        .flatten()
    {
        Some(Value::Array(axes)) => axes.iter().filter_map(Value::as_u64).collect(),
        _ => Vec::new(),
    };
    // Two-dimensional networks count their own axes.
    let shift = 3 - chosen.patch_size.len();
    let mirror_axes = axes.iter().map(|&axis| (axis as usize).saturating_add(shift)).collect();
    let trainer = checkpoint.and_then(|c| c.text(&["trainer_name"])).unwrap_or_default().to_owned();
    let labels = dataset.labels(&dataset_origin)?;
    let (architecture, folds, tensors) = networks(folds, &chosen.hints(&plans_origin)?)?;
    let (spacing, resampling) = chosen.grid(&plans_origin)?;
    let part = Part {
        name: String::new(),
        architecture,
        folds,
        patch,
        spacing,
        axes: plans.axes(&plans_origin)?,
        generation: Generation::V2,
        normalization: plans.normalization(&plans_origin, &chosen)?,
        resampling,
        blend: Blend::Logits,
        mirror_axes,
        output: labels.output,
        previous: None,
    };
    let named = [Some(plans.dataset_name.as_str()), dataset.name()];
    let named =
        named.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or("model").to_owned();
    Ok(Training {
        dataset: named,
        configuration: name,
        trainer,
        part,
        labels: labels.names,
        invented: false,
        postprocessing: Vec::new(),
        previous: chosen.previous_stage,
        folds: tensors,
        files,
    })
}

fn v1_document(path: &Path) -> Result<nnunet_v1::Document> {
    let origin = path.display().to_string();
    let pickle = checkpoint::pickle(path)?;
    let document =
        pickle.json(pickle.root()).map_err(|reason| Error::format(origin.clone(), reason))?;
    if document.get("init").is_none() {
        let reason = "is plans alone or another file; give the .model.pkl beside the .model";
        return Err(Error::format(origin, reason));
    }
    nnunet_v2::parse(&origin, document)
}

fn v1(
    document: &nnunet_v1::Document,
    origin: &str,
    folds: Vec<Fold>,
    files: Vec<(String, std::path::PathBuf)>,
    known: &Known,
) -> Result<Training> {
    document.check(origin)?;
    let (architecture, folds, tensors) = networks(folds, &document.hints(origin)?)?;
    let patch = document.patch(origin)?;
    let (spacing, resampling) = document.grid(origin)?;
    let classes = document.classes();
    let is_stunet = architecture.family == Family::Stunet;
    let (labels, invented) = known.names_of_classes(classes.min(65_535), is_stunet);
    let part = Part {
        name: String::new(),
        architecture,
        folds,
        patch,
        spacing,
        axes: document.axes(),
        generation: Generation::V1,
        normalization: document.normalization(origin)?,
        resampling,
        blend: Blend::Softmax,
        mirror_axes: document.mirror_axes(patch),
        output: Output::Classes(labels.iter().map(|(value, _)| *value).collect()),
        previous: None,
    };
    Ok(Training {
        dataset: document.name.clone(),
        configuration: "main".into(),
        trainer: document.name.clone(),
        part,
        labels,
        invented,
        postprocessing: Vec::new(),
        previous: None,
        folds: tensors,
        files,
    })
}

/// A JSON document.
fn json_file(path: &Path) -> Result<Value> {
    let file = open_file(path, "a JSON document")?;
    let mut bytes = Vec::new();
    file.take(MOST_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::io(path, source))?;
    let wrong = |reason: String| Error::format(path.display().to_string(), reason);
    if bytes.len() as u64 > MOST_DOCUMENT {
        return Err(wrong(format!("is longer than {MOST_DOCUMENT} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| wrong(format!("is no JSON: {error}")))
}

fn file_of(path: &Path) -> (String, std::path::PathBuf) {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    (name.unwrap_or_default(), path.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn whole_names_are_selected_before_those_that_contain_them() {
        let names = ["A/T__P__3d_fullres", "A/T__P__3d_fullres_high", "B/T__P__2d"];
        let names = names.map(str::to_owned);
        let selected = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            super::selected(&names, &parts)
        };
        assert_eq!(selected(&[]), [true, true, true]);
        assert_eq!(selected(&["A/T__P__3d_fullres"]), [true, false, false]);
        assert_eq!(selected(&["T__P__3d_fullres/"]), [true, false, false]);
        assert_eq!(selected(&["3d_fullres"]), [true, false, false]);
        assert_eq!(selected(&["3d_fullres_"]), [false, true, false]);
        assert_eq!(selected(&["A/"]), [true, true, false]);
        assert_eq!(selected(&["2d", "3d_fullres_high"]), [false, true, true]);
        assert_eq!(selected(&["none"]), [false, false, false]);
    }
}
