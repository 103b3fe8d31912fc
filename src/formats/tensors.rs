//! Writing one tensor as a safetensors file, a few planes at a time.

use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use crate::base::{Error, Result};

use super::OutputFile;

/// A safetensors file with one `f32` tensor `[channels][a0][a1][a2]` whose planes along `a0`
/// arrive in ascending order. Never more than what arrives is in memory.
pub struct TensorFile {
    output: OutputFile,
    shape: [usize; 4],
    data_start: u64,
    planes: usize,
}

impl TensorFile {
    /// Begins a file with a tensor called `name`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the tensor is too large for any file; [`Error::Io`] if the file
    /// can't be made that long.
    pub fn begin(mut output: OutputFile, name: &str, shape: [usize; 4]) -> Result<Self> {
        let bytes = shape
            .iter()
            .try_fold(4u64, |bytes, count| bytes.checked_mul(*count as u64))
            .filter(|bytes| *bytes <= i64::MAX as u64 / 2)
            .ok_or_else(|| {
                Error::argument(format!("tensor `{name}` of shape {shape:?} is too large"))
            })?;
        let description = serde_json::json!({
            name: { "dtype": "F32", "shape": shape, "data_offsets": [0, bytes] }
        });
        let mut header = description.to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let data_start = 8 + header.len() as u64;
        let path = output.path().to_owned();
        let write = |file: &mut std::fs::File| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            file.set_len(data_start + bytes)
        };
        write(output.file()).map_err(|source| Error::io(path, source))?;
        Ok(Self { output, shape, data_start, planes: 0 })
    }

    /// Where the file will appear.
    pub fn path(&self) -> &Path {
        self.output.path()
    }

    /// Writes the values of `planes`, `[channels][planes][a1][a2]`.
    ///
    /// # Errors
    /// [`Error::Internal`] if the planes do not follow those written before or `values` has
    /// another length; [`Error::Io`].
    pub fn write(&mut self, planes: Range<usize>, values: &[f32]) -> Result<()> {
        let [channels, all, rows, columns] = self.shape;
        let plane = rows * columns;
        let expected = planes.len().checked_mul(plane).and_then(|n| n.checked_mul(channels));
        if planes.start != self.planes || planes.end > all || expected != Some(values.len()) {
            return Err(Error::Internal(format!(
                "planes {planes:?} with {} values after {} of {all} planes of {}",
                values.len(),
                self.planes,
                self.path().display()
            )));
        }
        let path = self.output.path().to_owned();
        let start = self.data_start;
        let file = self.output.file();
        let mut write = |channel: usize, values: &[f32]| {
            let place = (channel * all + planes.start) as u64 * plane as u64 * 4;
            file.seek(SeekFrom::Start(start + place))?;
            if cfg!(target_endian = "little") {
                return file.write_all(bytemuck::cast_slice(values));
            }
            let swapped: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write_all(&swapped)
        };
        if !values.is_empty() {
            for (channel, values) in values.chunks_exact(planes.len() * plane).enumerate() {
                write(channel, values).map_err(|source| Error::io(&path, source))?;
            }
        }
        self.planes = planes.end;
        Ok(())
    }

    /// Makes the file appear under its name.
    ///
    /// # Errors
    /// [`Error::Internal`] if planes are missing; [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        if self.planes != self.shape[1] {
            return Err(Error::Internal(format!(
                "{} has {} of {} planes",
                self.path().display(),
                self.planes,
                self.shape[1]
            )));
        }
        self.output.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    const SHAPE: [usize; 4] = [3, 5, 2, 4];

    /// The values of some planes, so that value = index in the whole tensor.
    fn slab(planes: Range<usize>) -> Vec<f32> {
        let plane = SHAPE[2] * SHAPE[3];
        let mut values = Vec::new();
        for channel in 0..SHAPE[0] {
            for index in planes.start * plane..planes.end * plane {
                values.push((channel * SHAPE[1] * plane + index) as f32);
            }
        }
        values
    }

    #[test]
    fn slabs_become_one_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.safetensors");
        let mut file =
            TensorFile::begin(OutputFile::create(&path).unwrap(), "logits", SHAPE).unwrap();
        for planes in [0..2, 2..2, 2..3, 3..5] {
            file.write(planes.clone(), &slab(planes)).unwrap();
        }
        file.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor("logits").unwrap();
        assert_eq!(tensor.shape(), SHAPE);
        let values: Vec<f32> = tensor
            .data()
            .chunks_exact(4)
            .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
            .collect();
        assert_eq!(values, (0..120).map(|value| value as f32).collect::<Vec<_>>());
    }

    #[test]
    fn planes_out_of_order_or_missing_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.safetensors");
        let mut file =
            TensorFile::begin(OutputFile::create(&path).unwrap(), "logits", SHAPE).unwrap();
        assert!(file.write(1..2, &slab(1..2)).is_err());
        assert!(file.write(0..2, &slab(0..1)).is_err());
        file.write(0..4, &slab(0..4)).unwrap();
        assert!(file.write(4..6, &slab(4..6)).is_err());
        assert!(file.finish().is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_tensor_larger_than_any_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let output = OutputFile::create(&folder.path().join("huge")).unwrap();
        assert!(TensorFile::begin(output, "logits", [1 << 20; 4]).is_err());
    }
}
