//! What a label's code stands for, in full.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::formats::nrrd::{Code, Terminology};

/// What `structures.json` says of a structure: scheme, value and meaning of each code.
#[derive(Deserialize)]
struct Structure {
    name: String,
    code: Option<String>,
    meaning: String,
    category: Option<[String; 3]>,
    modifier: Option<[String; 3]>,
    region: Option<[String; 3]>,
    region_modifier: Option<[String; 3]>,
}

static STRUCTURES: LazyLock<Vec<Structure>> =
    LazyLock::new(|| serde_json::from_str(include_str!("structures.json")).unwrap_or_default());

const ANATOMICAL_STRUCTURE: [&str; 3] = ["SCT", "123037004", "Anatomical Structure"];
const LEFT: [&str; 3] = ["SCT", "7771000", "Left"];
const RIGHT: [&str; 3] = ["SCT", "24028007", "Right"];

fn code(parts: [impl Into<String>; 3]) -> Code {
    let [scheme, value, meaning] = parts.map(Into::into);
    Code { scheme, value, meaning }
}

/// What a label of this name and code (`SCT:10200004`) is; `None` for a code without a scheme.
/// Codes that the table of structures lacks are taken as an anatomical structure of the label's
/// name, left or right if the name says so.
pub fn terminology(name: &str, label_code: &str) -> Option<Terminology> {
    let (scheme, value) = label_code.split_once(':')?;
    let same: Vec<&Structure> =
        STRUCTURES.iter().filter(|s| s.code.as_deref() == Some(label_code)).collect();
    let category = |found: Option<&Structure>| {
        let category = found.and_then(|found| found.category.clone());
        category.map_or_else(|| code(ANATOMICAL_STRUCTURE), code)
    };
    if let Some(found) = same.iter().find(|structure| structure.name == name) {
        return Some(Terminology {
            category: category(Some(found)),
            kind: code([scheme, value, &found.meaning]),
            modifier: found.modifier.clone().map(code),
            region: found.region.clone().map(code),
            region_modifier: found.region_modifier.clone().map(code),
        });
    }
    let first = same.first().copied();
    let meaning = first.map_or_else(|| name.replace('_', " "), |first| first.meaning.clone());
    Some(Terminology {
        category: category(first),
        kind: code([scheme, value, &meaning]),
        modifier: side(name).map(code),
        region: None,
        region_modifier: None,
    })
}

/// The side that a name says.
fn side(name: &str) -> Option<[&'static str; 3]> {
    let words = name.split(|c: char| !c.is_alphanumeric());
    words.into_iter().find_map(|word| match word.to_lowercase().as_str() {
        "left" => Some(LEFT),
        "right" => Some(RIGHT),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_structure_of_the_table_has_its_row() {
        assert_eq!(STRUCTURES.len(), 170);
        for structure in STRUCTURES.iter() {
            let found = terminology(&structure.name, structure.code.as_ref().unwrap()).unwrap();
            assert_eq!(found.kind.meaning, structure.meaning, "{}", structure.name);
            assert_eq!(found.modifier, structure.modifier.clone().map(code), "{}", structure.name);
            assert_eq!(found.region, structure.region.clone().map(code), "{}", structure.name);
        }
    }

    #[test]
    fn names_say_what_the_table_does_not() {
        let kidney = terminology("Left kidney", "SCT:64033007").unwrap();
        assert_eq!((kidney.kind.meaning.as_str(), kidney.modifier), ("Kidney", Some(code(LEFT))));
        let ours = terminology("our_organ_right", "99X:1").unwrap();
        assert_eq!(ours.kind, code(["99X", "1", "our organ right"]));
        assert_eq!(ours.modifier, Some(code(RIGHT)));
        assert_eq!(terminology("liver", "10200004"), None);
    }
}
