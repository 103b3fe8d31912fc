//! Probabilities on their way into the caller's buffer, which is written only on success.

use engine::session::ProbabilityBox;
use engine::{Error, Result};
use half::f16;

use crate::types::{VOXTILE_F16, VOXTILE_U8, voxtile_output};

/// `[wanted labels][k][j][i]` in the caller's element type, native byte order.
#[derive(Default)]
pub(crate) struct Staged {
    pub(crate) bytes: Vec<u8>,
    dtype: u32,
}

/// Bytes of a probability.
fn size(dtype: u32) -> usize {
    match dtype {
        VOXTILE_U8 => 1,
        VOXTILE_F16 => 2,
        _ => 4,
    }
}

impl Staged {
    /// Room for what `output` asks for, of a volume of `voxels` voxels.
    pub(crate) fn new(output: &voxtile_output, voxels: usize) -> Result<Self> {
        let dtype = output.probability_dtype;
        let count = if output.probabilities.is_null() { 0 } else { output.probability_count };
        let length = voxels.saturating_mul(count as usize).saturating_mul(size(dtype));
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| Error::Memory {
            what: "probabilities".into(),
            needed_bytes: length as u64,
            available_bytes: 0,
        })?;
        bytes.resize(length, 0);
        Ok(Self { bytes, dtype })
    }

    pub(crate) fn put(&mut self, found: &ProbabilityBox) {
        if self.bytes.is_empty() {
            return;
        }
        let [planes, rows, columns] = found.range.clone();
        let [grid_planes, grid_rows, grid_columns] = found.grid;
        let size = size(self.dtype);
        let mut values = found.values.chunks_exact(columns.len());
        for &label in found.labels {
            for plane in planes.clone() {
                for row in rows.clone() {
                    let line = (label * grid_planes + plane) * grid_rows + row;
                    let first = (line * grid_columns + columns.start) * size;
                    let places = self.bytes[first..][..columns.len() * size].chunks_exact_mut(size);
                    for (place, &value) in places.zip(values.next().into_iter().flatten()) {
                        match self.dtype {
                            VOXTILE_U8 => place[0] = (value * 255.0).round() as u8,
                            VOXTILE_F16 => {
                                place.copy_from_slice(&f16::from_f32(value).to_ne_bytes());
                            }
                            _ => place.copy_from_slice(&value.to_ne_bytes()),
                        }
                    }
                }
            }
        }
    }
}
