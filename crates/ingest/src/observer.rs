//! Who else is told of calls as they become durable.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use spanlake_schema::spans;

/// Is told of each request whose spans tell of calls, once it is durable: neither of repeats nor of what is replayed.
pub trait CallObserver: Debug + Send + Sync {
    /// The request's rows of `spans`, as they were first ingested: what other requests correct in them is not told.
    fn calls_stored(&self, rows: &[RecordBatch]);
}

/// Rows up to this many are observed where they are; that takes some hundred microseconds at most. More leave the I/O runtime.
const INLINE_ROWS_MAX: usize = 2_048;

/// An observer and the rows it is to be told of.
pub(crate) struct Observation {
    observer: Arc<dyn CallObserver>,
    rows: Vec<RecordBatch>,
}

impl Observation {
    /// Keeps hold of the rows of `spans`, whose buffers are shared and not copied.
    pub(crate) fn new(observer: &Arc<dyn CallObserver>, batches: &[(&'static str, RecordBatch)]) -> Self {
        let spans = batches.iter().filter(|(table, _)| *table == spans::SPEC.name);
        Self { observer: Arc::clone(observer), rows: spans.map(|(_, rows)| rows.clone()).collect() }
    }

    /// Tells.
    pub(crate) async fn tell(self) {
        let Self { observer, rows } = self;
        if rows.iter().map(RecordBatch::num_rows).sum::<usize>() <= INLINE_ROWS_MAX {
            observer.calls_stored(&rows);
        } else if let Err(error) = tokio::task::spawn_blocking(move || observer.calls_stored(&rows)).await {
            tracing::error!(%error, "the calls of a stored request are missing in what observes them");
        }
    }
}
