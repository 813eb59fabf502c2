//! Hot batches: rows that are durable in the log, and not committed to their table yet.
//!
//! Batches of a table lie in the order of their log positions. A flush takes a prefix of them, up to a position that is
//! *sealed* before it starts: small batches are merged only beyond that position. So every batch lies either wholly
//! within a commit or wholly beyond it, and a view can tell by one comparison.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayData};
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

use super::budget::Budget;
use crate::{Error, ErrorKind, Position, Result};

/// A flush of one table writes at most this many days, so that far-off clocks do not make a folder each at once.
pub(super) const DATES_MAX: usize = 8;
/// This many adjacent small batches are merged into one.
const MERGE_BATCHES: usize = 32;
/// What counts as small, by turns: a row is copied at most once for each of these. The 512 spans that SDKs send at once
/// are not small: copying them again would cost as much as reading them did.
const MERGE_TIERS_ROWS: [usize; 2] = [32, 256];
/// A merged batch is closed at this many rows or bytes.
const MERGED_ROWS: usize = 8192;
const MERGED_BYTES: u64 = 16 << 20;
/// What an array costs beside its buffers.
const ARRAY_OVERHEAD_BYTES: u64 = 128;

/// Rows for one table, checked and measured.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) table: &'static str,
    pub(super) batch: RecordBatch,
    pub(super) bytes: u64,
    /// Distinct, ascending.
    pub(super) dates: Vec<i32>,
}

/// Rows of the frames `first ..= last`.
#[derive(Debug)]
pub(super) struct HotBatch {
    pub(super) first: Position,
    pub(super) last: Position,
    pub(super) batch: RecordBatch,
    bytes: u64,
    dates: Vec<i32>,
}

/// The hot rows of one table up to a position, to be committed at once.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) tenant: String,
    pub(super) table: &'static str,
    /// Once this is committed, all rows of the table up to here are.
    pub(super) position: Position,
    pub(super) batches: Vec<Arc<HotBatch>>,
}

impl Part {
    pub(super) fn rows(&self) -> u64 {
        self.batches.iter().map(|hot| hot.batch.num_rows() as u64).sum()
    }
}

/// Small neighbours, to be made one batch.
#[derive(Debug)]
pub(super) struct MergeRun {
    tenant: String,
    table: &'static str,
    batches: Vec<Arc<HotBatch>>,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Arc<HotBatch>>,
    /// The position up to which a flush has taken batches.
    sealed: Position,
    /// Batches pushed since the queue was last looked at for merging.
    unexamined: usize,
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<String, BTreeMap<&'static str, Queue>>,
    /// The last position that is durable and visible, whether or not it brought rows.
    last: Position,
    rows: u64,
    bytes: u64,
    /// Since when there are frames that no flush has taken, and the bytes of their rows.
    waiting_since: Option<Instant>,
    waiting_bytes: u64,
}

/// All hot batches.
#[derive(Debug)]
pub(super) struct HotStore {
    state: Mutex<State>,
    /// Bytes of hot batches and of those on the way through the log.
    pub(super) budget: Arc<Budget>,
}

/// What the flusher goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) since: Instant,
    pub(super) bytes: u64,
}

impl HotStore {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { state: Mutex::default(), budget }
    }

    /// Makes the rows of consecutive frames visible, the first of which has this position. Their bytes are in the budget
    /// already.
    pub(super) fn push<'a>(&self, first: Position, frames: impl Iterator<Item = (&'a str, Vec<Rows>)>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        for (position, (tenant, tables)) in (first..).zip(frames) {
            state.push(position, tenant, tables);
        }
        state.waiting_since.get_or_insert(now);
    }

    /// Says that the log ends here: there are no rows of later positions yet.
    pub(super) fn advance(&self, last: Position) {
        let mut state = self.state.lock();
        state.last = state.last.max(last);
    }

    /// The batches of a table, in order.
    pub(super) fn batches(&self, tenant: &str, table: &str) -> Vec<Arc<HotBatch>> {
        let state = self.state.lock();
        let queue = state.queues.get(tenant).and_then(|tables| tables.get(table));
        queue.map(|queue| queue.batches.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        let state = self.state.lock();
        state.waiting_since.map(|since| Waiting { since, bytes: state.waiting_bytes })
    }

    /// What the next commit of each table takes, but of those that are busy with an earlier one.
    pub(super) fn seal(&self, busy: impl Fn(&str, &str) -> bool) -> Vec<Part> {
        let mut state = self.state.lock();
        let last = state.last;
        let mut parts = Vec::new();
        for (tenant, queues) in &mut state.queues {
            for (table, queue) in queues.iter_mut().filter(|(table, _)| !busy(tenant, table)) {
                if let Some((position, batches)) = queue.seal(last) {
                    parts.push(Part { tenant: tenant.clone(), table, position, batches });
                }
            }
        }
        let left = state.queues.values().flat_map(BTreeMap::values).any(Queue::has_unsealed);
        state.waiting_since = left.then(Instant::now);
        state.waiting_bytes = 0;
        parts
    }

    /// Drops what a commit holds now.
    pub(super) fn committed(&self, part: &Part) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let queue = state.queues.get_mut(&part.tenant).and_then(|tables| tables.get_mut(part.table));
        let Some(queue) = queue else { return };
        while let Some(batch) = queue.batches.pop_front_if(|batch| batch.last <= part.position) {
            state.rows -= batch.batch.num_rows() as u64;
            state.bytes -= batch.bytes;
            self.budget.give_back(batch.bytes);
        }
    }

    /// The position up to which every row is committed.
    pub(super) fn committed_position(&self) -> Position {
        let state = self.state.lock();
        let fronts = state.queues.values().flat_map(BTreeMap::values).filter_map(|queue| queue.batches.front());
        fronts.map(|batch| batch.first - 1).min().unwrap_or(state.last)
    }

    pub(super) fn last_position(&self) -> Position {
        self.state.lock().last
    }

    pub(super) fn rows_and_bytes(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.rows, state.bytes)
    }

    /// Whether enough batches came in to look for small ones.
    pub(super) fn wants_merging(&self) -> bool {
        let state = self.state.lock();
        state.queues.values().flat_map(BTreeMap::values).any(|queue| queue.unexamined >= MERGE_BATCHES)
    }

    /// Small neighbours of some table.
    pub(super) fn next_merge(&self) -> Option<MergeRun> {
        let mut state = self.state.lock();
        for (tenant, queues) in &mut state.queues {
            for (table, queue) in queues {
                if queue.unexamined < MERGE_BATCHES {
                    continue;
                }
                match queue.small_run() {
                    Some(batches) => return Some(MergeRun { tenant: tenant.clone(), table, batches }),
                    None => queue.unexamined = 0,
                }
            }
        }
        None
    }

    /// Puts a merged batch in the place of its parts, unless a flush has taken those meanwhile.
    pub(super) fn replace(&self, run: &MergeRun, merged: HotBatch) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let queue = state.queues.get_mut(&run.tenant).and_then(|tables| tables.get_mut(run.table));
        let Some(queue) = queue.filter(|queue| queue.sealed < merged.first) else { return };
        let start = queue.batches.partition_point(|batch| batch.first < merged.first);
        let end = start + run.batches.len();
        let unchanged = queue.batches.len() >= end
            && queue.batches.range(start..end).zip(&run.batches).all(|(here, there)| Arc::ptr_eq(here, there));
        if !unchanged {
            return;
        }
        let before: u64 = run.batches.iter().map(|batch| batch.bytes).sum();
        state.bytes = state.bytes - before + merged.bytes;
        self.budget.take(merged.bytes);
        self.budget.give_back(before);
        queue.batches.drain(start + 1..end);
        queue.batches[start] = Arc::new(merged);
    }
}

impl State {
    fn push(&mut self, position: Position, tenant: &str, tables: Vec<Rows>) {
        self.last = position;
        for rows in tables {
            self.rows += rows.batch.num_rows() as u64;
            self.bytes += rows.bytes;
            self.waiting_bytes += rows.bytes;
            if !self.queues.contains_key(tenant) {
                self.queues.insert(tenant.to_owned(), BTreeMap::new());
            }
            let Some(queues) = self.queues.get_mut(tenant) else { continue };
            let queue = queues.entry(rows.table).or_default();
            queue.unexamined += 1;
            let Rows { batch, bytes, dates, .. } = rows;
            queue.batches.push_back(Arc::new(HotBatch { first: position, last: position, batch, bytes, dates }));
        }
    }
}

impl Queue {
    /// The batches at the front that one commit takes, and the position that it reaches.
    fn seal(&mut self, last: Position) -> Option<(Position, Vec<Arc<HotBatch>>)> {
        let mut dates: BTreeSet<i32> = BTreeSet::new();
        let mut taken = 0;
        for (index, batch) in self.batches.iter().enumerate() {
            // The rows of one frame may lie in several batches; they are committed together.
            let same_frame = index > 0 && self.batches[index - 1].last == batch.first;
            dates.extend(&batch.dates);
            if dates.len() > DATES_MAX && index > 0 && !same_frame {
                break;
            }
            taken = index + 1;
        }
        let front = self.batches.range(..taken).cloned().collect::<Vec<_>>();
        let end = front.last()?.last;
        let position = if taken == self.batches.len() { last } else { end };
        self.sealed = position;
        Some((position, front))
    }

    fn has_unsealed(&self) -> bool {
        self.batches.back().is_some_and(|batch| batch.last > self.sealed)
    }

    fn small_run(&self) -> Option<Vec<Arc<HotBatch>>> {
        MERGE_TIERS_ROWS.iter().find_map(|tier_rows| {
            let mut run = Run::default();
            for batch in self.batches.iter().filter(|batch| batch.first > self.sealed) {
                if !run.takes(batch, *tier_rows) {
                    if run.batches.len() >= MERGE_BATCHES {
                        break;
                    }
                    run = Run::default();
                    if !run.takes(batch, *tier_rows) {
                        continue;
                    }
                }
                run.add(batch);
            }
            (run.batches.len() >= MERGE_BATCHES).then_some(run.batches)
        })
    }
}

#[derive(Default)]
struct Run {
    batches: Vec<Arc<HotBatch>>,
    dates: BTreeSet<i32>,
    rows: usize,
    bytes: u64,
}

impl Run {
    fn takes(&self, batch: &HotBatch, tier_rows: usize) -> bool {
        let new_dates = batch.dates.iter().filter(|date| !self.dates.contains(date)).count();
        batch.batch.num_rows() < tier_rows
            && self.rows + batch.batch.num_rows() <= MERGED_ROWS
            && self.bytes + batch.bytes <= MERGED_BYTES
            && self.dates.len() + new_dates <= DATES_MAX
    }

    fn add(&mut self, batch: &Arc<HotBatch>) {
        self.rows += batch.batch.num_rows();
        self.bytes += batch.bytes;
        self.dates.extend(&batch.dates);
        self.batches.push(Arc::clone(batch));
    }
}

impl MergeRun {
    /// CPU work: copies the rows of the run into one batch.
    pub(super) fn merge(&self) -> Result<HotBatch> {
        let [front, .., back] = self.batches.as_slice() else {
            return Err(Error::new(ErrorKind::Invalid, "a merge of hot batches needs several"));
        };
        let batch = concat_batches(front.batch.schema_ref(), self.batches.iter().map(|hot| &hot.batch));
        let batch = batch.map_err(|error| {
            let message = format!("cannot merge hot batches of table {}/{}", self.tenant, self.table);
            Error::new(ErrorKind::Invalid, message).with_source(error)
        })?;
        let dates: BTreeSet<i32> = self.batches.iter().flat_map(|hot| hot.dates.iter().copied()).collect();
        let bytes = Meter::default().batch_bytes(&batch);
        Ok(HotBatch { first: front.first, last: back.last, batch, bytes, dates: dates.into_iter().collect() })
    }
}

/// Measures the memory that batches hold: whole allocations, each once, however many arrays share it.
#[derive(Debug, Default)]
pub(super) struct Meter {
    seen: HashSet<usize>,
}

impl Meter {
    /// The bytes that this batch holds beyond those measured before.
    pub(super) fn batch_bytes(&mut self, batch: &RecordBatch) -> u64 {
        batch.columns().iter().map(|column| self.array_bytes(&column.to_data())).sum()
    }

    fn array_bytes(&mut self, array: &ArrayData) -> u64 {
        let nulls = array.nulls().map(|nulls| nulls.buffer());
        let buffers: u64 = array
            .buffers()
            .iter()
            .chain(nulls)
            .filter(|buffer| self.seen.insert(buffer.data_ptr().as_ptr() as usize))
            // A buffer over memory that Arrow did not allocate knows no capacity.
            .map(|buffer| buffer.capacity().max(buffer.len()) as u64)
            .sum();
        let children: u64 = array.child_data().iter().map(|child| self.array_bytes(child)).sum();
        ARRAY_OVERHEAD_BYTES + buffers + children
    }
}
