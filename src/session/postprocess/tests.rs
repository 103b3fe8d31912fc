//! Components by runs against flooding voxel after voxel.

use proptest::prelude::*;

use super::*;

/// The face neighbours of a voxel, or with `diagonal` all 26, that lie in the volume.
fn neighbours(voxel: usize, [ni, nj, nk]: [usize; 3], diagonal: bool) -> Vec<usize> {
    let at = [voxel % ni, voxel / ni % nj, voxel / ni / nj];
    let mut found = Vec::new();
    for step in 0..27 {
        let step = [step % 3, step / 3 % 3, step / 9];
        let moved = step.iter().filter(|&&by| by != 1).count();
        let to: [usize; 3] = std::array::from_fn(|axis| (at[axis] + step[axis]).wrapping_sub(1));
        let inside = to[0] < ni && to[1] < nj && to[2] < nk;
        if inside && moved > 0 && (diagonal || moved == 1) {
            found.push((to[2] * nj + to[1]) * ni + to[0]);
        }
    }
    found
}

/// The voxels of each component of equal kinds above 0.
fn flooded(kinds: &[u32], dims: [usize; 3], diagonal: bool) -> Vec<Vec<usize>> {
    let mut seen = vec![false; kinds.len()];
    let mut components = Vec::new();
    for seed in 0..kinds.len() {
        if kinds[seed] == 0 || seen[seed] {
            continue;
        }
        let mut component = vec![seed];
        seen[seed] = true;
        let mut next = 0;
        while next < component.len() {
            for near in neighbours(component[next], dims, diagonal) {
                if kinds[near] == kinds[seed] && !seen[near] {
                    seen[near] = true;
                    component.push(near);
                }
            }
            next += 1;
        }
        components.push(component);
    }
    components
}

/// Drops components of equal kinds as a rule says.
fn dropped(labels: &[u8], kinds: &[u32], dims: [usize; 3], rule: Rule) -> Vec<u8> {
    let components = flooded(kinds, dims, rule.diagonal);
    let mut result = labels.to_vec();
    for component in &components {
        let kind = kinds[component[0]];
        let alike = components.iter().filter(|other| kinds[other[0]] == kind);
        let largest = alike.map(Vec::len).max() == Some(component.len());
        if !(rule.largest && largest) && (component.len() as f64) < rule.stays {
            component.iter().for_each(|&voxel| result[voxel] = 0);
        }
    }
    result
}

/// Fills holes of the wanted labels.
fn filled_holes(labels: &[u8], dims: [usize; 3], wanted: &[u8]) -> Vec<u8> {
    let [ni, nj, nk] = dims;
    let background: Vec<u32> = labels.iter().map(|&label| u32::from(label == 0)).collect();
    let border = |voxel: usize| {
        let at = [voxel % ni, voxel / ni % nj, voxel / ni / nj];
        (0..3).any(|axis| at[axis] == 0 || at[axis] + 1 == dims[axis])
    };
    assert_eq!(labels.len(), ni * nj * nk);
    let mut result = labels.to_vec();
    for hole in flooded(&background, dims, false) {
        let mut around: Vec<u8> = hole
            .iter()
            .flat_map(|&voxel| neighbours(voxel, dims, false))
            .map(|near| labels[near])
            .filter(|&label| label != 0)
            .collect();
        around.sort_unstable();
        around.dedup();
        let closed = !hole.iter().any(|&voxel| border(voxel));
        if let (true, [label]) = (closed, &around[..])
            && wanted.contains(label)
        {
            hole.iter().for_each(|&voxel| result[voxel] = *label);
        }
    }
    result
}

/// Runs `body` on a grid of voxels of 1 mm^3 with as much memory as `available_bytes`.
fn on<R>(dims: [usize; 3], available_bytes: u64, body: impl FnOnce(&mut Steps) -> R) -> R {
    body(&mut Steps { dims, voxel_mm3: 1.0, available_bytes, check: &mut || Ok(()) })
}

/// Extents and labels below 4, in proportions of their own.
fn maps(most: [u32; 4]) -> impl Strategy<Value = ([usize; 3], Vec<u8>)> {
    let label = prop_oneof![
        most[0] => Just(0u8), most[1] => Just(1u8), most[2] => Just(2u8), most[3] => Just(3u8)
    ];
    ([1usize..24, 1usize..8, 1usize..7], proptest::collection::vec(label, 23 * 7 * 6)).prop_map(
        |(dims, mut labels)| {
            labels.truncate(dims.iter().product());
            (dims, labels)
        },
    )
}

fn any_map() -> impl Strategy<Value = ([usize; 3], Vec<u8>)> {
    // Sparse, dense, and few kinds: components of a few voxels, and of most.
    prop_oneof![maps([6, 2, 1, 1]), maps([3, 3, 3, 3]), maps([8, 1, 0, 1]), maps([1, 8, 1, 0])]
}

proptest! {
    #[test]
    fn the_models_labels_count_as_one(
        (dims, labels) in any_map(), diagonal: bool, smallest in prop_oneof![Just(None), Just(Some(3.0))]
    ) {
        let kinds: Vec<u32> = labels.iter().map(|label| u32::from([1, 3].contains(label))).collect();
        let rule = Rule { largest: true, stays: smallest.unwrap_or(f64::INFINITY), diagonal };
        let expected = dropped(&labels, &kinds, dims, rule);
        let connectivity = if diagonal { 26 } else { 6 };
        let labels_of_step = vec![1, 3];
        let step = Postprocessing::LargestComponent {
            labels: labels_of_step, connectivity, minimum_mm3: smallest
        };
        let mut found = labels.clone();
        on(dims, u64::MAX, |steps| steps.own(&step, &mut found)).unwrap();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn each_label_on_its_own(
        (dims, labels) in any_map(), diagonal: bool, wanted in 0usize..3, mm3 in 0u32..6
    ) {
        let wanted = [None, Some(vec![2, 3]), Some(vec![1])][wanted].clone();
        let of = |label: u8| wanted.as_ref().is_none_or(|all| all.contains(&u32::from(label)));
        let kinds: Vec<u32> =
            labels.iter().map(|&label| if of(label) { label.into() } else { 0 }).collect();
        let connectivity = if diagonal { 26 } else { 6 };
        let steps = [
            (
                Cleanup::LargestComponent { labels: wanted.clone(), connectivity },
                Rule { largest: true, stays: f64::INFINITY, diagonal },
            ),
            (
                Cleanup::MinimumSize { labels: wanted.clone(), connectivity, mm3: mm3.into() },
                Rule { largest: false, stays: mm3.into(), diagonal },
            ),
        ];
        for (step, rule) in steps {
            let expected = dropped(&labels, &kinds, dims, rule);
            // Wide values go the same way.
            let mut wide: Vec<u16> = labels.iter().map(|&label| label.into()).collect();
            on(dims, u64::MAX, |steps| steps.cleanup(&step, &mut wide)).unwrap();
            let mut found = labels.clone();
            on(dims, u64::MAX, |steps| steps.cleanup(&step, &mut found)).unwrap();
            prop_assert!(wide.iter().zip(&found).all(|(&a, &b)| a == u16::from(b)));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn holes_are_what_flooding_finds(
        (dims, labels) in prop_oneof![maps([2, 8, 1, 0]), maps([1, 20, 0, 1]), maps([4, 3, 0, 0])],
        every: bool
    ) {
        let expected = filled_holes(&labels, dims, if every { &[1, 2, 3] } else { &[1] });
        let step = Cleanup::FillHoles { labels: (!every).then(|| vec![1]) };
        let mut found = labels;
        on(dims, u64::MAX, |steps| steps.cleanup(&step, &mut found)).unwrap();
        prop_assert_eq!(found, expected);
    }
}

/// A ball of a label.
fn ball(labels: &mut [u8], dims: [usize; 3], centre: [usize; 3], radius: usize, label: u8) {
    for (voxel, value) in labels.iter_mut().enumerate() {
        let at = [voxel % dims[0], voxel / dims[0] % dims[1], voxel / dims[0] / dims[1]];
        let squares = (0..3).map(|axis| at[axis].abs_diff(centre[axis]).pow(2));
        if squares.sum::<usize>() <= radius * radius {
            *value = label;
        }
    }
}

#[test]
fn only_holes_inside_one_label_are_filled() {
    let dims = [40, 20, 20];
    let mut labels = vec![0; 40 * 20 * 20];
    ball(&mut labels, dims, [9, 9, 9], 8, 1);
    ball(&mut labels, dims, [9, 9, 9], 3, 0);
    ball(&mut labels, dims, [29, 9, 9], 8, 2);
    ball(&mut labels, dims, [29, 9, 9], 3, 0);
    let at = |i: usize, j: usize, k: usize| (k * 20 + j) * 40 + i;
    let fill = |labels: &[u8], wanted: Option<Vec<u32>>| {
        let mut labels = labels.to_vec();
        let step = Cleanup::FillHoles { labels: wanted };
        on(dims, u64::MAX, |steps| steps.cleanup(&step, &mut labels)).unwrap();
        [labels[at(9, 9, 9)], labels[at(29, 9, 9)], labels[at(0, 0, 0)]]
    };
    assert_eq!(fill(&labels, None), [1, 2, 0]);
    assert_eq!(fill(&labels, Some(vec![2])), [0, 2, 0]);
    // Another label at a single face of the hole: it is not in one label.
    let mut island = labels.clone();
    island[at(9, 9, 12)] = 2;
    assert_eq!(fill(&island, None), [0, 2, 0]);
    // A channel to the outside; one that only touches by an edge is none.
    let mut open = labels.clone();
    (0..9).for_each(|i| open[at(i, 9, 9)] = 0);
    assert_eq!(fill(&open, None), [0, 2, 0]);
    let mut edge = labels;
    (9..20).for_each(|k| edge[at(10, 10, k)] = 0);
    let kept = [at(10, 10, 11), at(10, 10, 12), at(9, 10, 12), at(10, 9, 12)];
    kept.iter().for_each(|&voxel| edge[voxel] = 1);
    assert_eq!(fill(&edge, None)[0], 1);
}

#[test]
fn ragged_structures_fit_the_allowance() {
    let dims = [120, 100, 90];
    let mut labels = vec![0; 120 * 100 * 90];
    for label in 1..=60 {
        let place = |prime: usize, most: usize| label as usize * prime % most;
        let centre = [place(37, 120), place(53, 100), place(71, 90)];
        ball(&mut labels, dims, centre, 6 + place(13, 12), label);
    }
    // A fifth of the voxels of the surfaces is missing.
    let ragged: Vec<u8> = (0..labels.len())
        .map(|voxel| {
            let near = neighbours(voxel, dims, false);
            let surface = near.iter().any(|&other| labels[other] != labels[voxel]);
            if surface && voxel * 7919 % 5 == 0 { 0 } else { labels[voxel] }
        })
        .collect();
    let steps = [
        Cleanup::LargestComponent { labels: None, connectivity: 26 },
        Cleanup::MinimumSize { labels: None, connectivity: 6, mm3: 9.0 },
        Cleanup::FillHoles { labels: None },
    ];
    for step in steps {
        on(dims, allowance(dims), |steps| steps.cleanup(&step, &mut ragged.clone())).unwrap();
    }
}

#[test]
fn noise_needs_the_bytes_that_are_named() {
    let dims = [32, 32, 32];
    // Every second voxel, by faces: each is a component and a run.
    let mut noise: Vec<u8> =
        (0..1 << 15).map(|n: u32| ((n ^ n >> 5 ^ n >> 10) & 1) as u8).collect();
    let step = Cleanup::MinimumSize { labels: None, connectivity: 6, mm3: 2.0 };
    let mut run = |available| on(dims, available, |steps| steps.cleanup(&step, &mut noise));
    let components = Components::<Size>::BYTES << 14;
    let runs = 2 * RUN_BYTES * 512 + row_bytes(32);
    match run(components + runs - 1).unwrap_err() {
        Error::Memory { needed_bytes, available_bytes, .. } => {
            assert_eq!(needed_bytes, components + runs);
            assert_eq!(available_bytes, components + runs - 1);
        }
        other => panic!("{other}"),
    }
    // Too little for the runs alone: enough for as many components as runs.
    let text = run(runs - 1).unwrap_err().to_string();
    assert!(text.contains(&format!("needs {} bytes", components + runs)), "{text}");
    run(components + runs).unwrap();
    assert!(noise.iter().all(|&label| label == 0));
}

#[test]
fn a_sweep_can_be_stopped_at_every_plane() {
    let dims = [4, 3, 5];
    let labels: Vec<u8> = (0..60).map(|n| n % 3).collect();
    let step = Cleanup::LargestComponent { labels: None, connectivity: 26 };
    let mut calls = 0;
    let mut stopped_at = |last: Option<usize>| {
        calls = 0;
        let mut check = || {
            calls += 1;
            if Some(calls) == last { Err(Error::Cancelled) } else { Ok(()) }
        };
        let mut steps =
            Steps { dims, voxel_mm3: 1.0, available_bytes: u64::MAX, check: &mut check };
        let done = steps.cleanup(&step, &mut labels.clone());
        (done.is_ok(), calls)
    };
    let (done, all) = stopped_at(None);
    assert!(done && all >= 3 * dims[2], "{all} checks");
    for last in 1..=all {
        assert_eq!(stopped_at(Some(last)), (false, last));
    }
}
