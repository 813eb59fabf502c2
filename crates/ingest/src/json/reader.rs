//! A pull reader over JSON text that is known to be UTF-8.

use std::borrow::Cow;

use super::error::Failure;

/// Reads tokens from left to right; never looks back, never recurses.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The offset of the next byte, in bytes.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// Moves over whitespace and shows the byte that comes then, if any.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// An error at the next token: `expected`, and what is there instead.
    pub(super) fn expected(&mut self, expected: &str) -> Failure {
        let found = match self.peek() {
            None => "the end of the body".into(),
            Some(b'{') => "an object".into(),
            Some(b'[') => "an array".into(),
            Some(b'"') => "a string".into(),
            Some(b't' | b'f') => "a boolean".into(),
            Some(b'n') => "null".into(),
            Some(b'-' | b'0'..=b'9') => "a number".into(),
            Some(byte) => match char::from(byte) {
                printable @ '!'..='~' => Cow::Owned(format!("`{printable}`")),
                _ => Cow::Owned(format!("byte 0x{byte:02x}")),
            },
        };
        Failure::new(format!("expected {expected}, found {found}"), self.at)
    }

    /// Takes one punctuation mark if it comes next.
    pub(super) fn take(&mut self, mark: u8) -> bool {
        let found = self.peek() == Some(mark);
        self.at += usize::from(found);
        found
    }

    /// Takes one punctuation mark, described by `name` where it is missing.
    pub(super) fn require(&mut self, mark: u8, name: &str) -> Result<(), Failure> {
        if self.take(mark) { Ok(()) } else { Err(self.expected(name)) }
    }

    /// After an element of a list or object: true where another follows a comma, false where `close` ends it.
    pub(super) fn another(&mut self, close: u8, expected: &str) -> Result<bool, Failure> {
        if self.take(b',') {
            return Ok(true);
        }
        self.require(close, expected).map(|()| false)
    }

    /// Takes `null` if it comes next.
    pub(super) fn take_null(&mut self) -> Result<bool, Failure> {
        match self.peek() {
            Some(b'n') => self.word("null").map(|()| true),
            _ => Ok(false),
        }
    }

    /// Takes `true` or `false`.
    pub(super) fn boolean(&mut self) -> Result<bool, Failure> {
        match self.peek() {
            Some(b't') => self.word("true").map(|()| true),
            Some(b'f') => self.word("false").map(|()| false),
            _ => Err(self.expected("a boolean")),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Failure> {
        let rest = &self.text[self.at..];
        let ends = rest.get(word.len()).is_none_or(|byte| !byte.is_ascii_alphanumeric());
        if rest.starts_with(word.as_bytes()) && ends {
            self.at += word.len();
            return Ok(());
        }
        Err(Failure::new("not a JSON value", self.at))
    }

    /// Takes a number by the grammar of JSON and returns its text.
    pub(super) fn number(&mut self) -> Result<&'a [u8], Failure> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return Err(self.expected("a number"));
        }
        let rest = &self.text[self.at..];
        let len = number_len(rest).ok_or_else(|| Failure::new("not a number", self.at))?;
        if rest.get(len).is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-')) {
            return Err(Failure::new("not a number", self.at));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    /// Takes a string and returns its text, borrowed unless it holds escapes.
    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, Failure> {
        let plain = self.begin_string()?;
        if self.take_quote() {
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_vec();
        self.finish_string(&mut text)?;
        Ok(Cow::Owned(text))
    }

    /// Takes the string `text` if exactly that comes next, without escapes.
    pub(super) fn take_string(&mut self, text: &str) -> bool {
        let rest = self.text.get(self.at + 1..).unwrap_or_default();
        let found = rest.strip_prefix(text.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'"'));
        if found {
            self.at += text.len() + 2;
        }
        found
    }

    /// Takes the opening quote and the text up to the first escape or the closing quote, which comes next.
    pub(super) fn begin_string(&mut self) -> Result<&'a [u8], Failure> {
        self.require(b'"', "a string")?;
        self.plain_text()
    }

    /// Takes the closing quote if it comes next, without moving over whitespace.
    pub(super) fn take_quote(&mut self) -> bool {
        let found = self.text.get(self.at) == Some(&b'"');
        self.at += usize::from(found);
        found
    }

    /// Takes the rest of a string from its first escape on, the closing quote included, and appends its text.
    pub(super) fn finish_string(&mut self, text: &mut Vec<u8>) -> Result<(), Failure> {
        while !self.take_quote() {
            self.escape(text)?;
            text.extend_from_slice(self.plain_text()?);
        }
        Ok(())
    }

    /// The text up to the next quote or backslash.
    fn plain_text(&mut self) -> Result<&'a [u8], Failure> {
        let rest = &self.text[self.at..];
        let Some(len) = memchr::memchr2(b'"', b'\\', rest) else {
            return Err(Failure::new("string without an end", self.text.len()));
        };
        let plain = &rest[..len];
        // Folding over all of it, and looking for the position only then, lets the common case run over whole vectors.
        if plain.iter().fold(false, |found, &byte| found | (byte < 0x20)) {
            let control = plain.iter().position(|&byte| byte < 0x20).unwrap_or(0);
            return Err(Failure::new("control character in a string must be escaped", self.at + control));
        }
        self.at += len;
        Ok(plain)
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), Failure> {
        let start = self.at;
        let simple = match self.text.get(start + 1) {
            Some(b'u') => return self.unicode_escape(text),
            Some(&mark @ (b'"' | b'\\' | b'/')) => mark,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            _ => return Err(Failure::new("unknown escape in a string", start)),
        };
        text.push(simple);
        self.at += 2;
        Ok(())
    }

    fn unicode_escape(&mut self, text: &mut Vec<u8>) -> Result<(), Failure> {
        let first = self.code_unit().ok_or_else(|| Failure::new("escape \\u needs four hex digits", self.at))?;
        let mut code = u32::from(first);
        if (0xd800..0xdc00).contains(&first) {
            let after_first = self.at;
            match self.code_unit() {
                Some(second @ 0xdc00..0xe000) => {
                    code = 0x10000 + ((u32::from(first) - 0xd800) << 10) + (u32::from(second) - 0xdc00);
                }
                // Not the other half of the pair: leave it to be read by itself.
                _ => self.at = after_first,
            }
        }
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    /// Takes one `\uXXXX` if it comes next.
    fn code_unit(&mut self) -> Option<u16> {
        let escape = self.text.get(self.at..self.at + 6)?;
        let digits = escape.strip_prefix(b"\\u")?;
        let mut unit = 0;
        for &digit in digits {
            unit = unit * 16 + char::from(digit).to_digit(16)?;
        }
        self.at += 6;
        u16::try_from(unit).ok()
    }

    /// Moves over one value of any shape that may nest `depth` levels more.
    pub(super) fn skip(&mut self, depth: usize) -> Result<(), Failure> {
        let mut open = Vec::new();
        loop {
            match self.peek() {
                Some(mark @ (b'{' | b'[')) => {
                    if open.len() >= depth {
                        return Err(too_deep(self.at));
                    }
                    self.at += 1;
                    let close = if mark == b'{' { b'}' } else { b']' };
                    if !self.take(close) {
                        open.push(close);
                        self.skip_name(close)?;
                        continue;
                    }
                }
                Some(b'"') => self.skip_string()?,
                Some(b't' | b'f') => drop(self.boolean()?),
                Some(b'n') => drop(self.take_null()?),
                Some(b'-' | b'0'..=b'9') => drop(self.number()?),
                _ => return Err(self.expected("a value")),
            }
            if !self.skip_closed(&mut open)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what ends there. True where another value follows, false where nothing is open.
    fn skip_closed(&mut self, open: &mut Vec<u8>) -> Result<bool, Failure> {
        while let Some(&close) = open.last() {
            let expected = if close == b'}' { "`,` or `}`" } else { "`,` or `]`" };
            if self.another(close, expected)? {
                self.skip_name(close)?;
                return Ok(true);
            }
            open.pop();
        }
        Ok(false)
    }

    fn skip_name(&mut self, close: u8) -> Result<(), Failure> {
        if close == b'}' {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a field name"));
            }
            self.skip_string()?;
            self.require(b':', "`:`")?;
        }
        Ok(())
    }

    fn skip_string(&mut self) -> Result<(), Failure> {
        self.begin_string()?;
        let mut escaped = Vec::new();
        while !self.take_quote() {
            escaped.clear();
            self.escape(&mut escaped)?;
            self.plain_text()?;
        }
        Ok(())
    }
}

pub(super) fn too_deep(offset_bytes: usize) -> Failure {
    Failure::new(format!("nested more than {} levels deep", super::DEPTH_LIMIT), offset_bytes)
}

/// The length of the JSON number at the start of `text`.
pub(super) fn number_len(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && text[at] == b'0') {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(text.get(at), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    Some(at)
}
