//! The program on many images: cases, what is skipped, what fails, and the stream for programs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::SeededModel;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use voxtile::Geometry;

/// A folder with a model and a folder `in`, in which the program runs.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        Self { folder }
    }

    /// With the demonstration model.
    fn demo() -> Self {
        let place = Self::new();
        std::fs::copy(example("demo.safetensors"), place.path("model.safetensors")).unwrap();
        place
    }

    fn seeded(model: &SeededModel) -> Self {
        let place = Self::new();
        std::fs::write(place.path("model.safetensors"), model.bytes()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an image of noise.
    fn noise(&self, name: &str, seed: u64) {
        let dims = [22, 20, 18];
        let geometry = Geometry::axis_aligned([1.5, 1.5, 2.0]);
        crate::write_noise(&self.path(name), dims, &geometry, seed);
    }

    /// Runs `voxtile segment` with the model.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let Output { status, stdout, stderr } = output;
        let [out, err] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(!err.contains("panicked"), "{err}");
        (status.code().unwrap(), out, err)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_voxtile"));
        command.current_dir(self.folder.path());
        command.args(["segment", "-m", "model.safetensors"]).args(arguments);
        command
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> (String, String) {
        let (code, out, err) = self.run(arguments);
        assert_eq!(code, 0, "{out}{err}");
        (out, err)
    }

    /// The exit code and the events of a run with `--json-lines`, which says nothing else.
    fn events(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let (code, out, err) = self.run(&[arguments, &["--json-lines"]].concat());
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        let events: Vec<Value> = out.lines().map(parse).collect();
        let finished: Vec<usize> =
            (0..events.len()).filter(|&n| is(&events[n], "finished")).collect();
        assert_eq!(finished, [events.len() - 1], "{out}{err}");
        assert_eq!(events[finished[0]]["exit"], code);
        (code, events)
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn is(event: &Value, kind: &str) -> bool {
    event["event"] == kind
}

/// The cases of the events of one kind, in order.
fn cases<'a>(events: &'a [Value], kind: &str) -> Vec<&'a str> {
    let events = events.iter().filter(|event| is(event, kind));
    events.map(|event| event["case"].as_str().unwrap()).collect()
}

fn same_bytes(first: &Path, second: &Path) -> bool {
    std::fs::read(first).unwrap() == std::fs::read(second).unwrap()
}

/// The example, whole and with its upper half emptied, and between them a file that is cut short.
fn three_cases() -> Place {
    let place = Place::demo();
    let whole = std::fs::read(example("ct_part.nii.gz")).unwrap();
    std::fs::write(place.path("in/a.nii.gz"), &whole).unwrap();
    std::fs::write(place.path("in/b.nii.gz"), &whole[..whole.len() / 2]).unwrap();
    let mut plain = Vec::new();
    GzDecoder::new(&whole[..]).read_to_end(&mut plain).unwrap();
    let half = 352 + (plain.len() - 352) / 4 * 2;
    plain[half..].fill(0);
    std::fs::write(place.path("in/c_0000.nii"), plain).unwrap();
    place
}

#[test]
fn a_bad_case_is_reported_the_others_are_done_and_a_second_run_resumes() {
    let place = three_cases();
    let (code, out, err) = place.run(&["in", "-o", "out/", "--report", "report.json"]);
    assert_eq!(code, 7, "{out}{err}");
    assert_eq!(place.files("out"), ["a.nii.gz", "c.nii.gz"]);
    assert!(
        err.contains("error: b: in/b.nii.gz: the gzip stream is damaged or cut short"),
        "{err}"
    );
    assert!(err.contains("error: 3 cases: 2 done, 0 skipped, 1 failed (b)"), "{err}");
    assert_eq!(err.matches("DEMONSTRATION").count(), 1, "{err}");
    for part in ["[1/3] a", "[3/3] c"] {
        assert!(err.contains(part), "no `{part}` in {err}");
    }
    assert!(out.contains("out/a.nii.gz: ") && out.contains("out/c.nii.gz: "), "{out}");

    // The labels are those of single runs.
    for (input, case) in [("in/a.nii.gz", "a"), ("in/c_0000.nii", "c")] {
        let single = format!("{case}.nii.gz");
        let report = format!("{case}.json");
        place.succeed(&[input, "-o", &single, "--report", &report]);
        assert!(same_bytes(&place.path(&single), &place.path(&format!("out/{single}"))), "{case}");
    }
    assert!(!same_bytes(&place.path("a.nii.gz"), &place.path("c.nii.gz")));

    // The report has what the reports of single runs have.
    let report = place.json("report.json");
    assert_eq!(report["model"]["name"], place.json("a.json")["model"]["name"]);
    assert_eq!(report["failed"], json!(["b"]));
    let [a, b, c] = &report["cases"].as_array().unwrap()[..] else { panic!("{report}") };
    for (entry, case) in [(a, "a"), (c, "c")] {
        let single = place.json(&format!("{case}.json"));
        assert_eq!((&entry["case"], &entry["status"]), (&json!(case), &json!("done")));
        assert_eq!(entry["outputs"]["labels"], format!("out/{case}.nii.gz"));
        for part in ["inputs", "image", "run", "labels", "warnings"] {
            assert_eq!(entry[part], single[part], "{part}");
        }
    }
    assert_eq!((&b["case"], &b["status"]), (&json!("b"), &json!("failed")));
    assert!(b["error"].as_str().unwrap().contains("cut short"), "{b}");

    // Mended, it alone is computed.
    std::fs::copy(place.path("in/a.nii.gz"), place.path("in/b.nii.gz")).unwrap();
    let before = std::fs::metadata(place.path("out/a.nii.gz")).unwrap().modified().unwrap();
    let (code, events) = place.events(&["in", "-o", "out", "--report", "report.json"]);
    assert_eq!(code, 0);
    assert_eq!(cases(&events, "skipped"), ["a", "c"]);
    assert_eq!((cases(&events, "case"), cases(&events, "done")), (vec!["b"], vec!["b"]));
    let last = &events[events.len() - 1];
    assert_eq!((&last["done"], &last["skipped"]), (&json!(1), &json!(2)));
    assert_eq!(last["failed"], json!([]));
    assert!(same_bytes(&place.path("out/a.nii.gz"), &place.path("out/b.nii.gz")));
    let after = std::fs::metadata(place.path("out/a.nii.gz")).unwrap().modified().unwrap();
    assert_eq!(before, after);
    let report = place.json("report.json");
    let statuses: Vec<&Value> =
        report["cases"].as_array().unwrap().iter().map(|case| &case["status"]).collect();
    assert_eq!(statuses, ["skipped", "done", "skipped"]);

    // A label map that is there is replaced only if the user says so.
    std::fs::write(place.path("out/c.nii.gz"), "old").unwrap();
    let (out, _) = place.succeed(&["in/c_0000.nii", "-o", "out"]);
    assert!(out.contains("1 case: 0 done, 1 skipped, 0 failed"), "{out}");
    assert_eq!(std::fs::read(place.path("out/c.nii.gz")).unwrap(), b"old");
    place.succeed(&["in/c_0000.nii", "-o", "out", "--overwrite"]);
    assert!(same_bytes(&place.path("c.nii.gz"), &place.path("out/c.nii.gz")));
    assert_eq!(place.files("out"), ["a.nii.gz", "b.nii.gz", "c.nii.gz"]);
}

#[test]
fn the_stream_of_a_batch_tells_every_step() {
    let place = three_cases();
    let (code, events) =
        place.events(&["in/c_0000.nii", "in/b.nii.gz", "in/a.nii.gz", "-o", "out/"]);
    assert_eq!(code, 7);
    assert_eq!(cases(&events, "case"), ["c", "b", "a"]);
    let mut done = cases(&events, "done");
    done.sort_unstable();
    assert_eq!(done, ["a", "c"]);
    assert_eq!(cases(&events, "failed"), ["b"]);
    for (number, event) in events.iter().filter(|event| is(event, "case")).enumerate() {
        assert_eq!((&event["number"], &event["of"]), (&json!(number + 1), &json!(3)));
        assert!(event["inputs"][0].as_str().unwrap().starts_with("in/"), "{event}");
    }
    let failed = events.iter().find(|event| is(event, "failed")).unwrap();
    assert!(failed["error"].as_str().unwrap().contains("cut short"), "{failed}");
    assert_eq!(failed["exit"], 3);
    for case in ["a", "c"] {
        let at = |kind: &str| {
            let of_case = |event: &Value| is(event, kind) && event["case"] == case;
            events.iter().position(of_case).unwrap_or_else(|| panic!("no {kind} of {case}"))
        };
        assert!(at("case") < at("progress") && at("progress") < at("done"), "{case}");
        let done = &events[at("done")];
        assert_eq!(done["output"], format!("out/{case}.nii.gz"));
        assert!(done["seconds"].as_f64().unwrap() > 0.0);
        let phases = |phase: &str| {
            let of_phase = |event: &&Value| event["case"] == case && event["phase"] == phase;
            events.iter().filter(of_phase).count()
        };
        assert!(phases("prepare") > 0 && phases("tiles") > 0 && phases("restore") > 0, "{case}");
    }
    let last = &events[events.len() - 1];
    assert_eq!((&last["done"], &last["failed"]), (&json!(2), &json!(["b"])));
    // At most ten lines of progress a second, and those that begin a phase.
    let progress = events.iter().filter(|event| is(event, "progress")).count();
    let seconds = last["seconds"].as_f64().unwrap();
    assert!(progress as f64 <= 10.0 * seconds + 2.0 * 3.0 + 1.0, "{progress} in {seconds} s");
}

#[test]
fn the_stream_of_one_case() {
    let place = Place::seeded(&SeededModel::small([16, 16, 16], 5));
    place.noise("in/ct_0000.nii.gz", 1);
    let (code, events) = place.events(&["in/ct_0000.nii.gz", "-o", "labels.nii.gz"]);
    assert_eq!(code, 0);
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 2]), ("case", "done"));
    assert_eq!(events[kinds.len() - 2]["output"], "labels.nii.gz");
    let tiles = events.iter().find(|event| event["phase"] == "tiles").unwrap();
    assert!(tiles["total"].as_u64().unwrap() > 0 && tiles["done"].is_u64(), "{tiles}");

    let (code, events) = place.events(&["in/none.nii.gz", "-o", "labels.nii.gz"]);
    assert_eq!((code, cases(&events, "failed")), (3, vec!["none"]));
    let (code, events) = place.events(&["in/none.nii.gz", "-o", "none/labels.nii.gz"]);
    let [finished] = &events[..] else { panic!("{events:?}") };
    assert_eq!(code, 6);
    assert!(finished["error"].as_str().unwrap().contains("does not exist"), "{finished}");
}

#[test]
fn channel_files_are_grouped_by_name() {
    let mut two = SeededModel { inputs: 2, ..SeededModel::small([16, 16, 16], 5) }
        .with("normalization", json!([{ "scheme": "none" }, { "scheme": "none" }]));
    two.document["parts"][0]["architecture"]["input_channels"] = 2.into();
    let place = Place::seeded(&two);
    for (name, seed) in [("x_0001", 1), ("x_0000", 2), ("y_0000", 3), ("z_0000", 4), ("z_0001", 5)]
    {
        place.noise(&format!("in/{name}.nii.gz"), seed);
    }
    let (code, _, err) = place.run(&["in", "-o", "out/"]);
    assert_eq!(code, 7, "{err}");
    let message = "y: its files are the channels _0000, but the model takes _0000 to _0001";
    assert!(err.contains(message), "{err}");
    assert_eq!(place.files("out"), ["x.nii.gz", "z.nii.gz"]);
    for case in ["x", "z"] {
        let channels = ["0000", "0001"].map(|channel| format!("in/{case}_{channel}.nii.gz"));
        place.succeed(&[&channels[0], &channels[1], "-o", "single.nii.gz"]);
        assert!(same_bytes(
            &place.path("single.nii.gz"),
            &place.path(&format!("out/{case}.nii.gz"))
        ));
    }
}

#[test]
fn what_cannot_become_a_batch_is_refused_before_it_starts() {
    let place = Place::seeded(&SeededModel::small([16, 16, 16], 5));
    place.noise("in/a.nii.gz", 1);
    std::fs::create_dir(place.path("other")).unwrap();
    place.noise("other/a_0000.nii", 2);
    std::fs::create_dir(place.path("empty")).unwrap();
    std::fs::create_dir(place.path("out")).unwrap();
    let refused = |arguments: &[&str], code: i32, part: &str| {
        let (found, out, err) = place.run(arguments);
        assert_eq!((found, &out[..]), (code, ""), "{err}");
        assert!(err.contains(part), "no `{part}` in {err}");
        assert!(place.files("out").is_empty());
    };
    let both = "in/a.nii.gz and other/a_0000.nii would both become out/a.nii.gz";
    refused(&["in", "other", "-o", "out"], 6, both);
    refused(&["in", "in/a.nii.gz", "-o", "out"], 6, "would both become");
    refused(&["in", "-o", "in"], 6, "is also an input");
    refused(&["in", "-o", "out", "--report", "in/a.nii.gz"], 6, "is also an input");
    refused(&["in", "-o", "out", "--report", "out/a.nii.gz"], 6, "is also another output");
    refused(&["empty", "-o", "out"], 3, "no image");
    for option in ["--scores", "--preprocessed"] {
        refused(&["in", "-o", "out", option, "x"], 2, &format!("{option} is for one case"));
    }
    assert_eq!(place.files("in"), ["a.nii.gz"]);
}

/// Images read ahead and results on their way count: where the limit is what one case needs, no
/// image is read ahead, and all cases are still done.
#[test]
fn the_memory_of_one_case_is_enough_for_many() {
    let place = Place::seeded(&SeededModel::small([16, 16, 16], 5));
    for case in ["a", "b", "c"] {
        place.noise(&format!("in/{case}.nii.gz"), 1);
    }
    let mut memory = "1".to_string();
    for _ in 0..3 {
        let (code, _, err) =
            place.run(&["in/a.nii.gz", "-o", "single.nii.gz", "--memory", &memory]);
        if code == 0 {
            break;
        }
        assert_eq!(code, 5, "{err}");
        memory = err.trim().rsplit_once(' ').unwrap().1.to_string();
    }
    let estimated = |case: &Value| case["memory"]["estimated_bytes"].as_u64().unwrap();
    place.succeed(&["in", "-o", "out/", "--memory", &memory, "--report", "report.json"]);
    let most: u64 = memory.parse().unwrap();
    let report = place.json("report.json");
    let tight: Vec<u64> = report["cases"].as_array().unwrap().iter().map(estimated).collect();
    assert_eq!(tight, [most; 3]);

    // With more, the next image, the result before, or both are counted.
    place.succeed(&["in/a.nii.gz", "-o", "single.nii.gz", "--report", "report.json"]);
    let one = estimated(&place.json("report.json"));
    place.succeed(&["in", "-o", "out/", "--overwrite", "--report", "report.json"]);
    let report = place.json("report.json");
    let roomy: Vec<u64> = report["cases"].as_array().unwrap().iter().map(estimated).collect();
    let image = 22 * 20 * 18;
    assert_eq!(roomy[0], one + image);
    let result = roomy[2] - one;
    assert!(result >= image, "{one} {roomy:?}");
    assert_eq!(roomy[1], one + image + result);

    // Of one byte too little every case is told.
    let memory = (most - 1).to_string();
    let (code, _, err) = place.run(&["in", "-o", "out/", "--overwrite", "--memory", &memory]);
    assert_eq!((code, err.matches("raise --memory").count()), (7, 3), "{err}");
}

/// Ctrl-C in the middle of a case ends the batch and leaves what was done before, and nothing else.
#[test]
#[cfg(unix)]
fn interrupts_leave_whole_results_only() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let place = Place::seeded(&SeededModel::small([16, 16, 16], 5));
    for case in ["a", "b", "c"] {
        place.noise(&format!("in/{case}.nii.gz"), 1);
    }
    place.succeed(&["in/a.nii.gz", "-o", "out/"]);
    // Tiles one voxel apart, eight times each: minutes of work.
    let arguments =
        ["in", "-o", "out/", "--step", "0.01", "--mirror", "--json-lines", "--report", "r.json"];
    let mut child =
        place.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("\"tiles\"")), "the run did not get to its tiles");
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let last: Value = serde_json::from_str(&rest[rest.len() - 1]).unwrap();
    assert_eq!((&last["event"], &last["exit"]), (&json!("finished"), &json!(130)));
    assert_eq!((&last["done"], &last["skipped"]), (&json!(0), &json!(1)));
    assert_eq!(place.files("out"), ["a.nii.gz"]);
    assert_eq!(place.json("r.json")["cancelled"], true);
}

/// A program that stops listening does not stop the run.
#[test]
#[cfg(unix)]
fn a_stream_nobody_reads_is_no_failure() {
    use std::process::Stdio;

    let place = Place::seeded(&SeededModel::small([16, 16, 16], 5));
    place.noise("in/a.nii.gz", 1);
    let mut child = place
        .command(&["in", "-o", "out/", "--json-lines"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(place.files("out"), ["a.nii.gz"]);
}
