//! The library as others find it once CMake or cargo-c (`cargo cinstall`) has installed it: the CMake
//! package, and what pkg-config says.
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

/// Whether a tool is there. CI must have it, but for cargo-c; elsewhere its test is left out.
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

/// Installs into `prefix` by bindings/c/CMakeLists.txt.
fn install(prefix: &Path, build: &Path) {
    let mut cmake = Command::new("cmake");
    cmake.arg("-S").arg(root().join("bindings/c")).arg("-B").arg(build);
    cmake.arg(format!("-DCMAKE_INSTALL_PREFIX={}", prefix.display()));
    cmake.arg(format!("-DCARGO_EXECUTABLE={}", env!("CARGO")));
    run(cmake.arg(format!("-DVOXTILE_CARGO_TARGET_DIR={}", target().display())));
    run(Command::new("cmake").arg("--build").arg(build));
    run(Command::new("cmake").arg("--install").arg(build));
}

/// Files and links below a folder, by their names from it.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(of) = folders.pop() {
        for entry in std::fs::read_dir(of).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
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
    install(&prefix, &folder.path().join("install"));
    check_users(folder.path(), &prefix);
}

/// cargo-c takes minutes to be installed itself: CI has none.
#[test]
fn cargo_c_installs_the_same() {
    if !has(&["cargo", "cinstall"]) || !has(&["cmake"]) || !has(&["c++"]) || !has(&["gzip"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Its voxtile.pc is of no use where a folder's name has a blank.
    let prefix = folder.path().join("by_cargo_c");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    cargo.args(["cinstall", "--release", "-p", "voxtile-capi", "--libdir", "lib"]);
    run(cargo.arg("--target-dir").arg(target().join("install")).arg("--prefix").arg(&prefix));
    check_users(folder.path(), &prefix);
    let by_cmake = folder.path().join("by CMake");
    install(&by_cmake, &folder.path().join("install"));
    assert_eq!(files(&prefix), files(&by_cmake));
}

/// Projects that use what lies in `prefix`.
fn check_users(folder: &Path, prefix: &Path) {
    // The project is copied: nothing of the checkout is within its reach.
    let project = folder.join("project");
    std::fs::create_dir(&project).unwrap();
    for name in ["CMakeLists.txt", "organs.cpp"] {
        std::fs::copy(root().join("examples/cmake").join(name), project.join(name)).unwrap();
    }
    let build = folder.join("build");
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
    let image = image(folder);
    let shared = check(&build.join("organs"), &image, None);
    let fixed = check(&build.join("organs_static"), &image, None);
    assert_eq!(shared, fixed);

    let version = format!("set(PACKAGE_VERSION \"{}\")", env!("CARGO_PKG_VERSION"));
    let file = root().join("bindings/c/cmake/voxtileConfigVersion.cmake");
    assert!(std::fs::read_to_string(file).unwrap().contains(&version));

    if !has(&["pkg-config"]) {
        return;
    }
    let ask = |arguments: &[&str]| -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
        let text = run(command.args(arguments).arg("voxtile"));
        text.split_whitespace().map(String::from).collect()
    };
    assert_eq!(ask(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let program = folder.join("by_pkg_config");
    // Blanks in paths are escaped, so a shell reads the flags.
    let flags = ask(&["--cflags", "--libs"]).join(" ");
    let script = format!(
        "c++ -std=c++17 '{}' -o '{}' {flags}",
        project.join("organs.cpp").display(),
        program.display()
    );
    run(Command::new("sh").args(["-c", &script]));
    assert_eq!(check(&program, &image, Some(&prefix.join("lib"))), shared);
    assert_eq!(
        files(prefix),
        [
            "include/voxtile.h",
            "include/voxtile.hpp",
            "lib/libvoxtile.a",
            "lib/libvoxtile.so",
            "lib/libvoxtile.so.0.1",
            "lib/libvoxtile.so.0.1.0",
            "lib/pkgconfig/voxtile.pc",
            "share/cmake/voxtile/voxtileConfig.cmake",
            "share/cmake/voxtile/voxtileConfigVersion.cmake",
        ]
    );
    // At most as long as the README says.
    let lines = std::fs::read_to_string(root().join("examples/cmake/organs.cpp")).unwrap();
    assert!(lines.lines().count() < 30);
}
