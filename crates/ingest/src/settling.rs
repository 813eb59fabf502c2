//! Corrections on their way into the log: what a durable request tells of the spans of earlier ones.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parking_lot::Mutex;
use spanlake_schema::Ambient;
use spanlake_schema::corrections::{self, Correction};
use spanlake_storage::{Entry, Error, ErrorKind, Frame, Lake, Receipt, Result};

use crate::Ingest;
use crate::meaning::Meaning;
use crate::observer::{CallObserver, Observation};
use crate::recall;
use crate::roles::Told;
use crate::traces::{TraceOf, Traces};

/// Frame kind of corrections: JSON.
pub(crate) const KIND_CORRECTIONS: u8 = 65;

/// Corrections in one frame at most.
const FRAME_CORRECTIONS: usize = 8_192;

/// Corrections that wait for a log that took none; beyond it their traces are left to be read back.
const WAITING_MAX: usize = 16_384;

/// Rows of a logged frame of corrections.
///
/// # Errors
/// [`ErrorKind::Corrupt`] where the payload holds none.
pub(crate) fn decode(payload: &[u8]) -> Result<RecordBatch> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "the payload holds no corrections of spans");
    let found: Vec<Correction> = serde_json::from_slice(payload).map_err(|error| corrupt().with_source(error))?;
    corrections::batch(&found).map_err(|error| corrupt().with_source(error))
}

/// Settles traces as requests become durable, and logs what follows.
#[derive(Debug)]
pub(crate) struct Settling {
    lake: Arc<Lake>,
    ambient: Arc<dyn Ambient>,
    meaning: Arc<Meaning>,
    traces: Traces,
    /// Corrections that the log did not take, by tenant.
    waiting: Mutex<Vec<(String, Correction)>>,
    observer: Option<Arc<dyn CallObserver>>,
}

impl Settling {
    pub(crate) fn new(
        lake: Arc<Lake>,
        ambient: Arc<dyn Ambient>,
        meaning: Arc<Meaning>,
        limit_bytes: usize,
    ) -> Arc<Self> {
        let traces = Traces::new(Arc::clone(&meaning), limit_bytes);
        Arc::new(Self { lake, ambient, meaning, traces, waiting: Mutex::default(), observer: None })
    }

    /// The same by other rules and prices; what was told so far is forgotten.
    pub(crate) fn with_meaning(&self, meaning: Arc<Meaning>) -> Arc<Self> {
        Arc::new(self.forgetful(meaning, self.traces.limit_bytes()))
    }

    /// The same within other bounds; what was told so far is forgotten.
    pub(crate) fn with_limit(&self, limit_bytes: usize) -> Arc<Self> {
        Arc::new(self.forgetful(Arc::clone(&self.meaning), limit_bytes))
    }

    /// The same with somebody who is told of calls; what was told so far is forgotten.
    pub(crate) fn with_observer(&self, observer: Arc<dyn CallObserver>) -> Arc<Self> {
        let forgetful = self.forgetful(Arc::clone(&self.meaning), self.traces.limit_bytes());
        Arc::new(Self { observer: Some(observer), ..forgetful })
    }

    fn forgetful(&self, meaning: Arc<Meaning>, limit_bytes: usize) -> Self {
        Self {
            lake: Arc::clone(&self.lake),
            ambient: Arc::clone(&self.ambient),
            traces: Traces::new(Arc::clone(&meaning), limit_bytes),
            meaning,
            waiting: Mutex::default(),
            observer: self.observer.clone(),
        }
    }

    /// Stores a request once, and logs the corrections that follow from what it told before it is answered.
    ///
    /// # Errors
    /// As of [`Lake::append_once`]. Corrections that the log does not take wait; they are no error.
    pub(crate) async fn store(self: &Arc<Self>, entry: Entry, told: Told) -> Result<Receipt> {
        if told.rows.is_empty() {
            return self.store_and_settle(entry, told).await;
        }
        // A sender that goes away in between must not part a request from its corrections.
        let settling = Arc::clone(self);
        let stored = tokio::spawn(async move { settling.store_and_settle(entry, told).await });
        stored
            .await
            .map_err(|error| Error::new(ErrorKind::Closed, "storing a request was broken off").with_source(error))?
    }

    async fn store_and_settle(&self, entry: Entry, told: Told) -> Result<Receipt> {
        let (tenant, received_unix_nano) = (entry.frame.tenant.clone(), entry.frame.received_unix_nano);
        // Where no row tells of a call there is nothing to observe.
        let observer = self.observer.as_ref().filter(|_| !told.rows.is_empty());
        let observation = observer.map(|observer| Observation::new(observer, &entry.batches));
        let receipt = self.lake.append_once(entry).await?;
        if !receipt.is_repeat {
            if let Some(observation) = observation {
                observation.tell().await;
            }
            let received_micros = (received_unix_nano / 1_000) as i64;
            let found = self.traces.admit(&tenant, told, received_micros, self.ambient.now_unix_nano());
            self.log(&tenant, found).await;
        }
        Ok(receipt)
    }

    /// Logs corrections; those that the log does not take now wait for [`Settling::log_waiting`].
    async fn log(&self, tenant: &str, found: Vec<Correction>) {
        for chunk in found.chunks(FRAME_CORRECTIONS) {
            if let Err(error) = self.append(tenant, chunk).await {
                tracing::debug!(%error, tenant, count = chunk.len(), "corrections of spans are not logged yet");
                self.wait(tenant, chunk);
            }
        }
    }

    fn wait(&self, tenant: &str, chunk: &[Correction]) {
        let mut waiting = self.waiting.lock();
        let room = WAITING_MAX.saturating_sub(waiting.len()).min(chunk.len());
        waiting.extend(chunk[..room].iter().map(|one| (tenant.to_owned(), one.clone())));
        drop(waiting);
        let trace = |one: &Correction| TraceOf { tenant: tenant.to_owned(), trace_id: one.address.trace_id.clone() };
        self.traces.doubt(chunk[room..].iter().map(trace));
    }

    /// Makes corrections durable and visible.
    ///
    /// # Errors
    /// As of [`Lake::append`].
    async fn append(&self, tenant: &str, found: &[Correction]) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let invalid = |message| Error::new(ErrorKind::Invalid, message);
        let batch = corrections::batch(found)
            .map_err(|error| invalid("corrections do not fit their table").with_source(error))?;
        let payload = serde_json::to_vec(found)
            .map_err(|error| invalid("corrections cannot be written as JSON").with_source(error))?;
        let frame = Frame {
            tenant: tenant.to_owned(),
            kind: KIND_CORRECTIONS,
            received_unix_nano: self.ambient.now_unix_nano(),
            rules_version: 0,
            prices_version: 0,
        };
        let batches = vec![(corrections::SPEC.name, batch)];
        self.lake.append(Entry { frame, payload: Bytes::from(payload), batches }).await?;
        Ok(())
    }

    /// Logs what waits.
    pub(crate) async fn log_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for same in waiting.chunk_by(|one, other| one.0 == other.0) {
            let found = same.iter().map(|(_, one)| one.clone()).collect();
            self.log(&same[0].0, found).await;
        }
    }

    /// Takes rows of `spans` that were read back; see [`crate::Ingest::recall`].
    pub(crate) async fn recall(&self, tenant: &str, rows: &[RecordBatch]) -> Result<usize> {
        let now = self.ambient.now_unix_nano();
        let part = recall::part(tenant, rows, &self.meaning, (now / 1_000) as i64)?;
        let found = self.traces.recall(part, now);
        let count = found.len();
        self.log(tenant, found).await;
        Ok(count)
    }

    pub(crate) fn meaning(&self) -> &Meaning {
        &self.meaning
    }

    /// A revision higher than all before, and the time in microseconds.
    pub(crate) fn next_revision(&self) -> (i64, i64) {
        let now = self.ambient.now_unix_nano();
        (self.traces.next_revision(now), (now / 1_000) as i64)
    }

    /// Makes any number of corrections durable and visible.
    ///
    /// # Errors
    /// As of [`Lake::append`]; those before the one that failed are recorded.
    pub(crate) async fn append_all(&self, tenant: &str, found: &[Correction]) -> Result<()> {
        for chunk in found.chunks(FRAME_CORRECTIONS) {
            self.append(tenant, chunk).await?;
        }
        Ok(())
    }

    fn take_doubtful(&self) -> Vec<TraceOf> {
        self.traces.take_doubtful(self.ambient.now_unix_nano())
    }

    pub(crate) fn traces(&self) -> &Traces {
        &self.traces
    }
}

/// Settling what is stored.
impl Ingest {
    /// Remembers what recent requests told of calls within so many bytes.
    #[must_use]
    pub fn with_trace_memory(mut self, limit_bytes: usize) -> Self {
        self.settling = self.settling.with_limit(limit_bytes);
        self
    }

    /// Tells an observer of the calls of every request that is stored from now on, before the request is answered.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn CallObserver>) -> Self {
        self.settling = self.settling.with_observer(observer);
        self
    }

    /// Logs corrections that the log did not take when they were found.
    pub async fn log_waiting_corrections(&self) {
        self.settling.log_waiting().await;
    }

    /// Traces of which more came after what was told of them before had been forgotten: their rows are to be read back
    /// ([`Ingest::recall`]). They are handed out once.
    pub fn take_doubtful_traces(&self) -> Vec<TraceOf> {
        self.settling.take_doubtful()
    }

    /// Leaves traces to be read back another time.
    pub fn doubt(&self, traces: Vec<TraceOf>) {
        self.settling.traces().doubt(traces);
    }

    /// Settles traces whose rows of `spans` were read back, all rows of each, with the columns [`crate::RECALLED`], as they are
    /// corrected by now. What changes is recorded. Returns how many rows that are.
    ///
    /// # Errors
    /// [`spanlake_storage::ErrorKind::Invalid`] where columns are missing.
    pub async fn recall(&self, tenant: &str, rows: &[RecordBatch]) -> spanlake_storage::Result<usize> {
        self.settling.recall(tenant, rows).await
    }
}
