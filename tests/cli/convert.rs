//! `voxtile convert`, `info` and `compare`, as a user types them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use voxtile::Model;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn voxtile(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_voxtile");
    Command::new(program).current_dir(folder).args(arguments).output().unwrap()
}

/// Runs what must succeed; returns what it prints.
#[track_caller]
fn prints(folder: &Path, arguments: &[&str]) -> String {
    let output = voxtile(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must fail; returns the message.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = voxtile(folder, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    text
}

#[track_caller]
fn info(folder: &Path, model: &str) -> Value {
    serde_json::from_str(&prints(folder, &["info", model, "--json"])).unwrap()
}

/// A zip of everything below a folder.
fn zip_of(root: &Path, to: &Path) {
    fn add(zip: &mut ZipWriter<fs::File>, folder: &Path, root: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(zip, &path, root);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                zip.start_file(name, SimpleFileOptions::default()).unwrap();
                zip.write_all(&fs::read(path).unwrap()).unwrap();
            }
        }
    }
    let mut zip = ZipWriter::new(fs::File::create(to).unwrap());
    add(&mut zip, root, root);
    zip.finish().unwrap();
}

/// Copies everything below a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn only_the_last_stage_of_a_cascade_is_post_processed() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let steps = r#"{"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
        "postprocessing_kwargs": [{"labels_or_regions": 2}]}"#;
    for (stage, expected) in [("3d_lowres", 0), ("3d_cascade_fullres", 1)] {
        copy(&fixture("trainings/cascade/Dataset912_cascade"), &folder.join(stage));
        let training = format!("nnUNetTrainer__nnUNetPlans__{stage}/crossval_results_folds_0");
        let training = folder.join(stage).join(training);
        fs::create_dir(&training).unwrap();
        fs::write(training.join("postprocessing.json"), steps).unwrap();
        let model = format!("{stage}.safetensors");
        prints(folder, &["convert", stage, "-o", &model]);
        let document = info(folder, &model);
        let found = document["package"]["postprocessing"].as_array().map_or(0, Vec::len);
        assert_eq!(found, expected, "{document}");
    }
}

#[test]
fn a_cascade_converts_the_same_from_a_folder_and_a_zip() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let cascade = fixture("trainings/cascade/Dataset912_cascade");
    prints(folder, &["convert", cascade.to_str().unwrap(), "-o", "folder.safetensors"]);
    zip_of(cascade.parent().unwrap(), &folder.join("release.zip"));
    prints(folder, &["convert", "release.zip", "-o", "zip.safetensors", "--quiet"]);
    prints(folder, &["convert", "release.zip", "-o", "again.safetensors", "--quiet"]);
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    assert!(read("zip.safetensors") == read("again.safetensors"));
    let documents = ["folder.safetensors", "zip.safetensors"].map(|name| info(folder, name));
    assert_eq!(documents[0]["package"]["parts"], documents[1]["package"]["parts"]);
    let parts = &documents[0]["package"]["parts"];
    assert_eq!(parts[1]["previous"], parts[0]["name"]);
    assert_eq!(parts[0]["name"], "3d_lowres");
}

#[test]
fn several_sources_become_parts_whose_labels_follow_each_other() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let organs = fixture("trainings/plain/Dataset900_plain");
    let others = fixture("trainings/resenc/Dataset902_resenc");
    fs::write(folder.join("names.json"), r#"{"1": "liver", "structure 2": {"color": [1, 2, 3]}}"#)
        .unwrap();
    let sources = [organs.to_str().unwrap(), others.to_str().unwrap()];
    let both = ["convert", sources[0], sources[1], "-o", "both.safetensors"];
    prints(folder, &[&both[..], &["--labels", "names.json"]].concat());
    let package = &info(folder, "both.safetensors")["package"];
    // Labels of the same name are one label.
    let names: Vec<&str> =
        package["labels"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["background", "liver", "structure 2", "structure 3"]);
    assert_eq!(package["labels"][2]["color"], serde_json::json!([1, 2, 3]));
    assert_eq!(package["parts"][1]["output"]["classes"], serde_json::json!([0, 1, 2]));

    // Where the later part finds something, it is right; elsewhere the earlier one is.
    let image = fixture("trainings/plain/image_0000.nii.gz");
    let image = image.to_str().unwrap();
    let mut maps = Vec::new();
    for (source, name) in [(sources[0], "first"), (sources[1], "second")] {
        let model = format!("{name}.safetensors");
        prints(folder, &["convert", source, "-o", &model]);
        prints(folder, &["segment", image, "-m", &model, "-o", &format!("{name}.nii")]);
        maps.push(voxels(&folder.join(format!("{name}.nii"))));
    }
    prints(folder, &["segment", image, "-m", "both.safetensors", "-o", "both.nii"]);
    let both = voxels(&folder.join("both.nii"));
    let expected: Vec<u8> =
        maps[0].iter().zip(&maps[1]).map(|(a, b)| if *b == 0 { *a } else { *b }).collect();
    assert!(both == expected);
    assert!(maps[0].iter().zip(&maps[1]).any(|(a, b)| *a != 0 && *b == 0), "nothing to merge");

    let text = prints(folder, &["compare", "first.nii", "first.nii", "-m", "both.safetensors"]);
    assert!(text.contains("1.0000") && text.contains("liver"), "{text}");
    assert!(text.contains("0 of 5760 voxels differ"), "{text}");
    let text = prints(folder, &["compare", "first.nii", "second.nii"]);
    let differ = maps[0].iter().zip(&maps[1]).filter(|(a, b)| a != b).count();
    assert!(text.contains(&format!("{differ} of 5760 voxels differ")), "{text}");
}

#[test]
fn structures_without_names_stay_apart() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let sources = ["generic_unet", "stunet"].map(|name| fixture(&format!("trainings_v1/{name}")));
    let sources = sources.each_ref().map(|path| path.to_str().unwrap());
    let both = ["convert", sources[0], sources[1], "-o", "both.safetensors"];
    let names = |package: &Value| -> Vec<String> {
        let labels = package["labels"].as_array().unwrap().iter();
        labels.map(|label| label["name"].as_str().unwrap().to_owned()).collect()
    };
    prints(folder, &both);
    let package = &info(folder, "both.safetensors")["package"];
    let expected = |task: &str| (1..=3).map(|value| format!("class {value} of {task}")).collect();
    let expected: [Vec<String>; 3] =
        [vec!["background".into()], expected("Task902_generic_unet"), expected("Task900_stunet")];
    assert_eq!(names(package), expected.concat());
    assert_eq!(package["parts"][1]["output"]["classes"], serde_json::json!([0, 4, 5, 6]));

    // Values are those of the package.
    fs::write(folder.join("names.json"), r#"{"1": "liver", "4": {"name": "spleen"}}"#).unwrap();
    prints(folder, &[&both[..], &["--labels", "names.json"]].concat());
    let named = names(&info(folder, "both.safetensors")["package"]);
    assert_eq!([&named[1], &named[4]], ["liver", "spleen"]);
    assert_eq!(named[2], "class 2 of Task902_generic_unet");
    assert_eq!(named.len(), 7);
}

/// The voxels of an uncompressed label map of bytes.
fn voxels(path: &Path) -> Vec<u8> {
    voxtile::formats::nifti::read(path).unwrap().bytes.to_vec()
}

#[test]
fn a_v1_pair_needs_nothing_beside_it() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let all = fixture(
        "trainings_v1/stunet/3d_fullres/Task900_stunet/STUNetTrainer_small__nnUNetPlansv2.1/all",
    );
    for name in ["model_final_checkpoint.model", "model_final_checkpoint.model.pkl"] {
        fs::copy(all.join(name), folder.join(name)).unwrap();
    }
    for dtype in ["f32", "f16", "bf16"] {
        let model = format!("{dtype}.safetensors");
        let source = "model_final_checkpoint.model";
        prints(folder, &["convert", source, "-o", &model, "--dtype", dtype]);
        let document = info(folder, &model);
        assert_eq!(document["package"]["parts"][0]["generation"], "nnunet_v1");
        assert_eq!(document["package"]["parts"][0]["blend"], "softmax");
    }
    // Other files may lie around it, and it may lie in a zip, under any name.
    fs::create_dir_all(folder.join("release/deep")).unwrap();
    for ending in ["model", "model.pkl"] {
        let from = folder.join(format!("model_final_checkpoint.{ending}"));
        fs::copy(from, folder.join(format!("release/deep/base_ep4k.{ending}"))).unwrap();
    }
    zip_of(&folder.join("release"), &folder.join("pair.zip"));
    let parts = |model: &str| info(folder, model)["package"]["parts"].clone();
    for source in [all.to_str().unwrap(), "release", "pair.zip"] {
        prints(folder, &["convert", source, "-o", "around.safetensors"]);
        assert_eq!(parts("around.safetensors"), parts("f32.safetensors"), "{source}");
    }
    let size = |name: &str| fs::metadata(folder.join(name)).unwrap().len();
    assert!(size("f16.safetensors") < size("f32.safetensors") * 2 / 3);
    let text = prints(folder, &["info", "f16.safetensors", "--volume", "64x64x64"]);
    assert!(text.contains("on cpu, in at most"), "{text}");
    assert!(text.contains("parameters per fold"), "{text}");
}

#[test]
fn weights_alone_convert_with_plans_beside_them() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let training =
        fixture("trainings/plain/Dataset900_plain/nnUNetTrainer__nnUNetPlans__3d_fullres");
    prints(folder, &["convert", training.to_str().unwrap(), "-o", "whole.safetensors"]);
    // A package's tensors have their published names: they are bare weights, too.
    let plans = training.join("plans.json");
    let dataset = training.join("dataset.json");
    let beside = ["--plans", plans.to_str().unwrap(), "--dataset", dataset.to_str().unwrap()];
    let bare = ["convert", "whole.safetensors", "-o", "bare.safetensors"];
    prints(folder, &[&bare[..], &beside].concat());
    let parts = ["whole.safetensors", "bare.safetensors"]
        .map(|name| Model::open(folder.join(name)).unwrap().package().parts[0].clone());
    assert_eq!(parts[0].architecture, parts[1].architecture);
    assert_eq!(parts[0].normalization, parts[1].normalization);
    // A checkpoint of nnU-Net v2 says all of that itself.
    let checkpoint = training.join("fold_0/checkpoint_final.pth");
    prints(folder, &["convert", checkpoint.to_str().unwrap(), "-o", "self.safetensors"]);
    assert_eq!(Model::open(folder.join("self.safetensors")).unwrap().package().parts[0], parts[0]);
    // What was read is never written over.
    let before = fs::read(folder.join("self.safetensors")).unwrap();
    let own = ["convert", "./self.safetensors", "-o", "self.safetensors"];
    let text = fails(folder, &[&own[..], &beside].concat(), 2);
    assert!(text.contains("is one of the sources"), "{text}");
    assert!(fs::read(folder.join("self.safetensors")).unwrap() == before);
    fs::create_dir_all(folder.join("T__P__3d_fullres/fold_0")).unwrap();
    let inside = "T__P__3d_fullres/fold_0/checkpoint_final.pth";
    fs::copy(&checkpoint, folder.join(inside)).unwrap();
    let text = fails(folder, &["convert", "T__P__3d_fullres", "-o", inside], 2);
    assert!(text.contains("is one of the sources"), "{text}");
    let text = fails(folder, &bare, 2);
    assert!(text.contains("add --plans"), "{text}");
}

#[test]
fn mistakes_are_explained() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let all = fixture("trainings");
    let text = fails(folder, &["convert", all.to_str().unwrap(), "-o", "x.safetensors"], 2);
    assert!(text.contains("--select") && text.contains("Dataset911_two_d"), "{text}");
    let select = ["convert", all.to_str().unwrap(), "-o", "x.safetensors", "--select"];
    let text = fails(folder, &[&select[..], &["nothing"]].concat(), 2);
    assert!(text.contains("none of them is"), "{text}");
    prints(folder, &[&select[..], &["Dataset911_two_d"]].concat());
    fs::remove_file(folder.join("x.safetensors")).unwrap();
    let text = fails(folder, &[&select[..], &["Dataset900", "--folds", "3"]].concat(), 2);
    assert!(text.contains("has no fold 3; it has 0"), "{text}");
    let text = fails(folder, &[&select[..], &["two_folds", "--folds", "0,0"]].concat(), 2);
    assert!(text.contains("fold 0 is asked for twice"), "{text}");
    fails(folder, &["convert", "missing", "-o", "x.safetensors"], 3);
    let empty = folder.join("empty");
    fs::create_dir(&empty).unwrap();
    let text = fails(folder, &["convert", "empty", "-o", "x.safetensors"], 3);
    assert!(text.contains("holds no training"), "{text}");
    let alone = fixture(
        "trainings/cascade/Dataset912_cascade/nnUNetTrainer__nnUNetPlans__3d_cascade_fullres",
    );
    let text = fails(folder, &["convert", alone.to_str().unwrap(), "-o", "x.safetensors"], 2);
    assert!(text.contains("3d_lowres"), "{text}");
    assert!(!folder.join("x.safetensors").exists());
}

#[test]
fn messages_name_what_the_user_knows() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let inside = "T__P__3d_fullres/fold_0/checkpoint_final.pth";
    fs::create_dir_all(folder.join("in/T__P__3d_fullres/fold_0")).unwrap();
    fs::write(folder.join("in").join(inside), b"no checkpoint").unwrap();
    zip_of(&folder.join("in"), &folder.join("x.zip"));
    let text = fails(folder, &["convert", "x.zip", "-o", "x.safetensors"], 3);
    assert!(text.contains(&format!("x.zip: {inside}")), "{text}");

    // Of fifty trainings, thirty are listed.
    for index in 0..50 {
        let fold = folder.join(format!("many/T__P__{index}/fold_0"));
        fs::create_dir_all(&fold).unwrap();
        fs::write(fold.join("checkpoint_final.pth"), b"").unwrap();
    }
    let text = fails(folder, &["convert", "many", "-o", "x.safetensors"], 2);
    assert!(text.contains("and 20 more"), "{text}");

    let training =
        "trainings_v1/stunet/3d_fullres/Task900_stunet/STUNetTrainer_small__nnUNetPlansv2.1";
    let training = fixture(training);
    fs::copy(training.join("all/model_final_checkpoint.model"), folder.join("x.model")).unwrap();
    let plans = training.join("plans.pkl");
    let plans = ["--plans", plans.to_str().unwrap()];
    let bare = ["convert", "x.model", "-o", "x.safetensors"];
    let text = fails(folder, &[&bare[..], &plans].concat(), 3);
    assert!(text.contains("give the .model.pkl"), "{text}");
}

#[test]
fn options_that_nothing_heeds_are_refused() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let stunet = fixture("trainings_v1/stunet");
    let all = "3d_fullres/Task900_stunet/STUNetTrainer_small__nnUNetPlansv2.1/all";
    let pair = stunet.join(all).join("model_final_checkpoint.model");
    let (stunet, pair) = (stunet.to_str().unwrap(), pair.to_str().unwrap());
    for (source, options) in [
        (stunet, ["--plans", "plans.json"]),
        (stunet, ["--dataset", "dataset.json"]),
        (stunet, ["--configuration", "2d"]),
        (pair, ["--select", "x"]),
        (pair, ["--checkpoint", "x"]),
        (pair, ["--folds", "0"]),
    ] {
        let text = fails(folder, &["convert", source, "-o", "x", options[0], options[1]], 2);
        assert!(text.contains(&format!("{} is for", options[0])), "{text}");
    }
    for key in ["4", "spleen"] {
        fs::write(folder.join("names.json"), format!(r#"{{"{key}": "liver"}}"#)).unwrap();
        let text = fails(folder, &["convert", stunet, "-o", "x", "--labels", "names.json"], 2);
        assert!(text.contains(&format!("has \"{key}\", which is no value")), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_refused() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path();
    let made = Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap();
    assert!(made.success());
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo.safetensors");
    let demo = demo.to_str().unwrap();
    let pipe = "a pipe or a device";
    assert!(fails(folder, &["segment", "pipe", "-m", demo, "-o", "x.nii"], 3).contains(pipe));
    assert!(fails(folder, &["info", "pipe"], 4).contains(pipe));
    assert!(fails(folder, &["info", "/dev/zero"], 4).contains(pipe));
    assert!(fails(folder, &["convert", "pipe", "-o", "x.safetensors"], 3).contains(pipe));
}

/// STU-Net publishes a `.model` and its `.model.pkl`, in no folder of a fold.
#[test]
fn pairs_are_found_in_folders_and_zips() {
    let folder = tempfile::tempdir().unwrap();
    let training = fixture("trainings_v1/stunet");
    let mut pair = None;
    let mut folders = vec![training];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "model") {
                pair = Some(path);
            }
        }
    }
    let pair = pair.unwrap();
    let release = folder.path().join("release");
    fs::create_dir(&release).unwrap();
    for name in ["small", "small_ep4k"] {
        fs::copy(&pair, release.join(format!("{name}.model"))).unwrap();
        let pkl = pair.with_extension("model.pkl");
        fs::copy(pkl, release.join(format!("{name}.model.pkl"))).unwrap();
    }
    zip_of(&release, &folder.path().join("release.zip"));
    let text = fails(folder.path(), &["convert", "release.zip", "-o", "m.safetensors"], 2);
    assert!(text.contains("small, small_ep4k") || text.contains("small_ep4k, small"), "{text}");
    let direct = ["convert", "release/small.model", "-o", "direct.safetensors"];
    prints(folder.path(), &direct);
    let parameters = info(folder.path(), "direct.safetensors")["parameters"].clone();
    for source in ["release", "release.zip"] {
        // One name is the beginning of the other.
        let select = ["convert", source, "--select", "small", "-o", "m.safetensors"];
        prints(folder.path(), &select);
        assert_eq!(info(folder.path(), "m.safetensors")["parameters"], parameters);
    }
}
