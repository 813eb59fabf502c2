//! Hot batches: rows that are durable in the log, and not committed to their table yet.
//!
//! Batches of a table lie in the order of their log positions. A flush takes a prefix of them, up to a position that is
//! *sealed* before it starts: small batches are merged only beyond that position. So every batch lies either wholly
//! within a commit or wholly beyond it, and a view can tell by one comparison.
//!
//! Beyond their share of memory the batches behind that prefix are sealed too and become a file (`spill.rs`), which takes
//! their place at once: rows that no commit holds are in memory or in one such file.
//!
//! ```text
//! positions ─►  [taken by a flush] [file] [file] [being spilled] [in memory, mergeable]
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

use super::budget::Budget;
use super::merge::{MERGE_BATCHES, MergeRun, small_run};
use super::spill::SpilledPart;
use crate::Position;
use crate::invariants::goes_on;

/// A flush of one table writes at most this many days, so that far-off clocks do not make a folder each at once.
pub(super) const DATES_MAX: usize = 8;
/// Beyond this part of the limit rows are spilled: one half, so that requests find room meanwhile.
const SHARE: u64 = 2;
/// The parts of the limit that one commit of a table takes from memory at most, that one file takes, and below which a file
/// is not worth it.
const FLUSH_SHARE: u64 = 4;
const PART_SHARE: u64 = 8;
const SMALL_SHARE: u64 = 32;
/// A file takes no more bytes of rows than this either; encoded they are in memory once more when it is uploaded.
const PART_BYTES_MAX: u64 = 128 << 20;

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
    pub(super) bytes: u64,
    pub(super) dates: Vec<i32>,
}

/// The hot rows of one table up to a position, to be committed at once.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) tenant: String,
    pub(super) table: &'static str,
    /// Once this is committed, all rows of the table up to here are.
    pub(super) position: Position,
    pub(super) content: Content,
}

/// Where the rows of a part are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    InMemory(Vec<Arc<HotBatch>>),
    Spilled(Arc<SpilledPart>),
}

impl Part {
    pub(super) fn rows(&self) -> u64 {
        match &self.content {
            Content::InMemory(batches) => rows_of(batches),
            Content::Spilled(spilled) => spilled.rows,
        }
    }
}

/// Rows of one table that are to become a file: the first ones that are in memory and that no flush has taken.
#[derive(Debug)]
pub(super) struct SpillRun {
    pub(super) tenant: String,
    pub(super) table: &'static str,
    pub(super) batches: Vec<Arc<HotBatch>>,
    /// What the queue's seal was before.
    sealed_before: Position,
}

impl SpillRun {
    pub(super) fn rows(&self) -> u64 {
        rows_of(&self.batches)
    }

    /// The positions of the first and the last row.
    pub(super) fn positions(&self) -> (Position, Position) {
        (self.batches.first().map_or(0, |batch| batch.first), self.batches.last().map_or(0, |batch| batch.last))
    }
}

fn rows_of(batches: &[Arc<HotBatch>]) -> u64 {
    batches.iter().map(|hot| hot.batch.num_rows() as u64).sum()
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Arc<HotBatch>>,
    /// Files, in order. Batches before them are taken by a flush.
    spilled: VecDeque<Arc<SpilledPart>>,
    /// The position up to which a flush or a spill has taken batches.
    sealed: Position,
    /// Whether the last batches before that position are on their way into a file.
    is_spilling: bool,
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
    spilled_rows: u64,
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
    /// Set where a request found no room: some is made for it even within the share.
    is_pressed: AtomicBool,
}

/// What the flusher goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) since: Instant,
    pub(super) bytes: u64,
}

impl HotStore {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { state: Mutex::default(), budget, is_pressed: AtomicBool::new(false) }
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

    /// The batches and files of a table at one moment, in order.
    pub(super) fn rows(&self, tenant: &str, table: &str) -> (Vec<Arc<HotBatch>>, Vec<Arc<SpilledPart>>) {
        let state = self.state.lock();
        let queue = state.queues.get(tenant).and_then(|tables| tables.get(table));
        let rows = |queue: &Queue| (queue.batches.iter().cloned().collect(), queue.spilled.iter().cloned().collect());
        queue.map(rows).unwrap_or_default()
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        let state = self.state.lock();
        state.waiting_since.map(|since| Waiting { since, bytes: state.waiting_bytes })
    }

    /// What the next commit of each table takes, but of those that are busy with an earlier one.
    pub(super) fn seal(&self, busy: impl Fn(&str, &str) -> bool) -> Vec<Part> {
        let mut state = self.state.lock();
        let (last, bytes_max) = (state.last, self.budget.limit_bytes() / FLUSH_SHARE);
        let mut parts = Vec::new();
        for (tenant, queues) in &mut state.queues {
            for (table, queue) in queues.iter_mut().filter(|(table, _)| !busy(tenant, table)) {
                if let Some((position, content)) = queue.seal(last, bytes_max) {
                    parts.push(Part { tenant: tenant.clone(), table, position, content });
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
        // Files are removed, and memory is freed, once the lock is free again.
        let (mut batches, mut files) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        let state = &mut *state;
        let queue = state.queues.get_mut(&part.tenant).and_then(|tables| tables.get_mut(part.table));
        let Some(queue) = queue else { return };
        while let Some(batch) = queue.batches.pop_front_if(|batch| batch.last <= part.position) {
            state.rows -= batch.batch.num_rows() as u64;
            state.bytes -= batch.bytes;
            self.budget.give_back(batch.bytes);
            batches.push(batch);
        }
        while let Some(spilled) = queue.spilled.pop_front_if(|spilled| spilled.last <= part.position) {
            state.spilled_rows -= spilled.rows;
            files.push(spilled);
        }
    }

    /// The position up to which every row is committed.
    pub(super) fn committed_position(&self) -> Position {
        let state = self.state.lock();
        let fronts = state.queues.values().flat_map(BTreeMap::values).filter_map(Queue::first);
        fronts.map(|first| first - 1).min().unwrap_or(state.last)
    }

    pub(super) fn last_position(&self) -> Position {
        self.state.lock().last
    }

    /// Rows in memory and their bytes.
    pub(super) fn rows_and_bytes(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.rows, state.bytes)
    }

    pub(super) fn spilled_rows(&self) -> u64 {
        self.state.lock().spilled_rows
    }

    /// Whether rows should make room: more bytes are in use than the share, or a request found none.
    pub(super) fn wants_spilling(&self) -> bool {
        self.budget.used_bytes() > self.budget.limit_bytes() / SHARE || self.is_pressed.load(Ordering::Relaxed)
    }

    /// A request found no room.
    pub(super) fn press(&self) {
        self.is_pressed.store(true, Ordering::Relaxed);
    }

    /// What is to become a file now, if anything: of the table that has most in memory, as a flush takes it. Nothing of
    /// it changes until [`HotStore::spilled`] or [`HotStore::not_spilled`].
    pub(super) fn next_spill(&self) -> Option<SpillRun> {
        let (used, limit) = (self.budget.used_bytes(), self.budget.limit_bytes());
        let pressed = self.is_pressed.swap(false, Ordering::Relaxed) || used > limit - limit / SMALL_SHARE;
        if !pressed && used <= limit / SHARE {
            return None;
        }
        let least = if pressed { 1 } else { limit / SMALL_SHARE };
        let mut state = self.state.lock();
        let queues = state.queues.iter_mut().flat_map(|(tenant, tables)| {
            tables.iter_mut().map(move |(table, queue)| (tenant, *table, queue.spillable_bytes(), queue))
        });
        let (tenant, table, bytes, queue) = queues.max_by_key(|(_, _, bytes, _)| *bytes)?;
        if bytes < least.max(1) {
            return None;
        }
        let sealed_before = queue.sealed;
        let batches = queue.take_spill((limit / PART_SHARE).min(PART_BYTES_MAX))?;
        Some(SpillRun { tenant: tenant.clone(), table, batches, sealed_before })
    }

    /// Puts a file in the place of its rows.
    pub(super) fn spilled(&self, run: &SpillRun, part: SpilledPart) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let queue = state.queues.get_mut(&run.tenant).and_then(|tables| tables.get_mut(run.table));
        let queue = queue.expect("invariant: a queue that is being spilled stays");
        let start = queue.batches.partition_point(|batch| batch.first < part.first);
        for batch in queue.batches.drain(start..start + run.batches.len()) {
            state.rows -= batch.batch.num_rows() as u64;
            state.bytes -= batch.bytes;
            self.budget.give_back(batch.bytes);
        }
        state.spilled_rows += part.rows;
        queue.spilled.push_back(Arc::new(part));
        queue.is_spilling = false;
    }

    /// The rows stay in memory.
    pub(super) fn not_spilled(&self, run: &SpillRun) {
        let mut state = self.state.lock();
        if let Some(queue) = state.queues.get_mut(&run.tenant).and_then(|tables| tables.get_mut(run.table)) {
            queue.sealed = run.sealed_before;
            queue.is_spilling = false;
        }
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
        assert!(goes_on(self.last, position), "invariant: frame {position} becomes visible behind {}", self.last);
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
    /// What one commit takes from the front, and the position that it reaches.
    fn seal(&mut self, last: Position, bytes_max: u64) -> Option<(Position, Content)> {
        if let Some(spilled) = self.spilled.front() {
            return Some((spilled.last, Content::Spilled(Arc::clone(spilled))));
        }
        if self.is_spilling {
            return None;
        }
        let taken = run_length(self.batches.iter(), bytes_max);
        let front = self.batches.range(..taken).cloned().collect::<Vec<_>>();
        let end = front.last()?.last;
        let position = if taken == self.batches.len() { last } else { end };
        self.sealed = position;
        Some((position, Content::InMemory(front)))
    }

    /// Where the batches begin that neither a flush nor a spill has taken.
    fn unsealed(&self) -> usize {
        self.batches.partition_point(|batch| batch.first <= self.sealed)
    }

    fn spillable_bytes(&self) -> u64 {
        if self.is_spilling { 0 } else { self.batches.range(self.unsealed()..).map(|batch| batch.bytes).sum() }
    }

    fn take_spill(&mut self, bytes_max: u64) -> Option<Vec<Arc<HotBatch>>> {
        let start = self.unsealed();
        let length = run_length(self.batches.range(start..), bytes_max);
        let run = self.batches.range(start..start + length).cloned().collect::<Vec<_>>();
        self.sealed = run.last()?.last;
        self.is_spilling = true;
        Some(run)
    }

    /// The first position that has rows.
    fn first(&self) -> Option<Position> {
        let in_memory = self.batches.front().map(|batch| batch.first);
        let spilled = self.spilled.front().map(|spilled| spilled.first);
        in_memory.into_iter().chain(spilled).min()
    }

    fn has_unsealed(&self) -> bool {
        !self.spilled.is_empty() || self.batches.back().is_some_and(|batch| batch.last > self.sealed)
    }

    fn small_run(&self) -> Option<Vec<Arc<HotBatch>>> {
        small_run(self.batches.range(self.unsealed()..))
    }
}

/// How many batches one commit takes: whole frames, up to so many bytes and days, at least one frame.
fn run_length<'a>(batches: impl Iterator<Item = &'a Arc<HotBatch>>, bytes_max: u64) -> usize {
    let mut dates: BTreeSet<i32> = BTreeSet::new();
    let (mut length, mut bytes, mut end) = (0, 0, None);
    for batch in batches {
        // The rows of one frame may lie in several batches; they are committed together.
        let same_frame = end == Some(batch.first);
        dates.extend(&batch.dates);
        bytes += batch.bytes;
        if length > 0 && !same_frame && (dates.len() > DATES_MAX || bytes > bytes_max) {
            break;
        }
        (length, end) = (length + 1, Some(batch.last));
    }
    length
}
