//! Dependencies point one way: down the picture in ARCHITECTURE.md.

use std::fs;
use std::path::Path;

/// For each part, the parts it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("net", &["base"]),
    ("volume", &["base"]),
    ("window", &["base", "volume"]),
    ("model", &["base", "net", "volume"]),
    ("device", &["base", "net", "volume", "window"]),
    ("session", &["base", "net", "volume", "window", "model", "device"]),
    ("formats", &["base", "volume"]),
    ("convert", &["base", "volume", "model", "formats"]),
];

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn dependencies_point_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let parts: Vec<&str> = ALLOWED.iter().map(|(part, _)| *part).collect();
    let mut uses = 0;
    for (part, allowed) in ALLOWED {
        let mut found = Vec::new();
        sources(&root.join(part), &mut found);
        assert!(!found.is_empty(), "src/{part} has no sources");
        for (file, text) in found {
            for (number, line) in text.lines().enumerate() {
                for used in line.split("crate::").skip(1) {
                    let used: String =
                        used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if used != *part && parts.contains(&used.as_str()) {
                        uses += 1;
                        assert!(
                            allowed.contains(&used.as_str()),
                            "{file}:{}: `{part}` must not use `{used}`",
                            number + 1
                        );
                    }
                }
            }
        }
    }
    assert!(uses > 20, "found only {uses} uses between parts: is the search broken?");
}

#[test]
fn files_stay_readable() {
    let mut found = Vec::new();
    for folder in ["src", "bindings", "tests", "benches"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        if folder.exists() {
            sources(&folder, &mut found);
        }
    }
    for (file, text) in found {
        let lines = text.lines().count();
        assert!(lines <= 600, "{file} has {lines} lines; one idea rarely needs 600");
    }
}

#[test]
fn only_one_folder_calls_cuda_s_driver() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let calling = found.iter().filter(|(_, text)| text.contains("cudarc::"));
    let folders: Vec<_> = calling.map(|(file, _)| Path::new(file).parent().unwrap()).collect();
    assert!(folders.len() > 1);
    for folder in folders {
        assert_eq!(folder, root.join("device/cuda/driver"));
    }
}
