//! NRRD and MetaImage files as SimpleITK, pynrrd and 3D Slicer wrote them, and files that are
//! damaged. `tests/reference/make_image_fixtures.py` made the fixtures.

use std::path::{Path, PathBuf};

use serde_json::Value;
use voxtile::base::mapping::Loading;
use voxtile::formats::{self, Image, nrrd};
use voxtile::{Element, Error};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

fn document(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

/// The values through the view, the i axis fastest, channels slowest.
fn values(image: &Image) -> Vec<f64> {
    let view = image.view();
    view.validate().unwrap();
    let mut values = Vec::new();
    let mut line = vec![0.0f32; image.dims[0]];
    for channel in 0..image.channels as isize {
        for k in 0..image.dims[2] as isize {
            for j in 0..image.dims[1] as isize {
                let first =
                    channel * view.channel_stride + k * view.strides[2] + j * view.strides[1];
                view.read_line(first as usize, view.strides[0], &mut line);
                values.extend(line.iter().map(|value| f64::from(*value)));
            }
        }
    }
    values
}

#[test]
fn files_read_as_itk_reads_them() {
    let expected = document("expected.json");
    for (name, expected) in expected.as_object().unwrap() {
        let path = folder().join(name);
        let image = formats::read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(image.warnings, Vec::<String>::new(), "{name}");
        assert_eq!(image.dims.map(|n| n as f64).to_vec(), numbers(&expected["dims"]), "{name}");
        assert_eq!(image.channels as u64, expected["channels"].as_u64().unwrap(), "{name}");
        let stored = format!("{:?}", image.stored).to_lowercase();
        let kind = expected["type"].as_str().unwrap();
        let kind = kind.replace("uint", "u").replace("int", "i").replace("float", "f");
        assert_eq!(stored, kind, "{name}");
        for (found, expected) in values(&image).iter().zip(numbers(&expected["values"])) {
            assert_eq!(*found as f32, expected as f32, "{name}");
        }
        let geometry = [
            ("spacing", image.geometry.spacing.to_vec()),
            ("origin", image.geometry.origin.to_vec()),
            ("direction", image.geometry.direction.concat()),
        ];
        for (what, found) in geometry {
            let expected = numbers(&expected[what]);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-12, "{name} {what}: {found} {expected}");
            }
        }
        // What is mapped is what is read, and headers alone say the same.
        let read = formats::read_with(&path, Loading::Read).unwrap();
        assert_eq!(values(&read), values(&image), "{name}");
        let header = formats::read_headers(&[&path]).unwrap();
        assert_eq!((header.dims, header.geometry), (image.dims, image.geometry), "{name}");
        let most = formats::memory_bytes(&[&path]).unwrap();
        assert!(image.bytes.held() as u64 <= most, "{name}: {most}");
    }
    assert_eq!(expected.as_object().unwrap().len(), 51);
}

#[test]
fn uncompressed_voxels_are_mapped() {
    for name in ["plain.nrrd", "plain.mha", "itk.nhdr", "itk.mhd", "vector.nrrd", "skipped.nhdr"] {
        assert_eq!(formats::read(&folder().join(name)).unwrap().bytes.held(), 0, "{name}");
    }
}

#[test]
fn segmentations_name_their_segments() {
    let expected = document("segments.json");
    for (name, expected) in expected.as_object().unwrap() {
        let path = folder().join(name);
        let image = formats::read(&path).unwrap();
        let layers = if name.starts_with("SegmentationOverlapping") { 2 } else { 1 };
        assert_eq!((image.dims, image.channels), ([5, 5, 4], layers), "{name}");
        let segments = nrrd::read_segments(&path).unwrap();
        assert_eq!(segments.len(), expected.as_array().unwrap().len());
        for (segment, expected) in segments.iter().zip(expected.as_array().unwrap()) {
            assert_eq!(u64::from(segment.value), expected["value"].as_u64().unwrap());
            assert_eq!(segment.layer as u64, expected["layer"].as_u64().unwrap());
            assert_eq!(segment.name, expected["name"].as_str().unwrap());
            assert_eq!(segment.color.unwrap().map(f64::from).to_vec(), numbers(&expected["color"]));
            let terminology = segment.terminology.as_ref().unwrap();
            let code = |code: &nrrd::Code| {
                Value::from([&code.scheme, &code.value, &code.meaning].map(String::as_str).to_vec())
            };
            assert_eq!(code(&terminology.kind), expected["type"]);
            let modifier = terminology.modifier.as_ref().map_or(Value::Null, code);
            assert_eq!(modifier, expected["modifier"]);
        }
    }
    assert_eq!(nrrd::read_segments(&folder().join("plain.nrrd")).unwrap(), []);
    assert_eq!(nrrd::read_segments(&folder().join("plain.mha")).unwrap(), []);
}

#[test]
fn channel_files_of_different_formats_become_one_image() {
    let files = ["plain.nrrd", "type_int16.mha", "itk.mhd"].map(|name| folder().join(name));
    let image = formats::read_channels(&files).unwrap();
    assert_eq!((image.channels, image.element), (3, Element::I16));
    let each: Vec<f64> = files.iter().flat_map(|f| values(&formats::read(f).unwrap())).collect();
    assert_eq!(values(&image), each);
    let files = ["vector.nrrd", "vector.mha"].map(|name| folder().join(name));
    let image = formats::read_channels(&files).unwrap();
    assert_eq!((image.channels, image.interleaved), (6, false));
    let each: Vec<f64> = files.iter().flat_map(|f| values(&formats::read(f).unwrap())).collect();
    assert_eq!(values(&image), each);
}

/// A file of its own, and what reading it says.
fn read_bytes(name: &str, bytes: &[u8]) -> Result<Image, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    formats::read_with(&path, Loading::Read)
}

#[track_caller]
fn refused(name: &str, bytes: &[u8], part: &str) {
    let error = read_bytes(name, bytes).unwrap_err();
    assert!(matches!(error, Error::Format { .. } | Error::Unsupported(_)), "{error:?}");
    let message = error.to_string();
    assert!(message.contains(name) && message.contains(part), "expected `{part}` in: {message}");
}

const NRRD: &str = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 1 1\nendian: little\n\
                    encoding: raw\nspace: left-posterior-superior\n\
                    space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (0,0,0)\n\nabcd";
const META: &str = "ObjectType = Image\nNDims = 3\nDimSize = 2 1 1\nElementType = MET_SHORT\n\
                    ElementSpacing = 1 2 3\nElementDataFile = LOCAL\nabcd";

/// A valid header with one line replaced, or dropped.
fn with(text: &str, line: &str, by: &str) -> Vec<u8> {
    assert!(text.contains(line));
    text.replace(&format!("{line}\n"), by).into_bytes()
}

#[test]
fn damaged_nrrd_headers_are_refused() {
    assert_eq!(read_bytes("x.nrrd", NRRD.as_bytes()).unwrap().bytes, b"abcd".to_vec());
    let nrrd = |line: &str, by: &str, part: &str| refused("x.nrrd", &with(NRRD, line, by), part);
    refused("x.nrrd", b"", "NRRD0001 to NRRD0005");
    refused("x.nrrd", b"NRRD0009\n", "NRRD0001 to NRRD0005");
    refused("x.nrrd", b"NRRD0004\n", "no field `type`");
    nrrd("type: short", "", "no field `type`");
    nrrd("type: short", "type: block\n", "blocks");
    nrrd("type: short", "type: quad\n", "`quad`");
    nrrd("dimension: 3", "dimension: 1\n", "dimension is `1`");
    nrrd("dimension: 3", "dimension: 99999999999\n", "dimension is");
    nrrd("dimension: 3", "dimension: 4\n", "expected 4 numbers");
    nrrd("sizes: 2 1 1", "sizes: 2 1 0\n", "sizes are `2 1 0`");
    nrrd("sizes: 2 1 1", "sizes: 2 -1 1\n", "sizes are");
    nrrd("sizes: 2 1 1", "sizes: 2 1 1\nsizes: 2 1 1\n", "twice");
    nrrd("sizes: 2 1 1", "sizes: 3 1 1\n", "the file ends after");
    nrrd("sizes: 2 1 1", "sizes: 1048576 1048576 1048576\n", "the file ends after");
    nrrd("sizes: 2 1 1", "sizes: 4294967296 4294967296 4\n", "too many");
    nrrd("endian: little", "", "no field `endian`");
    nrrd("endian: little", "endian: middle\n", "endian is `middle`");
    nrrd("encoding: raw", "encoding: hex\n", "raw and gzip are read");
    nrrd("encoding: raw", "encoding: gzip\n", "damaged");
    nrrd("encoding: raw", "encoding: zip\n", "encoding is `zip`");
    nrrd("encoding: raw", "encoding: raw\nbyte skip: 99999999999999999\n", "byteskip");
    nrrd("encoding: raw", "encoding: raw\nbyte skip: 1000000000\n", "the file ends after");
    nrrd("encoding: raw", "encoding: raw\nline skip: 5\n", "less lines");
    nrrd("encoding: raw", "encoding: raw\nnot a field\n", "expected a field or a key");
    nrrd("encoding: raw", "encoding: raw\nspaces: none\n", "NRRD does not know");
    nrrd("encoding: raw", "encoding: raw\nkinds: domain domain\n", "2 entries for 3");
    nrrd("encoding: raw", "encoding: raw\nkinds: complex domain domain\n", "complex");
    nrrd("space: left-posterior-superior", "space: left-anterior-superior-time\n", "are read");
    nrrd("space: left-posterior-superior", "space dimension: 7\n", "two or three");
    let directions = "space directions: (1,0,0) (0,2,0) (0,0,3)";
    nrrd(directions, "space directions: (1,0,0) (0,2,0)\n", "2 entries for 3");
    nrrd(directions, "space directions: (1,0) (0,2,0) (0,0,3)\n", "expected 3 finite numbers");
    nrrd(directions, "space directions: (nan,0,0) (0,2,0) (0,0,3)\n", "finite");
    nrrd(directions, "space directions: (0,0,0) (0,2,0) (0,0,3)\n", "no length");
    nrrd(directions, "space directions: (1,0,0) (1,0,0) (0,0,3)\n", "span space");
    nrrd(directions, "space directions: (1,0,0 (0,2,0) (0,0,3)\n", "expected vectors");
    nrrd(directions, "space directions: none none none\n", "axes in space");
    nrrd(directions, "spacings: 1 2 3\n", "expected `space directions`");
    nrrd("space origin: (0,0,0)", "space origin: (0,inf,0)\n", "finite");
    nrrd("space origin: (0,0,0)", "space origin: none\n", "no vector");
    refused("x.nrrd", &[b"NRRD0004\n#".to_vec(), vec![b'x'; 9 << 20]].concat(), "does not end");
}

#[test]
fn damaged_metaimage_headers_are_refused() {
    assert_eq!(read_bytes("x.mha", META.as_bytes()).unwrap().bytes, b"abcd".to_vec());
    assert_eq!(read_bytes("x", META.as_bytes()).unwrap().bytes, b"abcd".to_vec());
    let meta = |line: &str, by: &str, part: &str| refused("x.mha", &with(META, line, by), part);
    refused("x.mha", b"", "ElementDataFile");
    refused("x.mha", b"no field\n", "expected `Field = value`");
    meta("ObjectType = Image", "ObjectType = Mesh\n", "`Mesh`");
    meta("NDims = 3", "NDims = 5\n", "NDims is `5`");
    meta("NDims = 3", "NDims = 2\n", "DimSize is `2 1 1`");
    meta("DimSize = 2 1 1", "", "no field `DimSize`");
    meta("DimSize = 2 1 1", "DimSize = 2 1 0\n", "DimSize is");
    meta("DimSize = 2 1 1", "DimSize = 3 1 1\n", "the file ends after");
    meta("DimSize = 2 1 1", "DimSize = 4294967296 4294967296 4\n", "too many");
    meta("DimSize = 2 1 1", "DimSize = 2 1 1\nDimSize = 2 1 1\n", "twice");
    meta("ElementType = MET_SHORT", "ElementType = MET_STRING\n", "`MET_STRING`");
    meta("ElementType = MET_SHORT", "ElementType = MET_SHORT\nBinaryData = False\n", "as text");
    meta("ElementType = MET_SHORT", "ElementType = MET_SHORT\nBinaryData = maybe\n", "`maybe`");
    let more = "ElementType = MET_SHORT\n";
    let channels = format!("{more}ElementNumberOfChannels = 0\n");
    meta("ElementType = MET_SHORT", &channels, "ElementNumberOfChannels");
    let compressed = format!("{more}CompressedData = True\n");
    meta("ElementType = MET_SHORT", &compressed, "zlib stream is damaged");
    meta("ElementType = MET_SHORT", &format!("{more}HeaderSize = x\n"), "HeaderSize is `x`");
    meta("ElementType = MET_SHORT", &format!("{more}Offset = 1 2\n"), "expected 3 numbers");
    meta("ElementType = MET_SHORT", &format!("{more}Offset = 1 2 nan\n"), "expected 3 numbers");
    let matrix = format!("{more}TransformMatrix = 0 0 0 0 1 0 0 0 1\n");
    meta("ElementType = MET_SHORT", &matrix, "span space");
    meta("ElementSpacing = 1 2 3", "ElementSpacing = 1 0 3\n", "spacing is");
    refused("x.mha", &with(META, "ElementDataFile = LOCAL", ""), "expected `Field = value`");
}

#[test]
fn headers_can_only_name_files_beside_them() {
    let nrrd = NRRD.split("\n\n").next().unwrap();
    let meta = META.split("ElementDataFile").next().unwrap();
    for name in ["/etc/passwd", "../x.raw", "a/../../x.raw", "", ".", "LIST", "slice%03d.raw 1 2 1"]
    {
        let header = format!("{nrrd}\ndata file: {name}\n");
        let error = read_bytes("x.nhdr", header.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Format { .. } | Error::Unsupported(_)), "{name}: {error}");
        let header = format!("{meta}ElementDataFile = {name}\n");
        let error = read_bytes("x.mhd", header.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Format { .. } | Error::Unsupported(_)), "{name}: {error}");
    }
    // A file that is not there is named.
    let header = format!("{nrrd}\ndata file: gone.raw\n");
    let error = read_bytes("x.nhdr", header.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("gone.raw"), "{error}");
}

#[test]
fn cut_short_and_damaged_streams_are_refused() {
    for name in ["type_int16.nrrd", "type_int16.mha"] {
        let whole = std::fs::read(folder().join(name)).unwrap();
        for cut in [1, 5, 20] {
            refused(name, &whole[..whole.len() - cut], "cut short");
        }
        let mut wrong_checksum = whole.clone();
        let at = whole.len() - 2;
        wrong_checksum[at] ^= 0xff;
        if name.ends_with("mha") {
            refused(name, &wrong_checksum, "damaged");
        }
    }
}

#[test]
fn no_byte_of_a_header_makes_a_reader_panic() {
    for name in ["plain.nrrd", "plain.mha"] {
        let whole = std::fs::read(folder().join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        for at in 0..whole.len() - 120 {
            for value in [b'\n', b'9', b'-', 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                std::fs::write(&path, &bytes).unwrap();
                if let Ok(image) = formats::read_with(&path, Loading::Read) {
                    assert!(image.bytes.len() <= whole.len());
                }
            }
        }
    }
}
