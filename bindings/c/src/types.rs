//! Constants and structs of the ABI. Numbers are never reused; structs grow at the end only.

use std::ffi::{c_char, c_void};

/// Version of this header.
pub const VOXTILE_VERSION_MAJOR: u32 = 0;
/// See above.
pub const VOXTILE_VERSION_MINOR: u32 = 1;
/// See above.
pub const VOXTILE_VERSION_PATCH: u32 = 0;

/// What a call came to: VOXTILE_OK, VOXTILE_CANCELLED or a negative VOXTILE_E_...
pub type voxtile_status = i32;

/// Done.
pub const VOXTILE_OK: i32 = 0;
/// The caller asked to stop; outputs are untouched.
pub const VOXTILE_CANCELLED: i32 = 1;
/// A bad value or NULL from the caller.
pub const VOXTILE_E_ARGUMENT: i32 = -1;
/// A file could not be read.
pub const VOXTILE_E_IO: i32 = -2;
/// A file was read and is not a valid model.
pub const VOXTILE_E_FORMAT: i32 = -3;
/// Valid, but this build or device can't do it.
pub const VOXTILE_E_UNSUPPORTED: i32 = -4;
/// Memory, or the budget, ran out.
pub const VOXTILE_E_MEMORY: i32 = -5;
/// The device or its driver reported an error (see voxtile_error.native).
pub const VOXTILE_E_DEVICE: i32 = -6;
/// This session is running on another thread.
pub const VOXTILE_E_BUSY: i32 = -7;
/// A bug in voxtile; the session now only accepts release.
pub const VOXTILE_E_INTERNAL: i32 = -8;
/// The caller set a field this library does not know.
pub const VOXTILE_E_NEWER: i32 = -9;

/// Why a call failed. Frozen: this struct never grows.
#[repr(C)]
pub struct voxtile_error {
    /// What the call returned.
    pub status: voxtile_status,
    /// errno of the system's call that failed, or the CUDA driver's number of its error; 0 if
    /// neither.
    pub native: i32,
    /// One sentence: what, where, what was expected.
    pub message: [c_char; 504],
}

/// voxtile_device.kind: the processor.
pub const VOXTILE_CPU: u32 = 1;
/// voxtile_device.kind: an NVIDIA GPU.
pub const VOXTILE_CUDA: u32 = 2;

/// A device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_device {
    /// sizeof(voxtile_device)
    pub struct_size: u32,
    /// 1 and up; stable within the process. 0 means "choose".
    pub id: u32,
    /// VOXTILE_CPU or VOXTILE_CUDA
    pub kind: u32,
    /// Of a GPU: its number among the driver's, from 0. Else 0.
    pub ordinal: u32,
    /// Bytes; 0 if unknown.
    pub memory_total: u64,
    /// Bytes; 0 if unknown.
    pub memory_free: u64,
    /// "x86_64 AVX-512", "NVIDIA H100 80GB HBM3"
    pub name: [c_char; 96],
    /// Of a GPU: its compute capability, such as 9 and 0. Else 0.
    pub capability_major: u32,
    /// See above.
    pub capability_minor: u32,
    /// 1 if voxtile runs on it; 0 of a GPU that is too old for its kernels.
    pub covered: u32,
    /// 0
    pub reserved: u32,
    /// Of a GPU: the newest CUDA that its driver supports, such as "12.4". Else empty.
    pub driver: [c_char; 16],
    /// Of a GPU: which kernels run on it, such as "sm_90a"; "compute_80" are compiled by the driver
    /// when they are loaded. Else empty.
    pub kernels: [c_char; 16],
}

/// voxtile_session_options.precision: half precision on a GPU, single on the processor.
pub const VOXTILE_PRECISION_DEFAULT: u32 = 0;
/// voxtile_session_options.precision: single. On a GPU a check of it, and slow.
pub const VOXTILE_PRECISION_F32: u32 = 1;
/// voxtile_session_options.precision: half; on a GPU only.
pub const VOXTILE_PRECISION_F16: u32 = 2;
/// voxtile_session_options.precision: bf16, the upper half of single precision; on the processor only.
/// Faster, and half the memory of a tile's activations; labels may differ where two scores nearly tie.
pub const VOXTILE_PRECISION_BF16: u32 = 3;
/// voxtile_session_options.precision: values as bf16, and products of 8-bit integers where they are
/// faster; on the processor only. More labels differ than with bf16.
pub const VOXTILE_PRECISION_INT8: u32 = 4;

/// What a model is. Axes are the network's, the slowest first. Of a model of several networks, folds,
/// patch, spacing and family are those of the last.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_model_info {
    /// sizeof(voxtile_model_info)
    pub struct_size: u32,
    /// Input channels expected.
    pub channels: u32,
    /// Labels, background included.
    pub labels: u32,
    /// Networks that are averaged (cross-validation folds).
    pub folds: u32,
    /// Voxels of a tile.
    pub patch: [i64; 3],
    /// Grid the network was trained on, mm; 0 is the volume's own.
    pub spacing: [f64; 3],
    /// Weights of one fold of each network.
    pub parameters: u64,
    /// 1 if the model is a demonstration that must not be used on patients.
    pub demo: u32,
    /// 0
    pub reserved: u32,
    /// Valid while the model lives.
    pub name: *const c_char,
    /// One sentence. Valid while the model lives.
    pub description: *const c_char,
    /// "stunet". Valid while the model lives.
    pub family: *const c_char,
}

/// A label.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_label {
    /// sizeof(voxtile_label)
    pub struct_size: u32,
    /// The value written into label maps.
    pub value: u32,
    /// Red, green, blue; all 0 if the model names no colour.
    pub rgb: [u8; 3],
    /// 1 if the model names a colour.
    pub has_rgb: u8,
    /// 0
    pub reserved: u32,
    /// Valid while the model lives.
    pub name: *const c_char,
    /// "SCT:10200004" or NULL. Valid while the model lives.
    pub code: *const c_char,
}

/// voxtile_log_fn level: something worth knowing.
pub const VOXTILE_LOG_INFO: i32 = 1;
/// voxtile_log_fn level: something the user should be told.
pub const VOXTILE_LOG_WARNING: i32 = 2;

/// Takes messages. Called on the thread that is inside a call of this library. `message` is valid
/// for the call.
pub type voxtile_log_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, level: i32, message: *const c_char)>;

/// How a session is set up.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_session_options {
    /// sizeof(voxtile_session_options)
    pub struct_size: u32,
    /// voxtile_device.id; 0 = the first GPU that voxtile's kernels cover, if it has room for the
    /// network, else the processor, and then `log` is told why.
    pub device: u32,
    /// 0 = all processors this process may use. Results do not depend on it.
    pub threads: u32,
    /// How the network's values are held: VOXTILE_PRECISION_DEFAULT ...
    pub precision: u32,
    /// Bytes that session and runs may allocate beyond the caller's buffers and the model; 0 = no
    /// limit.
    pub host_budget: u64,
    /// NULL = silent.
    pub log: voxtile_log_fn,
    /// Passed to `log`.
    pub log_user: *mut c_void,
    /// Bytes of a GPU's own memory that session and runs may allocate; 0 = what is free.
    pub device_budget: u64,
}

/// Element types.
pub const VOXTILE_U8: u32 = 1;
/// Element type.
pub const VOXTILE_I8: u32 = 2;
/// Element type.
pub const VOXTILE_U16: u32 = 3;
/// Element type.
pub const VOXTILE_I16: u32 = 4;
/// Element type.
pub const VOXTILE_I32: u32 = 5;
/// Element type: IEEE half precision.
pub const VOXTILE_F16: u32 = 6;
/// Element type.
pub const VOXTILE_F32: u32 = 7;
/// Element type.
pub const VOXTILE_F64: u32 = 8;
/// Element type.
pub const VOXTILE_U32: u32 = 9;

/// A volume. Borrowed for the call; never written. Voxel (i, j, k) lies at
/// origin + direction * (spacing * (i, j, k)).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_volume {
    /// sizeof(voxtile_volume)
    pub struct_size: u32,
    /// Element type: VOXTILE_U8 ...
    pub dtype: u32,
    /// 0 = 1
    pub channels: u32,
    /// 0
    pub reserved: u32,
    /// Voxel (0, 0, 0) of channel 0; no alignment needed.
    pub data: *const c_void,
    /// Voxels along i, j, k.
    pub dims: [i64; 3],
    /// Bytes to the next voxel along i, j, k; may be negative. All 0 = dense, i fastest.
    pub strides: [i64; 3],
    /// Bytes to the next channel; 0 = dense.
    pub channel_stride: i64,
    /// mm along i, j, k.
    pub spacing: [f64; 3],
    /// mm, LPS (as ITK and DICOM).
    pub origin: [f64; 3],
    /// Row-major; columns are the directions of i, j, k in LPS. All 0 = identity.
    pub direction: [f64; 9],
    /// Value = stored value * slope + intercept; slope 0 = 1.
    pub slope: f64,
    /// See `slope`.
    pub intercept: f64,
}

/// voxtile_progress.phase: cropping, normalising, resampling.
pub const VOXTILE_PHASE_PREPARE: u32 = 0;
/// voxtile_progress.phase: running tiles.
pub const VOXTILE_PHASE_TILES: u32 = 1;
/// voxtile_progress.phase: handing over the result.
pub const VOXTILE_PHASE_RESTORE: u32 = 2;

/// How far a run is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_progress {
    /// Size of this struct in the library.
    pub struct_size: u32,
    /// VOXTILE_PHASE_...
    pub phase: u32,
    /// Network passes done.
    pub done: u64,
    /// Network passes in all; 0 before it is known.
    pub total: u64,
    /// Since the run began.
    pub seconds: f64,
}

/// Follows a run, on the thread that called voxtile_run. Return non-zero to cancel.
pub type voxtile_progress_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, progress: *const voxtile_progress) -> i32>;

/// voxtile_run_options.export_mode: scores are interpolated to the volume's grid, then compared.
pub const VOXTILE_EXPORT_SCORES: u32 = 0;
/// voxtile_run_options.export_mode: labels, by their interpolated shares (nnU-Net v1's fast mode).
pub const VOXTILE_EXPORT_LABELS: u32 = 1;
/// voxtile_run_options.export_mode: the nearest voxel's label (nnU-Net v1's fastest mode).
pub const VOXTILE_EXPORT_NEAREST_LABELS: u32 = 2;

/// voxtile_run_options.accumulators: in single precision.
pub const VOXTILE_SUMS_F32: u32 = 0;
/// voxtile_run_options.accumulators: in half precision, as nnU-Net's own. Half the memory; labels
/// may differ where scores lie within about a thousandth of each other.
pub const VOXTILE_SUMS_F16: u32 = 1;

/// voxtile_run_options.probability_grid: the volume's; axes k, j, i.
pub const VOXTILE_GRID_VOLUME: u32 = 0;
/// voxtile_run_options.probability_grid: the network's, around the voxels that are not zero; axes
/// as the network's.
pub const VOXTILE_GRID_NETWORK: u32 = 1;

/// Probabilities of a box of voxels. Axes are those of the grid, the slowest first. The boxes of a
/// run cover the grid, each label's voxels once.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_probability_box {
    /// Size of this struct in the library.
    pub struct_size: u32,
    /// Number of `label_values`.
    pub label_count: u32,
    /// Some or all of voxtile_output.probability_values. Valid for the call.
    pub label_values: *const u32,
    /// Voxels of the whole grid. In a model of several networks each has its own
    /// VOXTILE_GRID_NETWORK.
    pub grid: [i64; 3],
    /// First voxel of the box.
    pub start: [i64; 3],
    /// Voxels of the box.
    pub size: [i64; 3],
    /// [label_count][size[0]][size[1]][size[2]], dense, in [0, 1]. Valid for the call.
    pub values: *const f32,
}

/// Takes probabilities, on the thread that called voxtile_run. Return non-zero to cancel.
pub type voxtile_probability_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, found: *const voxtile_probability_box) -> i32>;

/// voxtile_cleanup.step: of each label the largest component stays (all that are as large), its
/// others become background.
pub const VOXTILE_CLEANUP_LARGEST_COMPONENT: u32 = 1;
/// voxtile_cleanup.step: components smaller than `minimum_mm3` become background.
pub const VOXTILE_CLEANUP_MINIMUM_SIZE: u32 = 2;
/// voxtile_cleanup.step: background that one label encloses by faces becomes that label.
pub const VOXTILE_CLEANUP_FILL_HOLES: u32 = 3;

/// A step that tidies up a label map. Each label is looked at on its own: a component is of voxels of
/// one label.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_cleanup {
    /// sizeof(voxtile_cleanup)
    pub struct_size: u32,
    /// VOXTILE_CLEANUP_LARGEST_COMPONENT ...
    pub step: u32,
    /// 26 = voxels of a component touch by faces, edges or corners; 6 = by faces; 0 = 26. Must be 0
    /// for VOXTILE_CLEANUP_FILL_HOLES.
    pub connectivity: u32,
    /// Number of `labels`; 0 = every label but the background.
    pub label_count: u32,
    /// Label values the step is for.
    pub labels: *const u32,
    /// For VOXTILE_CLEANUP_MINIMUM_SIZE: the smallest size that stays, in mm^3; else 0.
    pub minimum_mm3: f64,
}

/// What a run is asked to do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_run_options {
    /// sizeof(voxtile_run_options)
    pub struct_size: u32,
    /// 0 = off; 1 = average over mirrored copies along the axes the model allows.
    pub mirror: u32,
    /// Distance of tiles as a fraction of the patch, in (0, 1]; 0 = 0.5.
    pub tile_step: f32,
    /// Number of `keep`; 0 = keep all labels.
    pub keep_count: u32,
    /// Label values to keep; others become 0 after the full argmax.
    pub keep: *const u32,
    /// May be NULL.
    pub progress: voxtile_progress_fn,
    /// Passed to `progress`.
    pub progress_user: *mut c_void,
    /// What comes to the volume's grid: VOXTILE_EXPORT_SCORES ...
    pub export_mode: u32,
    /// 0 = apply the model's postprocessing; 1 = leave it out.
    pub raw: u32,
    /// First voxel of the wanted box along i, j, k. Labels inside it are those of a run on the whole
    /// volume, outside it 0, and only tiles that can touch it are run. Probabilities are handed over
    /// for the whole grid, but mean something inside it only.
    pub region_start: [i64; 3],
    /// Voxels of the wanted box along i, j, k. Start and size all 0 = the whole volume.
    pub region_size: [i64; 3],
    /// The wanted voxels are those that are not 0 here: [k][j][i], dense, a byte for each voxel of
    /// the volume. NULL = none given. Box or mask, not both. Copied, which counts as memory of the
    /// run.
    pub region_mask: *const u8,
    /// 0 = run all tiles; 1 = leave out those that lie wholly below `skip_air_below`, which changes
    /// labels near them; what no other tile covers is background.
    pub skip_air: u32,
    /// In the volume's units after slope and intercept (HU in a CT), of its first channel. Must be
    /// 0 if `skip_air` is.
    pub skip_air_below: f32,
    /// How overlapping tiles are added up: VOXTILE_SUMS_F32 ...
    pub accumulators: u32,
    /// Grid of probabilities: VOXTILE_GRID_VOLUME ...; the network's only with `probability`, and
    /// voxtile_output.probabilities NULL.
    pub probability_grid: u32,
    /// Takes the probabilities of voxtile_output.probability_values as they become final; the
    /// output's own buffer may then be NULL, and the run needs no memory for all of them. May be
    /// NULL.
    pub probability: voxtile_probability_fn,
    /// Passed to `probability`.
    pub probability_user: *mut c_void,
    /// Steps that tidy up the labels, in their order, after the model's own postprocessing and before
    /// `keep`: structs one after the other, of the struct_size of the first.
    pub cleanup: *const voxtile_cleanup,
    /// Number of `cleanup`; 0 = none.
    pub cleanup_count: u32,
    /// 0
    pub reserved: u32,
}

/// The caller's buffers, dense on the input's own grid, [k][j][i].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_output {
    /// sizeof(voxtile_output)
    pub struct_size: u32,
    /// VOXTILE_U8 (if all label values fit) or VOXTILE_U16.
    pub labels_dtype: u32,
    /// NULL = not wanted.
    pub labels: *mut c_void,
    /// Bytes of `labels`: at least the product of dims times the element's size.
    pub labels_size: usize,
    /// VOXTILE_U8 (255 = certain), VOXTILE_F16 or VOXTILE_F32.
    pub probability_dtype: u32,
    /// Number of `probability_values`; 0 = none wanted.
    pub probability_count: u32,
    /// Label values whose probabilities are wanted.
    pub probability_values: *const u32,
    /// [count][k][j][i]. May be NULL if voxtile_run_options.probability takes them.
    pub probabilities: *mut c_void,
    /// Bytes of `probabilities`.
    pub probabilities_size: usize,
}

/// What a run will need, at most.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_estimate {
    /// sizeof(voxtile_estimate)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// Tiles of the volume.
    pub tiles: u64,
    /// Tiles that are run, times mirrored copies, times folds. Tiles of air count, for they are not
    /// known beforehand.
    pub passes: u64,
    /// Bytes that session and run hold together at the peak, beyond the caller's buffers and the
    /// model; a run never exceeds them.
    pub host_bytes: u64,
    /// The smallest session budget that this run would do with.
    pub least_host_bytes: u64,
    /// Planes that become labels at a time, at most, within the session's budget.
    pub slab_planes: u32,
    /// 1 if the prepared volume is kept whole for the next network of the model.
    pub prepared_kept: u32,
    /// What `host_bytes` and `device_bytes` are for: indices of voxtile_run_memory.
    pub memory_parts: u32,
    /// 0
    pub reserved_too: u32,
    /// Tiles that the region leaves out. Exact unless the volume has a side that is zero throughout;
    /// then tiles lie elsewhere, and a few more or fewer may be run.
    pub skipped_tiles: u64,
    /// Bytes of a GPU's own memory that session and run hold together at the peak; 0 on the
    /// processor.
    pub device_bytes: u64,
    /// The smallest voxtile_session_options.device_budget that this run would do with.
    pub least_device_bytes: u64,
}

/// voxtile_memory_part.place: the machine's memory.
pub const VOXTILE_PLACE_HOST: u32 = 0;
/// voxtile_memory_part.place: the GPU's own memory.
pub const VOXTILE_PLACE_DEVICE: u32 = 1;

/// A part of a run's memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_memory_part {
    /// sizeof(voxtile_memory_part)
    pub struct_size: u32,
    /// VOXTILE_PLACE_HOST or VOXTILE_PLACE_DEVICE
    pub place: u32,
    /// Its size.
    pub bytes: u64,
    /// "label map"
    pub name: [c_char; 64],
}

/// What the voxels of one label are. All 0 but struct_size and value if there are none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct voxtile_label_statistics {
    /// sizeof(voxtile_label_statistics)
    pub struct_size: u32,
    /// The label's value, as asked for.
    pub value: u32,
    /// How many voxels have it.
    pub voxels: u64,
    /// Their volume in mL.
    pub milliliters: f64,
    /// Mean of the volume's values there, after slope and intercept (HU in a CT).
    pub mean: f64,
    /// Standard deviation of these values, of the voxels themselves, not of a sample.
    pub deviation: f64,
    /// Lowest of these values.
    pub minimum: f64,
    /// Highest of these values.
    pub maximum: f64,
    /// First voxel of the box around them along i, j, k.
    pub box_start: [i64; 3],
    /// Voxels of this box along i, j, k.
    pub box_size: [i64; 3],
    /// Mean position of the voxels' centres, mm, LPS.
    pub centroid: [f64; 3],
}
