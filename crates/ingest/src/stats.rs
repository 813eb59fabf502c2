//! What ingest counts.

use crate::signal::Signal;

/// Counters and gauges of ingest.
#[derive(Clone, Debug, Default)]
pub struct IngestStats {
    /// Bytes of bodies as they came.
    pub received_bytes_total: u64,
    /// Bytes after decompression.
    pub decompressed_bytes_total: u64,
    /// What came of each signal, in the order of [`Signal::ALL`].
    pub signals: [SignalStats; Signal::ALL.len()],
    /// Requests that were stored before, when their sender had got no answer; nothing of them is stored again.
    pub duplicate_requests_total: u64,
    /// Requests refused as malformed.
    pub malformed_requests_total: u64,
    /// Requests refused as too large.
    pub too_large_requests_total: u64,
    /// Requests pushed back.
    pub overloaded_requests_total: u64,
    /// Requests refused because the log or disk failed.
    pub unavailable_requests_total: u64,
    /// Bytes of requests in flight now.
    pub in_flight_bytes: u64,
    /// Strings whose invalid UTF-8 was repaired.
    pub repaired_strings_total: u64,
    /// Attributes a rule could not read because of their type.
    pub type_conflicts_total: u64,
    /// LLM calls without a known price.
    pub unpriced_calls_total: u64,
    /// Time spent decompressing and walking.
    pub walk_seconds_total: f64,
    /// Requests that stored nothing and are not in the ledger either, for want of memory or log.
    pub unlogged_requests_total: u64,
    /// Bytes of memory for what recent requests told of calls.
    pub trace_memory_bytes: u64,
    /// Traces that were left unsettled for want of that memory.
    pub unsettled_traces_total: u64,
    /// Each rule of the attribute policy and how many values it changed or dropped.
    pub policy_values_total: Vec<(String, u64)>,
}

/// Counters of one signal. Items are spans, metric points or log records; received = refused + stored + duplicate, but for
/// those of requests that are under way or were refused whole after they were decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalStats {
    /// Requests that came.
    pub requests_total: u64,
    /// Items decoded.
    pub received_total: u64,
    /// Items refused by partial success.
    pub refused_total: u64,
    /// Items stored.
    pub stored_total: u64,
    /// Items of requests that were stored before; nothing of them is stored again.
    pub duplicate_total: u64,
}

impl IngestStats {
    /// What came of one signal.
    pub fn signal(&self, signal: Signal) -> SignalStats {
        self.signals[signal.index()]
    }
}
