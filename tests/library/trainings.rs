//! Results folders of nnU-Net v2 and v1, converted and run: the preprocessed image, the blended
//! scores and the labels are nnU-Net's. `tests/reference/make_trainings.py` and
//! `make_trainings_v1.py` made the fixtures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::recorder::Recorder;
use half::f16;
use safetensors::SafeTensors;
use serde::Deserialize;
use voxtile::convert::{Options, convert};
use voxtile::formats;
use voxtile::session::{Export, LabelMap, Segmentation};
use voxtile::{Model, RunOptions, Session, SessionOptions};

const V2: [&str; 21] = [
    "batch_norm",
    "cascade",
    "fold_all",
    "inherits_from",
    "mirrored",
    "no_mirroring",
    "no_resampling",
    "plain",
    "plain_old_plans",
    "postprocessed",
    "regions",
    "resenc",
    "resenc_relu",
    "separate_z",
    "stunet_v2",
    "torchres",
    "torchres_separate_z",
    "transposed",
    "two_channels",
    "two_d",
    "two_folds",
];
const V1: [&str; 4] = ["stunet", "stunet_mirrored", "generic_unet", "generic_unet_fast"];

/// What a fixture says of itself.
#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    trainings: Vec<String>,
    #[serde(default)]
    training: String,
    folds: Option<Vec<String>>,
    mirror: bool,
}

fn folder(version: &str, case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version).join(case)
}

fn values(file: &SafeTensors, name: &str) -> Option<Vec<f32>> {
    file.tensor(name).ok().map(|_| crate::cases::floats(file, name).1)
}

/// Relative, as a norm; `expected` may be in half precision.
fn relative(found: &[f32], expected: &[f32], half: bool) -> f64 {
    assert_eq!(found.len(), expected.len());
    let (mut error, mut norm) = (0.0, 0.0);
    for (found, expected) in found.iter().zip(expected) {
        let found = if half { f16::from_f32(*found).to_f32() } else { *found };
        error += f64::from(found - expected).powi(2);
        norm += f64::from(*expected).powi(2);
    }
    (error / norm).sqrt()
}

/// Labels that differ.
fn differing(found: &Segmentation, expected: &[u8]) -> usize {
    let LabelMap::U8(found) = &found.labels else { panic!("labels fit a byte") };
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).filter(|(a, b)| a != b).count()
}

fn run(version: &str, name: &str) {
    let folder = folder(version, name);
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let case: Case = serde_json::from_str(&header.metadata().as_ref().unwrap()["case"]).unwrap();
    let source = match case.trainings.as_slice() {
        [] => folder.join(&case.training),
        [one] => folder.join(one),
        // A cascade: the dataset's folder, which holds both stages.
        [first, ..] => folder.join(first).parent().unwrap().to_owned(),
    };
    let work = tempfile::tempdir().unwrap();
    let package = work.path().join("model.safetensors");
    let folds = case.folds.unwrap_or_default();
    let folds = folds.iter().map(|fold| fold.trim_start_matches("fold_").to_owned()).collect();
    let options = Options { folds, ..Options::default() };
    convert(&[source], &package, &options, &mut ()).unwrap();

    let model = Model::open(&package).unwrap();
    let images = (0..model.package().channels())
        .map(|channel| folder.join(format!("image_{channel:04}.nii.gz")))
        .collect::<Vec<_>>();
    let image = formats::read_channels(&images).unwrap();
    let session = Session::new(Arc::new(model), &SessionOptions::default()).unwrap();
    let plain = RunOptions { mirror: case.mirror, ..RunOptions::default() };
    let options = RunOptions { scores: true, preprocessed: true, ..plain.clone() };
    let mut seen = Recorder::default();
    let found = session.run(&image.view(), &options, &mut seen).unwrap();

    let mut text = name.to_owned();
    if let Some(expected) = values(&file, "pre") {
        let error = relative(&seen.preprocessed, &expected, false);
        text += &format!(": image within {error:.1e}");
        assert!(error < 1e-5, "{name}: the preprocessed image differs by {error:e}");
    }
    for scores in ["logits", "probabilities"] {
        if let Some(expected) = values(&file, scores) {
            let error = relative(&seen.scores, &expected, true);
            text += &format!(", {scores} within {error:.1e}");
            // Half precision alone accounts for up to 3e-4.
            assert!(error < 3e-4, "{name}: the blended scores differ by {error:e}");
        }
    }
    let tensor = |name: &str| file.tensor(name).ok().map(|tensor| tensor.data());
    let expected = tensor("labels_single").or(tensor("labels")).unwrap();
    let differ = differing(&found, expected);
    println!("{text}, {differ} of {} labels differ", expected.len());
    assert!(differ * 10_000 <= expected.len(), "{name}: {differ} labels differ");
    // Without scores a run may go along another axis.
    let found_plainly = session.run(&image.view(), &plain, &mut Recorder::default()).unwrap();
    let differ = differing(&found_plainly, expected);
    assert!(differ * 10_000 <= expected.len(), "{name}: {differ} labels differ");
    for (name, export) in [("fast", Export::Labels), ("fastest", Export::NearestLabels)] {
        if let Some(expected) = tensor(name) {
            let options = RunOptions { export, ..options.clone() };
            let fast = session.run(&image.view(), &options, &mut Recorder::default()).unwrap();
            let differ = differing(&fast, expected);
            println!("  {name}: {differ} of {} labels differ", expected.len());
            assert!(differ * 10_000 <= expected.len(), "{name}: {differ} labels differ");
            assert!(differing(&found, expected) > 0, "the modes are the same here");
        }
    }
    if let Some(expected) = tensor("raw_single").or(tensor("raw")) {
        let options = RunOptions { raw: true, ..options };
        let raw = session.run(&image.view(), &options, &mut Recorder::default()).unwrap();
        let differ = differing(&raw, expected);
        assert!(differ * 10_000 <= expected.len(), "{name}: {differ} raw labels differ");
    }
}

#[test]
fn nnu_net_v2_trainings_give_nnu_net_s_labels() {
    V2.iter().for_each(|name| run("trainings", name));
}

#[test]
fn nnu_net_v1_trainings_give_nnu_net_s_labels() {
    V1.iter().for_each(|name| run("trainings_v1", name));
}
