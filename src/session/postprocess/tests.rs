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

/// A component's fate.
#[derive(Clone, Copy)]
struct Rule {
    /// The largest of a kind stay.
    largest: bool,
    /// Those of so many voxels stay.
    stays: f64,
    diagonal: bool,
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

/// What is available: enough for the table of a stream of planes, or nothing, so that the map is
/// flooded.
fn available() -> impl Strategy<Value = u64> {
    prop_oneof![Just(u64::MAX), Just(0)]
}

proptest! {
    #[test]
    fn the_models_labels_count_as_one(
        (dims, labels) in any_map(), diagonal: bool,
        smallest in prop_oneof![Just(None), Just(Some(3.0))], available in available()
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
        on(dims, available, |steps| steps.own(&step, &mut found)).unwrap();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn each_label_on_its_own(
        (dims, labels) in any_map(), diagonal: bool, wanted in 0usize..3, mm3 in 0u32..6,
        available in available()
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
            on(dims, available, |steps| steps.cleanup(std::slice::from_ref(&step), &mut wide)).unwrap();
            let mut found = labels.clone();
            on(dims, available, |steps| steps.cleanup(&[step], &mut found)).unwrap();
            prop_assert!(wide.iter().zip(&found).all(|(&a, &b)| a == u16::from(b)));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn holes_are_what_flooding_finds(
        (dims, labels) in prop_oneof![maps([2, 8, 1, 0]), maps([1, 20, 0, 1]), maps([4, 3, 0, 0])],
        every: bool, available in available()
    ) {
        let expected = filled_holes(&labels, dims, if every { &[1, 2, 3] } else { &[1] });
        let step = Cleanup::FillHoles { labels: (!every).then(|| vec![1]) };
        let mut found = labels;
        on(dims, available, |steps| steps.cleanup(&[step], &mut found)).unwrap();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn smallest_sizes_of_several_labels_take_one_sweep(
        (dims, labels) in any_map(), diagonal: bool, mm3 in [0u32..6, 0u32..6, 0u32..6]
    ) {
        let connectivity = if diagonal { 26 } else { 6 };
        let step = |labels, mm3: u32| Cleanup::MinimumSize { labels, connectivity, mm3: mm3.into() };
        let steps = [
            step(Some(vec![1]), mm3[0]), step(Some(vec![2, 3]), mm3[1]), step(None, mm3[2])
        ];
        prop_assert_eq!(steps.chunk_by(one_sweep).count(), 1);
        let mut one_by_one = labels.clone();
        for step in &steps {
            let step = std::slice::from_ref(step);
            on(dims, u64::MAX, |steps| steps.cleanup(step, &mut one_by_one)).unwrap();
        }
        let mut together = labels;
        on(dims, u64::MAX, |each| each.cleanup(&steps, &mut together)).unwrap();
        prop_assert_eq!(together, one_by_one);
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
        on(dims, u64::MAX, |steps| steps.cleanup(&[step], &mut labels)).unwrap();
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
fn ragged_structures_are_not_flooded() {
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
    let kinds = kinds::<u8>(None, |value| value as u16).unwrap();
    for diagonal in [false, true] {
        let mut sweep = Sweep {
            dims,
            diagonal,
            kinds: &kinds,
            available_bytes: flood::bytes(dims),
            check: &mut || Ok(()),
        };
        assert!(sweep.find(&ragged, |_, _, _: &Size| Size::default()).unwrap().is_some());
    }
}

#[test]
fn steps_that_differ_are_done_one_after_the_other() {
    let minimum = |connectivity| Cleanup::MinimumSize { labels: None, connectivity, mm3: 1.0 };
    let fill = Cleanup::FillHoles { labels: None };
    let largest = Cleanup::LargestComponent { labels: None, connectivity: 6 };
    let steps = [
        minimum(6),
        minimum(6),
        minimum(26),
        fill.clone(),
        fill,
        largest.clone(),
        largest,
        minimum(6),
    ];
    let lengths: Vec<usize> = steps.chunk_by(one_sweep).map(<[_]>::len).collect();
    assert_eq!(lengths, [2, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn a_sweep_can_be_stopped_at_every_plane() {
    let dims = [4, 3, 5];
    let labels: Vec<u8> = (0..60).map(|n| n % 3).collect();
    let step = Cleanup::LargestComponent { labels: None, connectivity: 26 };
    let mut calls = 0;
    let mut stopped_at = |last: Option<usize>, available_bytes| {
        calls = 0;
        let mut check = || {
            calls += 1;
            if Some(calls) == last { Err(Error::Cancelled) } else { Ok(()) }
        };
        let mut steps = Steps { dims, voxel_mm3: 1.0, available_bytes, check: &mut check };
        let done = steps.cleanup(std::slice::from_ref(&step), &mut labels.clone());
        (done.is_ok(), calls)
    };
    for available in [u64::MAX, 0] {
        let (done, all) = stopped_at(None, available);
        assert!(done && all >= 3 * dims[2], "{all} checks");
        for last in 1..=all {
            assert_eq!(stopped_at(Some(last), available), (false, last));
        }
    }
}
