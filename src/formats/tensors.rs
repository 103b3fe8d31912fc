//! Writing one tensor as a safetensors file, a few planes or a box at a time.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde_json::{Value, json};

use crate::base::error::reserved;
use crate::base::{Element, Error, Result};

use super::OutputFile;

/// Boxes that are narrow along the fastest axis are gathered up to this size, so that what is
/// written at a time is longer than a few values.
pub const GATHERED_BYTES: usize = 32 << 20;
/// Values that are brought to another type at a time.
const VALUES_AT_A_TIME: usize = 1 << 14;

/// A tensor `[channels][a0][a1][a2]` that is to be written.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its sizes.
    pub shape: [usize; 4],
    /// How its values are stored: `F32`; `F16`, to the nearest; or `U8`, probabilities with 255
    /// for 1.
    pub element: Element,
    /// What else the file says: names and texts.
    pub metadata: &'a [(&'a str, String)],
}

/// A file with one tensor, safetensors or one of [`volumes`](super::volumes), whose values arrive in any order of boxes, each once. Never
/// more is in memory than what arrives and [`GATHERED_BYTES`].
pub struct TensorFile {
    output: OutputFile,
    shape: [usize; 4],
    element: Element,
    data_start: u64,
    /// Values that have arrived.
    values: u64,
    gathered: Gathered,
}

/// Boxes side by side along the fastest axis, which differ in nothing else.
#[derive(Default)]
struct Gathered {
    channels: Vec<usize>,
    planes: Range<usize>,
    rows: Range<usize>,
    /// Columns and stored values `[channels][planes][rows][columns]` of each.
    pieces: Vec<(Range<usize>, Vec<u8>)>,
}

impl Gathered {
    fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Whether a box differs in its columns only.
    fn fits(&self, channels: &[usize], planes: &Range<usize>, rows: &Range<usize>) -> bool {
        self.channels == channels && self.planes == *planes && self.rows == *rows
    }
}

impl TensorFile {
    /// Begins a file.
    ///
    /// # Errors
    /// [`Error::Argument`] if the tensor is too large for any file or of a type that is not
    /// written; [`Error::Io`] if the file can't be made that long.
    pub fn begin(output: OutputFile, tensor: &Tensor) -> Result<Self> {
        let Tensor { name, shape, element, metadata } = tensor;
        let dtype = match element {
            Element::F32 => "F32",
            Element::F16 => "F16",
            Element::U8 => "U8",
            other => {
                return Err(Error::argument(format!(
                    "tensor `{name}`: found type {other:?}, expected F32, F16 or U8"
                )));
            }
        };
        let bytes = bytes_of(*shape, *element)?;
        let mut description = serde_json::Map::new();
        if !metadata.is_empty() {
            let texts = metadata.iter().map(|(key, text)| (key.to_string(), text.clone().into()));
            description.insert("__metadata__".into(), Value::Object(texts.collect()));
        }
        let data = json!({ "dtype": dtype, "shape": shape, "data_offsets": [0, bytes] });
        description.insert((*name).into(), data);
        let mut header = Value::Object(description).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let length = (header.len() as u64).to_le_bytes();
        header.splice(..0, length);
        Self::begin_after(output, &header, *shape, *element)
    }

    /// Begins a file in which the values of a tensor `[channels][a0][a1][a2]`, little-endian, follow
    /// the bytes of `header`.
    ///
    /// # Errors
    /// As [`TensorFile::begin`].
    pub(super) fn begin_after(
        mut output: OutputFile,
        header: &[u8],
        shape: [usize; 4],
        element: Element,
    ) -> Result<Self> {
        let bytes = bytes_of(shape, element)?;
        let data_start = header.len() as u64;
        let path = output.path().to_owned();
        let write = |file: &mut File| {
            write_at(file, 0, header)?;
            file.set_len(data_start + bytes)
        };
        write(output.file()).map_err(|source| Error::io(path, source))?;
        let gathered = Gathered::default();
        Ok(Self { output, shape, element, data_start, values: 0, gathered })
    }

    /// Where the file will appear.
    pub fn path(&self) -> &Path {
        self.output.path()
    }

    /// Writes the values of `planes` of all channels, `[channels][planes][a1][a2]`.
    ///
    /// # Errors
    /// As [`TensorFile::write_box`].
    pub fn write(&mut self, planes: Range<usize>, values: &[f32]) -> Result<()> {
        let channels: Vec<usize> = (0..self.shape[0]).collect();
        self.write_box(&channels, [planes, 0..self.shape[2], 0..self.shape[3]], values)
    }

    /// Writes the values of a box of some channels, `[channels][range 0][range 1][range 2]`.
    ///
    /// # Errors
    /// [`Error::Internal`] if the box does not lie in the tensor or `values` has another length;
    /// [`Error::Io`]; [`Error::Memory`].
    pub fn write_box(
        &mut self,
        channels: &[usize],
        range: [Range<usize>; 3],
        values: &[f32],
    ) -> Result<()> {
        let inside = range.iter().zip(&self.shape[1..]).all(|(range, size)| range.end <= *size)
            && channels.iter().all(|channel| *channel < self.shape[0]);
        let expected = range.iter().try_fold(channels.len(), |n, r| n.checked_mul(r.len()));
        if !inside || expected != Some(values.len()) {
            return Err(Error::Internal(format!(
                "{} values for channels {channels:?} of box {range:?} of {}, which has shape {:?}",
                values.len(),
                self.path().display(),
                self.shape
            )));
        }
        if values.is_empty() {
            return Ok(());
        }
        self.values += values.len() as u64;
        let bytes = values.len() * self.element.size();
        let [planes, rows, columns] = range;
        let narrow = columns.len() < self.shape[3] && 2 * bytes <= GATHERED_BYTES;
        let fits = self.gathered.fits(channels, &planes, &rows);
        if !narrow || !fits || self.gathered.bytes() + bytes > GATHERED_BYTES {
            self.flush()?;
        }
        if narrow {
            let mut piece = reserved("values on their way to a file", bytes)?;
            for values in values.chunks(VALUES_AT_A_TIME) {
                piece.extend_from_slice(&stored(self.element, values));
            }
            let Gathered { pieces, .. } = &mut self.gathered;
            pieces.push((columns, piece));
            (self.gathered.planes, self.gathered.rows) = (planes, rows);
            self.gathered.channels = channels.to_vec();
            return Ok(());
        }
        let element = self.element;
        let run = self.contiguous(&rows, &columns, planes.len());
        let places = self.places(channels, &planes, &rows, columns.start, run / columns.len());
        let path = self.output.path().to_owned();
        let file = self.output.file();
        for (place, values) in places.zip(values.chunks_exact(run)) {
            let mut place = place;
            for values in values.chunks(VALUES_AT_A_TIME) {
                let bytes = stored(element, values);
                write_at(file, place, &bytes).map_err(|source| Error::io(&path, source))?;
                place += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Values of a box that lie side by side in the file.
    fn contiguous(&self, rows: &Range<usize>, columns: &Range<usize>, planes: usize) -> usize {
        let [_, _, all_rows, all_columns] = self.shape;
        match (columns.len() == all_columns, rows.len() == all_rows) {
            (true, true) => planes * all_rows * all_columns,
            (true, false) => rows.len() * all_columns,
            (false, _) => columns.len(),
        }
    }

    /// The byte at which each run of `rows_each` rows of a box begins.
    fn places(
        &self,
        channels: &[usize],
        planes: &Range<usize>,
        rows: &Range<usize>,
        column: usize,
        rows_each: usize,
    ) -> impl Iterator<Item = u64> + use<> {
        let [_, all_planes, all_rows, columns] = self.shape.map(|size| size as u64);
        let (start, size) = (self.data_start, self.element.size() as u64);
        let (channels, planes, rows) = (channels.to_vec(), planes.clone(), rows.clone());
        let (plane_rows, per_channel) = (rows.len(), planes.len() * rows.len());
        channels.into_iter().flat_map(move |channel| {
            let (first_plane, first_row) = (planes.start, rows.start);
            (0..per_channel).step_by(rows_each.max(1)).map(move |at| {
                let plane = (first_plane + at / plane_rows) as u64;
                let row = (first_row + at % plane_rows) as u64;
                let line = (channel as u64 * all_planes + plane) * all_rows + row;
                start + size * (line * columns + column as u64)
            })
        })
    }

    /// Writes what was gathered, row by row.
    fn flush(&mut self) -> Result<()> {
        let Gathered { channels, planes, rows, mut pieces } = std::mem::take(&mut self.gathered);
        pieces.sort_by_key(|(columns, _)| columns.start);
        let size = self.element.size();
        let path = self.output.path().to_owned();
        let side_by_side = |a: &(Range<usize>, _), b: &(Range<usize>, _)| a.0.end == b.0.start;
        let mut row = Vec::new();
        for pieces in pieces.chunk_by(side_by_side) {
            let places = self.places(&channels, &planes, &rows, pieces[0].0.start, 1);
            let file = self.output.file();
            for (at, place) in places.enumerate() {
                row.clear();
                for (columns, bytes) in pieces {
                    let length = columns.len() * size;
                    row.extend_from_slice(&bytes[at * length..][..length]);
                }
                write_at(file, place, &row).map_err(|source| Error::io(&path, source))?;
            }
        }
        Ok(())
    }

    /// Makes the file appear under its name.
    ///
    /// # Errors
    /// [`Error::Internal`] if values are missing; [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let all: u64 = self.shape.iter().map(|size| *size as u64).product();
        if self.values != all {
            return Err(Error::Internal(format!(
                "{} has {} of {all} values",
                self.path().display(),
                self.values
            )));
        }
        self.output.finish()
    }
}

/// Bytes of a tensor's values.
fn bytes_of(shape: [usize; 4], element: Element) -> Result<u64> {
    shape
        .iter()
        .try_fold(element.size() as u64, |bytes, count| bytes.checked_mul(*count as u64))
        .filter(|bytes| *bytes <= i64::MAX as u64 / 2)
        .ok_or_else(|| Error::argument(format!("a tensor of shape {shape:?} is too large")))
}

/// Values as they are stored.
fn stored(element: Element, values: &[f32]) -> Cow<'_, [u8]> {
    match element {
        Element::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            let mut bytes = vec![0; 2 * values.len()];
            for (into, value) in bytes.chunks_exact_mut(2).zip(&halves) {
                into.copy_from_slice(&value.to_le_bytes());
            }
            Cow::Owned(bytes)
        }
        // Casting keeps what is not a number at 0 and the rest within 0 to 255.
        Element::U8 => values.iter().map(|value| byte(*value)).collect(),
        _ if cfg!(target_endian = "little") => Cow::Borrowed(bytemuck::cast_slice(values)),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

/// The byte nearest to 255 times a value, halves away from 0, in arithmetic that vectorises.
fn byte(value: f32) -> u8 {
    let scaled = value * 255.0;
    let scaled = if scaled > 0.0 { scaled } else { 0.0 };
    let scaled = if scaled < 255.0 { scaled } else { 255.0 };
    let whole = scaled as i32;
    (whole + i32::from(scaled - whole as f32 >= 0.5)) as u8
}

/// Writes at a place of a file, in one call of the system where it has such a call.
fn write_at(file: &mut File, place: u64, bytes: &[u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, place);
    #[cfg(not(unix))]
    {
        use std::io::{Seek, SeekFrom, Write};
        file.seek(SeekFrom::Start(place))?;
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    const SHAPE: [usize; 4] = [3, 5, 2, 4];
    const ALL: [usize; 3] = [0, 1, 2];

    fn begin(path: &Path, element: Element) -> TensorFile {
        let metadata = [("grid", "volume".to_string())];
        let tensor = Tensor { name: "values", shape: SHAPE, element, metadata: &metadata };
        TensorFile::begin(OutputFile::create(path).unwrap(), &tensor).unwrap()
    }

    /// The values of a box, so that value = `of(index in the whole tensor)`.
    fn values(channels: &[usize], range: &[Range<usize>; 3], of: fn(usize) -> f32) -> Vec<f32> {
        let [_, planes, rows, columns] = SHAPE;
        let mut values = Vec::new();
        for channel in channels {
            for plane in range[0].clone() {
                for row in range[1].clone() {
                    for column in range[2].clone() {
                        let line = (channel * planes + plane) * rows + row;
                        values.push(of(line * columns + column));
                    }
                }
            }
        }
        values
    }

    fn write(file: &mut TensorFile, channels: &[usize], range: [Range<usize>; 3]) -> Result<()> {
        let values = values(channels, &range, |index| index as f32);
        file.write_box(channels, range, &values)
    }

    /// The stored bytes of a file that has been finished.
    fn read(path: &Path) -> (safetensors::Dtype, Vec<u8>) {
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["grid"], "volume");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor("values").unwrap();
        assert_eq!(tensor.shape(), SHAPE);
        (tensor.dtype(), tensor.data().to_vec())
    }

    fn ascending() -> Vec<f32> {
        (0..120).map(|value| value as f32).collect()
    }

    #[test]
    fn boxes_of_any_cut_become_one_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values.safetensors");
        let whole = |planes: Range<usize>| [planes, 0..2, 0..4];
        let rows = |rows: Range<usize>| [0..5, rows, 0..4];
        let columns = |columns: Range<usize>| [0..5, 0..2, columns];
        let cuts: [Vec<[Range<usize>; 3]>; 5] = [
            [0..2, 2..2, 2..3, 3..5].map(whole).into(),
            [1..2, 0..1].map(rows).into(),
            // As they come against an axis, with one left for later.
            [3..4, 2..3, 0..1, 1..2].map(columns).into(),
            [0..1, 3..4, 1..3].map(columns).into(),
            vec![[0..5, 0..2, 0..3], [0..2, 0..2, 3..4], [2..5, 0..1, 3..4], [2..5, 1..2, 3..4]],
        ];
        for boxes in &cuts {
            // All channels at once, and some after others.
            for channels in [&[&ALL[..]][..], &[&[2, 0], &[1]]] {
                let mut file = begin(&path, Element::F32);
                for channels in channels {
                    for range in boxes {
                        write(&mut file, channels, range.clone()).unwrap();
                    }
                }
                file.finish().unwrap();
                let (_, bytes) = read(&path);
                let found: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
                assert_eq!(found, ascending(), "{boxes:?}");
            }
        }
    }

    #[test]
    fn values_are_stored_as_the_type_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values.safetensors");
        let range = [0..5, 0..2, 0..4];
        let share = |index: usize| index as f32 / 119.0;
        let expected = values(&ALL, &range, share);
        for element in [Element::F16, Element::U8] {
            let mut file = begin(&path, element);
            file.write_box(&ALL, range.clone(), &expected).unwrap();
            file.finish().unwrap();
            let (dtype, bytes) = read(&path);
            let (found, step): (Vec<f32>, f32) = match dtype {
                safetensors::Dtype::F16 => {
                    let halves = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]));
                    (halves.map(f16::to_f32).collect(), 1.0 / 2048.0)
                }
                _ => (bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect(), 1.0 / 255.0),
            };
            assert_eq!((found[0], found[119]), (0.0, 1.0));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() <= step / 2.0 + 1e-6, "{found} {expected}");
            }
        }
    }

    #[test]
    fn boxes_beyond_the_tensor_or_missing_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values.safetensors");
        let mut file = begin(&path, Element::F32);
        assert!(file.write(0..2, &values(&ALL, &[0..1, 0..2, 0..4], |_| 0.0)).is_err());
        assert!(write(&mut file, &[3], [0..5, 0..2, 0..4]).is_err());
        assert!(write(&mut file, &ALL, [4..6, 0..2, 0..4]).is_err());
        assert!(write(&mut file, &ALL, [0..1, 0..2, 0..5]).is_err());
        write(&mut file, &ALL, [0..4, 0..2, 0..4]).unwrap();
        assert!(file.finish().is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_tensor_larger_than_any_file_or_of_another_type_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let begin = |shape, element| {
            let output = OutputFile::create(&folder.path().join("huge")).unwrap();
            let tensor = Tensor { name: "values", shape, element, metadata: &[] };
            TensorFile::begin(output, &tensor)
        };
        assert!(begin([1 << 20; 4], Element::F32).is_err());
        assert!(begin([1; 4], Element::I16).is_err());
    }
}
