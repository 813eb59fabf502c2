//! Values from their text and type symbols.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};

use super::Fallible;

/// One type symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbol {
    /// `s i d b y e n`, `[` and `{`, and their closing brackets.
    Of(u8),
    /// A promoted column's letter.
    Promoted(u8),
}

/// Reads symbols, runs unfolded.
#[derive(Debug)]
pub(super) struct Symbols<'a> {
    rest: &'a [u8],
    run: usize,
}

impl<'a> Symbols<'a> {
    pub(super) fn new(symbols: &'a str) -> Self {
        Self { rest: symbols.as_bytes(), run: 0 }
    }

    pub(super) fn next(&mut self) -> Fallible<Option<Symbol>> {
        let Some((&first, rest)) = self.rest.split_first() else { return Ok(None) };
        if self.run == 0 && first.is_ascii_digit() {
            let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (length, rest) = self.rest.split_at(digits);
            let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
            self.run = length.filter(|&run| run > 0).ok_or("a run of types has no length")?;
            self.rest = rest;
            return self.next();
        }
        if first == b'*' {
            let (&letter, rest) = rest.split_first().ok_or("a promoted type has no letter")?;
            self.rest = rest;
            return Ok(Some(Symbol::Promoted(letter)));
        }
        self.run = self.run.saturating_sub(1);
        if self.run == 0 {
            self.rest = rest;
        }
        Ok(Some(Symbol::Of(first)))
    }

    fn need(&mut self) -> Fallible<u8> {
        match self.next()? {
            Some(Symbol::Of(symbol)) => Ok(symbol),
            _ => Err("types end within a value".to_owned()),
        }
    }
}

/// The value of an attribute from its text; `None` where it had no value message.
pub(super) fn value(symbol: Symbol, text: Option<&str>, symbols: &mut Symbols<'_>) -> Fallible<Option<AnyValue>> {
    let Symbol::Of(symbol) = symbol else { return Err("a promoted column has no text".to_owned()) };
    let need = || text.ok_or("a value is NULL");
    let value = match symbol {
        b'n' => return Ok(None),
        b'e' => None,
        b's' => Some(Value::StringValue(need()?.to_owned())),
        b'd' => Some(Value::DoubleValue(double(need()?)?)),
        b'y' => Some(Value::BytesValue(unbase64(need()?)?)),
        _ => {
            let mut json = Json { rest: need()? };
            let value = json.value(symbol, symbols)?;
            if !json.rest.is_empty() {
                return Err("text stands behind a value".to_owned());
            }
            return Ok(value);
        }
    };
    Ok(Some(AnyValue { value }))
}

fn double(text: &str) -> Fallible<f64> {
    match text {
        "NaN" => Ok(f64::NAN),
        "Infinity" => Ok(f64::INFINITY),
        "-Infinity" => Ok(f64::NEG_INFINITY),
        _ => text.parse().map_err(|_| format!("{text:?} is no double")),
    }
}

fn unbase64(text: &str) -> Fallible<Vec<u8>> {
    let sextet = |byte: u8| match byte {
        b'A'..=b'Z' => Ok(u32::from(byte - b'A')),
        b'a'..=b'z' => Ok(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Ok(u32::from(byte - b'0') + 52),
        b'+' => Ok(62),
        b'/' => Ok(63),
        _ => Err("bytes are not base64".to_owned()),
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.as_bytes().chunks(4) {
        let digits: Vec<u8> = chunk.iter().copied().take_while(|&byte| byte != b'=').collect();
        let mut word = 0;
        for &digit in &digits {
            word = word << 6 | sextet(digit)?;
        }
        word <<= 6 * (4 - digits.len() as u32);
        bytes.extend(word.to_be_bytes()[1..].iter().take(digits.len() * 6 / 8));
    }
    Ok(bytes)
}

/// Reads the JSON that ingest writes: no white space, keys in order and possibly repeated.
struct Json<'a> {
    rest: &'a str,
}

impl<'a> Json<'a> {
    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Fallible<()> {
        if self.eat(token) { Ok(()) } else { Err(format!("{token:?} is missing in a value")) }
    }

    /// A token up to the next comma or bracket.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find([',', ']', '}']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn string(&mut self) -> Fallible<String> {
        let mut escaped = false;
        let inner = self.rest.strip_prefix('"').ok_or("a string is missing in a value")?;
        let end = inner.bytes().position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        });
        let end = end.ok_or("a string does not end")? + 2;
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        serde_json::from_str(token).map_err(|error| format!("a string in a value: {error}"))
    }

    fn value(&mut self, symbol: u8, symbols: &mut Symbols<'_>) -> Fallible<Option<AnyValue>> {
        let value = match symbol {
            b'n' | b'e' => {
                self.expect("null")?;
                None
            }
            b's' => Some(Value::StringValue(self.string()?)),
            b'y' => Some(Value::BytesValue(unbase64(&self.string()?)?)),
            b'd' if self.rest.starts_with('"') => Some(Value::DoubleValue(double(&self.string()?)?)),
            b'd' => Some(Value::DoubleValue(double(self.word())?)),
            b'i' => Some(Value::IntValue(self.word().parse().map_err(|_| "an int in a value cannot be read")?)),
            b'b' => Some(Value::BoolValue(self.word() == "true")),
            b'[' => Some(Value::ArrayValue(self.array(symbols)?)),
            b'{' => Some(Value::KvlistValue(self.object(symbols)?)),
            _ => return Err(format!("there is no type {:?}", char::from(symbol))),
        };
        Ok((symbol != b'n').then_some(AnyValue { value }))
    }

    fn array(&mut self, symbols: &mut Symbols<'_>) -> Fallible<ArrayValue> {
        let mut values = Vec::new();
        self.expect("[")?;
        loop {
            let symbol = symbols.need()?;
            if symbol == b']' {
                self.expect("]")?;
                return Ok(ArrayValue { values });
            }
            if !values.is_empty() {
                self.expect(",")?;
            }
            values.push(self.value(symbol, symbols)?.unwrap_or_default());
        }
    }

    fn object(&mut self, symbols: &mut Symbols<'_>) -> Fallible<KeyValueList> {
        let mut values = Vec::new();
        self.expect("{")?;
        loop {
            let symbol = symbols.need()?;
            if symbol == b'}' {
                self.expect("}")?;
                return Ok(KeyValueList { values });
            }
            if !values.is_empty() {
                self.expect(",")?;
            }
            let key = self.string()?;
            self.expect(":")?;
            values.push(KeyValue { key, value: self.value(symbol, symbols)?, ..KeyValue::default() });
        }
    }
}
