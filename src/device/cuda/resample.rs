//! Native planes become prepared ones on the device: resampled within as they arrive, then along
//! the slowest axis.

use std::ops::Range;
use std::sync::Arc;

use super::Gpu;
use super::driver::{Address, Buffer, Kernel, Launch};
use super::parameters as kernel;
use super::volume::Staging;
use crate::base::Result;
use crate::device::{JobSize, MemoryPart, ResamplingSize};
use crate::volume::native::NATIVE_PLANES;
use crate::volume::{Band, Resampling};

/// Voxels that a cubic B-spline's voxel is made from, at most.
const MOST_TAPS: usize = 32;

/// A band on the device.
struct DeviceBand {
    first: Buffer<u32>,
    weights: Buffer<f32>,
    taps: usize,
    outputs: usize,
    inputs: usize,
}

impl DeviceBand {
    fn new(gpu: &Gpu, band: &Band) -> Result<Self> {
        let what = "weights of resampling";
        Ok(Self {
            first: Buffer::of(&gpu.stream, what, &band.first)?,
            weights: Buffer::of(&gpu.stream, what, &band.weights)?,
            taps: band.taps,
            outputs: band.first.len(),
            inputs: band.inputs,
        })
    }

    fn kernel_band(&self) -> kernel::Band {
        kernel::Band {
            first: self.first.address(),
            weights: self.weights.address(),
            taps: self.taps as i32,
            outputs: self.outputs as i32,
        }
    }
}

/// Makes the planes of a volume of native ones.
pub(super) struct Resampler {
    plan: Arc<Resampling>,
    bands: [DeviceBand; 3],
    /// What each channel is clipped to.
    limits: Vec<Buffer<f32>>,
    /// Planes as they arrive, `[planes][native1][native2]`, and with resampled columns.
    arrived: Buffer<f32>,
    half_made: Buffer<f32>,
    /// `[channel][native plane % ring planes][shape1][shape2]`
    ring: Buffer<f32>,
    ring_planes: usize,
    normalize: Kernel,
    columns: Kernel,
    slices: Kernel,
}

/// What it occupies, at most.
pub(super) fn memory(size: &JobSize, native: &ResamplingSize) -> MemoryPart {
    let [rows, columns] = native.native;
    let arriving = NATIVE_PLANES * rows * (columns + size.shape[2]);
    let ring = size.channels * native.ring_planes * size.shape[1] * size.shape[2];
    let bands = (MOST_TAPS + 1 + 2 * size.channels) * size.shape.iter().sum::<usize>();
    let values = arriving + ring + bands;
    MemoryPart::on_device("planes on their way to the network's grid", 4 * values as u64)
}

impl Resampler {
    pub(super) fn new(gpu: &Gpu, plan: &Arc<Resampling>, channels: usize) -> Result<Self> {
        let what = "planes on their way to the network's grid";
        let [band0, band1, band2] = &plan.bands;
        let ring_planes = plan.ring_planes();
        let plane = band1.first.len() * band2.first.len();
        let arriving = NATIVE_PLANES.min(band0.inputs) * band1.inputs;
        let limits = |finish: &crate::volume::native::Finish| {
            Buffer::of(&gpu.stream, "weights of resampling", finish.limits.as_flattened())
        };
        Ok(Self {
            bands: [
                DeviceBand::new(gpu, band0)?,
                DeviceBand::new(gpu, band1)?,
                DeviceBand::new(gpu, band2)?,
            ],
            limits: plan.channels.iter().map(limits).collect::<Result<_>>()?,
            arrived: Buffer::new(gpu.context(), what, arriving * band2.inputs)?,
            half_made: Buffer::new(gpu.context(), what, arriving * band2.first.len())?,
            ring: Buffer::new(gpu.context(), what, channels * ring_planes * plane)?,
            ring_planes,
            normalize: gpu.kernel("normalize_values")?,
            columns: gpu.kernel("resample_columns")?,
            slices: gpu.kernel("resample_slices")?,
            plan: Arc::clone(plan),
        })
    }

    /// Bytes of the device's memory that it has.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let bands = self.bands.iter().map(|band| band.first.bytes() + band.weights.bytes());
        let limits = self.limits.iter().map(Buffer::bytes);
        let planes = [&self.arrived, &self.half_made, &self.ring].map(Buffer::bytes);
        bands.chain(limits).chain(planes).sum()
    }

    /// Takes native planes of a channel, normalises them if that comes first, and resamples them
    /// within.
    pub(super) fn feed(
        &mut self,
        gpu: &Gpu,
        staging: &mut Staging,
        channel: usize,
        planes: Range<usize>,
        values: &[f32],
    ) -> Result<()> {
        staging.send(gpu, values, &self.arrived, 0)?;
        if let Some(how) = self.plan.channels[channel].before {
            let normalize = kernel::NormalizeValues {
                values: self.arrived.address(),
                how: how.into(),
                count: values.len() as i32,
                reserved: 0,
            };
            let grid = [values.len().div_ceil(256) as u32, 1, 1];
            let launch = Launch { grid, threads: 256, shared_bytes: 0 };
            // SAFETY: so many values have just been sent there.
            unsafe { self.normalize.launch(&gpu.stream, launch, &normalize)? };
        }
        let [_, band1, band2] = &self.bands;
        let (native_rows, rows) = (band1.inputs, band1.outputs);
        let (native_columns, columns) = (band2.inputs, band2.outputs);
        let within = kernel::Resample {
            input: self.arrived.address(),
            output: self.half_made.address(),
            band: band2.kernel_band(),
            columns: columns as i32,
            inner: 1,
            groups: (planes.len() * native_rows) as i32,
            group_ring: (planes.len() * native_rows) as i32,
            input_ring: native_columns as i32,
            output_ring: columns as i32,
            count: columns as i32,
            limits_axis: -1,
            ..kernel::Resample::default()
        };
        let launch = Launch {
            grid: [(planes.len() * native_rows).div_ceil(8) as u32, columns.div_ceil(32) as u32, 1],
            threads: 256,
            shared_bytes: 0,
        };
        // SAFETY: both hold so many rows of at most `NATIVE_PLANES` planes; the band's windows lie
        // in the native columns.
        unsafe { self.columns.launch(&gpu.stream, launch, &within)? };
        let plane = rows * columns;
        let across = kernel::Resample {
            input: self.half_made.address(),
            output: self.ring.at(channel * self.ring_planes * plane),
            band: band1.kernel_band(),
            inner: columns as i32,
            groups: planes.len() as i32,
            first_group: (planes.start % self.ring_planes) as i32,
            group_ring: self.ring_planes as i32,
            input_ring: native_rows as i32,
            output_ring: rows as i32,
            count: rows as i32,
            ..within
        };
        // SAFETY: as above; the ring has so many planes of every channel.
        unsafe { self.slices.launch(&gpu.stream, slices(columns, rows, planes.len()), &across) }
    }

    /// Makes `planes` of a channel into its ring of `planes_held` planes at `into`.
    pub(super) fn make(
        &self,
        gpu: &Gpu,
        channel: usize,
        planes: &Range<usize>,
        into: Address,
        planes_held: usize,
    ) -> Result<()> {
        let [band0, band1, band2] = &self.bands;
        let plane = band1.outputs * band2.outputs;
        let finish = &self.plan.channels[channel];
        let parameters = kernel::Resample {
            input: self.ring.at(channel * self.ring_planes * plane),
            output: into,
            band: band0.kernel_band(),
            limits: self.limits[channel].address(),
            limits_axis: self.plan.limits_axis.map_or(-1, |axis| axis as i32),
            columns: band2.outputs as i32,
            inner: plane as i32,
            groups: 1,
            first_group: 0,
            group_ring: 1,
            input_ring: self.ring_planes as i32,
            output_ring: planes_held as i32,
            first: planes.start as i32,
            count: planes.len() as i32,
            normalizes: i32::from(finish.after.is_some()),
            how: finish.after.unwrap_or_default().into(),
            reserved: 0,
        };
        // SAFETY: the ring holds the native planes that these are made from, and the volume's ring
        // has room for them.
        unsafe { self.slices.launch(&gpu.stream, slices(plane, planes.len(), 1), &parameters) }
    }
}

/// Blocks for `count` voxels of an axis with `inner` values each, in so many groups.
fn slices(inner: usize, count: usize, groups: usize) -> Launch {
    Launch {
        grid: [(inner.div_ceil(32) * count.div_ceil(8)) as u32, groups as u32, 1],
        threads: 256,
        shared_bytes: 0,
    }
}
