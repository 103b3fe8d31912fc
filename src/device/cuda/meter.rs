//! Intensities measured on the device: native planes as they arrive, or the planes made of them.

use std::ops::Range;
use std::sync::Arc;

use super::driver::{Address, Buffer, Kernel, Launch};
use super::parameters::{self as kernel, MeasureLines};
use super::resample::{self, Resampler};
use super::volume::Staging;
use super::{Cuda, Gpu};
use crate::base::Result;
use crate::device::{JobSize, out_of_order};
use crate::volume::native::NATIVE_PLANES;
use crate::volume::prepare::PIECE_PLANES;
use crate::volume::{LineStatistics, Meter, Resampling};

/// Lines that are told of at once.
const TOLD: usize = 4096;

/// A channel that is being measured.
pub(super) struct Metering {
    staging: Staging,
    /// Native planes, or where those are resampled, a piece of the planes made of them.
    planes: Buffer<f32>,
    /// Voxels of one of these along its axes.
    plane: [usize; 2],
    resampler: Option<Resampler>,
    lines: Buffer<kernel::LineStatistics>,
    measured: usize,
    kernel: Kernel,
}

/// What it occupies, at most: of native planes, or of those of a job.
pub(super) fn bytes(native: [usize; 3], resampled: Option<&JobSize>) -> u64 {
    let of = |[planes, rows, columns]: [usize; 3], held: usize| {
        let values = 4 * held.min(planes) * rows * columns;
        (values + size_of::<kernel::LineStatistics>() * planes * rows) as u64
    };
    let resampled = resampled.and_then(|size| Some((size, size.resampling.as_ref()?)));
    let made = resampled.map_or(0, |(size, native)| {
        of(size.shape, PIECE_PLANES) + resample::memory(size, native).bytes
    });
    of(native, NATIVE_PLANES).max(made)
}

impl Metering {
    fn new(gpu: &Gpu, native: [usize; 3], plan: Option<&Arc<Resampling>>) -> Result<Self> {
        let what = "planes that are measured";
        let [planes, rows, columns] = match plan {
            None => native,
            Some(plan) => [0, 1, 2].map(|axis| plan.bands[axis].first.len()),
        };
        let held = if plan.is_some() { PIECE_PLANES } else { NATIVE_PLANES }.min(planes);
        Ok(Self {
            staging: Staging::new(gpu)?,
            planes: Buffer::new(gpu.context(), what, held * rows * columns)?,
            plane: [rows, columns],
            resampler: match plan {
                Some(plan) => Some(Resampler::new(gpu, plan, 1)?),
                None => None,
            },
            lines: Buffer::new(gpu.context(), "statistics of lines", planes * rows)?,
            measured: 0,
            kernel: gpu.kernel("measure_lines")?,
        })
    }

    /// Bytes of the device's memory that it has.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let resampler = self.resampler.as_ref().map_or(0, Resampler::bytes);
        self.planes.bytes() + self.lines.bytes() + resampler
    }

    fn take(
        &mut self,
        gpu: &Gpu,
        planes: Range<usize>,
        values: &[f32],
        counted: (f64, f64),
    ) -> Result<()> {
        if let Some(resampler) = &mut self.resampler {
            return resampler.feed(gpu, &mut self.staging, 0, planes, values);
        }
        self.staging.send(gpu, values, &self.planes, 0)?;
        self.measure(gpu, planes.len(), counted)
    }

    fn make(&mut self, gpu: &Gpu, planes: &Range<usize>, counted: (f64, f64)) -> Result<()> {
        let resampler = out_of_order(self.resampler.as_ref(), "start with a resampling")?;
        // A piece begins at a multiple of its planes, and so at the first of the buffer.
        resampler.make(gpu, 0, planes, self.planes.address(), PIECE_PLANES)?;
        self.measure(gpu, planes.len(), counted)
    }

    /// Measures the first planes of the buffer.
    fn measure(&mut self, gpu: &Gpu, planes: usize, (above, below): (f64, f64)) -> Result<()> {
        let [rows, columns] = self.plane;
        let lines = planes * rows;
        let statistics = match lines {
            0 => Address::NULL,
            _ => self.lines.at(self.measured),
        };
        let parameters = MeasureLines {
            values: self.planes.address(),
            statistics,
            above,
            below,
            lines: lines as i32,
            columns: columns as i32,
        };
        let launch =
            Launch { grid: [lines.div_ceil(8) as u32, 1, 1], threads: 256, shared_bytes: 0 };
        // SAFETY: the buffer holds so many lines, and each plane of the channel is measured once.
        unsafe { self.kernel.launch(&gpu.stream, launch, &parameters)? };
        self.measured += lines;
        Ok(())
    }

    fn tell(&self, gpu: &Gpu, tell: &mut dyn FnMut(LineStatistics)) -> Result<()> {
        let mut lines = vec![kernel::LineStatistics::default(); TOLD.min(self.measured)];
        for start in (0..self.measured).step_by(TOLD) {
            let lines = &mut lines[..TOLD.min(self.measured - start)];
            self.lines.read(&gpu.stream, start, lines)?;
            for line in lines {
                tell(LineStatistics {
                    count: u64::from(line.count.unsigned_abs()),
                    mean: line.mean,
                    squares: line.squares,
                    range: (line.low, line.high),
                });
            }
        }
        Ok(())
    }
}

impl Meter for Cuda {
    fn start(&mut self, native: [usize; 3], resampling: Option<&Arc<Resampling>>) -> Result<()> {
        self.metering = None;
        self.metering = Some(Metering::new(&self.gpu, native, resampling)?);
        Ok(())
    }

    fn take(&mut self, planes: Range<usize>, values: &[f32], counted: (f64, f64)) -> Result<()> {
        out_of_order(self.metering.as_mut(), "start")?.take(&self.gpu, planes, values, counted)
    }

    fn make(&mut self, planes: Range<usize>, counted: (f64, f64)) -> Result<()> {
        out_of_order(self.metering.as_mut(), "start")?.make(&self.gpu, &planes, counted)
    }

    fn tell(&mut self, tell: &mut dyn FnMut(LineStatistics)) -> Result<()> {
        out_of_order(self.metering.take(), "start")?.tell(&self.gpu, tell)
    }
}
