//! The lines of an NRRD header.

use std::collections::{BTreeMap, HashMap};

use super::super::source::{Lines, printable};
use crate::base::Error;

/// Fields that say something of the voxels or their place.
const HEEDED: [&str; 16] = [
    "type",
    "dimension",
    "sizes",
    "encoding",
    "endian",
    "datafile",
    "lineskip",
    "byteskip",
    "space",
    "spacedimension",
    "spacedirections",
    "spaceorigin",
    "spacings",
    "axismins",
    "kinds",
    "centers",
];
/// Fields that an image is read without.
const IGNORED: [&str; 14] = [
    "content",
    "number",
    "blocksize",
    "min",
    "max",
    "oldmin",
    "oldmax",
    "axismaxs",
    "thicknesses",
    "labels",
    "units",
    "spaceunits",
    "sampleunits",
    "measurementframe",
];

/// What a header says, as texts.
pub(super) struct Fields {
    fields: HashMap<String, String>,
    /// What it says of each segment, by its number: keys without `SegmentN_`.
    pub(super) segments: BTreeMap<u32, HashMap<String, String>>,
    /// Bytes of the header.
    pub(super) bytes: u64,
}

impl Fields {
    /// Reads a header to the empty line that ends it, or to the file's end.
    pub(super) fn read(lines: &mut Lines, path: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::format(path, reason);
        let magic = lines.next()?.unwrap_or_default();
        if !matches!(magic.strip_prefix("NRRD000"), Some("1" | "2" | "3" | "4" | "5")) {
            return Err(wrong(format!(
                "begins with `{}`; an NRRD file begins with NRRD0001 to NRRD0005",
                printable(&magic)
            )));
        }
        let mut fields = HashMap::new();
        let mut segments: BTreeMap<u32, HashMap<String, String>> = BTreeMap::new();
        while let Some(line) = lines.next()? {
            if line.is_empty() {
                break;
            }
            if line.starts_with('#') {
                continue;
            }
            let (colon, pair) = match (line.find(": "), line.find(":=")) {
                (Some(field), Some(pair)) => (field.min(pair), pair < field),
                (Some(field), None) => (field, false),
                (None, Some(pair)) => (pair, true),
                (None, None) => {
                    return Err(wrong(format!(
                        "its header has the line `{}`; expected a field or a key",
                        printable(&line)
                    )));
                }
            };
            let (name, value) = (&line[..colon], line[colon + 2..].trim());
            if pair {
                if let Some((number, key)) = segment_key(name) {
                    segments.entry(number).or_default().insert(key.into(), value.into());
                }
                continue;
            }
            let mut key: String = name.to_lowercase().split_whitespace().collect();
            if key == "centerings" {
                key = "centers".into();
            }
            if HEEDED.contains(&key.as_str()) {
                if fields.insert(key, value.to_string()).is_some() {
                    return Err(wrong(format!(
                        "its header has the field `{}` twice",
                        printable(name)
                    )));
                }
            } else if !IGNORED.contains(&key.as_str()) {
                return Err(wrong(format!(
                    "its header has the field `{}`, which NRRD does not know",
                    printable(name)
                )));
            }
        }
        Ok(Self { fields, segments, bytes: lines.position })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A field that every header has. The error is a reason, without the file's name.
    pub(super) fn required(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("its header has no field `{name}`"))
    }

    /// Numbers with blanks between them, if the field is there.
    pub(super) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let numbers = text.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        numbers
            .map(Some)
            .map_err(|_| format!("its field `{name}` is `{}`; expected numbers", printable(text)))
    }

    /// Words with blanks between them, in quotation marks or not, if the field is there.
    pub(super) fn words(&self, name: &str) -> Option<Vec<&str>> {
        Some(self.get(name)?.split_whitespace().map(|word| word.trim_matches('"')).collect())
    }

    /// Vectors `(x,y,z)`, or `none`, if the field is there.
    pub(super) fn vectors(&self, name: &str) -> Result<Option<Vec<Option<Vec<f64>>>>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = || {
            let text = printable(text);
            format!("its field `{name}` is `{text}`; expected vectors such as (1,0,0), or none")
        };
        let mut vectors = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("none") {
                vectors.push(None);
                rest = after.trim_start();
                continue;
            }
            let (inside, after) = rest
                .strip_prefix('(')
                .and_then(|inside| inside.split_once(')'))
                .ok_or_else(wrong)?;
            let numbers = inside.split(',').map(|number| number.trim().parse());
            vectors.push(Some(numbers.collect::<Result<_, _>>().map_err(|_| wrong())?));
            rest = after.trim_start();
        }
        Ok(Some(vectors))
    }
}

/// The number and the key of `Segment12_Name`.
fn segment_key(key: &str) -> Option<(u32, &str)> {
    let (number, key) = key.strip_prefix("Segment")?.split_once('_')?;
    Some((number.parse().ok()?, key))
}
