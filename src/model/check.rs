//! Whether a package's document makes sense. Limits are generous but keep sizes far from
//! overflow and memory from being reserved for nonsense.

use std::collections::HashSet;

use super::package::{Architecture, Normalization, Package};
use crate::base::{Error, Result};

/// Channels of a tensor: ten times what STU-Net-H has.
const MOST_CHANNELS: usize = 16_384;
/// Classes: label maps hold 16 bits.
const MOST_CLASSES: usize = 65_535;
/// Resolutions: a stride of 2 at each would already need patches of 2^11 voxels.
const MOST_RESOLUTIONS: usize = 12;
/// Residual blocks of a resolution.
const MOST_BLOCKS: usize = 64;
/// Voxels of a patch along one axis.
const MOST_PATCH: usize = 1_024;
/// Cross-validation folds.
const MOST_FOLDS: usize = 64;

/// Checks every field.
pub(super) fn package(origin: &str, package: &Package) -> Result<()> {
    let check = Check { origin };
    architecture(&check, &package.architecture)?;
    patch(&check, package)?;
    check.that(
        package.spacing.iter().all(|&mm| mm.is_finite() && (1e-4..=1e4).contains(&mm)),
        || format!("spacing is {:?} mm, expected values from 0.0001 to 10000", package.spacing),
    )?;
    let mut axes = package.axes.transpose;
    axes.sort_unstable();
    check.that(axes == [0, 1, 2], || {
        format!("axes.transpose is {:?}, expected an order of 0, 1, 2", package.axes.transpose)
    })?;
    let mirrors: HashSet<_> = package.mirror_axes.iter().collect();
    let distinct = mirrors.len() == package.mirror_axes.len();
    check.that(distinct && package.mirror_axes.iter().all(|&axis| axis < 3), || {
        format!("mirror_axes is {:?}, expected distinct axes of 0, 1, 2", package.mirror_axes)
    })?;
    folds(&check, &package.folds)?;
    normalization(&check, package)?;
    labels(&check, package)?;
    for file in &package.provenance.files {
        let digest = &file.sha256;
        check.that(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), || {
            format!("sha256 of {} is {digest:?}, expected 64 hexadecimal digits", file.name)
        })?;
    }
    check.that(!package.name.trim().is_empty(), || "name is empty".into())
}

struct Check<'a> {
    origin: &'a str,
}

impl Check<'_> {
    fn that(&self, holds: bool, reason: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { Err(Error::format(self.origin, reason())) }
    }
}

fn architecture(check: &Check, network: &Architecture) -> Result<()> {
    if network.family != "stunet" {
        return Err(Error::Unsupported(format!(
            "{}: architecture.family is {:?}; this voxtile runs \"stunet\"",
            check.origin, network.family
        )));
    }
    let stages = network.channels.len();
    check.that((2..=MOST_RESOLUTIONS).contains(&stages), || {
        format!("architecture.channels has {stages} entries, expected 2 to {MOST_RESOLUTIONS}")
    })?;
    for (name, found, expected) in [
        ("blocks", network.blocks.len(), stages),
        ("strides", network.strides.len(), stages - 1),
        ("kernels", network.kernels.len(), stages),
    ] {
        check.that(found == expected, || {
            format!(
                "architecture.{name} has {found} entries, expected {expected} for {stages} \
                 entries of channels"
            )
        })?;
    }
    let channels = network.channels.iter().chain([&network.input_channels]);
    for &channels in channels {
        check.that((1..=MOST_CHANNELS).contains(&channels), || {
            format!("architecture has {channels} channels, expected 1 to {MOST_CHANNELS}")
        })?;
    }
    for &blocks in &network.blocks {
        check.that((1..=MOST_BLOCKS).contains(&blocks), || {
            format!("architecture.blocks has {blocks}, expected 1 to {MOST_BLOCKS}")
        })?;
    }
    check.that((2..=MOST_CLASSES).contains(&network.classes), || {
        format!("architecture.classes is {}, expected 2 to {MOST_CLASSES}", network.classes)
    })?;
    check.that(network.strides.iter().flatten().all(|stride| [1, 2].contains(stride)), || {
        format!("architecture.strides is {:?}, expected 1 or 2 per axis", network.strides)
    })?;
    check.that(network.kernels.iter().all(|kernel| *kernel == [3, 3, 3]), || {
        format!("architecture.kernels is {:?}; STU-Net's are all [3, 3, 3]", network.kernels)
    })
}

fn patch(check: &Check, package: &Package) -> Result<()> {
    for axis in 0..3 {
        let extent = package.patch[axis];
        check.that((1..=MOST_PATCH).contains(&extent), || {
            format!("patch is {:?}, expected 1 to {MOST_PATCH} per axis", package.patch)
        })?;
        let factor: usize = package.architecture.strides.iter().map(|s| s[axis]).product();
        check.that(extent.is_multiple_of(factor), || {
            format!(
                "patch is {:?}, but the strides divide axis {axis} by {factor}, which {extent} \
                 is no multiple of",
                package.patch
            )
        })?;
    }
    Ok(())
}

fn folds(check: &Check, folds: &[String]) -> Result<()> {
    check.that((1..=MOST_FOLDS).contains(&folds.len()), || {
        format!("folds has {} entries, expected 1 to {MOST_FOLDS}", folds.len())
    })?;
    let distinct: HashSet<_> = folds.iter().collect();
    check.that(distinct.len() == folds.len(), || format!("folds has duplicates: {folds:?}"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    check.that(folds.iter().all(|fold| !fold.is_empty() && fold.chars().all(plain)), || {
        format!("folds is {folds:?}, expected names of letters, digits, _ and -")
    })
}

fn normalization(check: &Check, package: &Package) -> Result<()> {
    let (found, expected) = (package.normalization.len(), package.architecture.input_channels);
    check.that(found == expected, || {
        format!("normalization has {found} entries, expected {expected}, one per input channel")
    })?;
    for scheme in &package.normalization {
        if let Normalization::Ct { lower, upper, mean, deviation } = *scheme {
            let finite = [lower, upper, mean, deviation].iter().all(|value| value.is_finite());
            check.that(finite && lower < upper && deviation >= 0.0, || {
                format!(
                    "normalization has lower {lower}, upper {upper}, mean {mean}, deviation \
                     {deviation}; expected finite numbers, lower < upper, deviation >= 0"
                )
            })?;
        }
    }
    Ok(())
}

fn labels(check: &Check, package: &Package) -> Result<()> {
    let (found, expected) = (package.labels.len(), package.architecture.classes);
    check.that(found == expected, || {
        format!("labels has {found} entries, expected {expected}, one per class")
    })?;
    let mut names = HashSet::new();
    for (class, label) in package.labels.iter().enumerate() {
        check.that(label.value as usize == class, || {
            format!("label {:?} has value {}, expected {class}", label.name, label.value)
        })?;
        check.that(!label.name.trim().is_empty() && names.insert(&label.name), || {
            format!("label {class} has the name {:?}, which is empty or used twice", label.name)
        })?;
        let coded = label.code.as_ref().is_none_or(|code| {
            code.split_once(':')
                .is_some_and(|(scheme, code)| !scheme.is_empty() && !code.is_empty())
        });
        check.that(coded, || {
            format!("label {:?} has the code {:?}, expected SCHEME:CODE", label.name, label.code)
        })?;
        // A C string can't hold them.
        let text = [Some(&label.name), label.code.as_ref()];
        check.that(text.into_iter().flatten().all(|text| !text.contains('\0')), || {
            format!("label {class} has a zero byte in its name or code")
        })?;
    }
    Ok(())
}
