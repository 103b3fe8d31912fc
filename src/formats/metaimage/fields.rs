//! The lines of a MetaImage header.

use std::collections::HashMap;

use super::super::source::{Lines, printable};
use crate::base::Error;

/// The fields up to `ElementDataFile`, which is the last one.
pub(super) struct Fields {
    fields: HashMap<String, String>,
    /// Bytes of the header.
    pub(super) bytes: u64,
}

impl Fields {
    /// Reads a header to its last field.
    pub(super) fn read(lines: &mut Lines, path: &str) -> Result<Self, Error> {
        let mut fields = HashMap::new();
        while let Some(line) = lines.next()? {
            if line.trim().is_empty() {
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                return Err(Error::format(
                    path,
                    format!(
                        "its header has the line `{}`; expected `Field = value`",
                        printable(&line)
                    ),
                ));
            };
            let (name, value) = (name.trim().to_string(), value.trim().to_string());
            let last = name == "ElementDataFile";
            if fields.insert(name.clone(), value).is_some() && !name.starts_with("Comment") {
                return Err(Error::format(
                    path,
                    format!("its header has the field `{}` twice", printable(&name)),
                ));
            }
            if last {
                return Ok(Self { fields, bytes: lines.position });
            }
        }
        Err(Error::format(path, "its header has no field `ElementDataFile`, which is the last one"))
    }

    /// The value of the first of these names that is there.
    pub(super) fn get(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.fields.get(*name)).map(String::as_str)
    }

    /// Numbers, `count` of them, if there is one of the names.
    pub(super) fn numbers(&self, names: &[&str], count: usize) -> Result<Option<Vec<f64>>, String> {
        let Some(text) = self.get(names) else { return Ok(None) };
        let numbers: Option<Vec<f64>> = text
            .split_whitespace()
            .map(|number| number.parse().ok().filter(|number: &f64| number.is_finite()))
            .collect();
        match numbers {
            Some(numbers) if numbers.len() == count => Ok(Some(numbers)),
            _ => Err(format!(
                "its field `{}` is `{}`; expected {count} numbers",
                names[0],
                printable(text)
            )),
        }
    }

    pub(super) fn flag(&self, names: &[&str], otherwise: bool) -> Result<bool, String> {
        match self.get(names) {
            None => Ok(otherwise),
            Some(text) => match text.as_bytes().first() {
                Some(b'T' | b't' | b'1') => Ok(true),
                Some(b'F' | b'f' | b'0') => Ok(false),
                _ => Err(format!(
                    "its field `{}` is `{}`; expected True or False",
                    names[0],
                    printable(text)
                )),
            },
        }
    }
}
