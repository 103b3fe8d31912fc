//! The program, used wrongly: exit codes, and messages that say what to do.

use std::path::Path;
use std::process::Command;

use crate::common::SeededModel;
use voxtile::Geometry;
use voxtile::base::Pool;
use voxtile::formats::{OutputFile, nifti};

/// A folder with a model package, an image, and what the tests add.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = SeededModel::small([16, 16, 16], 3);
    std::fs::write(folder.path().join("model.safetensors"), model.bytes()).unwrap();
    image(&folder.path().join("ct.nii.gz"), [10, 9, 8]);
    folder
}

fn image(path: &Path, dims: [usize; 3]) {
    let direction = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let geometry = Geometry { spacing: [1.5; 3], origin: [0.0; 3], direction };
    let voxels: Vec<u8> = (0..dims.iter().product::<usize>()).map(|n| (n % 251) as u8).collect();
    let output = OutputFile::create(path).unwrap();
    nifti::write_labels(output, nifti::Labels::U8(&voxels), dims, &geometry, &Pool::serial())
        .unwrap();
}

/// Runs the program, which must fail with `code`, print `part` once as an error, print nothing
/// else, and leave the folder as it was.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32, part: &str) -> String {
    let names = || {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let output = Command::new(env!("CARGO_BIN_EXE_voxtile"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains("error: "), "{text}");
    assert!(text.contains(part), "no `{part}` in: {text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    assert_eq!(names(), before);
    text
}

const MODEL: [&str; 4] = ["-m", "model.safetensors", "-o", "labels.nii.gz"];

fn segment<'a>(inputs: &[&'a str], options: &[&'a str]) -> Vec<&'a str> {
    ["segment"].iter().chain(inputs).chain(options).copied().collect()
}

#[test]
fn wrong_usage_is_2() {
    let folder = folder();
    let folder = folder.path();
    let missing = fails(folder, &["segment", "ct.nii.gz", "-o", "x.nii"], 2, "no model");
    for part in ["-m MODEL", "no default", "demo.safetensors", "voxtile convert"] {
        assert!(missing.contains(part), "{missing}");
    }
    let usual = |further: &[&'static str]| segment(&["ct.nii.gz"], &[&MODEL[..], further].concat());
    fails(folder, &usual(&["--devise", "cpu"]), 2, "--device");
    fails(folder, &usual(&["--device", "abacus"]), 2, "abacus");
    fails(folder, &usual(&["--step", "1.5"]), 2, "at most 1");
    fails(folder, &usual(&["--threads", "0"]), 2, "from 1 to 1024");
    fails(folder, &usual(&["--memory", "4 giraffes"]), 2, "4GiB");
    fails(folder, &usual(&["--minimum-size=-3"]), 2, "number of mm^3 from 0");
    let text = "--minimum-size: model.safetensors has no label `spline`";
    fails(folder, &usual(&["--minimum-size=structure 1=5,spline=9"]), 2, text);
    fails(folder, &usual(&["--minimum-size=background=9"]), 2, "has no label `background`");
    let text = "--minimum-size: label 1 is named twice";
    fails(folder, &usual(&["--minimum-size=1=5,structure 1=9"]), 2, text);
    fails(folder, &usual(&["--fill-holes=1,,2"]), 2, "with commas between them");
    let text = "--largest-component: model.safetensors has no label `spline`";
    fails(folder, &usual(&["--largest-component=structure 1,spline"]), 2, text);
    fails(folder, &usual(&["--fill-holes=0"]), 2, "has no label `0`");
    fails(folder, &usual(&["--fill-holes=background"]), 2, "has no label `background`");
    fails(folder, &["segment", "-m", "model.safetensors", "-o", "x.nii"], 2, "INPUT");
    fails(folder, &["segmend"], 2, "segment");
}

#[test]
fn unusable_inputs_are_3() {
    let folder = folder();
    let folder = folder.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let whole = std::fs::read(folder.join("ct.nii.gz")).unwrap();
    write("cut.nii.gz", &whole[..whole.len() / 2]);
    write("empty.nii.gz", b"");
    write("ct.mha", b"ObjectType = Image");
    image(&folder.join("other.nii.gz"), [10, 9, 7]);
    let input = |names: &[&'static str]| segment(names, &MODEL);
    fails(folder, &input(&["none.nii.gz"]), 3, "none.nii.gz: No such file");
    fails(folder, &input(&["cut.nii.gz"]), 3, "cut short");
    std::fs::create_dir(folder.join("scans")).unwrap();
    fails(folder, &input(&["scans"]), 3, "scans is a folder (DICOM series are not read)");
    fails(folder, &input(&["empty.nii.gz"]), 3, "empty");
    fails(folder, &input(&["ct.mha"]), 3, "its header has no field `ElementDataFile`");
    fails(folder, &input(&["model.safetensors"]), 3, "model.safetensors");
    fails(folder, &input(&["ct.nii.gz", "other.nii.gz"]), 3, "10 x 9 x 7");
    let text = "the input has 2 channels, but model.safetensors takes 1";
    fails(folder, &input(&["ct.nii.gz", "ct.nii.gz"]), 3, text);
}

#[test]
fn unusable_models_are_4() {
    let folder = folder();
    let folder = folder.path();
    std::fs::write(folder.join("empty.safetensors"), b"").unwrap();
    let model = |name: &'static str| segment(&["ct.nii.gz"], &["-m", name, "-o", "labels.nii.gz"]);
    fails(folder, &model("none.safetensors"), 4, "none.safetensors: No such file");
    fails(folder, &model("empty.safetensors"), 4, "empty.safetensors");
    fails(folder, &["info", "none.safetensors"], 4, "none.safetensors");
    fails(folder, &["info", "ct.nii.gz"], 4, "ct.nii.gz");
}

#[test]
fn a_budget_that_is_too_small_is_5_and_says_what_would_do() {
    let folder = folder();
    let folder = folder.path();
    fn arguments(memory: &str) -> Vec<&str> {
        segment(&["ct.nii.gz"], &[&MODEL[..], &["--memory", memory]].concat())
    }
    // The network alone, then the run.
    for memory in ["1", "1MiB"] {
        let text = fails(folder, &arguments(memory), 5, "raise --memory to at least ");
        let (_, wanted) = text.trim().rsplit_once(' ').unwrap();
        assert!(wanted.parse::<u64>().unwrap() > 1 << 10, "{text}");
    }
    // What the message of a run asks for is enough.
    let mut memory = "1".to_string();
    for _ in 0..3 {
        let output = Command::new(env!("CARGO_BIN_EXE_voxtile"))
            .current_dir(folder)
            .args(arguments(&memory))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => return,
            Some(5) => memory = text.trim().rsplit_once(' ').unwrap().1.to_string(),
            other => panic!("{other:?}: {text}"),
        }
    }
    panic!("--memory {memory} is still too small");
}

#[test]
fn outputs_that_cannot_be_written_are_6_before_anything_runs() {
    let folder = folder();
    let folder = folder.path();
    std::fs::create_dir(folder.join("folder")).unwrap();
    // The model does not exist: outputs are looked at first.
    let output =
        |name: &'static str| segment(&["ct.nii.gz"], &["-m", "none.safetensors", "-o", name]);
    fails(folder, &output("labels.png"), 6, "ends in .nii.gz");
    fails(folder, &output("none/labels.nii.gz"), 6, "the folder none does not exist");
    fails(folder, &output("ct.nii.gz"), 6, "is also an input");
    fails(folder, &output("folder/../ct.nii.gz"), 6, "is also an input");
    let statistics =
        |name| segment(&["ct.nii.gz"], &[&MODEL[..], &["--statistics", name]].concat());
    fails(folder, &statistics("found.xlsx"), 6, "must end in .csv or .json");
    fails(folder, &statistics("none/found.csv"), 6, "does not exist");
    for option in ["--scores", "--preprocessed", "--report"] {
        let with = |name| segment(&["ct.nii.gz"], &[&MODEL[..], &[option, name]].concat());
        fails(folder, &with("none/file"), 6, "does not exist");
        fails(folder, &with("folder"), 6, "is a folder");
        fails(folder, &with("labels.nii.gz"), 6, "is also another output");
        fails(folder, &with("model.safetensors"), 6, "is also the model");
    }
}

#[test]
fn what_can_not_be_measured_is_refused() {
    let folder = folder();
    let folder = folder.path();
    image(&folder.join("other.nii.gz"), [10, 9, 7]);
    let measure = |further: &[&'static str]| [&["statistics", "ct.nii.gz"], further].concat();
    fails(folder, &["statistics"], 2, "LABELS");
    fails(folder, &["statistics", "none.nii.gz"], 3, "none.nii.gz: No such file");
    let text = "same grid";
    fails(folder, &measure(&["--image", "other.nii.gz"]), 3, text);
    fails(folder, &measure(&["--image", "none.nii.gz"]), 3, "none.nii.gz");
    fails(folder, &measure(&["-m", "none.safetensors"]), 4, "none.safetensors");
    fails(folder, &measure(&["-o", "found.txt"]), 6, "must end in .csv or .json");
    fails(folder, &measure(&["-o", "none/found.csv"]), 6, "the folder none does not exist");
    std::fs::copy(folder.join("ct.nii.gz"), folder.join("map.csv")).unwrap();
    let same = ["statistics", "map.csv", "-o", "map.csv"];
    fails(folder, &same, 6, "is also an input");
    // Half of each value: 0, 0.5, ...
    image(&folder.join("half.nii"), [10, 9, 8]);
    let mut bytes = std::fs::read(folder.join("half.nii")).unwrap();
    bytes[112..116].copy_from_slice(&0.5f32.to_le_bytes());
    std::fs::write(folder.join("half.nii"), bytes).unwrap();
    let text = "half.nii: a label map has whole numbers from 0 to 65535, found 0.5 at (1, 0, 0)";
    fails(folder, &["statistics", "half.nii"], 3, text);
}
