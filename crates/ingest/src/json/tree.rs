//! JSON as a tree that borrows from its text.
//!
//! Content comes as JSON inside of attributes, and most of it is prose: a tree that copies no text costs a fraction of one that
//! does. Values that are not taken apart are given back as they were written, letter by letter.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use super::DEPTH_LIMIT;
use super::error::Failure;
use super::reader::{Reader, too_deep};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    /// A number, `true` or `false`, as written.
    Scalar(Cow<'a, str>),
    String(Cow<'a, str>),
    Array(Array<'a>),
    Object(Object<'a>),
}

/// A list of values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Array<'a> {
    pub(crate) items: Vec<Json<'a>>,
    /// As it was written; empty where it was not.
    text: &'a str,
}

/// Members in the order they were written. Of members with the same name the last counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object<'a> {
    members: Vec<(Cow<'a, str>, Json<'a>)>,
    /// As it was written; empty where it was not, or is not that any more.
    text: &'a str,
}

/// Reads one value and nothing after it. `None` where the text is no JSON, or nested more than [`DEPTH_LIMIT`] levels deep.
pub(crate) fn parse(text: &str) -> Option<Json<'_>> {
    let mut parser = Parser { reader: Reader::new(text.as_bytes()), text };
    let json = parser.value(DEPTH_LIMIT).ok()?;
    parser.reader.peek().is_none().then_some(json)
}

struct Parser<'a> {
    reader: Reader<'a>,
    text: &'a str,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Json<'a>, Failure> {
        let first = self.reader.peek();
        let start = self.reader.offset();
        match first {
            Some(b'"') => self.string().map(Json::String),
            Some(b'{') => {
                let members = self.members(depth)?;
                Ok(Json::Object(Object { members, text: self.since(start) }))
            }
            Some(b'[') => {
                let items = self.items(depth)?;
                Ok(Json::Array(Array { items, text: self.since(start) }))
            }
            Some(b'n') => self.reader.take_null().map(|_| Json::Null),
            Some(b't' | b'f') => {
                self.reader.boolean()?;
                Ok(Json::Scalar(self.since(start).into()))
            }
            _ => {
                self.reader.number()?;
                Ok(Json::Scalar(self.since(start).into()))
            }
        }
    }

    fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.reader.offset()]
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Failure> {
        // Quotes and backslashes are no part of longer characters: what lies between them is UTF-8 as the whole is.
        let start = self.reader.offset() + 1;
        match self.reader.string()? {
            Cow::Borrowed(plain) => Ok(Cow::Borrowed(&self.text[start..start + plain.len()])),
            Cow::Owned(bytes) => {
                let at = self.reader.offset();
                String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Failure::new("not UTF-8", at))
            }
        }
    }

    fn members(&mut self, depth: usize) -> Result<Vec<(Cow<'a, str>, Json<'a>)>, Failure> {
        let mut members = Vec::new();
        let depth = depth.checked_sub(1).ok_or_else(|| too_deep(self.reader.offset()))?;
        self.reader.require(b'{', "an object")?;
        if self.reader.take(b'}') {
            return Ok(members);
        }
        loop {
            if self.reader.peek() != Some(b'"') {
                return Err(self.reader.expected("a field name"));
            }
            let name = self.string()?;
            self.reader.require(b':', "`:`")?;
            members.push((name, self.value(depth)?));
            if !self.reader.another(b'}', "`,` or `}`")? {
                return Ok(members);
            }
        }
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Json<'a>>, Failure> {
        let mut items = Vec::new();
        let depth = depth.checked_sub(1).ok_or_else(|| too_deep(self.reader.offset()))?;
        self.reader.require(b'[', "an array")?;
        if self.reader.take(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth)?);
            if !self.reader.another(b']', "`,` or `]`")? {
                return Ok(items);
            }
        }
    }
}

impl<'a> Json<'a> {
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// A whole number that fits.
    pub(crate) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Scalar(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(crate) fn is_string(&self) -> bool {
        matches!(self, Self::String(_))
    }

    pub(crate) fn is_array(&self) -> bool {
        matches!(self, Self::Array(_))
    }

    pub(crate) fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// The member of an object.
    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.as_object()?.get(name)
    }

    /// A string as it is, all else as JSON.
    pub(crate) fn into_text(self) -> Cow<'a, str> {
        match self {
            Self::String(text) | Self::Scalar(text) => text,
            Self::Array(Array { text, .. }) | Self::Object(Object { text, .. }) if !text.is_empty() => text.into(),
            other => other.to_string().into(),
        }
    }

    /// The same value, borrowing nothing. What was written is not kept: it would be copied once for each level.
    pub(crate) fn into_owned(self) -> Json<'static> {
        match self {
            Self::Null => Json::Null,
            Self::Scalar(text) => Json::Scalar(text.into_owned().into()),
            Self::String(text) => Json::String(text.into_owned().into()),
            Self::Array(array) => {
                Json::Array(Array { items: array.items.into_iter().map(Json::into_owned).collect(), text: "" })
            }
            Self::Object(object) => Json::Object(object.into_owned()),
        }
    }
}

impl<'a> Object<'a> {
    fn place(&self, name: &str) -> Option<usize> {
        self.members.iter().rposition(|(key, _)| key == name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.place(name).map(|place| &self.members[place].1)
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Takes a member out.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Json<'a>> {
        let place = self.place(name)?;
        self.text = "";
        let (_, json) = self.members.remove(place);
        // Those it stood in for go with it.
        if self.contains_key(name) {
            self.members.retain(|(key, _)| key != name);
        }
        Some(json)
    }

    /// Adds a member, or changes the one of that name.
    pub(crate) fn insert(&mut self, name: Cow<'a, str>, json: Json<'a>) {
        self.text = "";
        match self.place(&name) {
            Some(place) => self.members[place].1 = json,
            None => self.members.push((name, json)),
        }
    }

    /// Moves all members of another object here.
    pub(crate) fn append(&mut self, other: &mut Object<'a>) {
        if self.members.is_empty() {
            *self = std::mem::take(other);
            return;
        }
        other.text = "";
        if !other.members.is_empty() {
            self.text = "";
            self.members.append(&mut other.members);
        }
    }

    /// Leaves out members that are null.
    pub(crate) fn drop_nulls(&mut self) {
        if self.members.iter().any(|(_, json)| json.is_null()) {
            self.text = "";
            self.members.retain(|(_, json)| !json.is_null());
        }
    }

    fn into_owned(self) -> Object<'static> {
        let members = self.members.into_iter().map(|(name, json)| (name.into_owned().into(), json.into_owned()));
        Object { members: members.collect(), text: "" }
    }
}

impl Display for Json<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Scalar(text) => out.write_str(text),
            Self::String(text) => write_string(out, text),
            Self::Array(array) if !array.text.is_empty() => out.write_str(array.text),
            Self::Array(array) => {
                out.write_char('[')?;
                for (place, item) in array.items.iter().enumerate() {
                    out.write_str(if place > 0 { "," } else { "" })?;
                    item.fmt(out)?;
                }
                out.write_char(']')
            }
            Self::Object(object) => object.fmt(out),
        }
    }
}

impl Display for Object<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.text.is_empty() {
            return out.write_str(self.text);
        }
        out.write_char('{')?;
        for (place, (name, json)) in self.members.iter().enumerate() {
            out.write_str(if place > 0 { "," } else { "" })?;
            write_string(out, name)?;
            out.write_char(':')?;
            json.fmt(out)?;
        }
        out.write_char('}')
    }
}

/// A JSON string; of all characters only those that must be escaped are.
fn write_string(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    out.write_char('"')?;
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.write_str(&text[written..at])?;
        match byte {
            b'"' => out.write_str("\\\"")?,
            b'\\' => out.write_str("\\\\")?,
            b'\n' => out.write_str("\\n")?,
            b'\r' => out.write_str("\\r")?,
            b'\t' => out.write_str("\\t")?,
            _ => write!(out, "\\u{byte:04x}")?,
        }
        written = at + 1;
    }
    out.write_str(&text[written..])?;
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn arbitrary_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
            "\\PC{0,12}|[\\x00-\\x1f\"\\\\/é😀]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-e\"\\n]{0,3}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Scenario: any JSON, compact or spread over lines. Guarantee: it is read; what is not changed is given back as it
        /// was written; a copy that borrows nothing means the same.
        #[test]
        fn json_comes_back(value in arbitrary_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let json = parse(&text).expect("JSON is read");
            prop_assert_eq!(serde_json::from_str::<Value>(&json.to_string()).unwrap(), value.clone());
            if json.is_array() || json.is_object() {
                prop_assert_eq!(json.to_string(), text.trim());
            }
            let owned = json.into_owned();
            prop_assert_eq!(serde_json::from_str::<Value>(&owned.to_string()).unwrap(), value);
        }

        /// Scenario: texts that are nearly JSON. Guarantee: what a strict reader takes is taken, and what it refuses is refused,
        /// unpaired surrogates apart.
        #[test]
        fn only_json_is_read(text in "[\\[\\]{}:,\"\\\\ntrue0-9.eE+ -]{0,14}") {
            prop_assert_eq!(parse(&text).is_some(), serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
        }

        /// Scenario: members are taken out, put in and moved. Guarantee: what is written then says just that.
        #[test]
        fn changes_show(members in prop::collection::btree_map("[a-d]{1,2}", arbitrary_json(), 0..6), name in "[a-d]{1,2}") {
            let mut expected: serde_json::Map<String, Value> = members.into_iter().collect();
            let text = Value::Object(expected.clone()).to_string();
            let Some(Json::Object(mut object)) = parse(&text) else { panic!("an object is read") };
            let taken = object.remove(&name).map(|json| serde_json::from_str::<Value>(&json.to_string()).unwrap());
            prop_assert_eq!(taken, expected.remove(&name));
            object.insert("new".into(), Json::String("a \"quote\"".into()));
            expected.insert("new".to_owned(), "a \"quote\"".into());
            object.drop_nulls();
            expected.retain(|_, value| !value.is_null());
            prop_assert_eq!(serde_json::from_str::<Value>(&object.to_string()).unwrap(), Value::Object(expected));
        }
    }

    /// Scenario: the same name twice, and arrays nested too deep. Guarantee: the last one counts and goes with the first; too
    /// deep is no JSON.
    #[test]
    fn names_twice_and_depth() {
        let Some(Json::Object(mut object)) = parse(r#"{"a":1,"b":2,"a":3}"#) else { panic!("an object is read") };
        assert_eq!(object.get("a").and_then(Json::as_i64), Some(3));
        assert_eq!(object.remove("a").and_then(|json| json.as_i64()), Some(3));
        assert_eq!(object.to_string(), r#"{"b":2}"#);
        assert!(parse(&("[".repeat(DEPTH_LIMIT) + &"]".repeat(DEPTH_LIMIT))).is_some());
        assert!(parse(&("[".repeat(DEPTH_LIMIT + 1) + &"]".repeat(DEPTH_LIMIT + 1))).is_none());
    }
}
