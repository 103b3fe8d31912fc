//! Names, codes and colours of structures.
//!
//! `structures.json` lists the structures of TotalSegmentator with their SNOMED CT codes and
//! colours (from its `totalsegmentator_snomed_mapping.csv`, Apache-2.0), STU-Net's 104 first and
//! in the order of its classes (its `label_orders.json`, Apache-2.0).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::base::{Error, Result};
use crate::model::Label;

/// Classes of the released STU-Nets without the background.
const STUNET: usize = 104;

#[derive(Clone, Deserialize)]
struct Structure {
    name: String,
    code: Option<String>,
    color: Option<[u8; 3]>,
}

/// What is known of labels: the built-in structures by name, and what the user says.
pub(super) struct Known {
    structures: Vec<Structure>,
    /// By value.
    values: BTreeMap<u32, Details>,
    /// By name.
    names: BTreeMap<String, Details>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Details {
    Name(String),
    Fields(Fields),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: Option<String>,
    code: Option<String>,
    color: Option<[u8; 3]>,
}

impl Known {
    /// `file` is JSON: label values or names, with a name or with `name`, `code` and `color`.
    pub(super) fn read(file: Option<&Path>) -> Result<Self> {
        let structures = serde_json::from_str(include_str!("structures.json"))
            .map_err(|error| Error::Internal(format!("structures.json: {error}")))?;
        let mut known = Self { structures, values: BTreeMap::new(), names: BTreeMap::new() };
        let Some(path) = file else { return Ok(known) };
        let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        let wrong = |error: serde_json::Error| {
            Error::format(
                path.display().to_string(),
                format!(
                    "is no table of labels: {error}; expected {{\"1\": \"liver\", \"spleen\": \
                     {{\"code\": \"SCT:78961009\", \"color\": [157, 108, 162]}}}}"
                ),
            )
        };
        let table: BTreeMap<String, Value> = serde_json::from_str(&text).map_err(wrong)?;
        for (key, value) in table {
            let details: Details = serde_json::from_value(value).map_err(wrong)?;
            match key.parse() {
                Ok(value) => known.values.insert(value, details),
                Err(_) => known.names.insert(key, details),
            };
        }
        Ok(known)
    }

    /// Names of a v1 model's labels, which its plans lack; the second says whether they are
    /// invented.
    pub(super) fn names_of_classes(
        &self,
        classes: u32,
        is_stunet: bool,
    ) -> (Vec<(u32, String)>, bool) {
        let is_known = is_stunet && classes as usize == STUNET + 1;
        let name = |value: u32| match value {
            0 => "background".to_owned(),
            _ if is_known => self.structures[value as usize - 1].name.clone(),
            _ => format!("class {value}"),
        };
        ((0..classes).map(|value| (value, name(value))).collect(), !is_known)
    }

    /// Refuses what is said of labels that the package lacks. `names` are those of its trainings.
    pub(super) fn check(&self, labels: &[Label], names: &BTreeSet<String>) -> Result<()> {
        let is_name =
            |name: &String| names.contains(name) || labels.iter().any(|label| label.name == *name);
        let is_value = |value: &u32| labels.iter().any(|label| label.value == *value);
        let value = self.values.keys().find(|value| !is_value(value)).map(u32::to_string);
        match value.or_else(|| self.names.keys().find(|name| !is_name(name)).cloned()) {
            Some(key) => Err(Error::argument(format!(
                "the table of labels has {key:?}, which is no value or name of the model's labels"
            ))),
            None => Ok(()),
        }
    }

    /// A label of a package: its value there, and the name that its training has.
    pub(super) fn label(&self, value: u32, own: &str) -> Label {
        let said: Vec<&Details> =
            [self.names.get(own), self.values.get(&value)].into_iter().flatten().collect();
        let name = said.iter().rev().find_map(|details| match details {
            Details::Name(name) | Details::Fields(Fields { name: Some(name), .. }) => Some(name),
            Details::Fields(_) => None,
        });
        let name = name.map_or(own, String::as_str);
        let built_in = self.structures.iter().find(|structure| structure.name == name);
        let mut label = Label {
            value,
            name: name.to_owned(),
            color: built_in.and_then(|structure| structure.color),
            code: built_in.and_then(|structure| structure.code.clone()),
        };
        for details in self.names.get(name).into_iter().chain(said) {
            if let Details::Fields(fields) = details {
                label.color = fields.color.or(label.color);
                label.code = fields.code.clone().or(label.code);
            }
        }
        label
    }
}
