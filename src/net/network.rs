//! The operations a network is made of.
//!
//! Normalisation is never an operation of its own: a convolution writes its raw output once and
//! gathers statistics while the values are in registers; whoever reads the tensor next
//! normalises and activates as it loads.

/// A tensor of the network, by position in [`Network::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// A parameter of the network, by position in [`Network::parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub usize);

/// The mean and variance of each channel of one tensor, by number, below [`Network::statistics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatisticsId(pub usize);

/// An activation tensor: `[channels][shape0][shape1][shape2]`, the last axis fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Number of channels.
    pub channels: usize,
    /// Voxels along each network axis.
    pub shape: [usize; 3],
}

/// A weight tensor, by its name in the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the checkpoint, without the fold's prefix.
    pub name: String,
    /// Its shape: `[out, in, k0, k1, k2]` for a convolution, `[channels]` for a vector.
    pub shape: Vec<usize>,
}

/// Instance normalisation with affine parameters, then LeakyReLU, as a tensor is read:
/// `leaky((x - mean) / sqrt(variance + epsilon) * scale + shift)`, biased variance over all
/// voxels of a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Where the convolution that wrote the tensor left its statistics.
    pub statistics: StatisticsId,
    /// Factor of each channel.
    pub scale: ParameterId,
    /// Offset of each channel.
    pub shift: ParameterId,
    /// Added to the variance.
    pub epsilon: f32,
    /// LeakyReLU's slope below zero; 1 applies none.
    pub slope: f32,
}

/// A tensor as a convolution reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Source {
    /// What is read.
    pub tensor: TensorId,
    /// Nearest-neighbour enlargement along each axis: voxel `i` reads `i / upsample`.
    pub upsample: [usize; 3],
    /// Applied to each value read; the padding of a convolution stays zero after it.
    pub normalization: Option<Normalization>,
}

impl Source {
    /// The tensor itself.
    pub fn plain(tensor: TensorId) -> Self {
        Self { tensor, upsample: [1; 3], normalization: None }
    }
}

/// What happens to a convolution's sum before it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epilogue {
    /// It is written as it is.
    Plain,
    /// It is written as it is, and its statistics are kept.
    Statistics(StatisticsId),
    /// `leaky(normalised main + sum)` is written: the end of a residual block whose shortcut is
    /// this convolution. `normalization.slope` is applied to the sum, not to `main`.
    AddNormalized {
        /// The block's second convolution, of the output's shape; the output may take its place.
        main: TensorId,
        /// How `main` is normalised, and the slope of the activation.
        normalization: Normalization,
    },
}

/// A convolution with padding `(kernel - 1) / 2`, over the concatenation of its sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// One source, or two that are concatenated along the channels in this order.
    pub sources: Vec<Source>,
    /// `[out, in, k0, k1, k2]`.
    pub weight: ParameterId,
    /// `[out]`; absent where an instance normalisation would cancel it.
    pub bias: Option<ParameterId>,
    /// 1 or 3 along each axis.
    pub kernel: [usize; 3],
    /// 1 or 2 along each axis.
    pub stride: [usize; 3],
    /// What is written.
    pub output: TensorId,
    /// What happens before it is written.
    pub epilogue: Epilogue,
}

/// The end of a residual block whose shortcut is the identity:
/// `leaky(normalised main + shortcut)`; `normalization.slope` is applied to the sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// The block's second convolution; the output may take its place.
    pub main: TensorId,
    /// How `main` is normalised, and the slope of the activation.
    pub normalization: Normalization,
    /// The block's input: what an operation wrote, never the patch.
    pub shortcut: TensorId,
    /// What is written.
    pub output: TensorId,
}

/// One operation. A new one is a new variant, and the compiler names every device that lacks it.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A convolution.
    Conv(Conv),
    /// The end of a residual block with an identity shortcut.
    Join(Join),
}

/// The last layer, a 1x1x1 convolution that turns features into class scores. It is not among
/// the operations: it runs once per voxel of the volume, after the tiles were blended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// `[classes, channels, 1, 1, 1]`.
    pub weight: ParameterId,
    /// `[classes]`; absent means zero.
    pub bias: Option<ParameterId>,
}

/// A network for one patch shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// All tensors.
    pub tensors: Vec<Tensor>,
    /// All parameters, each once.
    pub parameters: Vec<Parameter>,
    /// How many [`StatisticsId`] there are.
    pub statistics: usize,
    /// The operations in the order they run.
    pub ops: Vec<Op>,
    /// The patch.
    pub input: TensorId,
    /// The features below the head, of the patch's shape.
    pub output: TensorId,
    /// The last layer.
    pub head: Head,
    /// Rows of the head: classes, the background included.
    pub classes: usize,
}
