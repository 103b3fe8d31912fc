//! The 3D Slicer module of `bindings/slicer`, with stubs in place of 3D Slicer, where there is a
//! Python.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

#[test]
fn the_slicer_module_runs_the_program() {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("bindings/slicer/Testing/test_module.py");
    let output = Command::new("python3")
        .arg(script)
        .env("VOXTILE_PROGRAM", env!("CARGO_BIN_EXE_voxtile"))
        .output();
    match output {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("no python3: the module of 3D Slicer is not tested");
        }
        Err(error) => panic!("{error}"),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
