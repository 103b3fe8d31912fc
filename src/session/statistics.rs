//! What the labels of a map cover: volumes, values, places.

use std::sync::{Mutex, PoisonError};

use super::components::{Stored, same};
use super::{LabelMap, Segmentation};
use crate::base::error::filled;
use crate::base::{Error, Pool, Result};
use crate::volume::{Geometry, VolumeView};

/// What the voxels of one label are.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelStatistics {
    /// The label's value.
    pub value: u32,
    /// How many voxels have it, at least one.
    pub voxels: u64,
    /// Their volume in mL.
    pub milliliters: f64,
    /// The volume's values there, if a volume was given.
    pub intensity: Option<IntensityStatistics>,
    /// Lowest and highest index along i, j, k, both inclusive.
    pub bounding_box: [[usize; 3]; 2],
    /// Mean position of the voxels' centres in mm, LPS.
    pub centroid_mm: [f64; 3],
}

/// Scaled values (HU in a CT) of the voxels of one label. A value that is no number makes mean
/// and deviation no numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IntensityStatistics {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the voxels themselves: the mean square's root, not a sample's.
    pub deviation: f64,
    /// Lowest value.
    pub minimum: f64,
    /// Highest value.
    pub maximum: f64,
}

impl Segmentation {
    /// Statistics of each label that was found, in ascending order of their values, the
    /// background left out. `volume` is the one that was segmented; channel 0 counts.
    ///
    /// # Errors
    /// As [`statistics`].
    pub fn statistics(&self, volume: &VolumeView, pool: &Pool) -> Result<Vec<LabelStatistics>> {
        statistics(&self.labels, volume.dims, &volume.geometry, Some(volume), pool)
    }
}

/// Statistics of each label of a map that has voxels, in ascending order of their values, the
/// background left out: the same bits on any number of threads.
///
/// `labels` are `[k][j][i]` on a grid of `dims` voxels along i, j, k that lies where `geometry`
/// says. Values are those of channel 0 of `volume`, which has the same grid.
///
/// # Errors
/// [`Error::Argument`] if the map or the volume has another number of voxels than `dims` say, or
/// geometry or volume can't be used; [`Error::Memory`] if the machine has no room for the sums of
/// a few planes.
pub fn statistics(
    labels: &LabelMap,
    dims: [usize; 3],
    geometry: &Geometry,
    volume: Option<&VolumeView>,
    pool: &Pool,
) -> Result<Vec<LabelStatistics>> {
    geometry.validate()?;
    let found = match labels {
        LabelMap::U8(labels) => labels.len(),
        LabelMap::U16(labels) => labels.len(),
    };
    let expected = dims.iter().try_fold(1usize, |product, &count| product.checked_mul(count));
    if expected != Some(found) || found == 0 {
        return Err(Error::argument(format!("a label map of {dims:?} voxels with {found} values")));
    }
    if let Some(volume) = volume {
        volume.validate()?;
        if volume.dims != dims {
            return Err(Error::argument(format!(
                "statistics: the label map has {dims:?} voxels and the volume {:?}",
                volume.dims
            )));
        }
    }
    let sums = match labels {
        LabelMap::U8(labels) => gather(labels, dims, volume, pool)?,
        LabelMap::U16(labels) => gather(labels, dims, volume, pool)?,
    };
    let voxel_mm3: f64 = geometry.spacing.iter().product();
    let finish = |(value, sum): (u32, Sum)| {
        let count = sum.voxels as f64;
        let mean = sum.indices.map(|sum| sum as f64 / count);
        let along = |world: usize, axis: usize| {
            geometry.direction[world][axis] * geometry.spacing[axis] * mean[axis]
        };
        LabelStatistics {
            value,
            voxels: sum.voxels,
            milliliters: count * voxel_mm3 / 1000.0,
            intensity: volume.map(|_| IntensityStatistics {
                mean: sum.mean,
                deviation: (sum.squares / count).sqrt(),
                minimum: sum.minimum.into(),
                maximum: sum.maximum.into(),
            }),
            bounding_box: [sum.lowest, sum.highest],
            centroid_mm: std::array::from_fn(|world| {
                geometry.origin[world] + along(world, 0) + along(world, 1) + along(world, 2)
            }),
        }
    };
    Ok(sums.into_iter().map(finish).collect())
}

/// What is known of some voxels of a label.
#[derive(Clone, Copy)]
struct Sum {
    voxels: u64,
    indices: [u64; 3],
    lowest: [usize; 3],
    highest: [usize; 3],
    mean: f64,
    /// Sum of the squared differences to the mean.
    squares: f64,
    minimum: f32,
    maximum: f32,
}

impl Sum {
    const NOTHING: Self = Self {
        voxels: 0,
        indices: [0; 3],
        lowest: [usize::MAX; 3],
        highest: [0; 3],
        mean: 0.0,
        squares: 0.0,
        minimum: f32::INFINITY,
        maximum: f32::NEG_INFINITY,
    };

    /// Voxels from `start` on along i, at `[j, k]`; `values` are theirs, or none.
    fn of_run(start: usize, length: usize, [j, k]: [usize; 2], values: &[f32]) -> Self {
        let count = length as u64;
        let (first, last) = (start as u64, (start + length - 1) as u64);
        let mut sum = Self {
            voxels: count,
            indices: [(first + last) * count / 2, j as u64 * count, k as u64 * count],
            lowest: [start, j, k],
            highest: [start + length - 1, j, k],
            ..Self::NOTHING
        };
        // Twice over the values: sums of squares of large values would cancel.
        let total: f64 = values.iter().map(|&value| f64::from(value)).sum();
        sum.mean = total / count as f64;
        sum.squares = values.iter().map(|&value| (f64::from(value) - sum.mean).powi(2)).sum();
        for &value in values {
            sum.minimum = sum.minimum.min(value);
            sum.maximum = sum.maximum.max(value);
        }
        sum
    }

    /// Adds other voxels, by Chan's formula.
    fn add(&mut self, other: &Self) {
        if other.voxels == 0 {
            return;
        }
        let (mine, theirs) = (self.voxels as f64, other.voxels as f64);
        let all = mine + theirs;
        let difference = other.mean - self.mean;
        self.mean += difference * (theirs / all);
        self.squares += other.squares + difference * difference * (mine * theirs / all);
        self.voxels += other.voxels;
        self.minimum = self.minimum.min(other.minimum);
        self.maximum = self.maximum.max(other.maximum);
        for axis in 0..3 {
            self.indices[axis] += other.indices[axis];
            self.lowest[axis] = self.lowest[axis].min(other.lowest[axis]);
            self.highest[axis] = self.highest[axis].max(other.highest[axis]);
        }
    }
}

/// No sum: a label that no voxel has.
const ABSENT: u16 = u16::MAX;

/// The sums of each label. Each plane is summed on its own and planes are added in their order,
/// so it does not matter which thread did what.
fn gather<T: Stored>(
    labels: &[T],
    dims: [usize; 3],
    volume: Option<&VolumeView>,
    pool: &Pool,
) -> Result<Vec<(u32, Sum)>> {
    let [columns, rows, planes] = dims;
    let plane = columns * rows;
    let values = present(labels, plane, pool)?;
    let mut places = filled("labels of a map", T::VALUES, ABSENT)?;
    // One place fewer than values: the background has none.
    values.iter().zip(0..).for_each(|(&value, place)| places[value as usize] = place);

    let mut sums = filled("sums of labels", values.len(), Sum::NOTHING)?;
    let together = planes.min(2 * pool.threads());
    let row = values.len().max(1);
    let mut partial = filled("sums of labels", together * row, Sum::NOTHING)?;
    let lines = buffers(pool, "a line of values", columns, 0.0f32)?;
    for first in (0..planes).step_by(together) {
        partial.fill(Sum::NOTHING);
        let maps = labels[first * plane..].chunks(plane);
        let tasks = maps.zip(partial.chunks_mut(row)).collect();
        pool.for_each(tasks, |task, (map, sums): (&[T], &mut [Sum]), worker| {
            let mut line = lines[worker].lock().unwrap_or_else(PoisonError::into_inner);
            add_plane(map, first + task, volume, &places, &mut line, sums);
        });
        for plane in partial.chunks(row) {
            sums.iter_mut().zip(plane).for_each(|(sum, other)| sum.add(other));
        }
    }
    Ok(values.into_iter().zip(sums).collect())
}

/// One for each thread.
fn buffers<T: Clone>(
    pool: &Pool,
    what: &str,
    length: usize,
    value: T,
) -> Result<Vec<Mutex<Vec<T>>>> {
    (0..pool.threads()).map(|_| Ok(Mutex::new(filled(what, length, value.clone())?))).collect()
}

/// Values above 0 that voxels have, in ascending order.
fn present<T: Stored>(labels: &[T], plane: usize, pool: &Pool) -> Result<Vec<u32>> {
    let seen = buffers(pool, "labels of a map", T::VALUES, false)?;
    pool.for_each(labels.chunks(plane).collect(), |_, mut map: &[T], worker| {
        let mut seen = seen[worker].lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(&value) = map.first() {
            seen[Into::<usize>::into(value)] = true;
            map = &map[same(map)..];
        }
    });
    let mut all = filled("labels of a map", T::VALUES, false)?;
    for seen in seen {
        let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut().zip(seen).for_each(|(all, seen)| *all |= seen);
    }
    Ok((1..T::VALUES).filter(|&value| all[value]).map(|value| value as u32).collect())
}

/// Adds the voxels of plane `k` to the sums of their labels.
fn add_plane<T: Stored>(
    map: &[T],
    k: usize,
    volume: Option<&VolumeView>,
    places: &[u16],
    line: &mut [f32],
    sums: &mut [Sum],
) {
    for (j, labels) in map.chunks_exact(line.len()).enumerate() {
        let mut start = 0;
        while start < labels.len() {
            let length = same(&labels[start..]);
            let place = places[Into::<usize>::into(labels[start])];
            if place != ABSENT {
                let values = match volume {
                    None => &[][..],
                    Some(volume) => {
                        let [along_i, along_j, along_k] = volume.strides;
                        let offset =
                            start as isize * along_i + j as isize * along_j + k as isize * along_k;
                        let first = volume.first.wrapping_add_signed(offset);
                        volume.read_line(first, along_i, &mut line[..length]);
                        &line[..length]
                    }
                };
                sums[usize::from(place)].add(&Sum::of_run(start, length, [j, k], values));
            }
            start += length;
        }
    }
}

#[cfg(test)]
mod tests;
