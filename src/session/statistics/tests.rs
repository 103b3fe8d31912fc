//! Statistics against sums over all voxels, one label after the other.

use proptest::prelude::*;

use super::*;
use crate::base::Element;

const GEOMETRY: Geometry = Geometry {
    spacing: [0.5, 1.5, 4.0],
    origin: [-30.5, 12.25, 700.0],
    direction: [[0.8, 0.0, -0.6], [0.0, -1.0, 0.0], [0.6, 0.0, 0.8]],
};

/// What the definition says, voxel by voxel.
fn naive(
    labels: &[u16],
    dims: [usize; 3],
    value: u16,
    values: Option<&[f64]>,
) -> Option<LabelStatistics> {
    let voxels: Vec<usize> = (0..labels.len()).filter(|&voxel| labels[voxel] == value).collect();
    let count = voxels.len() as f64;
    let place =
        |voxel: usize| [voxel % dims[0], voxel / dims[0] % dims[1], voxel / dims[0] / dims[1]];
    let point = |voxel: usize, world: usize| {
        let steps = (0..3).map(|axis| {
            GEOMETRY.direction[world][axis] * GEOMETRY.spacing[axis] * place(voxel)[axis] as f64
        });
        GEOMETRY.origin[world] + steps.sum::<f64>()
    };
    let extreme = |axis: usize| {
        let all = voxels.iter().map(move |&voxel| place(voxel)[axis]);
        Some((all.clone().min()?, all.max()?))
    };
    let extremes = [extreme(0)?, extreme(1)?, extreme(2)?];
    let intensity = values.map(|values| {
        let of_label = || voxels.iter().map(|&voxel| values[voxel]);
        let mean = of_label().sum::<f64>() / count;
        let squares: f64 = of_label().map(|value| (value - mean).powi(2)).sum();
        IntensityStatistics {
            mean,
            deviation: (squares / count).sqrt(),
            minimum: of_label().fold(f64::INFINITY, f64::min),
            maximum: of_label().fold(f64::NEG_INFINITY, f64::max),
        }
    });
    Some(LabelStatistics {
        value: value.into(),
        voxels: voxels.len() as u64,
        milliliters: count * 0.003,
        intensity,
        bounding_box: [extremes.map(|(low, _)| low), extremes.map(|(_, high)| high)],
        centroid_mm: std::array::from_fn(|world| {
            voxels.iter().map(|&voxel| point(voxel, world)).sum::<f64>() / count
        }),
    })
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + b.abs())
}

fn alike(found: &LabelStatistics, expected: &LabelStatistics) -> bool {
    let numbers = |of: &LabelStatistics| (of.value, of.voxels, of.bounding_box);
    let intensity = match (&found.intensity, &expected.intensity) {
        (Some(found), Some(expected)) => {
            close(found.mean, expected.mean, 1e-12)
                && close(found.deviation, expected.deviation, 1e-9)
                && found.minimum == expected.minimum
                && found.maximum == expected.maximum
        }
        (found, expected) => found.is_none() && expected.is_none(),
    };
    numbers(found) == numbers(expected)
        && close(found.milliliters, expected.milliliters, 1e-12)
        && (0..3).all(|at| close(found.centroid_mm[at], expected.centroid_mm[at], 1e-12))
        && intensity
}

proptest! {
    #[test]
    fn statistics_are_what_the_definition_says(
        dims in [1usize..40, 1usize..6, 1usize..8],
        stretches in proptest::collection::vec((0u16..5, 1usize..40), 39 * 5 * 7),
        stored in proptest::collection::vec(-1000i16..3000, 39 * 5 * 7),
        wide: bool, with_values: bool
    ) {
        let count = dims.iter().product();
        let labels: Vec<u16> = stretches
            .iter()
            .flat_map(|&(label, length)| std::iter::repeat_n(label, length))
            .take(count)
            .map(|label| if wide && label > 0 { label + 65531 } else { label })
            .collect();
        // The volume's axes run the other way round, and its values are scaled.
        let [ni, nj, nk] = dims;
        let size = 2isize;
        let strides =
            [-size * (nj * nk) as isize, size * nk as isize, -size];
        let at = |i: usize, j: usize, k: usize| ((ni - 1 - i) * nj + j) * nk + nk - 1 - k;
        let values: Vec<f64> = (0..count)
            .map(|voxel| f64::from(stored[at(voxel % ni, voxel / ni % nj, voxel / ni / nj)]))
            .map(|stored| stored * 0.5 - 1024.0)
            .collect();
        let bytes: &[u8] = bytemuck::cast_slice(&stored);
        let volume = VolumeView {
            bytes, element: Element::I16, dims, strides, channels: 1, channel_stride: 0,
            first: 2 * at(0, 0, 0), slope: 0.5, intercept: -1024.0, geometry: GEOMETRY,
        };
        let values = with_values.then_some(&values[..]);
        let volume = with_values.then_some(&volume);
        let expected: Vec<_> = (1..=u16::MAX)
            .filter(|value| *value < 5 || *value > 65531)
            .filter_map(|value| naive(&labels, dims, value, values))
            .collect();
        let map = match wide {
            true => LabelMap::U16(labels),
            false => LabelMap::U8(labels.iter().map(|&label| label as u8).collect()),
        };
        let on = |threads| {
            statistics(&map, dims, &GEOMETRY, volume, &Pool::new(threads).unwrap()).unwrap()
        };
        let found = on(1);
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!(alike(found, expected), "{:?}\nexpected {:?}", found, expected);
        }
        // The same bits, not only the same numbers.
        let bits = |all: &[LabelStatistics]| format!("{all:?}");
        prop_assert_eq!(bits(&on(3)), bits(&found));
        prop_assert_eq!(bits(&on(2)), bits(&found));
    }
}

#[test]
fn a_small_spread_around_a_large_value_is_kept() {
    let dims = [100, 10, 10];
    let values: Vec<f32> = (0..10_000).map(|voxel| 8_000_000.0 + (voxel % 2) as f32).collect();
    let bytes = bytemuck::cast_slice(&values);
    let volume = VolumeView::dense(bytes, Element::F32, dims, 1, GEOMETRY).unwrap();
    let labels = LabelMap::U8(vec![7; 10_000]);
    let pool = Pool::new(2).unwrap();
    let found = statistics(&labels, dims, &GEOMETRY, Some(&volume), &pool).unwrap();
    let intensity = found[0].intensity.unwrap();
    assert!(close(intensity.mean, 8_000_000.5, 1e-12), "{intensity:?}");
    assert!(close(intensity.deviation, 0.5, 1e-9), "{intensity:?}");
}

#[test]
fn grids_must_be_the_same() {
    let volume = [0u8; 24];
    let volume = VolumeView::dense(&volume, Element::U8, [4, 3, 2], 1, GEOMETRY).unwrap();
    let pool = Pool::new(1).unwrap();
    let text = |voxels: usize, dims| {
        let labels = LabelMap::U8(vec![1; voxels]);
        statistics(&labels, dims, &GEOMETRY, Some(&volume), &pool).unwrap_err().to_string()
    };
    assert!(text(23, [4, 3, 2]).contains("[4, 3, 2] voxels with 23 values"));
    assert!(text(24, [3, 4, 2]).contains("has [3, 4, 2] voxels and the volume [4, 3, 2]"));
    assert!(text(0, [0, 3, 2]).contains("with 0 values"));
}

#[test]
fn label_maps_are_read_from_any_whole_numbers() {
    let read = |values: &[f32]| {
        let bytes = bytemuck::cast_slice(values);
        let dims = [values.len(), 1, 1];
        LabelMap::from_volume(&VolumeView::dense(bytes, Element::F32, dims, 1, GEOMETRY).unwrap())
    };
    assert_eq!(read(&[0.0, 255.0, 3.0]).unwrap(), LabelMap::U8(vec![0, 255, 3]));
    assert_eq!(read(&[0.0, 65535.0]).unwrap(), LabelMap::U16(vec![0, 65535]));
    for wrong in [-1.0, 0.5, 65536.0, f32::NAN, f32::INFINITY] {
        let text = read(&[1.0, wrong]).unwrap_err().to_string();
        assert!(text.contains("(1, 0, 0)") && text.contains("0 to 65535"), "{text}");
    }
}
