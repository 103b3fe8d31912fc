//! The mask of a region.

use std::path::Path;
use std::sync::Arc;

use voxtile::Geometry;
use voxtile::base::error::reserved;
use voxtile::formats::{self, Image};

use super::failure::{Exit, Failure};

/// Reads a mask of the grid of `input`, `dims` voxels at `geometry`: 1 where it is not zero.
pub fn read(
    path: &Path,
    dims: [usize; 3],
    geometry: &Geometry,
    input: &Path,
) -> Result<Arc<[u8]>, Failure> {
    let failed = Failure::of(Exit::Input);
    let mask = formats::read(path).map_err(&failed)?;
    check(&mask, path, dims, geometry, input)?;
    let mut inside =
        reserved("the mask of the region", mask.dims.iter().product()).map_err(&failed)?;
    let view = mask.view();
    let mut line = vec![0.0; mask.dims[0]];
    for at in 0..mask.dims[1] * mask.dims[2] {
        view.read_line(at * mask.dims[0] * mask.element.size(), view.strides[0], &mut line);
        // What is not a number lies outside.
        inside.extend(line.iter().map(|value| u8::from(*value != 0.0 && !value.is_nan())));
    }
    drop(mask);
    Ok(inside.into())
}

/// Refuses a mask, voxels or not, whose grid is not that of `input`.
pub fn check(
    mask: &Image,
    path: &Path,
    dims: [usize; 3],
    geometry: &Geometry,
    input: &Path,
) -> Result<(), Failure> {
    let refused = |found: String, expected: String| {
        Err(Failure::new(
            Exit::Input,
            format!(
                "--region-mask: {} has {found}, but {} has {expected}; the mask must have the \
                 grid of the input",
                path.display(),
                input.display()
            ),
        ))
    };
    if mask.channels != 1 {
        return refused(format!("{} channels", mask.channels), "one grid".into());
    }
    let grid = |[i, j, k]: [usize; 3]| format!("{i} x {j} x {k} voxels");
    if mask.dims != dims {
        return refused(grid(mask.dims), grid(dims));
    }
    if apart(&mask.geometry, geometry, dims) {
        let text = |geometry: &Geometry| {
            let Geometry { spacing, origin, direction } = geometry;
            format!("spacing {spacing:?} mm, origin {origin:?} mm, direction {direction:?}")
        };
        return refused(text(&mask.geometry), text(geometry));
    }
    Ok(())
}

/// Whether two grids of `dims` voxels lie at different places: a corner of one is more than a tenth
/// of a voxel away from the other's. What headers in single precision lose is far less.
fn apart(first: &Geometry, second: &Geometry, dims: [usize; 3]) -> bool {
    let place = |geometry: &Geometry, corner: usize| -> [f64; 3] {
        std::array::from_fn(|world| {
            let along = (0..3).map(|axis| match corner >> axis & 1 {
                0 => 0.0,
                _ => {
                    let last = (dims[axis] - 1) as f64;
                    geometry.direction[world][axis] * geometry.spacing[axis] * last
                }
            });
            geometry.origin[world] + along.sum::<f64>()
        })
    };
    let smallest = first.spacing.into_iter().fold(f64::INFINITY, f64::min);
    (0..8).any(|corner| {
        let (a, b) = (place(first, corner), place(second, corner));
        (0..3).any(|world| (a[world] - b[world]).abs() > 0.1 * smallest)
    })
}
