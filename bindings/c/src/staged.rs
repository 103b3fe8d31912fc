//! Probabilities on their way into the caller's buffer, which is written only on success.

use engine::base::error::filled;
use engine::session::ProbabilityBox;
use engine::{Error, Result};
use half::f16;

use crate::types::*;

/// `[wanted labels][k][j][i]` in the caller's element type, native byte order.
#[derive(Default)]
pub(crate) struct Staged {
    /// Empty until the first box comes: by then the run's budget has been looked at.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of all of them.
    pub(crate) length: usize,
    dtype: u32,
}

/// Bytes of a probability.
pub(crate) fn size(dtype: u32) -> Result<usize> {
    match dtype {
        VOXTILE_U8 => Ok(1),
        VOXTILE_F16 => Ok(2),
        VOXTILE_F32 => Ok(4),
        other => Err(Error::argument(format!(
            "output.probability_dtype is {other}, expected VOXTILE_U8, VOXTILE_F16 or VOXTILE_F32"
        ))),
    }
}

impl Staged {
    /// Whether a run has to gather probabilities for the output's own buffer: unless the caller's
    /// function takes them.
    pub(crate) fn wanted(given: &voxtile_run_options, output: &voxtile_output) -> bool {
        output.probability_count > 0
            && (given.probability.is_none() || !output.probabilities.is_null())
    }

    /// What `output` asks for, of a volume of `voxels` voxels.
    pub(crate) fn new(output: &voxtile_output, voxels: usize) -> Result<Self> {
        let (dtype, count) = (output.probability_dtype, output.probability_count as usize);
        let length = voxels.saturating_mul(count).saturating_mul(size(dtype)?);
        Ok(Self { bytes: Vec::new(), length, dtype })
    }

    pub(crate) fn put(&mut self, found: &ProbabilityBox) -> Result<()> {
        if self.length == 0 {
            return Ok(());
        }
        if self.bytes.is_empty() {
            self.bytes = filled("probabilities", self.length, 0)?;
        }
        let [planes, rows, columns] = found.range.clone();
        let [grid_planes, grid_rows, grid_columns] = found.grid;
        let size = size(self.dtype)?;
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
        Ok(())
    }
}
