//! What the program says while it works: to people on standard error and output, to programs as
//! lines of JSON on standard output. `docs/json-lines.md` describes those.

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use voxtile::session::{Phase, Progress};

use super::failure::Failure;
use super::print;

/// Between two lines of progress of one phase.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

/// Where text goes; from any thread.
pub struct Console {
    quiet: bool,
    /// On a terminal, unless the user wants it quiet.
    bar: Option<ProgressBar>,
    /// Lines of JSON, if the user wants them.
    stream: Option<Mutex<Stream>>,
    /// Warnings that were given; none is given twice.
    warned: Mutex<HashSet<String>>,
}

/// When a line of progress was written last, and of which phase.
#[derive(Default)]
struct Stream {
    last: Option<(Instant, Phase)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Console {
    pub fn new(quiet: bool, json_lines: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}");
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let stream = json_lines.then(Mutex::default);
        Self { quiet, bar, stream, warned: Mutex::default() }
    }

    /// The progress bar, if there is one.
    pub fn bar(&self) -> Option<&ProgressBar> {
        self.bar.as_ref()
    }

    /// One line for the user, above the bar if there is one.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.print(text);
        }
    }

    /// As [`Console::say`], but even a quiet run says it, and no run twice.
    pub fn warn(&self, case: &str, text: &str) {
        if lock(&self.warned).insert(text.into()) {
            self.print(&format!("warning: {text}"));
            self.event(&json!({ "event": "warning", "case": case, "text": text }));
        }
    }

    /// What went wrong with one case of several.
    pub fn error(&self, text: &str) {
        self.print(&format!("error: {text}"));
    }

    fn print(&self, text: &str) {
        self.beside_bar(|| {
            let _ = writeln!(io::stderr(), "{text}");
        });
    }

    /// A result, on standard output, where nothing but lines of JSON is if those are wanted.
    pub fn result(&self, text: &str) -> Result<(), Failure> {
        if self.quiet || self.stream.is_some() {
            return Ok(());
        }
        self.beside_bar(|| print(text))
    }

    /// A line for programs.
    pub fn event(&self, event: &Value) {
        if let Some(stream) = &self.stream {
            let _ordered = lock(stream);
            let _ = print(&format!("{event}\n"));
        }
    }

    /// A line for programs about ten times a second, and when a phase begins or ends.
    pub fn progress(&self, case: &str, progress: &Progress) {
        let Some(stream) = &self.stream else { return };
        let Progress { phase, done, total, seconds } = *progress;
        let now = Instant::now();
        let due = {
            let mut stream = lock(stream);
            let due =
                stream.last.is_none_or(|(last, of)| of != phase || now - last >= PROGRESS_PERIOD);
            if due {
                stream.last = Some((now, phase));
            }
            due
        };
        if due {
            let phase = match phase {
                Phase::Prepare => "prepare",
                Phase::Tiles => "tiles",
                Phase::Restore => "restore",
            };
            self.event(&json!({
                "event": "progress",
                "case": case,
                "phase": phase,
                "done": done,
                "total": total,
                "seconds": seconds,
            }));
        }
    }

    fn beside_bar<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}
