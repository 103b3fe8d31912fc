//! The caller's wishes in the engine's words.

use std::sync::Arc;

use engine::base::error::reserved;
use engine::device::{Accumulators, MemoryPart};
use engine::session::{Export, Grid, Region};
use engine::{Error, Result, RunOptions};

use crate::guard::{Failure, array, read_versioned};
use crate::staged::Staged;
use crate::types::*;

/// The options, which are NULL for the defaults.
///
/// # Safety
/// `options` is NULL or valid.
pub(crate) unsafe fn given_or_default(
    options: *const voxtile_run_options,
) -> std::result::Result<voxtile_run_options, Failure> {
    if options.is_null() {
        // SAFETY: numbers, pointers and optional functions may all be zero, which is the default.
        return Ok(unsafe { std::mem::zeroed() });
    }
    // SAFETY: as the caller promises.
    unsafe { read_versioned(options, "run_options") }
}

fn switch(value: u32, name: &str) -> Result<bool> {
    match value {
        0 | 1 => Ok(value == 1),
        _ => Err(Error::argument(format!("run_options.{name} is {value}, expected 0 or 1"))),
    }
}

/// What a run is asked to do, all but a mask, whose memory is counted.
///
/// # Safety
/// Pointers in the structs are NULL or valid for their counts.
pub(crate) unsafe fn wishes(
    given: &voxtile_run_options,
    output: Option<&voxtile_output>,
    dims: [usize; 3],
) -> Result<RunOptions> {
    let mut options = RunOptions {
        mirror: switch(given.mirror, "mirror")?,
        raw: switch(given.raw, "raw")?,
        region: region(given)?,
        skip_air_below: air(given)?,
        ..RunOptions::default()
    };
    let unknown = |name: &str, value: u32, expected: &str| {
        Err(Error::argument(format!("run_options.{name} is {value}, expected {expected} ...")))
    };
    options.export = match given.export_mode {
        VOXTILE_EXPORT_SCORES => Export::Scores,
        VOXTILE_EXPORT_LABELS => Export::Labels,
        VOXTILE_EXPORT_NEAREST_LABELS => Export::NearestLabels,
        other => return unknown("export_mode", other, "VOXTILE_EXPORT_SCORES"),
    };
    options.accumulators = match given.accumulators {
        VOXTILE_SUMS_F32 => Accumulators::F32,
        VOXTILE_SUMS_F16 => Accumulators::F16,
        other => return unknown("accumulators", other, "VOXTILE_SUMS_F32"),
    };
    options.probability_grid = match given.probability_grid {
        VOXTILE_GRID_VOLUME => Grid::Volume,
        VOXTILE_GRID_NETWORK => Grid::Network,
        other => return unknown("probability_grid", other, "VOXTILE_GRID_VOLUME"),
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
    let held = taken(given, output, dims)?;
    options.taken_bytes = held.iter().fold(0, |sum, part| sum.saturating_add(part.bytes));
    Ok(options)
}

/// The box that is wanted, if one is given.
fn region(given: &voxtile_run_options) -> Result<Option<Region>> {
    let (start, size) = (given.region_start, given.region_size);
    if start == [0; 3] && size == [0; 3] {
        return Ok(None);
    }
    if !given.region_mask.is_null() {
        return Err(Error::argument(
            "run_options has both a box and region_mask, expected at most one of them",
        ));
    }
    let range = |axis: usize| {
        let end = start[axis].checked_add(size[axis])?;
        let range = usize::try_from(start[axis]).ok()?..usize::try_from(end).ok()?;
        (!range.is_empty()).then_some(range)
    };
    match [range(0), range(1), range(2)] {
        [Some(i), Some(j), Some(k)] => Ok(Some(Region::Box([i, j, k]))),
        _ => Err(Error::argument(format!(
            "run_options.region_start is {start:?} and region_size {size:?}, expected a first \
             voxel of the volume and at least 1 voxel per axis"
        ))),
    }
}

/// The mask of wanted voxels, if one is given.
///
/// # Safety
/// `given.region_mask` is NULL or valid for a byte for each voxel.
pub(crate) unsafe fn mask(given: &voxtile_run_options, voxels: usize) -> Result<Option<Region>> {
    if given.region_mask.is_null() {
        return Ok(None);
    }
    // What follows can't report that there is no memory; this can.
    drop(reserved::<u8>("region mask", voxels)?);
    // SAFETY: as the caller promises.
    let mask = unsafe { std::slice::from_raw_parts(given.region_mask, voxels) };
    Ok(Some(Region::Mask(Arc::from(mask))))
}

fn air(given: &voxtile_run_options) -> Result<Option<f32>> {
    let below = given.skip_air_below;
    let skip = switch(given.skip_air, "skip_air")?;
    if !skip && below != 0.0 {
        return Err(Error::argument(format!(
            "run_options.skip_air_below is {below}, but skip_air is 0, expected 1"
        )));
    }
    if !below.is_finite() {
        return Err(Error::argument(format!(
            "run_options.skip_air_below is {below}, expected a number"
        )));
    }
    Ok(skip.then_some(below))
}

/// What a run holds on this side of the engine, out of the same budget.
pub(crate) fn taken(
    given: &voxtile_run_options,
    output: Option<&voxtile_output>,
    dims: [usize; 3],
) -> Result<Vec<MemoryPart>> {
    let voxels = dims.iter().product();
    let staged = match output {
        Some(output) if Staged::wanted(given, output) => Staged::new(output, voxels)?.length,
        _ => 0,
    };
    let mask = if given.region_mask.is_null() { 0 } else { voxels };
    Ok(vec![
        MemoryPart::new("probabilities until the run has succeeded", staged as u64),
        MemoryPart::new("region mask", mask as u64),
    ])
}
