use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{QueryError, QueryErrorKind};

/// Upper bounds in seconds of the buckets of durations; one without a bound follows.
const BOUNDS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Counters of queries.
#[derive(Clone, Debug, Default)]
pub struct QueryStats {
    /// Queries that ended well.
    pub succeeded_total: u64,
    /// Queries that failed.
    pub failed_total: u64,
    /// Queries refused as forbidden.
    pub forbidden_total: u64,
    /// Queries cancelled because the client went away.
    pub cancelled_total: u64,
    /// Queries running now.
    pub running: u64,
    /// Bytes of memory in use now.
    pub memory_bytes: u64,
    /// Upper bounds in seconds and counts of durations, not cumulative; the last bound is infinite.
    pub duration_seconds_buckets: Vec<(f64, u64)>,
    /// Sum of durations.
    pub duration_seconds_sum: f64,
}

#[derive(Debug, Default)]
struct Counts {
    succeeded: u64,
    failed: u64,
    forbidden: u64,
    cancelled: u64,
    running: u64,
    buckets: [u64; BOUNDS.len() + 1],
    seconds: f64,
}

/// What all queries of an engine have counted so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(Arc<Mutex<Counts>>);

impl Counters {
    /// Begins to watch one query. It counts as cancelled unless it is told how it ended before it is dropped.
    pub(crate) fn watch(&self) -> Watch {
        self.0.lock().running += 1;
        Watch { counters: self.clone(), start: Instant::now(), ended: false }
    }

    pub(crate) fn read(&self, memory_bytes: usize) -> QueryStats {
        let counts = self.0.lock();
        QueryStats {
            succeeded_total: counts.succeeded,
            failed_total: counts.failed,
            forbidden_total: counts.forbidden,
            cancelled_total: counts.cancelled,
            running: counts.running,
            memory_bytes: u64::try_from(memory_bytes).unwrap_or(u64::MAX),
            duration_seconds_buckets: BOUNDS.into_iter().chain([f64::INFINITY]).zip(counts.buckets).collect(),
            duration_seconds_sum: counts.seconds,
        }
    }
}

/// One running query.
#[derive(Debug)]
pub(crate) struct Watch {
    counters: Counters,
    start: Instant,
    ended: bool,
}

impl Watch {
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn succeeded(&mut self) {
        self.end(|counts| counts.succeeded += 1);
    }

    pub(crate) fn failed(&mut self, error: &QueryError) {
        self.end(|counts| match error.kind {
            QueryErrorKind::Forbidden => counts.forbidden += 1,
            _ => counts.failed += 1,
        });
    }

    fn end(&mut self, count: impl FnOnce(&mut Counts)) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let seconds = self.elapsed().as_secs_f64();
        let mut counts = self.counters.0.lock();
        count(&mut counts);
        counts.running -= 1;
        counts.seconds += seconds;
        counts.buckets[BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len())] += 1;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end(|counts| counts.cancelled += 1);
    }
}
