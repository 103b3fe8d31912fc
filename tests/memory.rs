//! Memory: a run stays within its estimate, and the tile loop allocates nothing.

#[path = "common/allocations.rs"]
mod allocations;
mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use allocations::{CALLS, NOW, PEAK};
use common::{Noise, SeededModel};
use serde_json::json;
use voxtile::session::{Cleanup, LabelMap, Observer, Phase, Progress, Segmentation, Unobserved};
use voxtile::{Element, Error, Geometry, Model, RunOptions, Session, SessionOptions, VolumeView};

/// What may be allocated before a budget is refused: far less than any buffer of a run.
const SMALL_CHANGE: usize = 256 << 10;

/// Notes how often memory was allocated between two passes of the network.
#[derive(Default)]
struct BetweenPasses {
    before: Option<(usize, usize)>,
    allocations: Vec<usize>,
}

impl Observer for BetweenPasses {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        let calls = CALLS.load(Ordering::Relaxed);
        if let Some((done, before)) = self.before.take()
            && progress.done == done + 1
        {
            self.allocations.push(calls - before);
        }
        if progress.phase == Phase::Tiles {
            self.allocations.reserve(1000);
            self.before = Some((progress.done, CALLS.load(Ordering::Relaxed)));
        }
        ControlFlow::Continue(())
    }
}

/// Bytes of a result.
fn held(found: &Segmentation) -> usize {
    match &found.labels {
        LabelMap::U8(labels) => labels.len(),
        LabelMap::U16(labels) => 2 * labels.len(),
    }
}

/// One test, so that nothing else allocates while it counts.
#[test]
fn runs_stay_within_their_estimate_and_tiles_allocate_nothing() {
    let models = [
        SeededModel::small([16; 3], 5),
        SeededModel::small([16; 3], 40).with("blend", json!("softmax")),
        SeededModel::small([8, 24, 16], 3).folds(3).with("spacing", json!([1.0, 2.5, 0.9])),
        SeededModel::small([16; 3], 4).with("spacing", json!([7.0, 1.5, 1.5])),
        SeededModel::small([16; 3], 4)
            .with("normalization", json!([{ "scheme": "zscore", "masked": true }])),
        SeededModel::stunet(16, 105),
    ];
    let cleanup = [
        Cleanup::LargestComponent { labels: None, connectivity: 26 },
        Cleanup::MinimumSize { labels: None, connectivity: 6, mm3: 9.0 },
        Cleanup::FillHoles { labels: None },
    ];
    let volumes = [
        ([40, 33, 60], [1.5, 1.5, 1.5]),
        ([64, 40, 12], [0.8, 0.8, 5.0]),
        ([30, 30, 30], [3.0, 3.0, 3.0]),
        ([9, 9, 9], [1.5, 1.5, 1.5]),
        ([90, 90, 4], [1.5, 1.5, 1.5]),
    ];
    for (number, model) in models.iter().enumerate() {
        for (dims, spacing) in volumes {
            if number == 5 && dims[0] != 9 {
                continue;
            }
            let mut noise = Noise(1);
            let values: Vec<f32> = (0..dims.iter().product()).map(|_| noise.next()).collect();
            let bytes = bytemuck::cast_slice(&values);
            let geometry = Geometry::axis_aligned(spacing);
            let volume = VolumeView::dense(bytes, Element::F32, dims, 1, geometry).unwrap();
            let package = Arc::new(Model::from_bytes(model.bytes()).unwrap());
            let options = SessionOptions { threads: 3, ..Default::default() };
            let wishes =
                RunOptions { probabilities: vec![0, 2], scores: true, ..Default::default() };
            // Noise holds more components than a stream of planes has a table for.
            let wishes = RunOptions { cleanup: cleanup.to_vec(), ..wishes };

            let before = NOW.load(Ordering::Relaxed);
            let session = Session::new(Arc::clone(&package), &options).unwrap();
            let estimate = session.estimate(&volume, &wishes).unwrap();
            PEAK.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
            let mut passes = BetweenPasses::default();
            let found = session.run(&volume, &wishes, &mut passes).unwrap();
            let used = PEAK.load(Ordering::Relaxed) - before;
            let estimated = estimate.host_bytes as usize;
            println!("model {number}, {dims:?}: estimated {estimated}, used {used} bytes");
            assert!(
                used <= estimated,
                "model {number}, {dims:?}: {used} bytes used, {estimated} estimated"
            );
            assert!(
                estimated <= 2 * used,
                "model {number}, {dims:?}: {used} bytes used, {estimated} estimated"
            );
            assert_eq!(found.report.tiles, estimate.tiles);
            assert!(passes.allocations.len() + 1 >= estimate.passes.min(2));
            // The first passes may still set up what the system needs per thread.
            let late = passes.allocations.iter().skip(2);
            assert!(late.clone().all(|&count| count == 0), "{:?}", passes.allocations);
            drop(session);

            // Every budget from the smallest on gives the same labels within it; one byte less is
            // refused beforehand.
            let least = estimate.least_host_bytes;
            for (budget, works) in
                [(estimate.host_bytes, true), (least + 1, true), (least, true), (least - 1, false)]
            {
                let options = SessionOptions { host_budget_bytes: Some(budget), ..options.clone() };
                let session = Session::new(Arc::clone(&package), &options).unwrap();
                let loaded = NOW.load(Ordering::Relaxed);
                PEAK.store(loaded, Ordering::Relaxed);
                match session.run(&volume, &wishes, &mut Unobserved) {
                    Ok(again) => {
                        assert!(works && again.labels == found.labels);
                        let used = PEAK.load(Ordering::Relaxed) - before - held(&found);
                        assert!(used as u64 <= budget, "{used} bytes of {budget}");
                    }
                    Err(Error::Memory { needed_bytes, available_bytes, .. }) => {
                        assert!(!works);
                        assert_eq!((needed_bytes, available_bytes), (budget + 1, budget));
                        assert!(PEAK.load(Ordering::Relaxed) < loaded + SMALL_CHANGE);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
}
