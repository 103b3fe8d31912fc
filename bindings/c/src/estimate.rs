//! What a run will need, said before it.

use engine::device::Place;
use engine::session::Estimate;
use engine::{Error, Result};

use crate::guard::{Failure, guard, read_versioned, required, write_text, write_versioned};
use crate::handles::voxtile_session;
use crate::options::{given_or_default, mask, taken, wishes};
use crate::types::*;
use crate::volume::view;

/// What an estimate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The tiles that a mask leaves out matter.
    Tiles,
    /// A mask's values do not.
    Memory,
}

/// The estimate of a run, with what it holds on this side of the engine.
///
/// # Safety
/// Pointers are NULL or valid.
unsafe fn estimated(
    handle: &voxtile_session,
    volume: *const voxtile_volume,
    options: *const voxtile_run_options,
    output: *const voxtile_output,
    purpose: Purpose,
) -> std::result::Result<Estimate, Failure> {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        let view = view(&read_versioned(volume, "volume")?)?;
        let given = given_or_default(options)?;
        let output = match output.is_null() {
            true => None,
            false => Some(read_versioned(output, "output")?),
        };
        let mut wishes = wishes(&given, output.as_ref(), view.dims)?;
        if purpose == Purpose::Tiles
            && let Some(mask) = mask(&given, view.voxels())?
        {
            wishes.region = Some(mask);
        }
        let mut estimate = handle.session.estimate(&view, &wishes)?;
        estimate.host_bytes = estimate.host_bytes.saturating_add(wishes.taken_bytes);
        estimate.least_host_bytes = estimate.least_host_bytes.saturating_add(wishes.taken_bytes);
        estimate.memory.extend(taken(&given, output.as_ref(), view.dims)?);
        estimate.memory.retain(|part| part.bytes > 0);
        estimate.memory.sort_by_key(|part| std::cmp::Reverse(part.bytes));
        Ok(estimate)
    }
}

fn written(estimate: &Estimate, out: *mut voxtile_estimate) -> Result<()> {
    let estimate = voxtile_estimate {
        struct_size: 0,
        reserved: 0,
        tiles: estimate.tiles as u64,
        passes: estimate.passes as u64,
        host_bytes: estimate.host_bytes,
        least_host_bytes: estimate.least_host_bytes,
        slab_planes: estimate.choices.slab_planes as u32,
        prepared_kept: u32::from(estimate.choices.keep_prepared),
        memory_parts: estimate.memory.len() as u32,
        reserved_too: 0,
        skipped_tiles: estimate.skipped_tiles as u64,
        device_bytes: estimate.device_bytes,
        least_device_bytes: estimate.least_device_bytes,
    };
    // SAFETY: the caller of the library vouches for its pointer, which is checked.
    unsafe { write_versioned(out, &estimate, "estimate") }
}

/// Says what voxtile_run on `volume` with `options` would need for labels alone, at most; reads no
/// voxel, so `volume->data` must be valid but may hold anything. A mask is read, for the tiles that
/// it leaves out. `options` may be NULL for the defaults. Set `out->struct_size` first.
/// Probabilities are not counted; voxtile_run_estimate_output counts them.
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
    // SAFETY: as the caller promises.
    unsafe { voxtile_run_estimate_output(session, volume, options, std::ptr::null(), out, error) }
}

/// As voxtile_run_estimate, for a run that fills `output`, with the probabilities it asks for. The
/// buffers are not looked at, so that `labels` and `probabilities` may be NULL; with a function in
/// run_options.probability, a NULL `probabilities` says that it alone takes them. `output` may be
/// NULL: labels alone.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_run_estimate_output(
    session: *const voxtile_session,
    volume: *const voxtile_volume,
    options: *const voxtile_run_options,
    output: *const voxtile_output,
    out: *mut voxtile_estimate,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(session, "session")?.unbroken(|handle| {
                let estimate = estimated(handle, volume, options, output, Purpose::Tiles)?;
                Ok(written(&estimate, out)?)
            })
        })
    }
}

/// Describes part `index` of the memory that voxtile_run_estimate_output says, counted from 0, the
/// largest first; voxtile_estimate.memory_parts says how many there are. Those of the host add up to
/// voxtile_estimate.host_bytes, those of the device to device_bytes. Set `out->struct_size` first.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_run_memory(
    session: *const voxtile_session,
    volume: *const voxtile_volume,
    options: *const voxtile_run_options,
    output: *const voxtile_output,
    index: u32,
    out: *mut voxtile_memory_part,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(session, "session")?.unbroken(|handle| {
                let memory = estimated(handle, volume, options, output, Purpose::Memory)?.memory;
                let part = memory.get(index as usize).ok_or_else(|| {
                    Error::argument(format!("memory part {index}: the run has {}", memory.len()))
                })?;
                let mut described = voxtile_memory_part {
                    struct_size: 0,
                    place: match part.place {
                        Place::Host => VOXTILE_PLACE_HOST,
                        Place::Device => VOXTILE_PLACE_DEVICE,
                    },
                    bytes: part.bytes,
                    name: [0; 64],
                };
                write_text(&mut described.name, part.name);
                Ok(write_versioned(out, &described, "memory_part")?)
            })
        })
    }
}

/// Says how many seconds the network passes of voxtile_run on `volume` with `options` would take.
/// Tiles that a box or a mask leaves out do not count, tiles of air do. The first call of a session
/// measures, about a second for each network of the model; later ones are quick. What surrounds the
/// network usually takes less than a tenth. VOXTILE_E_BUSY during a run.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_run_seconds(
    session: *const voxtile_session,
    volume: *const voxtile_volume,
    options: *const voxtile_run_options,
    out: *mut f64,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(session, "session")?.unbroken(|handle| {
                required(out, "out")?;
                let output = std::ptr::null();
                let estimate = estimated(handle, volume, options, output, Purpose::Tiles)?;
                out.write(handle.session.network_seconds(&estimate)?);
                Ok(())
            })
        })
    }
}
