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

/// What is pending on a tensor and happens as it is read: instance normalisation with affine
/// parameters, then LeakyReLU:
/// `leaky((x - mean) / sqrt(variance + epsilon) * scale + shift)`, biased variance over all
/// voxels of a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Where the convolution that wrote the tensor left its statistics; without, values are
    /// neither centred nor divided.
    pub statistics: Option<StatisticsId>,
    /// Factor and offset of each channel; without, 1 and 0.
    pub affine: Option<Affine>,
    /// Added to the variance.
    pub epsilon: f32,
    /// LeakyReLU's slope below zero, in [0, 1]; 1 applies none.
    pub slope: f32,
}

/// Affine parameters of a normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affine {
    /// Factor of each channel.
    pub scale: ParameterId,
    /// Offset of each channel.
    pub shift: ParameterId,
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

/// A convolution with padding `(kernel - 1) / 2`, over the concatenation of its sources; or a
/// transposed one, whose kernel is its stride.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// One source, or two that are concatenated along the channels in this order.
    pub sources: Vec<Source>,
    /// `[out, in, k0, k1, k2]`; `[in, out, e0, e1, e2]` of a transposed convolution that expands
    /// by `e`.
    pub weight: ParameterId,
    /// `[out]`; absent where an instance normalisation would cancel it.
    pub bias: Option<ParameterId>,
    /// 1 or 3 along each axis.
    pub kernel: [usize; 3],
    /// 1 or 2 along each axis.
    pub stride: [usize; 3],
    /// `None` but for a transposed convolution: how many output voxels each input voxel makes
    /// along each axis, voxel `i` from `i / expand` by the weights of tap `i % expand`. Kernel and
    /// stride are 1, and the epilogue is plain.
    pub expand: Option<[usize; 3]>,
    /// What is written.
    pub output: TensorId,
    /// What happens before it is written.
    pub epilogue: Epilogue,
}

/// A tensor as it is read, voxel by voxel: what an operation wrote, never the patch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// What is read.
    pub tensor: TensorId,
    /// Applied to each value read.
    pub normalization: Option<Normalization>,
}

/// The end of a residual block: `leaky(normalised main + shortcut)`; or, without a shortcut, what
/// is pending on `main`.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// The block's last convolution; the output may take its place.
    pub main: TensorId,
    /// How `main` is normalised, and the slope of the activation, which is applied to the sum.
    pub normalization: Normalization,
    /// What is added.
    pub shortcut: Option<Reading>,
    /// What is written.
    pub output: TensorId,
}

/// The mean of boxes of `size` voxels that do not overlap; what is left over at the end of an
/// axis is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct AveragePool {
    /// What is read.
    pub source: Reading,
    /// Voxels of a box along each axis.
    pub size: [usize; 3],
    /// What is written.
    pub output: TensorId,
}

/// One operation. A new one is a new variant, and the compiler names every device that lacks it.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A convolution.
    Conv(Conv),
    /// The end of a residual block.
    Join(Join),
    /// A mean.
    AveragePool(AveragePool),
}

impl Op {
    /// What is written.
    pub fn output(&self) -> TensorId {
        match self {
            Self::Conv(conv) => conv.output,
            Self::Join(join) => join.output,
            Self::AveragePool(pool) => pool.output,
        }
    }
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

impl Network {
    /// Voxels of the patch along each axis.
    pub fn patch(&self) -> [usize; 3] {
        self.tensors[self.input.0].shape
    }
}
