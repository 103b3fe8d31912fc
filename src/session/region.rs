//! The part of a volume that is wanted, and the tiles that can touch it.

use std::ops::Range;

use super::{LabelMap, Region};
use crate::base::error::filled;
use crate::base::{Error, Result};
use crate::volume::{AxisMap, Grids, Placement};
use crate::window;

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

/// Where the tiles of a part lie.
pub(super) struct Tiling {
    /// First voxels along each axis, in the padded volume.
    starts: [Vec<usize>; 3],
    pad_before: [usize; 3],
    patch: [usize; 3],
}

impl Tiling {
    /// The tiles of a volume that [`window::tile_count`] does not refuse.
    pub(super) fn new(shape: [usize; 3], patch: [usize; 3], step: f64) -> Self {
        Self {
            starts: std::array::from_fn(|axis| window::tile_starts(shape[axis], patch[axis], step)),
            pad_before: window::pad_before(shape, patch),
            patch,
        }
    }

    /// Tiles along each axis.
    pub(super) fn counts(&self) -> [usize; 3] {
        self.starts.each_ref().map(Vec::len)
    }

    /// Bytes that it and [`Wanted::active`] take beside the answer, at most.
    pub(super) fn bytes(&self) -> u64 {
        let counts = self.counts();
        let along: usize = counts.iter().sum();
        let least = counts.into_iter().min().unwrap_or(1).max(1);
        let across = counts.iter().product::<usize>() / least;
        let lists = along * (2 * size_of::<usize>() + size_of::<Reach>());
        (lists + across * size_of::<usize>()) as u64
    }
}

/// What a tile covers along one axis of what is wanted.
struct Reach {
    /// Of the caller's voxels those that depend on it.
    voxels: Range<usize>,
    /// Which tiles these are, counted along the axis: those that follow each other may be alike.
    tiles: Range<usize>,
}

/// A region on the grids of one part of a run.
pub(super) struct Wanted<'a> {
    grids: &'a Grids,
    mask: Option<&'a [u8]>,
    /// The box around it, in voxels of the cropped native grid; empty if nothing is wanted.
    pub(super) bounds: [Range<usize>; 3],
}

impl<'a> Wanted<'a> {
    /// `check` is called before each plane of a mask.
    ///
    /// # Errors
    /// Whatever `check` returns.
    pub(super) fn new(
        region: Option<&'a Region>,
        grids: &'a Grids,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let native = grids.placement.shape();
        let (bounds, mask) = match region {
            None => (native.map(|extent| 0..extent), None),
            Some(Region::Box(ranges)) => (cropped(&grids.placement, ranges), None),
            Some(Region::Mask(mask)) => {
                let bounds = around(mask, grids.placement.dims, check)?;
                (cropped(&grids.placement, &bounds), Some(&**mask))
            }
        };
        Ok(Self { grids, mask, bounds })
    }

    /// How many tiles what is wanted can depend on: those that cover voxels between which scores
    /// inside it are interpolated. `check` is called before each plane of a mask.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if the machine has too little; whatever `check` returns.
    pub(super) fn count(
        &self,
        tiling: &Tiling,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<usize> {
        let mut count = 0;
        self.each(tiling, check, |tiles| {
            count += tiles.map(|range| range.len()).iter().product::<usize>()
        })?;
        Ok(count)
    }

    /// For each tile, the first axis outermost, whether it is one of those that
    /// [`Wanted::count`] counts.
    ///
    /// # Errors
    /// As [`Wanted::count`].
    pub(super) fn active(
        &self,
        tiling: &Tiling,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<bool>> {
        let [first, second, third] = tiling.counts();
        let mut active = filled("list of tiles", first * second * third, false)?;
        self.each(tiling, check, |[planes, rows, columns]| {
            for line in planes.flat_map(|a| rows.clone().map(move |b| a * second + b)) {
                active[line * third..][columns.clone()].fill(true);
            }
        })?;
        Ok(active)
    }

    /// Calls `found` with the tiles that are wanted, as ranges along each axis.
    ///
    /// A mask is read once, in the order it is stored in: along each axis what counts of a tile is
    /// whether the last voxel, row or plane before its end that is not empty lies after its start.
    fn each(
        &self,
        tiling: &Tiling,
        check: &mut dyn FnMut() -> Result<()>,
        mut found: impl FnMut([Range<usize>; 3]),
    ) -> Result<()> {
        let reaches: [Vec<Reach>; 3] = std::array::from_fn(|axis| self.reaches(tiling, axis));
        let Some(mask) = self.mask else {
            let [first, second, third] = &reaches;
            for (a, b) in first.iter().flat_map(|a| second.iter().map(move |b| (a, b))) {
                third.iter().for_each(|c| found([a, b, c].map(|reach| reach.tiles.clone())));
            }
            return Ok(());
        };
        let Placement { dims, axes, .. } = &self.grids.placement;
        let mut network = [0; 3];
        axes.iter().enumerate().for_each(|(axis, &caller)| network[caller] = axis);
        let [i, j, k] = network.map(|axis| &reaches[axis]);
        // One more than the last row, of this plane, and the last plane in which a tile's voxels
        // were found: `[tile along i]`, `[tile along j][tile along i]`.
        let mut last_row = filled("tiles of a region", i.len(), 0)?;
        let mut last_plane = filled("tiles of a region", i.len() * j.len(), 0)?;
        let mut planes_done = 0;
        for plane in span(k) {
            check()?;
            last_row.fill(0);
            let mut rows_done = 0;
            for row in span(j) {
                let line = &mask[(plane * dims[1] + row) * dims[0]..][..dims[0]];
                hits(line, i, |tile| last_row[tile] = row + 1);
                for reach in ending(j, &mut rows_done, row + 1) {
                    let tiles = last_plane[reach * i.len()..].iter_mut().zip(&last_row);
                    let start = j[reach].voxels.start;
                    tiles.filter(|(_, row)| **row > start).for_each(|(last, _)| *last = plane + 1);
                }
            }
            for reach in ending(k, &mut planes_done, plane + 1) {
                let Reach { voxels, tiles } = &k[reach];
                let hit = last_plane.iter().enumerate().filter(|(_, last)| **last > voxels.start);
                for (place, _) in hit {
                    let along = [&i[place % i.len()].tiles, &j[place / i.len()].tiles, tiles];
                    found(axes.map(|caller| along[caller].clone()));
                }
            }
        }
        Ok(())
    }

    /// What tiles reach of what is wanted along an axis of the network, in the order of the
    /// caller's voxels; not those that reach nothing.
    fn reaches(&self, tiling: &Tiling, axis: usize) -> Vec<Reach> {
        let placement = &self.grids.placement;
        let mut reaches: Vec<Reach> = Vec::new();
        for (tile, &start) in tiling.starts[axis].iter().enumerate() {
            let range = self.touched(axis, start, tiling.pad_before[axis], tiling.patch[axis]);
            if range.is_empty() {
                continue;
            }
            let ends = [range.start, range.end - 1].map(|at| placement.caller_index(axis, at));
            let voxels = ends[0].min(ends[1])..ends[0].max(ends[1]) + 1;
            match reaches.last_mut() {
                Some(last) if last.voxels == voxels && last.tiles.end == tile => {
                    last.tiles.end += 1;
                }
                _ => reaches.push(Reach { voxels, tiles: tile..tile + 1 }),
            }
        }
        if placement.reversed[axis] {
            reaches.reverse();
        }
        reaches
    }

    /// Voxels of the box around what is wanted that depend on what a tile covers along an axis.
    fn touched(&self, axis: usize, start: usize, pad_before: usize, patch: usize) -> Range<usize> {
        let place = |at: usize| at.saturating_sub(pad_before);
        let touched = between(&self.grids.output[axis], &(place(start)..place(start + patch)));
        let bounds = &self.bounds[axis];
        touched.start.max(bounds.start)..touched.end.min(bounds.end)
    }
}

/// The caller's voxels from the first to the last that tiles reach.
fn span(reaches: &[Reach]) -> Range<usize> {
    match reaches {
        [first, .., last] => first.voxels.start..last.voxels.end,
        [only] => only.voxels.clone(),
        [] => 0..0,
    }
}

/// The next reaches, `done` of them being past, that end at a voxel.
fn ending(reaches: &[Reach], done: &mut usize, end: usize) -> Range<usize> {
    let first = *done;
    *done += reaches[first..].iter().take_while(|reach| reach.voxels.end == end).count();
    first..*done
}

/// Calls `hit` for those of the reaches along a line that have a voxel that is not zero.
fn hits(line: &[u8], reaches: &[Reach], mut hit: impl FnMut(usize)) {
    let span = span(reaches);
    if is_empty(&line[span.clone()]) {
        return;
    }
    // One more than the last that is not zero, of those before `seen`.
    let (mut last, mut seen) = (0, span.start);
    for (number, Reach { voxels, .. }) in reaches.iter().enumerate() {
        if let Some(at) = line[seen..voxels.end].iter().rposition(|&value| value != 0) {
            last = seen + at + 1;
        }
        seen = voxels.end;
        if last > voxels.start {
            hit(number);
        }
    }
}

/// Whether all are zero; without a branch for each.
fn is_empty(values: &[u8]) -> bool {
    values.iter().fold(0, |all, value| all | value) == 0
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
fn around(
    mask: &[u8],
    dims: [usize; 3],
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<[Range<usize>; 3]> {
    let mut bounds: Option<[(usize, usize); 3]> = None;
    for (line, values) in mask.chunks_exact(dims[0]).enumerate() {
        if line % dims[1] == 0 {
            check()?;
        }
        if is_empty(values) {
            continue;
        }
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
    Ok(bounds.map_or([0..0, 0..0, 0..0], |bounds| bounds.map(|(low, high)| low..high + 1)))
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

#[cfg(test)]
mod tests;
