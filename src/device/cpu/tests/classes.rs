//! Scores to classes and probabilities, on each instruction set.

use super::super::kernels::Kernels;
use super::super::probability;
use super::super::scores::{Side, VOXELS};
use super::super::simd::Instructions;
use crate::device::Precision;

const INFINITY: f32 = f32::INFINITY;

fn every_table() -> impl Iterator<Item = &'static Kernels> {
    let sets = Instructions::available().into_iter();
    sets.flat_map(|set| [Precision::F32, Precision::Bf16].map(|of| Kernels::of(set, of).unwrap()))
}

/// Scores of a few values, so that many tie, or are minus infinity.
fn scores(classes: usize) -> Vec<Side> {
    let value = |class: usize, voxel: usize| match (class * 7 + voxel * 13) % 11 {
        10 => -INFINITY,
        n => n as f32 - 4.0,
    };
    (0..classes).map(|class| std::array::from_fn(|voxel| value(class, voxel))).collect()
}

#[test]
fn the_lowest_of_the_highest_classes_is_found() {
    for kernels in every_table() {
        for classes in [2, 5, 105] {
            let scores = scores(classes);
            let mut found = [u16::MAX; VOXELS];
            // SAFETY: the processor has the instructions.
            assert!(unsafe { (kernels.highest)(&scores, &mut found) });
            for (voxel, found) in found.into_iter().enumerate() {
                let highest = scores.iter().map(|scores| scores[voxel]).fold(-INFINITY, f32::max);
                let first = scores.iter().position(|scores| scores[voxel] == highest);
                assert_eq!(Some(usize::from(found)), first);
            }
        }
    }
}

#[test]
fn scores_that_are_not_finite_are_found_in_any_class_and_voxel() {
    for kernels in every_table() {
        for (class, voxel) in [(0, 0), (0, VOXELS - 1), (3, 17), (4, 8)] {
            for odd in [f32::NAN, INFINITY] {
                let mut scores = vec![[0.5; VOXELS]; 5];
                scores[class][voxel] = odd;
                let mut classes = [0; VOXELS];
                // SAFETY: the processor has the instructions.
                unsafe {
                    assert!(!(kernels.highest)(&scores, &mut classes));
                    assert!(!(kernels.last_above)(&scores, 0.0, &mut classes));
                    // Nor do they become probabilities.
                    (kernels.softmax)(&mut scores);
                    assert!(!(kernels.highest)(&scores, &mut classes));
                    scores[class][voxel] = f32::NAN;
                    (kernels.sigmoid)(&mut scores);
                    assert!(!(kernels.last_above)(&scores, 0.5, &mut classes));
                }
            }
        }
        let nowhere = [[-INFINITY; VOXELS]; 2];
        // SAFETY: as above.
        assert!(!unsafe { (kernels.highest)(&nowhere, &mut [0; VOXELS]) });
    }
}

#[test]
fn probabilities_are_close_on_every_instruction_set() {
    let scores = scores(5);
    let (mut of_classes, mut of_regions) = (scores.clone(), scores.clone());
    probability::softmax(&mut of_classes);
    probability::sigmoid(&mut of_regions);
    for kernels in every_table() {
        let (mut softmax, mut sigmoid) = (scores.clone(), scores.clone());
        // SAFETY: the processor has the instructions.
        unsafe {
            (kernels.softmax)(&mut softmax);
            (kernels.sigmoid)(&mut sigmoid);
        }
        for (found, expected) in [(softmax, &of_classes), (sigmoid, &of_regions)] {
            let pairs = found.as_flattened().iter().zip(expected.as_flattened());
            assert!(pairs.clone().all(|(found, expected)| (found - expected).abs() < 1e-6));
        }
    }
}
