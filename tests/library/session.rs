//! What holds for every run: the same bits on any number of threads, the same labels whichever
//! way a volume lies in memory, both ways of blending, and clear errors.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::{Noise, SeededModel};
use crate::recorder::Recorder;
use proptest::prelude::*;
use serde_json::json;
use voxtile::session::{
    Cleanup, LabelMap, Observer, Phase, Progress, Region, Segmentation, Unobserved,
};
use voxtile::volume::Generation;
use voxtile::window::{tile_starts, weights};
use voxtile::{Element, Error, Geometry, Model, RunOptions, Session, SessionOptions, VolumeView};

fn session(model: &SeededModel, threads: usize) -> Session {
    let model = Model::from_bytes(model.bytes()).unwrap();
    let options = SessionOptions { threads, ..SessionOptions::default() };
    Session::new(Arc::new(model), &options).unwrap()
}

fn noise(dims: [usize; 3], seed: u64) -> Vec<f32> {
    let mut noise = Noise(seed);
    (0..dims.iter().product()).map(|_| noise.next()).collect()
}

fn dense<'a>(values: &'a [f32], dims: [usize; 3], geometry: Geometry) -> VolumeView<'a> {
    VolumeView::dense(bytemuck::cast_slice(values), Element::F32, dims, 1, geometry).unwrap()
}

fn labels(found: &Segmentation) -> &[u8] {
    match &found.labels {
        LabelMap::U8(labels) => labels,
        LabelMap::U16(_) => panic!("labels fit a byte"),
    }
}

#[test]
fn the_same_bits_on_any_number_of_threads_and_from_run_to_run() {
    let dims = [29, 17, 23];
    let values = noise(dims, 3);
    let volume = dense(&values, dims, Geometry::axis_aligned([2.0, 1.8, 1.6]));
    for model in [
        SeededModel::small([16; 3], 5),
        SeededModel::small([8, 12, 16], 5).folds(2).with("blend", json!("softmax")),
    ] {
        let options = RunOptions { mirror: true, probabilities: vec![0, 3], ..with_scores() };
        let mut first: Option<(Segmentation, Vec<u32>)> = None;
        for threads in [1, 2, 4, 4] {
            let mut seen = Recorder::default();
            let found = session(&model, threads).run(&volume, &options, &mut seen).unwrap();
            let shown = seen.scores.iter().chain(&seen.probabilities);
            let scores: Vec<u32> = shown.map(|score| score.to_bits()).collect();
            if let Some((before, before_scores)) = &first {
                assert!(before.labels == found.labels, "labels on {threads} threads");
                assert!(*before_scores == scores, "scores on {threads} threads");
            } else {
                assert!(labels(&found).iter().any(|&label| label != labels(&found)[0]));
                first = Some((found, scores));
            }
        }
    }
}

/// What something else has of the budget is not the run's.
#[test]
fn a_budget_is_shared_with_what_is_taken() {
    let dims = [20, 17, 23];
    let values = noise(dims, 3);
    let volume = dense(&values, dims, Geometry::axis_aligned([1.5; 3]));
    let model = Arc::new(Model::from_bytes(SeededModel::small([16; 3], 5).bytes()).unwrap());
    let with_budget = |host_budget_bytes| {
        let options = SessionOptions { host_budget_bytes, ..SessionOptions::default() };
        Session::new(Arc::clone(&model), &options).unwrap()
    };
    let least = with_budget(None).estimate(&volume, &RunOptions::default()).unwrap();
    let least = least.least_host_bytes;
    let session = with_budget(Some(least + 1000));
    let run = |taken_bytes| {
        let options = RunOptions { taken_bytes, ..RunOptions::default() };
        session.run(&volume, &options, &mut Unobserved)
    };
    assert_eq!(run(1000).unwrap().report.estimate.host_bytes, least);
    for (taken, left) in [(1001, least - 1), (u64::MAX, 0)] {
        match run(taken) {
            Err(Error::Memory { needed_bytes, available_bytes, .. }) => {
                assert_eq!((needed_bytes, available_bytes), (least, left));
            }
            other => panic!("{taken}: {other:?}"),
        }
    }
}

/// Tiles blended as plain arrays of classes, from the scores of each tile alone.
fn blended_naively(
    model: &SeededModel,
    values: &[f32],
    shape: [usize; 3],
    softmax: bool,
) -> Vec<f32> {
    let patch = [16, 16, 16];
    let single =
        session(&SeededModel::small(patch, model.classes).with("normalization", none()), 1);
    let window = weights(patch, Generation::V2, 2).unwrap();
    let voxels: usize = shape.iter().product();
    let mut sums = vec![0.0f64; model.classes * voxels];
    let mut weights = vec![0.0f64; voxels];
    let starts: [Vec<usize>; 3] =
        std::array::from_fn(|axis| tile_starts(shape[axis], patch[axis], 0.5));
    let tiles = starts[0].iter().flat_map(|&a| {
        let starts = &starts;
        starts[1].iter().flat_map(move |&b| starts[2].iter().map(move |&c| [a, b, c]))
    });
    for start in tiles {
        let places: Vec<usize> = (0..patch.iter().product::<usize>())
            .map(|v| {
                let at = [v / 256 + start[0], v / 16 % 16 + start[1], v % 16 + start[2]];
                (at[0] * shape[1] + at[1]) * shape[2] + at[2]
            })
            .collect();
        let tile: Vec<f32> = places.iter().map(|&place| values[place]).collect();
        let mut seen = Recorder::default();
        let view = dense(&tile, patch, Geometry::axis_aligned([1.5; 3]));
        single.run(&view, &with_scores(), &mut seen).unwrap();
        for (v, &place) in places.iter().enumerate() {
            let score = |class: usize| f64::from(seen.scores[class * places.len() + v]);
            let total: f64 = (0..model.classes).map(|class| score(class).exp()).sum();
            weights[place] += f64::from(window[v]);
            for class in 0..model.classes {
                let value = if softmax { score(class).exp() / total } else { score(class) };
                sums[class * voxels + place] += f64::from(window[v]) * value;
            }
        }
    }
    sums.iter().enumerate().map(|(at, sum)| (sum / weights[at % voxels]) as f32).collect()
}

fn with_scores() -> RunOptions {
    RunOptions { scores: true, ..RunOptions::default() }
}

fn none() -> serde_json::Value {
    json!([{ "scheme": "none" }])
}

#[test]
fn blending_features_or_classes_gives_the_labels_of_blending_scores() {
    let shape = [21, 30, 19];
    let dims = [shape[2], shape[1], shape[0]];
    let values = noise(dims, 11);
    let volume = dense(&values, dims, Geometry::axis_aligned([1.5; 3]));
    for (blend, softmax) in [("logits", false), ("softmax", true)] {
        let model = SeededModel::small([16; 3], 4)
            .with("normalization", none())
            .with("blend", json!(blend));
        let mut seen = Recorder::default();
        let found = session(&model, 2).run(&volume, &with_scores(), &mut seen).unwrap();
        let expected = blended_naively(&model, &values, shape, softmax);
        let (mut error, mut norm) = (0.0, 0.0);
        for (a, b) in expected.iter().zip(&seen.scores) {
            error += f64::from(a - b).powi(2);
            norm += f64::from(*a).powi(2);
        }
        let relative = (error / norm).sqrt();
        assert!(relative < 1e-5, "{blend}: {relative:e}");
        let voxels = values.len();
        for (voxel, &label) in labels(&found).iter().enumerate() {
            let score = |class: usize| expected[class * voxels + voxel];
            let best = (0..4).map(score).fold(f32::MIN, f32::max);
            assert!(best - score(usize::from(label)) < 1e-5, "{blend}: voxel {voxel}");
        }
    }
}

#[test]
fn one_tile_has_the_same_labels_with_both_semantics() {
    let values = noise([16; 3], 5);
    let volume = dense(&values, [16; 3], Geometry::axis_aligned([1.5; 3]));
    let run = |blend: &str| {
        let model = SeededModel::small([16; 3], 6).with("blend", json!(blend));
        session(&model, 1).run(&volume, &RunOptions::default(), &mut Unobserved).unwrap()
    };
    assert_eq!(run("logits").labels, run("softmax").labels);
}

#[test]
fn every_axis_order_and_flip_of_a_reoriented_volume_gives_the_same_labels() {
    let model = SeededModel::small([8; 3], 4)
        .with("axes", json!({ "orientation": "ras", "transpose": [0, 1, 2] }));
    let stored = SeededModel::small([8; 3], 4);
    let dims = [11, 14, 9];
    let spacing = [1.7, 1.4, 2.1];
    let values = noise(dims, 9);
    // LPS directions of an RAS volume.
    let columns = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];
    let session = session(&model, 2);
    let as_stored = self::session(&stored, 2);
    let mut expected: Option<Vec<u8>> = None;
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for flips in 0..8 {
            // Axis a of the turned volume is axis order[a] of the original one.
            let turned: [usize; 3] = order.map(|axis| dims[axis]);
            let original = |voxel: usize| {
                let at = [
                    voxel % turned[0],
                    voxel / turned[0] % turned[1],
                    voxel / turned[0] / turned[1],
                ];
                let mut place = [0; 3];
                for axis in 0..3 {
                    let flipped = flips >> axis & 1 == 1;
                    place[order[axis]] =
                        if flipped { turned[axis] - 1 - at[axis] } else { at[axis] };
                }
                place[0] + dims[0] * (place[1] + dims[1] * place[2])
            };
            let voxels: Vec<f32> = (0..values.len()).map(|v| values[original(v)]).collect();
            let mut geometry = Geometry::axis_aligned(order.map(|axis| spacing[axis]));
            for axis in 0..3 {
                let sign = if flips >> axis & 1 == 1 { -1.0 } else { 1.0 };
                let column = columns[order[axis]];
                for (row, cosine) in geometry.direction.iter_mut().zip(column) {
                    row[axis] = sign * cosine;
                }
            }
            let volume = dense(&voxels, turned, geometry);
            let found = session.run(&volume, &RunOptions::default(), &mut Unobserved).unwrap();
            let mut back = vec![u8::MAX; values.len()];
            for (voxel, &label) in labels(&found).iter().enumerate() {
                back[original(voxel)] = label;
            }
            match &expected {
                None => expected = Some(back),
                Some(expected) => assert!(*expected == back, "order {order:?}, flips {flips}"),
            }
            // A model that takes volumes as stored does not look at the direction.
            let plain = dense(&voxels, turned, Geometry::axis_aligned(geometry.spacing));
            let run = |volume| as_stored.run(volume, &RunOptions::default(), &mut Unobserved);
            assert_eq!(run(&volume).unwrap().labels, run(&plain).unwrap().labels);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn volumes_of_any_shape_are_segmented(
        dims in prop::array::uniform3(1usize..24),
        spacing in prop::array::uniform3(0.6f64..6.0),
        step in 0.3f64..=1.0,
        seed in 0u64..1000,
        zeros in 0usize..3,
    ) {
        let mut values = noise(dims, seed);
        let blank = values.len() * zeros / 2;
        values[..blank].fill(0.0);
        let volume = dense(&values, dims, Geometry::axis_aligned(spacing));
        let model = SeededModel::small([8, 12, 16], 4);
        let options = RunOptions { step, probabilities: vec![0, 1, 2, 3], ..Default::default() };
        let mut seen = Recorder::default();
        let one = session(&model, 1).run(&volume, &options, &mut seen).unwrap();
        let two = session(&model, 2).run(&volume, &options, &mut Unobserved).unwrap();
        prop_assert_eq!(&one.labels, &two.labels);
        let voxels = values.len();
        prop_assert_eq!(labels(&one).len(), voxels);
        for (voxel, &label) in labels(&one).iter().enumerate() {
            let probability = |class: usize| seen.probabilities[class * voxels + voxel];
            let total: f32 = (0..4).map(probability).sum();
            prop_assert!((total - 1.0).abs() < 1e-4);
            let best = (0..4).map(probability).fold(0.0, f32::max);
            prop_assert!(probability(usize::from(label)) >= best - 1e-5);
        }
    }
}

#[test]
fn labels_to_keep_are_those_of_the_full_argmax() {
    let values = noise([16; 3], 2);
    let volume = dense(&values, [16; 3], Geometry::axis_aligned([1.5; 3]));
    let session = session(&SeededModel::small([16; 3], 5), 1);
    let all = session.run(&volume, &RunOptions::default(), &mut Unobserved).unwrap();
    let kept = labels(&all).iter().copied().find(|&label| label != 0).unwrap();
    let options = RunOptions { keep: Some(vec![kept.into()]), ..Default::default() };
    let some = session.run(&volume, &options, &mut Unobserved).unwrap();
    for (&some, &all) in labels(&some).iter().zip(labels(&all)) {
        assert_eq!(some, if all == kept { kept } else { 0 });
    }
}

/// Two bodies and much air between them, along each axis in turn.
#[test]
fn tiles_of_air_are_background_and_the_others_are_as_before() {
    let session = session(&SeededModel::small([16; 3], 5), 2);
    for axis in 0..3 {
        let mut dims = [16; 3];
        dims[axis] = 160;
        let mut noise = Noise(7);
        let values: Vec<f32> = (0..dims.iter().product::<usize>())
            .map(|voxel| {
                let at = [voxel % dims[0], voxel / dims[0] % dims[1], voxel / dims[0] / dims[1]];
                let body = at[axis] < 30 || at[axis] >= 140;
                if body { 100.0 * noise.next() } else { -1000.0 + noise.next() }
            })
            .collect();
        let volume = dense(&values, dims, Geometry::axis_aligned([1.5; 3]));
        let all = session.run(&volume, &RunOptions::default(), &mut Unobserved).unwrap();
        let run = |below: f32, region: Option<Region>| {
            let options =
                RunOptions { skip_air_below: Some(below), region, ..RunOptions::default() };
            let mut seen = Recorder::default();
            let options = RunOptions { probabilities: vec![0, 1], ..options };
            (session.run(&volume, &options, &mut seen).unwrap(), seen)
        };
        // Nothing is as low as this.
        let (none, _) = run(-2000.0, None);
        assert_eq!((none.report.skipped_tiles, &none.labels), (0, &all.labels));
        let (some, seen) = run(-500.0, None);
        assert!(some.report.skipped_tiles > 10, "{} tiles", some.report.skipped_tiles);
        assert_eq!(some.report.passes + some.report.skipped_tiles, some.report.tiles);
        let mut compared = 0;
        for voxel in 0..values.len() {
            let at = [voxel % dims[0], voxel / dims[0] % dims[1], voxel / dims[0] / dims[1]][axis];
            // Tiles of 16 voxels, 8 apart: those that reach into the bodies run.
            if (46..124).contains(&at) {
                assert_eq!(labels(&some)[voxel], 0, "axis {axis}, {at}");
                assert_eq!(seen.probabilities[voxel], 1.0);
                assert_eq!(seen.probabilities[values.len() + voxel], 0.0);
            } else if !(20..150).contains(&at) {
                assert_eq!(labels(&some)[voxel], labels(&all)[voxel], "axis {axis}, {at}");
                compared += usize::from(labels(&all)[voxel] != 0);
            }
        }
        assert!(compared > 100, "{compared} voxels have labels");
        // Air all around what is wanted.
        let mut wanted = dims.map(|extent| 0..extent);
        wanted[axis] = 60..100;
        let (nothing, _) = run(-500.0, Some(Region::Box(wanted)));
        assert_eq!(nothing.report.passes, 0);
        assert!(labels(&nothing).iter().all(|&label| label == 0));
    }
}

/// The largest component of every label.
fn largest() -> Vec<Cleanup> {
    vec![Cleanup::LargestComponent { labels: None, connectivity: 26 }]
}

#[test]
fn what_is_kept_is_cleaned_up_as_if_all_were() {
    let dims = [24, 16, 16];
    let values = noise(dims, 2);
    let volume = dense(&values, dims, Geometry::axis_aligned([1.5; 3]));
    let session = session(&SeededModel::small([16; 3], 5), 1);
    let of = |options: RunOptions| session.run(&volume, &options, &mut Unobserved).unwrap();
    let as_found = of(RunOptions::default());
    let fill = Cleanup::FillHoles { labels: None };
    let steps = [largest(), vec![fill.clone()], [largest(), vec![fill]].concat()];
    for cleanup in steps {
        let all = of(RunOptions { cleanup: cleanup.clone(), ..Default::default() });
        assert!(labels(&all) != labels(&as_found), "{cleanup:?} changes nothing");
        for kept in 1..5u8 {
            let keep = Some(vec![kept.into()]);
            let some = of(RunOptions { cleanup: cleanup.clone(), keep, ..Default::default() });
            for (&some, &all) in labels(&some).iter().zip(labels(&all)) {
                assert_eq!(some, if all == kept { kept } else { 0 });
            }
        }
    }
}

/// Notes how far a run got.
#[derive(Default)]
struct Last(Option<Progress>);

impl Observer for Last {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        self.0 = Some(*progress);
        ControlFlow::Continue(())
    }
}

#[test]
fn estimates_know_the_tiles_that_a_region_leaves_out() {
    let dims = [60, 44, 31];
    let values = noise(dims, 3);
    let volume = dense(&values, dims, Geometry::axis_aligned([1.5, 2.0, 1.1]));
    let session = session(&SeededModel::small([16, 8, 12], 5).folds(2), 2);
    let mask = |inside: &dyn Fn([usize; 3]) -> bool| {
        let voxels = 0..dims.iter().product::<usize>();
        let at = |voxel: usize| [voxel % 60, voxel / 60 % 44, voxel / 60 / 44];
        let mask: Vec<u8> = voxels.map(|voxel| inside(at(voxel)).into()).collect();
        Region::Mask(mask.into())
    };
    let regions = [
        Region::Box([0..60, 0..44, 0..31]),
        Region::Box([59..60, 0..1, 30..31]),
        Region::Box([20..31, 7..9, 12..20]),
        mask(&|[i, j, k]| i + j + k < 20 || [i, j, k] == [55, 40, 29]),
        mask(&|[i, j, k]| [i, j, k] == [30, 20, 10]),
        mask(&|_| false),
    ];
    for (number, region) in regions.into_iter().enumerate() {
        let options = RunOptions { region: Some(region), ..RunOptions::default() };
        let estimate = session.estimate(&volume, &options).unwrap();
        let mut last = Last::default();
        let report = session.run(&volume, &options, &mut last).unwrap().report;
        assert_eq!(report.estimate, estimate);
        assert_eq!((estimate.tiles, estimate.skipped_tiles), (report.tiles, report.skipped_tiles));
        assert_eq!(
            (estimate.passes, &estimate.part_passes[..]),
            (report.passes, &[report.passes][..])
        );
        assert_eq!(estimate.passes, 2 * (estimate.tiles - estimate.skipped_tiles));
        assert_eq!(estimate.skipped_tiles == 0, number == 0);
        assert_eq!(estimate.passes == 0, number == 5);
        let last = last.0.unwrap();
        assert_eq!((last.done, last.total), (report.passes, report.passes));
    }
}

#[test]
fn noise_takes_no_more_than_the_least_budget() {
    // Wide and flat, and most voxels a component: more than a table of components has room for.
    let dims = [160, 160, 4];
    let values = noise(dims, 4);
    let volume = dense(&values, dims, Geometry::axis_aligned([1.5; 3]));
    let model = Arc::new(Model::from_bytes(SeededModel::small([16; 3], 40).bytes()).unwrap());
    let cleanup = vec![Cleanup::MinimumSize { labels: None, connectivity: 6, mm3: 10.0 }];
    let options = RunOptions { cleanup, step: 1.0, ..Default::default() };
    let session = |host_budget_bytes| {
        let wishes = SessionOptions { threads: 2, host_budget_bytes, ..Default::default() };
        Session::new(Arc::clone(&model), &wishes).unwrap()
    };
    let unlimited = session(None).run(&volume, &options, &mut Unobserved).unwrap();
    let least = unlimited.report.estimate.least_host_bytes;
    let limited = session(Some(least)).run(&volume, &options, &mut Unobserved).unwrap();
    assert_eq!(limited.labels, unlimited.labels);
}

/// Stops a run at one of its calls.
struct StopAt {
    call: usize,
    calls: usize,
    last: Option<Phase>,
}

impl Observer for StopAt {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        self.last = Some(progress.phase);
        self.calls += 1;
        if self.calls == self.call { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_run_can_be_stopped_at_every_step_and_the_session_goes_on() {
    let values = noise([20, 16, 16], 2);
    let volume = dense(&values, [20, 16, 16], Geometry::axis_aligned([1.5; 3]));
    let session = session(&SeededModel::small([16; 3], 5), 2);
    let options = RunOptions { cleanup: largest(), ..RunOptions::default() };
    let expected = session.run(&volume, &options, &mut Unobserved).unwrap();
    for call in 1.. {
        let mut observer = StopAt { call, calls: 0, last: None };
        match session.run(&volume, &options, &mut observer) {
            Err(Error::Cancelled) => assert_eq!(observer.calls, call),
            Ok(found) => {
                assert_eq!(found.labels, expected.labels);
                assert_eq!(observer.last, Some(Phase::Restore));
                assert!(call > 4);
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn unusable_input_is_an_error_that_says_so() {
    let dims = [8, 9, 10];
    let good = noise(dims, 1);
    let geometry = Geometry::axis_aligned([1.5; 3]);
    let session = session(&SeededModel::small([8; 3], 4), 1);
    let run = |volume: &VolumeView, options: &RunOptions| {
        session.run(volume, options, &mut Unobserved).map(|_| ()).unwrap_err().to_string()
    };
    let options = RunOptions::default();

    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = good.clone();
        values[3 + 8 * (2 + 9 * 5)] = bad;
        values[700] = bad;
        let text = run(&dense(&values, dims, geometry), &options);
        assert!(text.contains("2 voxels that are not finite"), "{text}");
        assert!(text.contains("(3, 2, 5) of channel 0"), "{text}");
    }
    let volume = dense(&good, dims, geometry);
    let changed = |change: &dyn Fn(&mut VolumeView)| {
        let mut volume = volume;
        change(&mut volume);
        run(&volume, &options)
    };
    let text = changed(&|volume| volume.geometry.spacing[1] = 0.0);
    assert!(text.contains("expected positive numbers"), "{text}");
    let text = changed(&|volume| volume.geometry.spacing[1] = f64::NAN);
    assert!(text.contains("expected positive numbers"), "{text}");
    let text = changed(&|volume| volume.geometry.direction = [[1.0, 1.0, 0.0]; 3]);
    assert!(text.contains("span space"), "{text}");
    let text = changed(&|volume| volume.dims = [1 << 20, 1 << 20, 1]);
    assert!(text.contains("at most 2^36"), "{text}");
    let text = changed(&|volume| volume.dims = [usize::MAX; 3]);
    assert!(text.contains("at most 2^36"), "{text}");
    let text = changed(&|volume| volume.dims[2] = 11);
    assert!(text.contains("its memory has 2880 bytes"), "{text}");
    let text = changed(&|volume| volume.strides[0] = -4);
    assert!(text.contains("spans bytes -28"), "{text}");
    let text = changed(&|volume| volume.strides[2] = isize::MAX);
    assert!(text.contains("spans bytes") || text.contains("address space"), "{text}");
    let text = changed(&|volume| volume.channels = 2);
    assert!(text.contains("memory") || text.contains("channels"), "{text}");
    let text = changed(&|volume| volume.slope = f64::INFINITY);
    assert!(text.contains("slope"), "{text}");
    let text = changed(&|volume| volume.geometry.spacing = [1e7; 3]);
    assert!(text.contains("is the spacing right?"), "{text}");

    let text = run(&volume, &RunOptions { step: 0.0, ..Default::default() });
    assert!(text.contains("0 < step <= 1"), "{text}");
    let text = run(&volume, &RunOptions { keep: Some(vec![1, 4]), ..Default::default() });
    assert!(text.contains("no label 4"), "{text}");
    let text = run(&volume, &RunOptions { probabilities: vec![77], ..Default::default() });
    assert!(text.contains("no label 77"), "{text}");
    let refused = |step| run(&volume, &RunOptions { cleanup: vec![step], ..Default::default() });
    let text = refused(Cleanup::FillHoles { labels: Some(vec![1, 9]) });
    assert!(text.contains("clean up: the model has no label 9"), "{text}");
    let text = refused(Cleanup::FillHoles { labels: Some(vec![0]) });
    assert!(text.contains("0 is the background"), "{text}");
    let text = refused(Cleanup::LargestComponent { labels: None, connectivity: 18 });
    assert!(text.contains("connectivity is 18, expected 6 or 26"), "{text}");
    for mm3 in [-1.0, f64::NAN, f64::INFINITY] {
        let text = refused(Cleanup::MinimumSize { labels: None, connectivity: 6, mm3 });
        assert!(text.contains(&format!("size is {mm3} mm^3")), "{text}");
    }
}
