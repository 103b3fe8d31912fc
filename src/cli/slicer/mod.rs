//! The program as a command line module of 3D Slicer: it describes itself with `--xml`, takes flags
//! and then the files, tells its progress on standard output, and says nothing on standard error
//! unless it fails.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use voxtile::Error;
use voxtile::formats::OutputFile;

use super::arguments::{self, Command};
use super::console::{Console, ascii};
use super::failure::{Exit, Failure};
use super::{print, segment};

/// The module's description, which lies beside the installed program too.
const DESCRIPTION: &str = include_str!("voxtile.xml");

/// What 3D Slicer asks of a module, as the description says.
#[derive(Debug, Parser)]
#[command(name = "voxtile", disable_version_flag = true, disable_help_flag = true)]
struct Arguments {
    /// Print the description.
    #[arg(long, exclusive = true)]
    xml: bool,
    /// Where results go that are no files.
    #[arg(long)]
    returnparameterfile: Option<PathBuf>,
    /// Memory to report progress in, of modules that are libraries.
    #[arg(long)]
    processinformationaddress: Option<OsString>,
    #[arg(long)]
    model: Option<PathBuf>,
    #[arg(long, default_value = "")]
    labels: String,
    #[arg(long, default_value = "auto")]
    device: String,
    #[arg(long, default_value = "0")]
    threads: String,
    #[arg(long, default_value = "0.5")]
    step: String,
    #[arg(long)]
    mirror: bool,
    #[arg(long)]
    statistics: Option<PathBuf>,
    #[arg(required_unless_present = "xml")]
    input: Option<PathBuf>,
    #[arg(required_unless_present = "xml")]
    output: Option<PathBuf>,
}

/// Whether the arguments are in 3D Slicer's form: flags first, and no command.
pub fn is_meant(first: Option<&OsString>) -> bool {
    let first = first.and_then(|first| first.to_str()).unwrap_or_default();
    first.starts_with("--") && !["--", "--help", "--version"].contains(&first)
}

/// Does what the arguments ask for; a failure's message is ASCII.
pub fn run() -> Result<(), Failure> {
    let usage = |error: clap::Error| Failure::new(Exit::Usage, error.to_string());
    let arguments = Arguments::try_parse().map_err(usage)?;
    if arguments.xml {
        return print(DESCRIPTION);
    }
    let segment = match arguments::Arguments::try_parse_from(command(&arguments)?) {
        Ok(arguments::Arguments { command: Command::Segment(segment) }) => segment,
        Ok(_) => return Err(Failure::new(Exit::Other, "not a segmentation")),
        Err(error) => return Err(usage(error)),
    };
    if let Some(path) = &arguments.returnparameterfile {
        // Opens a temporary file there and removes it.
        OutputFile::create(path).map_err(Failure::of(Exit::Output))?;
    }
    let started = Instant::now();
    let console = Console::for_slicer();
    console.tell("<filter-start><filter-name>voxtile</filter-name></filter-start>")?;
    let structures = segment::segment_for(&segment, &console)?.structures;
    if let Some(path) = &arguments.returnparameterfile {
        write_results(path, structures).map_err(Failure::of(Exit::Output))?;
    }
    console.reach(1.0)?;
    let seconds = started.elapsed().as_secs_f64();
    console.tell(&format!(
        "<filter-end><filter-name>voxtile</filter-name><filter-time>{seconds:.3}</filter-time>\
         </filter-end>"
    ))
}

/// The same as a `voxtile segment` of its own.
fn command(arguments: &Arguments) -> Result<Vec<OsString>, Failure> {
    let Some(model) = &arguments.model else {
        return Err(Failure::new(
            Exit::Usage,
            "no model: choose a model package (.safetensors); `voxtile convert` makes them",
        ));
    };
    let mut command: Vec<OsString> = ["voxtile", "segment", "--quiet"].map(Into::into).to_vec();
    let mut option = |name: &str, value: OsString| {
        let mut argument = OsString::from(format!("--{name}="));
        argument.push(value);
        command.push(argument);
    };
    option("model", model.into());
    option("device", (&arguments.device).into());
    option("step", (&arguments.step).into());
    if arguments.threads != "0" {
        option("threads", (&arguments.threads).into());
    }
    if !arguments.labels.is_empty() {
        option("labels", (&arguments.labels).into());
    }
    if let Some(path) = &arguments.statistics {
        option("statistics", path.into());
    }
    if let Some(path) = &arguments.output {
        option("output", path.into());
    }
    if arguments.mirror {
        command.push("--mirror".into());
    }
    command.push("--".into());
    command.extend(arguments.input.as_ref().map(Into::into));
    Ok(command)
}

fn write_results(path: &Path, structures: usize) -> voxtile::Result<()> {
    let mut output = OutputFile::create(path)?;
    writeln!(output, "structures = {structures}").map_err(|source| Error::io(path, source))?;
    output.finish()
}

/// A failure's message as 3D Slicer shows it.
pub fn message(failure: &Failure) -> String {
    ascii(&failure.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_of_this_version_and_ascii() {
        let version = format!("<version>{}</version>", env!("CARGO_PKG_VERSION"));
        assert!(DESCRIPTION.contains(&version));
        assert!(DESCRIPTION.is_ascii());
    }

    #[test]
    fn commands_are_told_from_flags() {
        let meant = |first: &str| is_meant(Some(&OsString::from(first)));
        for first in ["--xml", "--model", "--returnparameterfile", "--device"] {
            assert!(meant(first), "{first}");
        }
        for first in ["segment", "-h", "--help", "-V", "--version", "--", "ct.nii.gz"] {
            assert!(!meant(first), "{first}");
        }
        assert!(!is_meant(None));
    }

    #[test]
    fn every_flag_of_the_description_is_taken() {
        use clap::CommandFactory;
        let known = Arguments::command();
        let flags = DESCRIPTION.split("<longflag>").skip(1);
        let flags: Vec<&str> = flags.map(|rest| rest.split('<').next().unwrap()).collect();
        for flag in &flags {
            assert!(known.get_arguments().any(|a| a.get_long() == Some(flag)), "{flag}");
        }
        assert_eq!(flags.len(), 7);
    }
}
