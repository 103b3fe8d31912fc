//! A GPU that is not there: the emulated driver of `kernels/host`, which programs and tests find as
//! libcuda.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the check of `tests/gpu/run` asks for a real GPU, which is used instead.
pub fn real() -> bool {
    std::env::var_os("VOXTILE_REQUIRE_CUDA").is_some()
}

/// The driver that programs find.
#[derive(Clone, Copy)]
pub enum Driver {
    /// The machine's own, if it has one.
    Machine,
    /// The libcuda of a folder.
    In(&'static Path),
}

impl Driver {
    /// Settings such as `("SEED", "3")` are the emulator's.
    pub fn set(self, program: &mut Command, settings: &[(&str, &str)]) {
        if let Self::In(folder) = self {
            program.env("LD_LIBRARY_PATH", folder);
            for (name, value) in settings {
                program.env(format!("VOXTILE_EMULATOR_{name}"), value);
            }
        }
    }
}

/// A GPU: the machine's where one is asked for, else an emulated one.
pub fn gpu() -> Option<Driver> {
    if real() { Some(Driver::Machine) } else { folder().map(Driver::In) }
}

/// The emulated GPU, for what no real one can be asked to do.
pub fn emulated() -> Option<Driver> {
    if real() {
        println!("left out: only an emulated GPU does this");
        return None;
    }
    folder().map(Driver::In)
}

/// The folder of the emulated driver's libcuda, built if it is not current; `None`, after saying so,
/// on a machine without a C++ compiler. CI has one.
fn folder() -> Option<&'static Path> {
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

/// The program: that which `tests/gpu/run` names, or the one that was built for the tests.
pub fn program() -> Command {
    let named = std::env::var_os("VOXTILE_PROGRAM").filter(|_| real());
    Command::new(named.unwrap_or_else(|| env!("CARGO_BIN_EXE_voxtile").into()))
}

/// Whether this process sees a GPU; if not, runs the test `name` again in a process that does.
pub fn inside(name: &str, settings: &[(&str, &str)]) -> bool {
    const MARK: &str = "VOXTILE_TEST_SEES_EMULATOR";
    if real() || std::env::var_os(MARK).is_some() {
        return true;
    }
    if let Some(driver) = emulated() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args([name, "--exact", "--nocapture"]).env(MARK, "1");
        driver.set(&mut again, settings);
        let output = again.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        assert!(!text.contains("voxtile emulator:"), "{text}");
    }
    false
}
