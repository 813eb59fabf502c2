//! An `ExportLogsServiceRequest`, walked from its bytes straight into columns.
//! <https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/logs/v1/logs.proto>

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;
use spanlake_schema::flags::{reading as reading_flag, time as time_flag};
use spanlake_schema::{TableSpec, logs};

use crate::content::{Collector, Content, EventFields, Source, Speaker};
use crate::dates::Dates;
use crate::origin::Origin;
use crate::resources::{self, Items, Names};
use crate::room::{ITEM_BYTES, Room};
use crate::span_columns::{Columns, ROWS_MAX, Table, slot_in};
use crate::value::{Attribute, Value, ValueWriter, write_hex};
use crate::walk::{Walked, write_attribute};
use crate::wire::{Reader, WireError};

const NAMES: Names = Names { request: "ExportLogsServiceRequest", resource: "ResourceLogs", scope: "ScopeLogs" };

/// A typical record's size, for sizing columns. Wrong guesses cost a reallocation.
const RECORD_BYTES_GUESS: usize = 256;

/// The table `logs`.
#[derive(Debug)]
struct Logs;

impl Table for Logs {
    const SPEC: TableSpec = logs::SPEC;
    const IDS: &'static [(&'static str, usize)] = &[("trace_id", 32), ("span_id", 16)];

    fn schema() -> SchemaRef {
        static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Logs::SPEC.arrow_schema());
        Arc::clone(&SCHEMA)
    }
}

/// A column's place among the columns of its type.
const fn slot(name: &str) -> usize {
    slot_in(logs::SPEC.columns, name)
}

/// A `LogRecord`, borrowed from the request's bytes.
#[derive(Debug, Default)]
pub(crate) struct LogFields<'a> {
    pub(crate) time: u64,
    pub(crate) observed: u64,
    pub(crate) severity_number: i32,
    pub(crate) severity_text: &'a [u8],
    /// `None` where none was sent.
    pub(crate) body: Option<Value<'a>>,
    pub(crate) attributes: Vec<Attribute<'a>>,
    pub(crate) dropped_attributes: u32,
    pub(crate) flags: u32,
    pub(crate) trace_id: &'a [u8],
    pub(crate) span_id: &'a [u8],
    /// As sent in the field; see [`LogFields::event_name`].
    pub(crate) event_name_field: &'a [u8],
}

impl<'a> LogFields<'a> {
    /// Reads a `LogRecord` message in the place of what was read before, keeping its memory.
    fn read(&mut self, reader: &mut Reader<'a>, room: &mut Room) -> Result<(), WireError> {
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.clear();
        *self = Self { attributes, ..Self::default() };
        while let Some((field, wire)) = reader.next()? {
            match field {
                1 => self.time = reader.eight(wire)?,
                2 => self.severity_number = reader.integer(wire)? as i32,
                3 => self.severity_text = reader.bytes(wire)?,
                5 => self.body = Some(Value::read(reader, reader.bytes(wire)?)?),
                6 => {
                    room.take(ITEM_BYTES, reader)?;
                    self.attributes.push(Attribute::read(reader, reader.bytes(wire)?)?);
                }
                7 => self.dropped_attributes = reader.integer(wire)? as u32,
                8 => self.flags = reader.four(wire)?,
                9 => self.trace_id = reader.bytes(wire)?,
                10 => self.span_id = reader.bytes(wire)?,
                11 => self.observed = reader.eight(wire)?,
                12 => self.event_name_field = reader.bytes(wire)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The name of the event: the field, else the attribute that older senders use. `None` for a plain record.
    pub(crate) fn event_name(&self) -> Option<&'a [u8]> {
        if !self.event_name_field.is_empty() {
            return Some(self.event_name_field);
        }
        self.attributes.iter().find_map(|attribute| match (attribute.key, attribute.value) {
            (b"event.name", Value::String(name)) if !name.is_empty() => Some(name),
            _ => None,
        })
    }
}

/// Whether an id is one: of its length, and not all zero.
fn is_id(id: &[u8], length: usize) -> bool {
    id.len() == length && id.iter().any(|&byte| byte != 0)
}

/// Walks a request. The same bytes and arrival give the same rows. No record is refused: the ids of one that has none
/// are NULL, its time is that of its observation or arrival.
pub(crate) fn walk(
    content: Content<'_>,
    body: &[u8],
    received_unix_nano: u64,
    room: Room,
) -> Result<Walked, WireError> {
    let rows = (body.len() / RECORD_BYTES_GUESS + 1).min(ROWS_MAX);
    let mut walk = LogWalk {
        content,
        collector: Collector::default(),
        held: Vec::new(),
        received_unix_nano,
        room,
        columns: Columns::new(rows),
        fields: LogFields::default(),
        symbols: Vec::new(),
        writer: ValueWriter::default(),
        dates: Dates::new(received_unix_nano),
        walked: Walked::default(),
    };
    resources::walk(body, NAMES, &mut walk)?;
    walk.cut_batch();
    walk.walked.repaired_strings += walk.writer.repaired;
    let (said, contents) = walk.content.rows.finish();
    walk.walked.batches.extend(said);
    walk.walked.contents = contents;
    Ok(walk.walked)
}

struct LogWalk<'a, 'w> {
    content: Content<'w>,
    collector: Collector,
    held: Vec<u8>,
    received_unix_nano: u64,
    room: Room,
    columns: Columns<Logs>,
    fields: LogFields<'a>,
    symbols: Vec<u8>,
    writer: ValueWriter,
    dates: Dates,
    walked: Walked,
}

impl<'a> Items<'a> for LogWalk<'a, '_> {
    fn writer(&mut self) -> (&mut ValueWriter, &mut Room) {
        (&mut self.writer, &mut self.room)
    }

    fn scope(&mut self, _origin: &Origin<'a>) {}

    fn item(&mut self, origin: &Origin<'a>, parent: &Reader<'a>, bytes: &'a [u8]) -> Result<(), WireError> {
        let mut reader = parent.inner(bytes, "LogRecord");
        self.fields.read(&mut reader, &mut self.room)?;
        if self.room.take_row(self.columns.rows, origin.copy_bytes(), bytes.len(), &reader)? {
            self.cut_batch();
        }
        self.writer.cut = false;
        let repaired = self.writer.repaired;
        self.times();
        self.ids();
        let mut flags = self.facts();
        origin.write(&mut self.columns);
        self.body(&reader)?;
        self.attributes(&reader)?;
        self.content(&reader, origin.service_name());
        if self.writer.cut {
            flags |= reading_flag::NESTING_CUT;
        }
        if self.writer.repaired > repaired {
            flags |= reading_flag::UTF8_REPAIRED;
        }
        self.set_int(const { slot("reading_flags") }, flags);
        self.columns.end_row();
        Ok(())
    }

    fn end_resource(&mut self, origin: &Origin<'a>) {
        let (stored, refused) = (self.walked.stored + self.columns.rows as u64, self.walked.refused);
        self.walked.tally.up_to(origin.service_name(), stored, refused);
    }
}

impl<'a> LogWalk<'a, '_> {
    /// Makes rows of what an event said. The record keeps it as well: a log is read whole.
    fn content(&mut self, reader: &Reader<'a>, service_name: Option<&[u8]>) {
        let Some(name) = self.fields.event_name() else { return };
        self.held.clear();
        self.held.resize(self.fields.attributes.len(), 0);
        let event = EventFields { name, attributes: &self.fields.attributes, body: self.fields.body };
        let heard = self.collector.event(self.content.rules, reader, event, &mut self.held);
        if heard.told.is_empty() {
            return;
        }
        let time = match (self.fields.time, self.fields.observed) {
            (0, 0) => self.received_unix_nano,
            (0, observed) => observed,
            (time, _) => time,
        };
        let id = |id: &'a [u8], length| if is_id(id, length) { id } else { &[] };
        let speaker = Speaker {
            source: Source::Log,
            date: self.columns.dates.last().copied().unwrap_or_default(),
            trace_id: id(self.fields.trace_id, 16),
            span_id: id(self.fields.span_id, 8),
            time_micros: (time / 1_000) as i64,
            service_name,
        };
        self.content.rows.add(&speaker, heard.told);
    }

    fn cut_batch(&mut self) {
        if self.columns.rows == 0 {
            return;
        }
        let columns = std::mem::replace(&mut self.columns, Columns::new(0));
        let (batch, repaired) = columns.finish();
        self.walked.stored += batch.num_rows() as u64;
        self.walked.repaired_strings += repaired;
        self.walked.batches.push((logs::SPEC.name, batch));
    }

    fn set_int(&mut self, at: usize, number: i64) {
        let row = self.columns.rows;
        self.columns.ints[at].set(row, number);
    }

    fn set_text(&mut self, at: usize, text: &[u8]) {
        let row = self.columns.rows;
        self.columns.texts[at].set(row, text);
    }

    fn times(&mut self) {
        let (time, flag) = match (self.fields.time, self.fields.observed) {
            (0, 0) => (self.received_unix_nano, time_flag::TIME_FROM_ARRIVAL),
            (0, observed) => (observed, time_flag::TIME_FROM_OBSERVED),
            (time, _) => (time, 0),
        };
        let (date, odd) = match self.dates.of(time) {
            Some(date) => (date, 0),
            None => (self.dates.arrival(), time_flag::DATE_FROM_ARRIVAL),
        };
        let row = self.columns.rows;
        self.columns.dates.push(date);
        self.columns.times[const { slot("time") }].set(row, (time / 1_000) as i64);
        self.columns.times[const { slot("received_time") }].set(row, (self.received_unix_nano / 1_000) as i64);
        self.set_int(const { slot("time_flags") }, flag | odd);
        if self.fields.time != 0 {
            self.set_int(const { slot("time_unix_nano") }, self.fields.time as i64);
        }
        if self.fields.observed != 0 {
            self.set_int(const { slot("observed_time_unix_nano") }, self.fields.observed as i64);
        }
    }

    fn ids(&mut self) {
        let row = self.columns.rows;
        let ids = [
            (self.fields.trace_id, 16, const { slot("trace_id") }, const { slot("invalid_trace_id") }),
            (self.fields.span_id, 8, const { slot("span_id") }, const { slot("invalid_span_id") }),
        ];
        for (id, length, valid, invalid) in ids {
            if !id.is_empty() {
                let at = if is_id(id, length) { valid } else { invalid };
                self.columns.texts[at].set_with(row, |out| write_hex(out, id));
            }
        }
    }

    /// Writes the single values; returns the bits of `reading_flags` they set.
    fn facts(&mut self) -> i64 {
        self.set_int(const { slot("flags") }, i64::from(self.fields.flags));
        self.set_int(const { slot("dropped_attributes_count") }, i64::from(self.fields.dropped_attributes));
        if self.fields.severity_number != 0 {
            self.set_int(const { slot("severity_number") }, i64::from(self.fields.severity_number));
        }
        if !self.fields.severity_text.is_empty() {
            self.set_text(const { slot("severity_text") }, self.fields.severity_text);
        }
        let Some(name) = self.fields.event_name() else { return 0 };
        self.set_text(const { slot("event_name") }, name);
        if self.fields.event_name_field.is_empty() { reading_flag::EVENT_NAME_FROM_ATTRIBUTE } else { 0 }
    }

    fn body(&mut self, reader: &Reader<'_>) -> Result<(), WireError> {
        let Some(body) = self.fields.body else { return Ok(()) };
        let row = self.columns.rows;
        let (texts, symbols, writer) = (&mut self.columns.texts, &mut self.symbols, &mut self.writer);
        texts[const { slot("body") }].try_set_with(row, |text| writer.write(reader, body, text, symbols))?;
        writer.finish_types(symbols);
        texts[const { slot("body_type") }].set(row, symbols);
        symbols.clear();
        Ok(())
    }

    fn attributes(&mut self, reader: &Reader<'_>) -> Result<(), WireError> {
        let row = self.columns.rows;
        let map = &mut self.columns.maps[const { slot("attributes") }];
        for attribute in &self.fields.attributes {
            write_attribute(&mut self.writer, reader, *attribute, map, &mut self.symbols)?;
        }
        map.close(row);
        self.writer.finish_types(&mut self.symbols);
        self.columns.texts[const { slot("attribute_types") }].set(row, &self.symbols);
        self.symbols.clear();
        Ok(())
    }
}
