//! `voxtile compare`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use voxtile::formats::{self, Image};
use voxtile::{Element, Model};

use super::arguments::Compare;
use super::failure::{Exit, Failure};
use super::print;

/// Voxels of a label in two label maps.
#[derive(Clone, Copy, Default)]
struct Count {
    first: u64,
    second: u64,
    both: u64,
}

/// Prints how alike two label maps are.
pub fn compare(arguments: &Compare) -> Result<(), Failure> {
    let first = labels(&arguments.first)?;
    let second = labels(&arguments.second)?;
    if first.0.dims != second.0.dims {
        return Err(Failure::new(
            Exit::Input,
            format!(
                "{} has {:?} voxels and {} has {:?}; label maps of the same grid can be compared",
                arguments.first.display(),
                first.0.dims,
                arguments.second.display(),
                second.0.dims
            ),
        ));
    }
    let model = arguments.model.as_ref().map(Model::open).transpose();
    let model = model.map_err(Failure::of(Exit::Model))?;
    let mut counts: BTreeMap<i64, Count> = BTreeMap::new();
    let mut differing = 0u64;
    for (&a, &b) in first.1.iter().zip(&second.1) {
        counts.entry(a).or_default().first += 1;
        counts.entry(b).or_default().second += 1;
        if a == b {
            counts.entry(a).or_default().both += 1;
        } else {
            differing += 1;
        }
    }
    let name = |value: i64| {
        let labels = model.as_ref().map_or(&[][..], |model| &model.package().labels);
        let found = labels.iter().find(|label| i64::from(label.value) == value);
        found.map_or("", |label| label.name.as_str())
    };
    let mut text = String::from("  label    Dice        first       second  name\n");
    let mut sum = 0.0;
    let structures = counts.iter().filter(|(value, _)| **value != 0);
    for (value, count) in structures.clone() {
        // Of a label that is counted, one of the two has voxels.
        let dice = 2.0 * count.both as f64 / (count.first + count.second) as f64;
        sum += dice;
        let (first, second) = (count.first, count.second);
        let line = format!("{value:>7}  {dice:.4} {first:>12} {second:>12}  {}", name(*value));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    match structures.count() {
        0 => text.push_str("no label but the background\n"),
        found => {
            let _ = writeln!(text, "   mean  {:.4}", sum / found as f64);
        }
    }
    let voxels = first.1.len();
    let percent = 100.0 * differing as f64 / voxels as f64;
    let _ = writeln!(text, "{differing} of {voxels} voxels differ ({percent:.4} %)");
    print(&text)
}

/// An image and its values, which must be whole numbers.
fn labels(path: &Path) -> Result<(Image, Vec<i64>), Failure> {
    let image = formats::read(path).map_err(Failure::of(Exit::Input))?;
    let wrong = |what: &str| {
        Failure::new(Exit::Input, format!("{} is no label map: it has {what}", path.display()))
    };
    if image.slope != 1.0 || image.intercept != 0.0 || image.channels != 1 {
        return Err(wrong("scaled values or several channels"));
    }
    let bytes = &image.bytes;
    macro_rules! values {
        ($type:ty) => {
            bytes
                .chunks_exact(size_of::<$type>())
                .map(|bytes| {
                    <$type>::from_ne_bytes(bytes.try_into().expect("a whole voxel")) as i64
                })
                .collect()
        };
    }
    // Floating point numbers are no labels, even if all are whole and held as integers.
    if matches!(image.stored, Element::U64 | Element::F32 | Element::F64) {
        return Err(wrong(&format!("voxels of type {:?}, expected integers", image.stored)));
    }
    let values = match image.element {
        Element::U8 => values!(u8),
        Element::I8 => values!(i8),
        Element::U16 => values!(u16),
        Element::I16 => values!(i16),
        Element::U32 => values!(u32),
        Element::I32 => values!(i32),
        Element::I64 => values!(i64),
        other => return Err(wrong(&format!("voxels of type {other:?}, expected integers"))),
    };
    Ok((image, values))
}
