//! Runs that are stopped: at once, with nothing left behind, and the next run is undisturbed.

#[path = "common/allocations.rs"]
mod allocations;
mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use allocations::NOW;
use common::{Noise, SeededModel};
use serde_json::json;
use voxtile::session::{Observer, Phase, ProbabilityBox, Progress, Region, Unobserved};
use voxtile::{Element, Error, Geometry, Model, RunOptions, Session, SessionOptions, VolumeView};

/// Stops a run at one of its calls, by `cancel` or by its answer.
struct StopAt<'a> {
    session: &'a Session,
    call: usize,
    calls: usize,
    by_answer: bool,
    stopped: Option<(Phase, usize)>,
    calls_after: usize,
}

impl Observer for StopAt<'_> {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        self.calls += 1;
        if self.stopped.is_some() {
            self.calls_after += 1;
        } else if self.calls >= self.call {
            self.stopped = Some((progress.phase, progress.done));
            if self.by_answer {
                return ControlFlow::Break(());
            }
            self.session.cancel();
        }
        ControlFlow::Continue(())
    }
}

/// Counts the calls of a whole run.
#[derive(Default)]
struct Calls(usize, usize);

impl Observer for Calls {
    fn progress(&mut self, _: &Progress) -> ControlFlow<()> {
        self.0 += 1;
        ControlFlow::Continue(())
    }

    fn probabilities(&mut self, found: &ProbabilityBox) -> voxtile::Result<()> {
        self.1 += found.values.len();
        Ok(())
    }
}

/// One test, so that nothing else allocates while it counts.
#[test]
fn cancelled_runs_leave_nothing_behind() {
    let dims = [24, 20, 40];
    let mut noise = Noise(4);
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| noise.next()).collect();
    let geometry = Geometry::axis_aligned([1.4, 1.7, 1.3]);
    let bytes = bytemuck::cast_slice(&values);
    let volume = VolumeView::dense(bytes, Element::F32, dims, 1, geometry).unwrap();
    let post = json!([{ "step": "largest_component", "labels": [1, 2], "connectivity": 26 }]);
    let model = SeededModel::small([16; 3], 5).with("postprocessing", post);
    let model = Arc::new(Model::from_bytes(model.bytes()).unwrap());
    let options = SessionOptions { threads: 2, ..SessionOptions::default() };
    let session = Session::new(model, &options).unwrap();
    let options = RunOptions { probabilities: vec![1], ..RunOptions::default() };
    let mut calls = Calls::default();
    let expected = session.run(&volume, &options, &mut calls).unwrap();
    assert_eq!(calls.1, values.len());
    // A mask, whose planes are looked at before the tiles.
    let mut mask = vec![0u8; values.len()];
    mask[values.len() / 2..][..30].fill(1);
    let masked = RunOptions { region: Some(Region::Mask(Arc::from(mask))), ..options.clone() };
    let mut masked_calls = Calls::default();
    let masked_expected = session.run(&volume, &masked, &mut masked_calls).unwrap();
    let mut phases = Vec::with_capacity(240);
    let held = NOW.load(Ordering::Relaxed);

    for number in 0..240 {
        let (options, calls, expected) = match number {
            0..200 => (&options, &calls, &expected),
            _ => (&masked, &masked_calls, &masked_expected),
        };
        let share = f64::from(noise.next()) / 2.0 + 0.5;
        let call = 1 + (share * calls.0 as f64) as usize;
        let mut observer = StopAt {
            session: &session,
            call,
            calls: 0,
            by_answer: number % 2 == 0,
            stopped: None,
            calls_after: 0,
        };
        let outcome = session.run(&volume, options, &mut observer);
        assert!(matches!(outcome, Err(Error::Cancelled)), "run {number}: {outcome:?}");
        // It ends at the very call at which it is stopped: what it was about to do, it does not.
        assert_eq!(observer.calls_after, 0);
        phases.extend(observer.stopped.map(|(phase, _)| phase));
        assert_eq!(NOW.load(Ordering::Relaxed), held, "run {number} left memory behind");
        if number % 20 == 0 {
            let undisturbed = session.run(&volume, options, &mut Unobserved).unwrap();
            assert_eq!(undisturbed.labels, expected.labels, "after run {number}");
        }
    }
    for phase in [Phase::Prepare, Phase::Tiles] {
        assert!(phases.contains(&phase), "no run was stopped in {phase:?}");
    }
    let again = session.run(&volume, &options, &mut Unobserved).unwrap();
    assert_eq!(again.labels, expected.labels);
    drop(again);

    // From another thread, at any moment.
    let (mut cancelled, mut slowest) = (0, Duration::ZERO);
    for _ in 0..40 {
        let delay = Duration::from_micros((noise.next().abs() * 60_000.0) as u64);
        let asked = std::thread::scope(|scope| {
            let canceller = scope.spawn(|| {
                std::thread::sleep(delay);
                session.cancel();
                Instant::now()
            });
            let outcome = session.run(&volume, &options, &mut Unobserved);
            let returned = Instant::now();
            let asked = canceller.join().unwrap();
            match outcome {
                Err(Error::Cancelled) => Some(returned.saturating_duration_since(asked)),
                Ok(found) => {
                    assert_eq!(found.labels, expected.labels);
                    None
                }
                Err(other) => panic!("{other}"),
            }
        });
        cancelled += usize::from(asked.is_some());
        slowest = slowest.max(asked.unwrap_or_default());
    }
    println!("{cancelled} of 40 runs stopped from another thread, the slowest after {slowest:?}");
    assert!(cancelled > 0);
    let again = session.run(&volume, &options, &mut Unobserved).unwrap();
    assert_eq!(again.labels, expected.labels);
}
