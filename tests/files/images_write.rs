//! Label maps written as NRRD, MetaImage and 3D Slicer's segmentations.
//! `tests/reference/check_images.py` reads them with SimpleITK and slicerio.

use std::path::Path;

use voxtile::base::Pool;
use voxtile::formats::nrrd::{self, Code, Segment, Terminology};
use voxtile::formats::{self, Labels, OutputFile, write_labels};
use voxtile::{Element, Error, Geometry};

/// At a slant, with numbers that single precision does not hold.
fn geometry() -> Geometry {
    let (sine, cosine) = (0.6, 0.8);
    Geometry {
        spacing: [0.1 + 0.2, 1.0 / 3.0, 2.0],
        origin: [-30.123456789, 12.25, 700.1],
        direction: [[cosine, 0.0, -sine], [0.0, -1.0, 0.0], [sine, 0.0, cosine]],
    }
}

const DIMS: [usize; 3] = [4, 3, 2];

fn segments() -> Vec<Segment> {
    let code = |scheme: &str, value: &str, meaning: &str| Code {
        scheme: scheme.into(),
        value: value.into(),
        meaning: meaning.into(),
    };
    let segment = |value, name: &str, terminology| Segment {
        value,
        layer: 0,
        name: name.into(),
        color: Some([255, 128, 0]),
        terminology,
    };
    let kidney = Terminology {
        category: code("SCT", "123037004", "Anatomical Structure"),
        kind: code("SCT", "64033007", "Kidney"),
        modifier: Some(code("SCT", "7771000", "Left")),
        region: None,
        region_modifier: None,
    };
    vec![segment(2, "kidney_left", Some(kidney)), segment(300, "Wirbelsäule", None)]
}

#[test]
fn labels_and_geometry_come_back_from_every_format() {
    let small: Vec<u8> = (0..24).map(|n| n % 5).collect();
    let large: Vec<u16> = (0..24).map(|n| n * 30).collect();
    for name in ["x.nrrd", "x.nhdr", "x.seg.nrrd", "x.mha", "x.mhd"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        for (labels, element) in
            [(Labels::U8(&small), Element::U8), (Labels::U16(&large), Element::U16)]
        {
            // The second replaces the first.
            let output = OutputFile::create(&path).unwrap();
            write_labels(output, labels, DIMS, &geometry(), &segments(), &Pool::serial()).unwrap();
            let image = formats::read(&path).unwrap();
            assert_eq!((image.dims, image.channels, image.element), (DIMS, 1, element), "{name}");
            assert_eq!(image.warnings, Vec::<String>::new());
            let expected = match labels {
                Labels::U8(labels) => labels.to_vec(),
                Labels::U16(labels) => bytemuck::cast_slice(labels).to_vec(),
            };
            assert_eq!(image.bytes, expected, "{name}");
            let (found, expected) = (image.geometry, geometry());
            let values =
                |g: &Geometry| [&g.spacing[..], &g.origin, g.direction.as_flattened()].concat();
            for (found, expected) in values(&found).iter().zip(values(&expected)) {
                assert!((found - expected).abs() < 1e-13, "{name}: {found} {expected}");
            }
        }
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, if name.ends_with("hdr") || name.ends_with("mhd") { 2 } else { 1 });
    }
}

#[test]
fn segmentations_describe_their_segments() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.seg.nrrd");
    let output = OutputFile::create(&path).unwrap();
    write_labels(output, Labels::U8(&[2; 24]), DIMS, &geometry(), &segments(), &Pool::serial())
        .unwrap();
    assert_eq!(nrrd::read_segments(&path).unwrap(), segments());
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
    let header = std::str::from_utf8(&bytes[..end]).unwrap();
    for line in [
        "space: left-posterior-superior",
        "kinds: domain domain domain",
        "encoding: gzip",
        "Segment0_ID:=Segment_2",
        "Segment0_Name:=kidney_left",
        "Segment0_LabelValue:=2",
        "Segment0_Layer:=0",
        "Segment0_Color:=1.000000 0.501961 0.000000",
        "Segment0_Extent:=0 3 0 2 0 1",
        "Segment0_Tags:=TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy \
         list~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic \
         codes - DICOM master list~^^~^^|",
        "Segment1_Name:=Wirbelsäule",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ] {
        assert!(header.lines().any(|found| found == line), "no `{line}` in {header}");
    }
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (name, labels, part) in [
        ("x.nrrd", &[1; 5][..], "5 values"),
        ("x.mhd", &[1; 5], "5 values"),
        ("x.png", &[1], ".mha"),
    ] {
        let output = OutputFile::create(&folder.path().join(name)).unwrap();
        match write_labels(output, Labels::U8(labels), [1, 2, 3], &geometry(), &[], &Pool::serial())
        {
            Err(Error::Argument(message)) => assert!(message.contains(part), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    // The place of the data file is taken by a folder.
    std::fs::create_dir(folder.path().join("x.zraw")).unwrap();
    let output = OutputFile::create(&folder.path().join("x.mhd")).unwrap();
    let result =
        write_labels(output, Labels::U8(&[1]), [1, 1, 1], &geometry(), &[], &Pool::serial());
    assert!(result.unwrap_err().to_string().contains("x.zraw"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(!Path::new(&folder.path().join("x.mhd")).exists());
}
