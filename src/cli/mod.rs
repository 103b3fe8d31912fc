//! The command line: arguments in, files and text out.

mod arguments;
mod compare;
mod console;
mod convert;
mod failure;
mod information;
mod mask;
mod observer;
mod plan;
mod probabilities;
mod report;
mod run_arguments;
mod run_options;
mod segment;
mod slicer;
mod statistics;
mod system;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use self::arguments::{Arguments, Command};
use self::failure::{Exit, Failure};

/// Runs the program.
pub fn main() -> ExitCode {
    if slicer::is_meant(std::env::args_os().nth(1).as_ref()) {
        return match slicer::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                let _ = writeln!(io::stderr(), "error: {}", slicer::message(&failure));
                failure.exit.into()
            }
        };
    }
    // Wrong usage ends here, with clap's message and exit code 2.
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Segment(arguments) => segment::segment(&arguments),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Convert(arguments) => convert::convert(&arguments),
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Statistics(arguments) => statistics::statistics(&arguments),
        Command::Info(arguments) => information::info(&arguments),
        Command::Devices(arguments) => information::devices(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "error: {}", failure.message);
            failure.exit.into()
        }
    }
}

/// Writes text to standard output. A reader that has gone away is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Output, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
