//! `include/voxtile.h` is what cbindgen makes of the sources, and `abi.txt` lists what programs that
//! were compiled with it rely on.

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

fn listing() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("abi.txt")
}

/// The header's declarations without comments, one a line: names, types and order of fields, values
/// of constants, functions and their arguments.
fn declarations() -> String {
    let mut lines = Vec::new();
    let mut declaration = String::new();
    let mut in_comment = false;
    for line in std::fs::read_to_string(header()).unwrap().lines() {
        let mut line = line.split("//").next().unwrap_or_default().trim().to_string();
        in_comment |= line.starts_with("/*");
        if in_comment {
            in_comment = !line.ends_with("*/");
            continue;
        }
        if line.starts_with('#') {
            // Of the preprocessor's lines, the constants.
            if line.starts_with("#define VOXTILE_") && line.split_whitespace().count() > 2 {
                lines.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            continue;
        }
        // What surrounds the functions for C++.
        if line.starts_with("extern \"C\"") || (line == "}" && declaration.is_empty()) {
            continue;
        }
        for word in ["VOXTILE_API", "VOXTILE_CHECK"] {
            line = line.replace(word, "");
        }
        for word in line.split_whitespace() {
            if !declaration.is_empty() {
                declaration.push(' ');
            }
            declaration.push_str(word);
        }
        let open = declaration.matches('{').count();
        if declaration.ends_with(';') && open == declaration.matches('}').count() {
            lines.push(std::mem::take(&mut declaration));
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_abi_is_as_listed() {
    let listed = std::fs::read_to_string(listing()).unwrap_or_default();
    let (listed, found): (Vec<&str>, String) = (listed.lines().collect(), declarations());
    let found: Vec<&str> = found.lines().collect();
    let of = |one: &[&str], other: &[&str]| -> Vec<String> {
        one.iter().filter(|line| !other.contains(line)).map(ToString::to_string).collect()
    };
    let (gone, added) = (of(&listed, &found), of(&found, &listed));
    let functions = found.iter().filter(|line| line.contains("(const ") || line.contains("(void)"));
    assert!(functions.count() >= 10, "the header's functions are not found: {found:#?}");
    assert!(
        listed == found,
        "the ABI is not the one that bindings/c/abi.txt lists; gone: {gone:#?}, added: {added:#?}. \
         What is gone breaks programs. If the change is meant, list it with\n  cargo test -p \
         voxtile-capi --test header -- --ignored list_abi"
    );
}

#[test]
#[ignore = "writes bindings/c/abi.txt"]
fn list_abi() {
    std::fs::write(listing(), declarations()).unwrap();
}
