//! Images in little memory: mapped, or held in 16 bits; the values are those of the file.

// In code for all types, casts are needed for all but one.
#![allow(clippy::unnecessary_cast)]

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use voxtile::base::mapping::Loading;
use voxtile::formats::{self, Image, nifti};
use voxtile::{Element, Error};

const DIMS: [usize; 3] = [5, 4, 3];
const VOXELS: usize = DIMS[0] * DIMS[1] * DIMS[2];

/// How a file of the test is made.
#[derive(Clone, Debug)]
struct File {
    element: Element,
    big_endian: bool,
    gzip: bool,
    /// A header and an image file instead of one file.
    pair: bool,
    /// Bytes between header and voxels, 0 to 3 of them no multiple of the voxels' size.
    gap: usize,
    slope: f32,
    intercept: f32,
    values: Vec<f64>,
}

/// Runs `$body` with `$type` as the Rust type of an element.
macro_rules! with_type {
    ($element:expr, $type:ident => $body:expr) => {
        match $element {
            Element::U8 => {
                type $type = u8;
                $body
            }
            Element::I8 => {
                type $type = i8;
                $body
            }
            Element::U16 => {
                type $type = u16;
                $body
            }
            Element::I16 => {
                type $type = i16;
                $body
            }
            Element::U32 => {
                type $type = u32;
                $body
            }
            Element::I32 => {
                type $type = i32;
                $body
            }
            Element::U64 => {
                type $type = u64;
                $body
            }
            Element::I64 => {
                type $type = i64;
                $body
            }
            Element::F32 => {
                type $type = f32;
                $body
            }
            Element::F64 => {
                type $type = f64;
                $body
            }
            other => panic!("{other:?} is no NIfTI type"),
        }
    };
}

const TYPES: [(Element, i16); 10] = [
    (Element::U8, 2),
    (Element::I16, 4),
    (Element::I32, 8),
    (Element::F32, 16),
    (Element::F64, 64),
    (Element::I8, 256),
    (Element::U16, 512),
    (Element::U32, 768),
    (Element::I64, 1024),
    (Element::U64, 1280),
];

impl File {
    /// The stored values as `f64`, after what the type makes of them.
    fn stored(&self) -> Vec<f64> {
        with_type!(self.element, T => self.values.iter().map(|&v| v as T as f64).collect())
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; 348];
        let mut put = |offset: usize, value: &[u8]| {
            let mut value = value.to_vec();
            if self.big_endian {
                value.reverse();
            }
            bytes[offset..offset + value.len()].copy_from_slice(&value);
        };
        put(0, &348i32.to_le_bytes());
        let dims = [3, DIMS[0] as i16, DIMS[1] as i16, DIMS[2] as i16, 1, 1, 1, 1];
        for (n, count) in dims.into_iter().enumerate() {
            put(40 + 2 * n, &count.to_le_bytes());
            put(76 + 4 * n, &1.0f32.to_le_bytes());
        }
        let code = TYPES.iter().find(|(element, _)| *element == self.element).unwrap().1;
        put(70, &code.to_le_bytes());
        put(72, &(8 * self.element.size() as i16).to_le_bytes());
        let offset = if self.pair { self.gap } else { 352 + self.gap };
        put(108, &(offset as f32).to_le_bytes());
        put(112, &self.slope.to_le_bytes());
        put(116, &self.intercept.to_le_bytes());
        bytes[344..].copy_from_slice(if self.pair { b"ni1\0" } else { b"n+1\0" });
        bytes
    }

    fn voxels(&self) -> Vec<u8> {
        with_type!(self.element, T => {
            let bytes = |&value: &f64| match self.big_endian {
                true => (value as T).to_be_bytes(),
                false => (value as T).to_le_bytes(),
            };
            self.values.iter().flat_map(bytes).collect()
        })
    }

    /// Writes it, and returns the file that names it and the one with the voxels.
    fn write(&self, folder: &Path) -> [PathBuf; 2] {
        let ending = if self.gzip { ".gz" } else { "" };
        let gap = vec![7; self.gap];
        let write = |name: &str, parts: &[&[u8]]| {
            let path = folder.join(format!("{name}{ending}"));
            let bytes = parts.concat();
            let bytes = if self.gzip { compressed(&bytes) } else { bytes };
            std::fs::write(&path, bytes).unwrap();
            path
        };
        if self.pair {
            let header = write("x.hdr", &[&self.header()]);
            [header, write("x.img", &[&gap, &self.voxels()])]
        } else {
            let path = write("x.nii", &[&self.header(), &[0; 4], &gap, &self.voxels()]);
            [path.clone(), path]
        }
    }

    /// What it should be held as.
    fn held_as(&self) -> Element {
        let read = self.gzip || (self.big_endian && self.element.size() > 1);
        let fits = |v: &f64| f64::from(*v as i16).to_bits() == v.to_bits();
        if read && self.element.size() > 2 && self.stored().iter().all(fits) {
            Element::I16
        } else {
            self.element
        }
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The values in memory, not scaled.
fn held(image: &Image) -> Vec<f64> {
    with_type!(image.element, T => {
        let values: Vec<T> = bytemuck::pod_collect_to_vec(&image.bytes);
        values.into_iter().map(|value| value as f64).collect()
    })
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn files() -> impl Strategy<Value = File> {
    let whole = -40_000i32..40_000;
    let small = prop::collection::vec((0i32..=127).prop_map(f64::from), VOXELS);
    let medium = prop::collection::vec((-32_768i32..=32_767).prop_map(f64::from), VOXELS);
    let large = prop::collection::vec(whole.prop_map(f64::from), VOXELS);
    let wild = prop::collection::vec(any::<f64>(), VOXELS);
    let special = prop::sample::select(vec![0.5, -0.0, 32768.0, -32769.0, f64::NAN, 1e30]);
    let odd = (
        prop::collection::vec((0i32..=127).prop_map(f64::from), VOXELS),
        any::<prop::sample::Index>(),
        special,
    );
    let odd = odd.prop_map(|(mut values, place, value)| {
        let place = place.index(values.len());
        values[place] = value;
        values
    });
    let values = prop_oneof![small, medium, large, wild, odd];
    let element = prop::sample::select(TYPES.map(|(element, _)| element).to_vec());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let scaling = prop_oneof![Just((1.0, 0.0)), Just((0.0, 3.0)), Just((0.25, -1024.0))];
    (element, flags, 0..4usize, scaling, values).prop_map(
        |(element, (big_endian, gzip, pair), gap, (slope, intercept), values)| File {
            element,
            big_endian,
            gzip,
            pair,
            gap,
            slope,
            intercept,
            values,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn values_are_those_of_the_file(file in files()) {
        let folder = tempfile::tempdir().unwrap();
        let [path, _] = file.write(folder.path());
        let image = nifti::read(&path).unwrap();
        prop_assert_eq!(bits(&held(&image)), bits(&file.stored()));
        prop_assert_eq!((image.stored, image.element), (file.element, file.held_as()));
        prop_assert_eq!(image.dims, DIMS);
        let scaling = match file.slope {
            0.0 => (1.0, 0.0),
            slope => (f64::from(slope), f64::from(file.intercept)),
        };
        prop_assert_eq!((image.slope, image.intercept), scaling);
        image.view().validate().unwrap();

        let mapped = !file.gzip && (!file.big_endian || file.element.size() == 1);
        let bytes = VOXELS * image.element.size();
        prop_assert_eq!(image.bytes.held(), if mapped { 0 } else { bytes });
        let most = formats::memory_bytes(&[&path]).unwrap();
        prop_assert!(most >= image.bytes.held() as u64);

        // Read into memory it is the same, in 16 bits where that holds it.
        let read = formats::read_with(&path, Loading::Read).unwrap();
        prop_assert_eq!(bits(&held(&read)), bits(&held(&image)));
        prop_assert_eq!(read.bytes.held(), read.bytes.len());
        let same = Image {
            bytes: read.bytes.clone(),
            element: read.element,
            ..image.clone()
        };
        prop_assert_eq!(same, read);
    }

    #[test]
    fn channels_keep_their_values(
        first in files(),
        second in files(),
        alike in any::<bool>(),
    ) {
        // Alike, but for the values: what nnU-Net's channel files mostly are.
        let second = if alike {
            File { values: second.values, ..first.clone() }
        } else {
            second
        };
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths = [first.write(folders[0].path())[0].clone(), second.write(folders[1].path())[0].clone()];
        let image = formats::read_channels(&paths).unwrap();
        let scaled = |image: &Image| -> Vec<f64> {
            held(image).iter().map(|value| value * image.slope + image.intercept).collect()
        };
        let each: Vec<f64> =
            paths.iter().flat_map(|path| scaled(&nifti::read(path).unwrap())).collect();
        let scaling = |file: &File| (file.slope, file.slope * file.intercept);
        if first.element == second.element && scaling(&first) == scaling(&second) {
            prop_assert_eq!(bits(&scaled(&image)), bits(&each));
        } else {
            // Zeros have no sign after scaling, and a NaN is a NaN.
            let single = |values: Vec<f64>| {
                let single = |value: f64| match value as f32 {
                    value if value.is_nan() => f32::NAN.to_bits(),
                    value => (value + 0.0).to_bits(),
                };
                values.into_iter().map(single)
            };
            prop_assert!(single(scaled(&image)).eq(single(each)));
        }
        prop_assert_eq!(image.channels, 2);
        image.view().validate().unwrap();
        let most = formats::memory_bytes(&paths).unwrap();
        prop_assert!(most >= image.bytes.len() as u64);
    }

    #[test]
    fn files_that_are_cut_short_are_refused(file in files(), at in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let [path, voxels] = file.write(folder.path());
        let whole = std::fs::read(&voxels).unwrap();
        std::fs::write(&voxels, &whole[..at.index(whole.len())]).unwrap();
        for loading in [Loading::Mapped, Loading::Read] {
            let error = formats::read_with(&path, loading).unwrap_err();
            prop_assert!(matches!(error, Error::Format { .. }), "{error:?}");
            let name = voxels.display().to_string();
            prop_assert!(error.to_string().contains(&name), "{error}");
        }
    }
}

/// Many blocks; the last value is the first that does not fit.
#[test]
fn a_late_fraction_restores_what_was_read() {
    let dims = [64i16, 64, 40];
    let count = 64 * 64 * 40;
    let mut values: Vec<f32> = (0..count).map(|n| (n % 4096 - 1024) as f32).collect();
    let template = File {
        element: Element::F32,
        big_endian: false,
        gzip: true,
        pair: false,
        gap: 0,
        slope: 1.0,
        intercept: 0.0,
        values: Vec::new(),
    };
    let mut header = template.header();
    for (n, count) in dims.into_iter().enumerate() {
        header[42 + 2 * n..44 + 2 * n].copy_from_slice(&count.to_le_bytes());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.nii.gz");
    let read = |values: &[f32]| {
        let voxels: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&path, compressed(&[&header[..], &[0; 4], &voxels].concat())).unwrap();
        nifti::read(&path).unwrap()
    };
    let whole = read(&values);
    assert_eq!((whole.element, whole.stored), (Element::I16, Element::F32));
    assert_eq!(whole.bytes.held(), 2 * count as usize);
    assert!(held(&whole).iter().zip(&values).all(|(held, value)| *held == f64::from(*value)));
    values[count as usize - 1] = 0.5;
    let fraction = read(&values);
    assert_eq!((fraction.element, fraction.stored), (Element::F32, Element::F32));
    assert_eq!(fraction.bytes, bytemuck::cast_slice::<f32, u8>(&values).to_vec());
}
