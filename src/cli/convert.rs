//! `voxtile convert`.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use voxtile::convert::{self, Options, Progress};
use voxtile::{Error, Result};

use super::arguments::Convert;
use super::failure::{Exit, Failure};
use super::{print, system};

/// Converts checkpoints to a model package.
pub fn convert(arguments: &Convert) -> std::result::Result<(), Failure> {
    system::catch_interrupts();
    let options = Options {
        folds: arguments.folds.clone(),
        select: arguments.select.clone(),
        checkpoint: arguments.checkpoint.clone(),
        plans: arguments.plans.clone(),
        dataset: arguments.dataset.clone(),
        configuration: arguments.configuration.clone(),
        element: Some(arguments.dtype.into()),
        labels: arguments.labels.clone(),
        blend: arguments.blend.blend(),
        orientation: arguments.orientation.map(Into::into),
        name: arguments.name.clone(),
        description: arguments.description.clone(),
        license: arguments.license.clone(),
    };
    let mut bar = Bar::new(arguments.quiet);
    let package = convert::convert(&arguments.sources, &arguments.output, &options, &mut bar);
    bar.bar.finish_and_clear();
    let package = package.map_err(|error| match error {
        Error::Io { ref path, .. } if *path == arguments.output => Failure::of(Exit::Output)(error),
        Error::Argument(_) => Failure::of(Exit::Usage)(error),
        error => Failure::of(Exit::Input)(error),
    })?;
    if arguments.quiet {
        return Ok(());
    }
    if let Err(error) = writeln!(io::stderr(), "{}", super::information::summary(&package)) {
        return Err(Failure::new(Exit::Other, error.to_string()));
    }
    print(&format!("{}\n", arguments.output.display()))
}

struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new(quiet: bool) -> Self {
        let target = match !quiet && io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{bar:32} {binary_bytes} of {binary_total_bytes}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar }
    }
}

impl Progress for Bar {
    fn written(&mut self, done: u64, total: u64) -> Result<()> {
        if self.cancelled() {
            return Err(Error::Cancelled);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        Ok(())
    }

    fn cancelled(&self) -> bool {
        system::cancelled()
    }
}
