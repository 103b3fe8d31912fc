//! The program's arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use voxtile::device::DeviceChoice;
use voxtile::session::Export;

use super::failure::HELP;

/// Segments medical volumes with STU-Net / nnU-Net networks.
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Segment one image and write its label map
    Segment(Segment),
    /// Say what a model package is
    Info(Info),
    /// List the devices that can be used
    Devices,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Segment {
    /// NIfTI image (.nii, .nii.gz, .hdr/.img); several are the channels of one case, in the order
    /// of the model's inputs (nnU-Net's _0000, _0001, ...)
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,

    /// Model package (.safetensors); there is no default
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,

    /// Label map to write (.nii.gz or .nii)
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,

    /// Where to run
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,

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

    /// Most memory to use for network, image and run, such as 4GiB, 3GB, 512MiB or plain bytes
    /// [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,

    /// Write the class scores on the network's grid (f32); of several networks, the last one's
    #[arg(long, value_name = "FILE.safetensors")]
    pub scores: Option<PathBuf>,

    /// Write the preprocessed volume, as the (last) network sees it (f32)
    #[arg(long, value_name = "FILE.safetensors")]
    pub preprocessed: Option<PathBuf>,

    /// Write what was run on what, how long it took, and what was found
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,

    /// Print only errors, and what must be known of the model
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Info {
    /// Model package (.safetensors)
    pub model: PathBuf,

    /// For programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best one there is
    Auto,
    /// The processor
    Cpu,
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

impl From<Device> for DeviceChoice {
    fn from(device: Device) -> Self {
        match device {
            Device::Auto => Self::Auto,
            Device::Cpu => Self::Cpu,
        }
    }
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        _ => Err("expected a number from 1 to 1024".into()),
    }
}

fn step(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(step) if step > 0.0 && step <= 1.0 => Ok(step),
        _ => Err("expected a number above 0 and at most 1".into()),
    }
}

/// Bytes, of a number with an optional unit: decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB,
/// TiB; K, M, G, T alone are binary).
fn memory(text: &str) -> Result<u64, String> {
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
