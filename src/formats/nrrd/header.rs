//! What the fields of an NRRD header say of the voxels, checked.

use super::super::axes::{self, Vector, cross, length};
use super::super::source::printable;
use super::super::voxels::{Claims, voxel_bytes};
use super::fields::Fields;
use crate::base::Element;
use crate::volume::Geometry;

/// Why a header is refused: a reason, without the file's name.
pub(super) enum Refused {
    /// It is not what it should be.
    Wrong(String),
    /// It is valid, and not read.
    Unsupported(String),
}

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self::Wrong(reason)
    }
}

/// How the voxels are stored in their file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Raw,
    Gzip,
}

/// Where the voxels are.
pub(super) struct Place {
    pub(super) encoding: Encoding,
    /// Lines of their file before them.
    pub(super) lines: u64,
    /// Bytes before them, decompressed; `None` says that they are the file's end.
    pub(super) bytes: Option<u64>,
}

/// Which axes of the file are i, j, k and the channels.
struct Axes {
    /// In the file's order, two or three.
    spatial: Vec<usize>,
    channels: Option<usize>,
}

/// Checks the fields. The claims' offset is left to be set.
pub(super) fn parse(fields: &Fields) -> Result<(Claims, Place), Refused> {
    let element = element(fields.required("type")?)?;
    let place = place(fields)?;
    let sizes = sizes(fields)?;
    let axes = axes(fields, &sizes)?;
    let mut dims = [1; 3];
    for (axis, &of) in axes.spatial.iter().enumerate() {
        dims[axis] = sizes[of];
    }
    let channels = axes.channels.map_or(1, |of| sizes[of]);
    let voxel_bytes = voxel_bytes(dims, channels, element)?;
    let mut warnings = Vec::new();
    let geometry = geometry(fields, &axes, sizes.len(), &mut warnings)?;
    let little = match fields.get("endian") {
        Some("little") => true,
        Some("big") => false,
        None if element.size() == 1 => cfg!(target_endian = "little"),
        None => return Err(Refused::Wrong("its header has no field `endian`".into())),
        Some(found) => {
            return Err(Refused::Wrong(format!(
                "endian is `{}`; expected little or big",
                printable(found)
            )));
        }
    };
    let claims = Claims {
        dims,
        channels,
        interleaved: axes.channels == Some(0),
        element,
        swapped: little != cfg!(target_endian = "little"),
        offset: 0,
        voxel_bytes,
        slope: 1.0,
        intercept: 0.0,
        geometry,
        warnings,
    };
    Ok((claims, place))
}

fn element(name: &str) -> Result<Element, Refused> {
    let name = name.to_lowercase();
    Ok(match name.split_whitespace().collect::<Vec<_>>().join(" ").as_str() {
        "signed char" | "int8" | "int8_t" => Element::I8,
        "uchar" | "unsigned char" | "uint8" | "uint8_t" => Element::U8,
        "short" | "short int" | "signed short" | "signed short int" | "int16" | "int16_t" => {
            Element::I16
        }
        "ushort" | "unsigned short" | "unsigned short int" | "uint16" | "uint16_t" => Element::U16,
        "int" | "signed int" | "int32" | "int32_t" => Element::I32,
        "uint" | "unsigned int" | "uint32" | "uint32_t" => Element::U32,
        "longlong"
        | "long long"
        | "long long int"
        | "signed long long"
        | "signed long long int"
        | "int64"
        | "int64_t" => Element::I64,
        "ulonglong" | "unsigned long long" | "unsigned long long int" | "uint64" | "uint64_t" => {
            Element::U64
        }
        "float" => Element::F32,
        "double" => Element::F64,
        "block" => return Err(Refused::Unsupported("voxels are blocks of bytes".into())),
        _ => {
            return Err(Refused::Wrong(format!(
                "voxels are of type `{}`, which NRRD does not know",
                printable(&name)
            )));
        }
    })
}

fn place(fields: &Fields) -> Result<Place, Refused> {
    let encoding = match fields.required("encoding")?.to_lowercase().as_str() {
        "raw" => Encoding::Raw,
        "gzip" | "gz" => Encoding::Gzip,
        other @ ("txt" | "text" | "ascii" | "hex" | "bzip2" | "bz2" | "zrl") => {
            return Err(Refused::Unsupported(format!(
                "voxels are encoded as {other}, and raw and gzip are read; convert it, for example \
                 with SimpleITK or 3D Slicer"
            )));
        }
        other => {
            return Err(Refused::Wrong(format!(
                "encoding is `{}`; expected raw or gzip",
                printable(other)
            )));
        }
    };
    let skip = |name: &str| -> Result<i64, String> {
        let text = fields.get(name).unwrap_or("0");
        let skip = text.parse().ok().filter(|skip| (-1..1 << 40).contains(skip));
        skip.ok_or_else(|| {
            format!("its field `{name}` is `{}`; expected a number from 0", printable(text))
        })
    };
    let lines = u64::try_from(skip("lineskip")?)
        .map_err(|_| "its field `lineskip` is -1; expected a number from 0".to_string())?;
    let bytes = u64::try_from(skip("byteskip")?).ok();
    if bytes.is_none() && encoding == Encoding::Gzip {
        return Err(Refused::Wrong("its field `byteskip` is -1, but its voxels are gzip".into()));
    }
    Ok(Place { encoding, lines, bytes })
}

fn sizes(fields: &Fields) -> Result<Vec<usize>, Refused> {
    let dimension = fields.required("dimension")?;
    let rank = match dimension.parse() {
        Ok(rank @ 2..=16) => rank,
        _ => {
            return Err(Refused::Wrong(format!(
                "dimension is `{}`; expected an image of 2 to 4 dimensions",
                printable(dimension)
            )));
        }
    };
    let text = fields.required("sizes")?;
    let sizes: Option<Vec<usize>> =
        text.split_whitespace().map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    match sizes {
        Some(sizes) if sizes.len() == rank => Ok(sizes),
        _ => Err(Refused::Wrong(format!(
            "sizes are `{}`; expected {rank} numbers of at least 1",
            printable(text)
        ))),
    }
}

fn axes(fields: &Fields, sizes: &[usize]) -> Result<Axes, Refused> {
    let rank = sizes.len();
    let wrong = |name: &str, found: usize| {
        Refused::Wrong(format!("its field `{name}` has {found} entries for {rank} dimensions"))
    };
    let kinds = fields.words("kinds").unwrap_or_else(|| vec!["???"; rank]);
    if kinds.len() != rank {
        return Err(wrong("kinds", kinds.len()));
    }
    if kinds.iter().any(|kind| kind.eq_ignore_ascii_case("complex")) {
        return Err(Refused::Unsupported("voxels are complex numbers".into()));
    }
    let mut in_space: Vec<bool> = match fields.vectors("spacedirections")? {
        Some(vectors) if vectors.len() == rank => vectors.iter().map(Option::is_some).collect(),
        Some(vectors) => return Err(wrong("spacedirections", vectors.len())),
        None => {
            let spatial = ["domain", "space", "time", "none", "???"];
            kinds.iter().map(|kind| spatial.contains(&kind.to_lowercase().as_str())).collect()
        }
    };
    // Nothing says what a fourth axis is: channels, as in other formats.
    if rank == 4 && in_space.iter().all(|spatial| *spatial) {
        in_space[3] = false;
    }
    // An axis of one entry says nothing.
    let is_channels = |axis: &usize| !in_space[*axis] && sizes[*axis] > 1;
    let channels: Vec<usize> = (0..rank).filter(is_channels).collect();
    let spatial: Vec<usize> = (0..rank).filter(|axis| in_space[*axis]).collect();
    if !(2..=3).contains(&spatial.len()) || channels.len() > 1 {
        return Err(Refused::Unsupported(format!(
            "an image of sizes {sizes:?} and kinds `{}`; two or three axes in space and one of \
             channels are read",
            printable(&kinds.join(" "))
        )));
    }
    let channels = channels.first().copied();
    if channels.is_some_and(|axis| axis > spatial[0] && axis < spatial[spatial.len() - 1]) {
        return Err(Refused::Unsupported(format!(
            "an image of kinds `{}`; channels are read as the first or the last axis",
            printable(&kinds.join(" "))
        )));
    }
    Ok(Axes { spatial, channels })
}

/// Signs that bring a space to LPS, and its number of dimensions.
fn space(fields: &Fields) -> Result<(Vector, usize), Refused> {
    if let Some(count) = fields.get("spacedimension") {
        return match count.parse() {
            Ok(dimension @ 2..=3) => Ok(([1.0; 3], dimension)),
            _ => Err(Refused::Unsupported(format!(
                "a space of `{}` dimensions; two or three are read",
                printable(count)
            ))),
        };
    }
    let Some(name) = fields.get("space") else { return Ok(([1.0; 3], 3)) };
    let signs = match name.to_lowercase().as_str() {
        "left-posterior-superior" | "lps" => [1.0, 1.0, 1.0],
        "right-anterior-superior" | "ras" => [-1.0, -1.0, 1.0],
        "left-anterior-superior" | "las" => [1.0, -1.0, 1.0],
        // As they are, as ITK reads them.
        "scanner-xyz" | "3d-right-handed" | "3d-left-handed" => [1.0, 1.0, 1.0],
        other => {
            return Err(Refused::Unsupported(format!(
                "space is `{}`; left-posterior-superior, right-anterior-superior, \
                 left-anterior-superior, scanner-xyz and 3D spaces are read",
                printable(other)
            )));
        }
    };
    Ok((signs, 3))
}

fn geometry(
    fields: &Fields,
    axes: &Axes,
    rank: usize,
    warnings: &mut Vec<String>,
) -> Result<Geometry, Refused> {
    let (signs, dimension) = space(fields)?;
    let to_lps = |vector: &[f64], name: &str| -> Result<Vector, String> {
        if vector.len() != dimension || !vector.iter().all(|value| value.is_finite()) {
            return Err(format!(
                "its field `{name}` has the vector `{}`; expected {dimension} finite numbers",
                printable(&format!("{:?}", &vector[..vector.len().min(8)]))
            ));
        }
        // Adding 0 turns -0 into 0.
        Ok([0, 1, 2].map(|axis| vector.get(axis).map_or(0.0, |value| value * signs[axis] + 0.0)))
    };
    let mut origin = match fields.vectors("spaceorigin")?.as_deref() {
        None => None,
        Some([Some(origin)]) => Some(to_lps(origin, "spaceorigin")?),
        Some(_) => return Err(Refused::Wrong("its field `spaceorigin` is no vector".into())),
    };
    let mut spacing = [1.0; 3];
    let mut unit = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    if let Some(vectors) = fields.vectors("spacedirections")? {
        for (axis, &of) in axes.spatial.iter().enumerate() {
            let vector = to_lps(vectors[of].as_deref().unwrap_or_default(), "spacedirections")?;
            spacing[axis] = length(vector);
            if spacing[axis] == 0.0 {
                return Err(Refused::Wrong(format!("its axis {axis} has no length in space")));
            }
            unit[axis] = vector.map(|value| value / spacing[axis] + 0.0);
        }
        if axes.spatial.len() == 2 {
            let normal = cross(unit[0], unit[1]);
            let size = length(normal);
            unit[2] = normal.map(|value| value / size + 0.0);
        }
    } else if let Some(spacings) = per_axis(fields, "spacings", rank)? {
        if fields.get("space").or(fields.get("spacedimension")).is_some() {
            // As ITK: nothing says how the axes lie in that space.
            return Err(Refused::Wrong(
                "its header has the field `spacings` in a space; expected `space directions`"
                    .into(),
            ));
        }
        for (axis, &of) in axes.spatial.iter().enumerate() {
            match spacings[of] {
                // Not known.
                nan if nan.is_nan() => {}
                found if found > 0.0 && found.is_finite() => spacing[axis] = found,
                found => {
                    return Err(Refused::Wrong(format!(
                        "its field `spacings` has {found}; expected numbers above 0"
                    )));
                }
            }
        }
        if let Some(minima) = per_axis(fields, "axismins", rank)? {
            origin = origin_of_minima(fields, axes, &minima, &spacings);
        }
    }
    let origin = origin.unwrap_or([0.0; 3]);
    let (geometry, warning) = axes::geometry(spacing, origin, unit)?;
    warnings.extend(warning);
    Ok(geometry)
}

/// The first voxel's place, where all minima and spacings are known: those of cells are their
/// borders, those of nodes their centres.
fn origin_of_minima(
    fields: &Fields,
    axes: &Axes,
    minima: &[f64],
    spacings: &[f64],
) -> Option<Vector> {
    let centers = fields.words("centers");
    let mut origin = [0.0; 3];
    for (axis, &of) in axes.spatial.iter().enumerate() {
        let center = centers.as_ref().and_then(|centers| centers.get(of));
        let half = if center.is_some_and(|center| *center == "node") { 0.0 } else { 0.5 };
        origin[axis] = minima[of] + half * spacings[of];
    }
    origin.iter().all(|mm| mm.is_finite()).then_some(origin)
}

fn per_axis(fields: &Fields, name: &str, rank: usize) -> Result<Option<Vec<f64>>, String> {
    match fields.numbers(name)? {
        Some(numbers) if numbers.len() != rank => {
            Err(format!("its field `{name}` has {} entries for {rank} dimensions", numbers.len()))
        }
        numbers => Ok(numbers),
    }
}
