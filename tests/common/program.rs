//! A folder with a model package and an image, and the program to run in it.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Command, Output};

use voxtile::Geometry;
use voxtile::base::Pool;
use voxtile::formats::{OutputFile, nifti};

pub struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    pub fn new(model: &[u8]) -> Self {
        let program = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(program.path("model.safetensors"), model).unwrap();
        program
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an image of bytes.
    pub fn image(&self, name: &str, voxels: &[u8], dims: [usize; 3], geometry: &Geometry) {
        let output = OutputFile::create(&self.path(name)).unwrap();
        nifti::write_labels(output, nifti::Labels::U8(voxels), dims, geometry, &Pool::serial())
            .unwrap();
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_voxtile"))
            .current_dir(self.folder.path())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs the program and expects success; its standard output.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {out}{err}");
        out
    }

    /// Runs the program, which must fail with `code`, say `part`, and leave the folder as it was;
    /// what it says.
    #[track_caller]
    pub fn fail(&self, arguments: &[&str], code: i32, part: &str) -> String {
        let before = self.files();
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains("error: ") && text.contains(part), "no `{part}` in: {text}");
        assert!(!text.contains("panicked"), "{text}");
        assert_eq!(self.files(), before);
        text
    }

    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
