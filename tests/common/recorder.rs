//! Keeps what a run shows on its way.

use std::ops::Range;

use voxtile::session::Observer;

#[derive(Default)]
pub struct Recorder {
    /// `[channels][shape0][shape1][shape2]`
    pub preprocessed: Vec<f32>,
    pub shape: [usize; 3],
    /// `[classes][shape0][shape1][shape2]`, with `RunOptions::scores`
    pub scores: Vec<f32>,
}

impl Observer for Recorder {
    fn preprocessed(
        &mut self,
        _: usize,
        data: &[f32],
        _: usize,
        shape: [usize; 3],
    ) -> voxtile::Result<()> {
        self.preprocessed = data.to_vec();
        self.shape = shape;
        Ok(())
    }

    fn scores(
        &mut self,
        _: usize,
        scores: &[f32],
        classes: usize,
        planes: Range<usize>,
        [depth, height, width]: [usize; 3],
    ) -> voxtile::Result<()> {
        let plane = height * width;
        self.scores.resize(classes * depth * plane, f32::NAN);
        for (class, slab) in scores.chunks_exact(planes.len() * plane).enumerate() {
            let place = (class * depth + planes.start) * plane;
            self.scores[place..place + slab.len()].copy_from_slice(slab);
        }
        Ok(())
    }
}
