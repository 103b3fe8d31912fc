//! Running a session on the caller's volume.

use std::ffi::c_void;
use std::ops::ControlFlow;

use engine::session::{
    Export, LabelMap, Level, Observer, Phase, ProbabilityBox, Progress, Segmentation,
};
use engine::{Element, Error, Geometry, Result, RunOptions, VolumeView};

use crate::guard::{array, guard, read_versioned, required, write_versioned};
use crate::handles::{Log, voxtile_session};
use crate::staged::Staged;
use crate::types::*;

fn element(dtype: u32, what: &str) -> Result<Element> {
    Ok(match dtype {
        VOXTILE_U8 => Element::U8,
        VOXTILE_I8 => Element::I8,
        VOXTILE_U16 => Element::U16,
        VOXTILE_I16 => Element::I16,
        VOXTILE_U32 => Element::U32,
        VOXTILE_I32 => Element::I32,
        VOXTILE_F16 => Element::F16,
        VOXTILE_F32 => Element::F32,
        VOXTILE_F64 => Element::F64,
        other => {
            return Err(Error::argument(format!("{what} is {other}, expected VOXTILE_U8 ...")));
        }
    })
}

/// More voxels than any scan has.
const MOST_VOXELS: i64 = 1 << 36;

/// Bytes from the lowest voxel to voxel (0, 0, 0), and to the end of the highest.
fn extent(dims: [i64; 4], strides: [i64; 4], size: usize) -> Option<(usize, usize)> {
    let (mut below, mut above) = (0i128, size as i128);
    for (count, stride) in dims.into_iter().zip(strides) {
        let reach = (i128::from(count) - 1).checked_mul(i128::from(stride))?;
        below = below.checked_sub(reach.min(0))?;
        above = above.checked_add(reach.max(0))?;
    }
    isize::try_from(below.checked_add(above)?).ok()?;
    Some((usize::try_from(below).ok()?, usize::try_from(above).ok()?))
}

/// The caller's volume.
///
/// # Safety
/// `given.data` is NULL or valid for every voxel that dims and strides name.
unsafe fn view<'a>(given: &voxtile_volume) -> Result<VolumeView<'a>> {
    let element = element(given.dtype, "volume.dtype")?;
    let size = element.size();
    let channels = i64::from(given.channels.max(1));
    let [i, j, k] = given.dims;
    if given.dims.iter().any(|&extent| extent < 1) {
        return Err(Error::argument(format!(
            "volume.dims is {:?}, expected at least 1 voxel per axis",
            given.dims
        )));
    }
    let too_large = || {
        Error::argument(format!(
            "volume: {:?} voxels with strides of {:?} bytes are more than can be addressed",
            given.dims, given.strides
        ))
    };
    let dense = || {
        let row = i.checked_mul(size as i64)?;
        let plane = row.checked_mul(j)?;
        Some(([size as i64, row, plane], plane.checked_mul(k)?))
    };
    let (dense, dense_channel) = dense().ok_or_else(too_large)?;
    let strides = if given.strides == [0; 3] { dense } else { given.strides };
    let channel_stride =
        if given.channel_stride == 0 { dense_channel } else { given.channel_stride };
    // Before a slice is made of it, it must be something that can exist.
    let counts = [i, j, k, channels];
    let voxels = counts.iter().try_fold(1i64, |voxels, &count| voxels.checked_mul(count));
    if voxels.is_none_or(|voxels| voxels > MOST_VOXELS) {
        return Err(too_large());
    }
    let all = [strides[0], strides[1], strides[2], channel_stride];
    let (below, above) = extent(counts, all, size).ok_or_else(too_large)?;
    let direction = given.direction;
    let geometry = Geometry {
        spacing: given.spacing,
        origin: given.origin,
        direction: if direction == [0.0; 9] {
            Geometry::axis_aligned(given.spacing).direction
        } else {
            std::array::from_fn(|row| std::array::from_fn(|column| direction[3 * row + column]))
        },
    };
    // What can be wrong without reading is found before memory is touched.
    geometry.validate()?;
    if given.data.is_null() {
        return Err(Error::argument("volume.data is NULL"));
    }
    // SAFETY: the caller vouches for every byte from the lowest voxel to the highest.
    let bytes =
        unsafe { std::slice::from_raw_parts(given.data.cast::<u8>().sub(below), below + above) };
    let view = VolumeView {
        bytes,
        element,
        dims: given.dims.map(|extent| extent as usize),
        strides: strides.map(|stride| stride as isize),
        channels: channels as usize,
        channel_stride: channel_stride as isize,
        first: below,
        slope: if given.slope == 0.0 { 1.0 } else { given.slope },
        intercept: given.intercept,
        geometry,
    };
    view.validate()?;
    Ok(view)
}

/// The caller's wishes, and whom to tell.
///
/// # Safety
/// Pointers in the structs are NULL or valid for their counts.
unsafe fn wishes(
    given: &voxtile_run_options,
    output: Option<&voxtile_output>,
) -> Result<RunOptions> {
    let mut options = RunOptions { mirror: given.mirror != 0, ..RunOptions::default() };
    if given.mirror > 1 {
        return Err(Error::argument(format!(
            "run_options.mirror is {}, expected 0 or 1",
            given.mirror
        )));
    }
    if given.raw > 1 {
        return Err(Error::argument(format!("run_options.raw is {}, expected 0 or 1", given.raw)));
    }
    options.raw = given.raw != 0;
    options.export = match given.export_mode {
        VOXTILE_EXPORT_SCORES => Export::Scores,
        VOXTILE_EXPORT_LABELS => Export::Labels,
        VOXTILE_EXPORT_NEAREST_LABELS => Export::NearestLabels,
        other => {
            return Err(Error::argument(format!(
                "run_options.export_mode is {other}, expected VOXTILE_EXPORT_SCORES ..."
            )));
        }
    };
    if given.tile_step != 0.0 {
        options.step = f64::from(given.tile_step);
    }
    // SAFETY: as the caller promises.
    unsafe {
        if given.keep_count > 0 {
            options.keep = Some(array(given.keep, given.keep_count, "run_options.keep")?.to_vec());
        }
        if let Some(output) = output {
            let (values, count) = (output.probability_values, output.probability_count);
            options.probabilities = array(values, count, "output.probability_values")?.to_vec();
        }
    }
    Ok(options)
}

/// Follows a run for the caller.
struct Caller<'a> {
    options: &'a voxtile_run_options,
    log: Log,
    staged: Staged,
}

impl Observer for Caller<'_> {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        let Some(function) = self.options.progress else { return ControlFlow::Continue(()) };
        let told = voxtile_progress {
            struct_size: size_of::<voxtile_progress>() as u32,
            phase: match progress.phase {
                Phase::Prepare => VOXTILE_PHASE_PREPARE,
                Phase::Tiles => VOXTILE_PHASE_TILES,
                Phase::Restore => VOXTILE_PHASE_RESTORE,
            },
            done: progress.done as u64,
            total: progress.total as u64,
            seconds: progress.seconds,
        };
        // SAFETY: the caller gave function and pointer for this use.
        match unsafe { function(self.options.progress_user, &raw const told) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    fn message(&mut self, level: Level, text: &str) {
        let level = match level {
            Level::Info => VOXTILE_LOG_INFO,
            Level::Warning => VOXTILE_LOG_WARNING,
        };
        self.log.say(level, text);
    }

    fn probabilities(&mut self, found: &ProbabilityBox) -> Result<()> {
        self.staged.put(found);
        Ok(())
    }
}

/// Says what voxtile_run on `volume` with `options` would need, at most; reads no voxel, so
/// `volume->data` must be valid but may hold anything. `options` may be NULL for the defaults. Set
/// `out->struct_size` first. Probabilities are not counted.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_run_estimate(
    session: *const voxtile_session,
    volume: *const voxtile_volume,
    options: *const voxtile_run_options,
    out: *mut voxtile_estimate,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(session, "session")?.unbroken(|handle| {
                let view = view(&read_versioned(volume, "volume")?)?;
                let options = wishes(&given_or_default(options)?, None)?;
                let estimate = handle.session.estimate(&view, &options)?;
                let estimate = voxtile_estimate {
                    struct_size: 0,
                    reserved: 0,
                    tiles: estimate.tiles as u64,
                    passes: estimate.passes as u64,
                    host_bytes: estimate.host_bytes,
                };
                Ok(write_versioned(out, &estimate, "estimate")?)
            })
        })
    }
}

/// Segments `volume` into the caller's buffers, which are written only on VOXTILE_OK. `options`
/// may be NULL for the defaults.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_run(
    session: *const voxtile_session,
    volume: *const voxtile_volume,
    options: *const voxtile_run_options,
    output: *const voxtile_output,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(session, "session")?.unbroken(|handle| {
                let view = view(&read_versioned(volume, "volume")?)?;
                let given = given_or_default(options)?;
                let output = read_versioned(output, "output")?;
                check(handle, &view, &output)?;
                let wishes = wishes(&given, Some(&output))?;
                let staged = Staged::new(&output, view.voxels())?;
                let mut caller = Caller { options: &given, log: handle.log, staged };
                let found = handle.session.run(&view, &wishes, &mut caller)?;
                deliver(&found, &caller.staged, &output);
                Ok(())
            })
        })
    }
}

/// # Safety
/// `options` is NULL or valid.
unsafe fn given_or_default(
    options: *const voxtile_run_options,
) -> std::result::Result<voxtile_run_options, crate::guard::Failure> {
    if options.is_null() {
        return Ok(voxtile_run_options {
            struct_size: size_of::<voxtile_run_options>() as u32,
            mirror: 0,
            tile_step: 0.0,
            keep_count: 0,
            keep: std::ptr::null(),
            progress: None,
            progress_user: std::ptr::null_mut(),
            export_mode: VOXTILE_EXPORT_SCORES,
            raw: 0,
        });
    }
    // SAFETY: as the caller promises.
    unsafe { read_versioned(options, "run_options") }
}

/// Whether the outputs can take what the run will find.
fn check(handle: &voxtile_session, view: &VolumeView, output: &voxtile_output) -> Result<()> {
    let voxels = view.voxels();
    let enough = |name: &str, buffer: *mut c_void, given: usize, count: usize, size: usize| {
        let needed = voxels.checked_mul(count).and_then(|values| values.checked_mul(size));
        if buffer.is_null() || needed.is_none_or(|needed| given < needed) {
            return Err(Error::argument(format!(
                "output.{name} is {buffer:?} with {given} bytes, expected {count} x {:?} values \
                 of {size} bytes",
                view.dims
            )));
        }
        Ok(())
    };
    if !output.labels.is_null() {
        let size = match output.labels_dtype {
            VOXTILE_U8 => {
                let labels = &handle.session.model().package().labels;
                if let Some(label) = labels.iter().find(|label| label.value > 255) {
                    return Err(Error::argument(format!(
                        "output.labels_dtype is VOXTILE_U8, but label {:?} has the value {}; \
                         expected VOXTILE_U16",
                        label.name, label.value
                    )));
                }
                1
            }
            VOXTILE_U16 => 2,
            other => {
                return Err(Error::argument(format!(
                    "output.labels_dtype is {other}, expected VOXTILE_U8 or VOXTILE_U16"
                )));
            }
        };
        enough("labels", output.labels, output.labels_size, 1, size)?;
    }
    if output.probability_count > 0 {
        let size = match output.probability_dtype {
            VOXTILE_U8 => 1,
            VOXTILE_F16 => 2,
            VOXTILE_F32 => 4,
            other => {
                return Err(Error::argument(format!(
                    "output.probability_dtype is {other}, expected VOXTILE_U8, VOXTILE_F16 or \
                     VOXTILE_F32"
                )));
            }
        };
        let count = output.probability_count as usize;
        enough("probabilities", output.probabilities, output.probabilities_size, count, size)?;
    }
    if output.labels.is_null() && output.probability_count == 0 {
        return Err(Error::argument("output asks for nothing: labels is NULL, no probabilities"));
    }
    Ok(())
}

/// Writes what was found.
///
/// # Safety
/// `check` has accepted the output, and its buffers are as large as they say.
unsafe fn deliver(found: &Segmentation, staged: &Staged, output: &voxtile_output) {
    // SAFETY: as the caller promises.
    unsafe {
        if !output.labels.is_null() {
            match (&found.labels, output.labels_dtype) {
                (LabelMap::U8(labels), VOXTILE_U8) => {
                    write(output.labels, labels.iter().copied());
                }
                (LabelMap::U8(labels), _) => {
                    write(output.labels, labels.iter().copied().map(u16::from));
                }
                (LabelMap::U16(labels), _) => write(output.labels, labels.iter().copied()),
            }
        }
        if !staged.bytes.is_empty() {
            write(output.probabilities, staged.bytes.iter().copied());
        }
    }
}

/// Writes values one after the other, whatever the buffer's alignment.
///
/// # Safety
/// `to` is valid for all of them.
unsafe fn write<T>(to: *mut c_void, values: impl Iterator<Item = T>) {
    let to = to.cast::<T>();
    for (index, value) in values.enumerate() {
        // SAFETY: as the caller promises.
        unsafe { to.add(index).write_unaligned(value) };
    }
}
