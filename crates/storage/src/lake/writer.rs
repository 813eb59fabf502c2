//! The log writer: one thread that owns the log's files, syncs requests by group and makes their rows visible.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::Shared;
use super::budget::Reservation;
use super::hot::Rows;
use super::retries::Claim;
use crate::invariants::may_go;
use crate::wal::{Log, frame_bytes};
use crate::{Error, ErrorKind, Frame, Position, Result};

/// A group is closed at this many bytes or frames.
const GROUP_BYTES: u64 = 16 << 20;
const GROUP_FRAMES: usize = 1024;
/// After this time without work the log's end is marked.
const REST: Duration = Duration::from_secs(1);

/// A request on its way into the log.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) frame: Frame,
    pub(super) payload: Bytes,
    pub(super) rows: Vec<Rows>,
    /// Its bytes in the log and among the hot batches.
    pub(super) reserved: [Reservation; 2],
    /// Its payload's bytes in memory, until they are written.
    pub(super) in_flight: Reservation,
    /// By which repeats of it know what becomes of it.
    pub(super) claim: Option<Claim>,
    pub(super) answer: oneshot::Sender<Result<Position>>,
}

/// Tables of a tenant to be noted in the log's identity.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) tables: Vec<(String, String)>,
    pub(super) answer: oneshot::Sender<Result<()>>,
}

#[derive(Debug, Default)]
struct Waiting {
    pending: VecDeque<Pending>,
    binds: Vec<Bind>,
    /// Positions up to here are committed.
    release: Option<Position>,
    closed: bool,
}

/// What waits for the log writer. Its requests are bounded by the reservations they hold.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

enum Work {
    Append(Vec<Pending>),
    Bind(Vec<Bind>),
    Release(Position),
    /// Nothing came for a while.
    Rest,
}

impl Queue {
    pub(super) fn append(&self, pending: Pending) -> Result<()> {
        self.put(|waiting| waiting.pending.push_back(pending))
    }

    pub(super) fn bind(&self, bind: Bind) -> Result<()> {
        self.put(|waiting| waiting.binds.push(bind))
    }

    /// Gives up frames up to a position. Of no use, and no harm, once the queue is closed.
    pub(super) fn release(&self, position: Position) {
        let _ = self.put(|waiting| waiting.release = Some(position));
    }

    fn put(&self, put: impl FnOnce(&mut Waiting)) -> Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(closed());
        }
        put(&mut waiting);
        self.ready.notify_one();
        Ok(())
    }

    /// Takes no more; what waits is still done.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.ready.notify_one();
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.waiting.lock().closed { Err(closed()) } else { Ok(()) }
    }

    /// Waits for work; `None` where the queue is closed and empty. Where it is asked for, a while without any is told.
    fn take(&self, tell_rest: bool) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(position) = waiting.release.take() {
                return Some(Work::Release(position));
            }
            if !waiting.binds.is_empty() {
                return Some(Work::Bind(std::mem::take(&mut waiting.binds)));
            }
            if !waiting.pending.is_empty() {
                return Some(Work::Append(waiting.take_group()));
            }
            if waiting.closed {
                return None;
            }
            if !tell_rest {
                self.ready.wait(&mut waiting);
            } else if self.ready.wait_for(&mut waiting, REST).timed_out() {
                return Some(Work::Rest);
            }
        }
    }
}

impl Waiting {
    fn take_group(&mut self) -> Vec<Pending> {
        let mut bytes = 0;
        let fits = |pending: &Pending| {
            bytes += frame_bytes(&pending.frame, pending.payload.len());
            bytes <= GROUP_BYTES
        };
        let count = self.pending.iter().take(GROUP_FRAMES).map(fits).take_while(|fits| *fits).count();
        self.pending.drain(..count.max(1)).collect()
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the lake is shutting down")
}

/// Works until the queue is closed, then hands back the log.
pub(super) fn run(mut log: Log, shared: &Arc<Shared>) -> Log {
    let mut was_busy = false;
    while let Some(work) = shared.queue.take(was_busy) {
        match work {
            Work::Append(group) => {
                append(&mut log, shared, group);
                was_busy = true;
            }
            Work::Rest => {
                log.mark();
                was_busy = false;
            }
            Work::Bind(binds) => {
                for bind in binds {
                    // Whoever asked may have gone.
                    let _ = bind.answer.send(log.bind(&bind.tables));
                }
            }
            Work::Release(position) => release(&mut log, shared, position),
        }
    }
    log
}

/// Durable, then visible, then answered.
fn append(log: &mut Log, shared: &Shared, group: Vec<Pending>) {
    let frames: Vec<_> = group.iter().map(|pending| (&pending.frame, &pending.payload)).collect();
    let appended = log.append(&frames);
    shared.counters.update(|stats| {
        stats.wal_frames_total += appended.durable as u64;
        stats.wal_syncs_total += appended.syncs;
        stats.wal_sync_seconds_total += appended.sync_time.as_secs_f64();
    });
    let mut answers = Vec::with_capacity(appended.durable);
    let mut visible = Vec::with_capacity(appended.durable);
    let mut group = group.into_iter();
    for (position, pending) in (appended.first..).zip(group.by_ref().take(appended.durable)) {
        pending.reserved.into_iter().for_each(Reservation::keep);
        drop(pending.in_flight);
        let claim = pending.claim.map(|claim| (claim, pending.frame.received_unix_nano));
        answers.push((position, claim, pending.answer));
        visible.push((pending.frame.tenant, pending.rows));
    }
    if !visible.is_empty() {
        shared
            .hot
            .push(appended.first, visible.iter_mut().map(|(tenant, rows)| (tenant.as_str(), std::mem::take(rows))));
        shared.wake_after_push();
    }
    // Who is gone by now does not need the answer.
    for (position, claim, answer) in answers {
        if let Some((claim, received_unix_nano)) = claim {
            claim.stored(position, received_unix_nano);
        }
        let _ = answer.send(Ok(position));
    }
    if let Some(error) = appended.error {
        tracing::error!(%error, "write-ahead log refused requests");
        for pending in group {
            let _ = pending.answer.send(Err(Error::new(error.kind(), error.to_string())));
        }
    }
}

pub(super) fn release(log: &mut Log, shared: &Shared, position: Position) {
    let committed = shared.hot.committed_position();
    assert!(may_go(position, committed), "invariant: frame {position} is given up where {committed} is committed");
    // What the log tells of its requests has to outlive their frames.
    if let (Some(retries), Some(end)) = (&shared.retries, log.freed_by(position))
        && let Err(error) = retries.save(end)
    {
        // The next release tries again, and once the requests are too old there is nothing to save.
        tracing::warn!(%error, position, "the write-ahead log keeps frames whose requests cannot be remembered otherwise");
        return;
    }
    let before = log.bytes();
    if let Err(error) = log.release(position) {
        // The next release tries again.
        tracing::warn!(%error, position, "cannot free space of the write-ahead log");
    }
    shared.log_budget.give_back(before - log.bytes());
}
