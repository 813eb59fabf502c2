//! An `ExportTraceServiceRequest`, walked from its bytes straight into columns.
//!
//! Nothing is copied before it lands in its column, and nothing is parsed twice: a resource and a scope are rendered
//! once and copied to each of their spans.
//! <https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto>

mod events;
mod keys;
mod links;
mod said;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::record_batch::RecordBatch;
use spanlake_schema::flags::{reading as reading_flag, time as time_flag};
use spanlake_schema::{ledger, spans};

use crate::columns::TextMap;
use crate::content::{CONTENT, Collector, Content, ContentKey, ContentMemory, ContentRows, ContentRules};
use crate::dates::Dates;
use crate::ledger::{Rows, Tally};
use crate::log_walk;
use crate::meaning::{Lately, Meaning, SpanFacts, Told};
use crate::metric_walk;
use crate::origin::Origin;
use crate::reading::{Facts, set_text};
use crate::roles::{self, Note, Roles};
use crate::room::Room;
use crate::signal::Signal;
use crate::span_columns::{ROWS_MAX, SpanColumns, slot};
use crate::span_fields::{SpanFields, kind_name, status_name};
use crate::value::{Attribute, ValueWriter, write_hex};
use crate::wire::{Reader, WireError};
use keys::Keys;

/// What a walk made of a request.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// The rows for each table, in batches of [`ROWS_MAX`] rows at most.
    pub(crate) batches: Vec<(&'static str, RecordBatch)>,
    /// The contents in them, to be remembered once they are durable.
    pub(crate) contents: Vec<ContentKey>,
    /// What its spans tell of calls, for what other requests tell of their traces.
    pub(crate) told: roles::Told,
    /// Items (spans, log records) that are stored.
    pub(crate) stored: u64,
    /// Items that are refused.
    pub(crate) refused: u64,
    /// The same by service.
    pub(crate) tally: Tally,
    /// Why the first refused item was refused, or what else the sender should know.
    pub(crate) refusal: String,
    pub(crate) repaired_strings: u64,
    pub(crate) type_conflicts: u64,
    pub(crate) unpriced_calls: u64,
}

/// Walks requests. Holds what all walks share.
#[derive(Clone, Debug)]
pub(crate) struct Walker {
    pub(crate) meaning: Arc<Meaning>,
    content: Arc<ContentRules>,
    /// Whether spans are read by the rules, or only stored.
    reads: bool,
    /// Contents that need not be stored again; none where a log is replayed.
    memory: Option<Arc<ContentMemory>>,
    /// What a span of the last body took, for sizing columns. Wrong guesses cost a reallocation.
    span_bytes: Arc<AtomicUsize>,
}

impl Walker {
    pub(crate) fn new(meaning: Arc<Meaning>) -> Self {
        let span_bytes = Arc::new(AtomicUsize::new(SPAN_BYTES_GUESS));
        Self { meaning, content: Arc::new(ContentRules::built_in()), reads: true, memory: None, span_bytes }
    }

    /// A walker that reads nothing of what spans mean.
    pub(crate) fn unread(self) -> Self {
        Self { reads: false, ..self }
    }

    /// A walker that leaves out contents which are durable already.
    pub(crate) fn with_memory(mut self, memory: Arc<ContentMemory>) -> Self {
        self.memory = Some(memory);
        self
    }

    /// The version of the prices, for the log.
    pub(crate) fn prices_version(&self) -> u32 {
        self.meaning.pricer().version()
    }

    /// The version of the rules, for the log.
    pub(crate) fn rules_version(&self) -> u32 {
        self.meaning.rules().version
    }

    /// Walks a request. The same bytes and arrival give the same rows, where there is room for them, but for contents that the
    /// tenant's memory knows.
    pub(crate) fn walk(
        &self,
        signal: Signal,
        tenant: &str,
        body: &[u8],
        received_unix_nano: u64,
        room: Room,
    ) -> Result<Walked, WireError> {
        let memory = self.memory.as_deref().map(|memory| (memory, tenant));
        let content = Content { rules: &self.content, rows: ContentRows::new(received_unix_nano, body.len(), memory) };
        let mut walked = match signal {
            Signal::Traces => self.traces(content, body, received_unix_nano, room)?,
            Signal::Metrics => metric_walk::walk(body, received_unix_nano, room)?,
            Signal::Logs => log_walk::walk(content, body, received_unix_nano, room)?,
        };
        if walked.stored > 0 {
            let rows = Rows::taken(signal.name(), received_unix_nano, body.len(), &walked.tally);
            walked.batches.push((ledger::SPEC.name, rows.batch()));
        }
        Ok(walked)
    }

    fn traces(
        &self,
        content: Content<'_>,
        body: &[u8],
        received_unix_nano: u64,
        room: Room,
    ) -> Result<Walked, WireError> {
        let rows = (body.len() / self.span_bytes.load(Ordering::Relaxed) + 1).min(ROWS_MAX);
        let mut walk = Walk::new(self, content, rows, (received_unix_nano, room));
        let mut reader = Reader::new(body, "ExportTraceServiceRequest");
        while let Some((field, wire)) = reader.next()? {
            if field == 1 {
                walk.resource_spans(&reader, reader.bytes(wire)?)?;
            }
        }
        let walked = walk.finish();
        let span_bytes = body.len().checked_div(walked.stored as usize).unwrap_or(SPAN_BYTES_GUESS);
        self.span_bytes.store(span_bytes.clamp(SPAN_BYTES_MIN, SPAN_BYTES_MAX), Ordering::Relaxed);
        Ok(walked)
    }
}

struct Walk<'a, 'w> {
    meaning: &'w Meaning,
    reads: bool,
    content: Content<'w>,
    collector: Collector,
    received_unix_nano: u64,
    room: Room,
    columns: SpanColumns,
    fields: SpanFields<'a>,
    keys: Keys<'a, 'w>,
    lately: Lately,
    facts: Facts<'a>,
    roles: Roles,
    /// Columns that are full, or ended: their roles are settled with those of the whole body.
    full: Vec<SpanColumns>,
    emitters: Vec<usize>,
    held: Vec<u8>,
    event_attributes: Vec<Attribute<'a>>,
    symbols: Vec<u8>,
    writer: ValueWriter,
    dates: Dates,
    walked: Walked,
}

/// A typical span's size, and the bounds of what is learned of it.
const SPAN_BYTES_GUESS: usize = 512;
const SPAN_BYTES_MIN: usize = 128;
const SPAN_BYTES_MAX: usize = 1 << 20;

impl<'a, 'w> Walk<'a, 'w> {
    fn new(walker: &'w Walker, content: Content<'w>, rows: usize, (received_unix_nano, room): (u64, Room)) -> Self {
        let (meaning, content_rules) = (&*walker.meaning, content.rules);
        Self {
            meaning,
            reads: walker.reads,
            content,
            collector: Collector::default(),
            received_unix_nano,
            room,
            columns: SpanColumns::new(rows),
            fields: SpanFields::default(),
            keys: Keys::new(meaning.rules(), content_rules),
            lately: Lately::default(),
            facts: Facts::new(meaning.rules()),
            roles: Roles::for_rows(rows),
            full: Vec::new(),
            emitters: Vec::new(),
            held: Vec::new(),
            event_attributes: Vec::new(),
            symbols: Vec::new(),
            writer: ValueWriter::default(),
            dates: Dates::new(received_unix_nano),
            walked: Walked::default(),
        }
    }

    fn finish(mut self) -> Walked {
        self.cut_batch();
        let roles = std::mem::take(&mut self.roles);
        (self.walked.unpriced_calls, self.walked.told) = roles.write(&mut self.full, self.meaning.pricer());
        for columns in std::mem::take(&mut self.full) {
            let (batch, repaired) = columns.finish();
            self.walked.stored += batch.num_rows() as u64;
            self.walked.repaired_strings += repaired;
            self.walked.batches.push((spans::SPEC.name, batch));
        }
        self.walked.repaired_strings += self.writer.repaired + self.collector.repaired;
        let (said, contents) = self.content.rows.finish();
        self.walked.batches.extend(said);
        self.walked.contents = contents;
        self.walked
    }

    fn cut_batch(&mut self) {
        if self.columns.rows == 0 {
            return;
        }
        // Most bodies end here: what follows is sized when it comes.
        self.full.push(std::mem::replace(&mut self.columns, SpanColumns::new(0)));
    }

    /// Fields may stand in any order: the resource is read before the spans it belongs to.
    fn resource_spans(&mut self, parent: &Reader<'a>, bytes: &'a [u8]) -> Result<(), WireError> {
        let mut origin = Origin::default();
        let mut reader = parent.inner(bytes, "ResourceSpans");
        while let Some((field, wire)) = reader.next()? {
            match field {
                1 => origin.read_resource(&reader, reader.bytes(wire)?, &mut self.writer, &mut self.room)?,
                3 => origin.resource_schema_url = reader.bytes(wire)?,
                _ => {}
            }
        }
        origin.end_resource(&mut self.writer);
        let mut reader = parent.inner(bytes, "ResourceSpans");
        while let Some((field, wire)) = reader.next()? {
            if field == 2 {
                self.scope_spans(&mut origin, &reader, reader.bytes(wire)?)?;
            }
        }
        let (stored, refused) = (self.walked.stored + self.columns.rows as u64, self.walked.refused);
        self.walked.tally.up_to(origin.service_name(), stored, refused);
        Ok(())
    }

    fn scope_spans(&mut self, origin: &mut Origin<'a>, parent: &Reader<'a>, bytes: &'a [u8]) -> Result<(), WireError> {
        origin.clear_scope();
        let mut reader = parent.inner(bytes, "ScopeSpans");
        while let Some((field, wire)) = reader.next()? {
            match field {
                1 => origin.read_scope(&reader, reader.bytes(wire)?, &mut self.writer, &mut self.room)?,
                3 => origin.scope_schema_url = reader.bytes(wire)?,
                _ => {}
            }
        }
        origin.end_scope(&mut self.writer);
        self.lately.end_scope();
        self.emitters = self.meaning.emitters_of(origin.scope_name(), origin.scope_version());
        let mut reader = parent.inner(bytes, "ScopeSpans");
        while let Some((field, wire)) = reader.next()? {
            if field == 2 {
                self.span(origin, reader.inner(reader.bytes(wire)?, "Span"))?;
            }
        }
        Ok(())
    }

    fn span(&mut self, origin: &Origin<'a>, mut reader: Reader<'a>) -> Result<(), WireError> {
        let span_bytes = reader.rest_bytes();
        self.fields.read(&mut reader, &mut self.room)?;
        if let Some(refusal) = self.fields.refusal() {
            self.walked.refused += 1;
            if self.walked.refusal.is_empty() {
                self.walked.refusal = refusal;
            }
            return self.check_events_and_links(&reader);
        }
        if self.room.take_row(self.columns.rows, origin.copy_bytes(), span_bytes, &reader)? {
            self.cut_batch();
        }
        self.facts.clear();
        self.writer.cut = false;
        let repaired = self.writer.repaired;
        self.identity();
        self.roles.span(self.fields.trace_id, self.fields.span_id, self.fields.parent_span_id);
        let duration = self.times();
        origin.write(&mut self.columns);
        let service_name = origin.service_name();
        let exception = self.events(&reader, service_name)?;
        self.links(&reader)?;
        if let Some(note) = self.attributes(&reader, duration, exception, service_name)? {
            self.note(origin, note);
        }
        let mut flags = self.facts.flags() | self.identity_flags();
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

    /// A refused span must still be well-formed, or the whole body is malformed.
    fn check_events_and_links(&mut self, reader: &Reader<'a>) -> Result<(), WireError> {
        for bytes in self.fields.events.iter().chain(&self.fields.links) {
            let mut reader = reader.inner(bytes, "Event");
            while reader.next()?.is_some() {}
        }
        Ok(())
    }

    #[inline]
    fn set_int(&mut self, at: usize, number: i64) {
        let row = self.columns.rows;
        self.columns.ints[at].set(row, number);
    }

    fn identity(&mut self) {
        let row = self.columns.rows;
        let texts = &mut self.columns.texts;
        texts[const { slot("trace_id") }].set_with(row, |out| write_hex(out, self.fields.trace_id));
        texts[const { slot("span_id") }].set_with(row, |out| write_hex(out, self.fields.span_id));
        if self.fields.parent_span_id.iter().any(|&byte| byte != 0) {
            texts[const { slot("parent_span_id") }].set_with(row, |out| write_hex(out, self.fields.parent_span_id));
        }
        if !self.fields.trace_state.is_empty() {
            texts[const { slot("trace_state") }].set(row, self.fields.trace_state);
        }
        texts[const { slot("name") }].set(row, self.fields.name);
        texts[const { slot("kind") }].set(row, kind_name(self.fields.kind).as_bytes());
        let (code, message) = self.fields.status.unwrap_or((0, &[]));
        texts[const { slot("status_code") }].set(row, status_name(code).as_bytes());
        if !message.is_empty() {
            texts[const { slot("status_message") }].set(row, message);
        }
        self.set_int(const { slot("flags") }, i64::from(self.fields.flags));
        self.set_int(const { slot("dropped_attributes_count") }, i64::from(self.fields.dropped_attributes));
        self.set_int(const { slot("dropped_events_count") }, i64::from(self.fields.dropped_events));
        self.set_int(const { slot("dropped_links_count") }, i64::from(self.fields.dropped_links));
    }

    fn identity_flags(&self) -> i64 {
        let mut flags = 0;
        let parent = self.fields.parent_span_id;
        if !parent.is_empty() && parent.iter().all(|&byte| byte == 0) {
            flags |= reading_flag::PARENT_ALL_ZERO;
        }
        if matches!(self.fields.status, Some((0, []))) {
            flags |= reading_flag::EMPTY_STATUS;
        }
        if !(0..=5).contains(&self.fields.kind)
            || matches!(self.fields.status, Some((code, _)) if !(0..=2).contains(&code))
        {
            flags |= reading_flag::ENUM_UNKNOWN;
        }
        flags
    }

    /// Writes the times; returns the duration in nanoseconds, where the times make one.
    fn times(&mut self) -> Option<i64> {
        let (start, end) = (self.fields.start, self.fields.end);
        let mut flags = 0;
        let mut duration = None;
        if start == 0 {
            flags |= time_flag::NO_START;
        }
        if end == 0 {
            flags |= time_flag::NO_END;
        } else if end < start {
            flags |= time_flag::END_BEFORE_START;
        } else if start != 0 {
            duration = i64::try_from(end - start).ok();
            if duration.is_none() {
                flags |= time_flag::DURATION_OVERFLOW;
            }
        }
        let date = self.dates.of(start).unwrap_or_else(|| {
            flags |= time_flag::DATE_FROM_ARRIVAL;
            self.dates.arrival()
        });
        let row = self.columns.rows;
        self.columns.dates.push(date);
        self.columns.times[const { slot("start_time") }].set(row, (start / 1_000) as i64);
        self.columns.times[const { slot("received_time") }].set(row, (self.received_unix_nano / 1_000) as i64);
        self.set_int(const { slot("start_time_unix_nano") }, start as i64);
        self.set_int(const { slot("end_time_unix_nano") }, end as i64);
        self.set_int(const { slot("time_flags") }, flags);
        if let Some(duration) = duration {
            self.set_int(const { slot("duration_ns") }, duration);
        }
        duration
    }

    /// Reads what the span means into its columns, and its content into rows of messages; `held` tells then which attributes
    /// stand there.
    #[inline]
    fn meaning(
        &mut self,
        reader: &Reader<'a>,
        duration_ns: Option<i64>,
        exception: Option<&'a [u8]>,
        service_name: Option<&[u8]>,
    ) -> Told {
        let rules = self.meaning.rules();
        self.collector.clear();
        for (index, attribute) in self.fields.attributes.iter().enumerate() {
            let meant = self.keys.find(attribute.key);
            if let Some(known) = meant.known {
                self.facts.read_attribute(rules, known, (index, attribute.value), false);
            }
            if let Some(hit) = meant.content {
                self.collector.take(index, hit);
            }
        }
        self.facts.read_together(rules, &self.fields.attributes);
        let span = SpanFacts {
            name: self.fields.name,
            failed: self.fields.status.is_some_and(|(code, _)| code == 2),
            status_message: self.fields.status.map_or(&[], |(_, message)| message),
            start_unix_nano: if self.fields.start == 0 { self.received_unix_nano } else { self.fields.start },
            duration_ns,
            exception,
            attributes: &self.fields.attributes,
            emitters: &self.emitters,
        };
        let told = self.meaning.write(&span, &mut self.facts, &mut self.columns, &mut self.held, &mut self.lately);
        self.walked.type_conflicts += u64::from(self.facts.flags() & reading_flag::TYPE_CONFLICT != 0);
        if self.collector.has_found() {
            self.content(reader, service_name);
        }
        told
    }

    fn attributes(
        &mut self,
        reader: &Reader<'a>,
        duration: Option<i64>,
        exception: Option<&'a [u8]>,
        service_name: Option<&[u8]>,
    ) -> Result<Option<Note>, WireError> {
        self.held.clear();
        self.held.resize(self.fields.attributes.len(), 0);
        let told = if self.reads { self.meaning(reader, duration, exception, service_name) } else { Told::default() };
        self.set_int(const { slot("promoted") }, told.promoted);
        let row = self.columns.rows;
        let map = &mut self.columns.maps[const { slot("attributes") }];
        let mut symbols = std::mem::take(&mut self.symbols);
        for (attribute, &held) in self.fields.attributes.iter().zip(&self.held) {
            if held == CONTENT {
                self.writer.content(&mut symbols);
                continue;
            }
            if held != 0 {
                let letter = spans::PROMOTED[usize::from(held - 1)].letter;
                self.writer.promoted(letter, &mut symbols);
                continue;
            }
            write_attribute(&mut self.writer, reader, *attribute, map, &mut symbols)?;
        }
        map.close(row);
        self.writer.finish_types(&mut symbols);
        set_text(&mut self.columns, const { slot("attribute_types") }, &symbols);
        symbols.clear();
        self.symbols = symbols;
        Ok(told.note)
    }
}

/// Writes one attribute to a map, its type to the symbols.
#[inline]
pub(crate) fn write_attribute(
    writer: &mut ValueWriter,
    reader: &Reader<'_>,
    attribute: Attribute<'_>,
    map: &mut TextMap,
    symbols: &mut Vec<u8>,
) -> Result<(), WireError> {
    map.push_key(attribute.key);
    map.push_value_with(|text| writer.write(reader, attribute.value, text, symbols))
}
