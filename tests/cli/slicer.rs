//! A host that treats the program as 3D Slicer treats its command line modules.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::common::{Noise, SeededModel};
use crate::program::Program;
use voxtile::base::Pool;
use voxtile::formats::{self, Labels, OutputFile, write_labels};
use voxtile::{Element, Geometry};

const DIMS: [usize; 3] = [64, 60, 50];

fn program() -> Program {
    let mut model = SeededModel::small([16, 16, 16], 5);
    model.document["name"] = "Größe".into();
    let program = Program::new(&model.bytes());
    let mut noise = Noise(3);
    let count = DIMS.iter().product();
    let voxels: Vec<u8> = (0..count).map(|_| (100.0 + 90.0 * noise.next()) as u8).collect();
    let output = OutputFile::create(&program.path("in.nrrd")).unwrap();
    let geometry = Geometry::axis_aligned([1.5; 3]);
    write_labels(output, Labels::U8(&voxels), DIMS, &geometry, &[], &Pool::serial()).unwrap();
    program
}

/// A parameter of the description.
#[derive(Debug)]
struct Parameter {
    tag: String,
    name: String,
    channel: String,
    flag: Option<String>,
    index: Option<usize>,
    default: String,
}

/// The text of an element.
fn text<'a>(xml: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    Some(rest.split_once(&format!("</{tag}>"))?.0)
}

fn parameters(xml: &str) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    let tags = ["image", "file", "string", "string-enumeration", "integer", "double", "boolean"];
    for group in xml.split("<parameters").skip(1) {
        let mut rest = group;
        while let Some(open) = rest.find('<') {
            let tag = rest[open + 1..].split(['>', ' ']).next().unwrap();
            rest = &rest[open + 1..];
            if !tags.contains(&tag) {
                continue;
            }
            let (body, after) = rest.split_once(&format!("</{tag}>")).unwrap();
            let flag = text(body, "longflag").map(|flag| format!("--{flag}"));
            parameters.push(Parameter {
                tag: tag.into(),
                name: text(body, "name").unwrap().into(),
                channel: text(body, "channel").unwrap_or("input").into(),
                flag,
                index: text(body, "index").map(|index| index.parse().unwrap()),
                default: text(body, "default").unwrap_or_default().into(),
            });
            assert!(text(body, "label").is_some() && text(body, "description").is_some());
            rest = after;
        }
    }
    parameters
}

/// The arguments that 3D Slicer makes of a description and of what the user chose: flags, then what
/// has an index. Numbers and choices are always passed; texts and files if there are any; flags
/// without values if they are true.
fn arguments(xml: &str, chosen: &[(&str, &str)]) -> Vec<String> {
    let mut arguments = vec!["--returnparameterfile".to_string(), "results.txt".into()];
    let mut indexed = Vec::new();
    let parameters = parameters(xml);
    for (name, _) in chosen {
        assert!(parameters.iter().any(|parameter| parameter.name == *name), "{name}");
    }
    for parameter in parameters {
        let value = chosen.iter().find(|(name, _)| *name == parameter.name);
        let value = value.map_or(parameter.default.clone(), |(_, value)| value.to_string());
        let simple_output =
            parameter.channel == "output" && !["image", "file"].contains(&parameter.tag.as_str());
        if simple_output {
            continue;
        }
        if let Some(index) = parameter.index {
            indexed.push((index, value));
        } else if parameter.tag == "boolean" {
            arguments.extend(parameter.flag.filter(|_| value == "true"));
        } else if !value.is_empty() {
            arguments.extend([parameter.flag.unwrap(), value]);
        }
    }
    indexed.sort();
    arguments.extend(indexed.into_iter().map(|(_, value)| value));
    arguments
}

fn as_strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

const CHOSEN: [(&str, &str); 3] =
    [("inputVolume", "in.nrrd"), ("outputLabels", "out.seg.nrrd"), ("model", "model.safetensors")];

#[test]
fn a_run_tells_its_progress_and_nothing_on_standard_error() {
    let program = program();
    let xml = program.succeed(&["--xml"]);
    assert!(xml.starts_with("<?xml") && xml.is_ascii());
    let chosen = [&CHOSEN[..], &[("threads", "1"), ("statistics", "found.csv")]].concat();
    let output = program.run(&as_strs(&arguments(&xml, &chosen)));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.is_ascii(), "{said}");
    assert!(said.starts_with("<filter-start><filter-name>voxtile</filter-name>"), "{said}");
    assert!(said.trim_end().ends_with("</filter-end>"), "{said}");
    let shares: Vec<f64> =
        said.lines().filter_map(|line| text(line, "filter-progress")?.parse().ok()).collect();
    assert!(shares.len() > 1 && shares.windows(2).all(|pair| pair[0] < pair[1]), "{shares:?}");
    assert_eq!(shares.last(), Some(&1.0));

    let image = formats::read(&program.path("out.seg.nrrd")).unwrap();
    assert_eq!((image.dims, image.element), (DIMS, Element::U8));
    let mut labels: Vec<u8> = image.bytes.iter().copied().filter(|value| *value > 0).collect();
    labels.sort_unstable();
    labels.dedup();
    let results = std::fs::read_to_string(program.path("results.txt")).unwrap();
    assert_eq!(results, format!("structures = {}\n", labels.len()));
    assert!(program.path("found.csv").exists());

    program.succeed(&["segment", "in.nrrd", "-m", "model.safetensors", "-o", "same.nii.gz"]);
    assert_eq!(formats::read(&program.path("same.nii.gz")).unwrap().bytes, image.bytes);
}

#[test]
fn choices_of_the_user_are_heeded() {
    let program = program();
    let xml = program.succeed(&["--xml"]);
    let chosen = [&CHOSEN[..], &[("labels", "structure 2"), ("step", "1"), ("mirror", "true")]];
    let output = program.run(&as_strs(&arguments(&xml, &chosen.concat())));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let expected = ["--labels", "structure 2", "--step", "1", "--mirror"];
    let segment = ["segment", "in.nrrd", "-m", "model.safetensors", "-o", "same.nii.gz"];
    program.succeed(&[&segment[..], &expected].concat());
    let [ours, same] = ["out.seg.nrrd", "same.nii.gz"].map(|name| program.path(name));
    assert_eq!(formats::read(&ours).unwrap().bytes, formats::read(&same).unwrap().bytes);
}

#[test]
fn failures_are_said_and_leave_nothing() {
    let program = program();
    let xml = program.succeed(&["--xml"]);
    let fail = |chosen: &[(&str, &str)], code, part: &str| {
        let text = program.fail(&as_strs(&arguments(&xml, chosen)), code, part);
        assert!(text.is_ascii(), "{text}");
    };
    fail(&CHOSEN[..2], 2, "choose a model package");
    let with = |name: &'static str, value: &'static str| {
        let chosen = CHOSEN.map(|(n, v)| if n == name { (n, value) } else { (n, v) });
        chosen.to_vec()
    };
    fail(&with("model", "gänzlich.safetensors"), 4, "g?nzlich");
    fail(&with("inputVolume", "none.nrrd"), 3, "none.nrrd");
    fail(&with("outputLabels", "none/out.nrrd"), 6, "does not exist");
    program.fail(&["--model", "model.safetensors", "in.nrrd"], 2, "required");
    program.fail(&["--modle", "model.safetensors"], 2, "--modle");
}

#[test]
fn a_killed_run_leaves_no_output() {
    let program = program();
    let before = program.files();
    let xml = program.succeed(&["--xml"]);
    let chosen = [&CHOSEN[..], &[("step", "0.1"), ("threads", "1"), ("mirror", "true")]].concat();
    let mut child = Command::new(env!("CARGO_BIN_EXE_voxtile"))
        .current_dir(program.path(""))
        .args(arguments(&xml, &chosen))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Until it is among its tiles.
    assert!(lines.any(|line| line.unwrap().contains("<filter-progress>")));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    assert_eq!(program.files(), before);
}

/// Probabilities are written while the tiles run; what is there of them when the program is killed
/// has no name yet.
#[test]
#[cfg(target_os = "linux")]
fn a_killed_run_leaves_nothing_of_a_file_that_it_is_writing() {
    let program = program();
    let before = program.files();
    let mut child = Command::new(env!("CARGO_BIN_EXE_voxtile"))
        .current_dir(program.path(""))
        .args(["segment", "in.nrrd", "-m", "model.safetensors", "-o", "out.nrrd", "--step", "0.1"])
        .args(["--threads", "1", "--probabilities", "probabilities.nii", "--quiet"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let folder = program.path("").canonicalize().unwrap();
    let open = format!("/proc/{}/fd", child.id());
    let is_writing = || {
        let files = std::fs::read_dir(&open).into_iter().flatten();
        let mut files = files.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        files.any(|path| path.starts_with(&folder) && path.to_string_lossy().contains("(deleted)"))
    };
    while !is_writing() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before a file was seen");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(program.files(), before);
}
