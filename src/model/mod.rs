//! A model package: one safetensors file that says everything about a model, checked in full
//! before anything uses it. `docs/model-format.md` specifies it.

mod check;
mod package;
mod stunet;
mod tensors;

use std::borrow::Cow;
use std::path::Path;

pub use self::package::{
    Architecture, Axes, Blend, Label, Normalization, OrientationName, Package, Preprocessing,
    Provenance, SourceFile,
};
use self::tensors::Tensors;
use crate::base::mapping::{Bytes, Loading};
use crate::base::{Error, Result};
use crate::net::{Network, ParameterId, Weights};
use crate::volume::{Intensity, Orientation, Recipe};

/// A model: immutable, and shared between threads freely.
pub struct Model {
    /// File name, or what stands for it in messages.
    origin: String,
    package: Package,
    network: Network,
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
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Loading::Mapped)
    }

    /// As [`Model::open`], with a choice of mapping or reading the file.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with(path: impl AsRef<Path>, loading: Loading) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::io(path, source);
        let metadata = std::fs::metadata(path).map_err(io)?;
        if metadata.is_dir() {
            return Err(Error::format(
                path.display().to_string(),
                "is a folder; expected a model package, one .safetensors file",
            ));
        }
        // Nothing can be mapped of an empty file.
        let loading = if metadata.len() == 0 { Loading::Read } else { loading };
        Self::new(path.display().to_string(), Bytes::open(path, loading)?)
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
        let network = stunet::network(&package);
        let unused = stunet::unused_tensors(&package);
        tensors.check(&origin, &package.folds, &network.parameters, &unused)?;
        Ok(Self { origin, package, network, tensors })
    }

    /// What the package says about itself.
    pub fn package(&self) -> &Package {
        &self.package
    }

    /// The network for the package's patch.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// How many weights one fold has.
    pub fn parameters(&self) -> u64 {
        self.network
            .parameters
            .iter()
            .map(|parameter| parameter.shape.iter().map(|&extent| extent as u64).product::<u64>())
            .sum()
    }

    /// What the model asks of its input.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            orientation: match self.package.axes.orientation {
                OrientationName::Stored => Orientation::AsStored,
                OrientationName::Ras => Orientation::Ras,
            },
            transpose: self.package.axes.transpose,
            spacing: self.package.spacing,
            intensity: self
                .package
                .normalization
                .iter()
                .map(|normalization| match *normalization {
                    Normalization::Ct { lower, upper, mean, deviation } => {
                        Intensity::Ct { lower, upper, mean, deviation }
                    }
                    Normalization::Zscore { masked } => Intensity::ZScore { masked },
                    Normalization::None {} => Intensity::None,
                    Normalization::RescaleTo01 {} => Intensity::RescaleTo01,
                })
                .collect(),
        }
    }
}

impl Weights for Model {
    fn folds(&self) -> usize {
        self.package.folds.len()
    }

    fn parameter(&self, fold: usize, id: ParameterId) -> Result<Cow<'_, [f32]>> {
        let name =
            tensors::stored_name(&self.package.folds, fold, &self.network.parameters[id.0].name);
        self.tensors.values(&self.origin, &name)
    }
}
