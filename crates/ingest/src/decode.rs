//! Logged requests back into rows.

use std::sync::{Arc, LazyLock};

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use spanlake_schema::{corrections, ledger, spans};
use spanlake_storage::{Decode, Error, ErrorKind, Frame, Result};

use crate::ledger::{KIND_LEDGER, Rows};
use crate::meaning::Meaning;
use crate::price::Pricer;
use crate::room::Room;
use crate::rules::Rules;
use crate::settling::{self, KIND_CORRECTIONS};
use crate::signal::Signal;
use crate::walk::Walker;

/// Replay asks no memory of contents, so that the tenant does not matter.
const REPLAY: &str = "";

/// Replays logged requests.
#[derive(Clone, Debug)]
pub struct Decoder {
    walker: Walker,
}

impl Default for Decoder {
    fn default() -> Self {
        // The same for all: reading the rules takes a while.
        static BUILT_IN: LazyLock<Arc<Meaning>> =
            LazyLock::new(|| Arc::new(Meaning::new(Rules::built_in(), Arc::new(Pricer::new()))));
        Self { walker: Walker::new(Arc::clone(&BUILT_IN)) }
    }
}

/// A file's path, for messages, and its text.
pub type FileText<'t> = (&'t str, &'t str);

impl Decoder {
    /// Reads by a rules file and a price catalogue of the user's own, before the built-in ones.
    ///
    /// # Errors
    /// What is wrong in which line of which file.
    pub fn with_files(
        dialects: Option<FileText<'_>>,
        prices: Option<FileText<'_>>,
    ) -> std::result::Result<Self, String> {
        let pricer = prices.map_or_else(|| Ok(Pricer::new()), |(path, text)| Pricer::with_own(path, text))?;
        let meaning = Meaning::new(Rules::with_file(dialects)?, Arc::new(pricer));
        Ok(Self { walker: Walker::new(Arc::new(meaning)) })
    }

    /// Stores spans and reads nothing of what they mean: every attribute stays in the map, no column of a model is filled, no
    /// message found. What reading costs is measured against it.
    #[must_use]
    pub fn unread(self) -> Self {
        Self { walker: self.walker.unread() }
    }

    pub(crate) fn walker(&self) -> &Walker {
        &self.walker
    }

    pub(crate) fn into_walker(self) -> Walker {
        self.walker
    }

    /// The rows for each table of a request that arrived at a time: what [`crate::Ingest`] stores, without storing it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the bytes are no request of the signal.
    pub fn rows(
        &self,
        signal: Signal,
        payload: &[u8],
        received_unix_nano: u64,
    ) -> Result<Vec<(&'static str, RecordBatch)>> {
        self.rows_within(signal, payload, received_unix_nano, Room::unlimited())
    }

    /// As [`Decoder::rows`], for a request that came in under this message limit: what [`crate::Ingest`] would refuse as
    /// too large is refused.
    ///
    /// # Errors
    /// As [`Decoder::rows`].
    pub fn rows_limited(
        &self,
        signal: Signal,
        payload: &[u8],
        received_unix_nano: u64,
        message_limit_bytes: usize,
    ) -> Result<Vec<(&'static str, RecordBatch)>> {
        self.rows_within(signal, payload, received_unix_nano, Room::of_message_limit(message_limit_bytes))
    }

    /// The rows of `spans` of a traces request that arrived at a time.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the bytes are no `ExportTraceServiceRequest`.
    pub fn decode_traces(&self, payload: &[u8], received_unix_nano: u64) -> Result<Vec<RecordBatch>> {
        let rows = self.rows(Signal::Traces, payload, received_unix_nano)?;
        Ok(rows.into_iter().filter(|(table, _)| *table == spans::SPEC.name).map(|(_, batch)| batch).collect())
    }

    fn rows_within(
        &self,
        signal: Signal,
        payload: &[u8],
        received_unix_nano: u64,
        room: Room,
    ) -> Result<Vec<(&'static str, RecordBatch)>> {
        let walked = self.walker.walk(signal, REPLAY, payload, received_unix_nano, room).map_err(|error| {
            let message = format!("the payload is no {}", signal.request_message());
            Error::new(ErrorKind::Invalid, message).with_source(error)
        })?;
        Ok(walked.batches)
    }
}

impl Decode for Decoder {
    fn decode(&self, frame: &Frame, payload: &Bytes) -> Result<Vec<(&'static str, RecordBatch)>> {
        if frame.kind == KIND_LEDGER {
            let rows = Rows::decode(payload).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "the payload holds no rows of the ledger").with_source(error)
            })?;
            return Ok(vec![(ledger::SPEC.name, rows.batch())]);
        }
        if frame.kind == KIND_CORRECTIONS {
            return Ok(vec![(corrections::SPEC.name, settling::decode(payload)?)]);
        }
        let Some(signal) = Signal::of_frame(frame.kind) else {
            let message = format!("the log holds a frame of kind {}, which this version cannot read", frame.kind);
            return Err(Error::new(ErrorKind::Corrupt, message));
        };
        let (rules, prices) = (self.walker.rules_version(), self.walker.prices_version());
        if (frame.rules_version, frame.prices_version) != (rules, prices) {
            tracing::info!(
                "replaying a request read by rules {} and prices {} with rules {rules} and prices {prices}",
                frame.rules_version,
                frame.prices_version,
            );
        }
        self.rows(signal, payload, frame.received_unix_nano)
    }
}
