//! Many cases with one session: while one is computed, the next is read and the one before written.

use std::collections::VecDeque;
use std::path::Path;
use std::thread::{self, Scope, ScopedJoinHandle};

use serde_json::{Value, json};
use voxtile::formats;

use super::case::{self, Case, Computed, Read, Work};
use crate::cli::failure::{Exit, Failure};
use crate::cli::report::setting;
use crate::cli::system;

/// How the cases of a batch went.
#[derive(Default)]
pub struct Tally {
    pub done: usize,
    pub skipped: usize,
    /// Labels that were found, of a single case.
    pub structures: usize,
    /// Names.
    pub failed: Vec<String>,
    /// What the report says of each, by its number.
    entries: Vec<(usize, Value)>,
}

impl Tally {
    fn add(&mut self, case: &Case, entry: Entry) {
        match entry {
            Entry::Done(mut report) => {
                self.done += 1;
                report["status"] = "done".into();
                self.enter(case, report);
            }
            Entry::Failed(failure) => {
                self.failed.push(case.name.clone());
                self.enter(case, json!({ "status": "failed", "error": failure.message }));
            }
        }
    }

    fn skip(&mut self, case: &Case) {
        self.skipped += 1;
        self.enter(case, json!({ "status": "skipped" }));
    }

    fn enter(&mut self, case: &Case, further: Value) {
        let mut entry = json!({ "case": case.name, "inputs": case.inputs, "outputs": { "labels": case.output } });
        if let (Value::Object(entry), Value::Object(further)) = (&mut entry, further) {
            entry.extend(further);
        }
        self.entries.push((case.number, entry));
    }

    /// "12 cases: 9 done, 2 skipped, 1 failed (liver_7)".
    fn summary(&self, cases: usize) -> String {
        let Self { done, skipped, failed, .. } = self;
        let mut text = match cases {
            1 => "1 case: ".to_string(),
            _ => format!("{cases} cases: "),
        };
        text.push_str(&format!("{done} done, {skipped} skipped, {} failed", failed.len()));
        if !failed.is_empty() {
            text.push_str(&format!(" ({})", failed.join(", ")));
        }
        text
    }

    /// The report, for programs.
    pub fn report(&mut self, work: &Work, seconds: f64) -> Value {
        let session = &work.session;
        let mut report =
            setting(work.arguments, work.package(), session.chosen_device(), session.threads());
        self.entries.sort_by_key(|(number, _)| *number);
        report["done"] = self.done.into();
        report["skipped"] = self.skipped.into();
        report["failed"] = self.failed.clone().into();
        report["cancelled"] = system::cancelled().into();
        report["seconds"] = json!({ "load": work.load_seconds, "total": seconds });
        report["cases"] = self.entries.iter().map(|(_, entry)| entry.clone()).collect();
        report
    }

    /// How the program ends.
    pub fn verdict(&self, work: &Work, cases: usize) -> Result<(), Failure> {
        let summary = self.summary(cases);
        if system::cancelled() {
            return Err(Failure::new(Exit::Cancelled, format!("cancelled; {summary}")));
        }
        if !self.failed.is_empty() {
            return Err(Failure::new(Exit::Cases, summary));
        }
        work.console.result(&format!("{summary}\n"))
    }
}

/// How a case went: its report, or why it has none.
enum Entry {
    Done(Value),
    Failed(Failure),
}

impl Entry {
    fn failed(work: &Work, case: &Case, failure: Failure) -> Self {
        work.console.error(&format!("{}: {}", case.name, failure.message));
        case.tell_failed(work.console, &failure);
        Self::Failed(failure)
    }
}

/// A case that is being read.
type Reading<'s> = ScopedJoinHandle<'s, Result<Read, Failure>>;

/// A case that is being written.
struct Writing<'s, 'a> {
    case: &'a Case,
    bytes: u64,
    thread: ScopedJoinHandle<'s, Entry>,
}

/// What a thread returns; one that panicked has said so.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T, Failure> {
    thread.join().map_err(|_| Failure::new(Exit::Other, "internal error: a thread failed"))
}

/// Segments all cases that have no label map yet. What goes wrong with one of them is said and
/// noted, and the others go on.
pub fn segment<'a>(work: &'a Work<'a>, model: &'a Path, cases: &'a [Case], tally: &mut Tally) {
    let mut queue = VecDeque::with_capacity(cases.len());
    for case in cases {
        if !work.arguments.overwrite && case.output.is_file() {
            work.console.say(&format!("{} exists; skipped", case.output.display()));
            let event = json!({ "event": "skipped", "case": case.name, "output": case.output });
            work.console.event(&event);
            tally.skip(case);
        } else {
            queue.push_back(case);
        }
    }
    thread::scope(|scope| {
        let mut batch = Batch { work, model, scope, queue, ahead: None, behind: None, tally };
        while let Some(case) = batch.queue.pop_front() {
            if system::cancelled() {
                break;
            }
            case.announce(work.console);
            work.console.say(&format!("[{}/{}] {}", case.number, case.of, case.name));
            match batch.compute(case) {
                Ok(computed) => batch.write(case, computed),
                Err(failure) if failure.exit == Exit::Cancelled => break,
                Err(failure) => batch.tally.add(case, Entry::failed(work, case, failure)),
            }
        }
        batch.wait();
    });
}

/// The state between cases: at most one image ahead of the one that is computed, and one result
/// behind.
struct Batch<'s, 'a, 't> {
    work: &'a Work<'a>,
    model: &'a Path,
    scope: &'s Scope<'s, 'a>,
    queue: VecDeque<&'a Case>,
    ahead: Option<Reading<'s>>,
    behind: Option<Writing<'s, 'a>>,
    tally: &'t mut Tally,
}

impl<'s, 'a> Batch<'s, 'a, '_> {
    /// Segments a case, while the next one is read if there is memory for it.
    fn compute(&mut self, case: &'a Case) -> Result<Computed<'a>, Failure> {
        let (work, model) = (self.work, self.model);
        let read = match self.ahead.take() {
            Some(thread) => join(thread)??,
            None => case::read(case, work.package(), model, None)?,
        };
        let mut beside = self.behind.as_ref().map_or(0, |writing| writing.bytes);
        let mut estimate = case::estimate(work, &read, beside)?;
        let taken = |beside: u64| beside.saturating_add(read.bytes());
        if !work.allows(estimate.least_host_bytes.saturating_add(taken(beside))) {
            self.wait();
            beside = 0;
            estimate = case::estimate(work, &read, beside)?;
        }
        if let Some(&next) = self.queue.front() {
            // A header that can't be read is reported when the image is.
            let with_next = formats::memory_bytes(&next.inputs).unwrap_or(0).saturating_add(beside);
            if work.allows(estimate.host_bytes.saturating_add(taken(with_next))) {
                beside = with_next;
                let read = move || case::read(next, work.package(), model, None);
                self.ahead = Some(self.scope.spawn(read));
            }
        }
        case::compute(work, case, read, beside)
    }

    /// Writes a case's label map on a thread of its own, once that of the case before is written.
    fn write(&mut self, case: &'a Case, computed: Computed<'a>) {
        self.wait();
        let work = self.work;
        let bytes = computed.bytes();
        let write = move || {
            let done = match case::write(case, computed) {
                Ok(done) => done,
                Err(failure) => return Entry::failed(work, case, failure),
            };
            let outcome = done.outcome(case, work);
            case.tell_done(work.console, outcome.seconds.total);
            // If nothing can be printed, the summary at the end is what fails.
            let _ = work.console.result(&outcome.line());
            Entry::Done(outcome.case_json())
        };
        self.behind = Some(Writing { case, bytes, thread: self.scope.spawn(write) });
    }

    /// Waits until the case before is written.
    fn wait(&mut self) {
        if let Some(Writing { case, thread, .. }) = self.behind.take() {
            let entry =
                join(thread).unwrap_or_else(|failure| Entry::failed(self.work, case, failure));
            self.tally.add(case, entry);
        }
    }
}
