//! A GPU that is not there: the emulated driver of `kernels/host`, which programs and tests find as
//! libcuda.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the emulated driver's libcuda, built if it is not current; `None`, after saying so,
/// on a machine without a C++ compiler. CI has one.
pub fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
        if let Err(error) = Command::new(&compiler).arg("--version").output() {
            assert!(std::env::var_os("CI").is_none(), "{compiler}: {error}");
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/emulator");
        let mut build = Command::new("sh");
        build.arg(root.join("kernels/host/build.sh")).arg(&folder);
        assert!(build.status().unwrap().success(), "the emulator does not build");
        Some(folder)
    });
    if made.is_none() {
        println!("left out: there is no C++ compiler to build the emulated GPU with");
    }
    made.as_deref()
}

/// `program` with the libcuda of `folder`, and settings such as `("SEED", "3")` of the emulator.
pub fn with(program: &mut Command, folder: &Path, settings: &[(&str, &str)]) {
    program.env("LD_LIBRARY_PATH", folder);
    for (name, value) in settings {
        program.env(format!("VOXTILE_EMULATOR_{name}"), value);
    }
}

/// Whether this process sees the emulated GPU; if not, runs the test `name` again in a process that
/// does.
pub fn inside(name: &str) -> bool {
    const MARK: &str = "VOXTILE_TEST_SEES_EMULATOR";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    if let Some(folder) = folder() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args([name, "--exact", "--nocapture"]).env(MARK, "1");
        with(&mut again, folder, &[]);
        let output = again.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
        assert!(!text.contains("voxtile emulator:"), "{text}");
    }
    false
}
