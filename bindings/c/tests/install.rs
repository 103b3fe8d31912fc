//! The library as others find it once it is installed: the CMake package, and with cargo-c
//! (`cargo cinstall`) what pkg-config says.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [text, error] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{text}{error}", output.status);
    text
}

/// Whether a tool is there. CI must have it, but for cargo-c; elsewhere its test is left out, loudly.
fn has(tool: &[&str]) -> bool {
    let output = Command::new(tool[0]).args(&tool[1..]).arg("--version").output();
    let found = output.is_ok_and(|output| output.status.success());
    let needed = std::env::var_os("CI").is_some() && tool != ["cargo", "cinstall"];
    assert!(found || !needed, "{tool:?} is missing");
    if !found {
        println!("SKIPPED: {tool:?} is not installed");
    }
    found
}

/// This program lies in target/PROFILE/deps.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_path_buf()
}

/// Installs into `prefix`; whether cargo-c did.
fn install(prefix: &Path) -> bool {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    if has(&["cargo", "cinstall"]) {
        cargo.args(["cinstall", "--release", "-p", "voxtile-capi", "--libdir", "lib"]);
        run(cargo.arg("--target-dir").arg(target().join("install")).arg("--prefix").arg(prefix));
        return true;
    }
    // As cargo-c would, but for voxtile.pc.
    cargo.args(["build", "--quiet", "--release", "-p", "voxtile-capi"]);
    run(cargo.arg("--target-dir").arg(target()));
    let copy = |from: PathBuf, to: &str| {
        let to = prefix.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    let built = target().join("release");
    copy(built.join("libvoxtile.so"), "lib/libvoxtile.so.0.1");
    copy(built.join("libvoxtile.a"), "lib/libvoxtile.a");
    std::os::unix::fs::symlink("libvoxtile.so.0.1", prefix.join("lib/libvoxtile.so")).unwrap();
    for name in ["voxtile.h", "voxtile.hpp"] {
        copy(root().join("include").join(name), &format!("include/{name}"));
    }
    for name in ["voxtileConfig.cmake", "voxtileConfigVersion.cmake"] {
        copy(root().join("bindings/c/cmake").join(name), &format!("share/cmake/voxtile/{name}"));
    }
    false
}

/// Decompresses the example as the program wants it.
fn image(folder: &Path) -> PathBuf {
    let path = folder.join("ct.nii");
    let output = Command::new("gzip").arg("-dc").arg(root().join("examples/ct.nii.gz")).output();
    std::fs::write(&path, output.unwrap().stdout).unwrap();
    path
}

/// Runs the example program; it must find the liver that `voxtile segment` finds.
fn check(program: &Path, image: &Path, library: Option<&Path>) -> String {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    if let Some(folder) = library {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let text = run(command.arg(root().join("examples/demo.safetensors")).arg(image));
    let liver = text.lines().find_map(|line| line.strip_prefix("liver: ")?.split(' ').next());
    let liver: f64 = liver.expect("a liver").parse().unwrap();
    assert!((2776.0..2777.0).contains(&liver), "{text}");
    text
}

#[test]
fn others_find_the_installed_library() {
    if !has(&["cmake"]) || !has(&["c++"]) || !has(&["gzip"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("a prefix");
    let by_cargo_c = install(&prefix);
    // The project is copied: nothing of the checkout is within its reach.
    let project = folder.path().join("project");
    std::fs::create_dir(&project).unwrap();
    for name in ["CMakeLists.txt", "organs.cpp"] {
        std::fs::copy(root().join("examples/cmake").join(name), project.join(name)).unwrap();
    }
    let build = folder.path().join("build");
    let configure = |version: &str| {
        let text = std::fs::read_to_string(root().join("examples/cmake/CMakeLists.txt")).unwrap();
        let text = text.replace("voxtile 0.1 REQUIRED", &format!("voxtile {version} REQUIRED"));
        std::fs::write(project.join("CMakeLists.txt"), text).unwrap();
        let mut cmake = Command::new("cmake");
        cmake.arg("-S").arg(&project).arg("-B").arg(&build);
        cmake.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display()));
        cmake
    };
    for version in ["0.2", "1.0", "0.1.99"] {
        let output = configure(version).output().unwrap();
        assert!(!output.status.success(), "version {version} was found");
    }
    run(&mut configure("0.1"));
    run(Command::new("cmake").arg("--build").arg(&build));
    let image = image(folder.path());
    let shared = check(&build.join("organs"), &image, None);
    let fixed = check(&build.join("organs_static"), &image, None);
    assert_eq!(shared, fixed);

    let version = format!("set(PACKAGE_VERSION \"{}\")", env!("CARGO_PKG_VERSION"));
    let file = root().join("bindings/c/cmake/voxtileConfigVersion.cmake");
    assert!(std::fs::read_to_string(file).unwrap().contains(&version));

    if by_cargo_c && has(&["pkg-config"]) {
        let ask = |arguments: &[&str]| -> Vec<String> {
            let mut command = Command::new("pkg-config");
            command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
            let text = run(command.args(arguments).arg("voxtile"));
            text.split_whitespace().map(String::from).collect()
        };
        assert_eq!(ask(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
        let program = folder.path().join("by_pkg_config");
        // Blanks in paths are escaped, so a shell reads the flags.
        let flags = ask(&["--cflags", "--libs"]).join(" ");
        let script = format!(
            "c++ -std=c++17 '{}' -o '{}' {flags}",
            project.join("organs.cpp").display(),
            program.display()
        );
        run(Command::new("sh").args(["-c", &script]));
        assert_eq!(check(&program, &image, Some(&prefix.join("lib"))), shared);
        let installed: Vec<String> = std::fs::read_dir(prefix.join("include"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(installed.len(), 2, "{installed:?}");
        assert!(prefix.join("lib/libvoxtile.so.0.1").exists());
    }
}
