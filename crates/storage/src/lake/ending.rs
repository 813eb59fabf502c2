//! The end of a lake.

use std::sync::Arc;
use std::time::Duration;

use super::writer::{self, closed};
use super::{Lake, Running};
use crate::{Error, ErrorKind, Result};

impl Lake {
    /// Stops taking appends, flushes, commits, and closes the log, however long the store takes. Returns an error where
    /// something could not be committed; the log then still holds it.
    ///
    /// # Errors
    /// As of the store and the log.
    pub async fn shutdown(&self) -> Result<()> {
        self.shutdown_within(Duration::MAX).await
    }

    /// As [`Lake::shutdown`], but gives up flushing and committing after a time.
    ///
    /// # Errors
    /// As [`Lake::shutdown`]; [`ErrorKind::Retry`] names what the log keeps for the next start.
    pub async fn shutdown_within(&self, limit: Duration) -> Result<()> {
        self.shared.queue.close();
        let Some(Running { log_writer, mut tasks }) = self.running.lock().take() else { return Ok(()) };
        // All that was accepted is logged and visible once the log writer has ended, and only then flushed.
        let ended = tokio::task::spawn_blocking(move || log_writer.join()).await;
        let flushed = match tokio::time::timeout(limit, self.flush()).await {
            Ok(flushed) => flushed,
            Err(_) => Err(Error::new(ErrorKind::Retry, format!("the store did not answer within {limit:.1?}"))),
        };
        let flushed = flushed.map_err(|error| self.left_behind(error));
        tasks.shutdown().await;
        self.shared.progress.send_modify(|progress| progress.ended = true);
        let Ok(Ok(mut log)) = ended else {
            return Err(Error::new(ErrorKind::Closed, "the log writer ended by a panic, its log was left as it is"));
        };
        let shared = Arc::clone(&self.shared);
        let closing = tokio::task::spawn_blocking(move || {
            writer::release(&mut log, &shared, shared.hot.committed_position());
            log.close()
        });
        closing.await.map_err(|_| closed())??;
        flushed.map(|_| ())
    }

    /// What the log keeps for the next start, because of an error.
    fn left_behind(&self, error: Error) -> Error {
        let stats = self.stats();
        let message = format!(
            "{} rows of the requests at log positions {} to {} are not committed and stay in the write-ahead log",
            stats.hot_rows + stats.spilled_rows,
            stats.committed_position + 1,
            stats.position
        );
        Error::new(error.kind(), message).with_source(error)
    }
}

impl Drop for Lake {
    fn drop(&mut self) {
        self.shared.queue.close();
        self.shared.progress.send_modify(|progress| progress.ended = true);
        if let Some(Running { log_writer, tasks }) = self.running.lock().take() {
            drop(tasks);
            // Afterwards the log's lock is free again.
            if log_writer.join().is_err() {
                tracing::error!("the log writer ended by a panic");
            }
        }
    }
}
