//! Sessions on an emulated GPU, several at a time.
#![cfg(feature = "cuda")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/emulator.rs"]
mod emulator;

use std::ops::ControlFlow;
use std::sync::{Arc, Barrier};
use std::thread;

use common::{Noise, SeededModel};
use voxtile::device::{DeviceChoice, Precision};
use voxtile::session::{LabelMap, Observer, Phase, Progress, Unobserved};
use voxtile::{Element, Error, Geometry, Model, RunOptions, Session, SessionOptions, VolumeView};

const DIMS: [usize; 3] = [26, 20, 18];

fn voxels(seed: u64) -> Vec<u8> {
    let mut noise = Noise(seed);
    (0..DIMS.iter().product()).map(|_| (noise.next() * 60.0 + 100.0) as u8).collect()
}

fn view(bytes: &[u8]) -> VolumeView<'_> {
    VolumeView {
        bytes,
        element: Element::U8,
        dims: DIMS,
        strides: [1, DIMS[0] as isize, (DIMS[0] * DIMS[1]) as isize],
        channels: 1,
        channel_stride: 0,
        first: 0,
        slope: 1.0,
        intercept: 0.0,
        geometry: Geometry::axis_aligned([1.5; 3]),
    }
}

fn model(classes: usize) -> Arc<Model> {
    Arc::new(Model::from_bytes(SeededModel::small([16; 3], classes).bytes()).unwrap())
}

fn session(model: &Arc<Model>, device: DeviceChoice) -> Session {
    let options = SessionOptions { device, threads: 1, ..SessionOptions::default() };
    Session::new(Arc::clone(model), &options).unwrap()
}

fn labels(session: &Session, voxels: &[u8]) -> LabelMap {
    session.run(&view(voxels), &RunOptions::default(), &mut Unobserved).unwrap().labels
}

/// Two models on one GPU and one on another, each in a thread of its own; the sessions then go on in
/// the thread that made none of them.
#[test]
fn sessions_share_gpus() {
    let settings = [("DEVICES", "2"), ("SEED", "5"), ("THREADS", "1")];
    if !emulator::inside("sessions_share_gpus", &settings) {
        return;
    }
    let second = DeviceChoice::Cuda(u32::from(!emulator::real()));
    let work = [
        (model(5), DeviceChoice::Cuda(0), 1),
        (model(3), DeviceChoice::Cuda(0), 2),
        (model(5), second, 3),
    ];
    let alone: Vec<LabelMap> = work
        .iter()
        .map(|(model, device, seed)| labels(&session(model, *device), &voxels(*seed)))
        .collect();
    let together = Barrier::new(work.len());
    let sessions: Vec<Session> = thread::scope(|scope| {
        let threads: Vec<_> = work
            .iter()
            .zip(&alone)
            .map(|((model, device, seed), expected)| {
                let together = &together;
                scope.spawn(move || {
                    together.wait();
                    let session = session(model, *device);
                    for _ in 0..2 {
                        assert!(labels(&session, &voxels(*seed)) == *expected);
                    }
                    session
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for ((session, (_, device, seed)), expected) in sessions.iter().zip(&work).zip(&alone) {
        assert!(labels(session, &voxels(*seed)) == *expected);
        let gpu = session.device().gpu.as_ref().unwrap();
        assert_eq!(DeviceChoice::Cuda(gpu.ordinal), *device);
        assert_eq!(session.chosen_device().precision, Precision::F16);
    }
}

/// Stops a run at its first tiles.
struct Stop(usize);

impl Observer for Stop {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        match (progress.phase, progress.done) {
            (Phase::Tiles, done) if done >= self.0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[test]
fn a_cancelled_run_leaves_nothing_behind() {
    let settings = [("SEED", "7"), ("THREADS", "1")];
    if !emulator::inside("a_cancelled_run_leaves_nothing_behind", &settings) {
        return;
    }
    let session = session(&model(5), DeviceChoice::Auto);
    assert_eq!(session.device().kind, "cuda");
    let voxels = voxels(1);
    let expected = labels(&session, &voxels);
    let options = RunOptions::default();
    let free = || voxtile::device::gpu_info(0).unwrap().memory_free_bytes;
    let before = free();
    for tiles in [0, 1, 3] {
        let stopped = session.run(&view(&voxels), &options, &mut Stop(tiles));
        assert!(matches!(stopped, Err(Error::Cancelled)));
        assert_eq!(free(), before, "after {tiles} tiles");
        assert!(labels(&session, &voxels) == expected);
    }
    let seconds = session.network_seconds(&session.estimate(&view(&voxels), &options).unwrap());
    assert!(seconds.unwrap() > 0.0);
    assert!(labels(&session, &voxels) == expected);
}

/// A GPU resamples by itself, unless the processor must see the planes: to look for air, here.
#[test]
fn volumes_of_another_spacing() {
    if !emulator::inside("volumes_of_another_spacing", &[("THREADS", "1")]) {
        return;
    }
    // nnU-Net 1 measures what was resampled.
    let first = SeededModel::small([16; 3], 5).with("generation", "nnunet_v1".into());
    for model in [model(5), Arc::new(Model::from_bytes(first.bytes()).unwrap())] {
        resamples_as_the_processor(&model);
    }
}

fn resamples_as_the_processor(model: &Arc<Model>) {
    let voxels = voxels(1);
    let volume = VolumeView { geometry: Geometry::axis_aligned([1.1, 1.1, 2.3]), ..view(&voxels) };
    let labels = |device, skip_air_below| {
        let precision = Some(Precision::F32);
        let options = SessionOptions { device, precision, threads: 1, ..SessionOptions::default() };
        let session = Session::new(Arc::clone(model), &options).unwrap();
        let options = RunOptions { skip_air_below, ..RunOptions::default() };
        match session.run(&volume, &options, &mut Unobserved).unwrap().labels {
            LabelMap::U8(labels) => labels,
            LabelMap::U16(_) => panic!("five classes fit a byte"),
        }
    };
    let expected = labels(DeviceChoice::Cpu, None);
    assert!((1..5).any(|class| expected.contains(&class)));
    for skip_air_below in [None, Some(-1e6)] {
        let found = labels(DeviceChoice::Cuda(0), skip_air_below);
        let differ = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert!(differ * 500 <= expected.len(), "{differ} of {}", expected.len());
    }
}

/// The parts of a model take the GPU in turn.
#[test]
fn folds_and_a_budget() {
    if !emulator::inside("folds_and_a_budget", &[("THREADS", "1")]) {
        return;
    }
    let package = SeededModel::small([16; 3], 5).folds(2).bytes();
    let model = Arc::new(Model::from_bytes(package).unwrap());
    let voxels = voxels(1);
    let options = RunOptions::default();
    let free = session(&model, DeviceChoice::Cuda(0));
    let expected = labels(&free, &voxels);
    let estimate = free.estimate(&view(&voxels), &options).unwrap();
    assert!(estimate.least_device_bytes < estimate.device_bytes);
    let budget = |device_budget_bytes| {
        let device = DeviceChoice::Cuda(0);
        let options = SessionOptions { device, device_budget_bytes, ..SessionOptions::default() };
        Session::new(Arc::clone(&model), &options)
    };
    let lean = budget(Some(estimate.least_device_bytes)).unwrap();
    let found = lean.run(&view(&voxels), &options, &mut Unobserved).unwrap();
    assert!(found.labels == expected);
    assert_eq!(found.report.estimate.device_bytes, estimate.least_device_bytes);
    let short = budget(Some(estimate.least_device_bytes - 1)).unwrap();
    match short.run(&view(&voxels), &options, &mut Unobserved) {
        Err(Error::DeviceMemory { needed_bytes, available_bytes, .. }) => {
            assert_eq!(needed_bytes, estimate.least_device_bytes);
            assert_eq!(available_bytes, needed_bytes - 1);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(budget(Some(1000)), Err(Error::DeviceMemory { available_bytes: 1000, .. })));
}
