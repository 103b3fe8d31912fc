//! The program's arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use voxtile::Element;
use voxtile::device::DeviceChoice;
use voxtile::model::{Blend, OrientationName};
use voxtile::session::Export;

use super::failure::HELP;
use super::run_arguments::RunArguments;

/// Segments medical volumes with STU-Net / nnU-Net networks.
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Segment one image, or each of many, and write label maps
    Segment(Segment),
    /// Say what a run of `segment` would take: tiles, memory, time. Tiles that --region or
    /// --region-mask leave out are not counted, tiles of air are
    Plan(Plan),
    /// Make a model package of STU-Net's or nnU-Net's checkpoints
    Convert(Convert),
    /// Say what a model package is
    Info(Info),
    /// Say how alike two label maps are
    Compare(Compare),
    /// Measure the labels of a label map
    Statistics(Statistics),
    /// List the devices that can be used
    Devices(Devices),
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Segment {
    /// Image: NIfTI (.nii, .nii.gz, .hdr/.img), NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd);
    /// several are the channels of one case, in the order of the model's inputs (nnU-Net's _0000,
    /// _0001, ...). If OUT is a folder, each INPUT is a case of its own, a folder stands for the
    /// images in it, and channels are recognised by nnU-Net's names
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,

    /// Model package (.safetensors); there is no default
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,

    /// Label map to write (.nii.gz, .nii, .nrrd, .nhdr, .mha, .mhd), or .seg.nrrd for 3D Slicer, with
    /// the labels' names, colours and codes; or a folder, one that exists or ends in /, for a label
    /// map CASE.nii.gz of each case
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,

    /// With a folder as OUT: segment again what has a label map there, instead of skipping it
    #[arg(long)]
    pub overwrite: bool,

    #[command(flatten)]
    pub run: RunArguments,

    /// Write the class scores on the network's grid (f32); of several networks, the last one's
    #[arg(long, value_name = "FILE.safetensors")]
    pub scores: Option<PathBuf>,

    /// Write the preprocessed volume, as the (last) network sees it (f32)
    #[arg(long, value_name = "FILE.safetensors")]
    pub preprocessed: Option<PathBuf>,

    /// Write what was run on what, how long it took, and what was found; of all cases together
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,

    /// Write progress and results as lines of JSON to standard output, and nothing else there
    #[arg(long)]
    pub json_lines: bool,

    /// Write volume, values, bounding box and centroid of each label (.csv or .json)
    #[arg(long, value_name = "FILE")]
    pub statistics: Option<PathBuf>,

    /// Print only errors, and what must be known of the model
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Plan {
    /// Image, or the channels of one case; only headers are read, but for a mask
    #[arg(required_unless_present = "volume", value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,

    /// Instead of an image: voxels, such as 512x512x280, which are counted as 16-bit ones of a
    /// compressed file
    #[arg(long, value_name = "IxJxK", value_parser = extents, conflicts_with = "inputs")]
    pub volume: Option<[usize; 3]>,

    /// The volume's spacing in mm, such as 0.8x0.8x1.5 [default: the network's]
    #[arg(long, value_name = "IxJxK", value_parser = spacing, requires = "volume")]
    pub spacing: Option<[f64; 3]>,

    /// Model package (.safetensors)
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,

    #[command(flatten)]
    pub run: RunArguments,

    /// Leave out the trial of about a second for each network that the time is told from; then no
    /// weights are read
    #[arg(long)]
    pub no_timing: bool,

    /// For programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Convert {
    /// A results folder of nnU-Net v1 or v2 or a .zip of one, a .model beside its .model.pkl, or a
    /// .pth or .safetensors with --plans; several become the parts of one model, in this order
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<PathBuf>,

    /// Model package to write
    #[arg(short, long, value_name = "MODEL.safetensors")]
    pub output: PathBuf,

    /// Cross-validation folds, such as 0,1,2 or all [default: all that are numbered]
    #[arg(long, value_name = "FOLDS", value_delimiter = ',')]
    pub folds: Vec<String>,

    /// Which training is meant where a source holds several: a part of its path
    #[arg(long, value_name = "PART")]
    pub select: Vec<String>,

    /// The checkpoint's name without its ending [default: checkpoint_final, or
    /// model_final_checkpoint of v1]
    #[arg(long, value_name = "NAME")]
    pub checkpoint: Option<String>,

    /// plans.json (v2) or .model.pkl (v1) of bare weights
    #[arg(long, value_name = "FILE")]
    pub plans: Option<PathBuf>,

    /// dataset.json of bare weights
    #[arg(long, value_name = "FILE")]
    pub dataset: Option<PathBuf>,

    /// Configuration of bare weights [default: what they say, or 3d_fullres]
    #[arg(long, value_name = "NAME")]
    pub configuration: Option<String>,

    /// How weights are stored; f16 and bf16 halve the file
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: WeightType,

    /// Names, colours and codes of the labels: {"1": "liver", "spleen": {"code": "SCT:78961009",
    /// "color": [157, 108, 162]}}
    #[arg(long, value_name = "FILE.json")]
    pub labels: Option<PathBuf>,

    /// What is averaged where tiles overlap: raw scores (nnU-Net v2) or probabilities (v1)
    #[arg(long, value_enum, default_value = "auto")]
    pub blend: BlendName,

    /// The voxel order the network was trained on [default: what the plans say]
    #[arg(long, value_enum)]
    pub orientation: Option<OrientationArgument>,

    /// The model's name [default: the dataset's]
    #[arg(long)]
    pub name: Option<String>,

    /// One sentence about the model
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,

    /// SPDX identifier of the weights' licence [default: NOASSERTION]
    #[arg(long, value_name = "ID")]
    pub license: Option<String>,

    /// Print only errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    F32,
    F16,
    Bf16,
}

impl From<WeightType> for Element {
    fn from(name: WeightType) -> Self {
        match name {
            WeightType::F32 => Self::F32,
            WeightType::F16 => Self::F16,
            WeightType::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BlendName {
    /// As the nnU-Net of the checkpoint
    Auto,
    Logits,
    Softmax,
}

impl BlendName {
    pub fn blend(self) -> Option<Blend> {
        match self {
            Self::Auto => None,
            Self::Logits => Some(Blend::Logits),
            Self::Softmax => Some(Blend::Softmax),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OrientationArgument {
    /// As stored in the file, whatever its direction says
    Stored,
    /// The closest order in which i runs to the right, j to the front, k to the head
    Ras,
}

impl From<OrientationArgument> for OrientationName {
    fn from(name: OrientationArgument) -> Self {
        match name {
            OrientationArgument::Stored => Self::Stored,
            OrientationArgument::Ras => Self::Ras,
        }
    }
}

#[derive(Debug, Args)]
pub struct Compare {
    /// Label map, of any format that is read
    pub first: PathBuf,

    /// Another one of the same grid
    pub second: PathBuf,

    /// Model package with the labels' names
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Statistics {
    /// Label map, of any format that is read
    pub labels: PathBuf,

    /// The image it belongs to, for the values of each label
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<PathBuf>,

    /// Model package with the labels' names; a .seg.nrrd has names itself
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,

    /// File to write (.csv or .json) [default: a table on standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Processor threads [default: all]; results do not depend on it
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

#[derive(Debug, Args)]
pub struct Info {
    /// Model package (.safetensors)
    pub model: PathBuf,

    /// Say how much memory a volume of this many voxels needs, such as 512x512x280
    #[arg(long, value_name = "IxJxK", value_parser = extents)]
    pub volume: Option<[usize; 3]>,

    /// The volume's spacing in mm, such as 0.8x0.8x1.5 [default: the network's]
    #[arg(long, value_name = "IxJxK", value_parser = spacing, requires = "volume")]
    pub spacing: Option<[f64; 3]>,

    /// For programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Devices {
    /// For programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportName {
    /// Scores are interpolated, then compared
    Scores,
    /// Labels, by their interpolated shares
    Labels,
    /// Labels, from the nearest voxel
    NearestLabels,
}

impl From<ExportName> for Export {
    fn from(name: ExportName) -> Self {
        match name {
            ExportName::Scores => Self::Scores,
            ExportName::Labels => Self::Labels,
            ExportName::NearestLabels => Self::NearestLabels,
        }
    }
}

/// A device, as `device_name` writes it; `cuda` alone is the first GPU.
pub fn device(text: &str) -> Result<DeviceChoice, String> {
    match text.split_once(':') {
        None if text == "auto" => Ok(DeviceChoice::Auto),
        None if text == "cpu" => Ok(DeviceChoice::Cpu),
        None if text == "cuda" => Ok(DeviceChoice::Cuda(0)),
        Some(("cuda", ordinal)) if ordinal.bytes().all(|byte| byte.is_ascii_digit()) => {
            ordinal.parse().map(DeviceChoice::Cuda).map_err(|_| "no such GPU".into())
        }
        _ => Err("expected auto, cpu, cuda or cuda:N, where N counts GPUs from 0".into()),
    }
}

/// "auto", "cpu", "cuda:0".
pub fn device_name(choice: DeviceChoice) -> String {
    match choice {
        DeviceChoice::Auto => "auto".into(),
        DeviceChoice::Cpu => "cpu".into(),
        DeviceChoice::Cuda(ordinal) => format!("cuda:{ordinal}"),
    }
}

/// Names or values of labels; none for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(pub Vec<String>);

impl Labels {
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_string()).collect();
        match names.iter().any(String::is_empty) {
            true => Err("expected names or values of labels with commas between them".into()),
            false => Ok(Self(names)),
        }
    }
}

/// Sizes in mm^3 that components must have to stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MinimumSizes {
    /// Of every label that has no size of its own.
    pub others: Option<f64>,
    /// Names or values of labels and their sizes.
    pub of: Vec<(String, f64)>,
}

impl MinimumSizes {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut sizes = Self::default();
        for item in text.split(',') {
            match item.rsplit_once('=') {
                Some((name, _)) if name.trim().is_empty() => {
                    return Err(format!("expected the name or value of a label before `{item}`"));
                }
                Some((name, mm3)) => sizes.of.push((name.trim().into(), volume(mm3.trim())?)),
                None if sizes.others.is_some() => {
                    return Err("expected at most one size without a label".into());
                }
                None => sizes.others = Some(volume(item.trim())?),
            }
        }
        Ok(sizes)
    }
}

/// Three numbers with `x` between them.
fn three<T: std::str::FromStr>(text: &str) -> Option<[T; 3]> {
    let numbers: Option<Vec<T>> = text.split('x').map(|number| number.parse().ok()).collect();
    numbers?.try_into().ok()
}

fn extents(text: &str) -> Result<[usize; 3], String> {
    let extents = three(text).filter(|extents| extents.iter().all(|n| (1..=1 << 20).contains(n)));
    extents.ok_or_else(|| "expected three numbers such as 512x512x280".into())
}

fn spacing(text: &str) -> Result<[f64; 3], String> {
    let spacing = three(text).filter(|mm| mm.iter().all(|mm| (1e-4..=1e4).contains(mm)));
    spacing.ok_or_else(|| "expected three numbers such as 0.8x0.8x1.5".into())
}

pub fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        _ => Err("expected a number from 1 to 1024".into()),
    }
}

fn volume(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(mm3) if mm3.is_finite() && mm3 >= 0.0 => Ok(mm3),
        _ => Err("expected a number of mm^3 from 0, or such numbers of labels: liver=100".into()),
    }
}

pub fn step(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(step) if step > 0.0 && step <= 1.0 => Ok(step),
        _ => Err("expected a number above 0 and at most 1".into()),
    }
}

/// Bytes, of a number with an optional unit: decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB,
/// TiB; K, M, G, T alone are binary).
pub fn memory(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as 4GiB, 3GB, 512MiB or 4294967296".to_string();
    let text = text.trim();
    let unit_start = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_start);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => {
            let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
            (bytes < u64::MAX as f64).then_some(bytes as u64)
        }
    };
    match bytes {
        Some(0) => Err("expected a size above 0".into()),
        Some(bytes) => Ok(bytes),
        None => Err("more than this machine can address".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn memory_sizes() {
        let sizes = [
            ("4GiB", 4 << 30),
            ("512MiB", 512 << 20),
            ("3GB", 3_000_000_000),
            ("1.5 GiB", 3 << 29),
            ("2g", 2 << 30),
            ("64kb", 64_000),
            ("123", 123),
            ("123 B", 123),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in sizes {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "4 giraffes", "-4GiB", "0", "0.0GiB", "1e3", "99999999TiB", "1.2.3"]
        {
            assert!(memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_and_sizes() {
        let labels = |names: &[&str]| Ok(Labels(names.iter().map(|name| (*name).into()).collect()));
        assert_eq!(Labels::parse(""), labels(&[]));
        assert_eq!(Labels::parse("liver, 3,left lung"), labels(&["liver", "3", "left lung"]));
        for text in [",", "1,", "a,,b", " "] {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
        let sizes = |others, of: &[(&str, f64)]| {
            let of = of.iter().map(|(name, mm3)| ((*name).into(), *mm3)).collect();
            Ok(MinimumSizes { others, of })
        };
        assert_eq!(MinimumSizes::parse("12.5"), sizes(Some(12.5), &[]));
        let named = [("liver", 100.0), ("left lung", 5.5), ("3", 0.0), ("a=b", 7.0)];
        assert_eq!(
            MinimumSizes::parse("liver=100, left lung = 5.5,3=0,a=b=7"),
            sizes(None, &named)
        );
        assert_eq!(MinimumSizes::parse("liver=100,9"), sizes(Some(9.0), &named[..1]));
        for text in
            ["-1", "NaN", "inf", "small", "", "1,2", "liver=", "=5", "liver=-1", "a=1,", "a"]
        {
            assert!(MinimumSizes::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7"] {
            assert_eq!(device(text).map(device_name), Ok(text.to_string()));
        }
        assert_eq!(device("cuda"), Ok(DeviceChoice::Cuda(0)));
        for text in
            ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cpu:0", "cuda:99999999999"]
        {
            assert!(device(text).is_err(), "{text}");
        }
    }

    #[test]
    fn steps_and_threads() {
        assert_eq!(step("0.5"), Ok(0.5));
        assert_eq!(step("1"), Ok(1.0));
        for text in ["0", "-0.5", "1.01", "NaN", "inf", "half"] {
            assert!(step(text).is_err(), "{text}");
        }
        assert_eq!(threads("2"), Ok(2));
        for text in ["0", "-1", "1025", "all"] {
            assert!(threads(text).is_err(), "{text}");
        }
    }
}
