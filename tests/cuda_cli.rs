//! The program on an emulated GPU, and without one.
#![cfg(feature = "cuda")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/emulator.rs"]
mod emulator;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Noise, SeededModel};
use emulator::Driver;
use serde_json::{Value, json};
use voxtile::Geometry;
use voxtile::base::Pool;
use voxtile::formats::{OutputFile, nifti};

/// A folder with a model and an image, and the program that runs there.
struct Place {
    folder: tempfile::TempDir,
}

/// The driver that a run finds, and the emulator's settings.
type Environment<'a> = (Driver, &'a [(&'a str, &'a str)]);

impl Place {
    fn new(model: &[u8], dims: [usize; 3]) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(place.path("model.safetensors"), model).unwrap();
        let mut noise = Noise(7);
        let voxels: Vec<u8> =
            (0..dims.iter().product()).map(|_| (noise.next() * 60.0 + 100.0) as u8).collect();
        let output = OutputFile::create(&place.path("image.nii.gz")).unwrap();
        let geometry = Geometry::axis_aligned([1.2, 1.5, 2.0]);
        nifti::write_labels(output, nifti::Labels::U8(&voxels), dims, &geometry, &Pool::serial())
            .unwrap();
        place
    }

    /// Some tiles of a small network with random weights.
    fn small() -> Self {
        Self::new(&SeededModel::small([16, 16, 16], 5).bytes(), [26, 20, 18])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, (driver, settings): Environment, arguments: &[&str]) -> Output {
        let mut program = emulator::program();
        program.current_dir(self.folder.path()).args(arguments);
        driver.set(&mut program, settings);
        let output = program.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "{text}");
        // A GPU that failed gives nothing back before its context ends.
        let failing = settings.iter().any(|(name, _)| *name == "FAULT");
        assert!(failing || !text.contains("voxtile emulator:"), "{text}");
        output
    }

    /// Runs the program and expects success; what it says on standard output and error.
    #[track_caller]
    fn succeed(&self, environment: Environment, arguments: &[&str]) -> [String; 2] {
        let output = self.run(environment, arguments);
        let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {texts:?}");
        texts
    }

    /// Runs the program, which must fail with a code and leave no file behind; what it says.
    #[track_caller]
    fn fail(&self, environment: Environment, arguments: &[&str], code: i32) -> String {
        let files = || std::fs::read_dir(self.folder.path()).unwrap().count();
        let before = files();
        let output = self.run(environment, arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert_eq!(files(), before);
        text
    }

    /// Segments the image with further arguments; the label map's bytes and the report.
    #[track_caller]
    fn segment(&self, environment: Environment, further: &[&str]) -> (Vec<u8>, Value) {
        let (labels, report, _) = self.segment_told(environment, further);
        (labels, report)
    }

    /// As `segment`, with what is said on standard error.
    #[track_caller]
    fn segment_told(&self, environment: Environment, further: &[&str]) -> (Vec<u8>, Value, String) {
        let mut arguments = vec!["segment", "image.nii.gz", "-m", "model.safetensors"];
        arguments.extend(["-o", "labels.nii", "--report", "report.json"]);
        arguments.extend(further);
        let [_, told] = self.succeed(environment, &arguments);
        let report = std::fs::read_to_string(self.path("report.json")).unwrap();
        let labels = std::fs::read(self.path("labels.nii")).unwrap();
        (labels, serde_json::from_str(&report).unwrap(), told)
    }

    fn plan(&self, environment: Environment, further: &[&str]) -> Value {
        let mut arguments = vec!["plan", "image.nii.gz", "-m", "model.safetensors", "--json"];
        arguments.extend(further);
        let [text, _] = self.succeed(environment, &arguments);
        serde_json::from_str(&text).unwrap()
    }
}

const SEGMENT: &[&str] =
    &["segment", "image.nii.gz", "-m", "model.safetensors", "-o", "labels.nii", "--device", "cuda"];

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    path.to_str().unwrap().into()
}

fn devices(environment: Environment) -> Value {
    let [text, _] = Place::small().succeed(environment, &["devices", "--json"]);
    serde_json::from_str(&text).unwrap()
}

/// Whether this machine has no driver of its own; says so if it has.
fn without_driver() -> bool {
    let found = devices((Driver::Machine, &[]));
    let none = found["no_gpu"].as_str().is_some_and(|why| why.contains("libcuda"));
    if !none {
        println!("left out: this machine has an NVIDIA driver: {found}");
    }
    none
}

/// A driver that is older than voxtile's kernels, or whose GPU is.
fn old_driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/old_driver.c");
    let mut compiler = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
    compiler.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("libcuda.so.1")).arg(source);
    assert!(compiler.status().unwrap().success());
    folder
}

#[test]
fn devices_are_listed() {
    let Some(driver) = emulator::emulated() else { return };
    let settings = [("DEVICES", "2"), ("CAPABILITY", "8.6"), ("MEMORY", "3221225472")];
    let found = devices((driver, &settings));
    assert_eq!(found["no_gpu"], Value::Null);
    let [cpu, first, second] = &found["devices"].as_array().unwrap()[..] else {
        panic!("{found}");
    };
    assert_eq!((&cpu["device"], &cpu["gpu"]), (&"cpu".into(), &Value::Null));
    for (device, ordinal) in [(first, 0), (second, 1)] {
        assert_eq!(device["device"], format!("cuda:{ordinal}"));
        assert_eq!(device["memory_total_bytes"], 3u64 << 30);
        assert_eq!(device["memory_free_bytes"], 3u64 << 30);
        let gpu = &device["gpu"];
        assert_eq!((&gpu["ordinal"], &gpu["kernels"]), (&ordinal.into(), &"sm_86".into()));
        assert_eq!(gpu["compute_capability"], "8.6");
        assert!(gpu["driver_cuda"].as_str().unwrap().starts_with("12."), "{gpu}");
    }
    let [text, _] = Place::small().succeed((driver, &settings), &["devices"]);
    let line = text.lines().find(|line| line.starts_with("cuda:1 ")).unwrap();
    for part in ["3.00 GiB of memory", "free", "compute capability 8.6", "kernels sm_86"] {
        assert!(line.contains(part), "no `{part}` in: {line}");
    }

    if without_driver() {
        let [text, _] = Place::small().succeed((Driver::Machine, &[]), &["devices"]);
        assert!(text.contains("no GPU: no NVIDIA driver was found"), "{text}");
    }
}

/// Of the demonstration on a part of a CT, by the emulated GPU in half precision.
#[test]
fn labels_agree_with_the_processor_s() {
    let Some(driver) = emulator::gpu() else { return };
    let place = Place::new(&std::fs::read(example("demo.safetensors")).unwrap(), [1, 1, 1]);
    std::fs::copy(example("ct_part.nii.gz"), place.path("image.nii.gz")).unwrap();
    let cuda = (driver, &[][..]);
    let (ours, report) = place.segment(cuda, &[]);
    assert_eq!(report["device"]["kind"], "cuda");
    assert_eq!(report["device"]["precision"], "f16");
    assert_eq!(report["device"]["fallback"], Value::Null);
    let [gpu, host] = ["gpu", "host"].map(|place| {
        let parts = report["memory"]["parts"].as_array().unwrap().iter();
        parts
            .filter(|part| part["place"] == place)
            .map(|part| part["bytes"].as_u64().unwrap())
            .sum::<u64>()
    });
    assert_eq!(report["memory"]["estimated_gpu_bytes"], gpu);
    assert_eq!(report["memory"]["estimated_bytes"], host);

    let further = ["--device", "cpu", "--probabilities", "p.safetensors"];
    let (theirs, _) = place.segment(cuda, &further);
    let file = std::fs::read(place.path("p.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let (_, tensor) = tensors.iter().next().unwrap();
    let voxels = ours.len() - 352; // behind the header
    let probability = |label: u8, voxel: usize| {
        let at = 4 * (usize::from(label) * voxels + voxel);
        f32::from_le_bytes(tensor.data()[at..at + 4].try_into().unwrap())
    };
    assert_eq!(tensor.data().len(), 4 * 17 * voxels);
    let (mut differ, mut widest) = (0, 0.0f32);
    for (voxel, (&ours, &theirs)) in ours[352..].iter().zip(&theirs[352..]).enumerate() {
        if ours != theirs {
            // The difference of two scores is the logarithm of their probabilities' ratio.
            let tie = (probability(theirs, voxel) / probability(ours, voxel)).ln();
            widest = widest.max(tie);
            differ += 1;
        }
    }
    println!("{differ} of {voxels} labels differ, all by scores within {widest}");
    assert!(differ * 1000 <= voxels, "{differ} of {voxels} labels differ");
    assert!(widest < 0.02, "a label differs by {widest}");
}

/// Whatever the GPU does first, and however its threads take turns.
#[test]
fn the_same_bits_every_time() {
    let Some(driver) = emulator::gpu() else { return };
    let place = Place::small();
    let further = ["--device", "cuda", "--probabilities", "p.safetensors"];
    let mut first = None;
    for (seed, threads) in [("0", "2"), ("0", "1"), ("1", "2"), ("2", "1"), ("3", "2")] {
        let settings = [("SEED", seed), ("THREADS", threads)];
        let (labels, _) = place.segment((driver, &settings), &further);
        let found = (labels, std::fs::read(place.path("p.safetensors")).unwrap());
        assert!(*first.get_or_insert(found.clone()) == found, "seed {seed}");
    }
}

#[test]
fn single_precision_finds_the_processor_s_labels() {
    let Some(driver) = emulator::gpu() else { return };
    let place = Place::small();
    let cuda = (driver, &[][..]);
    let (ours, report) = place.segment(cuda, &["--device", "cuda", "--precision", "f32"]);
    assert_eq!(report["device"]["precision"], "f32");
    let (theirs, report) = place.segment(cuda, &["--device", "cpu", "--precision", "f32"]);
    assert_eq!(
        (&report["device"]["kind"], &report["device"]["gpu"]),
        (&"cpu".into(), &Value::Null)
    );
    let differ = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
    assert!(differ <= 2, "{differ} of {} bytes differ", ours.len());
    let half = [&SEGMENT[..SEGMENT.len() - 1], &["cpu", "--precision", "f16"]].concat();
    let text = place.fail(cuda, &half, 2);
    assert!(text.contains("half precision needs a GPU"), "{text}");
    let idle = [&SEGMENT[..SEGMENT.len() - 1], &["cpu", "--gpu-memory", "1GiB"]].concat();
    let text = place.fail(cuda, &idle, 2);
    assert!(text.contains("--device cpu takes no GPU"), "{text}");
}

/// More channels than the kernels take.
#[test]
fn what_no_gpu_can_compute_the_processor_does() {
    let Some(driver) = emulator::emulated() else { return };
    let mut model = SeededModel { inputs: 100, ..SeededModel::small([8; 3], 3) }
        .with("normalization", vec![json!({ "scheme": "none" }); 100].into());
    model.document["parts"][0]["architecture"]["input_channels"] = 100.into();
    let place = Place::new(&model.bytes(), [8, 8, 8]);
    let images = ["image.nii.gz"; 100];
    let run = |device| {
        let output = ["-m", "model.safetensors", "-o", "labels.nii", "--overwrite"];
        let arguments = [&["segment"], &images[..], &output, &["--device", device]].concat();
        place.run((driver, &[]), &arguments)
    };
    let output = run("auto");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("100 channels"), "{text}");
    assert!(!run("cuda").status.success());
    // What a plan says beforehand.
    let plan = |device| {
        let options = ["-m", "model.safetensors", "--json", "--device", device];
        place.run((driver, &[]), &[&["plan"], &images[..], &options].concat())
    };
    let output = plan("auto");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let planned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(planned["device"]["kind"], "cpu");
    let why = planned["device"]["fallback"].as_str().unwrap();
    assert!(why.contains("100 channels") && text.contains(why), "{why}: {text}");
    let (planned, segmented) = (plan("cuda"), run("cuda"));
    assert_eq!(planned.status.code(), segmented.status.code());
    assert_eq!(planned.stderr, segmented.stderr);
}

/// A GPU of exactly the bytes that a run was estimated to take is enough; with fewer there are ever
/// leaner ways, and then an error that says what was missing.
#[test]
fn the_gpu_s_memory_is_bounded_and_its_end_is_told() {
    let Some(driver) = emulator::emulated() else { return };
    let place = Place::small();
    let plan = place.plan((driver, &[]), &["--no-timing"]);
    assert_eq!(plan["device"]["kind"], "cuda");
    let of = |name: &str| plan["memory"][name].as_u64().unwrap();
    let (most, least) = (of("estimated_gpu_bytes"), of("least_gpu_bytes"));
    assert!(least > 0 && least < most);
    let less = least - 1;
    // What is left for the driver's own needs when all that is free is taken.
    let with_margin = |bytes: u64| (bytes + (64 << 20)).to_string();
    let expected = place.segment((driver, &[]), &[]).0;
    for bytes in [most, least] {
        let (memory, free) = (&bytes.to_string(), with_margin(bytes));
        let exact = [("MEMORY", free.as_str())];
        let (labels, report) = place.segment((driver, &exact), &["--device", "cuda"]);
        assert!(labels == expected);
        assert_eq!(report["memory"]["estimated_gpu_bytes"].to_string(), *memory);
        let limit = ["--device", "cuda", "--gpu-memory", memory];
        let (labels, report) = place.segment((driver, &[]), &limit);
        assert!(labels == expected);
        assert_eq!(report["memory"]["estimated_gpu_bytes"].to_string(), *memory);
    }
    for name in ["labels.nii", "report.json"] {
        std::fs::remove_file(place.path(name)).unwrap();
    }
    // The network fits, but not the run.
    let (less, free) = (less.to_string(), with_margin(less));
    for (settings, further) in
        [(&[("MEMORY", free.as_str())][..], &[][..]), (&[], &["--gpu-memory", less.as_str()][..])]
    {
        let text = place.fail((driver, settings), &[SEGMENT, further].concat(), 5);
        for part in ["segmenting this volume needs", "of the memory of emulated GPU", "available"] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
    }
    // Not even the network does.
    let little = with_margin(100_000);
    let little = [("MEMORY", little.as_str())];
    let text = place.fail((driver, &little), SEGMENT, 5);
    assert!(text.contains("the network needs") && text.contains("97.66 KiB"), "{text}");
    // Left the choice, it takes the processor.
    let (labels, report, told) = place.segment_told((driver, &little), &[]);
    assert_eq!(report["device"]["kind"], "cpu");
    let why = report["device"]["fallback"].as_str().unwrap();
    assert!(why.contains("the network needs") && told.contains(why), "{told}");
    assert!(labels == place.segment((driver, &[]), &["--device", "cpu"]).0);
}

/// Another process may have a GPU to itself.
#[test]
fn the_first_gpu_that_works_is_taken() {
    let Some(driver) = emulator::emulated() else { return };
    let place = Place::small();
    let devices = ("DEVICES", "2");
    let (expected, report) = place.segment((driver, &[devices]), &[]);
    assert_eq!(report["device"]["gpu"]["ordinal"], 0);
    let (labels, report) = place.segment((driver, &[devices, ("BUSY", "1")]), &[]);
    assert_eq!(report["device"]["gpu"]["ordinal"], 1);
    assert_eq!(report["device"]["fallback"], Value::Null);
    assert!(labels == expected);
    let (_, report, told) = place.segment_told((driver, &[devices, ("BUSY", "2")]), &[]);
    assert_eq!(report["device"]["kind"], "cpu");
    assert_eq!(told.matches("CUDA_ERROR_DEVICE_UNAVAILABLE (device is busy)").count(), 2, "{told}");
}

#[test]
fn without_a_gpu_the_processor_is_taken_and_the_reason_told() {
    if emulator::real() {
        return; // the machine has a GPU
    }
    let place = Place::small();
    let old = old_driver();
    let run = |variables: &[(&str, &str)], folder: Option<&Path>, arguments: &[&str]| {
        let mut program = emulator::program();
        program.current_dir(place.folder.path()).args(arguments).envs(variables.iter().copied());
        if let Some(folder) = folder {
            program.env("LD_LIBRARY_PATH", folder);
        }
        program.output().unwrap()
    };
    let busy = "opening an old GPU: CUDA_ERROR_DEVICE_UNAVAILABLE (device is busy)";
    let old = Some(old.path());
    // Folder of the driver, its variables, and what is told.
    type Fallback<'a> = (Option<&'a Path>, &'a [(&'a str, &'a str)], &'a str);
    let mut cases: Vec<Fallback> = vec![
        (old, &[("OLD_DRIVER", "11040")], "supports CUDA 11.4; voxtile needs 12.0"),
        (old, &[("OLD_INIT", "100")], "sees no GPU"),
        (old, &[("OLD_INIT", "999")], "CUDA_ERROR_UNKNOWN"),
        (old, &[], "an old GPU has compute capability 7.5; voxtile's kernels need 8.0"),
        (old, &[("OLD_CAPABILITY", "80")], busy),
    ];
    if without_driver() {
        cases.push((None, &[], "no NVIDIA driver was found (libcuda)"));
    }
    let plain =
        ["segment", "image.nii.gz", "-m", "model.safetensors", "-o", "labels.nii", "--json-lines"];
    for (folder, variables, why) in cases {
        let output = run(variables, folder, &plain);
        let [events, told] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(0), "{told}");
        let told_why = told.lines().find(|line| line.starts_with("on the processor: "));
        assert!(told_why.is_some_and(|line| line.contains(why)), "no `{why}` in: {told}");
        let device = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let device = device.into_iter().find(|event| event["event"] == "device").unwrap();
        assert_eq!(device["kind"], "cpu");
        assert!(device["fallback"].as_str().unwrap().contains(why), "{device}");
        std::fs::remove_file(place.path("labels.nii")).unwrap();

        let output = run(variables, folder, SEGMENT);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(8), "{told}");
        assert!(told.contains("error: ") && told.contains(why), "no `{why}` in: {told}");
        assert!(!place.path("labels.nii").exists());
    }
    let listed = run(&[], old, &["devices"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("cuda:0 an old GPU") && listed.contains("no kernels: too old"),
        "{listed}"
    );
}

/// `tests/gpu/run`, but for what takes minutes on the emulator or a real GPU alone can do.
#[test]
fn the_check_for_gpus_is_rehearsed() {
    let Some(driver) = emulator::emulated() else { return };
    let python = || Command::new("python3");
    if python().arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI needs a python3");
        return println!("left out: there is no python3");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let scratch = ("PYTHONPYCACHEPREFIX", folder.path().join("pycache"));
    // As tests/gpu/prebuild makes it, from a commit that nobody has checked out.
    let built = folder.path().join("built");
    std::fs::create_dir(&built).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_voxtile"), built.join("program-voxtile")).unwrap();
    let program = json!({ "kind": "program", "name": "voxtile", "file": "program-voxtile" });
    let commit = "0123456789".repeat(4);
    let manifest = json!({
        "commit": commit, "changed": false, "checkout": root, "files": [program],
    });
    std::fs::write(built.join("manifest.json"), manifest.to_string()).unwrap();
    let out = folder.path().join("out");
    let mut check = python();
    check.arg(root.join("tests/gpu/run")).args(["--steps", "device"]);
    check.arg("--built").arg(&built).arg("--out").arg(&out).env(scratch.0, &scratch.1);
    driver.set(&mut check, &[]);
    let output = check.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    let text = std::fs::read_to_string(out.join("gpu.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    let row = |step: &str| {
        let mut rows = results["rows"].as_array().unwrap().iter();
        rows.find(|row| row["step"] == step).unwrap_or_else(|| panic!("no {step}: {said}"))
    };
    assert_eq!(row("voxtile devices")["result"], "ok", "{said}");
    assert!(row("voxtile devices")["detail"].as_str().unwrap().contains("emulated GPU"), "{said}");
    assert_eq!(row("tests")["result"], "left out");
    assert_eq!((&results["commit"], &results["failed"]), (&json!(commit), &json!(0)));
    // Only git knows that the checkout is at another commit.
    let detail = row("built")["detail"].as_str().unwrap();
    assert!(detail.contains("built from commit 012345678901"), "{detail}");
    match results["checkout_commit"].as_str() {
        Some(head) => {
            assert_eq!(row("built")["result"], "warning");
            assert!(detail.contains(&format!("the checkout is at commit {}", &head[..12])));
        }
        None => assert!(detail.contains("it can't be compared"), "{detail}"),
    }
    // The rest at least compiles.
    let scripts = ["benches/gpu/run", "benches/gpu/pytorch_peers.py", "tests/gpu/prebuild"];
    let mut compile = python();
    compile.args(["-m", "py_compile"]).args(scripts.map(|script| root.join(script)));
    let output = compile.env(scratch.0, &scratch.1).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_fails_on_the_gpu_is_told_by_its_name() {
    let Some(driver) = emulator::emulated() else { return };
    let place = Place::small();
    for launch in ["1", "20", "60"] {
        let text = place.fail((driver, &[("FAULT", launch)]), SEGMENT, 8);
        assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{text}");
    }
    let several = [&SEGMENT[..SEGMENT.len() - 1], &["cuda:3"]].concat();
    let text = place.fail((driver, &[("DEVICES", "2")]), &several, 8);
    assert!(text.contains("there is no GPU 3, but GPUs 0 to 1"), "{text}");
    let second = [&SEGMENT[..SEGMENT.len() - 1], &["cuda:1"]].concat();
    place.succeed((driver, &[("DEVICES", "2")]), &second);
}
