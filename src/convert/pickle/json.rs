//! Plain data as JSON: dictionaries' keys become text, arrays and tuples lists.

use serde_json::{Map, Value};

use super::{Id, Node, Number, Pickle};

/// Bytes that a document may take, its values and texts counted as often as they are repeated.
const MOST_BYTES: u64 = 128 << 20;
/// Bytes of a value, about.
const VALUE_BYTES: u64 = 64;
/// Lists within lists.
const MOST_DEPTH: usize = 64;

/// What a document has taken.
#[derive(Default)]
struct Taken(u64);

impl Taken {
    /// An error if there is no room for so much more.
    fn take(&mut self, bytes: u64) -> Result<(), String> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > MOST_BYTES {
            return Err(format!("its values would take more than {MOST_BYTES} bytes"));
        }
        Ok(())
    }
}

impl Pickle {
    /// A value as JSON; an error says why it can't be one. What carries no data is null.
    pub(in crate::convert) fn json(&self, id: Id) -> Result<Value, String> {
        self.converted(id, 0, &mut Taken::default())
    }

    fn converted(&self, id: Id, depth: usize, taken: &mut Taken) -> Result<Value, String> {
        taken.take(VALUE_BYTES)?;
        if depth > MOST_DEPTH {
            return Err(format!("values are nested more than {MOST_DEPTH} deep"));
        }
        Ok(match self.node(id) {
            Node::Bool(value) => Value::from(*value),
            Node::Int(value) => Value::from(*value),
            Node::Float(value) => Value::from(*value),
            Node::Text(text) => {
                taken.take(text.len() as u64)?;
                Value::from(text.as_str())
            }
            Node::List(items) | Node::Tuple(items) => items
                .iter()
                .map(|item| self.converted(*item, depth + 1, taken))
                .collect::<Result<Vec<_>, _>>()?
                .into(),
            Node::Dict(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let key = match self.node(*key) {
                        Node::Text(text) => {
                            taken.take(text.len() as u64)?;
                            text.clone()
                        }
                        Node::Int(number) => number.to_string(),
                        Node::None => "None".into(),
                        _ => continue, // nothing of nnU-Net's that matters
                    };
                    map.insert(key, self.converted(*value, depth + 1, taken)?);
                }
                map.into()
            }
            Node::Array { shape, values } => {
                // Each extent multiplies the lists; the last ones hold the values.
                let mut lists = 1u64;
                for extent in shape {
                    lists = lists.saturating_mul(*extent);
                    taken.take(lists.saturating_mul(VALUE_BYTES))?;
                }
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
