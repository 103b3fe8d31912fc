//! The box that holds every voxel that is not zero.

use std::ops::Range;
use std::sync::Mutex;

use super::prepare::PASS_PLANES;
use super::{Placement, VolumeView};
use crate::base::{Error, Pool, Result};

/// What one plane holds.
#[derive(Clone, Default)]
struct Found {
    /// Lowest and highest index of a non-zero voxel along each network axis.
    bounds: Option<[(usize, usize); 3]>,
    /// Voxels that are not finite, and the first of them: channel, i, j, k.
    not_finite: usize,
    first: Option<(usize, [usize; 3])>,
}

/// The smallest box of network axes around the non-zero voxels of any channel; the whole volume
/// if all are zero. `check` is asked now and then whether to go on.
///
/// # Errors
/// [`Error::Argument`] if there are voxels that are not finite; what `check` returns.
pub(super) fn non_zero_box(
    view: &VolumeView,
    whole: &Placement,
    pool: &Pool,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<[Range<usize>; 3]> {
    let [planes, rows, columns] = whole.shape();
    let found: Vec<Mutex<Found>> = (0..planes).map(|_| Mutex::default()).collect();
    let look = |plane: usize| {
        let mut line = vec![0.0; columns];
        let mut here = Found::default();
        for channel in 0..view.channels {
            for row in 0..rows {
                read_line(view, whole, channel, plane, row, &mut line);
                here.add(whole, channel, [plane, row], &line);
            }
        }
        *found[plane].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = here;
    };
    for start in (0..planes).step_by(PASS_PLANES) {
        check()?;
        pool.run(PASS_PLANES.min(planes - start), &|plane, _| look(start + plane));
    }
    let all = found
        .into_iter()
        .map(|found| found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
        .reduce(Found::and)
        .unwrap_or_default();
    if let Some((channel, [i, j, k])) = all.first {
        return Err(Error::argument(format!(
            "the volume has {} voxels that are not finite, the first at ({i}, {j}, {k}) of \
             channel {channel}; expected numbers",
            all.not_finite
        )));
    }
    Ok(all.bounds.map_or_else(|| whole.crop.clone(), |b| b.map(|(low, high)| low..high + 1)))
}

/// Reads a line along network axis 2 of the placement's grid.
pub(super) fn read_line(
    view: &VolumeView,
    placement: &Placement,
    channel: usize,
    plane: usize,
    row: usize,
    into: &mut [f32],
) {
    let offset = |axis: usize, voxel: usize| {
        placement.caller_index(axis, voxel) as isize * view.strides[placement.axes[axis]]
    };
    let start =
        channel as isize * view.channel_stride + offset(0, plane) + offset(1, row) + offset(2, 0);
    let stride = view.strides[placement.axes[2]];
    let stride = if placement.reversed[2] { -stride } else { stride };
    view.read_line(view.first.wrapping_add_signed(start), stride, into);
}

impl Found {
    fn add(&mut self, whole: &Placement, channel: usize, [plane, row]: [usize; 2], line: &[f32]) {
        let low = line.iter().position(|&value| value != 0.0);
        let high = line.iter().rposition(|&value| value != 0.0);
        if let (Some(low), Some(high)) = (low, high) {
            let line = [(plane, plane), (row, row), (low, high)];
            self.bounds = Some(self.bounds.map_or(line, |bounds| union(bounds, line)));
        }
        if line.iter().any(|value| !value.is_finite()) {
            self.not_finite += line.iter().filter(|value| !value.is_finite()).count();
            let column = line.iter().position(|value| !value.is_finite()).unwrap_or(0);
            let mut place = [0; 3];
            for (axis, voxel) in [plane, row, column].into_iter().enumerate() {
                place[whole.axes[axis]] = whole.caller_index(axis, voxel);
            }
            self.first.get_or_insert((channel, place));
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            bounds: match (self.bounds, other.bounds) {
                (Some(a), Some(b)) => Some(union(a, b)),
                (a, b) => a.or(b),
            },
            not_finite: self.not_finite + other.not_finite,
            first: self.first.or(other.first),
        }
    }
}

fn union(a: [(usize, usize); 3], b: [(usize, usize); 3]) -> [(usize, usize); 3] {
    std::array::from_fn(|axis| (a[axis].0.min(b[axis].0), a[axis].1.max(b[axis].1)))
}
