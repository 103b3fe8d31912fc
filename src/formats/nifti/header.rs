//! What a NIfTI-1 header claims, checked before anything is allocated for it.

use nifti::{NiftiHeader, NiftiType};

use super::super::voxels::{Claims, voxel_bytes};
use super::geometry;
use crate::base::Element;

/// Bytes of a NIfTI-1 header.
pub(super) const HEADER_BYTES: usize = 348;
/// Where the voxels of a single file begin if there are no extensions.
pub(super) const SINGLE_FILE_OFFSET: u64 = 352;

/// Checks the first bytes of a file. The error is a reason, without the file's name; `Ok(Err)` is
/// a file that is valid but of a kind that is not read. The flag says whether the voxels are in
/// another file.
pub(super) fn parse(bytes: &[u8]) -> Result<Result<(Claims, bool), String>, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let size = bytes.first_chunk().map_or(0, |size: &[u8; 4]| i32::from_le_bytes(*size));
    let is_size = |expected: i32| size == expected || size.swap_bytes() == expected;
    if is_size(540) {
        return Ok(Err("this is NIfTI-2, and only NIfTI-1 is read; convert it, for example with \
                       nibabel: nibabel.Nifti1Image.from_image(nibabel.load(FILE))"
            .into()));
    }
    if bytes.len() >= 4 && !is_size(HEADER_BYTES as i32) {
        return Err(format!("not a NIfTI file: it begins with {:02x?}", &bytes[..4]));
    }
    if bytes.len() < HEADER_BYTES {
        return Err(format!(
            "it ends after {} bytes; a NIfTI header has {HEADER_BYTES}",
            bytes.len()
        ));
    }
    let magic = &bytes[HEADER_BYTES - 4..HEADER_BYTES];
    if magic != b"n+1\0" && magic != b"ni1\0" {
        return Err(format!(
            "wrong magic `{}` where NIfTI-1 has `n+1` or `ni1` (Analyze 7.5 files are not read)",
            magic.escape_ascii()
        ));
    }
    let header = NiftiHeader::from_reader(bytes).map_err(|error| error.to_string())?;
    if header.sizeof_hdr != HEADER_BYTES as i32 {
        return Err(format!(
            "dim[0] is {} (or {} in the other byte order); expected 2 to 7",
            header.dim[0],
            header.dim[0].swap_bytes()
        ));
    }
    let element = match element(&header) {
        Ok(element) => element,
        Err(reason) => return Ok(Err(reason)),
    };
    let separate = magic == b"ni1\0";
    claims(&header, element, separate).map(|claims| Ok((claims, separate)))
}

fn claims(header: &NiftiHeader, element: Element, separate: bool) -> Result<Claims, String> {
    let (dims, channels) = dimensions(header)?;
    let voxel_bytes = voxel_bytes(dims, channels, element)?;
    let offset = f64::from(header.vox_offset);
    let smallest = if separate { 0.0 } else { HEADER_BYTES as f64 };
    let offset = if offset == 0.0 && !separate {
        SINGLE_FILE_OFFSET
    } else if offset >= smallest && offset <= 1e12 {
        offset as u64
    } else {
        return Err(format!("vox_offset is {offset}; expected at least {smallest}"));
    };
    let (slope, intercept) = scaling(header)?;
    let (geometry, warnings) = geometry::from_header(header)?;
    Ok(Claims {
        dims,
        channels,
        interleaved: false,
        element,
        swapped: header.endianness != nifti::Endianness::native(),
        offset,
        voxel_bytes,
        slope,
        intercept,
        geometry,
        warnings,
    })
}

fn element(header: &NiftiHeader) -> Result<Element, String> {
    let refused = |name: &str| {
        Err(format!(
            "voxels are {name} (datatype {}); expected integers or floating point numbers of 8 to \
             64 bits",
            header.datatype
        ))
    };
    match header.data_type() {
        Ok(NiftiType::Uint8) => Ok(Element::U8),
        Ok(NiftiType::Int8) => Ok(Element::I8),
        Ok(NiftiType::Uint16) => Ok(Element::U16),
        Ok(NiftiType::Int16) => Ok(Element::I16),
        Ok(NiftiType::Uint32) => Ok(Element::U32),
        Ok(NiftiType::Int32) => Ok(Element::I32),
        Ok(NiftiType::Uint64) => Ok(Element::U64),
        Ok(NiftiType::Int64) => Ok(Element::I64),
        Ok(NiftiType::Float32) => Ok(Element::F32),
        Ok(NiftiType::Float64) => Ok(Element::F64),
        Ok(NiftiType::Float128) => refused("float128"),
        Ok(NiftiType::Complex64) => refused("complex64"),
        Ok(NiftiType::Complex128) => refused("complex128"),
        Ok(NiftiType::Complex256) => refused("complex256"),
        Ok(NiftiType::Rgb24) => refused("RGB colours"),
        Ok(NiftiType::Rgba32) => refused("RGBA colours"),
        Err(_) if header.datatype == 1 => refused("single bits"),
        Err(_) => refused("of an unknown type"),
    }
}

/// Voxels along i, j, k and the number of volumes.
fn dimensions(header: &NiftiHeader) -> Result<([usize; 3], usize), String> {
    let rank = usize::from(header.dim[0]);
    if !(2..=7).contains(&rank) {
        return Err(format!("dim[0] is {rank}; expected an image of 2 to 7 dimensions"));
    }
    let mut counts = [1; 7];
    for (axis, count) in counts.iter_mut().enumerate().take(rank) {
        // The crate reads the signed field as unsigned.
        let found = header.dim[axis + 1].cast_signed();
        if found <= 0 {
            return Err(format!("dim[{}] is {found}; expected at least 1", axis + 1));
        }
        *count = found as usize;
    }
    let [i, j, k, further @ ..] = counts;
    if further.iter().filter(|count| **count > 1).count() > 1 {
        return Err(format!(
            "dimensions 4 to 7 are {further:?}; expected only one of them above 1, for the \
             channels"
        ));
    }
    Ok(([i, j, k], further.iter().product()))
}

/// `scl_slope` and `scl_inter`; a slope of 0 means that both are unset.
fn scaling(header: &NiftiHeader) -> Result<(f64, f64), String> {
    let (slope, intercept) = (f64::from(header.scl_slope), f64::from(header.scl_inter));
    if slope == 0.0 || !slope.is_finite() {
        return Ok((1.0, 0.0));
    }
    if !intercept.is_finite() {
        return Err(format!("scl_inter is {intercept}, with a scl_slope of {slope}"));
    }
    Ok((slope, intercept))
}
