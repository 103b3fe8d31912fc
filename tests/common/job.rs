//! A run without a session.

/// A run over a volume of exactly one patch, on its own grid.
pub fn job(volume: Vec<f32>, patch: [usize; 3]) -> voxtile::device::Job {
    voxtile::device::Job {
        channels: volume.len() / patch.iter().product::<usize>(),
        volume: std::sync::Arc::new(volume),
        shape: patch,
        pad_before: [0; 3],
        padded: patch,
        window: voxtile::window::weights(patch, voxtile::volume::Generation::V2, 1).unwrap(),
        ring_planes: patch[0],
        blend: voxtile::device::Blend::Logits,
        decision: voxtile::device::Decision::Highest,
        output: voxtile::volume::resample::axis_maps(patch, patch, 0, None),
        probability_classes: Vec::new(),
        scores: true,
    }
}
