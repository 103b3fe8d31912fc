//! The shipped demonstration, through the whole pipeline.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::recorder::Recorder;
use voxtile::formats::nifti;
use voxtile::session::{LabelMap, Unobserved};
use voxtile::{Model, RunOptions, Session, SessionOptions};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// The label value of each structure in the reference, which is TotalSegmentator's.
const REFERENCE: &[(&str, i64)] = &[
    ("spleen", 1),
    ("kidney_right", 2),
    ("kidney_left", 3),
    ("gallbladder", 4),
    ("liver", 5),
    ("stomach", 6),
    ("lung_lower_lobe_left", 11),
    ("lung_lower_lobe_right", 14),
    ("colon", 20),
    ("vertebrae_L2", 30),
    ("vertebrae_L1", 31),
    ("vertebrae_T12", 32),
    ("inferior_vena_cava", 63),
    ("autochthon_left", 86),
    ("autochthon_right", 87),
    ("costal_cartilages", 117),
];

#[test]
fn the_demo_finds_the_structures_it_was_trained_on() {
    let model = Model::open(example("demo.safetensors")).unwrap();
    let package = model.package().clone();
    assert!(package.demo && package.description.contains("Not for patients"));
    assert!(model.parameters() < 1_000_000);
    assert!(std::fs::metadata(example("demo.safetensors")).unwrap().len() < 2_000_000);
    assert_eq!(package.labels.len(), REFERENCE.len() + 1);

    let image = nifti::read(&example("ct_part.nii.gz")).unwrap();
    let reference = nifti::read(&example("ct_part_labels.nii.gz")).unwrap();
    assert_eq!(image.dims, reference.dims);
    let session = Session::new(Arc::new(model), &SessionOptions::default()).unwrap();
    let found = session.run(&image.view(), &RunOptions::default(), &mut Unobserved).unwrap();
    let LabelMap::U8(labels) = found.labels else { panic!("labels fit a byte") };

    assert_eq!(reference.element.size(), 1, "the reference holds bytes");
    let mut sum = 0.0;
    for (name, theirs) in REFERENCE {
        let ours = package.labels.iter().find(|label| label.name == *name).unwrap().value as u8;
        let theirs = *theirs as u8;
        let (mut both, mut either) = (0, 0);
        for (&a, &b) in labels.iter().zip(reference.bytes.iter()) {
            both += usize::from(a == ours && b == theirs);
            either += usize::from(a == ours) + usize::from(b == theirs);
        }
        let dice = 2.0 * both as f64 / either as f64;
        println!("{name:24} Dice {dice:.3}");
        assert!(dice > 0.8, "{name}: Dice {dice:.3}");
        sum += dice;
    }
    let mean = sum / REFERENCE.len() as f64;
    println!("mean Dice {mean:.3}");
    assert!(mean >= 0.9, "mean Dice {mean:.3}");
}

/// `tests/reference/make_demo_labels.py` made the label maps.
#[test]
fn the_demo_s_labels_are_nnu_net_s() {
    let model = Arc::new(Model::open(example("demo.safetensors")).unwrap());
    let classes = model.package().labels.len() as u32;
    let session = Session::new(model, &SessionOptions::default()).unwrap();
    let mut image = nifti::read(&example("ct.nii.gz")).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/demo");
    for (file, spacing) in
        [("labels.nii.gz", image.geometry.spacing), ("labels_respaced.nii.gz", [2.4, 2.7, 3.3])]
    {
        image.geometry.spacing = spacing;
        let theirs = nifti::read(&folder.join(file)).unwrap();
        let options = RunOptions { probabilities: (0..classes).collect(), ..Default::default() };
        let mut seen = Recorder::default();
        let found = session.run(&image.view(), &options, &mut seen).unwrap();
        let LabelMap::U8(labels) = found.labels else { panic!("labels fit a byte") };
        assert_eq!((theirs.dims, theirs.bytes.len()), (image.dims, labels.len()));
        let (mut differ, mut widest) = (0, 0.0f32);
        for (voxel, (&ours, &theirs)) in labels.iter().zip(theirs.bytes.iter()).enumerate() {
            if ours != theirs {
                let probability =
                    |label: u8| seen.probabilities[usize::from(label) * labels.len() + voxel];
                // The difference of two scores is the logarithm of their probabilities' ratio.
                widest = widest.max((probability(ours) / probability(theirs)).ln());
                differ += 1;
            }
        }
        println!(
            "{file}: {differ} of {} labels differ, all by scores within {widest}",
            labels.len()
        );
        assert!(differ * 10_000 <= labels.len(), "{file}: {differ} labels differ");
        // nnU-Net adds its scores in half precision.
        assert!(widest < 0.01, "{file}: a label differs by {widest}");
    }
}
