//! The program with images of every format.

use crate::common::{Noise, SeededModel};
use crate::program::Program;
use safetensors::SafeTensors;
use voxtile::Geometry;
use voxtile::base::Pool;
use voxtile::formats::{self, Image, Labels, OutputFile, nrrd, write_labels};

const DIMS: [usize; 3] = [24, 20, 18];

/// Codes of TotalSegmentator's table for two of the labels.
fn program() -> Program {
    let mut model = SeededModel::small([16, 16, 16], 5);
    let labels = model.document["labels"].as_array_mut().unwrap();
    labels[1]["code"] = "SCT:64033007".into();
    labels[1]["name"] = "kidney_left".into();
    labels[1]["color"] = serde_json::json!([1, 2, 3]);
    let program = Program::new(&model.bytes());
    let mut noise = Noise(3);
    let count = DIMS.iter().product();
    let voxels: Vec<u8> = (0..count).map(|_| (100.0 + 90.0 * noise.next()) as u8).collect();
    let (sine, cosine) = (0.6, 0.8);
    let geometry = Geometry {
        spacing: [1.5, 1.5, 2.0],
        origin: [-30.5, 12.25, 700.0],
        direction: [[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]],
    };
    for name in ["ct.nii.gz", "ct.nrrd", "ct.nhdr", "ct.mha", "ct.mhd"] {
        let output = OutputFile::create(&program.path(name)).unwrap();
        write_labels(output, Labels::U8(&voxels), DIMS, &geometry, &[], &Pool::serial()).unwrap();
    }
    program
}

fn segment(program: &Program, input: &str, output: &str, further: &[&str]) -> Image {
    let arguments = ["segment", input, "-m", "model.safetensors", "-o", output];
    program.succeed(&[&arguments[..], further].concat());
    formats::read(&program.path(output)).unwrap()
}

#[test]
fn labels_are_the_same_in_every_format() {
    let program = program();
    let expected = segment(&program, "ct.nii.gz", "labels.nii.gz", &[]);
    for (input, output) in [
        ("ct.nrrd", "a.nrrd"),
        ("ct.nhdr", "b.nhdr"),
        ("ct.mha", "c.mha"),
        ("ct.mhd", "d.mhd"),
        ("ct.nrrd", "e.seg.nrrd"),
    ] {
        let found = segment(&program, input, output, &[]);
        assert_eq!(found.bytes, expected.bytes, "{output}");
        assert!((found.geometry.origin[0] - expected.geometry.origin[0]).abs() < 1e-4);
    }
    let text = program.succeed(&["compare", "labels.nii.gz", "d.mhd"]);
    assert!(text.contains("0 of 8640 voxels differ"), "{text}");

    let segments = nrrd::read_segments(&program.path("e.seg.nrrd")).unwrap();
    let mut present: Vec<u8> = expected.bytes.iter().copied().filter(|v| *v > 0).collect();
    present.sort_unstable();
    present.dedup();
    let values: Vec<u32> = present.iter().map(|value| u32::from(*value)).collect();
    assert_eq!(segments.iter().map(|s| s.value).collect::<Vec<_>>(), values);
    let kidney = segments.iter().find(|segment| segment.value == 1).unwrap();
    assert_eq!((kidney.name.as_str(), kidney.color), ("kidney_left", Some([1, 2, 3])));
    let terminology = kidney.terminology.as_ref().unwrap();
    assert_eq!(terminology.kind.meaning, "Kidney");
    assert_eq!(terminology.modifier.as_ref().unwrap().meaning, "Left");
    // The segmentation's names are taken where there is no model.
    let text = program.succeed(&["statistics", "e.seg.nrrd"]);
    assert!(text.contains("kidney_left"), "{text}");
}

#[test]
fn probabilities_are_images_where_the_name_says_so() {
    let program = program();
    let with = |name: &str, further: &[&str]| {
        let arguments = [&["--probabilities", name][..], further].concat();
        segment(&program, "ct.nrrd", "labels.nrrd", &arguments);
    };
    with("p.safetensors", &[]);
    let bytes = std::fs::read(program.path("p.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let expected = tensors.tensor("probabilities").unwrap().data().to_vec();
    for name in ["p.nrrd", "p.nii", "p.mha"] {
        with(name, &[]);
        let image = formats::read(&program.path(name)).unwrap();
        assert_eq!((image.dims, image.channels), (DIMS, 5), "{name}");
        assert_eq!(image.bytes, expected, "{name}");
    }
    with("one.nrrd", &["--probability-labels", "2", "--probability-type", "u8"]);
    let image = formats::read(&program.path("one.nrrd")).unwrap();
    assert_eq!((image.dims, image.channels), (DIMS, 1));
    let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&expected);
    let third = floats.chunks(DIMS.iter().product()).nth(2).unwrap();
    let rounded: Vec<u8> = third.iter().map(|p| (p * 255.0).round() as u8).collect();
    assert_eq!(image.bytes, rounded);

    let arguments = ["segment", "ct.nrrd", "-m", "model.safetensors", "-o", "x.nrrd"];
    let fail = |further: &[&str], code, part: &str| {
        program.fail(&[&arguments[..], further].concat(), code, part);
    };
    fail(&["--probabilities", "q.nii.gz"], 6, ".safetensors, .nii, .nrrd or .mha");
    fail(&["--probabilities", "q.nrrd", "--probability-type", "f16"], 2, "half precision");
    fail(&["--probabilities", "q.mha", "--probability-grid", "network"], 2, "lies where");
}

#[test]
fn outputs_and_their_data_files_overwrite_no_input() {
    let program = program();
    let arguments = ["segment", "ct.mhd", "-m", "model.safetensors", "-o"];
    program.fail(&[&arguments[..], &["labels.png"]].concat(), 6, ".seg.nrrd");
    program.fail(&[&arguments[..], &["ct.mhd"]].concat(), 6, "is also an input");
    program.fail(&[&arguments[..], &["ct.seg"]].concat(), 6, ".nii.gz");
    std::fs::rename(program.path("ct.nrrd"), program.path("labels.zraw")).unwrap();
    let arguments = ["segment", "labels.zraw", "-m", "model.safetensors", "-o", "labels.mhd"];
    program.fail(&arguments, 6, "labels.zraw is also an input");
}

#[test]
fn folders_and_masks_may_be_of_any_format() {
    let program = program();
    std::fs::create_dir(program.path("scans")).unwrap();
    for (from, to) in [("ct.nrrd", "scans/a.nrrd"), ("ct.mha", "scans/b.mha")] {
        std::fs::copy(program.path(from), program.path(to)).unwrap();
    }
    let text = program.succeed(&["segment", "scans", "-m", "model.safetensors", "-o", "out/"]);
    assert!(text.contains("2 cases: 2 done"), "{text}");
    let whole = segment(&program, "ct.nrrd", "whole.seg.nrrd", &[]);
    let masked = segment(&program, "ct.mha", "x.mha", &["--region-mask", "whole.seg.nrrd"]);
    assert_eq!(masked.bytes, whole.bytes);
    program.succeed(&["plan", "ct.mhd", "-m", "model.safetensors", "--no-timing"]);
}
