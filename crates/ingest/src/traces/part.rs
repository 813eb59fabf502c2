//! What one request told of calls, or rows that were read back together.

use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use spanlake_schema::corrections::Address;

use super::{TraceOf, address};
use crate::roles::{Calls, Id, Settled, Told, name_hash};

/// What a row costs in the index of traces.
const PLACE_BYTES: usize = 64;

/// Spans and notes, in the order of their traces.
#[derive(Debug)]
pub(crate) struct Part {
    tenant: Arc<str>,
    salt: u64,
    /// By which it expires.
    pub(super) received_micros: i64,
    pub(super) calls: Calls,
    /// The rows of the notes.
    pub(super) rows: Vec<PartRow>,
    pub(super) bytes: usize,
}

/// A row of `spans`, and what it is to the totals as far as anybody was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartRow {
    pub(crate) trace_id: u128,
    pub(crate) date: i32,
    pub(crate) received_micros: i64,
    pub(crate) telling: u32,
    pub(crate) settled: Settled,
}

/// Tells the traces of tenants apart.
pub(super) fn salt(tenant: &str) -> u64 {
    name_hash(tenant.as_bytes())
}

impl Part {
    /// What a request told, sorted by trace.
    pub(super) fn told(tenant: &str, told: Told, received_micros: i64) -> Self {
        let rows = told.rows.iter().map(|row| PartRow {
            trace_id: row.trace_id,
            date: row.date,
            received_micros,
            telling: row.telling,
            settled: row.settled,
        });
        let rows = rows.collect();
        Self::new(tenant, told.calls, rows, received_micros)
    }

    /// Rows that were read back; `rows` are those of the notes.
    pub(crate) fn recalled(tenant: &str, mut calls: Calls, rows: Vec<PartRow>, received_micros: i64) -> Self {
        calls.parents.sort_by_key(|(id, _)| id.trace);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        // The first telling of a span is the one that came first.
        order.sort_by_key(|&at| (calls.noted[at].id.trace, rows[at].received_micros, rows[at].telling));
        calls.noted = order.iter().map(|&at| calls.noted[at].clone()).collect();
        let rows = order.iter().map(|&at| rows[at]).collect();
        Self::new(tenant, calls, rows, received_micros)
    }

    fn new(tenant: &str, mut calls: Calls, rows: Vec<PartRow>, received_micros: i64) -> Self {
        calls.parents.shrink_to_fit();
        let mut part = Self { tenant: tenant.into(), salt: salt(tenant), received_micros, calls, rows, bytes: 0 };
        let places = part.keys().len() * PLACE_BYTES;
        part.bytes = size_of::<Self>() + part.calls.bytes() + part.rows.len() * size_of::<PartRow>() + places;
        part
    }

    /// The traces that it tells of.
    pub(super) fn keys(&self) -> Vec<u64> {
        let mut keys: Vec<u64> = self.calls.parents.iter().map(|(id, _)| id.trace ^ self.salt).collect();
        keys.dedup();
        keys
    }

    /// The notes of a trace.
    pub(super) fn notes_of(&self, key: u64) -> Range<usize> {
        let (trace, noted) = (key ^ self.salt, &self.calls.noted);
        let start = noted.partition_point(|one| one.id.trace < trace);
        start..start + noted[start..].partition_point(|one| one.id.trace == trace)
    }

    /// The spans of a trace and their parents.
    pub(super) fn parents_of(&self, key: u64) -> &[(Id, u64)] {
        let (trace, parents) = (key ^ self.salt, &self.calls.parents);
        let start = parents.partition_point(|(id, _)| id.trace < trace);
        let end = start + parents[start..].partition_point(|(id, _)| id.trace == trace);
        &parents[start..end]
    }

    /// Whether a trace of several calls may have a span missing between them: not all of its spans hang together.
    pub(super) fn may_be_torn(&self, key: u64) -> bool {
        if self.notes_of(key).len() < 2 {
            return false;
        }
        let parents = self.parents_of(key);
        let spans: HashSet<u64, FixedState> = parents.iter().map(|(id, _)| id.span).collect();
        let mut ends = parents.iter().map(|(_, parent)| *parent).filter(|parent| !spans.contains(parent));
        let first = ends.next();
        ends.any(|end| Some(end) != first)
    }

    /// What tells the row of a note from all others: its span's ids, arrival and telling.
    pub(super) fn identity(&self, note: usize) -> (u64, u64, i64, u32) {
        let (id, row) = (self.calls.noted[note].id, self.rows[note]);
        (id.trace, id.span, row.received_micros, row.telling)
    }

    /// Keeps the notes of the rows that are wanted; spans and their parents all stay.
    pub(super) fn retain(&mut self, is_wanted: impl Fn((u64, u64, i64, u32)) -> bool) {
        let kept: Vec<usize> = (0..self.rows.len()).filter(|&at| is_wanted(self.identity(at))).collect();
        self.calls.noted = kept.iter().map(|&at| self.calls.noted[at].clone()).collect();
        self.rows = kept.iter().map(|&at| self.rows[at]).collect();
    }

    pub(super) fn trace_of(&self, key: u64) -> Option<TraceOf> {
        let row = self.rows.get(self.notes_of(key).start)?;
        Some(TraceOf { tenant: self.tenant.to_string(), trace_id: format!("{:032x}", row.trace_id) })
    }

    pub(super) fn address(&self, note: usize) -> Address {
        let (noted, row) = (&self.calls.noted[note], self.rows[note]);
        let start_micros = (noted.note.start_unix_nano / 1_000) as i64;
        address(row.trace_id, noted.id.span, (row.date, row.received_micros, row.telling), start_micros)
    }
}
