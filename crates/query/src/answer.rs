//! From the query's own threads to the caller: a bounded channel, and what ends an answer before its time.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use crate::stats::Watch;
use crate::{QueryError, QueryErrorKind};

/// Batches that wait for a slow reader. The query stands still when it is full.
pub(crate) const WAITING_BATCHES: usize = 2;

/// What a running query tells its reader, in this order: the schema, the batches, the end. A channel that closes
/// without an end was cut off.
#[derive(Debug)]
pub(crate) enum Message {
    Schema(SchemaRef),
    Batch(RecordBatch),
    End,
}

/// Aborts a task when dropped.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a plan to its end and sends what it yields. A panic of an operator becomes an error of its reader.
pub(crate) async fn produce(
    plan: impl Future<Output = Result<SendableRecordBatchStream, QueryError>>,
    reader: mpsc::Sender<Result<Message, QueryError>>,
) {
    let work = async {
        let mut batches = plan.await?;
        if reader.send(Ok(Message::Schema(batches.schema()))).await.is_err() {
            return Ok(());
        }
        while let Some(batch) = batches.next().await {
            if reader.send(Ok(Message::Batch(batch?))).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    let last = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(())) => Ok(Message::End),
        Ok(Err(error)) => Err(error),
        Err(panic) => Err(panicked(panic.as_ref())),
    };
    // A reader that has gone needs no last word.
    let _gone = reader.send(last).await;
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> QueryError {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    QueryError::internal(format!("the query failed by a bug: {}", words.unwrap_or("it panicked")))
}

/// The bounds of one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Longest run, waiting for a slot included.
    pub(crate) timeout: Duration,
    /// Most rows.
    pub(crate) row_limit: usize,
}

impl Bounds {
    pub(crate) fn timed_out(&self) -> QueryError {
        let seconds = self.timeout.as_secs_f64();
        let message = format!("the query ran longer than {seconds} s; narrow it or raise query_timeout");
        QueryError::new(QueryErrorKind::Timeout, message)
    }

    fn too_many_rows(&self) -> QueryError {
        let limit = self.row_limit;
        QueryError::exhausted(format!("the answer has more than {limit} rows; add LIMIT or raise query_row_limit"))
    }
}

/// The engine went away, or the runtime did, before the answer was complete.
pub(crate) fn cut_off() -> QueryError {
    QueryError::new(QueryErrorKind::Unavailable, "the query engine is shutting down")
}

/// A running query, seen from its reader. Dropping it ends the query.
pub(crate) struct Answer {
    schema: SchemaRef,
    messages: mpsc::Receiver<Result<Message, QueryError>>,
    deadline: Pin<Box<Sleep>>,
    bounds: Bounds,
    rows: usize,
    ended: bool,
    watch: Watch,
    _task: AbortOnDrop,
}

impl Answer {
    pub(crate) fn new(
        schema: SchemaRef,
        messages: mpsc::Receiver<Result<Message, QueryError>>,
        deadline: Sleep,
        bounds: Bounds,
        watch: Watch,
        task: AbortOnDrop,
    ) -> Self {
        Self { schema, messages, deadline: Box::pin(deadline), bounds, rows: 0, ended: false, watch, _task: task }
    }

    fn fail(&mut self, error: QueryError) -> Poll<Option<DataFusionResult<RecordBatch>>> {
        self.ended = true;
        self.watch.failed(&error);
        // The query need not wait until its reader drops this stream.
        self.messages.close();
        self._task.0.abort();
        Poll::Ready(Some(Err(error.into())))
    }
}

impl Stream for Answer {
    type Item = DataFusionResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            let error = self.bounds.timed_out();
            return self.fail(error);
        }
        match std::task::ready!(self.messages.poll_recv(context)) {
            Some(Ok(Message::Batch(batch))) => {
                self.rows += batch.num_rows();
                if self.rows > self.bounds.row_limit {
                    let error = self.bounds.too_many_rows();
                    return self.fail(error);
                }
                Poll::Ready(Some(Ok(batch)))
            }
            Some(Ok(Message::End)) => {
                self.ended = true;
                self.watch.succeeded();
                Poll::Ready(None)
            }
            Some(Ok(Message::Schema(_))) => self.fail(QueryError::internal("a second schema in one answer")),
            Some(Err(error)) => self.fail(error),
            None => self.fail(cut_off()),
        }
    }
}

impl RecordBatchStream for Answer {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}
