//! Values as columns want them. Numbers come as int, double or decimal text; anything else is no number.

use crate::decimal;
use crate::rules::ReadAs;
use crate::value::Value;
use crate::wire::Reader;

use super::Fact;

/// The items of an `ArrayValue` that was checked to hold strings only.
pub(super) fn strings(items: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(items, "ArrayValue");
    std::iter::from_fn(move || {
        loop {
            let (field, wire) = reader.next().ok()??;
            if field == 1
                && let Ok(Value::String(item)) = reader.bytes(wire).and_then(|bytes| Value::read(&reader, bytes))
            {
                return Some(item);
            }
        }
    })
}

pub(super) fn only_strings(items: &[u8]) -> bool {
    let mut reader = Reader::new(items, "ArrayValue");
    while let Ok(Some((field, wire))) = reader.next() {
        let value = reader.bytes(wire).and_then(|bytes| Value::read(&reader, bytes));
        if field != 1 || !matches!(value, Ok(Value::String(_))) {
            return false;
        }
    }
    true
}

/// Whether a value says nothing: it is not there, or empty text where text tells. That is no type conflict.
pub(super) fn is_nothing(value: Value<'_>, read_as: ReadAs) -> bool {
    match value {
        Value::Missing | Value::Empty => true,
        Value::String(text) => text.is_empty() || matches!(text, b"null" | b"None"),
        Value::Array(items) if read_as == ReadAs::TextList => only_strings(items),
        Value::Int(0) | Value::Double(0.0) => read_as == ReadAs::UsdZeroUnknown,
        _ => false,
    }
}

/// Reads a value as a column wants it; `None` where it cannot be read so.
#[inline]
pub(super) fn convert(read_as: ReadAs, value: Value<'_>) -> Option<Fact<'_>> {
    match read_as {
        ReadAs::Text | ReadAs::Provider | ReadAs::Operation => match value {
            Value::String([]) => None,
            Value::String(text) => Some(Fact::Text(text)),
            Value::Int(number) if read_as == ReadAs::Text => Some(Fact::Int(number)),
            _ => None,
        },
        ReadAs::Tokens => integer(value).filter(|&count| count >= 0).map(Fact::Int),
        ReadAs::Int => integer(value).map(Fact::Int),
        ReadAs::Float => double(value).map(Fact::Float),
        ReadAs::Bool => match value {
            Value::Bool(told) => Some(Fact::Bool(told)),
            Value::String(text) if text.eq_ignore_ascii_case(b"true") => Some(Fact::Bool(true)),
            Value::String(text) if text.eq_ignore_ascii_case(b"false") => Some(Fact::Bool(false)),
            _ => None,
        },
        ReadAs::TextList => match value {
            // Nothing but empty text tells no more than no list at all.
            Value::Array(items) if only_strings(items) && strings(items).any(|item| !item.is_empty()) => {
                Some(Fact::List(items))
            }
            Value::String([]) => None,
            Value::String(text) => Some(Fact::ListText(text)),
            _ => None,
        },
        ReadAs::Seconds => nanoseconds(value, 1e9).map(Fact::Int),
        ReadAs::Milliseconds => nanoseconds(value, 1e6).map(Fact::Int),
        ReadAs::Usd => usd(value).map(Fact::Usd),
        ReadAs::UsdZeroUnknown => usd(value).filter(|&usd| usd != 0).map(Fact::Usd),
        ReadAs::Present => (!is_nothing(value, read_as)).then_some(Fact::Bool(true)),
    }
}

/// A JSON string without its quotes, where it is one without anything escaped.
#[inline]
pub(super) fn unquoted(text: &[u8]) -> &[u8] {
    match text {
        [b'"', inner @ .., b'"'] if !inner.is_empty() && !inner.iter().any(|byte| b"\"\\".contains(byte)) => inner,
        text => text,
    }
}

/// A whole number: int, double without a fraction, or decimal text.
fn integer(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Int(number) => Some(number),
        Value::Double(number) => whole(number),
        Value::String(text) => {
            let text = std::str::from_utf8(text).ok()?.trim();
            text.parse().ok().or_else(|| whole(text.parse().ok()?))
        }
        _ => None,
    }
}

fn whole(number: f64) -> Option<i64> {
    // 2^63 as a double; every double below it fits.
    let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number);
    (fits && number.fract() == 0.0).then_some(number as i64)
}

fn double(value: Value<'_>) -> Option<f64> {
    match value {
        Value::Double(number) => Some(number),
        Value::Int(number) => Some(number as f64),
        Value::String(text) => std::str::from_utf8(text).ok()?.trim().parse().ok(),
        _ => None,
    }
}

fn nanoseconds(value: Value<'_>, factor: f64) -> Option<i64> {
    let nanoseconds = double(value)? * factor;
    (0.0..9.2e18).contains(&nanoseconds).then(|| nanoseconds.round() as i64)
}

fn usd(value: Value<'_>) -> Option<i64> {
    let units = match value {
        Value::Int(number) => decimal::parse(&number.to_string()),
        Value::Double(number) if number.is_finite() => decimal::parse(&format!("{number}")),
        Value::String(text) => decimal::parse(std::str::from_utf8(text).ok()?.trim()),
        _ => None,
    };
    i64::try_from(units?).ok()
}
