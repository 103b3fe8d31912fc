//! The shipped demonstration, through the whole pipeline.

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        for (&a, &b) in labels.iter().zip(&reference.bytes) {
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
