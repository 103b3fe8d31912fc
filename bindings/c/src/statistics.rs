//! What the labels of a map cover.

use std::ffi::c_void;

use engine::base::Pool;
use engine::base::error::reserved;
use engine::session::{LabelMap, LabelStatistics, statistics};
use engine::{Error, Result};

use crate::guard::{array, guard, read_versioned, required, stride, write_versioned};
use crate::types::*;
use crate::volume::view;

/// A copy of a caller's label map of `voxels` voxels.
///
/// # Safety
/// `labels` is NULL or valid for `size` bytes.
unsafe fn copied(
    labels: *const c_void,
    dtype: u32,
    size: usize,
    voxels: usize,
) -> Result<LabelMap> {
    let each = match dtype {
        VOXTILE_U8 => 1,
        VOXTILE_U16 => 2,
        other => {
            return Err(Error::argument(format!(
                "labels_dtype is {other}, expected VOXTILE_U8 or VOXTILE_U16"
            )));
        }
    };
    if labels.is_null() || voxels.checked_mul(each).is_none_or(|needed| size < needed) {
        let found = if labels.is_null() { "is NULL".into() } else { format!("has {size} bytes") };
        return Err(Error::argument(format!(
            "labels {found}, expected {voxels} values of {each} bytes"
        )));
    }
    // SAFETY: the buffer holds as many values, as checked; bytes need no alignment.
    unsafe {
        if each == 1 {
            let mut copy = reserved("copy of the label map", voxels)?;
            copy.extend_from_slice(std::slice::from_raw_parts(labels.cast::<u8>(), voxels));
            return Ok(LabelMap::U8(copy));
        }
        let mut copy = reserved("copy of the label map", voxels)?;
        let bytes = std::slice::from_raw_parts(labels.cast::<u8>(), voxels * each);
        copy.extend(bytes.chunks_exact(each).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])));
        Ok(LabelMap::U16(copy))
    }
}

fn described(value: u32, found: Option<&LabelStatistics>) -> voxtile_label_statistics {
    // SAFETY: every field may be zero.
    let nothing = unsafe { std::mem::zeroed() };
    let mut described = voxtile_label_statistics { value, ..nothing };
    if let Some(found) = found {
        let [lowest, highest] = found.bounding_box;
        described.voxels = found.voxels;
        described.milliliters = found.milliliters;
        described.box_start = lowest.map(|index| index as i64);
        described.box_size = std::array::from_fn(|axis| (highest[axis] - lowest[axis] + 1) as i64);
        described.centroid = found.centroid_mm;
        if let Some(values) = &found.intensity {
            described.mean = values.mean;
            described.deviation = values.deviation;
            described.minimum = values.minimum;
            described.maximum = values.maximum;
        }
    }
    described
}

/// Says what `count` labels of a label map cover, such as voxtile_run has filled: `labels` are
/// dense [k][j][i] on the grid of `volume`, whose first channel gives the values. `values` are the
/// labels' values, of which 0, the background, is not one; `out` are as many structs, each with its
/// struct_size set. `threads` 0 = all processors; results do not depend on it. Copies the map.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_statistics(
    volume: *const voxtile_volume,
    labels_dtype: u32,
    labels: *const c_void,
    labels_size: usize,
    values: *const u32,
    count: u32,
    threads: u32,
    out: *mut voxtile_label_statistics,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            let view = view(&read_versioned(volume, "volume")?)?;
            let values = array(values, count, "values")?;
            if values.contains(&0) {
                return Err(Error::argument("values has 0, the background, expected 1 ...").into());
            }
            if count == 0 {
                return Ok(());
            }
            required(out.cast_const(), "out")?;
            let step = stride(out.cast_const(), count, "label_statistics")?;
            let map = copied(labels, labels_dtype, labels_size, view.voxels())?;
            let pool = Pool::new(threads as usize)?;
            let found = statistics(&map, view.dims, &view.geometry, Some(&view), &pool)?;
            for (index, &value) in values.iter().enumerate() {
                let one = found.iter().find(|label| label.value == value);
                let place = out.cast::<u8>().add(index * step).cast();
                write_versioned(place, &described(value, one), "label_statistics")?;
            }
            Ok(())
        })
    }
}
