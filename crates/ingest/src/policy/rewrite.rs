//! One pass over a request's bytes: what rules take away is not written again.

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;

use sha2::{Digest, Sha256};

use super::{Action, Change, Policy};
use crate::json::schema::{ANY_VALUE, KEY_VALUE, Kind, Message};
use crate::signal::Signal;
use crate::value::NESTING_MAX;
use crate::wire::{Reader, Wire, WireError};

/// Characters of a value that a shown change repeats.
const SHOWN_CHARS_MAX: usize = 200;

/// The request without what the policy takes away, and, where they are asked for, the changes.
pub(super) fn rewrite(
    policy: &Policy,
    signal: Signal,
    body: &[u8],
    is_shown: bool,
) -> Result<(Vec<u8>, Vec<Change>), WireError> {
    let out = Vec::with_capacity(body.len() + body.len() / 16);
    let changes = is_shown.then(Vec::new);
    let mut rewriter = Rewriter { policy, out, everywhere: policy.everywhere(), changes, path: Vec::new() };
    let reader = Reader::new(body, signal.request_message());
    rewriter.message(reader, crate::json::request_schema(signal), Within { rules: rewriter.everywhere, depth: 0 })?;
    Ok((rewriter.out, rewriter.changes.unwrap_or_default()))
}

/// What applies where the pass is.
#[derive(Clone, Copy, Debug)]
struct Within {
    /// Bits of the rules that apply.
    rules: u64,
    /// Values around this place.
    depth: usize,
}

struct Rewriter<'p> {
    policy: &'p Policy,
    out: Vec<u8>,
    everywhere: u64,
    changes: Option<Vec<Change>>,
    /// Where the pass is, as far as changes are shown.
    path: Vec<String>,
}

impl Rewriter<'_> {
    fn message(&mut self, mut reader: Reader<'_>, message: &'static Message, within: Within) -> Result<(), WireError> {
        let mut seen: Vec<u32> = Vec::new();
        while let Some((number, wire)) = reader.next()? {
            // What OTLP does not know is nobody's to keep.
            let Some(field) = message.fields.iter().find(|field| field.number == number) else { continue };
            if self.changes.is_some() {
                let index = seen.iter().filter(|other| **other == number).count();
                seen.push(number);
                self.path.push(if field.is_repeated {
                    format!("{}[{index}]", field.snake)
                } else {
                    field.snake.to_owned()
                });
            }
            match field.kind {
                Kind::Message(inner) => {
                    let bytes = reader.bytes(wire)?;
                    self.inner_message(&reader, number, (bytes, inner), within)?;
                }
                Kind::Text => self.texts(number, reader.bytes(wire)?, within.rules, std::ptr::eq(message, &ANY_VALUE)),
                Kind::Bytes => self.texts(number, reader.bytes(wire)?, within.rules, true),
                Kind::Id(length) => match reader.bytes(wire)? {
                    id if id.len() == length => self.length_delimited(number, id),
                    // No id: whatever it is, it is looked at.
                    other => self.texts(number, other, within.rules, false),
                },
                kind if std::ptr::eq(message, &ANY_VALUE) => {
                    check_number(&reader, kind, wire)?;
                    self.number(number, wire, within.rules);
                }
                kind => {
                    if !(field.is_repeated && matches!(wire, Wire::Bytes(_))) {
                        check_number(&reader, kind, wire)?;
                    }
                    self.copy(number, wire);
                }
            }
            self.path.pop();
        }
        Ok(())
    }

    fn inner_message(
        &mut self,
        reader: &Reader<'_>,
        number: u32,
        (bytes, message): (&[u8], &'static Message),
        within: Within,
    ) -> Result<(), WireError> {
        if std::ptr::eq(message, &KEY_VALUE) {
            return self.attribute(reader, number, bytes, within);
        }
        let is_value = std::ptr::eq(message, &ANY_VALUE);
        let depth = within.depth + usize::from(is_value);
        let begun = self.begin(number);
        // Deeper than anything that is kept of a value.
        if depth <= NESTING_MAX + 2 {
            let inner = reader.inner(bytes, if is_value { "AnyValue" } else { "message" });
            self.message(inner, message, Within { depth, ..within })?;
        }
        self.end(begun);
        Ok(())
    }

    fn attribute(&mut self, reader: &Reader<'_>, number: u32, bytes: &[u8], within: Within) -> Result<(), WireError> {
        let mut key: &[u8] = &[];
        let mut fields = reader.inner(bytes, "KeyValue");
        while let Some((field, wire)) = fields.next()? {
            if field == 1 {
                key = fields.bytes(wire)?;
            }
        }
        if let Some(last) = self.path.last_mut() {
            last.push(' ');
            last.push_str(&String::from_utf8_lossy(key));
        }
        let named = self.policy.named(key);
        let dropping = |(at, rule): (usize, &super::Rule)| match rule.action {
            Action::Keep => within.depth == 0 && named & 1 << at == 0,
            Action::Drop => named & 1 << at != 0,
            _ => false,
        };
        if let Some(rule) = self.policy.rules.iter().enumerate().position(dropping) {
            self.changed(1 << rule, key, None);
            return Ok(());
        }
        let begun = self.begin(number);
        let mut fields = reader.inner(bytes, "KeyValue");
        while let Some((field, wire)) = fields.next()? {
            match field {
                1 => self.texts(1, fields.bytes(wire)?, self.everywhere, false),
                2 => {
                    let value = fields.bytes(wire)?;
                    let rules = Within { rules: within.rules | named, ..within };
                    self.inner_message(&fields, 2, (value, &ANY_VALUE), rules)?;
                }
                3 => {
                    fields.integer(wire)?;
                    self.copy(3, wire);
                }
                _ => {}
            }
        }
        self.end(begun);
        Ok(())
    }

    /// Writes a text as the rules leave it.
    fn texts(&mut self, number: u32, bytes: &[u8], rules: u64, is_value: bool) {
        match self.settle(bytes, rules, is_value) {
            None => self.length_delimited(number, bytes),
            Some((text, by)) => {
                self.changed(by, bytes, Some(&text));
                self.length_delimited(number, &text);
            }
        }
    }

    /// Writes a number of an `AnyValue`, as text where a rule changes it.
    fn number(&mut self, number: u32, wire: Wire<'_>, rules: u64) {
        let text = match (number, wire) {
            (2, Wire::Varint(told)) => (told != 0).to_string(),
            (3, Wire::Varint(told)) => (told as i64).to_string(),
            (4, Wire::Fixed64(told)) => f64::from_bits(told).to_string(),
            _ => return self.copy(number, wire),
        };
        match self.settle(text.as_bytes(), rules, false) {
            None => self.copy(number, wire),
            Some((masked, by)) => {
                self.changed(by, text.as_bytes(), Some(&masked));
                self.length_delimited(1, &masked);
            }
        }
    }

    /// What the rules make of a text, and which of them did; `None` where it stays.
    fn settle(&self, bytes: &[u8], rules: u64, is_value: bool) -> Option<(Vec<u8>, u64)> {
        let mut text = Cow::Borrowed(bytes);
        let mut by = 0;
        for (at, rule) in self.policy.rules.iter().enumerate().filter(|(at, _)| rules & 1 << at != 0) {
            let new = match &rule.action {
                Action::Keep | Action::Drop => None,
                Action::Mask { find, with } if find.is_empty() => (*text != **with).then(|| with.clone()),
                Action::Mask { find, with } => find.iter().fold(None, |masked: Option<Vec<u8>>, finder| {
                    finder.replace(masked.as_deref().unwrap_or(&text), with).or(masked)
                }),
                Action::Hash => Some(self.hash(&text)),
                Action::Truncate { limit_bytes } if is_value => truncated(&text, *limit_bytes),
                Action::Truncate { .. } => None,
            };
            if let Some(new) = new {
                text = Cow::Owned(new);
                by |= 1 << at;
            }
            // Nothing can be found in a hash.
            if matches!(rule.action, Action::Hash) {
                break;
            }
        }
        (by != 0).then(|| (text.into_owned(), by))
    }

    fn hash(&self, text: &[u8]) -> Vec<u8> {
        let digest = Sha256::new().chain_update(&self.policy.secret).chain_update([0]).chain_update(text).finalize();
        digest[..16].iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
    }

    /// Counts a change, or shows it.
    fn changed(&mut self, by: u64, before: &[u8], after: Option<&[u8]>) {
        let rules = self.policy.rules.iter().enumerate().filter(|(at, _)| by & 1 << at != 0);
        let Some(changes) = &mut self.changes else {
            for (_, rule) in rules {
                rule.changed.fetch_add(1, Relaxed);
            }
            return;
        };
        changes.push(Change {
            place: self.path.join("."),
            rules: rules.map(|(_, rule)| rule.label.as_str()).collect::<Vec<_>>().join("; "),
            before: shown(before),
            after: after.map(shown),
        });
    }

    fn copy(&mut self, number: u32, wire: Wire<'_>) {
        match wire {
            Wire::Varint(value) => {
                self.tag(number, 0);
                write_varint(&mut self.out, value);
            }
            Wire::Fixed64(value) => {
                self.tag(number, 1);
                self.out.extend_from_slice(&value.to_le_bytes());
            }
            Wire::Bytes(bytes) => self.length_delimited(number, bytes),
            Wire::Fixed32(value) => {
                self.tag(number, 5);
                self.out.extend_from_slice(&value.to_le_bytes());
            }
        }
    }

    fn tag(&mut self, number: u32, wire_type: u32) {
        write_varint(&mut self.out, u64::from(number << 3 | wire_type));
    }

    fn length_delimited(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, 2);
        write_varint(&mut self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// Begins a message. Returns where its content starts.
    fn begin(&mut self, number: u32) -> usize {
        self.tag(number, 2);
        self.out.len()
    }

    /// Ends a message: its length is known, and is put before its content.
    fn end(&mut self, start: usize) {
        let length = self.out.len() - start;
        let mut prefix = Vec::with_capacity(10);
        write_varint(&mut prefix, length as u64);
        self.out.extend_from_slice(&prefix);
        self.out.copy_within(start..start + length, start + prefix.len());
        self.out[start..start + prefix.len()].copy_from_slice(&prefix);
    }
}

/// Refuses a number that is none, as the walk would.
fn check_number(reader: &Reader<'_>, kind: Kind, wire: Wire<'_>) -> Result<(), WireError> {
    match kind {
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => reader.eight(wire).map(drop),
        Kind::Fixed32 => reader.four(wire).map(drop),
        _ => reader.integer(wire).map(drop),
    }
}

/// The text cut so that it has `limit_bytes` at most, its mark included; no character is cut through.
fn truncated(text: &[u8], limit_bytes: usize) -> Option<Vec<u8>> {
    if text.len() <= limit_bytes {
        return None;
    }
    let mark = "…[cut]".as_bytes();
    let mut end = limit_bytes - mark.len();
    while end > 0 && limit_bytes - mark.len() - end < 4 && text[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    Some([&text[..end], mark].concat())
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], bytes.len()),
        None => text.into_owned(),
    }
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
