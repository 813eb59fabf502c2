//! Facts out of JSON: the text is read once, what no path names is skipped.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::rules::{Node, ReadAs};
use crate::value::{Value, ValueWriter};
use crate::wire::Reader;

use super::Fact;

/// Longer text is no identifier and no name.
const TEXT_BYTES_MAX: usize = 4096;

/// Hits kept of one document: a list of a million items must not be kept.
const HITS_MAX: usize = 256;

/// The value is no JSON object or list.
#[derive(Debug)]
pub(super) struct NoDocument;

/// A simple value in a document.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar {
    Text(String),
    Int(i64),
    Double(f64),
    Bool(bool),
    /// A list or an object where a simple value was looked for: it is there, and that is all.
    Other,
}

impl Scalar {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }
}

/// Something that stands at a path.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) leaf: u16,
    pub(super) scalar: Scalar,
}

/// What a scalar is to a column.
pub(super) enum Converted<'s, 'a> {
    Fact(Fact<'a>),
    Text(Cow<'s, str>),
    Nothing,
    Conflict,
}

/// Reads a scalar as a column wants it.
pub(super) fn convert<'s, 'a>(read_as: ReadAs, scalar: &'s Scalar) -> Converted<'s, 'a> {
    let is_text = matches!(read_as, ReadAs::Text | ReadAs::Provider | ReadAs::Operation);
    let fact = match scalar {
        Scalar::Text(text) if text.is_empty() => return Converted::Nothing,
        Scalar::Text(text) if is_text => return Converted::Text(Cow::Borrowed(text)),
        Scalar::Text(text) => match super::convert(read_as, Value::String(text.as_bytes())) {
            // What borrows from the text is no column's type here.
            Some(Fact::Int(number)) => Some(Fact::Int(number)),
            Some(Fact::Float(number)) => Some(Fact::Float(number)),
            Some(Fact::Bool(told)) => Some(Fact::Bool(told)),
            Some(Fact::Usd(usd)) => Some(Fact::Usd(usd)),
            _ => None,
        },
        Scalar::Int(number) => owned(super::convert(read_as, Value::Int(*number))),
        Scalar::Double(number) => owned(super::convert(read_as, Value::Double(*number))),
        Scalar::Bool(told) => owned(super::convert(read_as, Value::Bool(*told))),
        Scalar::Other if read_as == ReadAs::Present => Some(Fact::Bool(true)),
        Scalar::Other => None,
    };
    match (fact, scalar) {
        (Some(fact), _) => Converted::Fact(fact),
        (None, Scalar::Int(0)) if read_as == ReadAs::UsdZeroUnknown => Converted::Nothing,
        (None, Scalar::Double(0.0)) if read_as == ReadAs::UsdZeroUnknown => Converted::Nothing,
        (None, _) => Converted::Conflict,
    }
}

fn owned<'a>(fact: Option<Fact<'_>>) -> Option<Fact<'a>> {
    match fact? {
        Fact::Int(number) => Some(Fact::Int(number)),
        Fact::Float(number) => Some(Fact::Float(number)),
        Fact::Bool(told) => Some(Fact::Bool(told)),
        Fact::Usd(usd) => Some(Fact::Usd(usd)),
        _ => None,
    }
}

/// What stands at the paths of a tree, in the order of the text. Some producers send an OTLP map or list in place of
/// JSON text.
pub(super) fn hits(root: &Node, value: Value<'_>) -> Result<Vec<Hit>, NoDocument> {
    let mut hits = Vec::new();
    match value {
        Value::String(text) => read(root, text, &mut hits)?,
        Value::KvList(bytes) | Value::Array(bytes) => {
            let (mut json, mut symbols) = (Vec::new(), Vec::new());
            // Offsets of errors are not told here, so that they count from the value's own beginning.
            let reader = Reader::at_end(bytes, "AnyValue");
            ValueWriter::default().write(&reader, value, &mut json, &mut symbols).map_err(|_| NoDocument)?;
            read(root, &json, &mut hits)?;
        }
        _ => return Err(NoDocument),
    }
    Ok(hits)
}

fn read(root: &Node, text: &[u8], hits: &mut Vec<Hit>) -> Result<(), NoDocument> {
    if !matches!(text.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return Err(NoDocument);
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    Walk { node: root, hits }.deserialize(&mut json).map_err(|_| NoDocument)
}

struct Walk<'n, 'h> {
    node: &'n Node,
    hits: &'h mut Vec<Hit>,
}

impl Walk<'_, '_> {
    fn note(self, scalar: impl Fn() -> Scalar) {
        for &leaf in &self.node.leaves {
            if self.hits.len() < HITS_MAX {
                self.hits.push(Hit { leaf, scalar: scalar() });
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, told: bool) -> Result<(), E> {
        self.note(|| Scalar::Bool(told));
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.note(|| Scalar::Int(number));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.note(|| i64::try_from(number).map_or(Scalar::Double(number as f64), Scalar::Int));
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.note(|| Scalar::Double(number));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if text.len() <= TEXT_BYTES_MAX {
            self.note(|| Scalar::Text(text.to_owned()));
        } else {
            self.note(|| Scalar::Other);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        Walk { node: self.node, hits: &mut *self.hits }.note(|| Scalar::Other);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.node.keys.get(key.as_ref()) {
                Some(node) => map.next_value_seed(Walk { node, hits: &mut *self.hits })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        Walk { node: self.node, hits: &mut *self.hits }.note(|| Scalar::Other);
        match &self.node.items {
            Some(node) => while items.next_element_seed(Walk { node, hits: &mut *self.hits })?.is_some() {},
            None => while items.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by fuzzing: the place of the error was computed from the beginning of the list, before which it lay.
    #[test]
    fn a_list_that_cannot_be_read_is_no_document() {
        for items in [&b"\x0b"[..], b"\x0b\x0c\x0b\xff", b"\x0a\x05\x2a\x01\x0b", b"\x0a\xff", b""] {
            for value in [Value::Array(items), Value::KvList(items)] {
                let found = hits(&Node::default(), value).map(|hits| hits.len());
                assert!(matches!(found, Err(NoDocument) | Ok(0)), "{items:?}");
            }
        }
        assert!(hits(&Node::default(), Value::Array(b"\x0b")).is_err());
    }
}
