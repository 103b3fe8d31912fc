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
    /// 3D Slicer, if it started the program: the share of the run that it was told is done.
    slicer: Option<Mutex<(f64, Option<Instant>)>>,
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
        Self { quiet, bar, stream, slicer: None, warned: Mutex::default() }
    }

    /// For 3D Slicer, which takes anything on standard error for a failure.
    pub fn for_slicer() -> Self {
        let slicer = Some(Mutex::default());
        Self { quiet: true, bar: None, stream: None, slicer, warned: Mutex::default() }
    }

    /// A line for 3D Slicer.
    pub fn tell(&self, text: &str) -> Result<(), Failure> {
        print(&format!("{}\n", ascii(text)))
    }

    /// Tells 3D Slicer how much of the run is done, which never becomes less.
    pub fn reach(&self, share: f64) -> Result<(), Failure> {
        let Some(slicer) = &self.slicer else { return Ok(()) };
        let mut slicer = lock(slicer);
        let now = Instant::now();
        let due = slicer.1.is_none_or(|last| now - last >= PROGRESS_PERIOD) || share >= 1.0;
        if share <= slicer.0 || !due {
            return Ok(());
        }
        *slicer = (share, Some(now));
        self.tell(&format!("<filter-progress>{share:.4}</filter-progress>"))
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
        if self.slicer.is_some() {
            let _ = self.tell(text);
            return;
        }
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

    /// Progress for programs about ten times a second, and when a phase begins or ends.
    pub fn progress(&self, case: &str, progress: &Progress) {
        // What follows the network takes a little time too.
        let share = 0.98 * progress.done as f64 / progress.total.max(1) as f64;
        let _ = self.reach(share);
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

/// Text that every host can show.
pub fn ascii(text: &str) -> String {
    text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect()
}
