//! C and C++ programs that use the header and the library as their users do.

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::SeededModel;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Whether a tool is there. CI must have it; elsewhere its test is left out, loudly.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "{tool} is missing");
    if !found {
        println!("SKIPPED: {tool} is not installed");
    }
    found
}

/// Builds the library; the folder it lies in, with a link under its run-time name.
fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // This program lies in target/PROFILE/deps.
        let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_path_buf();
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(root()).args(["build", "--quiet", "-p", "voxtile-capi"]);
        build.arg("--target-dir").arg(folder.parent().unwrap());
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        run(&mut build);
        let link = folder.join("libvoxtile.so.0.1");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("libvoxtile.so", link).unwrap();
        folder
    })
}

/// Compiles a program and links it with the library.
fn compile(compiler: &str, flags: &[&str], source: &Path, program: &Path) {
    let folder = library();
    let mut command = Command::new(compiler);
    command.args(flags).args(["-Wall", "-Wextra", "-Werror", "-I"]).arg(root().join("include"));
    command.arg(source).arg("-o").arg(program).arg("-L").arg(folder);
    command.args(["-lvoxtile", "-lm", "-lpthread"]);
    // A loader path, so that the programs start as they are.
    command.arg(format!("-Wl,-rpath,{}", folder.display()));
    run(&mut command);
}

const C: &[&str] = &["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wpedantic", "-g"];
const CPP: &[&str] = &["-std=c++17", "-g"];
const C_AS_CPP: &[&str] = &["-x", "c++", "-std=c++17", "-g"];

fn valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--leak-check=full", "--show-leak-kinds=definite,indirect,possible"]);
    command.args(["--errors-for-leak-kinds=definite,indirect,possible", "--error-exitcode=9"]);
    command.arg(program);
    command
}

fn small_model(folder: &Path) -> PathBuf {
    let path = folder.join("model.safetensors");
    std::fs::write(&path, SeededModel::small([8; 3], 4).bytes()).unwrap();
    path
}

/// Compiles a program of checks and runs it, the first time under valgrind as well.
fn checks(name: &str, compilers: &[(&str, &[&str])], arguments: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let model = small_model(folder.path());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name);
    for (time, (compiler, flags)) in compilers.iter().enumerate() {
        if !has(compiler) {
            continue;
        }
        let program = folder.path().join("checks");
        compile(compiler, flags, &source, &program);
        let text = run(Command::new(&program).arg(&model).args(arguments));
        assert!(text.contains("all checks passed"), "{text}");
        if time == 0 && has("valgrind") {
            run(valgrind(&program).arg(&model).args(arguments));
        }
    }
}

#[test]
fn a_careless_caller_gets_errors_only() {
    checks("abi.c", &[("cc", C), ("c++", C_AS_CPP)], &[&layout()]);
}

#[test]
fn every_option_does_what_the_header_says() {
    checks("options.c", &[("cc", C), ("c++", C_AS_CPP)], &[]);
}

#[test]
fn labels_are_cleaned_up_as_the_header_says() {
    checks("cleanup.c", &[("cc", C), ("c++", C_AS_CPP)], &[]);
}

#[test]
fn the_wrapper_adds_nothing_but_comfort() {
    checks("wrapper.cpp", &[("c++", CPP)], &[]);
}

/// With the emulated driver as libcuda.
#[test]
fn gpus_are_listed_and_run_on() {
    if !has("cc") || !has("c++") {
        return;
    }
    let emulator = root().join("target/emulator");
    run(Command::new("sh").arg(root().join("kernels/host/build.sh")).arg(&emulator));
    let folder = tempfile::tempdir().unwrap();
    let model = small_model(folder.path());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/gpu.c");
    let program = folder.path().join("gpu");
    compile("cc", C, &source, &program);
    let mut command = Command::new(&program);
    command.arg(&model).env("LD_LIBRARY_PATH", &emulator);
    command.env("VOXTILE_EMULATOR_DEVICES", "2").env("VOXTILE_EMULATOR_CAPABILITY", "8.0");
    command.env("VOXTILE_EMULATOR_MEMORY", (128 << 20).to_string());
    let text = run(&mut command);
    assert!(text.contains("all checks passed"), "{text}");
}

#[path = "../src/types.rs"]
#[allow(dead_code, non_camel_case_types)]
mod types;

/// Sizes of the ABI's structs, as Rust lays them out.
fn layout() -> String {
    use types::*;
    let sizes = [
        size_of::<voxtile_error>(),
        size_of::<voxtile_device>(),
        size_of::<voxtile_model_info>(),
        size_of::<voxtile_label>(),
        size_of::<voxtile_session_options>(),
        size_of::<voxtile_volume>(),
        size_of::<voxtile_progress>(),
        size_of::<voxtile_run_options>(),
        size_of::<voxtile_output>(),
        size_of::<voxtile_estimate>(),
        size_of::<voxtile_probability_box>(),
        size_of::<voxtile_memory_part>(),
        size_of::<voxtile_label_statistics>(),
        size_of::<voxtile_cleanup>(),
    ];
    sizes.map(|size| size.to_string()).join(",")
}

#[test]
fn the_examples_run_and_agree() {
    let folder = tempfile::tempdir().unwrap();
    let model = small_model(folder.path());
    let (dims, image) = ([11, 13, 9], folder.path().join("image.raw"));
    let voxels: Vec<u8> = (0..dims.iter().product::<i16>())
        .flat_map(|voxel| ((voxel * 31) % 1500 - 700).to_le_bytes())
        .collect();
    std::fs::write(&image, &voxels).unwrap();
    let arguments = |command: &mut Command, labels: &Path| {
        command.arg(&model).arg(&image).args(dims.map(|extent| extent.to_string()));
        command.args(["1.5", "1.5", "2.0"]).arg(labels);
    };
    let mut results = Vec::new();
    for (compiler, flags, source) in
        [("cc", C, "segment.c"), ("c++", C_AS_CPP, "segment.c"), ("c++", CPP, "segment.cpp")]
    {
        if !has(compiler) {
            continue;
        }
        let program = folder.path().join("segment");
        compile(compiler, flags, &root().join("examples").join(source), &program);
        let labels = folder.path().join("labels.raw");
        let mut command = Command::new(&program);
        arguments(&mut command, &labels);
        let text = run(&mut command);
        assert!(text.contains("structure") && text.contains(" mL"), "{text}");
        results.push(std::fs::read(&labels).unwrap());
        if source == "segment.c" && compiler == "cc" && has("valgrind") {
            let mut command = valgrind(&program);
            arguments(&mut command, &labels);
            run(&mut command);
        }
        // A mistake is one line and a failure, not a crash.
        let output = Command::new(&program).arg("model").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let mut command = Command::new(&program);
        command.args(["missing.safetensors"]).arg(&image);
        command.args(dims.map(|extent| extent.to_string())).args(["1", "1", "1"]).arg(&labels);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("missing.safetensors: No such file"), "{text}");
        let longer = folder.path().join("longer.raw");
        std::fs::write(&longer, [&voxels[..], b"x"].concat()).unwrap();
        let mut command = Command::new(&program);
        command.arg(&model).arg(&longer).args(dims.map(|extent| extent.to_string()));
        let output = command.args(["1", "1", "1"]).arg(&labels).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("expected 1287 voxels"), "{text}");
    }
    assert!(!results.is_empty());
    assert!(results.iter().all(|labels| *labels == results[0]), "the programs' labels differ");
}

#[test]
#[cfg(target_os = "linux")]
fn the_library_is_small_and_needs_and_shows_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let library = library().join("libvoxtile.so");
    if has("strip") && !cfg!(debug_assertions) {
        let stripped = folder.path().join("stripped.so");
        run(Command::new("strip").arg("-o").arg(&stripped).arg(&library));
        let bytes = std::fs::metadata(&stripped).unwrap().len();
        assert!(bytes < 4_200_000, "the stripped library has {bytes} bytes");
    }
    if has("nm") {
        let text = run(Command::new("nm").args(["-D", "--defined-only"]).arg(&library));
        let symbols: Vec<&str> =
            text.lines().filter_map(|line| line.split_whitespace().last()).collect();
        let header = std::fs::read_to_string(root().join("include/voxtile.h")).unwrap();
        let declared = header.matches("VOXTILE_API").count() - 2;
        assert_eq!(symbols.len(), declared, "exported: {symbols:?}");
        for symbol in symbols {
            assert!(symbol.starts_with("voxtile_"), "{symbol} is exported");
            assert!(header.contains(&format!("{symbol}(")), "{symbol} is not in the header");
        }
    }
    if has("readelf") {
        let text = run(Command::new("readelf").arg("-d").arg(&library));
        for line in text.lines().filter(|line| line.contains("(NEEDED)")) {
            let expected = ["libc.so", "libm.so", "ld-linux"];
            assert!(expected.iter().any(|name| line.contains(name)), "{line}");
        }
        assert!(text.contains("libvoxtile.so.0.1"), "{text}");
    }
}
