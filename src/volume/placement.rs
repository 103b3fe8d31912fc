//! How the network's axes run through the caller's volume.

use std::ops::Range;

use super::VolumeView;

/// Which voxel order a network was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// The order voxels are stored in, whatever the direction says (nnU-Net's `SimpleITKIO`).
    AsStored,
    /// i towards right, j towards anterior, k towards superior: axes are permuted and flipped to
    /// the closest such order (nnU-Net's `SimpleITKIOWithReorient`, `NibabelIOWithReorient`).
    Ras,
}

/// Where the cropped native grid, in network axes, lies in the caller's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Voxels of the caller's volume along i, j, k.
    pub dims: [usize; 3],
    /// Network axis `n` runs along the caller's axis `axes[n]` (0 = i).
    pub axes: [usize; 3],
    /// Whether network axis `n` runs against it.
    pub reversed: [bool; 3],
    /// The box that was kept, in voxels of the network's axes before cropping.
    pub crop: [Range<usize>; 3],
}

impl Placement {
    /// The whole volume: nnU-Net's arrays are `(k, j, i)`, then transposed.
    pub(super) fn whole(
        view: &VolumeView,
        orientation: Orientation,
        transpose: [usize; 3],
    ) -> Self {
        let runs = match orientation {
            Orientation::AsStored => [(0, false), (1, false), (2, false)],
            Orientation::Ras => view.geometry.closest_ras(),
        };
        let runs: [(usize, bool); 3] = std::array::from_fn(|axis| runs[2 - transpose[axis]]);
        Self {
            dims: view.dims,
            axes: runs.map(|(axis, _)| axis),
            reversed: runs.map(|(_, reversed)| reversed),
            crop: runs.map(|(axis, _)| 0..view.dims[axis]),
        }
    }

    /// Voxels of the cropped grid along the network's axes.
    pub fn shape(&self) -> [usize; 3] {
        self.crop.clone().map(|range| range.len())
    }

    /// Distance of voxels along the network's axes, in mm.
    pub(super) fn spacing(&self, view: &VolumeView) -> [f64; 3] {
        self.axes.map(|axis| view.geometry.spacing[axis])
    }

    /// The caller's index along network axis `axis` of a voxel of the cropped grid.
    pub(crate) fn caller_index(&self, axis: usize, voxel: usize) -> usize {
        let at = self.crop[axis].start + voxel;
        if self.reversed[axis] { self.dims[self.axes[axis]] - 1 - at } else { at }
    }

    /// Where a voxel of the cropped grid lies in the caller's dense `[k][j][i]` grid.
    pub(crate) fn caller_offset(&self, voxel: [usize; 3]) -> usize {
        let place = self.places();
        (0..3).map(|axis| place(axis, voxel[axis])).sum()
    }

    /// What each index of the cropped grid adds to a place in the caller's dense `[k][j][i]`
    /// grid: `(axis, voxel)`.
    fn places(&self) -> impl Fn(usize, usize) -> usize {
        let steps = [1, self.dims[0], self.dims[0] * self.dims[1]];
        move |axis, voxel| self.caller_index(axis, voxel) * steps[self.axes[axis]]
    }

    /// Writes those values of `planes` of the cropped grid, `[planes][shape1][shape2]`, that are
    /// `wanted` to their places in the caller's dense `[k][j][i]` grid, converted by `store`.
    ///
    /// # Panics
    /// If `values` or `target` do not have the sizes that follow from the placement.
    pub fn paste<V: Copy, T>(
        &self,
        planes: Range<usize>,
        values: &[V],
        target: &mut [T],
        wanted: impl Fn(&V) -> bool,
        store: impl Fn(V) -> T,
    ) {
        let [_, rows, columns] = self.shape();
        let place = self.places();
        assert_eq!(values.len(), planes.len() * rows * columns, "values of the planes");
        let lines = values.chunks_exact(columns);
        for (line, index) in lines.zip(0..) {
            let start = place(0, planes.start + index / rows) + place(1, index % rows);
            for (column, &value) in line.iter().enumerate().filter(|(_, value)| wanted(value)) {
                target[start + place(2, column)] = store(value);
            }
        }
    }
}
