//! A run without a session.

/// A run over a volume of exactly one patch, on its own grid.
pub fn job(volume: Vec<f32>, patch: [usize; 3]) -> voxtile::device::Job {
    let identity = |length: usize| voxtile::volume::AxisMap {
        low: (0..length as u32).collect(),
        high: (0..length as u32).collect(),
        fraction: vec![0.0; length],
    };
    voxtile::device::Job {
        channels: volume.len() / patch.iter().product::<usize>(),
        volume,
        shape: patch,
        pad_before: [0; 3],
        padded: patch,
        window: voxtile::window::gaussian(patch).unwrap(),
        ring_planes: patch[0],
        blend: voxtile::device::Blend::Logits,
        output: patch.map(identity),
        probability_classes: Vec::new(),
        scores: true,
    }
}
