//! The prepared volume on the device: a ring of planes that tiles are gathered from.

use std::ops::Range;

use super::Gpu;
use super::driver::{Address, Buffer, Kernel, Launch, Pinned};
use super::parameters as kernel;
use super::resample::{self, Resampler};
use crate::base::Result;
use crate::device::{Job, JobSize, MemoryPart, out_of_order};
use crate::window::Tile;

/// Values that are sent to the device at once, at most: small enough for two of them to stay in
/// caches, large enough for the time of a copy to hide what asking for it takes.
const STAGED: usize = 1 << 20;

/// The planes of the volume that tiles still need.
pub(super) struct Volume {
    /// `[channel][plane % planes][shape1][shape2]`
    values: Buffer<f32>,
    channels: usize,
    planes: usize,
    plane: usize,
    staging: Staging,
    /// Where native planes are fed.
    resampler: Option<Resampler>,
    gather: Kernel,
}

/// Values on their way to the device: one half is filled while the other is copied.
pub(super) struct Staging([Pinned<f32>; 2]);

impl Staging {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let half = || Pinned::new(gpu.context(), "planes on their way to the device", STAGED);
        Ok(Self([half()?, half()?]))
    }

    /// Copies values to the place of value `first` of `buffer`, after what was asked of the
    /// device. The copy goes on by itself.
    pub(super) fn send(
        &mut self,
        gpu: &Gpu,
        values: &[f32],
        buffer: &Buffer<f32>,
        first: usize,
    ) -> Result<()> {
        for (number, piece) in values.chunks(STAGED).enumerate() {
            let half = &mut self.0[0];
            half.values()?[..piece.len()].copy_from_slice(piece);
            half.send(0..piece.len(), buffer, first + number * STAGED, &gpu.stream)?;
            self.0.swap(0, 1);
        }
        Ok(())
    }
}

/// What a ring occupies.
pub(super) fn memory(size: &JobSize) -> Vec<MemoryPart> {
    let plane = size.shape[1] * size.shape[2];
    let values = size.channels * size.volume_planes * plane;
    let mut parts = vec![
        MemoryPart::on_device("prepared planes", 4 * values as u64),
        MemoryPart::new("planes on their way to the device", 8 * STAGED as u64),
    ];
    parts.extend(size.resampling.as_ref().map(|native| resample::memory(size, native)));
    parts
}

/// The slots of a ring that planes fall into, as ranges.
pub(super) fn ring_slots(planes: Range<usize>, ring: usize) -> impl Iterator<Item = Range<usize>> {
    let mut rest = planes;
    std::iter::from_fn(move || {
        let slot = rest.start % ring.max(1);
        let count = rest.len().min(ring - slot);
        rest.start += count;
        (count > 0).then_some(slot..slot + count)
    })
}

/// Where a tile lies, as kernels are told.
pub(super) fn placement(
    job: &Job,
    tile: &Tile,
    mirror: [bool; 3],
    patch: [usize; 3],
) -> kernel::Placement {
    let numbers = |values: [usize; 3]| values.map(|value| value as i32);
    kernel::Placement {
        start: numbers(tile.start),
        pad_before: numbers(job.pad_before),
        volume: numbers(job.shape),
        axes: numbers(job.axes),
        mirror: mirror.map(i32::from),
        patch: numbers(patch),
    }
}

/// Blocks of 8 rows and 32 columns that cover a plane.
pub(super) fn blocks(rows: usize, columns: usize) -> u32 {
    (rows.div_ceil(8) * columns.div_ceil(32)) as u32
}

impl Volume {
    pub(super) fn new(gpu: &Gpu, job: &Job) -> Result<Self> {
        let plane = job.shape[1] * job.shape[2];
        let (channels, planes) = (job.channels, job.volume_planes);
        Ok(Self {
            values: Buffer::new(gpu.context(), "prepared planes", channels * planes * plane)?,
            channels,
            planes,
            plane,
            staging: Staging::new(gpu)?,
            resampler: match &job.resampling {
                Some(plan) => Some(Resampler::new(gpu, plan, channels)?),
                None => None,
            },
            gather: gpu.kernel(gpu.named("gather_half", "gather_float"))?,
        })
    }

    /// Bytes of the device's memory that it has.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.values.bytes() + self.resampler.as_ref().map_or(0, Resampler::bytes)
    }

    /// Takes planes, `[channels][planes][shape1][shape2]`, after what was asked of the device. The
    /// copies go on by themselves.
    pub(super) fn feed(&mut self, gpu: &Gpu, planes: Range<usize>, values: &[f32]) -> Result<()> {
        let mut rest = values;
        for channel in 0..self.channels {
            for slots in ring_slots(planes.clone(), self.planes) {
                let first = (channel * self.planes + slots.start) * self.plane;
                let (run, others) = rest.split_at((slots.len() * self.plane).min(rest.len()));
                rest = others;
                self.staging.send(gpu, run, &self.values, first)?;
            }
        }
        Ok(())
    }

    /// Takes native planes of a channel, `[planes][native1][native2]`, and resamples them within.
    pub(super) fn feed_native(
        &mut self,
        gpu: &Gpu,
        channel: usize,
        planes: Range<usize>,
        values: &[f32],
    ) -> Result<()> {
        let resampler = out_of_order(self.resampler.as_mut(), "begin with a resampling")?;
        resampler.feed(gpu, &mut self.staging, channel, planes, values)
    }

    /// Makes planes of native ones.
    pub(super) fn resample(&self, gpu: &Gpu, planes: &Range<usize>) -> Result<()> {
        let resampler = out_of_order(self.resampler.as_ref(), "begin with a resampling")?;
        for channel in 0..self.channels {
            let into = self.values.at(channel * self.planes * self.plane);
            resampler.make(gpu, channel, planes, into, self.planes)?;
        }
        Ok(())
    }

    /// Copies a tile into the network's input, `[channels][patch0][patch1][patch2]`.
    pub(super) fn gather(
        &self,
        gpu: &Gpu,
        placement: kernel::Placement,
        input: Address,
    ) -> Result<()> {
        let [planes, rows, columns] = placement.patch.map(|extent| extent as usize);
        let launch = Launch {
            grid: [blocks(rows, columns), planes as u32, self.channels as u32],
            threads: 256,
            shared_bytes: 0,
        };
        let parameters = kernel::Gather {
            volume: self.values.address(),
            patch: input,
            placement,
            ring_planes: self.planes as i32,
            channels: self.channels as i32,
        };
        // SAFETY: the ring holds the planes of every tile, and the input is the network's, of the
        // patch's voxels and the run's channels.
        unsafe { self.gather.launch(&gpu.stream, launch, &parameters) }
    }
}
