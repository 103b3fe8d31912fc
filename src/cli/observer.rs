//! Follows a run: its progress, and the files that are written on the way.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::time::Instant;

use voxtile::formats::{OutputFile, Tensor, TensorFile};
use voxtile::session::{Level, Observer, Phase, ProbabilityBox, Progress};
use voxtile::{Element, Result};

use super::console::Console;
use super::probabilities::Probabilities;
use super::report::duration_text;
use super::system;

/// What follows a run of `voxtile segment`.
pub struct Follower<'a> {
    console: &'a Console,
    /// The case's name.
    case: &'a str,
    /// What the network passes are called: tiles, or passes where there are several for each.
    unit: &'static str,
    tiles_began: Option<Instant>,
    /// The last tenth of the run that a line was written about, where there is no bar.
    tenth: usize,
    /// The part of the model whose volume and scores are written: the last.
    pub part: usize,
    /// Where the preprocessed volume goes.
    pub preprocessed: Option<&'a Path>,
    /// Where the scores go, and the name of their tensor.
    pub scores: Option<(&'a Path, &'static str)>,
    /// Where probabilities go.
    pub probabilities: Option<Probabilities>,
    scores_file: Option<TensorFile>,
    preprocessed_file: Option<TensorFile>,
    /// Whether an error came from writing a file.
    pub output_failed: bool,
}

impl<'a> Follower<'a> {
    pub fn new(console: &'a Console, case: &'a str, unit: &'static str) -> Self {
        if let Some(bar) = console.bar() {
            bar.reset();
        }
        Self {
            console,
            case,
            unit,
            tiles_began: None,
            tenth: 0,
            part: 0,
            preprocessed: None,
            scores: None,
            probabilities: None,
            scores_file: None,
            preprocessed_file: None,
            output_failed: false,
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Some(bar) = self.console.bar() {
            bar.finish_and_clear();
        }
    }

    /// Makes the files that were written on the way appear.
    pub fn finish(self) -> Result<()> {
        let files = self.preprocessed_file.into_iter().chain(self.scores_file);
        let probabilities = self.probabilities.and_then(Probabilities::into_file);
        files.chain(probabilities).try_for_each(TensorFile::finish)
    }

    fn wrote<T>(&mut self, result: Result<T>) -> Result<T> {
        self.output_failed |= result.is_err();
        result
    }

    fn show(&mut self, progress: &Progress) {
        let Progress { phase, done, total, .. } = *progress;
        if phase != Phase::Tiles || total == 0 {
            return;
        }
        let began = *self.tiles_began.get_or_insert_with(Instant::now);
        let pace = pace(began.elapsed().as_secs_f64(), done, total, self.unit);
        if let Some(bar) = self.console.bar() {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_message(pace);
            return;
        }
        let tenth = done * 10 / total;
        if tenth > self.tenth {
            self.tenth = tenth;
            let percent = done * 100 / total;
            self.console.say(&format!("{percent:3} %  {done}/{total} {pace}"));
        }
    }
}

/// "tiles, 1.25 s each, 20 s left".
fn pace(seconds: f64, done: usize, total: usize, unit: &str) -> String {
    if done == 0 {
        return unit.to_string();
    }
    let each = seconds / done as f64;
    let left = each * total.saturating_sub(done) as f64;
    let rate = if each < 0.1 {
        format!("{:.0} per second", 1.0 / each.max(1e-6))
    } else {
        format!("{each:.2} s each")
    };
    if done >= total {
        return format!("{unit}, {rate}");
    }
    format!("{unit}, {rate}, {} left", duration_text(left))
}

impl Observer for Follower<'_> {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        if system::cancelled() {
            return ControlFlow::Break(());
        }
        self.console.progress(self.case, progress);
        self.show(progress);
        ControlFlow::Continue(())
    }

    fn message(&mut self, level: Level, text: &str) {
        match level {
            Level::Info => self.console.say(text),
            Level::Warning => self.console.warn(self.case, text),
        }
    }

    fn preprocessed(
        &mut self,
        part: usize,
        values: &[f32],
        channels: usize,
        planes: Range<usize>,
        [a0, a1, a2]: [usize; 3],
    ) -> Result<()> {
        let Some(path) = self.preprocessed.filter(|_| part == self.part) else { return Ok(()) };
        let shape = [channels, a0, a1, a2];
        let file = self.preprocessed_file.take();
        let written = append(file, path, "pre", shape, planes, values);
        self.preprocessed_file = Some(self.wrote(written)?);
        Ok(())
    }

    fn scores(
        &mut self,
        part: usize,
        scores: &[f32],
        classes: usize,
        planes: Range<usize>,
        shape: [usize; 3],
    ) -> Result<()> {
        let Some((path, name)) = self.scores.filter(|_| part == self.part) else { return Ok(()) };
        let [a0, a1, a2] = shape;
        let file = self.scores_file.take();
        let written = append(file, path, name, [classes, a0, a1, a2], planes, scores);
        self.scores_file = Some(self.wrote(written)?);
        Ok(())
    }

    fn probabilities(&mut self, found: &ProbabilityBox) -> Result<()> {
        let Some(probabilities) = &mut self.probabilities else { return Ok(()) };
        let written = probabilities.write(found);
        self.wrote(written)
    }
}

/// Writes planes to a file that is begun with the first.
fn append(
    file: Option<TensorFile>,
    path: &Path,
    name: &str,
    shape: [usize; 4],
    planes: Range<usize>,
    values: &[f32],
) -> Result<TensorFile> {
    let mut file = match file {
        Some(file) => file,
        None => {
            let tensor = Tensor { name, shape, element: Element::F32, metadata: &[] };
            TensorFile::begin(OutputFile::create(path)?, &tensor)?
        }
    };
    file.write(planes, values)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces() {
        assert_eq!(pace(0.0, 0, 40, "tiles"), "tiles");
        assert_eq!(pace(10.0, 8, 40, "tiles"), "tiles, 1.25 s each, 40 s left");
        assert_eq!(pace(1.0, 50, 100, "passes"), "passes, 50 per second, 1.0 s left");
        assert_eq!(pace(50.0, 40, 40, "tiles"), "tiles, 1.25 s each");
    }
}
