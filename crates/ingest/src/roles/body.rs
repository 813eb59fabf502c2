//! What the spans of one body tell, and its rows.

use super::{Calls, Id, Note, Noted, Role, Settled, trace_word, word};
use crate::price::{Cost, Pricer};
use crate::span_columns::{SpanColumns, slot};

/// The spans of a body.
#[derive(Debug, Default)]
pub(crate) struct Roles {
    pub(super) calls: Calls,
    /// Of consecutive spans of one trace the id once.
    trace_ids: Vec<u128>,
}

/// What a body told of calls, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) calls: Calls,
    pub(crate) rows: Vec<ToldRow>,
}

/// A row that a note is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToldRow {
    pub(crate) trace_id: u128,
    pub(crate) date: i32,
    /// Of several tellings of the span in its body which it is, from 0.
    pub(crate) telling: u32,
    pub(crate) settled: Settled,
}

impl Roles {
    /// For a body of about so many spans.
    pub(crate) fn for_rows(rows: usize) -> Self {
        let mut roles = Self::default();
        roles.calls.parents.reserve(rows);
        roles.calls.noted.reserve(rows / 2);
        roles
    }

    /// Notes that a span is there.
    #[inline]
    pub(crate) fn span(&mut self, trace_id: &[u8], span_id: &[u8], parent_span_id: &[u8]) {
        let id = Id { trace: trace_word(trace_id), span: word(span_id) };
        let parent = if parent_span_id.len() == 8 { word(parent_span_id) } else { 0 };
        self.calls.parents.push((id, parent));
    }

    /// Notes what the last span tells of a call, and its place: the number of its batch, and its row there.
    pub(crate) fn note(&mut self, place: (usize, usize), trace_id: &[u8], models: [&[u8]; 2], note: Note) {
        let Some(&(id, parent)) = self.calls.parents.last() else { return };
        let trace_id = trace_id.try_into().map_or(0, u128::from_be_bytes);
        if self.trace_ids.last() != Some(&trace_id) {
            self.trace_ids.push(trace_id);
        }
        let note = self.calls.with_models(note, models);
        let (batch, row, trace_at) = (place.0 as u32, place.1 as u32, self.trace_ids.len() as u32 - 1);
        self.calls.noted.push(Noted { id, parent, batch, row, trace_at, note });
    }

    /// Writes roles and costs into the batches of the body. Returns how many calls have usage but no known price, and what
    /// the body told.
    pub(crate) fn write(self, batches: &mut [SpanColumns], pricer: &Pricer) -> (u64, Told) {
        let mut unpriced = 0;
        let first = self.calls.by_id();
        let settled = self.calls.settle_by_id(&first);
        let tellings = self.calls.tellings(&first);
        let mut rows = Vec::with_capacity(settled.len());
        for (at, (noted, settled)) in self.calls.noted.iter().zip(settled).enumerate() {
            let (columns, row) = (&mut batches[noted.batch as usize], noted.row as usize);
            let telling = tellings.as_ref().map_or(0, |tellings| tellings[at]);
            let (trace_id, date) = (self.trace_ids[noted.trace_at as usize], columns.dates[row]);
            rows.push(ToldRow { trace_id, date, telling, settled });
            if telling > 0 {
                columns.ints[const { slot("telling") }].set(row, i64::from(telling));
            }
            let Some(role) = settled.role.name() else { continue };
            columns.texts[const { slot("usage_role") }].set(row, role.as_bytes());
            if let Some(unattributed) = settled.unattributed_tokens {
                columns.ints[const { slot("unattributed_tokens") }].set(row, unattributed);
            }
            match noted.note.cost.filter(|_| settled.role.has_cost()) {
                Some((Cost::Usd(usd), priced_by)) => {
                    columns.usds[const { slot("cost_usd") }].set(row, usd);
                    columns.texts[const { slot("price_source") }].set(row, pricer.source(priced_by).as_bytes());
                }
                Some((Cost::Unknown, _)) if settled.role == Role::Leaf => unpriced += 1,
                _ => {}
            }
        }
        (unpriced, Told { calls: self.calls, rows })
    }
}

impl Told {
    /// Brings spans and notes into the order of their traces; those of one trace stay as they came.
    pub(crate) fn sort_by_trace(&mut self) {
        sort_runs(&mut self.calls.parents, |(id, _)| id.trace);
        if !self.calls.noted.is_sorted_by_key(|noted| noted.id.trace) {
            let mut order: Vec<usize> = (0..self.rows.len()).collect();
            sort_runs(&mut order, |&at| self.calls.noted[at].id.trace);
            self.rows = order.iter().map(|&at| self.rows[at]).collect();
            sort_runs(&mut self.calls.noted, |noted| noted.id.trace);
        }
    }
}

/// A stable sort, by runs of equal keys: spans of a trace mostly follow one another.
fn sort_runs<T: Clone>(items: &mut Vec<T>, key: impl Fn(&T) -> u64) {
    let mut runs: Vec<(u64, &[T])> =
        items.chunk_by(|one, other| key(one) == key(other)).map(|run| (key(&run[0]), run)).collect();
    if runs.is_sorted_by_key(|(key, _)| *key) {
        return;
    }
    runs.sort_by_key(|(key, _)| *key);
    let mut sorted = Vec::with_capacity(items.len());
    runs.into_iter().for_each(|(_, run)| sorted.extend_from_slice(run));
    *items = sorted;
}
