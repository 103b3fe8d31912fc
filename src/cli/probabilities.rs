//! The file of probabilities, written as they become final.

use std::path::PathBuf;

use serde_json::json;
use voxtile::formats::volumes::{self, VolumeFormat};
use voxtile::formats::{OutputFile, Tensor, TensorFile};
use voxtile::model::Package;
use voxtile::session::{Grid, ProbabilityBox};
use voxtile::{Element, Geometry, Result, RunOptions};

use super::run_arguments::RunArguments;

/// Where probabilities go, and how.
pub struct Probabilities {
    path: PathBuf,
    element: Element,
    labels: usize,
    metadata: Vec<(&'static str, String)>,
    /// Of an image file, and where it lies.
    image: Option<(VolumeFormat, Geometry)>,
    file: Option<TensorFile>,
}

impl Probabilities {
    /// What the arguments ask for, if they do, of a volume that lies at `geometry`.
    pub fn of(
        arguments: &RunArguments,
        package: &Package,
        options: &RunOptions,
        geometry: &Geometry,
    ) -> Option<Self> {
        let path = arguments.probabilities.clone()?;
        let labels = options.probabilities.iter().map(|value| {
            let label = package.labels.iter().find(|label| label.value == *value);
            json!({ "value": value, "name": label.map(|label| &label.name) })
        });
        let labels = json!(labels.collect::<Vec<_>>()).to_string();
        let mut metadata = vec![("labels", labels)];
        let element = arguments.probability_type.into();
        match options.probability_grid {
            Grid::Volume => {
                let Geometry { spacing, origin, direction } = geometry;
                metadata.extend([
                    ("grid", "volume".to_string()),
                    ("axes", "label k j i".to_string()),
                    ("spacing_mm", json!(spacing).to_string()),
                    ("origin_mm_lps", json!(origin).to_string()),
                    ("direction_lps", json!(direction).to_string()),
                ]);
            }
            Grid::Network => metadata.extend([
                ("grid", "network".to_string()),
                ("axes", "label and the network's, the slowest first".to_string()),
            ]),
        }
        if element == Element::U8 {
            metadata.push(("scale", "255 is 1".to_string()));
        }
        // Names that are refused were, before the run.
        let format = VolumeFormat::of(&path).ok().flatten();
        let image = format.map(|format| (format, *geometry));
        let labels = options.probabilities.len();
        Some(Self { path, element, labels, metadata, image, file: None })
    }

    /// Writes a box; the first begins the file.
    pub fn write(&mut self, found: &ProbabilityBox) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(self.begin(found.grid)?);
        }
        let file = self.file.as_mut();
        file.map_or(Ok(()), |file| file.write_box(found.labels, found.range.clone(), found.values))
    }

    fn begin(&self, [a0, a1, a2]: [usize; 3]) -> Result<TensorFile> {
        let output = OutputFile::create(&self.path)?;
        if let Some((format, geometry)) = &self.image {
            let dims = [a2, a1, a0];
            return volumes::begin(output, *format, self.element, dims, self.labels, geometry);
        }
        let tensor = Tensor {
            name: "probabilities",
            shape: [self.labels, a0, a1, a2],
            element: self.element,
            metadata: &self.metadata,
        };
        TensorFile::begin(output, &tensor)
    }

    /// The file, if there is one.
    pub fn into_file(self) -> Option<TensorFile> {
        self.file
    }
}
