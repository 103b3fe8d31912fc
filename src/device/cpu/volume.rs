//! The prepared volume: a ring of planes that tiles are copied out of.

use std::ops::Range;

use super::memory::Shared;
use super::value::Value;
use crate::base::error::filled;
use crate::base::{Pool, Result};
use crate::device::{Job, JobSize};
use crate::window::Tile;

/// No voxel of the volume: padding.
const OUTSIDE: usize = usize::MAX;

/// The planes of the volume that tiles still need.
pub(super) struct Volume {
    /// `[channel][plane % planes][shape1][shape2]`
    values: Vec<f32>,
    channels: usize,
    planes: usize,
    plane: usize,
    /// For each axis of the network, where each voxel of a tile lies in a channel.
    places: [Vec<usize>; 3],
}

/// Bytes of a ring.
pub(super) fn bytes(size: &JobSize, patch: [usize; 3]) -> u64 {
    let voxels = size.volume_planes * size.shape[1] * size.shape[2];
    (4 * size.channels * voxels + 8 * patch.iter().sum::<usize>()) as u64
}

impl Volume {
    pub(super) fn new(job: &Job, patch: [usize; 3]) -> Result<Self> {
        let plane = job.shape[1] * job.shape[2];
        let mut places = [const { Vec::new() }; 3];
        for (places, length) in places.iter_mut().zip(patch) {
            *places = filled("places of a tile", length, OUTSIDE)?;
        }
        Ok(Self {
            values: filled("volume", job.channels * job.volume_planes * plane, 0.0)?,
            channels: job.channels,
            planes: job.volume_planes,
            plane,
            places,
        })
    }

    /// Takes planes, `[channels][planes][shape1][shape2]`.
    pub(super) fn feed(&mut self, planes: Range<usize>, values: &[f32]) {
        let count = planes.len();
        for (index, values) in values.chunks_exact(self.plane).enumerate() {
            let (channel, plane) = (index / count, planes.start + index % count);
            let slot = channel * self.planes + plane % self.planes;
            self.values[slot * self.plane..][..self.plane].copy_from_slice(values);
        }
    }

    /// Copies a tile into the network's input, `[channels][patch0][patch1][patch2]`.
    pub(super) fn gather<T: Value>(
        &mut self,
        job: &Job,
        tile: &Tile,
        mirror: [bool; 3],
        patch: [usize; 3],
        input: &mut [T],
        pool: &Pool,
    ) {
        for (axis, &network_axis) in job.axes.iter().enumerate() {
            let length = patch[network_axis];
            for (at, place) in self.places[network_axis].iter_mut().enumerate() {
                let at = if mirror[network_axis] { length - 1 - at } else { at };
                let voxel = (tile.start[axis] + at)
                    .checked_sub(job.pad_before[axis])
                    .filter(|&voxel| voxel < job.shape[axis]);
                *place = voxel.map_or(OUTSIDE, |voxel| match axis {
                    0 => voxel % self.planes * self.plane,
                    1 => voxel * job.shape[2],
                    _ => voxel,
                });
            }
        }
        let plane = patch[1] * patch[2];
        let channel_values = self.planes * self.plane;
        let this = &*self;
        debug_assert_eq!(input.len(), self.channels * patch[0] * plane);
        let input = Shared(input.as_mut_ptr());
        pool.run(self.channels * patch[0], &|index, _| {
            // SAFETY: tasks own planes of the input.
            let plane =
                unsafe { std::slice::from_raw_parts_mut(input.get().add(index * plane), plane) };
            let channel = &this.values[index / patch[0] * channel_values..][..channel_values];
            let first = this.places[0][index % patch[0]];
            for (line, &second) in plane.chunks_exact_mut(patch[2]).zip(&this.places[1]) {
                if first == OUTSIDE || second == OUTSIDE {
                    line.fill(T::of(0.0));
                    continue;
                }
                for (value, &third) in line.iter_mut().zip(&this.places[2]) {
                    let outside = third == OUTSIDE;
                    *value = T::of(if outside { 0.0 } else { channel[first + second + third] });
                }
            }
        });
    }
}
