//! Refuses kernels that were compiled from other sources than those beside them.

#[cfg(feature = "cuda")]
use std::{env, fs, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    {
        println!("cargo::rerun-if-changed=kernels");
        let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        if let Err(reason) = check(&Path::new(&root).join("kernels")) {
            println!("cargo::error=kernels/images.zip {reason}; run kernels/build.py");
        }
    }
}

/// Compares the digests of the sources with those that the archive was made of.
#[cfg(feature = "cuda")]
fn check(folder: &Path) -> Result<(), String> {
    let made_of = sources_of(&folder.join("images.zip"))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("has no folder: {error}"))?.flatten()
    {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "cu" || ending == "cuh") {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    let mut are = String::new();
    for name in names {
        let text = fs::read(folder.join(&name)).map_err(|error| format!("of {name}: {error}"))?;
        let digest = <sha2::Sha256 as sha2::Digest>::digest(text);
        let hexadecimal: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        are += &format!("{hexadecimal}  {name}\n");
    }
    match are.lines().find(|line| !made_of.lines().any(|other| other == *line)) {
        Some(line) => {
            let name = line.split_whitespace().next_back().unwrap_or_default();
            Err(format!("was not made of this kernels/{name}"))
        }
        None if are != made_of => Err("was made of other sources".into()),
        None => Ok(()),
    }
}

/// What the archive says that it was made of, as `sha256sum` prints it.
#[cfg(feature = "cuda")]
fn sources_of(archive: &Path) -> Result<String, String> {
    let file = fs::File::open(archive).map_err(|error| format!("can't be opened: {error}"))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| format!("is no zip: {error}"))?;
    let list = archive.by_name("sources.sha256");
    let list = list.map_err(|error| format!("names no sources: {error}"))?;
    std::io::read_to_string(list).map_err(|error| format!("can't be read: {error}"))
}
