//! A model package: one safetensors file that says everything about a model, checked in full
//! before anything uses it. `docs/model-format.md` specifies it.

mod check;
mod families;
mod package;
mod tensors;

use std::borrow::Cow;
use std::path::Path;

pub use self::package::{
    Architecture, Axes, Blend, Family, Label, Normalization, NormalizationLayer, OrientationName,
    Output, Package, Part, Postprocessing, Provenance, Resampling, SourceFile,
};
use self::tensors::{Known, Tensors};
use crate::base::Result;
use crate::base::mapping::{Bytes, Loading};
use crate::net::{Network, ParameterId, Weights};
use crate::volume::{Intensity, Orientation, Recipe};

/// A model: immutable, and shared between threads freely.
pub struct Model {
    /// File name, or what stands for it in messages.
    origin: String,
    package: Package,
    /// One for each part.
    networks: Vec<Network>,
    tensors: Tensors,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Model {
    /// Maps and checks the package at `path`. The file must not change while the model lives.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be opened; [`Error::Format`] if it is no valid package;
    /// [`Error::Unsupported`] if it is of a newer version or needs what this build lacks.
    ///
    /// [`Error::Io`]: crate::Error::Io
    /// [`Error::Format`]: crate::Error::Format
    /// [`Error::Unsupported`]: crate::Error::Unsupported
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Loading::Mapped)
    }

    /// As [`Model::open`], with a choice of mapping or reading the file.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with(path: impl AsRef<Path>, loading: Loading) -> Result<Self> {
        let path = path.as_ref();
        let bytes = Bytes::open(path, "a model package, one .safetensors file", loading)?;
        Self::new(path.display().to_string(), bytes)
    }

    /// Checks a package that lies in memory.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new("model in memory".into(), Bytes::Owned(bytes))
    }

    fn new(origin: String, bytes: Bytes) -> Result<Self> {
        let (tensors, document) = Tensors::read(&origin, bytes)?;
        let package = Package::parse(&origin, &document)?;
        check::package(&origin, &package)?;
        let mut networks = Vec::new();
        let mut known = Vec::new();
        for part in &package.parts {
            let families::Built { network, unused } = families::build(part);
            known.push(Known {
                prefixes: prefixes(&package, part),
                required: network.parameters.clone(),
                optional: unused,
            });
            networks.push(network);
        }
        tensors.check(&origin, &known)?;
        Ok(Self { origin, package, networks, tensors })
    }

    /// What the package says about itself.
    pub fn package(&self) -> &Package {
        &self.package
    }

    /// The network of a part, for its patch.
    pub fn network(&self, part: usize) -> &Network {
        &self.networks[part]
    }

    /// How many weights the file has for one fold of each part, those included that inference
    /// does not need.
    pub fn parameters(&self) -> u64 {
        let first = |part| prefixes(&self.package, part).into_iter().next().unwrap_or_default();
        let parts = self.package.parts.iter().map(first);
        parts.map(|prefix| self.tensors.values_below(&prefix)).sum()
    }

    /// The weights of a part.
    pub fn weights(&self, part: usize) -> PartWeights<'_> {
        PartWeights { model: self, part }
    }

    /// Lets go of the mapped pages that reading weights brought into memory; they come back from
    /// the file when they are read again.
    pub(crate) fn release_pages(&self) {
        self.tensors.release_pages();
    }

    /// What a part asks of its input.
    pub fn recipe(&self, part: usize) -> Recipe {
        let part = &self.package.parts[part];
        Recipe {
            orientation: match part.axes.orientation {
                OrientationName::Stored => Orientation::AsStored,
                OrientationName::Ras => Orientation::Ras,
            },
            transpose: part.axes.transpose,
            spacing: part.spacing,
            generation: part.generation,
            image: part.resampling.image,
            scores: part.resampling.scores,
            intensity: part.normalization.iter().map(intensity).collect(),
        }
    }
}

fn intensity(normalization: &Normalization) -> Intensity {
    match *normalization {
        Normalization::Ct { masked, lower, upper, mean, deviation } => {
            Intensity::Ct { masked, lower, upper, mean, deviation }
        }
        Normalization::Ct2 { masked, lower, upper } => Intensity::Ct2 { masked, lower, upper },
        Normalization::Zscore { masked } => Intensity::ZScore { masked },
        Normalization::None {} => Intensity::None,
        Normalization::RescaleTo01 {} => Intensity::RescaleTo01,
    }
}

/// What stands before the names of each fold's tensors: as published if there is one part with
/// one fold.
pub(crate) fn prefixes(package: &Package, part: &Part) -> Vec<String> {
    let of_part = match package.parts.as_slice() {
        [_] => String::new(),
        _ => format!("{}.", part.name),
    };
    match part.folds.as_slice() {
        [_] => vec![of_part],
        folds => folds.iter().map(|fold| format!("{of_part}fold_{fold}.")).collect(),
    }
}

/// The weights of one part of a model.
pub struct PartWeights<'a> {
    model: &'a Model,
    part: usize,
}

impl Weights for PartWeights<'_> {
    fn folds(&self) -> usize {
        self.model.package.parts[self.part].folds.len()
    }

    fn parameter(&self, fold: usize, id: ParameterId) -> Result<Cow<'_, [f32]>> {
        let Model { package, networks, tensors, origin } = self.model;
        let prefix = &prefixes(package, &package.parts[self.part])[fold];
        let name = format!("{prefix}{}", networks[self.part].parameters[id.0].name);
        tensors.values(origin, &name)
    }
}
