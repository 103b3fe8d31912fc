//! The JSON document of a model package.

use serde::{Deserialize, Serialize};

use crate::base::{Error, Result};
use crate::volume::{Generation, Interpolation, SeparateAxis};

/// The version of the format this build writes about and reads.
pub(super) const FORMAT_VERSION: u64 = 1;

/// Everything a package says about its model.
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
    /// Everything a label map can hold, in ascending order of values; the background first.
    pub labels: Vec<Label>,
    /// The networks in the order they run, at least one. Where several find something, the later
    /// one is right.
    pub parts: Vec<Part>,
    /// Done to the label map, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub postprocessing: Vec<Postprocessing>,
    /// Where the weights come from.
    pub provenance: Provenance,
}

/// A network, what it asks of its input, and what its output means. Axes are the network's, the
/// slowest first.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Distinct; for people, and the prefix of its tensors if there are several parts.
    pub name: String,
    /// The network.
    pub architecture: Architecture,
    /// Names of the cross-validation folds, at least one.
    pub folds: Vec<String>,
    /// Voxels of a patch.
    pub patch: [usize; 3],
    /// Distance of voxels in mm; `None` is the volume's own.
    pub spacing: [Option<f64>; 3],
    /// How the network's axes relate to a volume's.
    pub axes: Axes,
    /// Whose arithmetic surrounds the network.
    pub generation: Generation,
    /// One for each channel of the volume.
    pub normalization: Vec<Normalization>,
    /// How grids change.
    #[serde(default)]
    pub resampling: Resampling,
    /// What is averaged where tiles overlap.
    pub blend: Blend,
    /// Axes along which mirrored copies may be averaged.
    pub mirror_axes: Vec<usize>,
    /// What the rows of the head mean.
    pub output: Output,
    /// A part that runs before; what it finds is one more input channel for each of its labels,
    /// and no part of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// What the rows of a head mean.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Output {
    /// The label value of each class, the background first: the highest score wins.
    Classes(Vec<u32>),
    /// The label value of each region: every region with a positive score is written, in this
    /// order, the later over the earlier.
    Regions(Vec<u32>),
}

impl Output {
    /// The label value of each row.
    pub fn values(&self) -> &[u32] {
        match self {
            Self::Classes(values) | Self::Regions(values) => values,
        }
    }

    /// The label values that can be found, ascending, without the background.
    pub fn structures(&self) -> Vec<u32> {
        let mut values: Vec<u32> = self.values().iter().copied().filter(|&v| v != 0).collect();
        values.sort_unstable();
        values
    }
}

/// A network's shape.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// What the names of the tensors stand for.
    pub family: Family,
    /// Channels of the input volume.
    pub input_channels: usize,
    /// Rows of the head, background included.
    pub classes: usize,
    /// Channels of each resolution, the finest first.
    pub channels: Vec<usize>,
    /// Of each resolution: residual blocks, or convolutions in a family that has no residual ones.
    pub blocks: Vec<usize>,
    /// Stride of the step to each next resolution.
    pub strides: Vec<[usize; 3]>,
    /// Convolution kernel of each resolution.
    pub kernels: Vec<[usize; 3]>,
    /// As `blocks`, of the decoder's steps up, the deepest first; if absent, as many as the
    /// encoder has at the same resolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_blocks: Option<Vec<usize>>,
    /// Channels of a residual encoder's first convolution; if absent, `channels[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem_channels: Option<usize>,
    /// What follows a convolution, before the activation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalization: NormalizationLayer,
    /// Added to the variance that a normalisation divides by.
    #[serde(default = "torch_epsilon", skip_serializing_if = "is_torch_epsilon")]
    pub epsilon: f64,
    /// LeakyReLU's slope below zero: 0 is ReLU.
    #[serde(default = "torch_slope", skip_serializing_if = "is_torch_slope")]
    pub slope: f64,
    /// Whether transposed convolutions have biases.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub transposed_bias: bool,
    /// Whether the heads have biases.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub head_bias: bool,
}

/// Families of networks.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// STU-Net.
    Stunet,
    /// nnU-Net v2's `PlainConvUNet`.
    PlainUnet,
    /// nnU-Net v2's `ResidualEncoderUNet`.
    ResidualEncoderUnet,
    /// nnU-Net v1's `Generic_UNet`.
    GenericUnet,
}

impl Family {
    /// Its name in a package.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stunet => "stunet",
            Self::PlainUnet => "plain_unet",
            Self::ResidualEncoderUnet => "residual_encoder_unet",
            Self::GenericUnet => "generic_unet",
        }
    }
}

/// What follows a convolution.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum NormalizationLayer {
    /// Instance normalisation with a factor and an offset for each channel.
    #[default]
    Instance,
    /// Instance normalisation alone.
    InstanceWithoutAffine,
    /// Nothing: there is none, or it is a fixed one that the weights contain.
    None,
}

impl Architecture {
    /// Blocks of the decoder's step `up`, the deepest being 0.
    pub fn decoder_blocks(&self, up: usize) -> usize {
        match &self.decoder_blocks {
            Some(blocks) => blocks[up],
            None => self.blocks[self.strides.len() - 1 - up],
        }
    }

    /// Stride of the step into a resolution.
    pub fn stride_into(&self, level: usize) -> [usize; 3] {
        if level == 0 { [1; 3] } else { self.strides[level - 1] }
    }
}

/// Of PyTorch's normalisations.
fn torch_epsilon() -> f64 {
    1e-5
}

/// Of PyTorch's LeakyReLU.
fn torch_slope() -> f64 {
    0.01
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn is_torch_epsilon(value: &f64) -> bool {
    *value == torch_epsilon()
}

fn is_torch_slope(value: &f64) -> bool {
    *value == torch_slope()
}

fn is_default(value: &NormalizationLayer) -> bool {
    *value == NormalizationLayer::default()
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

/// How grids change.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Resampling {
    /// The volume, to the network's grid.
    pub image: Interpolation,
    /// The scores, back.
    pub scores: Interpolation,
}

impl Default for Resampling {
    fn default() -> Self {
        let separate_axis = SeparateAxis::Auto;
        Self {
            image: Interpolation { order: 3, separate_axis },
            scores: Interpolation { order: 1, separate_axis },
        }
    }
}

/// How a channel's values are normalised.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "scheme", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalization {
    /// Clip, subtract, divide by the training set's numbers.
    Ct {
        /// With [`Generation::V1`]: zero outside the non-zero mask.
        #[serde(default, skip_serializing_if = "is_false")]
        masked: bool,
        /// Lowest value kept.
        lower: f64,
        /// Highest value kept.
        upper: f64,
        /// Subtracted.
        mean: f64,
        /// Divided by.
        deviation: f64,
    },
    /// Clip, then by the mean and standard deviation of the volume's values within the limits.
    Ct2 {
        /// Zero outside the non-zero mask.
        #[serde(default, skip_serializing_if = "is_false")]
        masked: bool,
        /// Lowest value kept.
        lower: f64,
        /// Highest value kept.
        upper: f64,
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

/// What is done to a label map at the end.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Postprocessing {
    /// Of all voxels that have one of these labels, the largest component (all that are as large)
    /// stays, the others become background.
    LargestComponent {
        /// Label values, taken together.
        labels: Vec<u32>,
        /// 6: voxels touch by faces; 26: also by edges and corners.
        connectivity: u8,
        /// Components of at least this size stay too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minimum_mm3: Option<f64>,
    },
}

/// A label.
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

fn is_false(value: &bool) -> bool {
    !value
}

impl Package {
    /// The part that is named as another one's [`Part::previous`], by position.
    pub fn previous(&self, part: usize) -> Option<usize> {
        let name = self.parts[part].previous.as_ref()?;
        self.parts.iter().position(|other| other.name == *name)
    }

    /// Whether what a part finds belongs to the result: no later part asks for it.
    pub fn is_final(&self, part: usize) -> bool {
        let name = Some(&self.parts[part].name);
        self.parts.iter().all(|other| other.previous.as_ref() != name)
    }

    /// Channels expected of a volume.
    pub fn channels(&self) -> usize {
        self.parts[0].normalization.len()
    }

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
