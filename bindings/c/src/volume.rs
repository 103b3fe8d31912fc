//! The caller's volume, checked before a byte of it is read.

use engine::{Element, Error, Geometry, Result, VolumeView};

use crate::types::*;

fn element(dtype: u32, what: &str) -> Result<Element> {
    Ok(match dtype {
        VOXTILE_U8 => Element::U8,
        VOXTILE_I8 => Element::I8,
        VOXTILE_U16 => Element::U16,
        VOXTILE_I16 => Element::I16,
        VOXTILE_U32 => Element::U32,
        VOXTILE_I32 => Element::I32,
        VOXTILE_F16 => Element::F16,
        VOXTILE_F32 => Element::F32,
        VOXTILE_F64 => Element::F64,
        other => {
            return Err(Error::argument(format!("{what} is {other}, expected VOXTILE_U8 ...")));
        }
    })
}

/// More voxels than any scan has.
const MOST_VOXELS: i64 = 1 << 36;

/// Bytes from the lowest voxel to voxel (0, 0, 0), and to the end of the highest.
fn extent(dims: [i64; 4], strides: [i64; 4], size: usize) -> Option<(usize, usize)> {
    let (mut below, mut above) = (0i128, size as i128);
    for (count, stride) in dims.into_iter().zip(strides) {
        let reach = (i128::from(count) - 1).checked_mul(i128::from(stride))?;
        below = below.checked_sub(reach.min(0))?;
        above = above.checked_add(reach.max(0))?;
    }
    isize::try_from(below.checked_add(above)?).ok()?;
    Some((usize::try_from(below).ok()?, usize::try_from(above).ok()?))
}

/// The caller's volume.
///
/// # Safety
/// `given.data` is NULL or valid for every voxel that dims and strides name.
pub(crate) unsafe fn view<'a>(given: &voxtile_volume) -> Result<VolumeView<'a>> {
    let element = element(given.dtype, "volume.dtype")?;
    let size = element.size();
    let channels = i64::from(given.channels.max(1));
    let [i, j, k] = given.dims;
    if given.dims.iter().any(|&extent| extent < 1) {
        return Err(Error::argument(format!(
            "volume.dims is {:?}, expected at least 1 voxel per axis",
            given.dims
        )));
    }
    let too_large = || {
        Error::argument(format!(
            "volume: {:?} voxels with strides of {:?} bytes are more than can be addressed",
            given.dims, given.strides
        ))
    };
    let dense = || {
        let row = i.checked_mul(size as i64)?;
        let plane = row.checked_mul(j)?;
        Some(([size as i64, row, plane], plane.checked_mul(k)?))
    };
    let (dense, dense_channel) = dense().ok_or_else(too_large)?;
    let strides = if given.strides == [0; 3] { dense } else { given.strides };
    let channel_stride =
        if given.channel_stride == 0 { dense_channel } else { given.channel_stride };
    // Before a slice is made of it, it must be something that can exist.
    let counts = [i, j, k, channels];
    let voxels = counts.iter().try_fold(1i64, |voxels, &count| voxels.checked_mul(count));
    if voxels.is_none_or(|voxels| voxels > MOST_VOXELS) {
        return Err(too_large());
    }
    let all = [strides[0], strides[1], strides[2], channel_stride];
    let (below, above) = extent(counts, all, size).ok_or_else(too_large)?;
    let direction = given.direction;
    let geometry = Geometry {
        spacing: given.spacing,
        origin: given.origin,
        direction: if direction == [0.0; 9] {
            Geometry::axis_aligned(given.spacing).direction
        } else {
            std::array::from_fn(|row| std::array::from_fn(|column| direction[3 * row + column]))
        },
    };
    // What can be wrong without reading is found before memory is touched.
    geometry.validate()?;
    if given.data.is_null() {
        return Err(Error::argument("volume.data is NULL"));
    }
    // SAFETY: the caller vouches for every byte from the lowest voxel to the highest.
    let bytes =
        unsafe { std::slice::from_raw_parts(given.data.cast::<u8>().sub(below), below + above) };
    let view = VolumeView {
        bytes,
        element,
        dims: given.dims.map(|extent| extent as usize),
        strides: strides.map(|stride| stride as isize),
        channels: channels as usize,
        channel_stride: channel_stride as isize,
        first: below,
        slope: if given.slope == 0.0 { 1.0 } else { given.slope },
        intercept: given.intercept,
        geometry,
    };
    view.validate()?;
    Ok(view)
}
