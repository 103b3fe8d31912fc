//! A run without a session.

/// A run over a volume of exactly one patch, on its own grid; the volume is fed next.
pub fn job(channels: usize, patch: [usize; 3]) -> voxtile::device::Job {
    voxtile::device::Job {
        channels,
        shape: patch,
        axes: [0, 1, 2],
        pad_before: [0; 3],
        window: voxtile::window::weights(patch, voxtile::volume::Generation::V2, 1).unwrap(),
        volume_planes: patch[0],
        ring_planes: patch[0],
        slab_planes: patch[0],
        blend: voxtile::device::Blend::Logits,
        decision: voxtile::device::Decision::Highest,
        accumulators: voxtile::device::Accumulators::F32,
        output: voxtile::volume::resample::axis_maps(patch, patch, 0, None),
        region: patch.map(|extent| 0..extent),
        probability_classes: Vec::new(),
        network_probabilities: false,
        scores: true,
        resampling: None,
    }
}
