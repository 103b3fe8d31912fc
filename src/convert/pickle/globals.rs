//! The globals that checkpoints of PyTorch and nnU-Net name.

use crate::base::Element;

/// A known global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::convert) enum Global {
    OrderedDict,
    Set,
    /// `numpy.core.multiarray.scalar`.
    NumpyScalar,
    /// `numpy.core.multiarray._reconstruct`.
    NumpyReconstruct,
    NumpyArray,
    NumpyType,
    /// `_codecs.encode`: bytes in protocol 2.
    Encode,
    RebuildTensor,
    RebuildParameter,
    Size,
    /// `torch.device` and others that carry nothing we need.
    Opaque,
    Storage(StorageType),
}

/// What a PyTorch storage holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::convert) enum StorageType {
    Values(Element),
    Bool,
}

impl StorageType {
    /// Bytes of one value.
    pub(in crate::convert) fn size(self) -> usize {
        match self {
            Self::Values(element) => element.size(),
            Self::Bool => 1,
        }
    }
}

impl Global {
    /// The global of this name, if it is known.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        use Element::{Bf16, F16, F32, F64, I8, I16, I32, I64, U8};
        let values = |element| Some(Self::Storage(StorageType::Values(element)));
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("builtins" | "__builtin__", "set" | "frozenset") => Some(Self::Set),
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => {
                Some(Self::NumpyScalar)
            }
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                Some(Self::NumpyReconstruct)
            }
            ("numpy", "ndarray") => Some(Self::NumpyArray),
            ("numpy", "dtype") => Some(Self::NumpyType),
            ("_codecs", "encode") => Some(Self::Encode),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") | ("torch.serialization", "_get_layout") => Some(Self::Opaque),
            ("torch" | "torch.cuda", storage) => match storage {
                "FloatStorage" => values(F32),
                "DoubleStorage" => values(F64),
                "HalfStorage" => values(F16),
                "BFloat16Storage" => values(Bf16),
                "LongStorage" => values(I64),
                "IntStorage" => values(I32),
                "ShortStorage" => values(I16),
                "CharStorage" => values(I8),
                "ByteStorage" => values(U8),
                "BoolStorage" => Some(Self::Storage(StorageType::Bool)),
                _ => None,
            },
            _ => None,
        }
    }
}
