//! Prepared planes that the device makes of native ones, beside those made here.

use std::sync::Arc;

use super::{Noise, gpu};
use crate::base::{Element, Pool};
use crate::device::cuda::driver::Buffer;
use crate::device::cuda::resample::{self, Resampler};
use crate::device::cuda::volume::Staging;
use crate::device::{Accumulators, Blend, JobSize, Precision, ResamplingSize};
use crate::volume::native::most_ring_planes;
use crate::volume::prepare::{PIECE_PLANES, piece};
use crate::volume::{
    Generation, Geometry, Intensity, Interpolation, NativePlanes, Orientation, Planes, Preparation,
    Recipe, SeparateAxis, VolumeView,
};

/// A volume of its own.
pub(super) struct Voxels {
    values: Vec<f32>,
    dims: [usize; 3],
    channels: usize,
    geometry: Geometry,
}

impl Voxels {
    pub(super) fn view(&self) -> VolumeView<'_> {
        let bytes = bytemuck::cast_slice(&self.values);
        VolumeView::dense(bytes, Element::F32, self.dims, self.channels, self.geometry).unwrap()
    }
}

/// Whole numbers, many of them zero.
pub(super) fn random_view(noise: &mut Noise, channels: usize) -> Voxels {
    let dims = [noise.whole(1..30), noise.whole(1..50), noise.whole(1..50)];
    let values = (0..channels * dims.iter().product::<usize>())
        .map(|_| if noise.coin() { (1500.0 * noise.next()).round() } else { 0.0 })
        .collect();
    let geometry = Geometry::axis_aligned(noise.of(&[[1.0; 3], [0.8, 0.8, 3.0]]));
    Voxels { values, dims, channels, geometry }
}

pub(super) fn recipe(noise: &mut Noise, channels: usize) -> Recipe {
    let ct = |masked| Intensity::Ct {
        masked,
        lower: -300.0,
        upper: 700.0,
        mean: 90.0,
        deviation: 130.0,
    };
    let intensities = [
        ct(false),
        Intensity::Ct2 { masked: false, lower: -200.0, upper: 600.0 },
        Intensity::ZScore { masked: false },
        Intensity::ZScore { masked: true },
        Intensity::RescaleTo01,
        Intensity::None,
    ];
    let image = Interpolation {
        order: noise.of(&[1, 3, 3]),
        separate_axis: noise.of(&[SeparateAxis::Auto, SeparateAxis::Never]),
    };
    Recipe {
        orientation: Orientation::AsStored,
        transpose: noise.of(&[[0, 1, 2], [1, 0, 2], [2, 0, 1]]),
        spacing: [0; 3].map(|_| noise.of(&[None, Some(0.7), Some(1.0), Some(2.1)])),
        generation: noise.of(&[Generation::V1, Generation::V2]),
        image,
        scores: image,
        intensity: (0..channels).map(|_| noise.of(&intensities)).collect(),
    }
}

#[test]
fn planes_are_those_of_the_processor() {
    let mut noise = Noise(11);
    let gpu = gpu(Precision::F16);
    let pool = Pool::new(2).unwrap();
    let (mut compared, mut pieces) = (0, 0);
    for _ in 0..40 {
        let channels = noise.whole(1..3);
        let voxels = random_view(&mut noise, channels);
        let (view, dims) = (voxels.view(), voxels.dims);
        let recipe = recipe(&mut noise, channels);
        let prepared = Preparation::new(&view, &recipe, &pool, None, &mut || Ok(())).unwrap();
        let Some(resampling) = prepared.resampling().map(Arc::new) else { continue };
        let mut expected = Planes::new(&view, &prepared, None, &pool).unwrap();
        let mut native = NativePlanes::new(&view, &prepared, &pool).unwrap();
        let mut resampler = Resampler::new(&gpu, &resampling, channels).unwrap();
        let size = JobSize {
            channels,
            shape: prepared.grids.shape,
            volume_planes: 1,
            ring_planes: 1,
            blend: Blend::Logits,
            accumulators: Accumulators::F32,
            output: [1; 3],
            output_planes: 1,
            slab_planes: 1,
            probability_classes: 0,
            scores: false,
            resampling: None,
        };
        let native_shape = prepared.grids.placement.shape();
        let ring_planes = most_ring_planes(&prepared.grids, &recipe);
        let sizes = ResamplingSize { native: [native_shape[1], native_shape[2]], ring_planes };
        assert!(resampler.bytes() <= resample::memory(&size, &sizes).bytes);
        let mut staging = Staging::new(&gpu).unwrap();
        let [planes, rows, columns] = prepared.grids.shape;
        let (plane, held) = (rows * columns, planes.min(PIECE_PLANES + 3));
        let ring = Buffer::<f32>::new(gpu.context(), "planes", held * plane).unwrap();
        for start in (0..planes).step_by(PIECE_PLANES) {
            pieces += 1;
            let outputs = piece(start, planes);
            let made = expected.make().unwrap().unwrap();
            assert_eq!(made.planes, outputs);
            let needed = resampling.bands[0].needed(&outputs);
            native
                .hand_over(needed, |channel, planes, values| {
                    resampler.feed(&gpu, &mut staging, channel, planes, values)
                })
                .unwrap();
            for (channel, expected) in made.values.chunks_exact(outputs.len() * plane).enumerate() {
                resampler.make(&gpu, channel, &outputs, ring.address(), held).unwrap();
                let mut found = vec![0.0; ring.length()];
                ring.read(&gpu.stream, 0, &mut found).unwrap();
                // Sums of values of this size are rounded.
                let size = expected.iter().fold(1.0, |most: f32, value| most.max(value.abs()));
                for (at, expected) in outputs.clone().zip(expected.chunks_exact(plane)) {
                    let found = &found[at % held * plane..][..plane];
                    for (found, expected) in found.iter().zip(expected) {
                        let apart = (found - expected).abs();
                        assert!(apart <= 1e-5 * size, "{found}, {expected}: {recipe:?} {dims:?}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(expected.make().unwrap().is_none());
    }
    assert!(compared > 100_000 && pieces > 40, "{compared} values of {pieces} pieces");
}
