//! What a device must do, and the plain data it is handed. A device knows no model, file or JSON.

mod choice;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod networks;
#[cfg(test)]
mod reference;

use std::ops::Range;
use std::sync::Arc;

pub use choice::{DeviceChoice, Opened, gpu_count, gpu_info, open};

use crate::base::{Error, Result};
use crate::net::{Network, Plan, Weights};
use crate::volume::{AxisMap, Meter, Resampling};
use crate::window::{Slab, Tile};

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// `cpu` or `cuda`.
    pub kind: &'static str,
    /// For people: "x86_64 AVX-512", "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// Bytes of memory in all; 0 if unknown.
    pub memory_total_bytes: u64,
    /// Bytes of memory that were free when it was asked; 0 if unknown.
    pub memory_free_bytes: u64,
    /// More about a GPU.
    pub gpu: Option<GpuInfo>,
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its number among the driver's, from 0.
    pub ordinal: u32,
    /// Compute capability, major and minor.
    pub capability: [u32; 2],
    /// The newest CUDA that the driver supports: "12.4".
    pub driver: String,
    /// Which of our kernels run on it: "sm_90"; "compute_80" are compiled by the driver when they
    /// are loaded. `None` if it is too old for all of them.
    pub kernels: Option<&'static str>,
}

/// How a network's values are held while it runs. Sums are always single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Single precision: what the processor does, and a check of what a GPU does.
    F32,
    /// Half precision: what a GPU does.
    F16,
    /// The upper half of single precision, on the processor: half the memory of a tile's
    /// activations, and faster; labels may differ where two scores nearly tie.
    Bf16,
    /// On the processor, as `Bf16`, and where the sum of a convolution is computed as it is
    /// written, its products are of 8-bit integers: each output channel's weights are whole
    /// numbers of a step, and so are the inputs, whose range is looked up as they are read.
    Int8,
}

impl Precision {
    /// "f32", "f16", "bf16" or "int8".
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// What is averaged where tiles overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blend {
    /// Raw scores, as nnU-Net v2 does. The device blends the features below the head instead,
    /// which is the same sum, and applies the head once.
    Logits,
    /// Probabilities (softmax, or sigmoid of regions), as nnU-Net v1 does: the classes themselves
    /// are blended.
    Probabilities,
}

/// How scores become a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The class of the highest score, of equal ones the lowest.
    Highest,
    /// Rows are regions that may overlap: 1 plus the last row whose score is above 0 (whose
    /// probability is above a half), or 0 if there is none.
    LastPositive,
}

/// How the mosaic adds tiles up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accumulators {
    /// Single precision.
    #[default]
    F32,
    /// Half precision, as nnU-Net's own: half the memory, and labels may differ where scores lie
    /// within about a thousandth of each other.
    F16,
}

/// One run over a prepared volume, and how its scores return to the caller's grid.
///
/// Axes are those the run goes along, the slowest first: axis `n` is the network's `axes[n]`.
pub struct Job {
    /// Input channels.
    pub channels: usize,
    /// Voxels of the volume along each axis, before padding.
    pub shape: [usize; 3],
    /// The network's axis that each axis is.
    pub axes: [usize; 3],
    /// Zero voxels before the volume, where it is smaller than a patch.
    pub pad_before: [usize; 3],
    /// Planes of the volume that are held at a time.
    pub volume_planes: usize,
    /// Weight of each voxel of a tile, `[patch0][patch1][patch2]` in the order of the run's axes.
    pub window: Vec<f32>,
    /// Planes of the mosaic that are held at a time.
    pub ring_planes: usize,
    /// The most planes a slab has.
    pub slab_planes: usize,
    /// What is averaged.
    pub blend: Blend,
    /// How tiles are added up.
    pub accumulators: Accumulators,
    /// How scores become a class.
    pub decision: Decision,
    /// For each axis, where each voxel of the finer or coarser output grid lies on the volume's
    /// grid (without padding).
    pub output: [AxisMap; 3],
    /// The part of the output grid that is wanted; elsewhere classes are 0.
    pub region: [Range<usize>; 3],
    /// Classes whose probabilities are wanted; may be empty.
    pub probability_classes: Vec<usize>,
    /// Whether they are wanted on the volume's grid instead of the output's.
    pub network_probabilities: bool,
    /// Whether the scores on the network's grid are wanted.
    pub scores: bool,
    /// How the volume is made of native planes, if they are what is fed.
    pub resampling: Option<Arc<Resampling>>,
}

/// What [`Device::resolve`] fills.
#[derive(Default)]
pub struct SlabOutput {
    /// Class of each voxel, `[slab.output][output1][output2]`; 0 where no tile was blended.
    pub classes: Vec<u16>,
    /// `[probability_classes][slab.output][output1][output2]`, or with
    /// [`Job::network_probabilities`] `[probability_classes][slab.planes][shape1][shape2]`; empty
    /// if none are wanted.
    pub probabilities: Vec<f32>,
    /// Class scores on the volume's grid, `[classes][slab.planes][shape1][shape2]`; empty if not
    /// wanted.
    pub scores: Vec<f32>,
}

/// A block of memory that is worth naming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPart {
    /// What it is for.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Where it is.
    pub place: Place,
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The machine's.
    Host,
    /// The GPU's own.
    Device,
}

impl MemoryPart {
    /// `bytes` of the machine's memory for `name`.
    pub fn new(name: &'static str, bytes: u64) -> Self {
        Self { name, bytes, place: Place::Host }
    }

    /// `bytes` of the GPU's memory for `name`.
    pub fn on_device(name: &'static str, bytes: u64) -> Self {
        Self { name, bytes, place: Place::Device }
    }

    /// Bytes of those of `parts` that are in one place.
    pub fn sum(parts: &[Self], place: Place) -> u64 {
        parts.iter().filter(|part| part.place == place).map(|part| part.bytes).sum()
    }
}

/// Everything a device must do. Calls come in the order `load`, then for each run `begin`,
/// {`feed`, `gather`, `forward`, `blend`, `resolve`}, `finish`; `feed_native` and `resample` may take
/// the place of `feed`, `ask_resolve` and `collect` that of `resolve`.
pub trait Device: Send {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// How it holds a network's values.
    fn precision(&self) -> Precision;

    /// Bytes of memory of its own that can be had now; `None` if it works in the machine's.
    ///
    /// # Errors
    /// If the device fails.
    fn free_bytes(&self) -> Result<Option<u64>>;

    /// Where the tensors of `network` are to lie for this device, which its other functions ask for.
    ///
    /// # Errors
    /// As [`Plan::new`].
    fn plan(&self, network: Network) -> Result<Plan> {
        Plan::new(network)
    }

    /// What the device will hold for `plan` and `folds` sets of its weights once loaded.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it can't compute the network.
    fn loaded_memory(&self, plan: &Plan, folds: usize) -> Result<Vec<MemoryPart>>;

    /// What the device will allocate for a run like this one.
    fn job_memory(&self, plan: &Plan, folds: usize, job: &JobSize) -> Vec<MemoryPart>;

    /// Takes over a network: repacks the weights, allocates the arena.
    ///
    /// # Errors
    /// If memory runs out, the weights can't be read, or as [`Device::loaded_memory`].
    fn load(&mut self, plan: Arc<Plan>, weights: &dyn Weights) -> Result<()>;

    /// Starts a run.
    ///
    /// # Errors
    /// If memory runs out.
    fn begin(&mut self, job: Job) -> Result<()>;

    /// Takes planes of the volume, `[channels][planes][shape1][shape2]`, in ascending order; those
    /// that no longer fit the ring are forgotten.
    ///
    /// # Errors
    /// If the device fails.
    fn feed(&mut self, planes: Range<usize>, values: &[f32]) -> Result<()>;

    /// Whether it takes native planes and resamples them itself, as [`Job::resampling`] says. Then
    /// there is a [`Device::meter`], too.
    fn resamples(&self) -> bool {
        false
    }

    /// Measures volumes before their run begins.
    fn meter(&mut self) -> Option<&mut dyn Meter> {
        None
    }

    /// Bytes of its memory that measuring takes, at most: of `native` voxels, and where planes that
    /// are resampled are measured, of those of a job.
    fn meter_bytes(&self, native: [usize; 3], resampled: Option<&JobSize>) -> u64 {
        let _ = (native, resampled);
        0
    }

    /// Takes native planes of a channel, `[planes][native1][native2]`, in ascending order, at most
    /// [`NATIVE_PLANES`](crate::volume::native::NATIVE_PLANES). Those that the planes of the volume
    /// made last and next do not need are forgotten.
    ///
    /// # Errors
    /// If the device fails or does not resample.
    fn feed_native(&mut self, channel: usize, planes: Range<usize>, values: &[f32]) -> Result<()> {
        let _ = (channel, planes, values);
        Err(does_not_resample())
    }

    /// Makes planes of the volume, a piece as it would be fed, of the native planes that were fed.
    ///
    /// # Errors
    /// As [`Device::feed_native`].
    fn resample(&mut self, planes: Range<usize>) -> Result<()> {
        let _ = planes;
        Err(does_not_resample())
    }

    /// Copies a tile out of the volume into the network's input: zero where there is no volume,
    /// reversed along each axis of `mirror`.
    ///
    /// # Errors
    /// If the device fails.
    fn gather(&mut self, tile: &Tile, mirror: [bool; 3]) -> Result<()>;

    /// Seconds that [`Device::forward`] takes: runs the network on what is in its memory, at most
    /// for about `limit_seconds`, and carries on in proportion to the multiplications.
    ///
    /// # Errors
    /// If the device fails.
    fn measure(&mut self, limit_seconds: f64) -> Result<f64>;

    /// Runs the network of one fold on the gathered tile.
    ///
    /// # Errors
    /// If the device fails.
    fn forward(&mut self, fold: usize) -> Result<()>;

    /// Adds the weighted result at the tile's place, mirrored back.
    ///
    /// # Errors
    /// If the device fails.
    fn blend(&mut self, tile: &Tile, mirror: [bool; 3], fold: usize) -> Result<()>;

    /// Asks to classify what became final and to free its planes; whether `output` is filled already.
    /// If not, [`Device::collect`] fills it, before the next slab is asked for and best after more
    /// was asked of the device, which goes on meanwhile.
    ///
    /// # Errors
    /// If the device fails.
    fn ask_resolve(&mut self, slab: &Slab, output: &mut SlabOutput) -> Result<bool>;

    /// Waits for what was asked for and fills `output`.
    ///
    /// # Errors
    /// If the device fails, or nothing was asked for.
    fn collect(&mut self, output: &mut SlabOutput) -> Result<()> {
        let _ = output;
        Err(Error::Internal("a slab was collected that nobody asked for".into()))
    }

    /// Classifies what became final and frees its planes.
    ///
    /// # Errors
    /// If the device fails.
    fn resolve(&mut self, slab: &Slab, output: &mut SlabOutput) -> Result<()> {
        match self.ask_resolve(slab, output)? {
            true => Ok(()),
            false => self.collect(output),
        }
    }

    /// Ends the run, finished or not, and frees what `begin` allocated.
    fn finish(&mut self);
}

fn another_device_s_plan() -> Error {
    Error::Internal("the plan was made for another device".into())
}

fn does_not_resample() -> Error {
    Error::Internal("native planes for a device that does not resample".into())
}

/// The sizes of a [`Job`], for estimates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSize {
    /// As [`Job::channels`].
    pub channels: usize,
    /// As [`Job::shape`].
    pub shape: [usize; 3],
    /// As [`Job::volume_planes`].
    pub volume_planes: usize,
    /// As [`Job::ring_planes`].
    pub ring_planes: usize,
    /// As [`Job::blend`].
    pub blend: Blend,
    /// As [`Job::accumulators`].
    pub accumulators: Accumulators,
    /// Voxels along each axis of the output grid.
    pub output: [usize; 3],
    /// The most output planes one slab makes.
    pub output_planes: usize,
    /// The most planes of the volume one slab makes final.
    pub slab_planes: usize,
    /// As [`Job::probability_classes`], their number.
    pub probability_classes: usize,
    /// As [`Job::scores`].
    pub scores: bool,
    /// Those of [`Job::resampling`].
    pub resampling: Option<ResamplingSize>,
}

/// The sizes of a [`Resampling`], at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResamplingSize {
    /// Voxels of a native plane along its axes.
    pub native: [usize; 2],
    /// Native planes that are held at a time.
    pub ring_planes: usize,
}

/// The error of a call that is out of order: a bug of the caller, not of the user.
fn out_of_order<T>(state: Option<T>, missing: &str) -> Result<T> {
    state.ok_or_else(|| Error::Internal(format!("the device was used before `{missing}`")))
}

/// The error of scores that decide nothing.
fn not_finite(planes: &Range<usize>) -> Error {
    Error::format(
        "the model",
        format!(
            "its scores in planes {}..{} are not finite; its weights or its normalization are out \
             of range",
            planes.start, planes.end
        ),
    )
}
