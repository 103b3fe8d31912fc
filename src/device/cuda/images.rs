//! The kernels' machine code, which `kernels/build.py` compiled and the library carries: one image
//! for each kind of GPU, and PTX that the driver compiles for later ones.

use std::io::{Cursor, Read};

use lzma_rust2::LzmaReader;

use super::driver::Limits;
use crate::base::{Error, Result};

/// Made by `kernels/build.py`; `build.rs` has compared it with the kernels' sources.
const ARCHIVE: &[u8] = include_bytes!("../../../kernels/images.zip");

/// Images of the archive, the most special first: name, and the compute capabilities (10 times
/// major plus minor) it runs on.
const IMAGES: &[(&str, u32, u32)] = &[
    // Code for x.y runs on x.z where z >= y; what has an `a` runs on x.y alone.
    ("sm_120", 120, 129),
    ("sm_100", 100, 109),
    ("sm_90a", 90, 90),
    ("sm_89", 89, 89),
    ("sm_86", 86, 89),
    ("sm_80", 80, 89),
    // The driver compiles it when it is loaded.
    ("compute_80", 80, u32::MAX),
];

/// The images that run on a GPU, the best first.
pub fn covering(limits: Limits) -> impl Iterator<Item = &'static str> {
    let runs =
        move |(_, first, last): &&(&str, u32, u32)| (*first..=*last).contains(&limits.capability);
    IMAGES.iter().filter(runs).map(|(name, ..)| *name)
}

/// The bytes of an image.
///
/// # Errors
/// [`Error::Internal`] if the archive lacks it.
pub fn read(name: &str) -> Result<Vec<u8>> {
    let ending = if name.starts_with("compute") { "ptx" } else { "cubin" };
    let file = format!("{name}.{ending}.lzma");
    let missing = |error: &dyn std::fmt::Display| {
        Error::Internal(format!("the kernels for {name} can't be unpacked: {error}"))
    };
    let mut archive = zip::ZipArchive::new(Cursor::new(ARCHIVE)).map_err(|e| missing(&e))?;
    let entry = archive.by_name(&file).map_err(|e| missing(&e))?;
    let mut image = LzmaReader::new_mem_limit(entry, u32::MAX, None).map_err(|e| missing(&e))?;
    let mut bytes = Vec::new();
    image.read_to_end(&mut bytes).map_err(|e| missing(&e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(capability: u32) -> Option<&'static str> {
        covering(Limits { capability, multiprocessors: 1 }).next()
    }

    #[test]
    fn every_gpu_gets_the_most_special_image() {
        let expected = [
            (70, None),
            (75, None),
            (80, Some("sm_80")),
            (86, Some("sm_86")),
            (87, Some("sm_86")),
            (89, Some("sm_89")),
            (90, Some("sm_90a")),
            (100, Some("sm_100")),
            (103, Some("sm_100")),
            (110, Some("compute_80")),
            (120, Some("sm_120")),
            (121, Some("sm_120")),
            (130, Some("compute_80")),
        ];
        for (capability, image) in expected {
            assert_eq!(chosen(capability), image, "{capability}");
        }
    }

    #[test]
    fn every_image_can_be_read() {
        for (name, ..) in IMAGES {
            let bytes = read(name).unwrap();
            let (begin, end): (&[u8], &[u8]) = match name.starts_with("compute") {
                true => (b"//", b"}\n\n\0"),
                false => (b"\x7fELF", b""),
            };
            assert!(bytes.starts_with(begin) && bytes.ends_with(end), "{name}");
        }
    }
}
