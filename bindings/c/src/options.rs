//! The caller's wishes in the engine's words.

use std::sync::Arc;

use engine::base::error::reserved;
use engine::device::{Accumulators, MemoryPart};
use engine::session::{Cleanup, Export, Grid, Region};
use engine::{Error, Result, RunOptions};

use crate::guard::{Failure, array, read_versioned, stride};
use crate::staged::Staged;
use crate::types::*;

/// More steps than anyone means, and more labels than values.
const MOST_STEPS: u32 = 1 << 16;
const MOST_LABELS: u32 = 1 << 16;

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
) -> std::result::Result<RunOptions, Failure> {
    let mut options = RunOptions {
        mirror: switch(given.mirror, "mirror")?,
        raw: switch(given.raw, "raw")?,
        region: region(given)?,
        skip_air_below: air(given)?,
        ..RunOptions::default()
    };
    let unknown = |name: &str, value: u32, expected: &str| {
        let text = format!("run_options.{name} is {value}, expected {expected} ...");
        Err(Error::argument(text).into())
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
        options.cleanup = cleanup(given)?;
        if let Some(output) = output {
            let (values, count) = (output.probability_values, output.probability_count);
            options.probabilities = array(values, count, "output.probability_values")?.to_vec();
        }
    }
    let held = taken(given, output, dims)?;
    options.taken_bytes = held.iter().fold(0, |sum, part| sum.saturating_add(part.bytes));
    Ok(options)
}

/// The steps that tidy up labels.
///
/// # Safety
/// Pointers in the structs are NULL or valid for their counts.
unsafe fn cleanup(given: &voxtile_run_options) -> std::result::Result<Vec<Cleanup>, Failure> {
    let count = given.cleanup_count;
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > MOST_STEPS {
        let text = format!("run_options.cleanup_count is {count}, expected at most {MOST_STEPS}");
        return Err(Error::argument(text).into());
    }
    // SAFETY: as the caller promises.
    unsafe {
        let step = stride(given.cleanup, count, "cleanup")?;
        let first = given.cleanup.cast::<u8>();
        let places = (0..count as usize).map(|index| first.add(index * step).cast());
        places.map(|place| Ok(cleanup_step(&read_versioned(place, "cleanup")?)?)).collect()
    }
}

/// # Safety
/// `given.labels` is NULL or valid for its count.
unsafe fn cleanup_step(given: &voxtile_cleanup) -> Result<Cleanup> {
    let wrong = |text: String| Err(Error::argument(text));
    if given.label_count > MOST_LABELS {
        let count = given.label_count;
        return wrong(format!("cleanup.label_count is {count}, expected at most {MOST_LABELS}"));
    }
    if given.label_count == 0 && !given.labels.is_null() {
        return wrong("cleanup.labels is set, but label_count is 0, expected their number".into());
    }
    // SAFETY: as the caller promises.
    let labels = unsafe { array(given.labels, given.label_count, "cleanup.labels")? };
    let labels = (!labels.is_empty()).then(|| labels.to_vec());
    let mm3 = given.minimum_mm3;
    if given.step != VOXTILE_CLEANUP_MINIMUM_SIZE && mm3 != 0.0 {
        return wrong(format!(
            "cleanup.minimum_mm3 is {mm3}, expected 0 but for VOXTILE_CLEANUP_MINIMUM_SIZE"
        ));
    }
    let connectivity = match given.connectivity {
        0 => 26,
        6 | 26 if given.step != VOXTILE_CLEANUP_FILL_HOLES => given.connectivity as u8,
        other => {
            return wrong(format!(
                "cleanup.connectivity is {other}, expected 6, 26 or 0, and for \
                 VOXTILE_CLEANUP_FILL_HOLES 0"
            ));
        }
    };
    match given.step {
        VOXTILE_CLEANUP_LARGEST_COMPONENT => Ok(Cleanup::LargestComponent { labels, connectivity }),
        VOXTILE_CLEANUP_MINIMUM_SIZE => Ok(Cleanup::MinimumSize { labels, connectivity, mm3 }),
        VOXTILE_CLEANUP_FILL_HOLES => Ok(Cleanup::FillHoles { labels }),
        other => wrong(format!(
            "cleanup.step is {other}, expected VOXTILE_CLEANUP_LARGEST_COMPONENT ..."
        )),
    }
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
