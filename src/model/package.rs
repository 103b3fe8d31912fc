//! The JSON document of a model package.

use serde::{Deserialize, Serialize};

use crate::base::{Error, Result};

/// The version of the format this build writes about and reads.
pub(super) const FORMAT_VERSION: u64 = 1;

/// Everything a package says about its model. Axes are the network's, the slowest first.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Version of the format.
    pub format_version: u64,
    /// The model's name.
    pub name: String,
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// Whether the model is a demonstration that must not be used on patients.
    #[serde(default)]
    pub demo: bool,
    /// The network.
    pub architecture: Architecture,
    /// Names of the cross-validation folds, at least one.
    pub folds: Vec<String>,
    /// Voxels of a patch.
    pub patch: [usize; 3],
    /// Distance of voxels in mm.
    pub spacing: [f64; 3],
    /// How the network's axes relate to a volume's.
    pub axes: Axes,
    /// The order of preprocessing.
    pub preprocessing: Preprocessing,
    /// One for each input channel.
    pub normalization: Vec<Normalization>,
    /// What is averaged where tiles overlap.
    pub blend: Blend,
    /// Axes along which mirrored copies may be averaged.
    pub mirror_axes: Vec<usize>,
    /// One for each class, in the order of the classes.
    pub labels: Vec<Label>,
    /// Where the weights come from.
    pub provenance: Provenance,
}

/// A network's shape.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// `stunet`.
    pub family: String,
    /// Channels of the input volume.
    pub input_channels: usize,
    /// Rows of the head, background included.
    pub classes: usize,
    /// Channels of each resolution, the finest first.
    pub channels: Vec<usize>,
    /// Residual blocks of each resolution.
    pub blocks: Vec<usize>,
    /// Stride of the step to each next resolution.
    pub strides: Vec<[usize; 3]>,
    /// Convolution kernel of each resolution.
    pub kernels: Vec<[usize; 3]>,
}

/// How the network's axes relate to a volume's.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Axes {
    /// Which voxel order the network was trained on.
    pub orientation: OrientationName,
    /// Network axis `n` is axis `transpose[n]` of (k, j, i).
    pub transpose: [usize; 3],
}

/// Which voxel order a network was trained on.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OrientationName {
    /// As stored in the file, whatever its direction says.
    Stored,
    /// The closest order in which i runs to the right, j to the front, k to the head.
    Ras,
}

/// The order of preprocessing.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Preprocessing {
    /// nnU-Net v2.
    NormalizeThenResample,
}

/// How a channel's values are normalised.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "scheme", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalization {
    /// Clip, subtract, divide by the training set's numbers.
    Ct {
        /// Lowest value kept.
        lower: f64,
        /// Highest value kept.
        upper: f64,
        /// Subtracted.
        mean: f64,
        /// Divided by.
        deviation: f64,
    },
    /// By the volume's own mean and standard deviation.
    Zscore {
        /// Only inside the non-zero mask.
        #[serde(default)]
        masked: bool,
    },
    /// Values as they are.
    None {},
    /// By the volume's own minimum and maximum.
    #[serde(rename = "rescale_to_01")]
    RescaleTo01 {},
}

/// What is averaged where tiles overlap.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Blend {
    /// Raw scores, as nnU-Net v2.
    Logits,
    /// Softmax probabilities, as nnU-Net v1.
    Softmax,
}

/// A class.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Value written into label maps.
    pub value: u32,
    /// Name.
    pub name: String,
    /// Red, green, blue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<[u8; 3]>,
    /// Coding scheme and code, such as `SCT:78961009`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Where a model's weights come from.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// For people.
    pub source: String,
    /// SPDX identifier of the weights' licence.
    pub license: String,
    /// The files the package was made from.
    pub files: Vec<SourceFile>,
}

/// A file that a package was made from.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its name.
    pub name: String,
    /// Its SHA-256 digest, 64 hexadecimal digits.
    pub sha256: String,
}

impl Package {
    /// What is said of a demonstration model wherever it is used.
    pub fn demo_notice(&self) -> Option<String> {
        let text = self.description.trim_end_matches('.');
        self.demo.then(|| {
            format!("`{}` is a DEMONSTRATION model, not for use on patients. {text}.", self.name)
        })
    }

    /// Parses the document, the version first: a newer one may have fields we don't know.
    pub(super) fn parse(origin: &str, document: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u64,
        }
        let wrong = |error: serde_json::Error| {
            Error::format(origin, format!("its `voxtile` document can't be used: {error}"))
        };
        let Version { format_version } = serde_json::from_str(document).map_err(wrong)?;
        if format_version != FORMAT_VERSION {
            return Err(Error::Unsupported(format!(
                "{origin}: the package's format version is {format_version}; this voxtile reads \
                 version {FORMAT_VERSION}"
            )));
        }
        serde_json::from_str(document).map_err(wrong)
    }
}
