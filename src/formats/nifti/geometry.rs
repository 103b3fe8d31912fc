//! Where a NIfTI image lies in space, and how that is written down.
//!
//! A header says it up to three times: `pixdim`, a quaternion with offsets (qform) and a matrix
//! (sform), the latter two in RAS with a code that is 0 if unset. The rules here are those of
//! ITK 5.4's `NiftiImageIO`:
//!
//! * Spacing is always `pixdim`.
//! * With neither form set, the origin is 0 and the direction the identity (in LPS).
//! * The sform gives origin and direction if its axes are at right angles and the qform is unset,
//!   or its code is 1 (scanner), or it says the same as the qform; else the qform does.
//! * An sform whose axes are not at right angles, without a qform, is an error.
//! * Metres and micrometres become millimetres, offsets included.
//!
//! Three departures, each where ITK reads what the standard calls invalid: a `pixdim` of 0 is
//! refused (ITK takes 1 mm), the sign of a negative `pixdim` is ignored with a warning (ITK
//! mirrors the axis), and a quaternion longer than 1 is no qform (ITK shortens it).

use nifti::NiftiHeader;

use super::super::axes::{cross, dot, length, orthonormal, transpose};
use crate::volume::Geometry;

type Matrix = [[f64; 3]; 3];

/// Origin and unit axes in RAS, in the header's unit of length.
#[derive(Clone, Copy, Debug)]
struct Form {
    origin: [f64; 3],
    direction: Matrix,
    /// Lengths of the axes before they became unit vectors.
    lengths: Option<[f64; 3]>,
}

/// The image's geometry in mm and LPS, and what the user should know about it. The error is a
/// reason, without the file's name.
pub(super) fn from_header(header: &NiftiHeader) -> Result<(Geometry, Vec<String>), String> {
    let mut warnings = Vec::new();
    let flat = header.dim[0] < 3;
    let mut spacing = [1.0; 3];
    for (axis, spacing) in spacing.iter_mut().enumerate() {
        let found = f64::from(header.pixdim[axis + 1]);
        if axis == 2 && flat && !(found.is_finite() && found != 0.0) {
            continue;
        }
        if !found.is_finite() || found == 0.0 {
            return Err(format!("pixdim[{}] is {found}; expected a spacing above 0", axis + 1));
        }
        if found < 0.0 {
            warnings.push(format!("pixdim[{}] is {found}; its sign is ignored", axis + 1));
        }
        *spacing = found.abs();
    }
    let form = choose(header, spacing, flat, &mut warnings)?;
    let unit = match header.xyzt_units & 0o7 {
        1 => 1e3,
        3 => 1e-3,
        _ => 1.0,
    };
    let Some(Form { origin, direction, .. }) = form else {
        let direction = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let spacing = spacing.map(|s| s * unit);
        return Ok((Geometry { spacing, origin: [0.0; 3], direction }, warnings));
    };
    let geometry = Geometry {
        spacing: spacing.map(|s| s * unit),
        origin: flip_vector(origin.map(|o| o * unit)),
        direction: flip_rows(direction),
    };
    let finite = geometry.origin.iter().chain(geometry.direction.iter().flatten());
    if !finite.chain(&geometry.spacing).all(|value| value.is_finite()) {
        return Err("origin or direction is not finite".into());
    }
    Ok((geometry, warnings))
}

/// Which form counts; `None` if neither is set.
fn choose(
    header: &NiftiHeader,
    spacing: [f64; 3],
    flat: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Form>, String> {
    let (sform_set, qform_set) = (header.sform_code > 0, header.qform_code > 0);
    if !sform_set && !qform_set {
        return Ok(None);
    }
    let sform = if sform_set { sform(header, flat) } else { None };
    let qform = if qform_set { qform(header) } else { None };
    let chosen = match (sform, qform) {
        (Some(sform), Some(qform)) => {
            let similar = similar(&sform, &qform);
            let (chosen, name) =
                if header.sform_code == 1 || similar { (sform, "sform") } else { (qform, "qform") };
            if !similar {
                warnings.push(format!(
                    "sform and qform place the image differently; the {name} is taken, as ITK does"
                ));
            }
            chosen
        }
        (Some(sform), None) => sform,
        (None, Some(qform)) => {
            if sform_set {
                warnings.push(
                    "the sform's axes are not at right angles; the qform is taken, as ITK does"
                        .into(),
                );
            }
            qform
        }
        (None, None) if sform_set => {
            return Err("the sform's axes are not at right angles and there is no valid qform; \
                        resample the image to a grid without shear"
                .into());
        }
        (None, None) => return Err("the qform's quaternion is longer than 1".into()),
    };
    if let Some(lengths) = chosen.lengths {
        let differ = |axis: usize| (lengths[axis] - spacing[axis]).abs() > 1e-3 * spacing[axis];
        if (0..if flat { 2 } else { 3 }).any(differ) {
            warnings.push(format!(
                "pixdim says a spacing of {spacing:?}, the sform {lengths:?}; pixdim is taken, as \
                 ITK does"
            ));
        }
    }
    Ok(Some(chosen))
}

/// The matrix form, if its axes are at right angles. The third axis of a flat image may be
/// missing.
fn sform(header: &NiftiHeader, flat: bool) -> Option<Form> {
    let rows = [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from));
    let mut columns = [0, 1, 2].map(|axis| rows.map(|row| row[axis]));
    if flat && length(columns[2]) == 0.0 {
        columns[2] = cross(columns[0], columns[1]);
        let size = length(columns[2]);
        columns[2] = columns[2].map(|value| value / size);
    }
    let lengths = columns.map(length);
    for (column, length) in columns.iter_mut().zip(lengths) {
        *column = column.map(|value| value / length);
    }
    if !orthonormal(&columns) {
        return None;
    }
    let origin = rows.map(|row| row[3]);
    Some(Form { origin, direction: transpose(columns), lengths: Some(lengths) })
}

/// The quaternion form (method 2 of the NIfTI-1 standard).
fn qform(header: &NiftiHeader) -> Option<Form> {
    let [mut b, mut c, mut d] =
        [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from);
    let squares = b * b + c * c + d * d;
    // Rounding to single precision may lengthen it a little.
    let valid = squares <= 1.0 + 1e-3;
    if !valid {
        return None;
    }
    let mut a = (1.0 - squares).max(0.0).sqrt();
    if 1.0 - squares < 1e-7 {
        let size = squares.sqrt();
        (a, b, c, d) = (0.0, b / size, c / size, d / size);
    }
    let sign = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let direction = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c) * sign],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b) * sign],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), (a * a + d * d - b * b - c * c) * sign],
    ];
    let origin = [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from);
    Some(Form { origin, direction, lengths: None })
}

/// Whether both forms say the same, within the quaternion's precision: its first component is not
/// stored, and near a half turn that costs half of the digits of single precision.
fn similar(sform: &Form, qform: &Form) -> bool {
    let mut cosines = sform.direction.iter().flatten().zip(qform.direction.iter().flatten());
    let mut offsets = sform.origin.iter().zip(qform.origin);
    cosines.all(|(s, q)| (s - q).abs() <= 1e-3)
        && offsets.all(|(s, q)| (s - q).abs() <= 1e-3 + 1e-6 * s.abs())
}

/// What a header says about an image at `geometry`.
pub(super) struct Written {
    /// `pixdim[0]`: -1 if the axes are left-handed.
    pub(super) handedness: f32,
    /// `quatern_b`, `quatern_c`, `quatern_d`.
    pub(super) quaternion: [f32; 3],
    /// `qoffset_x`, `_y`, `_z`.
    pub(super) offset: [f32; 3],
    /// `srow_x`, `_y`, `_z`.
    pub(super) rows: [[f32; 4]; 3],
}

/// Both forms of a geometry.
pub(super) fn to_header(geometry: &Geometry) -> Written {
    let direction = flip_rows(geometry.direction);
    let origin = flip_vector(geometry.origin);
    let columns = transpose(direction);
    let left_handed = dot(cross(columns[0], columns[1]), columns[2]) < 0.0;
    let handedness = if left_handed { -1.0 } else { 1.0 };
    let mut rotation = direction;
    for row in &mut rotation {
        row[2] *= handedness;
    }
    let rows = [0, 1, 2].map(|row| {
        let value = |axis: usize| (direction[row][axis] * geometry.spacing[axis]) as f32;
        [value(0), value(1), value(2), origin[row] as f32]
    });
    Written {
        handedness: handedness as f32,
        quaternion: quaternion(&rotation).map(|value| value as f32),
        offset: origin.map(|value| value as f32),
        rows,
    }
}

/// b, c, d of the unit quaternion of a rotation, with a >= 0. Divides by the largest of the four
/// components (Shepperd, J. Guidance and Control 1, 1978), so it is accurate for every rotation.
fn quaternion(r: &Matrix) -> [f64; 3] {
    let trace = r[0][0] + r[1][1] + r[2][2];
    let squares = [
        1.0 + trace,
        1.0 + 2.0 * r[0][0] - trace,
        1.0 + 2.0 * r[1][1] - trace,
        1.0 + 2.0 * r[2][2] - trace,
    ];
    let largest = (0..4).fold(0, |best, n| if squares[n] > squares[best] { n } else { best });
    // Four times the products of the largest component with each component.
    let products = match largest {
        0 => [squares[0], r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]],
        1 => [r[2][1] - r[1][2], squares[1], r[0][1] + r[1][0], r[0][2] + r[2][0]],
        2 => [r[0][2] - r[2][0], r[0][1] + r[1][0], squares[2], r[1][2] + r[2][1]],
        _ => [r[1][0] - r[0][1], r[0][2] + r[2][0], r[1][2] + r[2][1], squares[3]],
    };
    let size = products.iter().map(|p| p * p).sum::<f64>().sqrt();
    let sign = if products[0] < 0.0 { -size } else { size };
    [products[1] / sign, products[2] / sign, products[3] / sign]
}

/// RAS to LPS and back. Adding 0 turns -0 into 0.
fn flip_vector([x, y, z]: [f64; 3]) -> [f64; 3] {
    [0.0 - x, 0.0 - y, z + 0.0]
}

fn flip_rows([x, y, z]: Matrix) -> Matrix {
    [x.map(|value| 0.0 - value), y.map(|value| 0.0 - value), z.map(|value| value + 0.0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header whose forms are those of `geometry`, with single codes as given.
    fn header(geometry: &Geometry, sform_code: i16, qform_code: i16) -> NiftiHeader {
        let written = to_header(geometry);
        let mut header = NiftiHeader { sform_code, qform_code, ..NiftiHeader::default() };
        header.dim = [3, 2, 2, 2, 1, 1, 1, 1];
        header.pixdim[0] = written.handedness;
        for axis in 0..3 {
            header.pixdim[axis + 1] = geometry.spacing[axis] as f32;
        }
        [header.quatern_b, header.quatern_c, header.quatern_d] = written.quaternion;
        [header.quatern_x, header.quatern_y, header.quatern_z] = written.offset;
        [header.srow_x, header.srow_y, header.srow_z] = written.rows;
        header
    }

    fn largest_difference(a: &Geometry, b: &Geometry) -> f64 {
        let values = |g: &Geometry| {
            let mut values = g.direction.concat();
            values.extend(g.spacing);
            values.extend(g.origin.map(|o| o / 1000.0));
            values
        };
        values(a).iter().zip(values(b)).fold(0.0, |most, (x, y)| most.max((x - y).abs()))
    }

    /// Rows of a rotation about x, y and z, with the last axis reversed if asked.
    fn rotation([x, y, z]: [f64; 3], reversed: bool) -> Matrix {
        let product = |a: Matrix, b: Matrix| a.map(|row| transpose(b).map(|c| dot(row, c)));
        let about_x = [[1.0, 0.0, 0.0], [0.0, x.cos(), -x.sin()], [0.0, x.sin(), x.cos()]];
        let about_y = [[y.cos(), 0.0, y.sin()], [0.0, 1.0, 0.0], [-y.sin(), 0.0, y.cos()]];
        let about_z = [[z.cos(), -z.sin(), 0.0], [z.sin(), z.cos(), 0.0], [0.0, 0.0, 1.0]];
        let sign = if reversed { -1.0 } else { 1.0 };
        product(about_z, product(about_y, about_x)).map(|[a, b, c]| [a, b, c * sign])
    }

    proptest! {
        #[test]
        fn both_forms_survive_the_way_through_a_header(
            angles in prop::array::uniform3(-3.2..3.2f64),
            reversed: bool,
            spacing in prop::array::uniform3(0.1..8.0f64),
            origin in prop::array::uniform3(-1000.0..1000.0f64),
        ) {
            let geometry = Geometry { spacing, origin, direction: rotation(angles, reversed) };
            for (sform_code, qform_code) in [(1, 0), (0, 1), (2, 1), (1, 1)] {
                let (read, warnings) =
                    from_header(&header(&geometry, sform_code, qform_code)).unwrap();
                let tolerance = if sform_code == 0 { 1e-3 } else { 2e-6 };
                let difference = largest_difference(&geometry, &read);
                prop_assert!(difference < tolerance, "{geometry:?} {read:?}");
                prop_assert_eq!(warnings, Vec::<String>::new());
            }
        }
    }

    fn along_axes(origin: f64) -> Geometry {
        let direction = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];
        Geometry { spacing: [2.0, 3.0, 4.0], origin: [origin; 3], direction }
    }

    #[test]
    fn the_sform_counts_if_it_is_the_scanners_and_the_qform_else() {
        let mut both = header(&along_axes(10.0), 1, 1);
        both.quatern_x = 77.0;
        assert_eq!(from_header(&both).unwrap().0.origin[0], 10.0);
        both.sform_code = 2;
        let (geometry, warnings) = from_header(&both).unwrap();
        assert_eq!(geometry.origin[0], -77.0);
        assert!(warnings[0].contains("the qform is taken"), "{warnings:?}");
        both.qform_code = 0;
        assert_eq!(from_header(&both).unwrap().0.origin[0], 10.0);
    }

    #[test]
    fn shear_needs_a_qform() {
        let mut sheared = header(&along_axes(10.0), 1, 1);
        sheared.srow_x[1] = 0.3;
        let (geometry, warnings) = from_header(&sheared).unwrap();
        assert_eq!(geometry, along_axes(10.0));
        assert_eq!(warnings.len(), 1);
        sheared.qform_code = 0;
        assert!(from_header(&sheared).unwrap_err().contains("right angles"));
    }

    #[test]
    fn neither_form_is_the_identity_in_lps() {
        let (geometry, _) = from_header(&header(&along_axes(10.0), 0, 0)).unwrap();
        assert_eq!(geometry.origin, [0.0; 3]);
        assert_eq!(geometry.direction, rotation([0.0; 3], false));
    }

    #[test]
    fn units_become_millimetres() {
        for (units, factor) in [(0, 1.0), (2 | 8, 1.0), (1, 1e3), (3, 1e-3)] {
            let mut scaled = header(&along_axes(10.0), 1, 1);
            scaled.xyzt_units = units;
            let (geometry, _) = from_header(&scaled).unwrap();
            assert_eq!(geometry.spacing[0], 2.0 * factor);
            assert_eq!(geometry.origin[0], 10.0 * factor);
        }
    }

    #[test]
    fn spacings_that_are_none_are_refused() {
        for bad in [0.0, f32::NAN, f32::INFINITY] {
            let mut header = header(&along_axes(0.0), 1, 1);
            header.pixdim[2] = bad;
            assert!(from_header(&header).unwrap_err().contains("pixdim[2]"));
        }
        let mut negative = header(&along_axes(0.0), 1, 1);
        negative.pixdim[1] = -2.0;
        let (geometry, warnings) = from_header(&negative).unwrap();
        assert_eq!((geometry, warnings.len()), (along_axes(0.0), 1));
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        let mut nan = header(&along_axes(0.0), 1, 0);
        nan.srow_z[0] = f32::NAN;
        assert!(from_header(&nan).is_err());
        let mut endless = header(&along_axes(0.0), 1, 0);
        endless.srow_z[3] = f32::INFINITY;
        assert!(from_header(&endless).unwrap_err().contains("finite"));
        let mut long = header(&along_axes(0.0), 0, 1);
        (long.quatern_b, long.quatern_c) = (0.9, 0.9);
        assert!(from_header(&long).unwrap_err().contains("quaternion"));
    }

    #[test]
    fn a_spacing_that_contradicts_the_sform_is_a_warning() {
        let mut contradicting = header(&along_axes(0.0), 2, 0);
        contradicting.pixdim[1] = 1.0;
        let (geometry, warnings) = from_header(&contradicting).unwrap();
        assert_eq!(geometry.spacing, [1.0, 3.0, 4.0]);
        assert!(warnings[0].contains("pixdim is taken"), "{warnings:?}");
    }
}
