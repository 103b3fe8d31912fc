//! Element types of voxels and weights.

use half::{bf16, f16};

/// The type of one stored value, in the machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Element {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes of one value.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Reads the value at the start of `bytes`, widened or rounded to `f64`.
    ///
    /// # Panics
    /// If `bytes` is shorter than [`Element::size`].
    #[inline]
    pub fn read(self, bytes: &[u8]) -> f64 {
        macro_rules! value {
            ($type:ty) => {
                <$type>::from_ne_bytes(bytes[..size_of::<$type>()].try_into().unwrap())
            };
        }
        match self {
            Self::U8 => f64::from(bytes[0]),
            Self::I8 => f64::from(bytes[0] as i8),
            Self::U16 => f64::from(value!(u16)),
            Self::I16 => f64::from(value!(i16)),
            Self::U32 => f64::from(value!(u32)),
            Self::I32 => f64::from(value!(i32)),
            Self::U64 => value!(u64) as f64,
            Self::I64 => value!(i64) as f64,
            Self::F16 => f64::from(value!(f16)),
            Self::Bf16 => f64::from(value!(bf16)),
            Self::F32 => f64::from(value!(f32)),
            Self::F64 => value!(f64),
        }
    }
}
