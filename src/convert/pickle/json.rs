//! Plain data as JSON: dictionaries' keys become text, arrays and tuples lists.

use serde_json::{Map, Value};

use super::{Id, Node, Number, Pickle};

/// Values that a document may have, counted as often as they are repeated.
const MOST_VALUES: usize = 2_000_000;
/// Lists within lists.
const MOST_DEPTH: usize = 64;

impl Pickle {
    /// A value as JSON; an error says why it can't be one. What carries no data is null.
    pub(in crate::convert) fn json(&self, id: Id) -> Result<Value, String> {
        self.converted(id, 0, &mut 0)
    }

    fn converted(&self, id: Id, depth: usize, count: &mut usize) -> Result<Value, String> {
        *count += 1;
        if depth > MOST_DEPTH {
            return Err(format!("values are nested more than {MOST_DEPTH} deep"));
        }
        if *count > MOST_VALUES {
            return Err(format!("there are more than {MOST_VALUES} values"));
        }
        Ok(match self.node(id) {
            Node::Bool(value) => Value::from(*value),
            Node::Int(value) => Value::from(*value),
            Node::Float(value) => Value::from(*value),
            Node::Text(text) => Value::from(text.as_str()),
            Node::List(items) | Node::Tuple(items) => items
                .iter()
                .map(|item| self.converted(*item, depth + 1, count))
                .collect::<Result<Vec<_>, _>>()?
                .into(),
            Node::Dict(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let key = match self.node(*key) {
                        Node::Text(text) => text.clone(),
                        Node::Int(number) => number.to_string(),
                        Node::None => "None".into(),
                        _ => continue, // nothing of nnU-Net's that matters
                    };
                    map.insert(key, self.converted(*value, depth + 1, count)?);
                }
                map.into()
            }
            Node::Array { shape, values } => {
                *count += values.len();
                array(shape, values)
            }
            _ => Value::Null,
        })
    }
}

/// Nested lists; `values` are as many as the shape says.
fn array(shape: &[u64], values: &[Number]) -> Value {
    match shape {
        [] => values.first().map_or(Value::Null, |value| match *value {
            Number::Int(value) => value.into(),
            Number::Float(value) => value.into(),
            Number::Bool(value) => value.into(),
        }),
        [extent, rest @ ..] => {
            let length = values.len().checked_div(*extent as usize).unwrap_or(0).max(1);
            values.chunks(length).map(|values| array(rest, values)).collect::<Vec<_>>().into()
        }
    }
}
