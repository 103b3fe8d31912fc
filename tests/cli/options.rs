//! What is asked of a run and of a plan: parts of the volume, of the labels, probabilities, memory.

use std::ops::Range;
use std::sync::Arc;

use crate::common::{Noise, SeededModel};
use crate::program::Program;
use crate::recorder::Recorder;
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use voxtile::device::Accumulators;
use voxtile::formats::nifti;
use voxtile::session::{Grid, LabelMap};
use voxtile::{Geometry, Model, RunOptions, Session, SessionOptions};

const DIMS: [usize; 3] = [40, 20, 18];

/// At a slant.
fn geometry() -> Geometry {
    let (sine, cosine) = (0.6, 0.8);
    Geometry {
        spacing: [1.5, 1.5, 2.0],
        origin: [-30.5, 12.25, 700.0],
        direction: [[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]],
    }
}

/// Noise, but for one half along i, which is air.
fn program() -> Program {
    let program = Program::new(&SeededModel::small([16, 16, 16], 5).bytes());
    let mut noise = Noise(1);
    let voxels: Vec<u8> = (0..DIMS.iter().product())
        .map(|at| (at % DIMS[0], (100.0 + 90.0 * noise.next()) as u8))
        .map(|(i, value)| if i < DIMS[0] / 2 { 1 } else { value })
        .collect();
    program.image("ct.nii.gz", &voxels, DIMS, &geometry());
    program
}

const SEGMENT: [&str; 6] =
    ["segment", "ct.nii.gz", "-m", "model.safetensors", "-o", "labels.nii.gz"];

fn with<'a>(further: &[&'a str]) -> Vec<&'a str> {
    SEGMENT.iter().chain(further).copied().collect()
}

fn plan<'a>(further: &[&'a str]) -> Vec<&'a str> {
    ["plan", "ct.nii.gz", "-m", "model.safetensors"].iter().chain(further).copied().collect()
}

/// The labels and the report of a run of the program.
fn segmented(program: &Program, further: &[&str]) -> (Vec<u8>, Value) {
    program.succeed(&[&with(further)[..], &["--report", "report.json"]].concat());
    let report = std::fs::read(program.path("report.json")).unwrap();
    let labels = nifti::read(&program.path("labels.nii.gz")).unwrap();
    assert_eq!(labels.dims, DIMS);
    (labels.bytes.to_vec(), serde_json::from_slice(&report).unwrap())
}

/// What the library makes of the same files.
fn expected(program: &Program, options: &RunOptions) -> (Vec<u8>, Recorder) {
    let model = Arc::new(Model::open(program.path("model.safetensors")).unwrap());
    let session = Session::new(model, &SessionOptions::default()).unwrap();
    let image = nifti::read(&program.path("ct.nii.gz")).unwrap();
    let mut seen = Recorder::default();
    let found = session.run(&image.view(), options, &mut seen).unwrap();
    let LabelMap::U8(labels) = found.labels else { panic!("five classes fit a byte") };
    (labels, seen)
}

fn inside(region: &[Range<usize>; 3], at: usize) -> bool {
    let voxel = [at % DIMS[0], at / DIMS[0] % DIMS[1], at / DIMS[0] / DIMS[1]];
    voxel.iter().zip(region).all(|(at, range)| range.contains(at))
}

#[test]
fn a_region_has_the_labels_of_the_whole_and_nothing_else() {
    let program = program();
    let (whole, report) = segmented(&program, &[]);
    assert_eq!(report["run"]["skipped_tiles"], 0);
    assert_eq!(report["options"]["region"], Value::Null);
    let region = [30..35, 2..19, 4..9];
    let part: Vec<u8> =
        (0..whole.len()).map(|at| if inside(&region, at) { whole[at] } else { 0 }).collect();
    assert!(part.iter().any(|label| *label != 0));
    let (found, report) = segmented(&program, &["--region", "30:35,2:19,4:9"]);
    assert_eq!(found, part);
    assert!(report["run"]["skipped_tiles"].as_u64().unwrap() > 0, "{}", report["run"]);
    assert_eq!(report["options"]["region"], json!([[30, 35], [2, 19], [4, 9]]));

    // The same box, but for one voxel, as a mask of other values than 1.
    let mut mask: Vec<u8> = (0..whole.len()).map(|at| 7 * u8::from(inside(&region, at))).collect();
    let hole = (5 * DIMS[1] + 10) * DIMS[0] + 32;
    mask[hole] = 0;
    program.image("mask.nii.gz", &mask, DIMS, &geometry());
    let (found, report) = segmented(&program, &["--region-mask", "mask.nii.gz"]);
    let part: Vec<u8> =
        part.iter().zip(&mask).map(|(label, mask)| if *mask == 0 { 0 } else { *label }).collect();
    assert_eq!(found, part);
    assert!(report["run"]["skipped_tiles"].as_u64().unwrap() > 0);
    assert_eq!(report["options"]["region_mask"], "mask.nii.gz");
    let parts = report["memory"]["parts"].as_array().unwrap();
    let voxels = DIMS.iter().product::<usize>();
    let named = json!({ "name": "mask of the region", "bytes": voxels, "place": "host" });
    assert!(parts.contains(&named), "{parts:?}");
}

#[test]
fn masks_of_other_grids_are_refused() {
    let program = program();
    let voxels = vec![1; DIMS.iter().product::<usize>()];
    let Geometry { spacing, origin, direction } = geometry();
    let [i, j, k] = DIMS;
    program.image("flat.nii.gz", &voxels[i * j..], [i, j, k - 1], &geometry());
    let moved = Geometry { origin: [origin[0] + 0.2, origin[1], origin[2]], ..geometry() };
    program.image("moved.nii.gz", &voxels, DIMS, &moved);
    let wide = Geometry { spacing: [1.6, spacing[1], spacing[2]], ..geometry() };
    program.image("wide.nii.gz", &voxels, DIMS, &wide);
    let turned = Geometry { direction: direction.map(|[a, b, c]| [-a, -b, c]), ..geometry() };
    program.image("turned.nii.gz", &voxels, DIMS, &turned);
    for (mask, part) in [
        ("flat.nii.gz", "flat.nii.gz has 40 x 20 x 17 voxels, but ct.nii.gz has 40 x 20 x 18"),
        ("moved.nii.gz", "the mask must have the grid of the input"),
        ("wide.nii.gz", "spacing [1.6"),
        ("turned.nii.gz", "direction"),
        ("none.nii.gz", "none.nii.gz: No such file"),
    ] {
        program.fail(&with(&["--region-mask", mask]), 3, part);
        program.fail(&plan(&["--region-mask", mask]), 3, part);
    }
    program.fail(&with(&["--region-mask", "labels.nii.gz"]), 6, "is also the mask");
}

#[test]
fn labels_to_keep_are_named_or_numbered() {
    let program = program();
    let (whole, _) = segmented(&program, &[]);
    let kept: Vec<u8> =
        whole.iter().map(|&label| if [2, 4].contains(&label) { label } else { 0 }).collect();
    assert!([2, 4].iter().all(|label| kept.contains(label)));
    let (found, report) = segmented(&program, &["--labels", "structure 2, 4"]);
    assert_eq!(found, kept);
    assert_eq!(report["options"]["labels"], json!(["structure 2", " 4"]));
    program.fail(&with(&["--labels", "2,liver"]), 2, "no label `liver`; `voxtile info");
}

#[test]
fn air_and_sums_reach_the_session() {
    let program = program();
    let (found, report) = segmented(&program, &["--skip-air=5", "--sums", "f16"]);
    let options = RunOptions {
        skip_air_below: Some(5.0),
        accumulators: Accumulators::F16,
        ..RunOptions::default()
    };
    assert_eq!(found, expected(&program, &options).0);
    assert!(report["run"]["skipped_tiles"].as_u64().unwrap() > 0, "{}", report["run"]);
    assert_eq!(report["options"]["skip_air_below"], 5.0);
    assert_eq!(report["options"]["accumulators"], "f16");
    assert_eq!(report["model"]["blends"], json!(["logits"]));
    let (_, report) = segmented(&program, &["--skip-air"]);
    assert_eq!(report["options"]["skip_air_below"], -900.0);
}

/// Type, shape, values and metadata of the probabilities that the program wrote.
fn probabilities(program: &Program) -> (Dtype, Vec<usize>, Vec<f32>, Value) {
    let bytes = std::fs::read(program.path("p.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor("probabilities").unwrap();
    let data = tensor.data();
    let values = match tensor.dtype() {
        Dtype::U8 => data.iter().map(|&byte| f32::from(byte) / 255.0).collect(),
        Dtype::F16 => {
            data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        _ => bytemuck::pod_collect_to_vec(data),
    };
    (tensor.dtype(), tensor.shape().to_vec(), values, json!(metadata.metadata()))
}

#[test]
fn probabilities_are_those_of_the_library() {
    let program = program();
    let chosen = ["--probabilities", "p.safetensors", "--probability-labels", "structure 3,0"];
    for grid in [Grid::Volume, Grid::Network] {
        let options = RunOptions {
            probabilities: vec![3, 0],
            probability_grid: grid,
            ..RunOptions::default()
        };
        let (labels, seen) = expected(&program, &options);
        let name = if grid == Grid::Volume { "volume" } else { "network" };
        for (element, dtype, most) in [
            ("f32", Dtype::F32, 0.0),
            ("f16", Dtype::F16, 1.0 / 4096.0),
            ("u8", Dtype::U8, 0.5 / 255.0 + 1e-6),
        ] {
            let kind = ["--probability-type", element, "--probability-grid", name];
            let (found, report) = segmented(&program, &[&chosen[..], &kind].concat());
            assert_eq!(found, labels);
            assert_eq!(report["outputs"]["probabilities"], "p.safetensors");
            let (stored, shape, values, metadata) = probabilities(&program);
            assert_eq!(stored, dtype);
            if grid == Grid::Volume {
                assert_eq!(shape, [2, DIMS[2], DIMS[1], DIMS[0]]);
                assert_eq!(metadata["spacing_mm"], "[1.5,1.5,2.0]");
            }
            assert_eq!(values.len(), seen.probabilities.len());
            for (found, expected) in values.iter().zip(&seen.probabilities) {
                assert!((found - expected).abs() <= most, "{found} {expected} {element} {name}");
            }
            assert_eq!(metadata["grid"], name);
            let labels = json!([
                { "value": 3, "name": "structure 3" },
                { "value": 0, "name": "background" },
            ]);
            assert_eq!(metadata["labels"], labels.to_string());
        }
    }
    // All labels, unless some are named; and they add up to one.
    segmented(&program, &chosen[..2]);
    let (_, shape, values, _) = probabilities(&program);
    let voxels = DIMS.iter().product::<usize>();
    assert_eq!(shape[0], 5);
    for voxel in 0..voxels {
        let sum: f32 = (0..5).map(|label| values[label * voxels + voxel]).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
}

/// However the axes of a volume lie, and so whichever of them is cut into slabs.
#[test]
fn probabilities_find_their_place_along_every_axis() {
    let program = program();
    for dims in [[12, 20, 60], [60, 12, 20], [20, 60, 12]] {
        let mut noise = Noise(7);
        let voxels: Vec<u8> =
            (0..dims.iter().product()).map(|_| (100.0 + 90.0 * noise.next()) as u8).collect();
        program.image("ct.nii.gz", &voxels, dims, &geometry());
        program.succeed(&with(&["--probabilities", "p.safetensors"]));
        let options = RunOptions { probabilities: vec![0, 1, 2, 3, 4], ..RunOptions::default() };
        let (_, seen) = expected(&program, &options);
        let (_, _, values, _) = probabilities(&program);
        assert!(values == seen.probabilities, "{dims:?}");
    }
}

#[test]
fn probabilities_that_cannot_be_are_refused() {
    let program = program();
    let asked = ["--probabilities", "p.safetensors"];
    let also = |further: &[&'static str]| with(&[&asked[..], further].concat());
    program.fail(&with(&["--probability-type", "f16"]), 2, "--probabilities");
    program.fail(&also(&["--export", "labels"]), 2, "leave out --export");
    program.fail(&also(&["--probability-labels", "9"]), 2, "no label `9`");
    program.fail(&also(&["--probability-labels", "2,structure 2"]), 2, "named twice");
    program.fail(&with(&["--probabilities", "labels.nii.gz"]), 6, "is also another output");
    program.fail(&with(&["--probabilities", "none/p.safetensors"]), 6, "does not exist");
    std::fs::create_dir(program.path("out")).unwrap();
    let batch = ["segment", "ct.nii.gz", "-m", "model.safetensors", "-o", "out/"];
    program.fail(&[&batch[..], &asked].concat(), 2, "--probabilities is for one case");
    let mask = ["--region-mask", "ct.nii.gz"];
    program.fail(&[&batch[..], &mask].concat(), 2, "--region-mask is for one case");
}

#[test]
fn regions_that_cannot_be_are_refused() {
    let program = program();
    program.fail(&with(&["--region", "0:41,0:5,0:5"]), 3, "region: found voxels [0..41");
    program.fail(&with(&["--region", "0:5,0:5"]), 2, "three ranges");
    program.fail(&with(&["--region", "0:5,5:5,0:5"]), 2, "not empty");
    let both = ["--region", "0:5,0:5,0:5", "--region-mask", "ct.nii.gz"];
    program.fail(&with(&both), 2, "cannot be used with");
    program.fail(&with(&["--skip-air=air"]), 2, "such as -900");
}

#[test]
fn bf16_and_int8_take_less_memory_and_find_nearly_the_same() {
    let program = program();
    let activations = |report: &Value| {
        let parts = report["memory"]["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["name"] == "activations of a tile");
        part.unwrap()["bytes"].as_u64().unwrap()
    };
    // How far convolutions write from their source depends on the threads, and on their kernels.
    let threads = ["1", "2", "3"];
    let [(single, of_one), (_, of_two), (_, of_three)] =
        threads.map(|threads| segmented(&program, &["--device", "cpu", "--threads", threads]));
    let of_single = [of_one, of_two, of_three].map(|report| activations(&report));
    // How many voxels there are for each that may differ.
    for (precision, of_each) in [("bf16", 20), ("int8", 10)] {
        let mut seen = Vec::new();
        for (threads, of_single) in threads.into_iter().zip(of_single) {
            let options = ["--device", "cpu", "--precision", precision, "--threads", threads];
            let (narrow, report) = segmented(&program, &options);
            assert_eq!(report["device"]["precision"], precision);
            let share = activations(&report) as f64 / of_single as f64;
            assert!((0.4..0.6).contains(&share), "{precision}, {threads} threads: {share}");
            let differ = single.iter().zip(&narrow).filter(|(a, b)| a != b).count();
            println!("{precision}: {differ} of {} voxels differ", single.len());
            assert!(
                differ > 0 && differ * of_each < single.len(),
                "{precision}: {differ} of {} voxels differ",
                single.len()
            );
            seen.push(narrow);
        }
        assert!(seen.windows(2).all(|two| two[0] == two[1]), "{precision}");
    }
    program.fail(
        &with(&["--device", "cpu", "--precision", "f16"]),
        2,
        "half precision needs a GPU",
    );
}

#[test]
fn a_plan_says_what_the_run_then_reports() {
    let program = program();
    let mask = vec![1; DIMS.iter().product::<usize>()];
    program.image("mask.nii.gz", &mask, DIMS, &geometry());
    let mut corner = vec![0; mask.len()];
    corner[mask.len() - 1] = 1;
    program.image("corner.nii.gz", &corner, DIMS, &geometry());
    for (options, outside) in [
        (&[][..], false),
        (&["--threads", "3", "--step", "0.25", "--mirror", "--sums", "f16", "--skip-air"], false),
        (&["--region-mask", "corner.nii.gz", "--mirror"], true),
        (&["--region", "0:3,0:20,17:18"], true),
        (&["--export", "labels", "--threads", "1", "--region-mask", "mask.nii.gz"], false),
        (
            &["--probabilities", "p.safetensors", "--probability-labels", "1", "--labels", "1"],
            false,
        ),
    ] {
        let before = program.files();
        let text = program.succeed(&plan(&[options, &["--json", "--no-timing"]].concat()));
        assert_eq!(program.files(), before);
        let planned: Value = serde_json::from_str(&text).unwrap();
        let (_, report) = segmented(&program, options);
        for name in ["estimated_bytes", "slab_planes", "prepared_volume_kept", "parts"] {
            assert_eq!(planned["memory"][name], report["memory"][name], "{options:?} {name}");
        }
        let parts = planned["memory"]["parts"].as_array().unwrap();
        let sum: u64 = parts.iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
        assert_eq!(planned["memory"]["estimated_bytes"], sum);
        assert_eq!(planned["run"]["tiles"], report["run"]["tiles"]);
        let skipped = &planned["run"]["skipped_tiles"];
        assert_eq!(skipped.as_u64().unwrap() > 0, outside, "{options:?}");
        if !options.contains(&"--skip-air") {
            assert_eq!(*skipped, report["run"]["skipped_tiles"], "{options:?}");
            assert_eq!(planned["run"]["network_passes"], report["run"]["network_passes"]);
        }
        assert_eq!(planned["options"], report["options"]);
        assert_eq!(planned["seconds"]["network"], Value::Null);
        let voxels = DIMS.iter().product::<usize>();
        let image = json!({ "name": "image", "bytes": voxels, "place": "host" });
        assert!(parts.contains(&image), "{parts:?}");
    }
    let text = program.succeed(&plan(&["--json"]));
    let planned: Value = serde_json::from_str(&text).unwrap();
    assert!(planned["seconds"]["network"].as_f64().unwrap() > 0.0);
    let text = program.succeed(&plan(&["--region-mask", "corner.nii.gz", "--skip-air"]));
    assert!(text.contains("of them outside the region; those of air count"), "{text}");
    let text = program.succeed(&plan(&[]));
    for part in
        ["40 x 20 x 18 voxels", "tiles", "about ", "least --memory", "slabs", "logits in f32"]
    {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn a_plan_needs_no_image() {
    let program = program();
    let volume = ["plan", "--volume", "40x20x18", "--spacing", "1.5x1.5x2", "--no-timing"];
    let model = ["-m", "model.safetensors", "--json"];
    let text = program.succeed(&[&volume[..], &model].concat());
    let planned: Value = serde_json::from_str(&text).unwrap();
    let text = program.succeed(&plan(&["--json", "--no-timing"]));
    let of_image: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(planned["run"], of_image["run"]);
    // Sixteen bits instead of eight.
    let voxels = DIMS.iter().product::<usize>() as u64;
    let bytes = |plan: &Value| plan["memory"]["least_bytes"].as_u64().unwrap();
    assert_eq!(bytes(&planned), bytes(&of_image) + voxels);
    program.fail(&["plan", "-m", "model.safetensors"], 2, "INPUT");
    program.fail(&[&volume[..], &["ct.nii.gz"], &model].concat(), 2, "cannot be used with");
    let outside = ["--region", "0:41,0:1,0:1"];
    program.fail(&[&volume[..], &outside, &model].concat(), 2, "region: found voxels");
}

#[test]
fn a_budget_is_refused_with_the_smallest_that_will_do() {
    let program = program();
    for options in [&[][..], &["--probabilities", "p.safetensors", "--probability-type", "u8"]] {
        let text = program.succeed(&plan(&[options, &["--json", "--no-timing"]].concat()));
        let planned: Value = serde_json::from_str(&text).unwrap();
        let least = planned["memory"]["least_bytes"].as_u64().unwrap();
        let part = format!("raise --memory to at least {least}\n");
        for too_little in [1, least / 2, least - 1].map(|bytes| bytes.to_string()) {
            let memory = [options, &["--memory", &too_little]].concat();
            program.fail(&plan(&memory), 5, &part);
            program.fail(&with(&memory), 5, &part);
        }
        let least = least.to_string();
        let memory = [options, &["--memory", &least]].concat();
        program.succeed(&plan(&memory));
        let (whole, _) = segmented(&program, options);
        let (found, _) = segmented(&program, &memory);
        assert_eq!(found, whole);
        for name in ["labels.nii.gz", "report.json"] {
            std::fs::remove_file(program.path(name)).unwrap();
        }
    }
}

#[test]
fn needs_are_told_without_reading_weights() {
    let program = program();
    let arguments = ["info", "model.safetensors", "--volume", "100x90x80", "--json"];
    let whole: Value = serde_json::from_str(&program.succeed(&arguments)).unwrap();
    assert!(whole["memory"]["host_bytes"].as_u64().unwrap() > 0);
    // Weights that are not numbers can't be loaded, but take as much.
    let bytes = std::fs::read(program.path("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut broken = bytes[..header].to_vec();
    broken.resize(bytes.len(), 0xff);
    std::fs::write(program.path("model.safetensors"), broken).unwrap();
    let found: Value = serde_json::from_str(&program.succeed(&arguments)).unwrap();
    assert_eq!(found["memory"], whole["memory"]);
    program.succeed(&plan(&["--no-timing"]));
    program.fail(&plan(&[]), 4, "NaN");
}
