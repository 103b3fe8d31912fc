//! The program, run on small seeded models: what it writes and says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use crate::common::SeededModel;
use crate::recorder::Recorder;
use safetensors::SafeTensors;
use serde_json::Value;
use voxtile::base::Pool;
use voxtile::formats::{self, Image, nifti};
use voxtile::session::{Cleanup, LabelMap, statistics};
use voxtile::{Geometry, Model, RunOptions, Session, SessionOptions};

/// A folder with a model package and images of noise, and the program to run in it.
struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new(model: &SeededModel) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), model.bytes()).unwrap();
        let case = Self { folder };
        case.image("ct.nii.gz", 1);
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an image of noise at a slant.
    fn image(&self, name: &str, seed: u64) {
        let dims = [22, 20, 18];
        let (sine, cosine) = (0.6, 0.8);
        let geometry = Geometry {
            spacing: [1.5, 1.5, 2.0],
            origin: [-30.5, 12.25, 700.0],
            direction: [[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]],
        };
        crate::write_noise(&self.path(name), dims, &geometry, seed);
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_voxtile"))
            .current_dir(self.folder.path())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs the program and expects success; its standard output and error.
    fn succeed(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(0), "{out}{err}");
        (out, err)
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const SEGMENT: [&str; 6] =
    ["segment", "ct.nii.gz", "-m", "model.safetensors", "-o", "labels.nii.gz"];

fn with<'a>(further: &[&'a str]) -> Vec<&'a str> {
    SEGMENT.iter().chain(further).copied().collect()
}

fn model() -> SeededModel {
    SeededModel::small([16, 16, 16], 5)
}

/// What the library makes of the same files, and its labels.
fn expected(model: &Path, image: &Image, options: &RunOptions) -> (Recorder, Vec<u8>) {
    let model = Arc::new(Model::open(model).unwrap());
    let session = Session::new(model, &SessionOptions::default()).unwrap();
    let mut seen = Recorder::default();
    let options = RunOptions { scores: true, ..options.clone() };
    let segmentation = session.run(&image.view(), &options, &mut seen).unwrap();
    let LabelMap::U8(labels) = segmentation.labels else { panic!("five classes fit a byte") };
    (seen, labels)
}

fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    (tensor.shape().to_vec(), bytemuck::pod_collect_to_vec(tensor.data()))
}

#[test]
fn every_output_is_what_the_library_computes() {
    let case = Case::new(&model());
    let (out, err) = case.succeed(&with(&[
        "--scores",
        "scores.safetensors",
        "--preprocessed",
        "pre.safetensors",
        "--report",
        "report.json",
    ]));
    let names = [
        "ct.nii.gz",
        "labels.nii.gz",
        "model.safetensors",
        "pre.safetensors",
        "report.json",
        "scores.safetensors",
    ];
    assert_eq!(case.files(), names);

    let image = nifti::read(&case.path("ct.nii.gz")).unwrap();
    let (seen, expected) = expected(
        &case.path("model.safetensors"),
        &image,
        &RunOptions { scores: true, preprocessed: true, ..Default::default() },
    );
    let labels = nifti::read(&case.path("labels.nii.gz")).unwrap();
    assert_eq!(labels.bytes, expected);
    assert_eq!((labels.dims, labels.geometry), (image.dims, image.geometry));
    let [a0, a1, a2] = seen.shape;
    let pre = tensor(&case.path("pre.safetensors"), "pre");
    assert_eq!(pre, (vec![1, a0, a1, a2], seen.preprocessed));
    let scores = tensor(&case.path("scores.safetensors"), "logits");
    assert_eq!(scores.0, [5, a0, a1, a2]);
    assert!(scores.1 == seen.scores, "scores differ");

    let text = std::fs::read_to_string(case.path("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["model"]["name"], "seeded");
    assert_eq!(report["inputs"][0], "ct.nii.gz");
    assert_eq!(report["image"]["dims"], serde_json::json!([22, 20, 18]));
    assert_eq!(report["options"]["step"], 0.5);
    assert_eq!(report["device"]["kind"], "cpu");
    assert_eq!(report["run"]["network_shape"], serde_json::json!(seen.shape));
    assert!(report["seconds"]["total"].as_f64().unwrap() > 0.0);
    if cfg!(target_os = "linux") {
        assert!(report["memory"]["peak_bytes"].as_u64().unwrap() > 1 << 20);
    }
    assert_eq!(report["memory"]["mapped_bytes"], 0);
    let found = report["labels"].as_array().unwrap();
    assert_eq!(found.len(), 4, "every label but the background");
    for entry in found {
        let value = entry["value"].as_u64().unwrap() as u8;
        let voxels = expected.iter().filter(|label| **label == value).count();
        assert_eq!(entry["voxels"], voxels, "{entry}");
        let milliliters = voxels as f64 * 1.5 * 1.5 * 2.0 / 1000.0;
        assert!((entry["milliliters"].as_f64().unwrap() - milliliters).abs() < 1e-6);
        let name = entry["name"].as_str().unwrap();
        let line = out.lines().find(|line| line.contains(name));
        match line {
            Some(line) => assert!(line.ends_with(&format!("{milliliters:.2}")), "{line}"),
            None => assert_eq!(voxels, 0, "{name} is missing from:\n{out}"),
        }
    }
    for part in ["labels.nii.gz: ", "mL", "time: ", "network ", "memory: peak "] {
        assert!(out.contains(part), "no `{part}` in:\n{out}");
    }
    for part in ["50 %", "100 %", " tiles"] {
        assert!(err.contains(part), "no `{part}` in:\n{err}");
    }
}

#[test]
fn mapped_voxels_are_told_beside_the_estimate() {
    let case = Case::new(&model());
    case.image("ct.nii", 1);
    let segment =
        ["segment", "ct.nii", "-m", "model.safetensors", "-o", "l.nii.gz", "--report", "r.json"];
    let (out, _) = case.succeed(&segment);
    assert!(out.contains("7.73 KiB of mapped voxels included"), "{out}");
    let text = std::fs::read_to_string(case.path("r.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["memory"]["mapped_bytes"], 22 * 20 * 18);
}

#[test]
fn options_reach_the_session_and_threads_change_nothing() {
    let case = Case::new(&model());
    case.succeed(&with(&["--threads", "1", "--step", "0.75", "--mirror"]));
    let one = std::fs::read(case.path("labels.nii.gz")).unwrap();
    // An existing output is replaced.
    case.succeed(&with(&["--threads", "3", "--step", "0.75", "--mirror", "--device", "cpu"]));
    assert_eq!(std::fs::read(case.path("labels.nii.gz")).unwrap(), one);
    let image = nifti::read(&case.path("ct.nii.gz")).unwrap();
    let options = RunOptions { step: 0.75, mirror: true, ..RunOptions::default() };
    let (_, expected) = expected(&case.path("model.safetensors"), &image, &options);
    assert_eq!(nifti::read(&case.path("labels.nii.gz")).unwrap().bytes, expected);
}

#[test]
fn quiet_runs_are_silent_but_for_a_demonstration_models_notice() {
    let case = Case::new(&model());
    let (out, err) = case.succeed(&with(&["--quiet"]));
    assert_eq!((&out[..], &err[..]), ("", ""));
    let demo =
        model().with("demo", true.into()).with("description", "Trained on one image.".into());
    std::fs::write(case.path("model.safetensors"), demo.bytes()).unwrap();
    let (out, err) = case.succeed(&with(&["--quiet"]));
    assert_eq!(out, "");
    assert!(err.contains("DEMONSTRATION") && err.contains("Trained on one image."), "{err}");
    let (out, _) = case.succeed(&["info", "model.safetensors"]);
    assert!(out.contains("DEMONSTRATION") && out.contains("Trained on one image."), "{out}");
}

#[test]
fn channel_files_are_one_case() {
    let two = SeededModel { inputs: 2, ..model() }
        .with("normalization", serde_json::json!([{ "scheme": "none" }, { "scheme": "none" }]));
    let mut two = two;
    two.document["parts"][0]["architecture"]["input_channels"] = 2.into();
    let case = Case::new(&two);
    case.image("second.nii", 7);
    let arguments =
        ["segment", "ct.nii.gz", "second.nii", "-m", "model.safetensors", "-o", "labels.nii"];
    case.succeed(&arguments);
    let image = formats::read_channels(&["ct.nii.gz", "second.nii"].map(|n| case.path(n))).unwrap();
    let (_, expected) = expected(&case.path("model.safetensors"), &image, &RunOptions::default());
    assert_eq!(nifti::read(&case.path("labels.nii")).unwrap().bytes, expected);
}

const CLEANUP: [&str; 3] = ["--largest-component=structure 4,3", "--minimum-size", "9"];

#[test]
fn labels_may_have_smallest_sizes_of_their_own() {
    let case = Case::new(&model());
    let image = nifti::read(&case.path("ct.nii.gz")).unwrap();
    let minimum = |labels, mm3| Cleanup::MinimumSize { labels, connectivity: 26, mm3 };
    let mut found = Vec::new();
    for (sizes, cleanup) in [
        ("9", vec![minimum(None, 9.0)]),
        ("structure 4=30,3=9", vec![minimum(Some(vec![4]), 30.0), minimum(Some(vec![3]), 9.0)]),
        ("structure 4=30,9", vec![minimum(Some(vec![4]), 30.0), minimum(Some(vec![1, 2, 3]), 9.0)]),
    ] {
        let arguments = ["--minimum-size", sizes, "--report", "report.json"];
        case.succeed(&with(&arguments));
        let options = RunOptions { cleanup, ..Default::default() };
        let labels = expected(&case.path("model.safetensors"), &image, &options).1;
        assert_eq!(nifti::read(&case.path("labels.nii.gz")).unwrap().bytes, labels, "{sizes}");
        assert!(!found.contains(&labels), "{sizes} changes nothing");
        found.push(labels);
    }
    let text = std::fs::read_to_string(case.path("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["options"]["minimum_size_mm3"], 9.0);
    assert_eq!(
        report["options"]["minimum_size_mm3_of"],
        serde_json::json!({ "structure 4": 30.0 })
    );
}

#[test]
fn labels_are_cleaned_up_and_measured() {
    let case = Case::new(&model());
    let files = ["--statistics", "found.csv", "--report", "report.json"];
    case.succeed(&with(&[&CLEANUP[..], &["--fill-holes"], &files].concat()));
    let image = nifti::read(&case.path("ct.nii.gz")).unwrap();
    let cleanup = vec![
        Cleanup::LargestComponent { labels: Some(vec![4, 3]), connectivity: 26 },
        Cleanup::MinimumSize { labels: None, connectivity: 26, mm3: 9.0 },
        Cleanup::FillHoles { labels: None },
    ];
    let options =
        |cleanup: &[Cleanup]| RunOptions { cleanup: cleanup.to_vec(), ..Default::default() };
    let model = case.path("model.safetensors");
    let labels = expected(&model, &image, &options(&cleanup)).1;
    assert_eq!(nifti::read(&case.path("labels.nii.gz")).unwrap().bytes, labels);
    for without in 0..3 {
        let mut fewer = cleanup.clone();
        fewer.remove(without);
        let other = expected(&model, &image, &options(&fewer)).1;
        assert!(other != labels, "{:?} changes nothing", cleanup[without]);
    }

    let (map, pool) = (LabelMap::U8(labels), Pool::new(1).unwrap());
    let view = image.view();
    let found = statistics(&map, image.dims, &image.geometry, Some(&view), &pool).unwrap();
    let mut csv = csv::Reader::from_path(case.path("found.csv")).unwrap();
    let columns: Vec<String> = csv.headers().unwrap().iter().map(String::from).collect();
    let rows: Vec<Vec<String>> =
        csv.records().map(|row| row.unwrap().iter().map(String::from).collect()).collect();
    let text = std::fs::read_to_string(case.path("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["options"]["largest_component"], serde_json::json!(["structure 4", "3"]));
    assert_eq!(report["options"]["minimum_size_mm3"], 9.0);
    assert_eq!(report["outputs"]["statistics"], "found.csv");
    assert_eq!(rows.len(), 4, "every label but the background");
    assert!(!found.is_empty());
    for (row, value) in rows.iter().zip(1u32..) {
        let field = |name: &str| &row[columns.iter().position(|column| column == name).unwrap()];
        let number = |name: &str| field(name).parse::<f64>().unwrap();
        let entry = &report["labels"][value as usize - 1];
        assert_eq!(*field("value"), value.to_string());
        assert_eq!(*field("name"), format!("structure {value}"));
        assert_eq!(entry["value"], value);
        let Some(label) = found.iter().find(|label| label.value == value) else {
            assert_eq!((&field("voxels")[..], &field("mean")[..]), ("0", ""));
            assert_eq!((&field("low_i")[..], &field("centroid_z_mm_lps")[..]), ("", ""));
            assert_eq!((&entry["voxels"], &entry["mean"]), (&0.into(), &Value::Null));
            assert_eq!(entry["bounding_box"], Value::Null);
            continue;
        };
        let intensity = label.intensity.unwrap();
        let numbers = [
            ("voxels", label.voxels as f64),
            ("milliliters", label.milliliters),
            ("mean", intensity.mean),
            ("standard_deviation", intensity.deviation),
            ("minimum", intensity.minimum),
            ("maximum", intensity.maximum),
        ];
        for (name, expected) in numbers {
            assert_eq!(number(name), expected, "{name} of {value}");
            assert_eq!(entry[name].as_f64(), Some(expected), "{name} of {value}");
        }
        let [low, high] = label.bounding_box;
        assert_eq!(["low_i", "low_j", "low_k"].map(number), low.map(|index| index as f64));
        assert_eq!(["high_i", "high_j", "high_k"].map(number), high.map(|index| index as f64));
        assert_eq!(entry["bounding_box"], serde_json::json!({ "low": low, "high": high }));
        let centroid = ["x", "y", "z"].map(|axis| number(&format!("centroid_{axis}_mm_lps")));
        assert_eq!(centroid, label.centroid_mm);
        assert_eq!(entry["centroid_mm_lps"], serde_json::json!(centroid));
    }
}

#[test]
fn statistics_of_a_label_map_are_those_of_its_run() {
    let case = Case::new(&model());
    let read = |name: &str| std::fs::read_to_string(case.path(name)).unwrap();
    for ending in ["csv", "json"] {
        let names = [format!("run.{ending}"), format!("map.{ending}")];
        case.succeed(&with(&["--statistics", &names[0], "--quiet"]));
        let (out, err) = case.succeed(&[
            "statistics",
            "labels.nii.gz",
            "--image",
            "ct.nii.gz",
            "-m",
            "model.safetensors",
            "-o",
            &names[1],
            "--threads",
            "1",
        ]);
        assert_eq!((&out[..], &err[..]), ("", ""));
        assert_eq!(read(&names[0]), read(&names[1]));
    }
    // Without names and values, as a table.
    let (out, _) = case.succeed(&["statistics", "labels.nii.gz"]);
    let run: Value = serde_json::from_str(&read("run.json")).unwrap();
    let found: Vec<&Value> =
        run["labels"].as_array().unwrap().iter().filter(|label| label["voxels"] != 0).collect();
    assert_eq!(out.lines().count(), 1 + found.len(), "{out}");
    for (line, label) in out.lines().skip(1).zip(found) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let milliliters = format!("{:.2}", label["milliliters"].as_f64().unwrap());
        assert_eq!(fields[0], label["value"].to_string());
        assert_eq!(fields[1..4], [&milliliters[..], "-", "-"]);
    }
}

#[test]
fn info_says_what_a_package_is() {
    let case = Case::new(&model());
    let (out, _) = case.succeed(&["info", "model.safetensors"]);
    for part in ["seeded", "Random weights.", "stunet", "[16, 16, 16]", "structure 4", "z-score"] {
        assert!(out.contains(part), "no `{part}` in:\n{out}");
    }
    let (out, _) = case.succeed(&["info", "model.safetensors", "--json"]);
    let info: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(info["package"], model().document);
    let tensors = model().tensors();
    let weights: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    assert!(info["parameters_per_fold"].as_u64().unwrap() <= weights as u64);
    assert_eq!(info["notice"], Value::Null);
}

#[test]
fn devices_include_the_processor() {
    let case = Case::new(&model());
    let (out, _) = case.succeed(&["devices"]);
    assert!(out.starts_with("cpu "), "{out}");
}

/// Ctrl-C in the middle of a run ends it with its own exit code and leaves no file behind.
#[test]
#[cfg(unix)]
fn interrupts_cancel_and_leave_nothing() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let case = Case::new(&model());
    let before = case.files();
    // Tiles one voxel apart, eight times each: minutes of work.
    let arguments = with(&["--step", "0.01", "--mirror", "--scores", "s", "--preprocessed", "p"]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_voxtile"))
        .current_dir(case.folder.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(
        lines.any(|line| line.contains("the network's grid")),
        "the run did not get to its tiles"
    );
    std::thread::sleep(std::time::Duration::from_millis(200));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("cancelled")), "{rest:?}");
    assert_eq!(case.files(), before);
}
