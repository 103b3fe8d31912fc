//! Every step of real nnU-Net v2 runs: the preprocessed image, the blended scores, the labels.
//! `tests/reference/make_cases.py` made the fixtures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::recorder::Recorder;
use half::f16;
use safetensors::{Dtype, SafeTensors};
use voxtile::session::LabelMap;
use voxtile::{Element, Geometry, Model, RunOptions, Session, SessionOptions, VolumeView};

const CASES: [&str; 11] = [
    "ct_resampled",
    "zscore_masked_crop",
    "zscore_two_channels",
    "thick_slices",
    "thick_network",
    "smaller_than_the_patch",
    "no_normalization",
    "transposed",
    "mirrored",
    "two_folds",
    "reoriented",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases")
}

/// A tensor's shape and values.
pub(crate) fn floats(file: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = file.tensor(name).unwrap();
    let values = match tensor.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec(tensor.data()),
        Dtype::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(tensor.data())
            .into_iter()
            .map(f16::to_f32)
            .collect(),
        other => panic!("{name} is {other:?}"),
    };
    (tensor.shape().to_vec(), values)
}

#[test]
fn every_step_of_every_case_is_nnu_net_s() {
    for name in CASES {
        let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let header = header.metadata().clone().unwrap();
        let spacing: [f64; 3] = serde_json::from_str(&header["spacing"]).unwrap();
        let direction: [f64; 9] = serde_json::from_str(&header["direction"]).unwrap();
        let mirror: bool = serde_json::from_str(&header["mirror"]).unwrap();

        let image = file.tensor("image").unwrap();
        let [channels, k, j, i] = image.shape().try_into().unwrap();
        let element = if image.dtype() == Dtype::I16 { Element::I16 } else { Element::F32 };
        let direction = std::array::from_fn(|row| std::array::from_fn(|c| direction[3 * row + c]));
        let geometry = Geometry { spacing, origin: [0.0; 3], direction };
        let volume =
            VolumeView::dense(image.data(), element, [i, j, k], channels, geometry).unwrap();

        let model = Model::open(folder().join(format!("{name}.model.safetensors"))).unwrap();
        let classes = model.package().labels.len() as u32;
        let session = Session::new(Arc::new(model), &SessionOptions::default()).unwrap();
        let probabilities = (0..classes).collect();
        let options = RunOptions {
            mirror,
            probabilities,
            preprocessed: true,
            scores: true,
            ..Default::default()
        };
        let mut seen = Recorder::default();
        let found = session.run(&volume, &options, &mut seen).unwrap();

        let (shape, pre) = floats(&file, "pre");
        assert_eq!(shape[1..], seen.shape, "{name}: shape of the preprocessed image");
        let worst =
            pre.iter().zip(&seen.preprocessed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name}: the preprocessed image differs by {worst}");

        // Stored in half precision, which alone accounts for about 3e-4.
        let (_, logits) = floats(&file, "logits");
        assert_eq!(logits.len(), seen.scores.len(), "{name}: number of scores");
        let (mut error, mut norm) = (0.0, 0.0);
        for (a, b) in logits.iter().zip(&seen.scores) {
            error += f64::from(a - f16::from_f32(*b).to_f32()).powi(2);
            norm += f64::from(*a).powi(2);
        }
        let relative = (error / norm).sqrt();
        assert!(relative < 1e-4, "{name}: the blended scores differ by {relative:e}");

        let LabelMap::U8(labels) = &found.labels else { panic!("labels fit a byte") };
        let (half, single) =
            (file.tensor("labels").unwrap(), file.tensor("labels_single").unwrap());
        let voxels = labels.len();
        assert_eq!(single.data().len(), voxels, "{name}: number of voxels");
        let (mut differ_half, mut differ_single, mut widest) = (0, 0, 0.0f32);
        for (voxel, &ours) in labels.iter().enumerate() {
            let (half, single) = (half.data()[voxel], single.data()[voxel]);
            let probability = |label: u8| seen.probabilities[usize::from(label) * voxels + voxel];
            // The difference of two scores is the logarithm of their probabilities' ratio.
            let margin = |label: u8| (probability(ours) / probability(label)).ln();
            if ours != single {
                differ_single += 1;
                let margin = margin(single);
                println!("{name}: voxel {voxel}: {single} became {ours}, ahead by {margin:e}");
                assert!(margin < 1e-4, "{name}: voxel {voxel} is no tie: {margin:e}");
            }
            if ours != half {
                differ_half += 1;
                widest = widest.max(margin(half));
                // Where nnU-Net's half precision decides, its own single precision disagrees too.
                assert!(
                    half != single || margin(half) < 1e-4,
                    "{name}: voxel {voxel}: {half} became {ours}, ahead by {:e}",
                    margin(half)
                );
            }
        }
        println!(
            "{name}: image within {worst:.1e}, scores within {relative:.1e}; of {voxels} labels \
             {differ_single} differ from nnU-Net's with single-precision sums, {differ_half} with \
             half-precision sums, by scores within {widest:.3}"
        );
        assert!(differ_single * 10_000 <= voxels, "{name}: {differ_single} labels differ");
    }
}
