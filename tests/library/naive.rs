//! The engine against a naive in-memory one: whole arrays, loops over voxels, no rings, no slabs,
//! no shortcuts. Random volumes, patches, steps, orders of axes, label subsets, regions, budgets.

use std::ops::Range;
use std::sync::Arc;

use crate::common::{Noise, SeededModel};
use crate::recorder::Recorder;
use proptest::prelude::*;
use serde_json::json;
use voxtile::device::Accumulators;
use voxtile::session::{Export, Grid, LabelMap, Region, Segmentation, Unobserved};
use voxtile::volume::{AxisMap, Generation};
use voxtile::window::{tile_starts, weights};
use voxtile::{Element, Geometry, Model, RunOptions, Session, SessionOptions, VolumeView};

const CLASSES: usize = 4;

fn session(model: &SeededModel, budget: Option<u64>) -> Session {
    let options =
        SessionOptions { threads: 2, host_budget_bytes: budget, ..SessionOptions::default() };
    Session::new(Arc::new(Model::from_bytes(model.bytes()).unwrap()), &options).unwrap()
}

fn view<'a>(values: &'a [f32], dims: [usize; 3], spacing: [f64; 3]) -> VolumeView<'a> {
    let geometry = Geometry::axis_aligned(spacing);
    VolumeView::dense(bytemuck::cast_slice(values), Element::F32, dims, 1, geometry).unwrap()
}

fn labels(found: &Segmentation) -> &[u8] {
    match &found.labels {
        LabelMap::U8(labels) => labels,
        LabelMap::U16(_) => panic!("labels fit a byte"),
    }
}

/// A whole array and its shape.
struct Array {
    shape: [usize; 3],
    values: Vec<f32>,
}

impl Array {
    fn at(&self, [a, b, c]: [usize; 3]) -> f32 {
        self.values[(a * self.shape[1] + b) * self.shape[2] + c]
    }
}

fn places(shape: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [a, b, c] = shape;
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| [i, j, k])))
}

/// The class scores of every tile of a prepared volume, blended over the whole volume:
/// `[classes]`, each on the volume's grid. `wanted(tile)` leaves tiles out.
fn blended(
    tile_model: &Session,
    volume: &Array,
    patch: [usize; 3],
    step: f64,
    softmax: bool,
) -> Vec<Array> {
    let padded: [usize; 3] = std::array::from_fn(|axis| volume.shape[axis].max(patch[axis]));
    let before: [usize; 3] = std::array::from_fn(|axis| (padded[axis] - volume.shape[axis]) / 2);
    let window = weights(patch, Generation::V2, 2).unwrap();
    let voxels: usize = volume.shape.iter().product();
    let mut sums = vec![vec![0.0f64; voxels]; CLASSES];
    let mut weight_sums = vec![0.0f64; voxels];
    let starts: [Vec<usize>; 3] =
        std::array::from_fn(|axis| tile_starts(volume.shape[axis], patch[axis], step));
    for index in places(starts.each_ref().map(Vec::len)) {
        let start: [usize; 3] = std::array::from_fn(|axis| starts[axis][index[axis]]);
        let inside = |at: [usize; 3]| -> Option<[usize; 3]> {
            let mut place = [0; 3];
            for axis in 0..3 {
                place[axis] = (start[axis] + at[axis]).checked_sub(before[axis])?;
                if place[axis] >= volume.shape[axis] {
                    return None;
                }
            }
            Some(place)
        };
        // A blank voxel would be cropped: 1e-30 stands for zero.
        let tile: Vec<f32> = places(patch)
            .map(|at| inside(at).map_or(0.0, |place| volume.at(place)))
            .map(|value| if value == 0.0 { 1e-30 } else { value })
            .collect();
        let mut seen = Recorder::default();
        let dims = [patch[2], patch[1], patch[0]];
        let options = RunOptions { scores: true, ..RunOptions::default() };
        tile_model.run(&view(&tile, dims, [1.5; 3]), &options, &mut seen).unwrap();
        for (number, at) in places(patch).enumerate() {
            let Some([a, b, c]) = inside(at) else { continue };
            let voxel = (a * volume.shape[1] + b) * volume.shape[2] + c;
            let score = |class: usize| f64::from(seen.scores[class * tile.len() + number]);
            let total: f64 = (0..CLASSES).map(|class| score(class).exp()).sum();
            weight_sums[voxel] += f64::from(window[number]);
            for (class, sums) in sums.iter_mut().enumerate() {
                let value = if softmax { score(class).exp() / total } else { score(class) };
                sums[voxel] += f64::from(window[number]) * value;
            }
        }
    }
    sums.into_iter()
        .map(|sums| {
            let means = sums.iter().zip(&weight_sums).map(|(sum, weight)| (sum / weight) as f32);
            Array { shape: volume.shape, values: means.collect() }
        })
        .collect()
}

/// Linear interpolation to a grid of `shape` voxels.
fn interpolated(from: &Array, shape: [usize; 3]) -> Array {
    let maps: [AxisMap; 3] =
        std::array::from_fn(|axis| AxisMap::linear(from.shape[axis], shape[axis]));
    let value = |at: [usize; 3]| {
        let mut sum = 0.0f64;
        for corner in 0..8 {
            let (mut place, mut weight) = ([0; 3], 1.0f64);
            for axis in 0..3 {
                let (map, upper) = (&maps[axis], corner >> axis & 1 == 1);
                let fraction = f64::from(map.fraction[at[axis]]);
                let (voxel, share) = match upper {
                    true => (map.high[at[axis]], fraction),
                    false => (map.low[at[axis]], 1.0 - fraction),
                };
                place[axis] = voxel as usize;
                weight *= share;
            }
            sum += weight * f64::from(from.at(place));
        }
        sum as f32
    };
    Array { shape, values: places(shape).map(value).collect() }
}

#[derive(Clone, Debug)]
struct Wish {
    dims: [usize; 3],
    spacing: [f64; 3],
    patch: [usize; 3],
    step: f64,
    transpose: [usize; 3],
    softmax: bool,
    keep: Option<Vec<u32>>,
    region: Option<[Range<usize>; 3]>,
    seed: u64,
}

fn wish() -> impl Strategy<Value = Wish> {
    let transposes = [[0, 1, 2], [2, 0, 1], [1, 0, 2], [0, 2, 1]];
    let sizes = (
        prop::array::uniform3(3usize..30),
        prop::array::uniform3(0.8f64..2.4),
        prop::array::uniform3(2usize..5),
        0.3f64..=1.0,
    );
    let choices = (
        prop::sample::select(transposes.to_vec()),
        any::<bool>(),
        prop::option::of(prop::collection::vec(0u32..4, 1..3)),
        prop::option::of(prop::array::uniform6(0.0f64..1.0)),
        any::<u64>(),
    );
    (sizes, choices).prop_map(
        |((dims, spacing, quarters, step), (transpose, softmax, keep, region, seed))| Wish {
            dims,
            spacing,
            patch: quarters.map(|quarter| 4 * quarter),
            step,
            transpose,
            softmax,
            keep,
            region: region.map(|shares| {
                std::array::from_fn(|axis| {
                    let (a, b) = (shares[2 * axis], shares[2 * axis + 1]);
                    let place = |share: f64| (share * dims[axis] as f64) as usize;
                    place(a.min(b))..(place(a.max(b)) + 1).min(dims[axis])
                })
            }),
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_run_gives_what_a_naive_one_gives(wish in wish()) {
        let Wish { dims, spacing, patch, transpose, .. } = wish;
        let mut noise = Noise(wish.seed);
        let voxels: usize = dims.iter().product();
        let values: Vec<f32> = (0..voxels).map(|_| noise.next() + 0.001).collect();
        let volume = view(&values, dims, spacing);
        let model = SeededModel::small(patch, CLASSES)
            .with("normalization", json!([{ "scheme": "none" }]))
            .with("resampling", json!({
                "image": { "order": 3, "separate_axis": "never" },
                "scores": { "order": 1, "separate_axis": "never" },
            }))
            .with("axes", json!({ "orientation": "stored", "transpose": transpose }))
            .with("blend", json!(if wish.softmax { "softmax" } else { "logits" }));

        // What the network sees, from the engine itself: preprocessing has tests of its own.
        let engine = session(&model, None);
        let mut seen = Recorder::default();
        let shown = RunOptions {
            step: wish.step, preprocessed: true, scores: true, ..RunOptions::default()
        };
        engine.run(&volume, &shown, &mut seen).unwrap();
        let prepared = Array { shape: seen.shape, values: seen.preprocessed.clone() };

        let tile_model = SeededModel::small(patch, CLASSES)
            .with("normalization", json!([{ "scheme": "none" }]));
        let scores =
            blended(&session(&tile_model, None), &prepared, patch, wish.step, wish.softmax);
        let stored: Vec<f32> = scores.iter().flat_map(|array| array.values.clone()).collect();
        for (a, b) in stored.iter().zip(&seen.scores) {
            prop_assert!((a - b).abs() < 1e-4, "score {b}, naively {a}");
        }

        // On the caller's grid, whose axes (k, j, i) the network's are in another order.
        let dims_kji = [dims[2], dims[1], dims[0]];
        let native = transpose.map(|axis| dims_kji[axis]);
        let scores: Vec<Array> = scores.iter().map(|array| interpolated(array, native)).collect();
        let options = RunOptions {
            step: wish.step,
            keep: wish.keep.clone(),
            region: wish.region.clone().map(Region::Box),
            ..RunOptions::default()
        };
        let found = engine.run(&volume, &options, &mut Unobserved).unwrap();
        let mut asked = Recorder::default();
        let all = RunOptions { probabilities: vec![0, 1, 2, 3], ..options.clone() };
        let with_probabilities = engine.run(&volume, &all, &mut asked).unwrap();
        prop_assert_eq!(&with_probabilities.labels, &found.labels);

        for place in places(native) {
            let mut kji = [0; 3];
            (0..3).for_each(|axis| kji[transpose[axis]] = place[axis]);
            let voxel = (kji[0] * dims[1] + kji[1]) * dims[0] + kji[2];
            let label = labels(&found)[voxel];
            let ijk = [kji[2], kji[1], kji[0]];
            let wanted = wish.region.as_ref()
                .is_none_or(|region| (0..3).all(|axis| region[axis].contains(&ijk[axis])));
            if !wanted {
                prop_assert_eq!(label, 0);
                continue;
            }
            let at: Vec<f32> = scores.iter().map(|array| array.at(place)).collect();
            let best = at.iter().copied().fold(f32::MIN, f32::max);
            let ties: Vec<usize> = (0..CLASSES).filter(|&class| best - at[class] < 1e-4).collect();
            let kept = |class: usize| {
                let stays = wish.keep.as_ref().is_none_or(|keep| keep.contains(&(class as u32)));
                if stays { class as u8 } else { 0 }
            };
            prop_assert!(
                ties.iter().any(|&class| kept(class) == label),
                "voxel {:?} is {}, naively {:?} of {:?}", ijk, label, ties, at
            );
            let total: f32 = at.iter().map(|score| (score - best).exp()).sum();
            for (class, &score) in at.iter().enumerate() {
                let expected = if wish.softmax { score } else { (score - best).exp() / total };
                let given = asked.probabilities[class * voxels + voxel];
                prop_assert!((expected - given).abs() < 1e-4, "probability {given}, {expected}");
            }
        }
    }

    #[test]
    fn every_budget_gives_the_same_bits(wish in wish(), share in 0.0f64..1.0) {
        let mut noise = Noise(wish.seed);
        let voxels: usize = wish.dims.iter().product();
        let values: Vec<f32> = (0..voxels).map(|_| noise.next() + 0.2).collect();
        let volume = view(&values, wish.dims, wish.spacing);
        let model = SeededModel::small(wish.patch, CLASSES)
            .with("axes", json!({ "orientation": "stored", "transpose": wish.transpose }))
            .with("blend", json!(if wish.softmax { "softmax" } else { "logits" }));
        let mask: Vec<u8> = (0..voxels).map(|_| u8::from(noise.next() > 0.9)).collect();
        let air = (wish.seed % 3 == 0).then_some(0.7);
        for options in [
            RunOptions { probabilities: vec![1, 3], ..RunOptions::default() },
            RunOptions { export: Export::Labels, ..RunOptions::default() },
            RunOptions { accumulators: Accumulators::F16, ..RunOptions::default() },
            RunOptions {
                probabilities: vec![2],
                probability_grid: Grid::Network,
                region: Some(Region::Mask(mask.into())),
                ..RunOptions::default()
            },
        ] {
            let options = RunOptions {
                step: wish.step, keep: wish.keep.clone(), skip_air_below: air, ..options
            };
            let mut expected = Recorder::default();
            let free = session(&model, None);
            let first = free.run(&volume, &options, &mut expected).unwrap();
            let estimate = free.estimate(&volume, &options).unwrap();
            let (least, most) = (estimate.least_host_bytes, estimate.host_bytes);
            let between = least + ((most - least) as f64 * share) as u64;
            let mut choices = Vec::new();
            for budget in [least, between, most] {
                let mut seen = Recorder::default();
                let found =
                    session(&model, Some(budget)).run(&volume, &options, &mut seen).unwrap();
                prop_assert_eq!(&found.labels, &first.labels);
                let bits = |values: &[f32]| -> Vec<u32> {
                    values.iter().map(|value| value.to_bits()).collect()
                };
                prop_assert_eq!(bits(&seen.probabilities), bits(&expected.probabilities));
                choices.push(found.report.estimate.choices.slab_planes);
            }
            prop_assert!(choices.is_sorted(), "{choices:?}");
        }
    }
}
