//! An image in memory, as it came from a file.

use super::narrow;
use crate::base::error::reserved;
use crate::base::mapping::Bytes;
use crate::base::{Element, Error, Result};
use crate::volume::{Geometry, VolumeView};

/// Spacings of channel files may differ by this much, relative to each other: single precision
/// headers of the same scan do.
const SPACING_TOLERANCE: f64 = 1e-4;
/// Origins further apart than this, in mm, are worth a warning.
const ORIGIN_TOLERANCE_MM: f64 = 1e-2;
/// Direction cosines further apart than this are worth a warning.
const DIRECTION_TOLERANCE: f64 = 1e-3;

/// Voxels of one or more channels without gaps; i is the fastest of the three axes. Whole numbers of
/// up to 16 bits that were stored with a wider type are held as `i16`.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// `[channels][k][j][i]` stored values, or `[k][j][i][channels]` if `interleaved`, in the
    /// machine's byte order, mapped or owned.
    pub bytes: Bytes,
    /// Type of the values in `bytes`.
    pub element: Element,
    /// Type of the values in the file; of channel files of different types, `element`.
    pub stored: Element,
    /// Voxels along i, j, k.
    pub dims: [usize; 3],
    /// Channels, at least 1.
    pub channels: usize,
    /// Whether the channels of a voxel lie side by side.
    pub interleaved: bool,
    /// Value = stored value * slope + intercept.
    pub slope: f64,
    /// See `slope`.
    pub intercept: f64,
    /// Where the voxels lie.
    pub geometry: Geometry,
    /// What the user should know about the file, each as one sentence.
    pub warnings: Vec<String>,
}

impl Image {
    /// The voxels, borrowed.
    pub fn view(&self) -> VolumeView<'_> {
        let size = self.element.size() as isize;
        let [i, j, k] = self.dims.map(|count| count as isize);
        let (voxel, channel) = match self.interleaved {
            true => (size * self.channels as isize, size),
            false => (size, size * i * j * k),
        };
        VolumeView {
            bytes: &self.bytes,
            element: self.element,
            dims: self.dims,
            strides: [voxel, voxel * i, voxel * i * j],
            channels: self.channels,
            channel_stride: channel,
            first: 0,
            slope: self.slope,
            intercept: self.intercept,
            geometry: self.geometry,
        }
    }

    /// Appends the channels of `other`, another image of the same grid. Where the stored types or
    /// scalings differ, both become `f32` values. Files that lie elsewhere in space are a warning,
    /// as in nnU-Net.
    ///
    /// `name` and `other_name` are what messages call the two.
    ///
    /// # Errors
    /// [`Error::Argument`] if the numbers of voxels or the spacings differ; [`Error::Memory`].
    pub fn append(&mut self, name: &str, other: Self, other_name: &str) -> Result<()> {
        let differs = |what: &str, first: String, second: String| {
            Err(Error::argument(format!(
                "the channels of one case must share one grid, but {name} has {what} {first} and \
                 {other_name} has {second}"
            )))
        };
        if self.dims != other.dims {
            return differs("voxels", grid(self.dims), grid(other.dims));
        }
        let (first, second) = (self.geometry, other.geometry);
        let apart = |a: f64, b: f64, tolerance: f64| (a - b).abs() > tolerance;
        let spacing_apart = (0..3).any(|axis| {
            let (a, b) = (first.spacing[axis], second.spacing[axis]);
            apart(a, b, SPACING_TOLERANCE * a.max(b))
        });
        if spacing_apart {
            let text = |spacing: [f64; 3]| format!("{spacing:?} mm");
            return differs("spacing", text(first.spacing), text(second.spacing));
        }
        if (0..3).any(|axis| apart(first.origin[axis], second.origin[axis], ORIGIN_TOLERANCE_MM)) {
            self.warnings.push(format!(
                "{name} has origin {:?} mm and {other_name} has {:?}; the first is taken",
                first.origin, second.origin
            ));
        }
        let mut cosines = first.direction.iter().flatten().zip(second.direction.iter().flatten());
        if cosines.any(|(a, b)| apart(*a, *b, DIRECTION_TOLERANCE)) {
            self.warnings.push(format!(
                "{name} and {other_name} have different directions; the first is taken"
            ));
        }
        let mut other = other;
        self.warnings.append(&mut other.warnings);
        let scaling = |image: &Self| (image.slope, image.intercept);
        if (self.element, scaling(self)) != (other.element, scaling(&other)) {
            if (self.stored, scaling(self)) == (other.stored, scaling(&other)) {
                self.make_stored(name)?;
                other.make_stored(other_name)?;
            } else {
                self.make_f32(name)?;
                other.make_f32(other_name)?;
            }
        }
        if self.stored != other.stored {
            self.stored = self.element;
        }
        self.separate_channels(name)?;
        other.separate_channels(other_name)?;
        let what = format!("the voxels of {name} and {other_name}");
        let mut bytes = owned(&what, std::mem::take(&mut self.bytes), other.bytes.len())?;
        bytes.extend_from_slice(&other.bytes);
        self.bytes = bytes.into();
        self.channels += other.channels;
        Ok(())
    }

    /// Brings channels that lie side by side one behind the other.
    fn separate_channels(&mut self, name: &str) -> Result<()> {
        if self.interleaved {
            let (size, channels) = (self.element.size(), self.channels);
            let mut bytes = reserved(&format!("the voxels of {name}"), self.bytes.len())?;
            for channel in 0..channels {
                let voxels = self.bytes.chunks_exact(size * channels);
                voxels.for_each(|voxel| bytes.extend_from_slice(&voxel[channel * size..][..size]));
            }
            self.bytes = bytes.into();
            self.interleaved = false;
        }
        Ok(())
    }

    /// Gives values that are held as `i16` their stored type back.
    fn make_stored(&mut self, name: &str) -> Result<()> {
        if self.element != self.stored {
            let what = format!("the voxels of {name}");
            let mut bytes = owned(&what, std::mem::take(&mut self.bytes), 0)?;
            narrow::widen(&what, &mut bytes, self.stored, 0)?;
            self.bytes = bytes.into();
            self.element = self.stored;
        }
        Ok(())
    }

    /// Stores the values themselves, as `f32`.
    fn make_f32(&mut self, name: &str) -> Result<()> {
        const BLOCK: usize = 1 << 12;
        let view = self.view();
        view.validate()?;
        let size = self.element.size();
        let count = self.bytes.len() / size;
        let mut bytes = reserved(&format!("the voxels of {name}"), count.saturating_mul(4))?;
        let mut values = [0.0f32; BLOCK];
        for first in (0..count).step_by(BLOCK) {
            let values = &mut values[..BLOCK.min(count - first)];
            view.read_line(first * size, size as isize, values);
            bytes.extend_from_slice(bytemuck::cast_slice(values));
        }
        self.bytes = bytes.into();
        self.element = Element::F32;
        self.stored = Element::F32;
        self.slope = 1.0;
        self.intercept = 0.0;
        Ok(())
    }
}

/// The bytes as a vector with room for `further` ones.
fn owned(what: &str, bytes: Bytes, further: usize) -> Result<Vec<u8>> {
    let length = bytes.len().saturating_add(further);
    match bytes {
        Bytes::Mapped(map) => {
            let mut owned = reserved(what, length)?;
            owned.extend_from_slice(&map);
            Ok(owned)
        }
        Bytes::Owned(mut bytes) => {
            bytes.try_reserve_exact(further).map_err(|_| Error::Memory {
                what: what.into(),
                needed_bytes: length as u64,
                available_bytes: 0,
            })?;
            Ok(bytes)
        }
    }
}

/// "122 x 101 x 112".
fn grid(dims: [usize; 3]) -> String {
    format!("{} x {} x {}", dims[0], dims[1], dims[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: [[f64; 3]; 3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

    fn image(values: &[i16], slope: f64) -> Image {
        Image {
            bytes: bytemuck::cast_slice(values).to_vec().into(),
            element: Element::I16,
            stored: Element::I16,
            dims: [values.len(), 1, 1],
            channels: 1,
            interleaved: false,
            slope,
            intercept: 0.0,
            geometry: Geometry { spacing: [1.0; 3], origin: [0.0; 3], direction: IDENTITY },
            warnings: Vec::new(),
        }
    }

    #[test]
    fn channels_of_one_type_keep_it() {
        let mut first = image(&[1, 2], 2.0);
        first.append("a", image(&[3, 4], 2.0), "b").unwrap();
        assert_eq!((first.channels, first.element, first.slope), (2, Element::I16, 2.0));
        assert_eq!(first.bytes, image(&[1, 2, 3, 4], 2.0).bytes);
        assert_eq!(first.view().channel_stride, 4);
        assert!(first.warnings.is_empty());
    }

    #[test]
    fn channels_side_by_side_are_brought_apart() {
        let mut first = image(&[1, 10, 2, 20], 2.0);
        (first.dims, first.channels, first.interleaved) = ([2, 1, 1], 2, true);
        let mut line = [0.0; 2];
        let view = first.view();
        view.read_line(view.channel_stride as usize, view.strides[0], &mut line);
        assert_eq!(line, [20.0, 40.0]);
        first.append("a", image(&[3, 4], 2.0), "b").unwrap();
        assert_eq!((first.channels, first.interleaved), (3, false));
        assert_eq!(first.bytes, image(&[1, 2, 10, 20, 3, 4], 2.0).bytes);
        let mut scaled = image(&[1, 10, 2, 20], 2.0);
        (scaled.dims, scaled.channels, scaled.interleaved) = ([2, 1, 1], 2, true);
        scaled.append("a", image(&[3, 4], 1.0), "b").unwrap();
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&scaled.bytes);
        assert_eq!(values, [2.0, 4.0, 20.0, 40.0, 3.0, 4.0]);
    }

    #[test]
    fn channels_of_different_scaling_become_values() {
        let mut first = image(&[1, 2], 2.0);
        first.append("a", image(&[3, 4], 0.5), "b").unwrap();
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&first.bytes);
        assert_eq!((first.element, values), (Element::F32, vec![2.0, 4.0, 1.5, 2.0]));
        assert_eq!((first.slope, first.intercept), (1.0, 0.0));
    }

    #[test]
    fn channels_must_share_the_grid() {
        let message = |other: Image| {
            image(&[1, 2], 1.0).append("a.nii", other, "b.nii").unwrap_err().to_string()
        };
        let text = message(image(&[1, 2, 3], 1.0));
        assert!(text.contains("a.nii has voxels 2 x 1 x 1 and b.nii has 3 x 1 x 1"), "{text}");
        let mut coarse = image(&[1, 2], 1.0);
        coarse.geometry.spacing[2] = 1.5;
        assert!(message(coarse).contains("spacing"));
    }

    #[test]
    fn channels_elsewhere_in_space_are_a_warning() {
        let mut moved = image(&[1, 2], 1.0);
        moved.geometry.origin[1] = 5.0;
        moved.geometry.direction[0][0] = -1.0;
        let mut first = image(&[1, 2], 1.0);
        first.append("a", moved, "b").unwrap();
        assert_eq!(first.warnings.len(), 2);
        assert_eq!(first.geometry, image(&[1, 2], 1.0).geometry);
    }
}
