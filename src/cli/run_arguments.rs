//! Arguments that say how to run, of `voxtile segment` and `voxtile plan`.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use voxtile::Element;
use voxtile::device::{Accumulators, DeviceChoice, Precision};
use voxtile::session::Grid;

use super::arguments::{ExportName, Labels, MinimumSizes, device, memory, step, threads};

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Where to run: auto, cpu, cuda or cuda:N. auto is the first GPU that works, can compute the network
    /// and has room for it, else the processor
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    pub device: DeviceChoice,

    /// How the network's values are held [default: f16 on a GPU, f32 on the processor]. bf16, on the
    /// processor, is faster and takes half the memory for a tile; a few labels change where two scores
    /// nearly tie. int8, on the processor, holds them as bf16 does and multiplies 8-bit integers where that
    /// is faster; more labels change. f32 on a GPU is a check of it, and slow
    #[arg(long, value_enum, value_name = "TYPE")]
    pub precision: Option<PrecisionName>,

    /// Processor threads [default: all]; results do not depend on it
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// Distance of tiles as a fraction of the patch, above 0 and at most 1
    #[arg(long, value_name = "STEP", default_value = "0.5", value_parser = step)]
    pub step: f64,

    /// Average over mirrored copies along every axis the model allows (up to 8 times slower)
    #[arg(long)]
    pub mirror: bool,

    /// What comes to the image's grid: scores, as nnU-Net does; or labels, quicker where there are
    /// many classes (nnU-Net v1's fast mode); or the nearest voxel's label (its fastest mode)
    #[arg(long, value_enum, default_value = "scores")]
    pub export: ExportName,

    /// Leave out the model's postprocessing
    #[arg(long)]
    pub raw: bool,

    /// Keep only the largest component of each of these labels: names or values with commas
    /// between them, or all labels if none is named
    #[arg(long, value_name = "LABELS", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = Labels::parse)]
    pub largest_component: Option<Labels>,

    /// Drop components that are smaller than this, in mm^3: of any label; or of some, by name or
    /// value, such as liver=100,spleen=50, where a number without a label is for all others
    #[arg(long, value_name = "MM3|LABEL=MM3,...", value_parser = MinimumSizes::parse)]
    pub minimum_size: Option<MinimumSizes>,

    /// Give background that one of these labels encloses that label: names or values with commas
    /// between them, or all labels if none is named
    #[arg(long, value_name = "LABELS", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = Labels::parse)]
    pub fill_holes: Option<Labels>,

    /// Labels to keep, by name or value, such as liver,spleen: what is found as another one becomes
    /// background
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub labels: Vec<String>,

    /// Segment only voxels I0 to I1, J0 to J1, K0 to K1, counted from 0 and without the last: there
    /// labels are those of a run on the whole image, elsewhere background. Only tiles that can touch
    /// them are run
    #[arg(long, value_name = "I0:I1,J0:J1,K0:K1", value_parser = region)]
    pub region: Option<Region>,

    /// As --region, where this image, of the input's grid, is not zero
    #[arg(long, value_name = "MASK.nii.gz", conflicts_with = "region")]
    pub region_mask: Option<PathBuf>,

    /// Do not run tiles that lie below this value everywhere (HU in a CT) [-900 if none is given].
    /// What only they cover is background, and labels beside them may change. Measured with
    /// examples/demo.safetensors: examples/ct.nii.gz has no such tile; with 64 voxels of air around
    /// it 144 of 294 tiles are skipped, and no label of the scan itself changes
    #[arg(long, value_name = "HU", num_args = 0..=1, require_equals = true,
          default_missing_value = "-900", value_parser = finite)]
    pub skip_air: Option<f32>,

    /// How overlapping tiles are added up: f16, as nnU-Net's own, halves the memory of the sums;
    /// labels may change where two scores differ by less than about a thousandth. Measured with
    /// examples/demo.safetensors on examples/ct.nii.gz: 117 of 1380064 voxels (0.0085 %)
    #[arg(long, value_enum, default_value = "f32")]
    pub sums: SumType,

    /// Write the probabilities of labels, as they become final: a tensor [labels][k][j][i], or an
    /// image of one volume for each label (.nii, .nrrd, .mha); outside a region they are 0
    #[arg(long, value_name = "FILE")]
    pub probabilities: Option<PathBuf>,

    /// Labels whose probabilities are written, by name or value [default: all]
    #[arg(long, value_name = "LABELS", value_delimiter = ',', requires = "probabilities")]
    pub probability_labels: Vec<String>,

    /// How probabilities are stored; as u8, 255 is certain
    #[arg(long, value_enum, default_value = "f32", requires = "probabilities")]
    pub probability_type: ProbabilityType,

    /// The grid of probabilities: the image's; or the network's, in the network's axes and cropped
    /// to what is not zero
    #[arg(long, value_enum, default_value = "volume", requires = "probabilities")]
    pub probability_grid: GridName,

    /// Most memory to use for network, image and run, such as 4GiB, 3GB, 512MiB or plain bytes
    /// [default: what the machine has]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,

    /// Most memory of the GPU to use for network and run [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub gpu_memory: Option<u64>,
}

/// How a network's values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionName {
    F32,
    F16,
    Bf16,
    Int8,
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Self::F32,
            PrecisionName::F16 => Self::F16,
            PrecisionName::Bf16 => Self::Bf16,
            PrecisionName::Int8 => Self::Int8,
        }
    }
}

/// Voxels along i, j, k.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region(pub [Range<usize>; 3]);

/// How sums are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SumType {
    F32,
    F16,
}

impl SumType {
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

impl From<SumType> for Accumulators {
    fn from(name: SumType) -> Self {
        match name {
            SumType::F32 => Self::F32,
            SumType::F16 => Self::F16,
        }
    }
}

/// How probabilities are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbabilityType {
    F32,
    F16,
    U8,
}

impl From<ProbabilityType> for Element {
    fn from(name: ProbabilityType) -> Self {
        match name {
            ProbabilityType::F32 => Self::F32,
            ProbabilityType::F16 => Self::F16,
            ProbabilityType::U8 => Self::U8,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GridName {
    Volume,
    Network,
}

impl From<GridName> for Grid {
    fn from(name: GridName) -> Self {
        match name {
            GridName::Volume => Self::Volume,
            GridName::Network => Self::Network,
        }
    }
}

fn region(text: &str) -> Result<Region, String> {
    let range = |text: &str| {
        let (start, end) = text.split_once(':')?;
        let range = start.trim().parse().ok()?..end.trim().parse().ok()?;
        (!range.is_empty()).then_some(range)
    };
    let ranges: Option<Vec<Range<usize>>> = text.split(',').map(range).collect();
    let ranges = ranges.and_then(|ranges| ranges.try_into().ok());
    ranges.map(Region).ok_or_else(|| {
        "expected three ranges of voxels that are not empty, such as 0:512,100:400,20:80".into()
    })
}

fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("expected a number such as -900".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_and_thresholds() {
        assert_eq!(region("0:5,1:2, 3:900"), Ok(Region([0..5, 1..2, 3..900])));
        for text in
            ["", "0:5", "0:5,1:2", "0:5,1:2,3:3", "0:5,2:1,3:4", "0:5,1:2,3:4,5:6", "-1:5,0:1,0:1"]
        {
            assert!(region(text).is_err(), "{text}");
        }
        assert_eq!(finite("-900.5"), Ok(-900.5));
        for text in ["NaN", "inf", "air", ""] {
            assert!(finite(text).is_err(), "{text}");
        }
    }
}
