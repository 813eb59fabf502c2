//! The fields of one span, as the wire holds them.

use crate::room::{ITEM_BYTES, Room};
use crate::value::{Attribute, write_hex};
use crate::wire::{Reader, WireError};

/// The fields of a span, as the wire holds them.
#[derive(Debug, Default)]
pub(crate) struct SpanFields<'a> {
    pub(crate) trace_id: &'a [u8],
    pub(crate) span_id: &'a [u8],
    pub(crate) trace_state: &'a [u8],
    pub(crate) parent_span_id: &'a [u8],
    pub(crate) name: &'a [u8],
    pub(crate) kind: i32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) flags: u32,
    pub(crate) status: Option<(i32, &'a [u8])>,
    pub(crate) dropped_attributes: u32,
    pub(crate) dropped_events: u32,
    pub(crate) dropped_links: u32,
    pub(crate) attributes: Vec<Attribute<'a>>,
    pub(crate) events: Vec<&'a [u8]>,
    pub(crate) links: Vec<&'a [u8]>,
}

impl<'a> SpanFields<'a> {
    /// Empties the fields, keeping their memory.
    fn clear(&mut self) {
        let (mut attributes, mut events, mut links) =
            (std::mem::take(&mut self.attributes), std::mem::take(&mut self.events), std::mem::take(&mut self.links));
        attributes.clear();
        events.clear();
        links.clear();
        *self = Self { attributes, events, links, ..Self::default() };
    }

    /// Reads a `Span` message in the place of what was read before.
    pub(crate) fn read(&mut self, reader: &mut Reader<'a>, room: &mut Room) -> Result<(), WireError> {
        self.clear();
        while let Some((field, wire)) = reader.next()? {
            if matches!(field, 9 | 11 | 13) {
                room.take(ITEM_BYTES, reader)?;
            }
            match field {
                1 => self.trace_id = reader.bytes(wire)?,
                2 => self.span_id = reader.bytes(wire)?,
                3 => self.trace_state = reader.bytes(wire)?,
                4 => self.parent_span_id = reader.bytes(wire)?,
                5 => self.name = reader.bytes(wire)?,
                6 => self.kind = reader.integer(wire)? as i32,
                7 => self.start = reader.eight(wire)?,
                8 => self.end = reader.eight(wire)?,
                9 => self.attributes.push(Attribute::read(reader, reader.bytes(wire)?)?),
                10 => self.dropped_attributes = reader.integer(wire)? as u32,
                11 => self.events.push(reader.bytes(wire)?),
                12 => self.dropped_events = reader.integer(wire)? as u32,
                13 => self.links.push(reader.bytes(wire)?),
                14 => self.dropped_links = reader.integer(wire)? as u32,
                15 => self.read_status(reader.inner(reader.bytes(wire)?, "Status"))?,
                16 => self.flags = reader.four(wire)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_status(&mut self, mut reader: Reader<'a>) -> Result<(), WireError> {
        let status = self.status.get_or_insert((0, &[]));
        while let Some((field, wire)) = reader.next()? {
            match field {
                2 => status.1 = reader.bytes(wire)?,
                3 => status.0 = reader.integer(wire)? as i32,
                _ => {}
            }
        }
        Ok(())
    }

    /// Why the span must be refused, if it must.
    pub(crate) fn refusal(&self) -> Option<String> {
        let bad = |id: &[u8], length: usize| id.len() != length || id.iter().all(|&byte| byte == 0);
        let (what, id, length) = if bad(self.trace_id, 16) {
            ("trace_id", self.trace_id, 16)
        } else if bad(self.span_id, 8) {
            ("span_id", self.span_id, 8)
        } else {
            return None;
        };
        let mut hex = Vec::new();
        write_hex(&mut hex, &id[..id.len().min(32)]);
        Some(format!(
            "span {:?} has the invalid {what} '{}': {length} bytes are wanted, not all zero",
            String::from_utf8_lossy(&self.name[..self.name.len().min(200)]),
            String::from_utf8_lossy(&hex),
        ))
    }
}

/// The name of an OTLP `SpanKind`, or its number where the enum has none.
pub(crate) fn kind_name(kind: i32) -> std::borrow::Cow<'static, str> {
    let name = match kind {
        0 => "UNSPECIFIED",
        1 => "INTERNAL",
        2 => "SERVER",
        3 => "CLIENT",
        4 => "PRODUCER",
        5 => "CONSUMER",
        _ => return kind.to_string().into(),
    };
    name.into()
}

/// The name of an OTLP `StatusCode`, or its number where the enum has none.
pub(crate) fn status_name(code: i32) -> std::borrow::Cow<'static, str> {
    let name = match code {
        0 => "UNSET",
        1 => "OK",
        2 => "ERROR",
        _ => return code.to_string().into(),
    };
    name.into()
}
