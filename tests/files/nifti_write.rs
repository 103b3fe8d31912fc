//! Label maps written as NIfTI.

use std::path::{Path, PathBuf};

use voxtile::base::Pool;
use voxtile::formats::nifti::{self, Labels};
use voxtile::formats::{Image, LabelFormat, OutputFile};
use voxtile::{Element, Error, Geometry};

const STRAIGHT: Geometry = Geometry {
    spacing: [1.0, 2.0, 3.0],
    origin: [-10.0, 20.0, 30.5],
    direction: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nifti")
}

fn round_trip(name: &str, labels: Labels<'_>, dims: [usize; 3], geometry: &Geometry) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    nifti::write_labels(
        OutputFile::create(&path).unwrap(),
        labels,
        dims,
        geometry,
        &Pool::serial(),
    )
    .unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    nifti::read(&path).unwrap()
}

#[test]
fn labels_take_the_smallest_type_they_fit() {
    let dims = [3, 2, 1];
    let small = round_trip("x.nii", Labels::U16(&[0, 1, 2, 3, 4, 254]), dims, &STRAIGHT);
    assert_eq!((small.element, &small.bytes[..]), (Element::U8, &[0, 1, 2, 3, 4, 254][..]));
    let same = round_trip("x.nii.gz", Labels::U8(&[0, 1, 2, 3, 4, 254]), dims, &STRAIGHT);
    assert_eq!(small, same);
    for labels in [Labels::U8(&[0, 1, 2, 3, 4, 255]), Labels::U16(&[0, 1, 2, 3, 4, 255])] {
        let large = round_trip("x.nii.gz", labels, dims, &STRAIGHT);
        let values: Vec<u16> = bytemuck::pod_collect_to_vec(&large.bytes);
        assert_eq!((large.element, values), (Element::U16, vec![0, 1, 2, 3, 4, 255]));
    }
    let wide = round_trip("x.nii", Labels::U16(&[0, 1, 2, 3, 4, 65535]), dims, &STRAIGHT);
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, u16>(&wide.bytes)[5], 65535);
    assert_eq!((wide.dims, wide.channels, wide.slope, wide.intercept), (dims, 1, 1.0, 0.0));
}

#[test]
fn the_geometry_of_every_fixture_survives() {
    let mut files = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            continue;
        }
        let image = nifti::read(&path).unwrap();
        let labels = vec![1; image.dims.iter().product()];
        let written = round_trip("x.nii.gz", Labels::U8(&labels), image.dims, &image.geometry);
        let (before, after) = (image.geometry, written.geometry);
        assert!(written.warnings.is_empty(), "{}: {:?}", path.display(), written.warnings);
        for axis in 0..3 {
            let relative = after.spacing[axis] / before.spacing[axis] - 1.0;
            assert!(relative.abs() < 1e-7, "{}: {before:?} {after:?}", path.display());
            let moved = after.origin[axis] - before.origin[axis];
            assert!(moved.abs() <= 1e-7 * 700.0, "{}: {before:?} {after:?}", path.display());
            for row in 0..3 {
                let turned = after.direction[row][axis] - before.direction[row][axis];
                assert!(turned.abs() < 1e-6, "{}: {before:?} {after:?}", path.display());
            }
        }
        files += 1;
    }
    assert!(files > 25, "{files}");
}

#[test]
fn both_forms_are_written_with_code_1_in_millimetres() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.nii");
    let output = OutputFile::create(&path).unwrap();
    nifti::write_labels(output, Labels::U8(&[7; 6]), [1, 2, 3], &STRAIGHT, &Pool::serial())
        .unwrap();
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes.len(), 352 + 6);
    let short = |offset: usize| i16::from_le_bytes([bytes[offset], bytes[offset + 1]]);
    assert_eq!((short(252), short(254)), (1, 1), "qform and sform code");
    assert_eq!(bytes[123], 10, "millimetres and seconds");
    assert_eq!([40, 42, 44, 46, 48].map(short), [3, 1, 2, 3, 1]);
    assert_eq!(&bytes[344..352], b"n+1\0\0\0\0\0");
    let float = |offset: usize| f32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
    // LPS (-10, 20, 30.5) is RAS (10, -20, 30.5), in the qform as in the sform.
    for offsets in [[268, 272, 276], [292, 308, 324]] {
        assert_eq!(offsets.map(float), [10.0, -20.0, 30.5]);
    }
    assert_eq!([280, 300, 320].map(float), [-1.0, -2.0, 3.0]);
}

#[test]
fn what_nifti_cannot_hold_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, labels: &[u8], dims: [usize; 3]| {
        let output = OutputFile::create(&folder.path().join(name)).unwrap();
        match nifti::write_labels(output, Labels::U8(labels), dims, &STRAIGHT, &Pool::serial()) {
            Err(Error::Argument(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused("x.mha", &[1], [1, 1, 1]).contains(".nii.gz"));
    assert!(refused("x.nii", &[1; 5], [1, 2, 3]).contains("5 values"));
    assert!(refused("x.nii", &[1; 40000], [40000, 1, 1]).contains("32767"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn names_decide_the_format() {
    use LabelFormat::*;
    for (name, format) in [
        ("a/labels.nii.gz", Nifti),
        ("labels.NII", Nifti),
        ("labels.nrrd", Nrrd),
        ("labels.seg.nrrd", Segmentation),
        ("labels.nhdr", Nrrd),
        ("labels.Mha", MetaImage),
        ("labels.mhd", MetaImage),
    ] {
        assert_eq!(LabelFormat::of(Path::new(name)).unwrap(), format, "{name}");
    }
    for name in ["labels", "labels.gz", "labels.seg", "", "nii", "labels.raw"] {
        assert!(LabelFormat::of(Path::new(name)).is_err(), "{name}");
    }
}
