//! Volumes that the device measures, beside those measured here.

use super::resample::{random_view, recipe};
use super::{Noise, emulate};
use crate::base::Pool;
use crate::device::cuda::Cuda;
use crate::device::{Device, Precision};
use crate::volume::{Meter, Preparation};

/// Whether numbers are the same but for their last digits.
fn close(found: f32, expected: f32) -> bool {
    found == expected || (found - expected).abs() <= 2e-6 * expected.abs().max(1e-3)
}

#[test]
fn volumes_are_measured_as_by_the_processor() {
    emulate();
    let mut noise = Noise(23);
    let pool = Pool::new(2).unwrap();
    let mut device = Cuda::open(0, Precision::F16).unwrap();
    let (mut resampled, mut kept) = (0, 0);
    for _ in 0..60 {
        let channels = noise.whole(1..3);
        let voxels = random_view(&mut noise, channels);
        let view = voxels.view();
        let recipe = recipe(&mut noise, channels);
        let new = |meter| Preparation::new(&view, &recipe, &pool, meter, &mut || Ok(())).unwrap();
        let (expected, found) = (new(None), new(device.meter()));
        Device::finish(&mut device);
        for channel in 0..channels {
            for value in [-2000.0, -7.5, 0.0, 3.25, 800.0, 2000.0] {
                let pair = [&found, &expected].map(|p| p.normalized(channel, value));
                // Values of channels that are the same all over are divided by nearly nothing.
                let large = pair[1].abs() > 1e6;
                assert!(close(pair[0], pair[1]) || large, "{pair:?}: {recipe:?}");
            }
        }
        match (found.resampling(), expected.resampling()) {
            (None, None) => kept += 1,
            (Some(found), Some(expected)) => {
                resampled += 1;
                assert_eq!(found.bands, expected.bands);
                for (found, expected) in found.channels.iter().zip(&expected.channels) {
                    assert_eq!(found.limits.len(), expected.limits.len());
                    let limits = found.limits.as_flattened().iter();
                    for (&found, &expected) in limits.zip(expected.limits.as_flattened()) {
                        let large = expected.abs() > 1e6;
                        assert!(close(found, expected) || large, "{found}, {expected}: {recipe:?}");
                    }
                }
            }
            (found, _) => panic!("one of them is resampled, {}: {recipe:?}", found.is_some()),
        }
    }
    assert!(resampled > 20 && kept > 5, "{resampled}, {kept}");
}

#[test]
fn what_measuring_takes_is_known_before() {
    emulate();
    let mut device = Cuda::open(0, Precision::F16).unwrap();
    for native in [[1, 1, 1], [3, 40, 50], [70, 90, 2]] {
        device.start(native, None).unwrap();
        let taken = device.metering.as_ref().unwrap().bytes();
        assert_eq!(taken, device.meter_bytes(native, None), "{native:?}");
    }
}
