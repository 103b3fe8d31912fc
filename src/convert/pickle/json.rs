//! Plain data as JSON: dictionaries' keys become text, arrays and tuples lists.

use serde_json::{Map, Value};

use super::{Id, Node, Number, Pickle};

/// Bytes that a document may take, counted as often as its values are repeated.
const MOST_BYTES: usize = 128 << 20;
/// Bytes of a value: its own, and what its allocation rounds up.
const VALUE: usize = 64;
/// Bytes of a dictionary's table, and of each entry's key, value and hash.
const DICTIONARY: usize = 128;
const ENTRY: usize = 128;
/// Lists within lists.
const MOST_DEPTH: usize = 64;

/// What a document may still take, in bytes.
struct Budget(usize);

impl Budget {
    /// Counts `count` things of `size` bytes before they are made.
    fn take(&mut self, count: usize, size: usize) -> Result<(), String> {
        let left = count.checked_mul(size).and_then(|bytes| self.0.checked_sub(bytes));
        self.0 = left.ok_or_else(|| format!("the values take more than {MOST_BYTES} bytes"))?;
        Ok(())
    }
}

impl Pickle {
    /// A value as JSON; an error says why it can't be one. What carries no data is null.
    pub(in crate::convert) fn json(&self, id: Id) -> Result<Value, String> {
        self.converted(id, 0, &mut Budget(MOST_BYTES))
    }

    fn converted(&self, id: Id, depth: usize, budget: &mut Budget) -> Result<Value, String> {
        if depth > MOST_DEPTH {
            return Err(format!("values are nested more than {MOST_DEPTH} deep"));
        }
        Ok(match self.node(id) {
            Node::Bool(value) => Value::from(*value),
            Node::Int(value) => Value::from(*value),
            Node::Float(value) => Value::from(*value),
            Node::Text(text) => {
                budget.take(text.len(), 1)?;
                Value::from(text.as_str())
            }
            Node::List(items) | Node::Tuple(items) => {
                budget.take(items.len(), VALUE)?;
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    list.push(self.converted(*item, depth + 1, budget)?);
                }
                list.into()
            }
            Node::Dict(entries) => {
                budget.take(1, DICTIONARY)?;
                budget.take(entries.len(), ENTRY)?;
                let mut map = Map::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = match self.node(*key) {
                        Node::Text(text) => {
                            budget.take(text.len(), 1)?;
                            text.clone()
                        }
                        Node::Int(number) => number.to_string(),
                        Node::None => "None".into(),
                        _ => continue, // nothing of nnU-Net's that matters
                    };
                    map.insert(key, self.converted(*value, depth + 1, budget)?);
                }
                map.into()
            }
            Node::Array { shape, values } => {
                let mut lists = 1usize;
                for &extent in shape {
                    lists = lists.saturating_mul(extent.try_into().unwrap_or(usize::MAX));
                    budget.take(lists, VALUE)?;
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

#[cfg(test)]
mod tests {
    use super::{Id, Node, Number, Pickle};

    fn refused(nodes: Vec<Node>) {
        let root = Id(nodes.len() as u32 - 1);
        let error = Pickle { nodes, root }.json(root).unwrap_err();
        assert!(error.contains("take more than"), "{error}");
    }

    #[test]
    fn texts_count_as_often_as_they_are_repeated() {
        let text = Node::Text("x".repeat(1 << 20));
        refused(vec![text.clone(), Node::List(vec![Id(0); 200])]);
        // As keys, in dictionaries within a list.
        let dictionary = Node::Dict(vec![(Id(0), Id(1))]);
        refused(vec![text, Node::None, dictionary, Node::List(vec![Id(2); 200])]);
    }

    #[test]
    fn lists_of_an_array_count() {
        let values = vec![Number::Bool(true); 300_000];
        let mut shape = vec![1; 8];
        shape[0] = values.len() as u64;
        refused(vec![Node::Array { shape, values }]);
    }

    #[test]
    fn empty_arrays_are_empty_lists() {
        let array = Node::Array { shape: vec![0, 7], values: Vec::new() };
        let json = Pickle { nodes: vec![array], root: Id(0) }.json(Id(0)).unwrap();
        assert_eq!(json, serde_json::json!([]));
    }
}
