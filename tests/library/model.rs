//! Packages: what is read from good ones, and what is said of each kind of bad one.

use std::path::Path;

use crate::common::SeededModel;
use proptest::prelude::*;
use serde_json::{Value, json};
use voxtile::base::mapping::Loading;
use voxtile::net::{ParameterId, Weights};
use voxtile::{Error, Model};

fn small() -> SeededModel {
    SeededModel::small([8; 3], 4)
}

fn refused(bytes: Vec<u8>) -> String {
    match Model::from_bytes(bytes) {
        Err(error @ (Error::Format { .. } | Error::Unsupported(_))) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

/// The small model with its document changed.
fn with(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut model = small();
    change(&mut model.document);
    model.bytes()
}

/// The header's JSON and the data of a file.
fn split(bytes: &[u8]) -> (Value, &[u8]) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), &bytes[8 + length..])
}

fn joined(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The small model with its header changed.
fn with_header(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let bytes = small().bytes();
    let (mut header, data) = split(&bytes);
    change(&mut header);
    joined(&header, data)
}

#[test]
fn published_sizes_have_their_number_of_parameters() {
    // Parameters at 1 input channel and 105 classes, heads of deep supervision included.
    for (first, blocks, total) in
        [(16, 1, 14_596_941u64), (32, 1, 58_262_669), (64, 2, 440_302_605), (96, 3, 1_457_326_221)]
    {
        let mut model = SeededModel::stunet(first, 105);
        model.blocks = blocks;
        let stored: u64 = model
            .tensors()
            .iter()
            .map(|(_, shape)| shape.iter().map(|&extent| extent as u64).product::<u64>())
            .sum();
        let unused_heads: u64 =
            model.channels[1..5].iter().map(|&channels| 105 * (channels as u64 + 1)).sum();
        assert_eq!(stored + unused_heads, total, "{first} channels");
    }
    // What a package says it has is what is in the file.
    let model = Model::from_bytes(SeededModel::stunet(16, 105).bytes()).unwrap();
    let heads: u64 = [32, 64, 128, 256].iter().map(|channels| 105 * (channels + 1)).sum();
    assert_eq!(model.parameters() + heads, 14_596_941);
}

#[test]
fn mapped_and_read_files_are_the_same_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo.safetensors");
    let mapped = Model::open(&path).unwrap();
    let read = Model::open_with(&path, Loading::Read).unwrap();
    assert_eq!(mapped.package(), read.package());
    assert_eq!(mapped.network(0), read.network(0));
    for id in 0..mapped.network(0).parameters.len() {
        let id = ParameterId(id);
        let weights = [mapped.weights(0), read.weights(0)];
        let [mapped, read] = weights.each_ref().map(|weights| weights.parameter(0, id).unwrap());
        assert_eq!(mapped, read);
    }
}

#[test]
fn biases_that_are_cancelled_and_unused_heads_may_be_absent_or_present() {
    let bytes = small().bytes();
    let (mut header, data) = split(&bytes);
    let mut data = data.to_vec();
    let start = data.len();
    data.extend_from_slice(&[0; 4 * 4 * 10]);
    header["seg_outputs.0.weight"] = json!({
        "dtype": "F32", "shape": [4, 10, 1, 1, 1], "data_offsets": [start, start + 160]
    });
    Model::from_bytes(joined(&header, &data)).unwrap();
    header["seg_outputs.0.weight"]["shape"] = json!([10, 4, 1, 1, 1]);
    let text = refused(joined(&header, &data));
    assert!(text.contains("seg_outputs.0.weight has shape [10, 4, 1, 1, 1], expected [4, 10,"));
}

fn part(document: &mut Value) -> &mut Value {
    &mut document["parts"][0]
}

fn resampling(image: u8, scores: u8) -> Value {
    let by = |order| json!({ "order": order, "separate_axis": "auto" });
    json!({ "image": by(image), "scores": by(scores) })
}

fn largest(labels: Value, connectivity: u8) -> Value {
    json!([{ "step": "largest_component", "labels": labels, "connectivity": connectivity }])
}

#[test]
fn every_bad_field_is_named() {
    type Change = fn(&mut Value);
    let cases: &[(Change, &str)] = &[
        (|d| d["format_version"] = json!(2), "format version is 2; this voxtile reads version 1"),
        (|d| d["format_version"] = json!("1"), "can't be used"),
        (|d| part(d)["patch"] = Value::Null, "can't be used"),
        (|d| d["surprise"] = json!(1), "unknown field `surprise`"),
        (
            |d| part(d)["architecture"]["family"] = json!("unet"),
            "unknown variant `unet`, expected one of `stunet`",
        ),
        (|d| part(d)["architecture"]["channels"][1] = json!(0), "0 channels, expected 1 to 16384"),
        (|d| part(d)["architecture"]["channels"][1] = json!(1u64 << 40), "expected 1 to 16384"),
        (|d| part(d)["architecture"]["channels"] = json!([8]), "channels has 1 entries"),
        (|d| part(d)["architecture"]["slope"] = json!(1.5), "slope 1.5"),
        (|d| part(d)["architecture"]["epsilon"] = json!(0), "epsilon 0"),
        (|d| part(d)["architecture"]["stem_channels"] = json!(8), "of residual encoders only"),
        (
            |d| part(d)["architecture"]["decoder_blocks"] = json!([1]),
            "decoder_blocks has 1 entries",
        ),
        (|d| part(d)["architecture"]["blocks"] = json!([1, 1]), "blocks has 2 entries, expected 3"),
        (|d| part(d)["architecture"]["blocks"][0] = json!(1000), "blocks has 1000"),
        (|d| part(d)["architecture"]["strides"][0] = json!([3, 1, 1]), "expected 1 or 2 per axis"),
        (
            |d| part(d)["architecture"]["kernels"][2] = json!([1, 3, 3]),
            "STU-Net's are all [3, 3, 3]",
        ),
        (|d| part(d)["architecture"]["classes"] = json!(0), "classes is 0, expected 1 to 65535"),
        (|d| part(d)["architecture"]["classes"] = json!(5), "output has 4 values, expected 5"),
        (
            |d| part(d)["architecture"]["input_channels"] = json!(2),
            "input_channels is 2, expected 1",
        ),
        (|d| part(d)["patch"] = json!([8, 10, 8]), "10 is no multiple of"),
        (|d| part(d)["patch"] = json!([8, 0, 8]), "expected 1 to 1024"),
        (|d| part(d)["patch"] = json!([8, 1u64 << 40, 8]), "expected 1 to 1024"),
        (|d| part(d)["patch"] = json!([8, -8, 8]), "can't be used"),
        (|d| part(d)["spacing"] = json!([1.5, 0.0, 1.5]), "spacing is [1.5, 0.0, 1.5] mm"),
        (|d| part(d)["spacing"] = json!([1.5, -1.0, 1.5]), "spacing is"),
        (|d| part(d)["axes"]["transpose"] = json!([0, 1, 1]), "expected an order of 0, 1, 2"),
        (|d| part(d)["axes"]["orientation"] = json!("lps"), "unknown variant `lps`"),
        (|d| part(d)["generation"] = json!("magic"), "unknown variant `magic`"),
        (|d| part(d)["blend"] = json!("max"), "unknown variant `max`"),
        (|d| part(d)["mirror_axes"] = json!([0, 3]), "expected distinct axes"),
        (|d| part(d)["mirror_axes"] = json!([1, 1]), "expected distinct axes"),
        (|d| part(d)["folds"] = json!([]), "folds has 0 entries"),
        (|d| part(d)["folds"] = json!(["a/b"]), "expected names of letters"),
        (
            |d| {
                part(d)["normalization"][0] = json!({ "scheme": "ct", "lower": 1.0, "upper": 0.0,
            "mean": 0.0, "deviation": 1.0 })
            },
            "lower < upper",
        ),
        (
            |d| part(d)["normalization"][0] = json!({ "scheme": "ct", "lower": 1.0 }),
            "missing field",
        ),
        (|d| part(d)["normalization"][0] = json!({ "scheme": "histogram" }), "unknown variant"),
        (|d| d["labels"][2]["value"] = json!(0), "has value 0 after 1, expected ascending values"),
        (|d| d["labels"][3]["value"] = json!(70_000), "has value 70000 after 2, expected"),
        (|d| d["labels"][0]["value"] = json!(1), "labels begins with value 1"),
        (|d| d["labels"] = json!([d["labels"][0]]), "labels has 1 entries"),
        (|d| d["parts"] = json!([]), "parts has 0 entries"),
        (
            |d| d["parts"] = json!([part(d), part(d)]),
            "part 1 is named \"main\", expected a distinct",
        ),
        (|d| part(d)["name"] = json!("a.b"), "expected a distinct name of letters"),
        (
            |d| part(d)["previous"] = json!("lowres"),
            "previous is \"lowres\", expected the name of an",
        ),
        (|d| part(d)["previous"] = json!("main"), "expected the name of an earlier part"),
        (|d| part(d)["output"] = json!({ "classes": [0, 1, 2, 2] }), "output has duplicates"),
        (|d| part(d)["output"] = json!({ "classes": [1, 0, 2, 3] }), "expected 0, the background"),
        (|d| part(d)["output"] = json!({ "classes": [0, 1, 2, 9] }), "output 3 has the value 9"),
        (|d| part(d)["output"] = json!({ "regions": [0, 1, 2, 3] }), "output 0 has the value 0"),
        (|d| part(d)["resampling"] = resampling(2, 1), "order 2 for the image and 1 for"),
        (|d| part(d)["resampling"] = resampling(3, 3), "order 3 for the image and 3 for"),
        (|d| d["postprocessing"] = largest(json!([9]), 6), "labels [9], expected values of"),
        (|d| d["postprocessing"] = largest(json!([1]), 18), "connectivity is 18, expected 6 or 26"),
        (|d| d["labels"][2]["name"] = json!("structure 1"), "used twice"),
        (|d| d["labels"][2]["name"] = json!(" "), "is empty or used twice"),
        (|d| d["labels"][2]["code"] = json!("78961009"), "expected SCHEME:CODE"),
        (|d| d["labels"][2]["name"] = json!("a\0b"), "zero byte"),
        (|d| d["provenance"]["files"] = json!([{ "name": "x", "sha256": "12" }]), "64 hexadecimal"),
        (|d| d["name"] = json!(""), "name is empty"),
    ];
    for (change, expected) in cases {
        let text = refused(with(change));
        assert!(text.contains(expected), "expected {expected:?} in {text:?}");
        assert!(text.contains("model in memory"), "{text}");
    }
    refused(with(|d| part(d)["folds"] = json!(["0", "0"])));
    // A document that is deep enough to exhaust a naive parser's stack.
    let deep = with_header(|header| {
        header["__metadata__"]["voxtile"] = json!("[".repeat(1_000_000));
    });
    assert!(refused(deep).contains("can't be used"));
}

#[test]
fn every_bad_tensor_is_named() {
    let name = "conv_blocks_context.1.0.conv1.weight";
    let text = refused(with_header(|header| {
        let tensor = header.as_object_mut().unwrap().remove(name).unwrap();
        header["conv_blocks_context.1.0.conv9.weight"] = tensor;
    }));
    assert!(text.contains(&format!("tensor {name} is missing")), "{text}");

    let bytes = small().bytes();
    let (mut header, data) = split(&bytes);
    let mut data = data.to_vec();
    let start = data.len();
    data.extend_from_slice(&[0; 8]);
    header["extra"] = json!({ "dtype": "F32", "shape": [2], "data_offsets": [start, start + 8] });
    let text = refused(joined(&header, &data));
    assert!(text.contains("tensor extra is not part of the architecture"), "{text}");

    let text = refused(with_header(|header| {
        let shape = header[name]["shape"].as_array_mut().unwrap();
        shape.swap(0, 1);
    }));
    assert!(text.contains(&format!("tensor {name} has shape [6, 10, 3, 3, 3], expected [10, 6")));

    let text = refused(with_header(|header| header[name]["dtype"] = json!("I32")));
    assert!(text.contains(&format!("tensor {name} is of type I32, expected F32, F16 or BF16")));

    let text = refused(with_header(|header| {
        header.as_object_mut().unwrap().remove("__metadata__");
    }));
    assert!(text.contains("no voxtile model package"), "{text}");

    for change in [json!([0, 1]), json!([5, 4]), json!([u64::MAX - 4, u64::MAX]), json!([0, -1])] {
        let text = refused(with_header(|header| header[name]["data_offsets"] = change));
        assert!(text.contains("no intact safetensors file"), "{text}");
    }
    let text = refused(with_header(|header| header[name]["shape"] = json!([u64::MAX, u64::MAX])));
    assert!(text.contains("no intact safetensors file"), "{text}");
}

#[test]
fn damaged_files_are_said_to_be_damaged() {
    let bytes = small().bytes();
    for length in [0, 1, 7, 8, 9, 100, bytes.len() - 1] {
        let text = refused(bytes[..length].to_vec());
        assert!(text.contains("no intact safetensors file"), "{length}: {text}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(refused(longer).contains("no intact safetensors file"));
    let mut huge = bytes;
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refused(huge).contains("no intact safetensors file"));
    assert!(refused(b"PK\x03\x04 a zip of a checkpoint".to_vec()).contains("no intact"));

    let folder = tempfile::tempdir().unwrap();
    let text = Model::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("is a folder"), "{text}");
    let empty = folder.path().join("empty.safetensors");
    std::fs::write(&empty, b"").unwrap();
    let text = Model::open(&empty).unwrap_err().to_string();
    assert!(text.contains("empty.safetensors") && text.contains("no intact"), "{text}");
    let missing = folder.path().join("missing.safetensors");
    let text = Model::open(&missing).unwrap_err().to_string();
    assert!(text.contains("missing.safetensors") && text.contains("No such file"), "{text}");
}

#[test]
fn values_that_are_not_finite_are_found_when_they_are_loaded() {
    let bytes = small().bytes();
    let (header, data) = split(&bytes);
    let name = "upsample_layers.0.conv.weight";
    let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut data = data.to_vec();
    data[start + 8..start + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    let model = std::sync::Arc::new(Model::from_bytes(joined(&header, &data)).unwrap());
    let text = voxtile::Session::new(model, &Default::default()).err().unwrap().to_string();
    assert!(text.contains(&format!("tensor {name} has the value NaN at 2")), "{text}");
}

proptest! {
    #[test]
    fn damage_anywhere_never_panics(at in 0.0f64..1.0, bit in 0u8..8, keep in 0.0f64..1.0) {
        let mut bytes = small().bytes();
        // Most of the file is weights; damage to the header is the interesting one.
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let place = (header as f64 * at) as usize;
        bytes[place] ^= 1 << bit;
        let _ = Model::from_bytes(bytes.clone());
        bytes.truncate((bytes.len() as f64 * keep) as usize);
        prop_assert!(Model::from_bytes(bytes).is_err());
    }
}
