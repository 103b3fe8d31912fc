//! Where voxels lie in space.

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
