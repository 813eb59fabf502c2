//! What a lake counts.

use parking_lot::Mutex;

use crate::{Position, PromotionStats};

/// Counters and gauges of a lake.
#[derive(Clone, Debug, Default)]
pub struct LakeStats {
    /// Rows waiting in memory for their flush.
    pub hot_rows: u64,
    /// Their bytes.
    pub hot_bytes: u64,
    /// Rows waiting in spill files for their flush, because memory had no room for them.
    pub spilled_rows: u64,
    /// Bytes of spill files.
    pub spilled_bytes: u64,
    /// Times that rows went to spill files.
    pub spills_total: u64,
    /// Times that they could not, and stayed in memory.
    pub spill_failures_total: u64,
    /// Bytes of log not yet freed.
    pub wal_bytes: u64,
    /// Frames appended and synced.
    pub wal_frames_total: u64,
    /// Syncs of the log.
    pub wal_syncs_total: u64,
    /// Time spent in syncs.
    pub wal_sync_seconds_total: f64,
    /// Positions of the log that could not be read any more, over all of its life.
    pub wal_lost_positions_total: u64,
    /// The last durable position.
    pub position: Position,
    /// The position that every table has committed.
    pub committed_position: Position,
    /// Flushes that ended well.
    pub flushes_total: u64,
    /// Flushes that failed and are tried again.
    pub flush_failures_total: u64,
    /// Time spent encoding and writing segments.
    pub flush_seconds_total: f64,
    /// Time spent in commits.
    pub commit_seconds_total: f64,
    /// Rows committed.
    pub committed_rows_total: u64,
    /// Bytes of segments committed.
    pub committed_bytes_total: u64,
    /// The last flush error, while it lasts.
    pub last_flush_error: Option<String>,
    /// Requests that would be known if they came again.
    pub retry_requests: u64,
    /// Memory they take, at worst.
    pub retry_bytes: u64,
    /// Requests that were known and of which nothing was stored.
    pub retry_repeats_total: u64,
    /// Requests forgotten before their time, for want of memory.
    pub retry_forgotten_total: u64,
    /// What did not become a value of a promoted column.
    pub promotion: PromotionStats,
}

#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<LakeStats>);

impl Counters {
    pub(super) fn update(&self, update: impl FnOnce(&mut LakeStats)) {
        update(&mut self.0.lock());
    }

    pub(super) fn read(&self) -> LakeStats {
        self.0.lock().clone()
    }
}
