//! Messages into rows: parts, and long contents once by hash.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Date32Array};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use hashbrown::HashSet;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use spanlake_schema::messages::{CONTENTS_SPEC, INLINE_BYTES_MAX, PARTS_SPEC};
use xxhash_rust::xxh3::xxh3_128;

use super::message::{Message, Part};
use super::{Source, Told};
use crate::columns::{Fixed, Repaired, Text};
use crate::room::BATCH_BYTES_MAX;
use crate::span_columns::ROWS_MAX;
use crate::value::write_hex;

/// A content's day and hash.
pub(crate) type ContentKey = (i32, u128);

type Keys = HashSet<ContentKey, foldhash::fast::FixedState>;

/// Contents of one tenant remembered in each of two generations: 2 MiB.
const KEYS_MAX: usize = 32_768;

/// Tenants whose contents are remembered.
const TENANTS_MAX: usize = 64;

/// The contents that are durable already, as far as memory goes: they need not be stored again.
///
/// Forgetting one costs a repeated row. To remember one that is not durable would lose it, so that keys come in only after
/// their request was appended to the log, and replay asks no memory.
#[derive(Debug, Default)]
pub(crate) struct ContentMemory {
    tenants: Mutex<HashMap<String, Generations>>,
}

#[derive(Debug, Default)]
struct Generations {
    young: Keys,
    old: Keys,
}

impl ContentMemory {
    fn knows(&self, tenant: &str, key: &ContentKey) -> bool {
        let tenants = self.tenants.lock();
        tenants.get(tenant).is_some_and(|known| known.young.contains(key) || known.old.contains(key))
    }

    /// Takes in what is durable now.
    pub(crate) fn remember(&self, tenant: &str, keys: &[ContentKey]) {
        if keys.is_empty() {
            return;
        }
        let mut tenants = self.tenants.lock();
        if !tenants.contains_key(tenant) && tenants.len() == TENANTS_MAX {
            tenants.clear();
        }
        let known = tenants.entry(tenant.to_owned()).or_default();
        for key in keys {
            if known.young.len() == KEYS_MAX {
                known.old = std::mem::take(&mut known.young);
            }
            known.young.insert(*key);
        }
    }
}

/// Who tells messages, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker<'a> {
    pub(crate) source: Source,
    pub(crate) date: i32,
    /// Empty where there is none.
    pub(crate) trace_id: &'a [u8],
    pub(crate) span_id: &'a [u8],
    /// Microseconds since 1970-01-01.
    pub(crate) time_micros: i64,
    pub(crate) service_name: Option<&'a [u8]>,
}

/// The rows of both tables, of one request.
#[derive(Debug)]
pub(crate) struct ContentRows<'m> {
    received_micros: i64,
    /// Which contents are stored already, and for whom; none on replay.
    memory: Option<(&'m ContentMemory, &'m str)>,
    parts: Parts,
    contents: Contents,
    seen: Keys,
    sequence: i64,
    /// Bytes of contents in the present batches.
    batch_bytes: usize,
    /// Of the request.
    body_bytes: usize,
    done: Vec<(&'static str, RecordBatch)>,
}

/// The bytes of a request to a part, for sizing columns. Wrong guesses cost a reallocation.
const PART_BYTES_GUESS: usize = 1024;

#[derive(Debug)]
struct Parts {
    rows: usize,
    dates: Vec<i32>,
    trace_id: Text,
    span_id: Text,
    time: Fixed<i64>,
    direction: Text,
    position: Fixed<i64>,
    part: Fixed<i64>,
    sequence: Fixed<i64>,
    role: Text,
    kind: Text,
    content: Text,
    content_bytes: Fixed<i64>,
    content_hash: Text,
    tool_name: Text,
    tool_call_id: Text,
    finish_reason: Text,
    details: Text,
    source: Text,
    service_name: Text,
    received_time: Fixed<i64>,
}

#[derive(Debug, Default)]
struct Contents {
    dates: Vec<i32>,
    hash: Text,
    content: Text,
    received_time: Fixed<i64>,
}

impl<'m> ContentRows<'m> {
    pub(crate) fn new(
        received_unix_nano: u64,
        body_bytes: usize,
        memory: Option<(&'m ContentMemory, &'m str)>,
    ) -> Self {
        Self {
            received_micros: (received_unix_nano / 1_000) as i64,
            memory,
            parts: Parts::new(body_bytes / PART_BYTES_GUESS),
            contents: Contents::default(),
            seen: Keys::default(),
            sequence: 0,
            batch_bytes: 0,
            body_bytes,
            done: Vec::new(),
        }
    }

    /// Writes messages, a row a part.
    pub(crate) fn add(&mut self, speaker: &Speaker<'_>, told: Vec<Told<'_>>) {
        for Told { direction, position, message } in told {
            let Message { role, finish_reason, parts, mut details, .. } = message;
            for (place, mut part) in parts.into_iter().enumerate() {
                let row = self.parts.rows;
                // What the message told beside its parts stands with the first of them.
                part.details.append(&mut details);
                let columns = &mut self.parts;
                columns.direction.set(row, direction.name().as_bytes());
                if let Some(position) = position {
                    columns.position.set(row, position);
                }
                columns.part.set(row, place as i64);
                columns.sequence.set(row, self.sequence);
                set(&mut columns.role, row, role.as_ref());
                set(&mut columns.finish_reason, row, finish_reason.as_ref());
                self.speaker(speaker);
                self.part(speaker.date, part);
                self.parts.rows += 1;
            }
            self.sequence += 1;
            if self.parts.rows >= ROWS_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
                self.cut();
            }
        }
    }

    fn speaker(&mut self, speaker: &Speaker<'_>) {
        let row = self.parts.rows;
        let columns = &mut self.parts;
        columns.dates.push(speaker.date);
        if !speaker.trace_id.is_empty() {
            columns.trace_id.set_with(row, |out| write_hex(out, speaker.trace_id));
        }
        if !speaker.span_id.is_empty() {
            columns.span_id.set_with(row, |out| write_hex(out, speaker.span_id));
        }
        columns.time.set(row, speaker.time_micros);
        columns.source.set(row, speaker.source.name().as_bytes());
        if let Some(name) = speaker.service_name {
            columns.service_name.set(row, name);
        }
        columns.received_time.set(row, self.received_micros);
    }

    fn part(&mut self, date: i32, part: Part<'_>) {
        let row = self.parts.rows;
        let columns = &mut self.parts;
        columns.kind.set(row, part.kind.as_bytes());
        set(&mut columns.tool_name, row, part.tool_name.as_ref());
        set(&mut columns.tool_call_id, row, part.tool_call_id.as_ref());
        if !part.details.is_empty() {
            columns.details.set(row, part.details.to_string().as_bytes());
        }
        let content = part.content.unwrap_or_default();
        columns.content_bytes.set(row, content.len() as i64);
        self.batch_bytes += content.len();
        if content.is_empty() {
            return;
        }
        if content.len() < INLINE_BYTES_MAX {
            let hash = xxh3_128(content.as_bytes()).to_be_bytes();
            columns.content_hash.set_with(row, |out| write_hex(out, &hash));
            if columns.content.len() == 0 {
                // Messages are most of the bodies that have any.
                columns.content.reserve(self.body_bytes / 4 * 3);
            }
            columns.content.set(row, content.as_bytes());
            return;
        }
        // Contents are addressed by this one: nobody may be able to make two that share it.
        let digest: [u8; 32] = Sha256::digest(content.as_bytes()).into();
        let (hash, _) = digest.split_at(16);
        columns.content_hash.set_with(row, |out| write_hex(out, hash));
        let mut number = [0; 16];
        number.copy_from_slice(hash);
        let key = (date, u128::from_le_bytes(number));
        if self.memory.is_some_and(|(memory, tenant)| memory.knows(tenant, &key)) || !self.seen.insert(key) {
            return;
        }
        let row = self.contents.dates.len();
        self.contents.dates.push(date);
        self.contents.hash.set_with(row, |out| write_hex(out, hash));
        self.contents.content.set(row, content.as_bytes());
        self.contents.received_time.set(row, self.received_micros);
    }

    /// The batches, and the contents in them, which are to be remembered once they are durable.
    pub(crate) fn finish(mut self) -> (Vec<(&'static str, RecordBatch)>, Vec<ContentKey>) {
        self.cut();
        (self.done, self.seen.into_iter().collect())
    }

    fn cut(&mut self) {
        self.batch_bytes = 0;
        let parts = std::mem::replace(&mut self.parts, Parts::new(ROWS_MAX));
        let contents = std::mem::take(&mut self.contents);
        if parts.rows > 0 {
            self.done.push((PARTS_SPEC.name, parts.finish()));
        }
        if !contents.dates.is_empty() {
            self.done.push((CONTENTS_SPEC.name, contents.finish()));
        }
    }
}

fn set(column: &mut Text, row: usize, value: Option<&Cow<'_, str>>) {
    if let Some(value) = value {
        column.set(row, value.as_bytes());
    }
}

impl Parts {
    fn new(rows_hint: usize) -> Self {
        let text = || Text::sparse(rows_hint);
        let number = || Fixed::sparse(rows_hint);
        Self {
            rows: 0,
            dates: Vec::new(),
            trace_id: text(),
            span_id: text(),
            time: number(),
            direction: text(),
            position: number(),
            part: number(),
            sequence: number(),
            role: text(),
            kind: text(),
            content: text(),
            content_bytes: number(),
            content_hash: text(),
            tool_name: text(),
            tool_call_id: text(),
            finish_reason: text(),
            details: text(),
            source: text(),
            service_name: text(),
            received_time: number(),
        }
    }

    fn finish(self) -> RecordBatch {
        let (rows, mut bad) = (self.rows, Repaired::new());
        let dates: ArrayRef = Arc::new(Date32Array::from(self.dates));
        let columns = vec![
            dates,
            self.trace_id.finish(rows, &mut bad),
            self.span_id.finish(rows, &mut bad),
            self.time.finish_timestamp(rows),
            self.direction.finish_required(rows, &mut bad),
            self.position.finish(rows),
            self.part.finish_required(rows),
            self.sequence.finish_required(rows),
            self.role.finish(rows, &mut bad),
            self.kind.finish_required(rows, &mut bad),
            self.content.finish(rows, &mut bad),
            self.content_bytes.finish_required(rows),
            self.content_hash.finish(rows, &mut bad),
            self.tool_name.finish(rows, &mut bad),
            self.tool_call_id.finish(rows, &mut bad),
            self.finish_reason.finish(rows, &mut bad),
            self.details.finish(rows, &mut bad),
            self.source.finish_required(rows, &mut bad),
            self.service_name.finish(rows, &mut bad),
            self.received_time.finish_timestamp(rows),
        ];
        batch(&PARTS_SCHEMA, columns)
    }
}

impl Contents {
    fn finish(self) -> RecordBatch {
        let (rows, mut bad) = (self.dates.len(), Repaired::new());
        let dates: ArrayRef = Arc::new(Date32Array::from(self.dates));
        let columns = vec![
            dates,
            self.hash.finish_required(rows, &mut bad),
            self.content.finish_required(rows, &mut bad),
            self.received_time.finish_timestamp(rows),
        ];
        batch(&CONTENTS_SCHEMA, columns)
    }
}

static PARTS_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| PARTS_SPEC.arrow_schema());
static CONTENTS_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| CONTENTS_SPEC.arrow_schema());

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>) -> RecordBatch {
    let batch = RecordBatch::try_new(Arc::clone(schema), columns);
    batch.unwrap_or_else(|error| unreachable!("the columns follow the schema: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: more contents than the memory holds. Guarantee: the newest are known, the memory stays bounded, and one
    /// tenant's contents are no other's.
    #[test]
    fn memory_is_bounded_and_keeps_the_newest() {
        let memory = ContentMemory::default();
        let key = |number: usize| (20_000, number as u128);
        for number in 0..3 * KEYS_MAX {
            memory.remember("one", &[key(number)]);
        }
        for number in 2 * KEYS_MAX..3 * KEYS_MAX {
            assert!(memory.knows("one", &key(number)));
        }
        assert!(!memory.knows("one", &key(0)) && !memory.knows("two", &key(3 * KEYS_MAX - 1)));
        assert!(!memory.knows("one", &(20_001, key(3 * KEYS_MAX - 1).1)));
        for tenant in 0..2 * TENANTS_MAX {
            memory.remember(&tenant.to_string(), &[key(1)]);
        }
        assert!(memory.tenants.lock().len() <= TENANTS_MAX);
    }
}
