//! The tiles of a mask, found in one pass, against looking at every voxel of every tile.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::Element;
use crate::volume::resample::axis_maps;
use crate::volume::{
    Generation, Geometry, Intensity, Interpolation, Orientation, Recipe, SeparateAxis, VolumeView,
};

/// Grids of a volume of `dims` voxels whose `placement` is given, with a network's grid of `shape`.
fn grids(placement: Placement, shape: [usize; 3], order: u8) -> Grids {
    let linear = Interpolation { order: 1, separate_axis: SeparateAxis::Never };
    let recipe = Recipe {
        orientation: Orientation::AsStored,
        transpose: [0, 1, 2],
        spacing: [None; 3],
        generation: Generation::V2,
        image: linear,
        scores: linear,
        intensity: vec![Intensity::None],
    };
    let voxels = vec![0u8; placement.dims.iter().product()];
    let geometry = Geometry::axis_aligned([1.0; 3]);
    let view = VolumeView::dense(&voxels, Element::U8, placement.dims, 1, geometry).unwrap();
    let mut grids = Grids::whole(&view, &recipe).unwrap();
    grids.output = axis_maps(shape, placement.shape(), order, None);
    (grids.placement, grids.shape) = (placement, shape);
    grids
}

/// Whether any voxel of the mask depends on the tile that starts at `start`.
fn touches(mask: &[u8], grids: &Grids, tiling: &Tiling, start: [usize; 3]) -> bool {
    let ranges: [Vec<usize>; 3] = std::array::from_fn(|axis| {
        let before = tiling.pad_before[axis];
        let covered = start[axis]..start[axis] + tiling.patch[axis];
        let map = &grids.output[axis];
        let depends = |voxel: &usize| {
            [map.low[*voxel], map.high[*voxel]]
                .iter()
                .any(|&from| covered.contains(&(from as usize + before)))
        };
        (0..map.low.len()).filter(depends).collect()
    });
    let [planes, rows, columns] = &ranges;
    planes.iter().any(|&a| {
        rows.iter()
            .any(|&b| columns.iter().any(|&c| mask[grids.placement.caller_offset([a, b, c])] != 0))
    })
}

/// A range that is not empty within `0..extent`.
fn within(extent: usize, first: usize, second: usize) -> Range<usize> {
    let (first, second) = (first % extent, second % extent);
    first.min(second)..first.max(second) + 1
}

proptest! {
    #[test]
    fn one_pass_finds_the_tiles_that_every_voxel_says(
        dims in [1usize..9, 1usize..9, 1usize..9], shape in [1usize..14, 1usize..14, 1usize..14],
        patch in [1usize..8, 1usize..8, 1usize..8], step in 0.05f64..=1.0, order in 0u8..2,
        turn in 0usize..6, reversed: [bool; 3], crop: [(usize, usize); 3], voxels in 0usize..6,
        places in proptest::collection::vec(any::<usize>(), 6), dense in 0u8..8
    ) {
        let axes = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]][turn];
        let crop = std::array::from_fn(|axis| {
            // Mostly all of it.
            match crop[axis].0 % 3 {
                0 => within(dims[axes[axis]], crop[axis].0, crop[axis].1),
                _ => 0..dims[axes[axis]],
            }
        });
        let grids = grids(Placement { dims, axes, reversed, crop }, shape, order);
        let mut mask = vec![u8::from(dense == 0); dims.iter().product()];
        for place in places.iter().take(voxels) {
            let place = place % mask.len();
            mask[place] = 7;
        }
        let tiling = Tiling::new(shape, patch, step);
        let [first, second, third] = &tiling.starts;
        let expected: Vec<bool> = first
            .iter()
            .flat_map(|&a| second.iter().map(move |&b| [a, b]))
            .flat_map(|[a, b]| third.iter().map(move |&c| [a, b, c]))
            .map(|start| touches(&mask, &grids, &tiling, start))
            .collect();
        let region = Region::Mask(Arc::from(mask));
        let mut check = || Ok(());
        let wanted = Wanted::new(Some(&region), &grids, &mut check).unwrap();
        let count = wanted.count(&tiling, &mut check).unwrap();
        prop_assert_eq!(count, expected.iter().filter(|active| **active).count());
        prop_assert_eq!(wanted.active(&tiling, &mut check).unwrap(), expected);
    }

    #[test]
    fn a_box_is_as_its_mask(
        dims in [1usize..9, 1usize..9, 1usize..9], shape in [1usize..14, 1usize..14, 1usize..14],
        patch in [1usize..8, 1usize..8, 1usize..8], step in 0.05f64..=1.0, reversed: [bool; 3],
        ends: [(usize, usize); 3]
    ) {
        let crop = [2, 1, 0].map(|caller| 0..dims[caller]);
        let grids = grids(Placement { dims, axes: [2, 1, 0], reversed, crop }, shape, 1);
        let ranges: [Range<usize>; 3] =
            std::array::from_fn(|axis| within(dims[axis], ends[axis].0, ends[axis].1));
        let inside = |voxel: usize| {
            let place = [voxel % dims[0], voxel / dims[0] % dims[1], voxel / dims[0] / dims[1]];
            u8::from((0..3).all(|axis| ranges[axis].contains(&place[axis])))
        };
        let mask: Vec<u8> = (0..dims.iter().product()).map(inside).collect();
        let tiling = Tiling::new(shape, patch, step);
        let mut check = || Ok(());
        let mut active = |region: Region| {
            let wanted = Wanted::new(Some(&region), &grids, &mut check).unwrap();
            wanted.active(&tiling, &mut check).unwrap()
        };
        prop_assert_eq!(active(Region::Box(ranges.clone())), active(Region::Mask(Arc::from(mask))));
    }
}

#[test]
fn a_mask_is_left_at_the_plane_at_which_it_is_to_stop() {
    let dims = [6, 5, 4];
    let crop = [0..4, 0..5, 0..6];
    let placement = Placement { dims, axes: [2, 1, 0], reversed: [false; 3], crop };
    let grids = grids(placement, [4, 5, 6], 1);
    let mut mask = vec![0u8; dims.iter().product()];
    (mask[0], mask[6 * 5 * 4 - 1]) = (1, 1);
    let region = Region::Mask(Arc::from(mask));
    let tiling = Tiling::new([4, 5, 6], [2; 3], 0.5);
    // Each plane is looked at twice: for the box around the mask, and for the tiles.
    for stop in 1..=9 {
        let mut calls = 0;
        let mut check = || {
            calls += 1;
            if calls == stop { Err(Error::Cancelled) } else { Ok(()) }
        };
        let found = Wanted::new(Some(&region), &grids, &mut check)
            .and_then(|wanted| wanted.count(&tiling, &mut check));
        match stop {
            9 => assert_eq!((found.unwrap(), calls), (2, 8)),
            _ => assert!(matches!(found, Err(Error::Cancelled)) && calls == stop, "call {stop}"),
        }
    }
}
