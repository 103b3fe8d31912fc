//! Files that mean harm: each is refused with a message that says why, quickly, in bounded
//! memory, and leaves no output.

use std::fs;
use std::io::Write;
use std::path::Path;

use voxtile::Element;
use voxtile::convert::{Options, convert};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Opcodes of a pickle.
fn short_text(text: &str) -> Vec<u8> {
    [&[0x8c, text.len() as u8], text.as_bytes()].concat()
}

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

/// A whole pickle of protocol 2.
fn pickle(body: &[u8]) -> Vec<u8> {
    [&[0x80, 2][..], body, b"."].concat()
}

/// A tensor of the storage `0`.
fn tensor(length: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let storage = tuple(&[
        short_text("storage"),
        global("torch", "FloatStorage"),
        short_text("0"),
        short_text("cpu"),
        int(length),
    ]);
    let numbers = |values: &[i64]| tuple(&values.iter().map(|v| int(*v)).collect::<Vec<_>>());
    let arguments = tuple(&[
        [storage, b"Q".to_vec()].concat(),
        int(offset),
        numbers(shape),
        numbers(strides),
        vec![0x89],
        b"}".to_vec(),
    ]);
    [global("torch._utils", "_rebuild_tensor_v2"), arguments, b"R".to_vec()].concat()
}

/// A state dict of tensors.
fn state(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries
        .iter()
        .flat_map(|(name, value)| [short_text(name), value.clone()].concat())
        .collect();
    pickle(&[b"}(".to_vec(), entries, b"u".to_vec()].concat())
}

/// A zip of files; `deflate` compresses them.
fn zipped(files: &[(&str, &[u8])], deflate: bool) -> Vec<u8> {
    let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
    let options = SimpleFileOptions::default().compression_method(method);
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn checkpoint(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zipped(&[("a/data.pkl", pickle), ("a/data/0", storage)], false)
}

/// Converts the bytes as a file of this name, which must be refused for `reason`.
#[track_caller]
fn refused(name: &str, bytes: &[u8], reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join(name);
    fs::write(&source, bytes).unwrap();
    let plans = folder.path().join("plans.json");
    let dataset = folder.path().join("dataset.json");
    fs::write(&plans, PLANS).unwrap();
    fs::write(&dataset, r#"{"labels": {"background": 0, "liver": 1}}"#).unwrap();
    let options = match name.ends_with(".zip") {
        true => Options::default(),
        false => Options { plans: Some(plans), dataset: Some(dataset), ..Options::default() },
    };
    refused_path(&source, &options, reason);
    let mut left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[track_caller]
fn refused_path(source: &Path, options: &Options, reason: &str) {
    let output = source.with_file_name("model.safetensors");
    let began = std::time::Instant::now();
    let error = convert(&[source.to_owned()], &output, options, &mut ()).unwrap_err().to_string();
    assert!(error.contains(reason), "no `{reason}` in: {error}");
    assert!(!output.exists());
    // Generous: refusing takes milliseconds.
    assert!(began.elapsed().as_secs() < 20);
}

/// A checkpoint whose plans are this value, with no other plans beside it.
#[track_caller]
fn refused_plans(plans: &[u8], reason: &str) {
    let dictionary = |entries: &[(&str, Vec<u8>)]| {
        let entry = |(name, value): &(&str, Vec<u8>)| [short_text(name), value.clone()].concat();
        let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
        [b"}(".to_vec(), entries, b"u".to_vec()].concat()
    };
    let init = [("configuration", short_text("3d_fullres")), ("plans", plans.to_vec())];
    let weights = [("w", tensor(1, 0, &[1], &[1]))];
    let root = [("network_weights", dictionary(&weights)), ("init_args", dictionary(&init))];
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("x.pth");
    fs::write(&source, checkpoint(&pickle(&dictionary(&root)), &[0; 4])).unwrap();
    refused_path(&source, &Options::default(), reason);
}

const PLANS: &str = r#"{"configurations": {"3d_fullres": {"patch_size": [16, 16, 16],
    "spacing": [1, 1, 1], "normalization_schemes": ["NoNormalization"],
    "UNet_class_name": "PlainConvUNet", "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]]}}}"#;

#[test]
fn pickles_that_repeat_what_they_hold_take_bounded_memory() {
    // Plans with a text of a mebibyte, a hundred thousand times.
    let text = "x".repeat(1 << 20);
    let long = [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes(), b"q\x01"].concat();
    let again = b"h\x01".repeat(100_000);
    refused_plans(&[&b"]("[..], &long, &again, b"e"].concat(), "more than");
    // As keys.
    let entries = [&b"h\x01K\x01"[..]; 1000].concat();
    let keys = [&b"]("[..], &long, b"}(", &entries, b"ue"].concat();
    refused_plans(&keys, "more than");
    // Memos without end.
    let memos = [&b"N"[..], &[0x94; 4_100_000]].concat();
    refused("x.pth", &checkpoint(&pickle(&memos), &[]), "more than");
}

#[test]
fn pickles_that_call_are_refused() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("numpy", "load"),
    ] {
        let call = [global(module, name), tuple(&[short_text("touch /tmp/x")]), b"R".to_vec()];
        let call = pickle(&call.concat());
        refused("x.pth", &checkpoint(&call, b""), &format!("`{module}.{name}`"));
        refused("x.pth", &call, &format!("`{module}.{name}`"));
        // As protocol 4 names them.
        let named = [short_text(module), short_text(name), vec![0x93]].concat();
        refused("x.pth", &checkpoint(&pickle(&named), b""), &format!("`{module}.{name}`"));
    }
    // Objects of any class, and other ways to reach one.
    for opcode in [b'i', b'o', 0x82, 0x92, 0x97, b'P'] {
        let bytes = pickle(&[opcode, b'x', b'\n', b'y', b'\n']);
        refused("x.pth", &checkpoint(&bytes, b""), "opcode");
    }
}

#[test]
fn pickles_that_multiply_are_refused() {
    // Each list holds the one before twice: 2^60 values as JSON, 60 as a pickle.
    let mut doubling = b"]q\x00".to_vec();
    for index in 0..60u8 {
        doubling.extend([b'0', b']', b'q', index + 1, b'(', b'h', index, b'h', index, b'e']);
    }
    refused_plans(&doubling, "values take more than");

    // A text of 1 MB that is turned into bytes again and again.
    let text = "x".repeat(1 << 20);
    let length = (text.len() as u32).to_le_bytes();
    let mut bomb = [b"X", &length[..], text.as_bytes(), b"q\x00"].concat();
    bomb.extend([global("_codecs", "encode"), b"q\x01".to_vec()].concat());
    for _ in 0..100_000 {
        bomb.extend(b"h\x01h\x00\x85R0");
    }
    refused("x.pth", &checkpoint(&pickle(&bomb), b""), "copy more than");

    // A list of pairs that becomes a dictionary again and again.
    let mut bomb = b"](".to_vec();
    for _ in 0..100_000 {
        bomb.extend(b"NN\x86");
    }
    bomb.extend(b"eq\x00");
    bomb.extend([global("collections", "OrderedDict"), b"q\x01".to_vec()].concat());
    for _ in 0..100_000 {
        bomb.extend(b"h\x01h\x00\x85R0");
    }
    refused("x.pth", &checkpoint(&pickle(&bomb), b""), "copy more than");

    // Values without end.
    refused("x.pth", &checkpoint(&pickle(&vec![b'N'; 5 << 20]), b""), "more than 4000000 values");
    refused("x.pth", &checkpoint(&pickle(&vec![b'('; 5 << 20]), b""), "too many marks");

    // One value, on the stack or in the memo again and again.
    for opcode in [b'2', 0x94] {
        let again = [vec![b'N'], vec![opcode; 5 << 20]].concat();
        refused("x.pth", &checkpoint(&pickle(&again), b""), "more than 4000000 values");
    }
}

#[test]
fn pickles_that_nest_or_refer_wrongly_are_refused() {
    refused_plans(b"]q\x00(h\x00e", "nested more than");

    let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999]].concat();
    refused("x.pth", &checkpoint(&pickle(&deep), b""), "holds no dictionary of tensors");
    refused("x.pth", &checkpoint(&pickle(b"h\x07"), b""), "has no memo 7");
    refused("x.pth", &checkpoint(&pickle(b"q\x07"), b""), "not there");
    refused("x.pth", &checkpoint(&pickle(b"]N(a"), b""), "not there");
    refused("x.pth", &checkpoint(&pickle(b"t"), b""), "misses a mark");
    refused("x.pth", &checkpoint(&pickle(b"NNa"), b""), "appends to a plain value");
    refused("x.pth", &checkpoint(b"\x80\x02]", b""), "ends in the middle");
    refused("x.pth", &checkpoint(b"\x80\x02X\xff\xff\xff\xff", b""), "longer than");
    refused(
        "x.pth",
        &checkpoint(b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff", b""),
        "longer than",
    );
    refused("x.pth", &checkpoint(b"\x80\x63.", b""), "protocol is 99");
}

#[test]
fn tensors_that_lie_elsewhere_are_refused() {
    let of = |tensor: Vec<u8>| checkpoint(&state(&[("w", tensor)]), &[0; 64]);
    let lie = "do not lie in a storage";
    refused("x.pth", &of(tensor(16, 0, &[17], &[1])), lie);
    refused("x.pth", &of(tensor(16, 1, &[16], &[1])), lie);
    refused("x.pth", &of(tensor(16, 1 << 60, &[1], &[1])), lie);
    refused("x.pth", &of(tensor(16, 0, &[1 << 60], &[1])), lie);
    refused("x.pth", &of(tensor(16, 0, &[1 << 32, 1 << 32], &[0, 0])), lie);
    refused("x.pth", &of(tensor(16, 0, &[1 << 40], &[0])), lie);
    refused("x.pth", &of(tensor(16, 0, &[2, 2], &[1 << 62, 1])), lie);
    refused("x.pth", &of(tensor(16, 0, &[0], &[1])), lie);
    refused("x.pth", &of(tensor(1 << 60, 0, &[1], &[1])), "storage has 64 bytes");
    refused("x.pth", &of(tensor(16, -1, &[1], &[1])), "arguments that no checkpoint has");
    refused("x.pth", &of(tensor(16, 0, &[4], &[1, 1])), "arguments that no checkpoint has");
    refused("x.pth", &of(tensor(16, 0, &[1; 9], &[1; 9])), "has 9 axes");
    let missing = zipped(&[("a/data.pkl", &state(&[("w", tensor(1, 0, &[1], &[1]))]))], false);
    refused("x.pth", &missing, "is not in the file");
    let one = || tensor(16, 0, &[16], &[1]);
    let twice = checkpoint(&state(&[("w", one()), ("module.w", one())]), &[0; 64]);
    refused("x.pth", &twice, "tensor w is there twice");
    let other = checkpoint(&state(&[("w", one())]), &[0; 64]);
    refused("x.pth", &other, "is not supported; STU-Net");
}

#[test]
fn zips_that_grow_or_lead_elsewhere_are_refused() {
    let fold = "T__P__3d_fullres/fold_0/checkpoint_final.pth";
    for name in ["../evil", "/etc/evil", "a/../../evil", "C:\\evil", "a\\..\\evil"] {
        let bytes = zipped(&[(name, b"x"), (fold, b"x")], true);
        refused("x.zip", &bytes, "leads elsewhere");
    }
    let bomb = vec![0; 64 << 20];
    refused("x.zip", &zipped(&[(fold, &bomb)], true), "grows from");
    // A pickle that is a bomb: read up to a limit.
    let pickle = [&b"\x80\x02"[..], &vec![b'N'; 64 << 20]].concat();
    let bytes = zipped(&[("a/data.pkl", &pickle)], true);
    refused("x.pth", &bytes, "more than 4000000 values");
    let stored = state(&[("w", tensor(16, 0, &[16], &[1]))]);
    let bytes = zipped(&[("a/data.pkl", &stored), ("a/data/0", &[0; 64])], true);
    refused("x.pth", &bytes, "is compressed");
    let whole = zipped(&[("a/data.pkl", &stored), ("a/data/0", &[0; 64])], false);
    for length in (0..whole.len()).step_by(7) {
        // Wherever it is cut, an error, never a panic.
        refused("x.pth", &whole[..length], "");
    }
    refused("x.zip", b"PK\x05\x06", "");
    refused("x.zip", &zipped(&[("readme", b"x")], true), "holds no training");
}

#[test]
fn older_streams_that_end_early_or_lie_are_refused() {
    let magic = pickle(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
    let version = pickle(&int(1001));
    let machine = pickle(b"}");
    let object = state(&[("w", tensor(16, 0, &[16], &[1]))]);
    let keys = |keys: &[&str]| {
        let keys: Vec<u8> = keys.iter().flat_map(|key| short_text(key)).collect();
        pickle(&[b"](".to_vec(), keys, b"e".to_vec()].concat())
    };
    let stream = |keys: Vec<u8>, count: i64, bytes: usize| {
        [&magic, &version, &machine, &object, &keys, &count.to_le_bytes()[..], &vec![0; bytes]]
            .concat()
    };
    refused("x.pth", &stream(keys(&["0"]), 16, 64), "is not supported; STU-Net");
    refused("x.pth", &stream(keys(&["0"]), 16, 63), "ends after the file");
    refused("x.pth", &stream(keys(&["0"]), 1 << 62, 64), "ends after the file");
    refused("x.pth", &stream(keys(&["0"]), -1, 64), "ends after the file");
    refused("x.pth", &stream(keys(&["1"]), 16, 64), "belongs to no tensor");
    refused("x.pth", &stream(keys(&[]), 16, 64), "is not in the file");
    refused("x.pth", &pickle(&int(7)), "no checkpoint of PyTorch");
    refused("x.pth", b"", "neither a zip nor a pickle");
    let whole = stream(keys(&["0"]), 16, 64);
    for length in 0..whole.len() {
        refused("x.pth", &whole[..length], "");
    }
}

/// A network of two resolutions, all its tensors in one storage.
fn network(kernel: i64) -> Vec<(String, Vec<u8>)> {
    let conv = |name: &str, shape: &[i64]| {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        (name.to_owned(), tensor(54, 0, shape, &strides))
    };
    let mut tensors = Vec::new();
    for (block, inputs, depth) in [
        ("encoder.stages.0.0.convs.0", 1, 3),
        ("encoder.stages.1.0.convs.0", 1, 3),
        ("decoder.stages.0.convs.0", 2, kernel),
    ] {
        tensors.push(conv(&format!("{block}.conv.weight"), &[1, inputs, depth, 3, 3]));
        tensors.push(conv(&format!("{block}.norm.weight"), &[1]));
        tensors.push(conv(&format!("{block}.norm.bias"), &[1]));
    }
    tensors.push(conv("decoder.transpconvs.0.weight", &[1, 1, 2, 2, 2]));
    tensors.push(conv("decoder.transpconvs.0.bias", &[1]));
    tensors.push(conv("decoder.seg_layers.0.weight", &[2, 1, 1, 1, 1]));
    tensors.push(conv("decoder.seg_layers.0.bias", &[2]));
    tensors
}

#[test]
fn networks_that_are_another_or_no_numbers_are_refused() {
    let file = |kernel: i64, bad: Option<f32>| {
        let mut values = vec![0.5f32; 54];
        values[7] = bad.unwrap_or(0.5);
        let tensors = network(kernel);
        let tensors: Vec<(&str, Vec<u8>)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        checkpoint(&state(&tensors), bytemuck::cast_slice(&values))
    };
    refused("x.pth", &file(1, None), "tensor decoder.stages.0.convs.0.conv.weight has shape");
    refused("x.pth", &file(3, Some(f32::NAN)), "has the value NaN");
    refused("x.pth", &file(3, Some(f32::INFINITY)), "has the value inf");

    // A bit that fell over after the file was written.
    let mut damaged = file(3, None);
    let half = 0.5f32.to_le_bytes().repeat(54);
    let place = damaged.windows(half.len()).position(|bytes| bytes == half).unwrap();
    damaged[place] ^= 1;
    refused("x.pth", &damaged, "storage 0 has the checksum");

    // Numbers where tensors with axes belong.
    for name in ["encoder.stages.1.0.convs.0.conv.weight", "decoder.transpconvs.0.weight"] {
        let mut tensors = network(3);
        tensors.iter_mut().find(|(found, _)| found == name).unwrap().1 = tensor(54, 0, &[], &[]);
        for suffix in ["", "norm.running_mean"] {
            let mut tensors = tensors.clone();
            if !suffix.is_empty() {
                let block = "encoder.stages.1.0.convs.0";
                tensors.push((format!("{block}.{suffix}"), tensor(54, 0, &[1], &[1])));
            }
            let tensors: Vec<(&str, Vec<u8>)> =
                tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
            refused("x.pth", &checkpoint(&state(&tensors), &[0; 216]), "");
        }
    }

    // The same without a fault is a model; values beyond half precision need a wider type.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("plans.json"), PLANS).unwrap();
    fs::write(path("dataset.json"), r#"{"labels": {"background": 0, "liver": 1}}"#).unwrap();
    fs::write(path("x.pth"), file(3, Some(1e6))).unwrap();
    let options = |element| Options {
        plans: Some(path("plans.json")),
        dataset: Some(path("dataset.json")),
        element: Some(element),
        ..Options::default()
    };
    let output = path("model.safetensors");
    convert(&[path("x.pth")], &output, &options(Element::Bf16), &mut ()).unwrap();
    let model = voxtile::Model::open(&output).unwrap();
    assert_eq!(model.package().labels[1].name, "liver");
    fs::remove_file(&output).unwrap();
    refused_path(&path("x.pth"), &options(Element::F16), "beyond the range of f16");
}
