//! What recent requests told of calls, so that a trace is settled over all of its requests.
//!
//! A request's rows are decided from its bytes alone. Once it is durable, what it told of calls comes here, beside what earlier
//! requests told of the same traces; where that changes what a span is to the totals, a correction is due. The memory holds a
//! part a request, the oldest goes first. What it forgets before its time it knows to have forgotten: a trace of which more comes
//! then is to be read back from the store and settled anew.
//!
//! Spans that tell of no call cost a look at their trace's id. Their parents are kept where their trace is known to have calls by
//! then, or tells of some in the same request. Spans end before those above them, so that this is so for the spans between two
//! calls unless requests overtake each other by much. Where such a span is missing between calls, the trace is read back once it
//! is quiet.

mod part;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use spanlake_schema::corrections::{Address, Correction, Reason, Value};

use crate::meaning::Meaning;
use crate::price::Cost;
use crate::roles::{Calls, Note, Settled, Told, trace_word};
pub(crate) use part::{Part, PartRow};

/// Memory for what was told.
pub(crate) const LIMIT_BYTES: usize = 32 << 20;

/// How long what was told of a trace is remembered at most.
pub const TRACE_WINDOW: Duration = Duration::from_secs(3_600);
const WINDOW_MICROS: i64 = TRACE_WINDOW.as_micros() as i64;

/// Traces known to be forgotten, and traces that wait to be read back; 16 bytes and 64 bytes each, about.
const FORGOTTEN_MAX: usize = 1 << 18;
const DOUBTFUL_MAX: usize = 1 << 16;

/// How long a torn trace has to be quiet before it is read back.
const QUIET_NS: u64 = 5_000_000_000;

/// Notes of one trace that are settled together; a trace with more is left to what is stored.
const NOTES_MAX: usize = 4_096;

/// A trace of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceOf {
    /// The tenant.
    pub tenant: String,
    /// The trace id, lower-case hex.
    pub trace_id: String,
}

/// The parts that tell of a trace, by their numbers, ascending.
#[derive(Debug, Default)]
struct Places {
    first: u64,
    more: Vec<u64>,
}

/// What recent requests told.
#[derive(Debug)]
pub(crate) struct Traces {
    meaning: Arc<Meaning>,
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Part>,
    /// The number of the first of the parts.
    first: u64,
    traces: HashMap<u64, Places, FixedState>,
    bytes: usize,
    forgotten: HashSet<u64, FixedState>,
    forgotten_order: VecDeque<u64>,
    doubtful: HashSet<TraceOf, FixedState>,
    /// Traces between whose calls a span is missing that may be known to the store, and when more came of them last.
    torn: HashMap<u64, (TraceOf, u64), FixedState>,
    /// Traces that had no room among the doubtful.
    unsettled_total: u64,
    revision: i64,
}

impl Traces {
    pub(crate) fn new(meaning: Arc<Meaning>, limit_bytes: usize) -> Self {
        Self { meaning, limit_bytes, state: Mutex::default() }
    }

    pub(crate) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Takes what a durable request told. Returns the corrections that follow.
    pub(crate) fn admit(&self, tenant: &str, mut told: Told, received_micros: i64, now_nanos: u64) -> Vec<Correction> {
        let mut state = self.state.lock();
        if told.rows.is_empty() && state.traces.is_empty() {
            return Vec::new();
        }
        let salt = part::salt(tenant);
        state.keep_relevant(&mut told, salt);
        if told.calls.parents.is_empty() {
            return Vec::new();
        }
        told.sort_by_trace();
        let part = Part::told(tenant, told, received_micros);
        state.expire(received_micros.saturating_sub(WINDOW_MICROS));
        let to_settle = state.insert(part);
        let settled = to_settle.into_iter().flat_map(|key| state.settle(key, &self.meaning, now_nanos, true)).collect();
        state.shrink(self.limit_bytes);
        settled
    }

    /// Takes rows read back from the store, those that are known already left out. Returns the corrections that follow.
    pub(crate) fn recall(&self, mut part: Part, now_nanos: u64) -> Vec<Correction> {
        let mut state = self.state.lock();
        let mut known: HashSet<(u64, u64, i64, u32), FixedState> = HashSet::default();
        for key in part.keys() {
            for (other, range) in state.notes_of(key) {
                known.extend(range.map(|at| other.identity(at)));
            }
        }
        part.retain(|identity| !known.contains(&identity));
        let keys = part.keys();
        state.insert(part);
        let corrections = keys.iter().flat_map(|key| state.settle(*key, &self.meaning, now_nanos, false)).collect();
        state.shrink(self.limit_bytes);
        corrections
    }

    /// Traces of which more came after they were forgotten, and torn ones that are quiet by now.
    pub(crate) fn take_doubtful(&self, now_nanos: u64) -> Vec<TraceOf> {
        let mut state = self.state.lock();
        let quiet = |_: &u64, torn: &mut (TraceOf, u64)| torn.1.saturating_add(QUIET_NS) <= now_nanos;
        let torn: Vec<TraceOf> = state.torn.extract_if(quiet).map(|(_, (trace, _))| trace).collect();
        let mut doubtful: Vec<TraceOf> = state.doubtful.drain().chain(torn).collect();
        drop(state);
        doubtful.sort_unstable();
        doubtful.dedup();
        doubtful
    }

    /// Forgets what was told of traces, since their rows are read otherwise by now.
    pub(crate) fn forget(&self, traces: &[TraceOf]) {
        let mut state = self.state.lock();
        for trace in traces {
            let Ok(id) = u128::from_str_radix(&trace.trace_id, 16) else { continue };
            let key = trace_word(&id.to_be_bytes()) ^ part::salt(&trace.tenant);
            state.traces.remove(&key);
            state.torn.remove(&key);
        }
    }

    /// Leaves traces to be read back.
    pub(crate) fn doubt(&self, traces: impl IntoIterator<Item = TraceOf>) {
        let mut state = self.state.lock();
        traces.into_iter().for_each(|trace| state.doubt(trace));
    }

    /// A number higher than all before, for corrections of one process.
    pub(crate) fn next_revision(&self, now_nanos: u64) -> i64 {
        self.state.lock().next_revision(now_nanos)
    }

    /// Bytes of memory now, and traces left unsettled for want of it so far.
    pub(crate) fn stats(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.bytes, state.unsettled_total)
    }
}

impl State {
    /// Drops the spans of traces that have no calls, as far as is known.
    fn keep_relevant(&self, told: &mut Told, salt: u64) {
        let own: HashSet<u64, FixedState> = told.calls.noted.iter().map(|noted| noted.id.trace).collect();
        let mut last = None;
        told.calls.parents.retain(|(id, _)| match last {
            Some((trace, kept)) if trace == id.trace => kept,
            _ => {
                let kept = own.contains(&id.trace) || self.traces.contains_key(&(id.trace ^ salt));
                last = Some((id.trace, kept));
                kept
            }
        });
    }

    /// Adds a part. Returns its traces that are to be settled: those of which earlier parts told, and those that may be torn.
    fn insert(&mut self, part: Part) -> Vec<u64> {
        let number = self.first + self.parts.len() as u64;
        let mut known = Vec::new();
        for key in part.keys() {
            match self.traces.entry(key) {
                hashbrown::hash_map::Entry::Occupied(mut places) => {
                    places.get_mut().more.push(number);
                    known.push(key);
                }
                hashbrown::hash_map::Entry::Vacant(place) => {
                    place.insert(Places { first: number, more: Vec::new() });
                    if part.may_be_torn(key) {
                        known.push(key);
                    }
                    if self.forgotten.contains(&key)
                        && let Some(trace) = part.trace_of(key)
                    {
                        self.doubt(trace);
                    }
                }
            }
        }
        self.bytes += part.bytes;
        self.parts.push_back(part);
        known
    }

    fn doubt(&mut self, trace: TraceOf) {
        if self.doubtful.len() < DOUBTFUL_MAX {
            self.doubtful.insert(trace);
        } else {
            self.unsettled_total += 1;
        }
    }

    fn expire(&mut self, before_micros: i64) {
        while self.parts.front().is_some_and(|part| part.received_micros < before_micros) {
            self.drop_oldest();
        }
    }

    fn shrink(&mut self, limit_bytes: usize) {
        while self.bytes > limit_bytes && self.parts.len() > 1 {
            for key in self.drop_oldest() {
                if self.forgotten.insert(key) {
                    self.forgotten_order.push_back(key);
                }
            }
        }
        while self.forgotten_order.len() > FORGOTTEN_MAX
            && let Some(key) = self.forgotten_order.pop_front()
        {
            self.forgotten.remove(&key);
        }
    }

    fn drop_oldest(&mut self) -> Vec<u64> {
        let Some(part) = self.parts.pop_front() else { return Vec::new() };
        self.bytes -= part.bytes;
        let keys = part.keys();
        for key in &keys {
            // What was forgotten may have been told again by a later part.
            let Some(places) = self.traces.get_mut(key).filter(|places| places.first == self.first) else { continue };
            if places.more.is_empty() {
                self.traces.remove(key);
            } else {
                places.first = places.more.remove(0);
            }
        }
        self.first += 1;
        keys
    }

    fn numbers(&self, key: u64) -> Vec<usize> {
        let Some(places) = self.traces.get(&key) else { return Vec::new() };
        std::iter::once(places.first)
            .chain(places.more.iter().copied())
            .map(|number| (number - self.first) as usize)
            .collect()
    }

    fn notes_of(&self, key: u64) -> impl Iterator<Item = (&Part, std::ops::Range<usize>)> {
        self.numbers(key).into_iter().map(move |at| (&self.parts[at], self.parts[at].notes_of(key)))
    }

    /// Remembers a torn trace until it is read back, or whole.
    fn note_torn(&mut self, key: u64, is_torn: bool, now_nanos: u64) {
        if !is_torn {
            self.torn.remove(&key);
            return;
        }
        let trace = self.numbers(key).into_iter().find_map(|at| self.parts[at].trace_of(key));
        match trace {
            Some(trace) if self.torn.len() < DOUBTFUL_MAX => {
                self.torn.insert(key, (trace, now_nanos));
            }
            Some(_) => self.unsettled_total += 1,
            None => {}
        }
    }

    /// Settles a trace over all its parts. Returns what changed since it was last told.
    fn settle(&mut self, key: u64, meaning: &Meaning, now_nanos: u64, is_news: bool) -> Vec<Correction> {
        let mut calls = Calls::default();
        let mut owners = Vec::new();
        for at in self.numbers(key) {
            let part = &self.parts[at];
            calls.parents.extend_from_slice(part.parents_of(key));
            for note in part.notes_of(key) {
                calls.adopt(&part.calls, &part.calls.noted[note]);
                owners.push((at, note));
            }
        }
        if owners.len() > NOTES_MAX {
            self.unsettled_total += 1;
            return Vec::new();
        }
        if is_news {
            self.note_torn(key, calls.is_torn(), now_nanos);
        }
        let mut corrections = Vec::new();
        for ((at, note), settled) in owners.into_iter().zip(calls.settle()) {
            let known = self.parts[at].rows[note].settled;
            if known == settled {
                continue;
            }
            let (revision, recorded_micros) = (self.next_revision(now_nanos), (now_nanos / 1_000) as i64);
            let part = &mut self.parts[at];
            part.rows[note].settled = settled;
            let changes = changes(&part.calls.noted[note].note, known, settled, meaning);
            let address = part.address(note);
            corrections.push(Correction { address, revision, recorded_micros, reason: Reason::Role, changes });
        }
        corrections
    }

    fn next_revision(&mut self, now_nanos: u64) -> i64 {
        let now = i64::try_from(now_nanos).unwrap_or(i64::MAX);
        self.revision = now.max(self.revision.saturating_add(1));
        self.revision
    }
}

/// The columns of a span that change with its role.
fn changes(note: &Note, known: Settled, settled: Settled, meaning: &Meaning) -> Vec<(String, Option<Value>)> {
    let mut changes = Vec::new();
    if known.role != settled.role {
        let role = settled.role.name().map(|name| Value::Text(name.to_owned()));
        changes.push(("usage_role".to_owned(), role));
    }
    if known.role.has_cost() != settled.role.has_cost() {
        let cost = match note.cost.filter(|_| settled.role.has_cost()) {
            Some((Cost::Usd(usd), priced_by)) => i64::try_from(usd).ok().map(|usd| (usd, priced_by)),
            _ => None,
        };
        let source = cost.map(|(_, priced_by)| Value::Text(meaning.pricer().source(priced_by).to_owned()));
        changes.push(("cost_usd".to_owned(), cost.map(|(usd, _)| Value::Usd(usd))));
        changes.push(("price_source".to_owned(), source));
    }
    if known.unattributed_tokens != settled.unattributed_tokens {
        changes.push(("unattributed_tokens".to_owned(), settled.unattributed_tokens.map(Value::Int)));
    }
    changes
}

/// A row of `spans`, by its ids.
fn address(trace_id: u128, span_id: u64, row: (i32, i64, u32), start_micros: i64) -> Address {
    let (date, received_micros, telling) = row;
    Address {
        date,
        trace_id: format!("{trace_id:032x}"),
        span_id: format!("{span_id:016x}"),
        received_micros,
        telling: (telling > 0).then_some(i64::from(telling)),
        start_micros,
    }
}
