//! OTLP attribute values: read from the wire, written as text with their types beside them.
//!
//! The text and type symbols are described in [`spanlake_schema::types`].

use std::io::Write;

use spanlake_schema::types;

use crate::wire::{Reader, WireError};

/// Values nested deeper than this are cut to "no value": deeper than any real sender, shallower than any stack.
pub(crate) const NESTING_MAX: usize = 64;

/// An `AnyValue`, borrowed from the request's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// The `KeyValue` had no value message.
    Missing,
    /// The value message had nothing set.
    Empty,
    String(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    /// An `ArrayValue` message.
    Array(&'a [u8]),
    /// A `KeyValueList` message.
    KvList(&'a [u8]),
    Bytes(&'a [u8]),
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Value<'a>,
}

impl<'a> Attribute<'a> {
    /// Reads a `KeyValue` message.
    #[inline(always)]
    pub(crate) fn read(parent: &Reader<'a>, bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = parent.inner(bytes, "KeyValue");
        let mut attribute = Self { key: &[], value: Value::Missing };
        while let Some((field, wire)) = reader.next()? {
            match field {
                1 => attribute.key = reader.bytes(wire)?,
                2 => attribute.value = Value::read(&reader, reader.bytes(wire)?)?,
                _ => {}
            }
        }
        Ok(attribute)
    }
}

impl Attribute<'_> {
    /// What a copy of it takes.
    pub(crate) fn copy_bytes(&self) -> usize {
        let value = match self.value {
            Value::String(bytes) | Value::Array(bytes) | Value::KvList(bytes) | Value::Bytes(bytes) => bytes.len(),
            _ => size_of::<u64>(),
        };
        self.key.len() + value
    }
}

impl<'a> Value<'a> {
    /// Reads an `AnyValue` message. Of several members of its oneof the last counts.
    #[inline(always)]
    pub(crate) fn read(parent: &Reader<'a>, bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = parent.inner(bytes, "AnyValue");
        let mut value = Self::Empty;
        while let Some((field, wire)) = reader.next()? {
            value = match field {
                1 => Self::String(reader.bytes(wire)?),
                2 => Self::Bool(reader.integer(wire)? != 0),
                3 => Self::Int(reader.integer(wire)? as i64),
                4 => Self::Double(f64::from_bits(reader.eight(wire)?)),
                5 => Self::Array(reader.bytes(wire)?),
                6 => Self::KvList(reader.bytes(wire)?),
                7 => Self::Bytes(reader.bytes(wire)?),
                _ => value,
            };
        }
        Ok(value)
    }

    fn symbol(self) -> char {
        match self {
            Self::Missing => types::MISSING,
            Self::Empty => types::EMPTY,
            Self::String(_) => types::STRING,
            Self::Bool(_) => types::BOOL,
            Self::Int(_) => types::INT,
            Self::Double(_) => types::DOUBLE,
            Self::Array(_) => '[',
            Self::KvList(_) => '{',
            Self::Bytes(_) => types::BYTES,
        }
    }
}

/// Writes type symbols, runs of equal ones as a length and a symbol.
#[derive(Debug, Default)]
pub(crate) struct TypeWriter {
    run: char,
    length: usize,
}

impl TypeWriter {
    /// Adds the symbol of a simple value.
    #[inline]
    pub(crate) fn push(&mut self, symbol: char, out: &mut Vec<u8>) {
        if symbol == self.run {
            self.length += 1;
        } else {
            self.flush(out);
            self.run = symbol;
            self.length = 1;
        }
    }

    /// Adds a symbol that never takes part in a run.
    #[inline]
    pub(crate) fn push_single(&mut self, symbol: char, out: &mut Vec<u8>) {
        self.flush(out);
        out.push(symbol as u8);
    }

    /// Ends the current run.
    #[inline]
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        match self.length {
            0 => {}
            1 | 2 => out.extend(std::iter::repeat_n(self.run as u8, self.length)),
            _ => {
                write_display(out, self.length);
                out.push(self.run as u8);
            }
        }
        self.length = 0;
    }
}

fn write_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing into a vector cannot fail.
    let _ = write!(out, "{value}");
}

/// Writes values as text and their types as symbols.
#[derive(Debug, Default)]
pub(crate) struct ValueWriter {
    types: TypeWriter,
    /// Whether a value was cut at [`NESTING_MAX`] since this was last taken.
    pub(crate) cut: bool,
    /// How many nested strings were not UTF-8 and were repaired.
    pub(crate) repaired: u64,
}

impl ValueWriter {
    /// Ends the symbols of one row.
    #[inline]
    pub(crate) fn finish_types(&mut self, symbols: &mut Vec<u8>) {
        self.types.flush(symbols);
    }

    /// Notes an attribute whose content stands elsewhere.
    #[inline]
    pub(crate) fn content(&mut self, symbols: &mut Vec<u8>) {
        self.types.push(types::CONTENT, symbols);
    }

    /// Notes an attribute that a promoted column holds.
    #[inline]
    pub(crate) fn promoted(&mut self, letter: u8, symbols: &mut Vec<u8>) {
        self.types.push_single(types::PROMOTED, symbols);
        symbols.push(letter);
    }

    /// Writes the text of a value and its symbols. Returns false where the text is NULL.
    #[inline]
    pub(crate) fn write(
        &mut self,
        reader: &Reader<'_>,
        value: Value<'_>,
        text: &mut Vec<u8>,
        symbols: &mut Vec<u8>,
    ) -> Result<bool, WireError> {
        match value {
            Value::String(bytes) => {
                text.extend_from_slice(bytes);
                self.types.push(types::STRING, symbols);
            }
            Value::Missing | Value::Empty => {
                self.types.push(value.symbol(), symbols);
                return Ok(false);
            }
            Value::Double(number) => {
                write_double(text, number);
                self.types.push(types::DOUBLE, symbols);
            }
            Value::Bytes(bytes) => {
                write_base64(text, bytes);
                self.types.push(types::BYTES, symbols);
            }
            _ => self.write_json(reader, value, text, symbols, 0)?,
        }
        Ok(true)
    }

    fn write_json(
        &mut self,
        reader: &Reader<'_>,
        value: Value<'_>,
        text: &mut Vec<u8>,
        symbols: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), WireError> {
        match value {
            Value::Array(_) | Value::KvList(_) if depth >= NESTING_MAX => {
                self.cut = true;
                text.extend_from_slice(b"null");
                self.types.push(types::EMPTY, symbols);
            }
            Value::Array(bytes) => {
                self.open(b'[', text, symbols);
                self.write_items(reader.inner(bytes, "ArrayValue"), text, symbols, depth)?;
                self.close(b']', text, symbols);
            }
            Value::KvList(bytes) => {
                self.open(b'{', text, symbols);
                self.write_entries(reader.inner(bytes, "KeyValueList"), text, symbols, depth)?;
                self.close(b'}', text, symbols);
            }
            simple => {
                self.write_simple(simple, text);
                self.types.push(simple.symbol(), symbols);
            }
        }
        Ok(())
    }

    fn open(&mut self, bracket: u8, text: &mut Vec<u8>, symbols: &mut Vec<u8>) {
        text.push(bracket);
        self.types.push_single(bracket as char, symbols);
    }

    fn close(&mut self, bracket: u8, text: &mut Vec<u8>, symbols: &mut Vec<u8>) {
        text.push(bracket);
        self.types.push_single(bracket as char, symbols);
    }

    fn write_items(
        &mut self,
        mut items: Reader<'_>,
        text: &mut Vec<u8>,
        symbols: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), WireError> {
        let mut first = true;
        while let Some((field, wire)) = items.next()? {
            if field == 1 {
                if !std::mem::take(&mut first) {
                    text.push(b',');
                }
                let value = Value::read(&items, items.bytes(wire)?)?;
                self.write_json(&items, value, text, symbols, depth + 1)?;
            }
        }
        Ok(())
    }

    fn write_entries(
        &mut self,
        mut entries: Reader<'_>,
        text: &mut Vec<u8>,
        symbols: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), WireError> {
        let mut first = true;
        while let Some((field, wire)) = entries.next()? {
            if field == 1 {
                if !std::mem::take(&mut first) {
                    text.push(b',');
                }
                let entry = Attribute::read(&entries, entries.bytes(wire)?)?;
                self.write_json_string(entry.key, text);
                text.push(b':');
                self.write_json(&entries, entry.value, text, symbols, depth + 1)?;
            }
        }
        Ok(())
    }

    fn write_simple(&mut self, value: Value<'_>, text: &mut Vec<u8>) {
        match value {
            Value::String(bytes) => self.write_json_string(bytes, text),
            Value::Bool(flag) => text.extend_from_slice(if flag { b"true" } else { b"false" }),
            Value::Int(number) => write_display(text, number),
            Value::Double(number) if number.is_finite() => write_double(text, number),
            Value::Double(number) => {
                text.push(b'"');
                write_double(text, number);
                text.push(b'"');
            }
            Value::Bytes(bytes) => {
                text.push(b'"');
                write_base64(text, bytes);
                text.push(b'"');
            }
            _ => text.extend_from_slice(b"null"),
        }
    }

    fn write_json_string(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        let string = String::from_utf8_lossy(bytes);
        self.repaired += u64::from(matches!(string, std::borrow::Cow::Owned(_)));
        // Writing into a vector cannot fail, and a string is always JSON.
        let _ = serde_json::to_writer(text, string.as_ref());
    }
}

/// The shortest decimal that reads back as the same double.
pub(crate) fn write_double(out: &mut Vec<u8>, number: f64) {
    if number.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if number.is_infinite() {
        out.extend_from_slice(if number > 0.0 { b"Infinity" } else { b"-Infinity" });
    } else {
        let _ = write!(out, "{number:?}");
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64, standard alphabet, padded (RFC 4648 §4).
fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let symbol = BASE64[(word >> (18 - 6 * index) & 63) as usize];
            out.push(if index <= chunk.len() { symbol } else { b'=' });
        }
    }
}

/// Lower-case hexadecimal.
#[inline]
pub(crate) fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}
