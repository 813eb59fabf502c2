//! The lake: tables, hot batches and the log, put together.
//!
//! ```text
//! append ─► admit (budget.rs) ─► log writer, one thread (writer.rs): frame ─► sync ─► hot batches (hot.rs) ─► answer
//!                                                                                        │
//! view ◄─ hot batches and spilled files beyond the snapshot's transaction ∪ snapshot     │
//!           ▲                                                                            ▼
//!         files beside the log ◄─ (beyond the share of memory) ─ spiller, one task (spill.rs)
//!           ▼                                                                            ▼
//!          flusher, one task (flusher.rs): segments ─► one commit a table, in order ─► log freed
//! ```
//!
//! Each table commits its own position. Rows beyond a table's position are in the log, so that a start (open.rs) makes them
//! hot again, table by table.

mod backfill;
mod budget;
mod capture;
mod ending;
mod fence;
mod flusher;
mod hot;
mod lineage;
mod merge;
mod meter;
mod open;
mod promote;
mod read_only;
mod retries;
mod spill;
mod stats;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use backfill::Backfill;
pub use capture::Capture;
pub use read_only::ReadOnlyLake;
pub use spill::SpilledSegment;
pub use stats::LakeStats;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use spanlake_schema::{Ambient, TableSpec};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::invariants::{self, is_undivided};
use crate::wal::{Log, frame_bytes};
use crate::{Error, ErrorKind, Lineage, Position, PromotionList, Result, Snapshot, Store, Table};
use budget::{Budget, Reservation};
use hot::HotStore;
use retries::{Claim, Claimed, Retries};
use spill::SpillDirectory;
use stats::Counters;
use tables::Tables;
use writer::{Bind, Pending, Queue, closed};

/// How a [`Lake`] is opened.
#[derive(Clone, Debug)]
pub struct LakeOptions {
    /// Where the tables lie.
    pub store: Store,
    /// Where the write-ahead log lies: always a local directory.
    pub wal_dir: PathBuf,
    /// Bytes of log beyond which appends are refused with [`crate::ErrorKind::Full`]. Spilled rows take at most as much
    /// again, below the log's directory.
    pub wal_limit_bytes: u64,
    /// Bytes of hot batches beyond which appends are refused with [`crate::ErrorKind::Full`]. Beyond half of it rows are
    /// spilled to local files.
    pub hot_limit_bytes: u64,
    /// How long a row stays hot at most, while the store answers.
    pub flush_interval: Duration,
    /// Bytes of hot batches that start a flush before its time.
    pub flush_bytes: u64,
    /// Answer appends only after the Delta commit instead of after the log's sync.
    pub ack_on_commit: bool,
    /// With `ack_on_commit`, how long an append waits for its commit at most.
    pub commit_timeout: Duration,
    /// How long a request is remembered for [`Lake::append_once`]; zero: not at all.
    pub retry_window: Duration,
    /// Bytes of memory for remembered requests, beyond which the oldest are forgotten.
    pub retry_limit_bytes: u64,
    /// Attributes that become columns of their own.
    pub promote: PromotionList,
    /// Clock and randomness.
    pub ambient: Arc<dyn Ambient>,
}

/// One request, ready for the log: its bytes to replay, and the rows it made.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What [`Decode`] gets back on recovery beside the payload: who, what, when.
    pub frame: Frame,
    /// The request's bytes, decompressed, as they will be decoded again.
    pub payload: Bytes,
    /// Rows for each table, by table name, partition column included.
    pub batches: Vec<(&'static str, RecordBatch)>,
}

/// What a log frame says about its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The tenant.
    pub tenant: String,
    /// What the payload is; ingest's own numbering (1: OTLP traces, protobuf).
    pub kind: u8,
    /// When the request arrived, nanoseconds since 1970-01-01.
    pub received_unix_nano: u64,
    /// Version of the rules that read the payload.
    pub rules_version: u32,
    /// Version of the prices that priced it.
    pub prices_version: u32,
}

/// What became of an entry that was to be stored once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The entry's place in the log; 0 where it is a repeat of one that has left the log.
    pub position: Position,
    /// Whether the same request was stored before, so that nothing of this one was.
    pub is_repeat: bool,
}

/// Turns a logged payload back into rows, on recovery.
pub trait Decode: Send + Sync {
    /// The rows for each table, equal to what [`Entry::batches`] held.
    fn decode(&self, frame: &Frame, payload: &Bytes) -> Result<Vec<(&'static str, RecordBatch)>>;
}

/// One consistent view of a table: a snapshot, and the rows beyond it, in memory and in local files.
#[derive(Clone, Debug)]
pub struct TableView {
    /// The table.
    pub table: Arc<Table>,
    /// What is committed.
    pub snapshot: Arc<Snapshot>,
    /// Rows beyond the snapshot's log position, partition column included, in the table's schema.
    pub hot: Vec<RecordBatch>,
    /// Further rows beyond it that memory had no room for. The files live as long as these are held.
    pub spilled: Vec<Arc<SpilledSegment>>,
}

/// Where queries get their tables from: a running lake, or a store at rest.
#[async_trait]
pub trait TableSource: Send + Sync + std::fmt::Debug {
    /// The tables of a tenant.
    fn tables(&self, tenant: &str) -> Vec<&'static TableSpec>;

    /// One consistent view of a table. `None` where there is no such table.
    async fn view(&self, tenant: &str, table: &str) -> Result<Option<TableView>>;

    /// Views of several tables at one moment, or one after the other where there is no log at hand.
    async fn capture(&self, tenant: &str, tables: &[&str]) -> Result<Capture> {
        let mut capture = Capture::default();
        for table in tables {
            capture.views.extend(self.view(tenant, table).await?);
        }
        Ok(capture)
    }
}

/// What the parts of a lake share.
#[derive(Debug)]
struct Shared {
    options: LakeOptions,
    /// Under which the tables know the positions of this log.
    app_id: String,
    /// Which copy of the log this is; `None` for one that an earlier version has left.
    lineage: Option<Lineage>,
    /// Of this writer id, how many times the log was opened.
    epoch: u64,
    tables: Tables,
    hot: HotStore,
    spill: Arc<SpillDirectory>,
    log_budget: Arc<Budget>,
    retries: Option<Arc<Retries>>,
    queue: Queue,
    counters: Counters,
    progress: watch::Sender<Progress>,
    /// Wakes the flusher when the first frame after a flush, or enough bytes, are there.
    flush_wanted: Notify,
    merge_wanted: Notify,
    spill_wanted: Notify,
    /// Rows that were on their way into a file are in it, or have stayed in memory.
    spill_ended: Notify,
    /// Held while segments are written again.
    backfilling: tokio::sync::Mutex<()>,
}

/// What has been committed, for those who wait for it.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    committed: Position,
    ended: bool,
}

impl Shared {
    /// How long frames wait for their flush.
    fn flush_interval(&self) -> Duration {
        // Who waits for the commit waits no longer than it takes to gather a group.
        const ACK_ON_COMMIT: Duration = Duration::from_millis(200);
        let interval = self.options.flush_interval;
        if self.options.ack_on_commit { interval.min(ACK_ON_COMMIT) } else { interval }
    }

    fn wake_after_push(&self) {
        self.flush_wanted.notify_one();
        if self.hot.wants_merging() {
            self.merge_wanted.notify_one();
        }
        if self.hot.wants_spilling() {
            self.spill_wanted.notify_one();
        }
    }

    /// Takes bytes of memory for a request. Where there are none, rows are told to make room before it comes again.
    fn reserve_memory(&self, bytes: u64) -> Result<Reservation> {
        let reserved = self.hot.budget.reserve(bytes);
        if reserved.is_err() {
            self.hot.press();
            self.spill_wanted.notify_one();
        }
        reserved
    }

    /// The name of segments that reach a position. It is never used again, not even by a copy of this log.
    fn segment_name(&self, position: Position) -> String {
        let nonce = self.options.ambient.random_u128() as u64;
        format!("{position:020}-{:06}-{nonce:016x}", self.epoch)
    }

    /// Tells everyone what is committed by now, and frees the log up to there.
    fn publish_progress(&self) -> Position {
        let committed = self.hot.committed_position();
        self.progress.send_if_modified(|progress| {
            let grown = committed > progress.committed;
            progress.committed = progress.committed.max(committed);
            grown
        });
        self.queue.release(committed);
        committed
    }
}

/// Tables, hot batches and the log of this process.
///
/// Dropping a lake without [`Lake::shutdown`] loses nothing: what was not committed is in the log.
pub struct Lake {
    shared: Arc<Shared>,
    flushes: mpsc::UnboundedSender<oneshot::Sender<Result<Position>>>,
    running: Mutex<Option<Running>>,
}

/// What ends with the lake.
#[derive(Debug)]
struct Running {
    log_writer: JoinHandle<Log>,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Lake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (store, wal_dir) = (self.shared.options.store.url(), &self.shared.options.wal_dir);
        f.debug_struct("Lake").field("store", &store).field("wal_dir", wal_dir).finish_non_exhaustive()
    }
}

impl Lake {
    /// Opens store and log, replays what no commit holds yet, and starts the log writer and the flusher.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the log belongs to another store, is open elsewhere or was written by a newer version;
    /// [`ErrorKind::Corrupt`] where it is damaged; [`ErrorKind::Retry`] where store or disk cannot be reached.
    pub async fn open(options: LakeOptions, decoder: Arc<dyn Decode>) -> Result<Arc<Self>> {
        open::open(options, decoder, Arc::new(crate::wal::LocalDisk)).await
    }

    /// As [`Lake::open`], on another file system than the operating system's: for fault injection.
    ///
    /// # Errors
    /// As [`Lake::open`].
    pub async fn open_on(
        options: LakeOptions,
        decoder: Arc<dyn Decode>,
        disk: Arc<dyn crate::wal::Disk>,
    ) -> Result<Arc<Self>> {
        open::open(options, decoder, disk).await
    }

    /// Makes an entry durable and visible. Returns its position after the log is synced (or, with `ack_on_commit`,
    /// after its commit). Where the future is dropped, the entry may be stored or not.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] at a bound; [`ErrorKind::Retry`] where the log or a new tenant's tables could not be written;
    /// [`ErrorKind::Invalid`] where the rows do not fit the tables; [`ErrorKind::Closed`] during shutdown. In all of these
    /// nothing is stored, except that with `ack_on_commit` an entry whose commit was not waited for is in the log.
    pub async fn append(&self, entry: Entry) -> Result<Position> {
        self.append_claimed(entry, None).await
    }

    /// As [`Lake::append`], but where an entry of the same tenant, kind and payload was stored within the retry window,
    /// nothing is stored of this one, and it is answered as that one was. One that is under way is waited for.
    ///
    /// # Errors
    /// As [`Lake::append`].
    pub async fn append_once(&self, entry: Entry) -> Result<Receipt> {
        let Some(retries) = &self.shared.retries else {
            return Ok(Receipt { position: self.append(entry).await?, is_repeat: false });
        };
        let digest = digest(retries, &entry).await?;
        match retries.claim(digest).await {
            Claimed::First(claim) => {
                Ok(Receipt { position: self.append_claimed(entry, Some(claim)).await?, is_repeat: false })
            }
            Claimed::Repeat(position) => {
                if self.shared.options.ack_on_commit {
                    self.committed(position).await?;
                }
                Ok(Receipt { position, is_repeat: true })
            }
        }
    }

    async fn append_claimed(&self, entry: Entry, claim: Option<Claim>) -> Result<Position> {
        let shared = &self.shared;
        shared.queue.check_open()?;
        self.ensure_tenant(&entry.frame.tenant).await?;
        let rows = shared.tables.check(&entry)?;
        let (hot_bytes, payload_bytes) = (rows.iter().map(|rows| rows.bytes).sum::<u64>(), entry.payload.len());
        let mut in_memory = shared.reserve_memory(hot_bytes + payload_bytes as u64)?;
        let in_flight = in_memory.split(payload_bytes as u64);
        let in_log = shared.log_budget.reserve(frame_bytes(&entry.frame, payload_bytes))?;
        let (answer, answered) = oneshot::channel();
        let (frame, payload, reserved) = (entry.frame, entry.payload, [in_memory, in_log]);
        shared.queue.append(Pending { frame, payload, rows, reserved, in_flight, claim, answer })?;
        let position = answered.await.map_err(|_| closed())??;
        if shared.options.ack_on_commit {
            self.committed(position).await?;
        }
        Ok(position)
    }

    async fn committed(&self, position: Position) -> Result<()> {
        let mut progress = self.shared.progress.subscribe();
        let reached = progress.wait_for(|progress| progress.committed >= position || progress.ended);
        let limit = self.shared.options.commit_timeout;
        match tokio::time::timeout(limit, reached).await {
            Ok(Ok(progress)) if progress.committed >= position => Ok(()),
            Ok(_) => Err(closed()),
            Err(_) => {
                let store = self.shared.options.store.url();
                let message = format!(
                    "the request is in the write-ahead log, but the store {store} did not commit it within {limit:?}: send it \
                     again, it is recognised and stored once"
                );
                Err(Error::new(ErrorKind::Retry, message))
            }
        }
    }

    /// Makes the tables of a tenant that appears for the first time.
    async fn ensure_tenant(&self, tenant: &str) -> Result<()> {
        let shared = &self.shared;
        if shared.tables.has(tenant) {
            return Ok(());
        }
        let opened = shared.tables.create(tenant).await?;
        let (answer, answered) = oneshot::channel();
        // The log has to know the tables before it holds rows for them.
        shared.queue.bind(Bind { tables: opened.ids(), answer })?;
        answered.await.map_err(|_| closed())??;
        shared.tables.publish(opened);
        Ok(())
    }

    /// A table of this lake, for committing to it directly (rollups).
    pub fn table(&self, tenant: &str, name: &str) -> Option<Arc<Table>> {
        self.shared.tables.get(tenant, name)
    }

    /// Opens or makes a table that is filled by commits to it alone, not through the log. Queries see it from now on.
    ///
    /// # Errors
    /// As of the store; [`ErrorKind::Invalid`] where the table is there with a column of another type, or is one that the log
    /// has rows for.
    pub async fn add_table(&self, tenant: &str, spec: &'static TableSpec) -> Result<Arc<Table>> {
        self.shared.tables.add(tenant, spec).await
    }

    /// Writes and commits all that is hot now. Returns the committed position.
    ///
    /// # Errors
    /// As of the store, where a commit fails. The rows stay hot, and the flusher tries again by itself.
    pub async fn flush(&self) -> Result<Position> {
        let (answer, answered) = oneshot::channel();
        self.flushes.send(answer).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Counters and gauges.
    pub fn stats(&self) -> LakeStats {
        let shared = &self.shared;
        let mut stats = shared.counters.read();
        (stats.hot_rows, stats.hot_bytes) = shared.hot.rows_and_bytes();
        (stats.spilled_rows, stats.spilled_bytes) = (shared.hot.spilled_rows(), shared.spill.used_bytes());
        stats.wal_bytes = shared.log_budget.used_bytes();
        stats.position = shared.hot.last_position();
        stats.committed_position = shared.progress.borrow().committed;
        if let Some(retries) = &shared.retries {
            retries.tell(&mut stats);
        }
        stats
    }
}

/// The digest of a request. Large ones are read off the I/O runtime.
async fn digest(retries: &Arc<Retries>, entry: &Entry) -> Result<u128> {
    const INLINE_BYTES_MAX: usize = 1 << 20;
    if entry.payload.len() <= INLINE_BYTES_MAX {
        return Ok(retries.digest(&entry.frame, &entry.payload));
    }
    let (retries, frame, payload) = (Arc::clone(retries), entry.frame.clone(), entry.payload.clone());
    tokio::task::spawn_blocking(move || retries.digest(&frame, &payload)).await.map_err(|_| closed())
}

#[async_trait]
impl TableSource for Lake {
    fn tables(&self, tenant: &str) -> Vec<&'static TableSpec> {
        self.shared.tables.specs(tenant)
    }

    async fn view(&self, tenant: &str, table: &str) -> Result<Option<TableView>> {
        self.shared.view(tenant, table)
    }

    async fn capture(&self, tenant: &str, tables: &[&str]) -> Result<Capture> {
        self.shared.capture(tenant, tables).await
    }
}

impl Shared {
    /// Hot rows first, then the snapshot: what a commit takes out of the former between the two is in the latter.
    fn view(&self, tenant: &str, table: &str) -> Result<Option<TableView>> {
        let (hot, spilled) = self.hot.rows(tenant, table);
        let Some(table) = self.tables.get(tenant, table) else { return Ok(None) };
        let snapshot = table.snapshot();
        let committed = self.committed_in(&snapshot);
        let in_memory = hot.iter().map(|batch| (batch.first, batch.last));
        let in_files = spilled.iter().map(|part| (part.first, part.last));
        if let Some((first, last)) =
            in_memory.chain(in_files).find(|(first, last)| !is_undivided(*first, *last, committed))
        {
            let (root, version) = (table.root(), snapshot.version);
            let what =
                format!("version {version} of table {root} reaches {committed}, amid hot rows of {first} to {last}");
            return Err(invariants::broken(what));
        }
        let hot = hot.iter().filter(|batch| batch.first > committed).map(|batch| batch.batch.clone()).collect();
        let spilled =
            spilled.iter().filter(|part| part.first > committed).flat_map(|part| part.files.clone()).collect();
        Ok(Some(TableView { table, snapshot, hot, spilled }))
    }

    /// Whether the position that a table holds was committed by this log, not by a copy of it.
    fn accepts(&self, snapshot: &Snapshot) -> bool {
        let Some((lineage, version)) = self.lineage.as_ref().zip(snapshot.transactions.get(&self.app_id)) else {
            return true;
        };
        lineage.accepts(&snapshot.transactions, *version)
    }

    /// Up to which position of this log a snapshot holds all rows of its table.
    fn committed_in(&self, snapshot: &Snapshot) -> Position {
        snapshot.transactions.get(&self.app_id).map_or(0, |version| u64::try_from(*version).unwrap_or(0))
    }
}
