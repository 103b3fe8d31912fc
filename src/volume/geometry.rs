//! Where voxels lie in space.

use crate::base::{Error, Result};

/// Position of a volume's voxels in millimetres, in LPS as ITK and DICOM have it: voxel
/// `(i, j, k)` lies at `origin + direction * diag(spacing) * (i, j, k)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Distance of neighbouring voxels along i, j, k, in mm.
    pub spacing: [f64; 3],
    /// Place of voxel (0, 0, 0), in mm, LPS.
    pub origin: [f64; 3],
    /// Row-major; column `a` is the unit vector along axis `a`.
    pub direction: [[f64; 3]; 3],
}

/// All orders of three axes.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

impl Geometry {
    /// No rotation, origin at zero.
    pub fn axis_aligned(spacing: [f64; 3]) -> Self {
        let direction = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        Self { spacing, origin: [0.0; 3], direction }
    }

    /// Determinant of the direction; 1 or -1 for perpendicular axes.
    pub fn determinant(&self) -> f64 {
        let [[a, b, c], [d, e, f], [g, h, i]] = self.direction;
        a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// [`Error::Argument`] for a spacing that is not positive, a value that is not finite, or a
    /// direction whose axes lie in one plane.
    pub fn validate(&self) -> Result<()> {
        if !self.spacing.iter().all(|mm| mm.is_finite() && *mm > 0.0) {
            return Err(Error::argument(format!(
                "spacing is {:?} mm, expected positive numbers",
                self.spacing
            )));
        }
        if !self.origin.iter().all(|mm| mm.is_finite()) {
            return Err(Error::argument(format!(
                "origin is {:?} mm, expected finite numbers",
                self.origin
            )));
        }
        let determinant = self.determinant();
        if !(determinant.is_finite() && determinant.abs() > 1e-3) {
            return Err(Error::argument(format!(
                "direction is {:?} with determinant {determinant}, expected unit vectors that \
                 span space",
                self.direction
            )));
        }
        Ok(())
    }

    /// For each of right, anterior, superior: the axis (0 = i) that runs closest to it, and
    /// whether it runs against it.
    pub fn closest_ras(&self) -> [(usize, bool); 3] {
        // LPS to RAS changes the sign of the first two rows.
        let ras = |world: usize, axis: usize| match world {
            2 => self.direction[2][axis],
            _ => -self.direction[world][axis],
        };
        let fit = |order: &[usize; 3]| -> f64 {
            (0..3).map(|world| ras(world, order[world]).abs()).sum()
        };
        let mut best = ORDERS[0];
        for order in &ORDERS[1..] {
            // Strictly better, so that ties keep the stored order.
            if fit(order) > fit(&best) + 1e-9 {
                best = *order;
            }
        }
        std::array::from_fn(|world| (best[world], ras(world, best[world]) < 0.0))
    }
}
