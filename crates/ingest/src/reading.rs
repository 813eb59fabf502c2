//! What a span means: its attributes read into facts by the rules, facts into columns.

use std::io::Write;

use spanlake_schema::flags::reading as flag;

use crate::decimal;
use crate::rules::{FactIndex, NameRule, ReadAs, Rules};
use crate::span_columns::{SpanColumns, Target, slot};
use crate::value::{Attribute, Value};
use crate::wire::Reader;

/// More tokens than any one call can have. A sum over the column must not overflow because one sender wrote nonsense:
/// nine million calls of this size still fit an Int64.
const TOKENS_MAX: i64 = 1_000_000_000_000;

/// A fact, read from one attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fact<'a> {
    Text(&'a [u8]),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// An `ArrayValue` message of strings only.
    List(&'a [u8]),
    /// One string, or a JSON array of strings.
    ListText(&'a [u8]),
    /// Units of 1e-12 US dollars; `DECIMAL(18,12)` fits.
    Usd(i64),
}

/// A fact and where it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    rank: u8,
    dialect: u8,
    canonical: bool,
    attribute: u32,
    pub(crate) fact: Fact<'a>,
}

/// The places of the facts that the meaning of a span depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) operation: FactIndex,
    pub(crate) provider: FactIndex,
    pub(crate) request_model: FactIndex,
    pub(crate) response_model: FactIndex,
    pub(crate) input_tokens: FactIndex,
    pub(crate) output_tokens: FactIndex,
    pub(crate) cache_read_tokens: FactIndex,
    pub(crate) cache_write_tokens: FactIndex,
    pub(crate) total_tokens: FactIndex,
    pub(crate) streamed: FactIndex,
    pub(crate) time_to_first_token: FactIndex,
    pub(crate) time_per_output_token: FactIndex,
    pub(crate) error_type: FactIndex,
    pub(crate) service_tier: FactIndex,
    pub(crate) server_address: FactIndex,
}

impl Places {
    pub(crate) fn of(rules: &Rules) -> Self {
        Self {
            operation: rules.fact("operation"),
            provider: rules.fact("provider"),
            request_model: rules.fact("request_model"),
            response_model: rules.fact("response_model"),
            input_tokens: rules.fact("input_tokens"),
            output_tokens: rules.fact("output_tokens"),
            cache_read_tokens: rules.fact("cache_read_tokens"),
            cache_write_tokens: rules.fact("cache_write_tokens"),
            total_tokens: rules.fact("total_tokens"),
            streamed: rules.fact("streamed"),
            time_to_first_token: rules.fact("time_to_first_token_ns"),
            time_per_output_token: rules.fact("time_per_output_token_ns"),
            error_type: rules.fact("error_type"),
            service_tier: rules.fact("service_tier"),
            server_address: rules.fact("server_address"),
        }
    }
}

/// The facts of one span.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    found: Vec<Option<Found<'a>>>,
    /// The places that were set since the last span: few of them all.
    touched: Vec<u8>,
    /// Bits of `reading_flags`.
    pub(crate) flags: i64,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(rules: &Rules) -> Self {
        Self { found: vec![None; rules.facts.len()], touched: Vec::with_capacity(rules.facts.len()), flags: 0 }
    }

    /// Reads all attributes of a span.
    pub(crate) fn read(&mut self, rules: &Rules, attributes: &[Attribute<'a>]) {
        for place in self.touched.drain(..) {
            self.found[usize::from(place)] = None;
        }
        self.flags = 0;
        for (index, attribute) in attributes.iter().enumerate() {
            for reading in rules.readings(attribute.key) {
                self.consider(rules, *reading, index, attribute.value);
            }
        }
        self.drop_unaccompanied(rules, attributes);
    }

    #[inline]
    fn consider(&mut self, rules: &Rules, reading: NameRule, attribute: usize, value: Value<'a>) {
        let place = usize::from(reading.fact);
        let Some(fact) = convert(rules.facts[place].read_as, value) else {
            if !matches!(value, Value::Missing | Value::Empty) {
                self.flags |= flag::TYPE_CONFLICT;
            }
            return;
        };
        if rules.facts[place].read_as == ReadAs::Tokens && matches!(fact, Fact::Int(count) if count > TOKENS_MAX) {
            self.flags |= flag::COUNT_IMPLAUSIBLE;
            return;
        }
        if let Some(known) = &self.found[place] {
            if known.rank == reading.rank {
                self.flags |= flag::DUPLICATE_KEYS;
            }
            if known.rank <= reading.rank {
                return;
            }
        } else {
            self.touched.push(reading.fact);
        }
        let NameRule { rank, dialect, canonical, .. } = reading;
        self.found[place] = Some(Found { rank, dialect, canonical, attribute: attribute as u32, fact });
    }

    /// Forgets facts of dialects whose names are too common, unless an attribute beside them says it is a call.
    fn drop_unaccompanied(&mut self, rules: &Rules, attributes: &[Attribute<'a>]) {
        for &place in &self.touched {
            let found = &mut self.found[usize::from(place)];
            let Some(fact) = found else { continue };
            let witnesses = &rules.dialects[usize::from(fact.dialect)].only_with;
            let accompanied = || attributes.iter().any(|attribute| witnesses.iter().any(|key| key == attribute.key));
            if !witnesses.is_empty() && !accompanied() {
                *found = None;
            }
        }
    }

    /// Whether no attribute told any fact.
    pub(crate) fn is_empty(&self) -> bool {
        self.touched.iter().all(|&place| self.found[usize::from(place)].is_none())
    }

    /// Whether no attribute told a fact.
    pub(crate) fn is_unknown(&self, place: FactIndex) -> bool {
        self.found[place].is_none()
    }

    #[inline]
    pub(crate) fn text(&self, place: FactIndex) -> Option<&'a [u8]> {
        match self.found[place]?.fact {
            Fact::Text(text) => Some(text),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn int(&self, place: FactIndex) -> Option<i64> {
        match self.found[place]?.fact {
            Fact::Int(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn bool(&self, place: FactIndex) -> Option<bool> {
        match self.found[place]?.fact {
            Fact::Bool(told) => Some(told),
            _ => None,
        }
    }

    /// Replaces a number; its column then no longer stands in for the attribute.
    pub(crate) fn replace_int(&mut self, place: FactIndex, number: i64) {
        if let Some(found) = &mut self.found[place] {
            found.fact = Fact::Int(number);
            found.canonical = false;
        }
    }

    /// Takes a fact out, to be written otherwise. Returns whether it is the canonical attribute.
    pub(crate) fn take(&mut self, place: FactIndex) -> Option<Found<'a>> {
        self.found[place].take()
    }

    /// The dialect that told the most telling fact.
    pub(crate) fn dialect<'r>(&self, rules: &'r Rules, places: &Places) -> Option<&'r str> {
        let telling = [
            places.operation,
            places.provider,
            places.response_model,
            places.request_model,
            places.input_tokens,
            places.output_tokens,
        ];
        let found = telling.iter().find_map(|&place| self.found[place])?;
        Some(&rules.dialects[usize::from(found.dialect)].name)
    }

    /// Writes all facts to their columns, and notes in `held` the attributes that a column stands in for: the place in
    /// `spans::PROMOTED` plus one, by attribute.
    pub(crate) fn write(
        &self,
        rules: &Rules,
        columns: &mut SpanColumns,
        attributes: &[Attribute<'a>],
        held: &mut [u8],
    ) -> i64 {
        let row = columns.rows;
        let mut promoted = 0;
        for &place in &self.touched {
            let (rule, found) = (&rules.facts[usize::from(place)], &self.found[usize::from(place)]);
            let Some(found) = found else { continue };
            write_fact(columns, rule.target, row, found.fact);
            if let Some(place) = rule.promoted
                && found.holds(rule.read_as, attributes)
            {
                held[found.attribute as usize] = place + 1;
                promoted |= 1i64 << place;
            }
        }
        promoted
    }
}

impl Found<'_> {
    /// Whether the column holds the canonical attribute unchanged, so that the map need not.
    pub(crate) fn holds(&self, read_as: ReadAs, attributes: &[Attribute<'_>]) -> bool {
        let value = attributes[self.attribute as usize].value;
        self.canonical
            && match read_as {
                ReadAs::Text | ReadAs::Provider => matches!(value, Value::String(_)),
                ReadAs::Tokens | ReadAs::Int => matches!(value, Value::Int(_)),
                ReadAs::Float => matches!(value, Value::Double(_)),
                ReadAs::Bool => matches!(value, Value::Bool(_)),
                ReadAs::TextList => matches!(value, Value::Array(_)),
                _ => false,
            }
    }

    /// The attribute it was read from.
    pub(crate) fn attribute(&self) -> usize {
        self.attribute as usize
    }
}

fn write_fact(columns: &mut SpanColumns, target: Target, row: usize, fact: Fact<'_>) {
    match (target, fact) {
        (Target::Text(at), Fact::Text(text)) => columns.texts[at].set(row, text),
        (Target::Text(at), Fact::Int(number)) => columns.texts[at].set_with(row, |out| {
            // Writing into a vector cannot fail.
            let _ = write!(out, "{number}");
        }),
        (Target::Int(at), Fact::Int(number)) => columns.ints[at].set(row, number),
        (Target::Float(at), Fact::Float(number)) => columns.floats[at].set(row, number),
        (Target::Bool(at), Fact::Bool(told)) => columns.bools[at].set(row, told),
        (Target::Usd(at), Fact::Usd(usd)) => columns.usds[at].set(row, i128::from(usd)),
        (Target::List(at), Fact::List(items)) => {
            for item in strings(items) {
                columns.lists[at].push_item(item);
            }
            columns.lists[at].close(row);
        }
        (Target::List(at), Fact::ListText(text)) => {
            match serde_json::from_slice::<Vec<String>>(text) {
                Ok(items) => items.iter().for_each(|item| columns.lists[at].push_item(item.as_bytes())),
                Err(_) => columns.lists[at].push_item(text),
            }
            columns.lists[at].close(row);
        }
        _ => {}
    }
}

/// The items of an `ArrayValue` that was checked to hold strings only.
fn strings(items: &[u8]) -> impl Iterator<Item = &[u8]> {
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

fn only_strings(items: &[u8]) -> bool {
    let mut reader = Reader::new(items, "ArrayValue");
    while let Ok(Some((field, wire))) = reader.next() {
        let value = reader.bytes(wire).and_then(|bytes| Value::read(&reader, bytes));
        if field != 1 || !matches!(value, Ok(Value::String(_))) {
            return false;
        }
    }
    true
}

/// Reads a value as a column wants it; `None` where it cannot be read so.
#[inline]
fn convert(read_as: ReadAs, value: Value<'_>) -> Option<Fact<'_>> {
    match read_as {
        ReadAs::Text | ReadAs::Provider => match value {
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
            Value::Array(items) if only_strings(items) => Some(Fact::List(items)),
            Value::String(text) => Some(Fact::ListText(text)),
            _ => None,
        },
        ReadAs::Seconds => nanoseconds(value, 1e9).map(Fact::Int),
        ReadAs::Milliseconds => nanoseconds(value, 1e6).map(Fact::Int),
        ReadAs::Usd => usd(value).map(Fact::Usd),
        ReadAs::UsdZeroUnknown => usd(value).filter(|&usd| usd != 0).map(Fact::Usd),
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

/// Writes text into a column by its slot.
pub(crate) fn set_text(columns: &mut SpanColumns, at: usize, text: &[u8]) {
    let row = columns.rows;
    columns.texts[at].set(row, text);
}

pub(crate) const MODEL: usize = slot("model");
