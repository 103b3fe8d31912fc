//! `include/voxtile.h` is what cbindgen makes of the sources.

use std::path::{Path, PathBuf};

fn header() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include/voxtile.h")
}

fn generated() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let mut text = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(folder.join("src/types.rs"))
        .with_src(folder.join("src/handles.rs"))
        .with_src(folder.join("src/estimate.rs"))
        .with_src(folder.join("src/run.rs"))
        .with_src(folder.join("src/statistics.rs"))
        .generate()
        .unwrap()
        .write(&mut text);
    // What Rust wants to be told about safety, the rules at the top say for all functions.
    let text = String::from_utf8(text).unwrap();
    let mut lines: Vec<&str> = Vec::new();
    let mut in_safety = false;
    for line in text.lines() {
        if line.trim_start() == "// # Safety" {
            in_safety = true;
            while lines.last().is_some_and(|line| line.trim() == "//") {
                lines.pop();
            }
        }
        in_safety &= line.trim_start().starts_with("//");
        if !in_safety {
            lines.push(line.trim_end());
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_header_is_not_stale() {
    let committed = std::fs::read_to_string(header()).unwrap_or_default();
    assert!(
        committed == generated(),
        "include/voxtile.h is stale; refresh it with\n  cargo test -p voxtile-capi --test header -- \
         --ignored refresh"
    );
}

#[test]
#[ignore = "writes include/voxtile.h"]
fn refresh() {
    std::fs::write(header(), generated()).unwrap();
}
