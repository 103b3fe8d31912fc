//! Whose arithmetic surrounds a network, and how grids change: what a recipe chooses from.

use serde::{Deserialize, Serialize};

/// Whose arithmetic surrounds a network. `docs/model-format.md` says where they differ.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Generation {
    /// nnU-Net 1.7: resamples, then normalises.
    #[serde(rename = "nnunet_v1")]
    V1,
    /// nnU-Net 2: normalises, then resamples.
    #[serde(rename = "nnunet_v2")]
    V2,
}

/// How values between voxels are found.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Interpolation {
    /// 0 nearest neighbour, 1 linear, 3 cubic B-spline.
    pub order: u8,
    /// Whether the axis of the thickest voxels goes by nearest neighbour.
    pub separate_axis: SeparateAxis,
}

/// Whether the axis of the thickest voxels goes by nearest neighbour.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SeparateAxis {
    /// If they are more than 3 times as thick as the thinnest.
    Auto,
    /// If there is one such axis.
    Always,
    /// No.
    Never,
}

impl Interpolation {
    /// The axis that goes by nearest neighbour: the one of the thickest
    /// voxels, if there is just one. With [`SeparateAxis::Auto`], `decisive` is the spacing that is
    /// looked at first, and `other` if it is not anisotropic.
    pub fn separate_axis(self, decisive: [f64; 3], other: [f64; 3]) -> Option<usize> {
        match self.separate_axis {
            SeparateAxis::Never => None,
            SeparateAxis::Always => thickest(decisive),
            SeparateAxis::Auto => {
                let anisotropic = |spacing: &[f64; 3]| largest(spacing) / smallest(spacing) > 3.0;
                [decisive, other].into_iter().find(anisotropic).and_then(thickest)
            }
        }
    }
}

fn largest(spacing: &[f64; 3]) -> f64 {
    spacing.iter().copied().fold(f64::MIN, f64::max)
}

fn smallest(spacing: &[f64; 3]) -> f64 {
    spacing.iter().copied().fold(f64::MAX, f64::min)
}

/// The axis of the largest spacing, if there is just one.
fn thickest(spacing: [f64; 3]) -> Option<usize> {
    let mut axes = (0..3).filter(|&axis| largest(&spacing) / spacing[axis] == 1.0);
    match (axes.next(), axes.next()) {
        (Some(axis), None) => Some(axis),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anisotropic_axes_are_found() {
        let isotropic = [1.0; 3];
        let by = |rule, first, second| {
            Interpolation { order: 1, separate_axis: rule }.separate_axis(first, second)
        };
        let auto = |first, second| by(SeparateAxis::Auto, first, second);
        assert_eq!(auto([5.0, 0.8, 0.8], isotropic), Some(0));
        assert_eq!(auto([3.0, 1.0, 1.0], isotropic), None);
        assert_eq!(auto([1.0, 5.0, 5.0], isotropic), None);
        assert_eq!(auto(isotropic, [1.0, 1.0, 4.0]), Some(2));
        assert_eq!(auto([1.0, 9.0, 1.0], [1.0, 1.0, 4.0]), Some(1));
        assert_eq!(by(SeparateAxis::Never, [5.0, 0.8, 0.8], isotropic), None);
        assert_eq!(by(SeparateAxis::Always, [1.1, 1.0, 1.0], [1.0, 1.0, 4.0]), Some(0));
    }
}
