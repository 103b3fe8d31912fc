//! The order of a run: which tiles, and when planes are finished.

use std::ops::Range;

use super::tiles::{Tile, tile_count, tile_starts};
use crate::base::Result;
use crate::base::error::reserved;
use crate::volume::AxisMap;

/// Planes of the slowest axis that no later tile touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Planes of the volume (without padding) that became final.
    pub planes: Range<usize>,
    /// Planes of the output grid that lie between final planes: they can be made from this
    /// slab's planes and the last plane before them, which the device keeps.
    pub output: Range<usize>,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hand over the next planes of the volume.
    Feed(Range<usize>),
    /// Gather, forward and blend a tile, by its number.
    Tile(usize),
    /// Classify a slab.
    Resolve(Slab),
}

/// The order of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Voxels along each axis, zero padding included.
    pub padded: [usize; 3],
    /// Padding before the first voxel of each axis; an odd voxel of padding goes to the end.
    pub pad_before: [usize; 3],
    /// All tiles, the slowest axis outermost.
    pub tiles: Vec<Tile>,
    /// What happens, in order. Every plane of the volume is fed once, and every plane of the
    /// volume and of the output is in one slab.
    pub steps: Vec<Step>,
    /// Planes of the volume that tiles still need, at most: what a ring must hold.
    pub volume_planes: usize,
    /// Planes of the mosaic that are alive at a time, at most: what a ring must hold.
    pub ring_planes: usize,
}

/// How finely a run goes along the slowest axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain {
    /// Planes of the volume that are made and fed together.
    pub feed_planes: usize,
    /// Planes of a [`Slab`], at most.
    pub slab_planes: usize,
}

/// Lays out the tiles of a volume of `shape` voxels. `output` says where the planes of the output
/// grid lie on the volume's slowest axis.
///
/// # Errors
/// As [`tile_count`].
pub fn schedule(
    shape: [usize; 3],
    patch: [usize; 3],
    step: f64,
    output: &AxisMap,
    grain: Grain,
) -> Result<Schedule> {
    let count = tile_count(shape, patch, step)?;
    let padded: [usize; 3] = std::array::from_fn(|axis| shape[axis].max(patch[axis]));
    let pad_before = pad_before(shape, patch);
    let starts: [Vec<usize>; 3] =
        std::array::from_fn(|axis| tile_starts(shape[axis], patch[axis], step));
    let mut tiles = reserved("list of tiles", count)?;
    let mut steps = Vec::new();
    let (mut fed, mut final_planes, mut final_output) = (0, 0, 0);
    let (mut volume_planes, mut ring_planes) = (0, 0);
    for (index, &start0) in starts[0].iter().enumerate() {
        let in_volume = |plane: usize| plane.saturating_sub(pad_before[0]).min(shape[0]);
        let touched = in_volume(start0 + patch[0]);
        while fed < touched {
            let planes = fed..shape[0].min(fed + grain.feed_planes);
            fed = planes.end;
            steps.push(Step::Feed(planes));
        }
        volume_planes = volume_planes.max(fed - in_volume(start0));
        for &start1 in &starts[1] {
            for &start2 in &starts[2] {
                steps.push(Step::Tile(tiles.len()));
                tiles.push(Tile { start: [start0, start1, start2] });
            }
        }
        // The last final plane is still needed by output planes that lie after it.
        ring_planes = ring_planes.max(touched - final_planes.max(1) + 1);
        let until = starts[0].get(index + 1).map_or(shape[0], |&next| in_volume(next));
        while final_planes < until {
            let planes = final_planes..until.min(final_planes + grain.slab_planes);
            let output_until = output.high.partition_point(|&high| (high as usize) < planes.end);
            final_planes = planes.end;
            steps.push(Step::Resolve(Slab { planes, output: final_output..output_until }));
            final_output = output_until;
        }
    }
    Ok(Schedule { padded, pad_before, tiles, steps, volume_planes, ring_planes })
}

/// Zero voxels before the first one along each axis; an odd voxel of padding goes to the end.
pub fn pad_before(shape: [usize; 3], patch: [usize; 3]) -> [usize; 3] {
    std::array::from_fn(|axis| patch[axis].saturating_sub(shape[axis]) / 2)
}

/// The order of axes, the slowest first, in which a run keeps the thinnest part of a volume of
/// `shape` voxels alive: along the axis across which tiles cover the least. The given order stays
/// where another saves less than a fifth, for it is the one voxels are stored in.
pub fn sweep(shape: [usize; 3], patch: [usize; 3]) -> [usize; 3] {
    let alive = |axis: usize| {
        let across: usize =
            (0..3).filter(|&other| other != axis).map(|other| shape[other]).product();
        across * shape[axis].min(patch[axis] + 1)
    };
    let best = (1..3).min_by_key(|&axis| alive(axis)).unwrap_or(0);
    match best {
        1 if alive(1) * 5 < alive(0) * 4 => [1, 0, 2],
        2 if alive(2) * 5 < alive(0) * 4 => [2, 0, 1],
        _ => [0, 1, 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Output planes spread evenly over the volume's, as half-pixel linear resampling has them.
    fn spread(planes: usize, output: usize) -> AxisMap {
        let mut map = AxisMap::default();
        for plane in 0..output {
            let place = ((plane as f64 + 0.5) * planes as f64 / output as f64 - 0.5)
                .clamp(0.0, (planes - 1) as f64);
            map.low.push(place as u32);
            map.high.push((place as u32 + 1).min(planes as u32 - 1));
            map.fraction.push(place.fract() as f32);
        }
        map
    }

    proptest! {
        #[test]
        fn slabs_are_final_and_the_ring_never_overwrites_what_lives(
            planes in 1usize..300, patch in 1usize..90, step in 0.1f64..=1.0,
            output in 1usize..400,
            feed_planes in 1usize..40, slab_planes in 1usize..6
        ) {
            let map = spread(planes, output);
            let grain = Grain { feed_planes, slab_planes };
            let plan = schedule([planes, 5, 7], [patch, 5, 4], step, &map, grain).unwrap();
            let mut volume: Vec<Option<usize>> = vec![None; plan.volume_planes];
            let mut fed = 0;
            // Which plane each slot of the ring holds, and whether it may be replaced.
            let mut slots: Vec<Option<usize>> = vec![None; plan.ring_planes];
            let (mut next_plane, mut next_output, mut kept) = (0, 0, None);
            let mut seen = 0;
            for step in &plan.steps {
                match step {
                    Step::Feed(planes) => {
                        prop_assert_eq!(planes.start, fed);
                        prop_assert!(planes.len() <= feed_planes);
                        fed = planes.end;
                        for plane in planes.clone() {
                            volume[plane % plan.volume_planes] = Some(plane);
                        }
                    }
                    Step::Tile(index) => {
                        prop_assert_eq!(*index, seen);
                        seen += 1;
                        let first = plan.tiles[*index].start[0];
                        for padded in first..first + patch {
                            let Some(plane) = padded
                                .checked_sub(plan.pad_before[0])
                                .filter(|&plane| plane < planes) else { continue };
                            prop_assert!(plane >= next_plane, "a tile touches a final plane");
                            prop_assert_eq!(volume[plane % plan.volume_planes], Some(plane));
                            let slot = &mut slots[plane % plan.ring_planes];
                            if let Some(held) = *slot {
                                let live = held >= next_plane || Some(held) == kept;
                                prop_assert!(held == plane || !live);
                            }
                            *slot = Some(plane);
                        }
                    }
                    Step::Resolve(slab) => {
                        prop_assert_eq!(slab.planes.start, next_plane);
                        prop_assert_eq!(slab.output.start, next_output);
                        prop_assert!(slab.planes.len() <= slab_planes);
                        for plane in slab.planes.clone() {
                            prop_assert_eq!(slots[plane % plan.ring_planes], Some(plane));
                        }
                        next_plane = slab.planes.end;
                        next_output = slab.output.end;
                        for plane in slab.output.clone() {
                            for needed in [map.low[plane] as usize, map.high[plane] as usize] {
                                prop_assert!(needed < next_plane);
                                prop_assert_eq!(slots[needed % plan.ring_planes], Some(needed));
                            }
                        }
                        kept = Some(next_plane - 1);
                    }
                }
            }
            prop_assert_eq!((next_plane, next_output, seen), (planes, output, plan.tiles.len()));
            prop_assert_eq!(fed, planes);
            prop_assert!(plan.volume_planes <= planes.min(patch + feed_planes - 1));
            prop_assert!(plan.ring_planes <= planes.min(patch + 1));
        }
    }

    const GRAIN: Grain = Grain { feed_planes: 16, slab_planes: 4 };

    #[test]
    fn runs_go_along_the_axis_that_keeps_least_alive() {
        assert_eq!(sweep([280, 273, 273], [128; 3]), [0, 1, 2]);
        assert_eq!(sweep([250, 273, 273], [128; 3]), [0, 1, 2]);
        assert_eq!(sweep([20, 400, 320], [16, 128, 128]), [1, 0, 2]);
        assert_eq!(sweep([100, 100, 700], [128; 3]), [2, 0, 1]);
    }

    #[test]
    fn small_volumes_are_padded_with_the_odd_voxel_at_the_end() {
        let plan = schedule([3, 8, 20], [8, 8, 8], 0.5, &spread(3, 3), GRAIN).unwrap();
        assert_eq!(plan.padded, [8, 8, 20]);
        assert_eq!(plan.pad_before, [2, 0, 0]);
        assert_eq!(plan.tiles.len(), 4);
        assert_eq!(plan.ring_planes, 3);
    }
}
