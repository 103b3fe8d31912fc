//! NIfTI files as nibabel and SimpleITK wrote them, and files that are damaged.
//! `tests/reference/make_nifti_fixtures.py` made the fixtures.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use voxtile::formats::{self, Image, nifti};
use voxtile::{Element, Error};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nifti")
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

/// The scaled values of an image, in the order they are stored.
fn values(image: &Image) -> Vec<f64> {
    macro_rules! stored {
        ($type:ty) => {
            bytemuck::pod_collect_to_vec::<u8, $type>(&image.bytes)
                .into_iter()
                .map(|value| value as f64)
                .collect::<Vec<_>>()
        };
    }
    let stored = match image.element {
        Element::U8 => stored!(u8),
        Element::I8 => stored!(i8),
        Element::U16 => stored!(u16),
        Element::I16 => stored!(i16),
        Element::U32 => stored!(u32),
        Element::I32 => stored!(i32),
        Element::U64 => stored!(u64),
        Element::I64 => stored!(i64),
        Element::F32 => stored!(f32),
        Element::F64 => stored!(f64),
        other => panic!("{other:?} is no NIfTI type"),
    };
    stored.into_iter().map(|value| value * image.slope + image.intercept).collect()
}

fn element(name: &str) -> Element {
    match name {
        "uint8" => Element::U8,
        "int8" => Element::I8,
        "uint16" => Element::U16,
        "int16" => Element::I16,
        "uint32" => Element::U32,
        "int32" => Element::I32,
        "uint64" => Element::U64,
        "int64" => Element::I64,
        "float32" => Element::F32,
        "float64" => Element::F64,
        other => panic!("{other}"),
    }
}

#[test]
fn files_read_as_itk_and_nibabel_read_them() {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let mut files = 0;
    for (name, expected) in expected.as_object().unwrap() {
        let image = nifti::read(&folder().join(name)).unwrap();
        let dims = image.dims.map(|count| count as f64);
        assert_eq!(dims.to_vec(), numbers(&expected["dims"]), "{name}");
        assert_eq!(image.channels as u64, expected["channels"].as_u64().unwrap(), "{name}");
        assert_eq!(image.stored, element(expected["type"].as_str().unwrap()), "{name}");
        let (found, expected_values) = (values(&image), numbers(&expected["values"]));
        assert_eq!(found.len(), expected_values.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected_values) {
            // The JSON parser may miss the last bit.
            assert!(
                (found - expected).abs() <= 1e-15 * expected.abs(),
                "{name}: {found} {expected}"
            );
        }
        image.view().validate().unwrap();
        let geometry = [
            ("spacing", image.geometry.spacing.to_vec(), 1e-12),
            // Single precision header fields; a quaternion costs another digit.
            ("origin", image.geometry.origin.to_vec(), 1e-7 * 700.0),
            ("direction", image.geometry.direction.concat(), 1e-6),
        ];
        for (what, found, tolerance) in geometry {
            let expected = numbers(&expected[what]);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < tolerance, "{name} {what}: {found} {expected}");
            }
        }
        files += 1;
    }
    assert_eq!(files, 30);
}

#[test]
fn either_file_of_a_pair_names_it() {
    let by_header = nifti::read(&folder().join("pair.hdr")).unwrap();
    assert_eq!(by_header, nifti::read(&folder().join("pair.img")).unwrap());
}

#[test]
fn warnings_name_the_file_and_the_choice() {
    let image = nifti::read(&folder().join("aligned_sform_differs.nii.gz")).unwrap();
    let [warning] = &image.warnings[..] else { panic!("{:?}", image.warnings) };
    assert!(warning.contains("aligned_sform_differs.nii.gz: sform and qform"), "{warning}");
    assert!(nifti::read(&folder().join("scaled.nii.gz")).unwrap().warnings.is_empty());
}

#[test]
fn channel_files_become_one_image() {
    let files = ["type_int16.nii.gz", "scaled.nii.gz"].map(|name| folder().join(name));
    let image = formats::read_channels(&files).unwrap();
    assert_eq!((image.channels, image.element, image.stored), (2, Element::F32, Element::F32));
    let each: Vec<f64> = files.iter().flat_map(|f| values(&nifti::read(f).unwrap())).collect();
    assert_eq!(values(&image), each);
    let other = [folder().join("type_int16.nii.gz"), folder().join("no_form.nii.gz")];
    let message = formats::read_channels(&other).unwrap_err().to_string();
    assert!(message.contains("spacing") && message.contains("no_form.nii.gz"), "{message}");
    assert!(formats::read_channels::<&Path>(&[]).is_err());
}

/// A valid single file: header, 4 bytes, 60 voxels of 16 bits.
fn valid() -> Vec<u8> {
    let bytes = std::fs::read(folder().join("slope_zero.nii")).unwrap();
    assert_eq!(bytes.len(), 352 + 120);
    bytes
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read_bytes(name: &str, bytes: &[u8]) -> Result<Image, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    nifti::read(&path)
}

/// The message of a damaged file, which must name the file.
fn refused(name: &str, bytes: &[u8]) -> String {
    let error = read_bytes(name, bytes).unwrap_err();
    assert!(matches!(error, Error::Format { .. } | Error::Unsupported(_)), "{error:?}");
    let message = error.to_string();
    assert!(message.contains(name), "{message}");
    message
}

/// A valid file with other bytes from `offset` on.
fn with(offset: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = valid();
    bytes[offset..offset + value.len()].copy_from_slice(value);
    bytes
}

#[track_caller]
fn assert_refused(bytes: &[u8], part: &str) {
    for (name, bytes) in [("x.nii", bytes.to_vec()), ("x.nii.gz", compressed(bytes))] {
        let message = refused(name, &bytes);
        assert!(message.contains(part), "expected `{part}` in: {message}");
    }
}

#[test]
fn damaged_headers_are_refused() {
    assert_refused(b"", "empty");
    assert_refused(&valid()[..100], "it ends after 100 bytes");
    assert_refused(b"no", "it ends after 2 bytes");
    assert_refused(&b"this is not an image".repeat(30), "not a NIfTI file");
    assert_refused(&with(344, b"nope"), "wrong magic `nope`");
    assert_refused(&with(344, &[0; 4]), "Analyze");
    assert_refused(&with(0, &540i32.to_le_bytes()), "NIfTI-2");
    assert_refused(&with(0, &540i32.to_be_bytes()), "NIfTI-2");
    assert_refused(&with(40, &9i16.to_le_bytes()), "dim[0]");
    assert_refused(&with(40, &1i16.to_le_bytes()), "dim[0] is 1");
    assert_refused(&with(42, &0i16.to_le_bytes()), "dim[1] is 0");
    assert_refused(&with(44, &(-3i16).to_le_bytes()), "dim[2] is -3");
    assert_refused(&with(108, &100f32.to_le_bytes()), "vox_offset is 100");
    assert_refused(&with(108, &f32::NAN.to_le_bytes()), "vox_offset is NaN");
    assert_refused(&with(108, &1e9f32.to_le_bytes()), "1000000000");
    assert_refused(&with(344, b"ni1\0"), ".img");
    assert_refused(&with(80, &0f32.to_le_bytes()), "pixdim[1] is 0");
    let mut scaled = with(112, &2f32.to_le_bytes());
    scaled[116..120].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_refused(&scaled, "scl_inter is NaN");
    let mut many = with(40, &5i16.to_le_bytes());
    many[48..52].copy_from_slice(&[2, 0, 2, 0]);
    assert_refused(&many, "only one of them above 1");
}

#[test]
fn other_voxel_types_are_refused_by_name() {
    let types = [
        (32i16, "complex64"),
        (1792, "complex128"),
        (2048, "complex256"),
        (128, "RGB"),
        (2304, "RGBA"),
        (1536, "float128"),
        (1, "bits"),
        (77, "datatype 77"),
    ];
    for (code, name) in types {
        assert_refused(&with(70, &code.to_le_bytes()), name);
    }
}

#[test]
fn cut_short_and_damaged_voxels_are_refused() {
    let whole = valid();
    let message = refused("x.nii", &whole[..whole.len() - 1]);
    assert!(message.contains("5 x 4 x 3 voxels in 120 bytes"), "{message}");
    assert!(message.contains("ends after 471 bytes"), "{message}");
    assert!(refused("x.nii", &whole[..348]).contains("ends after 348 bytes"));
    assert!(refused("x.nii.gz", &compressed(&whole[..400])).contains("only 48 bytes are there"));

    let stream = compressed(&whole);
    for length in [3, 12, stream.len() / 2, stream.len() - 5, stream.len() - 1] {
        let message = refused("x.nii.gz", &stream[..length]);
        assert!(message.contains("damaged or cut short"), "{length}: {message}");
    }
    let mut wrong_checksum = stream.clone();
    let at = stream.len() - 6;
    wrong_checksum[at] ^= 0xff;
    assert!(refused("x.nii.gz", &wrong_checksum).contains("damaged"));
}

#[test]
fn gzip_members_are_joined_and_bytes_behind_them_ignored() {
    let whole = valid();
    let image = read_bytes("x.nii", &whole).unwrap();
    let mut stream = [compressed(&whole[..400]), compressed(&whole[400..])].concat();
    assert_eq!(read_bytes("x.nii.gz", &stream).unwrap().bytes, image.bytes);
    stream.extend([0; 700]);
    assert_eq!(read_bytes("x.nii.gz", &stream).unwrap().bytes, image.bytes);
}

/// A file of 352 bytes that claims 2^40 voxels is refused for its size, not because memory ran out.
#[test]
fn sizes_are_checked_before_anything_is_allocated() {
    let mut header = valid()[..352].to_vec();
    let mut put = |offset: usize, values: &[i16]| {
        for (n, value) in values.iter().enumerate() {
            header[offset + 2 * n..offset + 2 * n + 2].copy_from_slice(&value.to_le_bytes());
        }
    };
    put(40, &[4, 16384, 16384, 4096, 1]);
    put(70, &[64, 64]);
    let message = refused("x.nii", &header);
    assert!(message.contains("16384 x 16384 x 4096 voxels in 8796093022208 bytes"), "{message}");
    assert!(refused("x.nii.gz", &compressed(&header)).contains("compressed bytes can't hold them"));
    // All seven dimensions at their largest overflow 64 bits.
    for n in 1..8 {
        let value = if n > 4 { 1i16 } else { i16::MAX };
        header[40 + 2 * n..42 + 2 * n].copy_from_slice(&value.to_le_bytes());
    }
    let message = refused("x.nii", &header);
    assert!(message.contains("too many") || message.contains("bytes from byte"), "{message}");
}

#[test]
fn other_formats_are_named() {
    for (name, format) in [("x.mgz", "MGH"), ("x.b2nd", "Blosc2"), ("x.dcm", "DICOM")] {
        let message = refused(name, b"what is this and much more text than that");
        assert!(message.contains(format) && message.contains("convert"), "{message}");
    }
    // What a file is called does not matter when its content is NIfTI.
    read_bytes("x.dat", &valid()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    assert!(nifti::read(folder.path()).unwrap_err().to_string().contains("folder"));
    let missing = nifti::read(&folder.path().join("none.nii.gz")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
}

#[test]
fn no_byte_of_a_header_makes_the_reader_panic() {
    let whole = valid();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.nii");
    std::fs::write(&path, &whole).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let put = |offset: usize, value: u8| {
        use std::io::{Seek, SeekFrom};
        (&file).seek(SeekFrom::Start(offset as u64)).unwrap();
        (&file).write_all(&[value]).unwrap();
    };
    for offset in 0..352 {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            put(offset, value);
            if let Ok(image) = nifti::read(&path) {
                assert!(image.bytes.len() <= whole.len());
            }
        }
        put(offset, whole[offset]);
    }
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}
