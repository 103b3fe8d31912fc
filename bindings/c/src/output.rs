//! The caller's buffers: whether they can take what a run will find, and filling them.

use std::ffi::c_void;

use engine::session::{LabelMap, Segmentation};
use engine::{Error, Result, VolumeView};

use crate::handles::voxtile_session;
use crate::staged::{self, Staged};
use crate::types::*;

/// Whether the outputs can take what the run will find.
pub(crate) fn check(
    handle: &voxtile_session,
    view: &VolumeView,
    given: &voxtile_run_options,
    output: &voxtile_output,
) -> Result<()> {
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
    if Staged::wanted(given, output) {
        if given.probability_grid != VOXTILE_GRID_VOLUME {
            return Err(Error::argument(
                "output.probabilities are on the volume's grid, expected VOXTILE_GRID_VOLUME, or \
                 output.probabilities NULL and run_options.probability to take them",
            ));
        }
        let (count, size) =
            (output.probability_count as usize, staged::size(output.probability_dtype)?);
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
pub(crate) unsafe fn deliver(found: &Segmentation, staged: &Staged, output: &voxtile_output) {
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
        if staged.length > 0 {
            // Of what no box came, the probability is 0.
            let found = staged.bytes.iter().copied().chain(std::iter::repeat(0));
            write(output.probabilities, found.take(staged.length));
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
