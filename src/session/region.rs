//! The part of a volume that is wanted, and the tiles that can touch it.

use std::ops::Range;

use super::{LabelMap, Region};
use crate::base::{Error, Result};
use crate::volume::{AxisMap, Grids, Placement};
use crate::window::Tile;

/// An error if a region does not lie in a volume of `dims` voxels along i, j, k.
pub(super) fn check(region: &Region, dims: [usize; 3]) -> Result<()> {
    match region {
        Region::Box(ranges) => {
            let fits = ranges.iter().zip(dims).all(|(range, extent)| range.end <= extent);
            if !fits || ranges.iter().any(Range::is_empty) {
                return Err(Error::argument(format!(
                    "region: found voxels {ranges:?} along i, j, k, expected ranges that are not \
                     empty within {dims:?} voxels"
                )));
            }
        }
        Region::Mask(mask) => {
            let voxels: usize = dims.iter().product();
            if mask.len() != voxels {
                return Err(Error::argument(format!(
                    "region: found a mask of {} voxels, expected {voxels}, as many as the volume \
                     has",
                    mask.len()
                )));
            }
        }
    }
    Ok(())
}

/// A region on the grids of one part of a run.
pub(super) struct Wanted<'a> {
    grids: &'a Grids,
    mask: Option<&'a [u8]>,
    /// The box around it, in voxels of the cropped native grid; empty if nothing is wanted.
    pub(super) bounds: [Range<usize>; 3],
}

impl<'a> Wanted<'a> {
    pub(super) fn new(region: Option<&'a Region>, grids: &'a Grids) -> Self {
        let native = grids.placement.shape();
        let (bounds, mask) = match region {
            None => (native.map(|extent| 0..extent), None),
            Some(Region::Box(ranges)) => (cropped(&grids.placement, ranges), None),
            Some(Region::Mask(mask)) => {
                let bounds = around(mask, grids.placement.dims);
                (cropped(&grids.placement, &bounds), Some(&**mask))
            }
        };
        Self { grids, mask, bounds }
    }

    /// How many of the tiles of `patch` voxels, with `starts` along each axis, [`Wanted::touches`].
    pub(super) fn count(
        &self,
        starts: &[Vec<usize>; 3],
        pad_before: [usize; 3],
        patch: [usize; 3],
    ) -> usize {
        // Along each axis those that touch the box around it.
        let near: [Vec<usize>; 3] = std::array::from_fn(|axis| {
            let touch = |start: &usize| {
                !self.touched(axis, *start, pad_before[axis], patch[axis]).is_empty()
            };
            starts[axis].iter().copied().filter(touch).collect()
        });
        if self.mask.is_none() {
            return near.iter().map(Vec::len).product();
        }
        let [first, second, third] = &near;
        let lines = first.iter().flat_map(|&a| second.iter().map(move |&b| (a, b)));
        let tiles = lines.flat_map(|(a, b)| third.iter().map(move |&c| Tile { start: [a, b, c] }));
        tiles.filter(|tile| self.touches(tile, pad_before, patch)).count()
    }

    /// Voxels of the box around what is wanted that depend on what a tile covers along an axis.
    fn touched(&self, axis: usize, start: usize, pad_before: usize, patch: usize) -> Range<usize> {
        let place = |at: usize| at.saturating_sub(pad_before);
        let touched = between(&self.grids.output[axis], &(place(start)..place(start + patch)));
        let bounds = &self.bounds[axis];
        touched.start.max(bounds.start)..touched.end.min(bounds.end)
    }

    /// Whether what is wanted can depend on a tile: whether scores inside it are interpolated
    /// between voxels that the tile covers.
    pub(super) fn touches(&self, tile: &Tile, pad_before: [usize; 3], patch: [usize; 3]) -> bool {
        let ranges: [Range<usize>; 3] = std::array::from_fn(|axis| {
            self.touched(axis, tile.start[axis], pad_before[axis], patch[axis])
        });
        if ranges.iter().any(Range::is_empty) {
            return false;
        }
        let Some(mask) = self.mask else { return true };
        let [planes, rows, columns] = ranges;
        planes.into_iter().any(|plane| {
            rows.clone().any(|row| {
                columns.clone().any(|column| {
                    mask[self.grids.placement.caller_offset([plane, row, column])] != 0
                })
            })
        })
    }
}

/// Output voxels whose values lie between voxels of which one is in `range`.
fn between(map: &AxisMap, range: &Range<usize>) -> Range<usize> {
    let start = map.high.partition_point(|&high| (high as usize) < range.start);
    let end = map.low.partition_point(|&low| (low as usize) < range.end);
    start..end
}

/// A box of the caller's voxels along i, j, k in voxels of the cropped grid.
fn cropped(placement: &Placement, ranges: &[Range<usize>; 3]) -> [Range<usize>; 3] {
    std::array::from_fn(|axis| {
        let caller = placement.axes[axis];
        let (extent, range) = (placement.dims[caller], &ranges[caller]);
        let range = match placement.reversed[axis] {
            true => extent - range.end..extent - range.start,
            false => range.clone(),
        };
        let crop = &placement.crop[axis];
        let place = |at: usize| at.clamp(crop.start, crop.end) - crop.start;
        place(range.start)..place(range.end)
    })
}

/// The box around what is not zero, along i, j, k.
fn around(mask: &[u8], dims: [usize; 3]) -> [Range<usize>; 3] {
    let mut bounds: Option<[(usize, usize); 3]> = None;
    for (line, values) in mask.chunks_exact(dims[0]).enumerate() {
        let first = values.iter().position(|&value| value != 0);
        let last = values.iter().rposition(|&value| value != 0);
        if let (Some(first), Some(last)) = (first, last) {
            let found =
                [(first, last), (line % dims[1], line % dims[1]), (line / dims[1], line / dims[1])];
            let both = |bounds: [(usize, usize); 3]| {
                std::array::from_fn(|axis| {
                    let ((low, high), (first, last)) = (bounds[axis], found[axis]);
                    (low.min(first), high.max(last))
                })
            };
            bounds = Some(bounds.map_or(found, both));
        }
    }
    bounds.map_or([0..0, 0..0, 0..0], |bounds| bounds.map(|(low, high)| low..high + 1))
}

/// Makes labels outside a mask background.
pub(super) fn clear_outside(region: Option<&Region>, labels: &mut LabelMap) {
    let Some(Region::Mask(mask)) = region else { return };
    fn clear<T: Default>(labels: &mut [T], mask: &[u8]) {
        let outside = labels.iter_mut().zip(mask).filter(|(_, mask)| **mask == 0);
        outside.for_each(|(label, _)| *label = T::default());
    }
    match labels {
        LabelMap::U8(labels) => clear(labels, mask),
        LabelMap::U16(labels) => clear(labels, mask),
    }
}
