//! A caller's voxels, borrowed.

use half::{bf16, f16};

use super::Geometry;
use crate::base::{Element, Error, Result};

/// A volume of one or more channels in somebody else's memory, of any element type and strides.
#[derive(Clone, Copy)]
pub struct VolumeView<'a> {
    /// All the bytes that voxels may lie in.
    pub bytes: &'a [u8],
    /// Type of the stored values, in the machine's byte order.
    pub element: Element,
    /// Voxels along i, j, k.
    pub dims: [usize; 3],
    /// Bytes from one voxel to the next along i, j, k; may be negative.
    pub strides: [isize; 3],
    /// Channels, at least 1.
    pub channels: usize,
    /// Bytes from a voxel to the same voxel of the next channel; may be negative.
    pub channel_stride: isize,
    /// Byte of voxel (0, 0, 0) of channel 0.
    pub first: usize,
    /// Value = stored value * slope + intercept.
    pub slope: f64,
    /// See `slope`.
    pub intercept: f64,
    /// Where the voxels lie.
    pub geometry: Geometry,
}

/// More voxels than any scan has, and few enough that no size of ours overflows.
const MOST_VOXELS: usize = 1 << 36;

impl<'a> VolumeView<'a> {
    /// Voxels without gaps, `[channel][k][j][i]`.
    ///
    /// # Errors
    /// As [`VolumeView::validate`].
    pub fn dense(
        bytes: &'a [u8],
        element: Element,
        dims: [usize; 3],
        channels: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        let size = element.size();
        let [i, j, k] = dims;
        let strides = [Some(size), size.checked_mul(i), size.checked_mul(i.saturating_mul(j))];
        let channel = strides[2].and_then(|plane| plane.checked_mul(k));
        let signed = |bytes: Option<usize>| {
            bytes.and_then(|bytes| isize::try_from(bytes).ok()).unwrap_or(isize::MAX)
        };
        let view = Self {
            bytes,
            element,
            dims,
            strides: strides.map(signed),
            channels,
            channel_stride: signed(channel),
            first: 0,
            slope: 1.0,
            intercept: 0.0,
            geometry,
        };
        view.validate()?;
        Ok(view)
    }

    /// Voxels of one channel.
    pub fn voxels(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether every voxel lies within the bytes, and geometry and scaling can be used.
    ///
    /// # Errors
    /// [`Error::Argument`] that says what was found and what was expected.
    pub fn validate(&self) -> Result<()> {
        self.geometry.validate()?;
        if !(self.slope.is_finite() && self.intercept.is_finite() && self.slope != 0.0) {
            return Err(Error::argument(format!(
                "slope {} and intercept {}: expected finite numbers, the slope not zero",
                self.slope, self.intercept
            )));
        }
        let voxels = self.dims.iter().try_fold(self.channels, |n, &extent| n.checked_mul(extent));
        if !voxels.is_some_and(|n| (1..=MOST_VOXELS).contains(&n)) {
            return Err(Error::argument(format!(
                "a volume of {:?} voxels and {} channels: expected at least 1 of each and at \
                 most 2^36 in all",
                self.dims, self.channels
            )));
        }
        let (lowest, end) = self.extent().ok_or_else(|| {
            Error::argument(format!("strides {:?} go beyond the address space", self.strides))
        })?;
        if lowest < 0 || end > self.bytes.len() as i128 {
            return Err(Error::argument(format!(
                "a volume of {:?} voxels, {} channels and strides of {:?} bytes spans bytes \
                 {lowest} to {end}, but its memory has {} bytes",
                self.dims,
                self.channels,
                self.strides,
                self.bytes.len()
            )));
        }
        Ok(())
    }

    /// First byte of the lowest voxel and end of the highest, relative to `bytes`.
    fn extent(&self) -> Option<(i128, i128)> {
        let mut lowest = self.first as i128;
        let mut highest = lowest;
        let axes = self.dims.iter().zip(&self.strides);
        for (&count, &stride) in axes.chain([(&self.channels, &self.channel_stride)]) {
            let reach = (count as i128 - 1).checked_mul(stride as i128)?;
            lowest = lowest.checked_add(reach.min(0))?;
            highest = highest.checked_add(reach.max(0))?;
        }
        Some((lowest, highest + self.element.size() as i128))
    }

    /// Reads voxels along one axis, scaled: `first` is the byte of the first of them, `stride`
    /// the bytes to the next. The caller has validated the view and stays inside it.
    pub fn read_line(&self, first: usize, stride: isize, into: &mut [f32]) {
        macro_rules! read {
            ($($element:ident: $type:ty as $wide:expr),*) => {
                match self.element {
                    $(Element::$element => {
                        for (index, value) in into.iter_mut().enumerate() {
                            let at = first.wrapping_add_signed(index as isize * stride);
                            let bytes = self.bytes[at..at + size_of::<$type>()].try_into();
                            let stored = <$type>::from_ne_bytes(bytes.unwrap());
                            *value = ($wide(stored) * self.slope + self.intercept) as f32;
                        }
                    })*
                }
            };
        }
        read!(
            U8: u8 as f64::from, I8: i8 as f64::from, U16: u16 as f64::from,
            I16: i16 as f64::from, U32: u32 as f64::from, I32: i32 as f64::from,
            U64: u64 as |v: u64| v as f64, I64: i64 as |v: i64| v as f64,
            F16: f16 as f64::from, Bf16: bf16 as f64::from,
            F32: f32 as f64::from, F64: f64 as |v: f64| v
        );
    }
}
