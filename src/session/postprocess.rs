//! What is done to a label map at the end: components that are kept or dropped.
//!
//! A component is found as runs of voxels along i that touch; what is kept in memory are runs,
//! not voxels.

use super::LabelMap;
use crate::base::Result;
use crate::base::error::reserved;
use crate::model::{Package, Postprocessing};
use crate::volume::VolumeView;

/// Voxels `start..end` of a line, and a run of the same component; a component's first run names
/// itself.
struct Run {
    start: u32,
    end: u32,
    parent: usize,
}

/// Bytes that [`apply`] allocates, at most: runs of two voxels and a gap.
pub(super) fn bytes(package: &Package, dims: [usize; 3]) -> u64 {
    if package.postprocessing.is_empty() {
        return 0;
    }
    let lines = (dims[1] * dims[2]) as u64;
    let runs = lines * (dims[0] as u64).div_ceil(2);
    8 * lines + runs * (size_of::<Run>() as u64 + 8)
}

/// Applies one step to the labels of `volume`'s grid.
///
/// # Errors
/// [`crate::Error::Memory`] if the machine's memory runs out.
pub(super) fn apply(
    step: &Postprocessing,
    labels: &mut LabelMap,
    volume: &VolumeView,
) -> Result<()> {
    let Postprocessing::LargestComponent { labels: wanted, connectivity, minimum_mm3 } = step;
    let voxel_mm3: f64 = volume.geometry.spacing.iter().product();
    let stays = minimum_mm3.map_or(f64::INFINITY, |mm3| mm3 / voxel_mm3);
    let diagonal = *connectivity == 26;
    match labels {
        LabelMap::U8(labels) => keep_largest(labels, volume.dims, wanted, diagonal, stays),
        LabelMap::U16(labels) => keep_largest(labels, volume.dims, wanted, diagonal, stays),
    }
}

/// Of the voxels with a wanted label, keeps the largest component, all that are as large, and
/// those of at least `stays` voxels.
fn keep_largest<T: Copy + Default + Into<u32>>(
    labels: &mut [T],
    dims: [usize; 3],
    wanted: &[u32],
    diagonal: bool,
    stays: f64,
) -> Result<()> {
    let [columns, rows, planes] = dims;
    let inside = |label: T| wanted.contains(&label.into());
    // The first run of each line.
    let mut lines: Vec<usize> = reserved("lines of components", rows * planes + 1)?;
    let mut runs: Vec<Run> = Vec::new();
    for line in labels.chunks_exact(columns) {
        lines.push(runs.len());
        let mut at = 0;
        while let Some(start) = line[at..].iter().position(|&label| inside(label)) {
            let start = at + start;
            let length = line[start..].iter().position(|&label| !inside(label));
            at = length.map_or(columns, |length| start + length);
            let parent = runs.len();
            runs.push(Run { start: start as u32, end: at as u32, parent });
        }
    }
    lines.push(runs.len());
    for plane in 0..planes {
        for row in 0..rows {
            // The lines before this one that touch it.
            for (dplane, drow) in [(0, -1), (-1, 0), (-1, -1), (-1, 1)] {
                let (plane_before, row_before) =
                    (plane.checked_add_signed(dplane), row.checked_add_signed(drow));
                let (Some(plane_before), Some(row_before)) = (plane_before, row_before) else {
                    continue;
                };
                if row_before < rows && (diagonal || dplane == 0 || drow == 0) {
                    let (here, before) = (plane * rows + row, plane_before * rows + row_before);
                    let pair = [lines[before]..lines[before + 1], lines[here]..lines[here + 1]];
                    join(&mut runs, pair, diagonal);
                }
            }
        }
    }
    let mut sizes: Vec<u64> = reserved("sizes of components", runs.len())?;
    sizes.resize(runs.len(), 0);
    for run in 0..runs.len() {
        let first = root(&mut runs, run);
        sizes[first] += u64::from(runs[run].end - runs[run].start);
    }
    let largest = sizes.iter().copied().max().unwrap_or(0);
    for (line, labels) in labels.chunks_exact_mut(columns).enumerate() {
        for run in lines[line]..lines[line + 1] {
            let size = sizes[root(&mut runs, run)];
            if size < largest && (size as f64) < stays {
                labels[runs[run].start as usize..runs[run].end as usize].fill(T::default());
            }
        }
    }
    Ok(())
}

/// Joins the runs of two lines that touch.
fn join(runs: &mut [Run], [before, here]: [std::ops::Range<usize>; 2], diagonal: bool) {
    let reach = u32::from(diagonal);
    let (mut a, mut b) = (before.start, here.start);
    while a < before.end && b < here.end {
        if runs[a].start < runs[b].end + reach && runs[b].start < runs[a].end + reach {
            let (first, second) = (root(runs, a), root(runs, b));
            runs[first.max(second)].parent = first.min(second);
        }
        if runs[a].end < runs[b].end {
            a += 1;
        } else {
            b += 1;
        }
    }
}

/// A component's first run.
fn root(runs: &mut [Run], mut run: usize) -> usize {
    while runs[run].parent != run {
        let above = runs[run].parent;
        runs[run].parent = runs[above].parent;
        run = above;
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Components by flooding voxel after voxel.
    fn flooded(
        labels: &[u8],
        dims: [usize; 3],
        wanted: &[u32],
        diagonal: bool,
        stays: f64,
    ) -> Vec<u8> {
        let [ni, nj, nk] = dims;
        let mut component = vec![usize::MAX; labels.len()];
        let mut sizes: Vec<usize> = Vec::new();
        let inside = |voxel: usize| wanted.contains(&u32::from(labels[voxel]));
        for seed in 0..labels.len() {
            if !inside(seed) || component[seed] != usize::MAX {
                continue;
            }
            let mut front = vec![seed];
            component[seed] = sizes.len();
            sizes.push(0);
            while let Some(voxel) = front.pop() {
                sizes[component[seed]] += 1;
                let at = [voxel % ni, voxel / ni % nj, voxel / ni / nj];
                for step in 0..27 {
                    let step = [step % 3, step / 3 % 3, step / 9];
                    let moved = step.iter().filter(|&&by| by != 1).count();
                    if moved == 0 || (!diagonal && moved > 1) {
                        continue;
                    }
                    let to: [usize; 3] =
                        std::array::from_fn(|axis| (at[axis] + step[axis]).wrapping_sub(1));
                    if to[0] < ni && to[1] < nj && to[2] < nk {
                        let next = (to[2] * nj + to[1]) * ni + to[0];
                        if inside(next) && component[next] == usize::MAX {
                            component[next] = component[seed];
                            front.push(next);
                        }
                    }
                }
            }
        }
        let largest = sizes.iter().copied().max().unwrap_or(0);
        let drop = |size: usize| size < largest && (size as f64) < stays;
        labels
            .iter()
            .zip(&component)
            .map(|(&label, &of)| if of != usize::MAX && drop(sizes[of]) { 0 } else { label })
            .collect()
    }

    proptest! {
        #[test]
        fn runs_find_what_flooding_finds(
            dims in [1usize..9, 1usize..7, 1usize..6], seed in proptest::collection::vec(0u8..4, 400),
            diagonal: bool, stays in prop_oneof![Just(f64::INFINITY), Just(3.0)]
        ) {
            let voxels: usize = dims.iter().product();
            let mut labels = seed[..voxels.min(400)].to_vec();
            labels.resize(voxels, 0);
            let expected = flooded(&labels, dims, &[1, 3], diagonal, stays);
            keep_largest(&mut labels, dims, &[1, 3], diagonal, stays).unwrap();
            prop_assert_eq!(labels, expected);
        }
    }
}
