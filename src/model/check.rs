//! Whether a package's document makes sense. Limits are generous but keep sizes far from
//! overflow and memory from being reserved for nonsense.

use std::collections::HashSet;

use super::package::{
    Architecture, Family, Label, Normalization, Output, Package, Part, Postprocessing, Resampling,
};
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

/// Networks of a package.
const MOST_PARTS: usize = 64;

/// Checks every field.
pub(super) fn package(origin: &str, package: &Package) -> Result<()> {
    let check = Check { origin };
    check.that(!package.name.trim().is_empty(), || "name is empty".into())?;
    labels(&check, &package.labels)?;
    let found = package.parts.len();
    check.that((1..=MOST_PARTS).contains(&found), || {
        format!("parts has {found} entries, expected 1 to {MOST_PARTS}")
    })?;
    let mut names = HashSet::new();
    for (index, part) in package.parts.iter().enumerate() {
        let name = &part.name;
        check.that(is_plain(name) && names.insert(name), || {
            format!(
                "part {index} is named {name:?}, expected a distinct name of letters, digits, _ \
                 and -"
            )
        })?;
        let within = |error: Error| match error {
            Error::Format { what, reason } if found > 1 => {
                Error::Format { what, reason: format!("part {name}: {reason}") }
            }
            other => other,
        };
        self::part(&check, package, index).map_err(within)?;
    }
    for step in &package.postprocessing {
        postprocessing(&check, package, step)?;
    }
    for file in &package.provenance.files {
        let digest = &file.sha256;
        check.that(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), || {
            format!("sha256 of {} is {digest:?}, expected 64 hexadecimal digits", file.name)
        })?;
    }
    Ok(())
}

fn part(check: &Check, package: &Package, index: usize) -> Result<()> {
    let part = &package.parts[index];
    architecture(check, &part.architecture)?;
    patch(check, part)?;
    check.that(
        part.spacing.iter().flatten().all(|mm| mm.is_finite() && (1e-4..=1e4).contains(mm)),
        || {
            let spacing = part.spacing.map(|mm| mm.unwrap_or(f64::NAN));
            format!("spacing is {spacing:?} mm, expected values from 0.0001 to 10000")
        },
    )?;
    let mut axes = part.axes.transpose;
    axes.sort_unstable();
    check.that(axes == [0, 1, 2], || {
        format!("axes.transpose is {:?}, expected an order of 0, 1, 2", part.axes.transpose)
    })?;
    let mirrors: HashSet<_> = part.mirror_axes.iter().collect();
    let distinct = mirrors.len() == part.mirror_axes.len();
    check.that(distinct && part.mirror_axes.iter().all(|&axis| axis < 3), || {
        format!("mirror_axes is {:?}, expected distinct axes of 0, 1, 2", part.mirror_axes)
    })?;
    let Resampling { image, scores } = part.resampling;
    check.that([1, 3].contains(&image.order) && scores.order <= 1, || {
        format!(
            "resampling has order {} for the image and {} for the scores, expected 1 or 3, and 0 \
             or 1",
            image.order, scores.order
        )
    })?;
    folds(check, &part.folds)?;
    inputs(check, package, index)?;
    normalization(check, part)?;
    output(check, package, part)
}

/// Whether the input channels are those of the volume and of the part before.
fn inputs(check: &Check, package: &Package, index: usize) -> Result<()> {
    let part = &package.parts[index];
    let (found, expected) = (part.normalization.len(), package.channels());
    check.that(found == expected, || {
        format!("normalization has {found} entries, expected {expected} as the first part")
    })?;
    let mut channels = found;
    if let Some(name) = &part.previous {
        let previous = package.previous(index).filter(|&previous| previous < index);
        let Some(previous) = previous else {
            return check.that(false, || {
                format!("previous is {name:?}, expected the name of an earlier part")
            });
        };
        channels += package.parts[previous].output.structures().len();
    }
    let found = part.architecture.input_channels;
    check.that(found == channels, || {
        let asked = match part.previous {
            None => "one per channel of the volume",
            Some(_) => "one per channel of the volume and per label of the previous part",
        };
        format!("architecture.input_channels is {found}, expected {channels}, {asked}")
    })
}

/// Whether every row of the head has a label.
fn output(check: &Check, package: &Package, part: &Part) -> Result<()> {
    let values = part.output.values();
    let (found, expected) = (values.len(), part.architecture.classes);
    check.that(found == expected, || {
        format!("output has {found} values, expected {expected}, one per row of the head")
    })?;
    let background = matches!(part.output, Output::Classes(_));
    check.that(!background || values[0] == 0, || {
        format!("output begins with the value {}, expected 0, the background", values[0])
    })?;
    for (row, value) in values.iter().enumerate() {
        let known = package.labels.iter().any(|label| label.value == *value);
        let structure = *value != 0 || (background && row == 0);
        check.that(known && structure, || {
            format!("output {row} has the value {value}, expected that of a structure in labels")
        })?;
    }
    let distinct: HashSet<_> = values.iter().collect();
    check.that(distinct.len() == values.len(), || format!("output has duplicates: {values:?}"))
}

fn postprocessing(check: &Check, package: &Package, step: &Postprocessing) -> Result<()> {
    let Postprocessing::LargestComponent { labels, connectivity, minimum_mm3 } = step;
    let known = |value: &u32| *value != 0 && package.labels.iter().any(|l| l.value == *value);
    check.that(!labels.is_empty() && labels.iter().all(known), || {
        format!("postprocessing has the labels {labels:?}, expected values of structures")
    })?;
    check.that([6, 26].contains(connectivity), || {
        format!("postprocessing.connectivity is {connectivity}, expected 6 or 26")
    })?;
    check.that(minimum_mm3.is_none_or(|mm3| mm3.is_finite() && mm3 >= 0.0), || {
        format!("postprocessing.minimum_mm3 is {minimum_mm3:?}, expected a number from 0")
    })
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.chars().all(plain)
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
    let stages = network.channels.len();
    check.that((2..=MOST_RESOLUTIONS).contains(&stages), || {
        format!("architecture.channels has {stages} entries, expected 2 to {MOST_RESOLUTIONS}")
    })?;
    let decoder = network.decoder_blocks.as_ref();
    for (name, found, expected) in [
        ("blocks", network.blocks.len(), stages),
        ("strides", network.strides.len(), stages - 1),
        ("kernels", network.kernels.len(), stages),
        ("decoder_blocks", decoder.map_or(stages - 1, Vec::len), stages - 1),
    ] {
        check.that(found == expected, || {
            format!(
                "architecture.{name} has {found} entries, expected {expected} for {stages} \
                 entries of channels"
            )
        })?;
    }
    let channels = network.channels.iter().chain([&network.input_channels]);
    for &channels in channels.chain(&network.stem_channels) {
        check.that((1..=MOST_CHANNELS).contains(&channels), || {
            format!("architecture has {channels} channels, expected 1 to {MOST_CHANNELS}")
        })?;
    }
    for &blocks in network.blocks.iter().chain(decoder.into_iter().flatten()) {
        check.that((1..=MOST_BLOCKS).contains(&blocks), || {
            format!("architecture.blocks has {blocks}, expected 1 to {MOST_BLOCKS}")
        })?;
    }
    check.that((1..=MOST_CLASSES).contains(&network.classes), || {
        format!("architecture.classes is {}, expected 1 to {MOST_CLASSES}", network.classes)
    })?;
    check.that(network.strides.iter().flatten().all(|stride| [1, 2].contains(stride)), || {
        format!("architecture.strides is {:?}, expected 1 or 2 per axis", network.strides)
    })?;
    check.that(network.kernels.iter().flatten().all(|kernel| [1, 3].contains(kernel)), || {
        format!("architecture.kernels is {:?}, expected 1 or 3 per axis", network.kernels)
    })?;
    let stunet = network.family == Family::Stunet;
    check.that(!stunet || network.kernels.iter().all(|kernel| *kernel == [3, 3, 3]), || {
        format!("architecture.kernels is {:?}; STU-Net's are all [3, 3, 3]", network.kernels)
    })?;
    let residual = network.family == Family::ResidualEncoderUnet;
    check.that(residual || network.stem_channels.is_none(), || {
        "architecture.stem_channels is of residual encoders only".into()
    })?;
    let (slope, epsilon) = (network.slope, network.epsilon);
    check.that((0.0..=1.0).contains(&slope) && epsilon > 0.0 && epsilon < 1.0, || {
        format!(
            "architecture has slope {slope} and epsilon {epsilon}, expected a slope from 0 to 1 \
             and an epsilon between 0 and 1"
        )
    })
}

fn patch(check: &Check, part: &Part) -> Result<()> {
    for axis in 0..3 {
        let extent = part.patch[axis];
        check.that((1..=MOST_PATCH).contains(&extent), || {
            format!("patch is {:?}, expected 1 to {MOST_PATCH} per axis", part.patch)
        })?;
        let factor: usize = part.architecture.strides.iter().map(|s| s[axis]).product();
        check.that(extent.is_multiple_of(factor), || {
            format!(
                "patch is {:?}, but the strides divide axis {axis} by {factor}, which {extent} \
                 is no multiple of",
                part.patch
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
    check.that(folds.iter().all(|fold| is_plain(fold)), || {
        format!("folds is {folds:?}, expected names of letters, digits, _ and -")
    })
}

fn normalization(check: &Check, part: &Part) -> Result<()> {
    for scheme in &part.normalization {
        let (lower, upper, mean, deviation) = match *scheme {
            Normalization::Ct { lower, upper, mean, deviation, .. } => {
                (lower, upper, mean, deviation)
            }
            Normalization::Ct2 { lower, upper, .. } => (lower, upper, 0.0, 1.0),
            _ => continue,
        };
        let finite = [lower, upper, mean, deviation].iter().all(|value| value.is_finite());
        check.that(finite && lower < upper && deviation >= 0.0, || {
            format!(
                "normalization has lower {lower}, upper {upper}, mean {mean}, deviation \
                 {deviation}; expected finite numbers, lower < upper, deviation >= 0"
            )
        })?;
    }
    Ok(())
}

fn labels(check: &Check, labels: &[Label]) -> Result<()> {
    let found = labels.len();
    check.that((2..=MOST_CLASSES).contains(&found), || {
        format!("labels has {found} entries, expected 2 to {MOST_CLASSES}")
    })?;
    check.that(labels[0].value == 0, || {
        format!("labels begins with value {}, expected 0, the background", labels[0].value)
    })?;
    for pair in labels.windows(2) {
        check.that(pair[0].value < pair[1].value && pair[1].value <= 65_535, || {
            format!(
                "label {:?} has value {} after {}, expected ascending values up to 65535",
                pair[1].name, pair[1].value, pair[0].value
            )
        })?;
    }
    let mut names = HashSet::new();
    for label in labels {
        let value = label.value;
        check.that(!label.name.trim().is_empty() && names.insert(&label.name), || {
            format!("label {value} has the name {:?}, which is empty or used twice", label.name)
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
            format!("label {value} has a zero byte in its name or code")
        })?;
    }
    Ok(())
}
