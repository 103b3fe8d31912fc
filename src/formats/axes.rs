//! Directions of axes.

use crate::volume::Geometry;

/// Axes count as being at right angles if the products of their unit vectors differ from those of
/// an orthonormal basis by less than this (ITK's tolerance).
const ORTHONORMAL_TOLERANCE: f64 = 1e-4;

pub(super) type Vector = [f64; 3];

pub(super) fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(super) fn length(a: Vector) -> f64 {
    dot(a, a).sqrt()
}

pub(super) fn cross(a: Vector, b: Vector) -> Vector {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(super) fn transpose(m: [Vector; 3]) -> [Vector; 3] {
    [0, 1, 2].map(|column| m.map(|row| row[column]))
}

/// Whether unit vectors are at right angles to each other. What is not a number is not.
pub(super) fn orthonormal(axes: &[Vector; 3]) -> bool {
    (0..3).all(|a| {
        (0..3).all(|b| {
            let expected = if a == b { 1.0 } else { 0.0 };
            (dot(axes[a], axes[b]) - expected).abs() <= ORTHONORMAL_TOLERANCE
        })
    })
}

/// The geometry of axes `unit`, in LPS, checked; and what the user should know about it. The error
/// is a reason, without the file's name.
pub(super) fn geometry(
    spacing: [f64; 3],
    origin: Vector,
    unit: [Vector; 3],
) -> Result<(Geometry, Option<String>), String> {
    let geometry = Geometry { spacing, origin, direction: transpose(unit) };
    geometry.validate().map_err(|error| error.to_string())?;
    let warning = (!orthonormal(&unit))
        .then(|| "its axes are not at right angles; it is segmented as if they were".to_string());
    Ok((geometry, warning))
}
