//! From a signal to the end: a handle that tells everyone to stop, and the second signal that ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells tasks to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    sender: watch::Sender<bool>,
}

impl Stop {
    pub(crate) fn new() -> Self {
        Self { sender: watch::Sender::new(false) }
    }

    /// Tells all who wait, and all who will.
    pub(crate) fn request(&self) {
        self.sender.send_replace(true);
    }

    /// Whether [`Stop::request`] was called.
    pub(crate) fn is_requested(&self) -> bool {
        *self.sender.borrow()
    }

    /// Waits for [`Stop::request`].
    pub(crate) async fn requested(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|stop| *stop).await;
    }
}

/// Stops on the first SIGINT or SIGTERM. A second one ends the process at once, with the exit code that shells expect.
pub(crate) fn stop_on_signals(stop: Stop) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            let (name, code) = tokio::select! {
                _ = interrupt.recv() => ("SIGINT", 130),
                _ = terminate.recv() => ("SIGTERM", 143),
            };
            if stop.is_requested() {
                tracing::warn!("{name} again, ending at once: what is not committed stays in the write-ahead log");
                std::process::exit(code);
            }
            tracing::info!("{name}: finishing requests, flushing and committing (again to end at once)");
            stop.request();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_reaches_those_who_wait_and_those_who_come_later() {
        let stop = Stop::new();
        assert!(!stop.is_requested());
        let waiting = tokio::spawn({
            let stop = stop.clone();
            async move { stop.requested().await }
        });
        stop.request();
        waiting.await.expect("is told");
        stop.requested().await;
        assert!(stop.is_requested());
    }
}
