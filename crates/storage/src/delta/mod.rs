//! Delta Lake tables: snapshot, commit, checkpoint. <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>
//!
//! Tables are written with reader version 1 and writer version 2, which every tool reads. Tables that other tools have
//! rewritten (optimised, vacuumed, rows deleted) are read on; what this version does not understand is refused by name.
//!
//! ```text
//! Table ── commit.rs ──► Log (log.rs) ──► _delta_log/0….json, _last_checkpoint, 0….checkpoint.parquet (checkpoint.rs)
//!   │                      │
//!   └── State (state.rs) ◄─┘ actions (action.rs), held to protocol.rs and schema.rs
//! ```

mod action;
mod checkpoint;
mod commit;
mod log;
mod protocol;
mod schema;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use object_store::path::Path;
use parking_lot::RwLock;
use spanlake_schema::TableSpec;
use spanlake_schema::promotion::PromotedColumn;

use crate::error::{Error, ErrorKind};
use crate::{Result, Store};

pub(crate) use action::format_date;
use commit::Attempt;
use log::Log;
use state::{Replay, State};

/// One immutable Parquet object of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Path relative to the table's root, as in the Delta log, percent-decoded.
    pub path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// The partition `date`, days since 1970-01-01; `None` for the null partition.
    pub date: Option<i32>,
    /// When it was written, milliseconds since 1970-01-01.
    pub modification_time_ms: i64,
    /// Statistics as the Delta log holds them (`numRecords`, `minValues`, `maxValues`, `nullCount`), parsed JSON.
    pub stats: Option<Arc<serde_json::Value>>,
    /// The promoted columns that it holds as its rows have their attributes, joined by commas; `None`: none of them. What other
    /// tools write says nothing here, since they fill columns that a file lacks with NULL.
    pub promoted: Option<Arc<str>>,
}

impl Segment {
    /// Rows, where the log says.
    pub fn rows(&self) -> Option<u64> {
        self.stats.as_ref()?.get("numRecords")?.as_u64()
    }

    /// Whether it holds a promoted column.
    pub fn holds(&self, column: &str) -> bool {
        self.promoted.as_ref().is_some_and(|held| held.split(',').any(|name| name == column))
    }
}

/// The segments visible at one version of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The table version.
    pub version: i64,
    /// All segments, ordered by path.
    pub segments: Vec<Arc<Segment>>,
    /// Application transactions: application id to its latest version.
    pub transactions: HashMap<String, i64>,
    /// The table's id in the Delta metadata.
    pub table_id: String,
    /// When the table was made, milliseconds since 1970-01-01, where its metadata says.
    pub created_time_ms: Option<i64>,
    /// Columns that may be NULL in this table, whatever the spec says: segments from before they were added lack them.
    pub nullable_columns: Arc<BTreeSet<String>>,
    /// The columns promoted from attributes, in the order of the table's schema, behind its own.
    pub promoted: Arc<Vec<PromotedColumn>>,
}

/// A file to add in a commit.
#[derive(Clone, Debug)]
pub struct AddFile {
    /// The segment.
    pub segment: Segment,
}

/// The application transaction of a commit: only one commit may carry a version, and versions grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppTransaction {
    /// Who commits: `spanlake-<writer id>-<shard>` or `spanlake-rollup-<name>`.
    pub app_id: String,
    /// Its position.
    pub version: i64,
}

/// Which copy of a log a table's position comes from. Two copies of one log number their requests alike; this tells them
/// apart. It is written as an application transaction of its own, whose version is no position but a random number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// `spanlake-<writer id>-<shard>-copy`.
    pub app_id: String,
    /// Of the committer.
    pub nonce: i64,
    /// Nonces of the committer's past, each with the last position that it may have committed; `None`: the past is not
    /// known.
    pub known: Option<Vec<(i64, i64)>>,
}

impl Lineage {
    /// Whether a position that a table holds comes from this log, and not from a copy that went its own way.
    pub fn accepts(&self, transactions: &HashMap<String, i64>, position: i64) -> bool {
        match (transactions.get(&self.app_id), &self.known) {
            (None, _) | (_, None) => true,
            (Some(nonce), _) if *nonce == self.nonce => true,
            (Some(nonce), Some(known)) => known.iter().any(|(own, last)| own == nonce && position <= *last),
        }
    }
}

/// One atomic change of a table.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Files that appear.
    pub adds: Vec<AddFile>,
    /// Files that go, by [`Segment::path`]. The commit conflicts where one is gone already.
    pub removes: Vec<String>,
    /// The application transaction, compared with the very snapshot that is committed upon.
    pub transaction: Option<AppTransaction>,
    /// Further application transactions that are recorded with it, whatever the snapshot says.
    pub further_transactions: Vec<AppTransaction>,
    /// The copy of the log that the transaction's position belongs to. Where the table holds a position of another copy,
    /// nothing is added, as for a position that is committed already.
    pub lineage: Option<Lineage>,
    /// False where rows are only rewritten, as by compaction.
    pub rows_unchanged: bool,
    /// What was done, for the history: `WRITE`, `MERGE`, `OPTIMIZE`.
    pub operation: &'static str,
}

/// How a commit ended.
#[derive(Clone, Debug)]
pub enum CommitOutcome {
    /// This commit is the snapshot's version.
    Committed(Arc<Snapshot>),
    /// The application transaction had been committed before, by an earlier try or another process: nothing was added.
    AlreadyCommitted(Arc<Snapshot>),
    /// A file to remove is gone, or another commit changed rows or an application transaction since `based_on`: plan
    /// anew.
    Conflict(Arc<Snapshot>),
}

/// What one version changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version.
    pub version: i64,
    /// Files that appeared.
    pub adds: Vec<Arc<Segment>>,
    /// Files that went, by path.
    pub removes: Vec<String>,
    /// Whether rows changed; false for compaction.
    pub data_change: bool,
}

/// A Delta table.
#[derive(Debug)]
pub struct Table {
    store: Store,
    root: Path,
    spec: &'static TableSpec,
    log: Log,
    /// What readers see; replaced whole.
    snapshot: RwLock<Arc<Snapshot>>,
    /// Held while the log is read or written: one committer at a time.
    state: tokio::sync::Mutex<Current>,
}

/// The state behind the snapshot, and when it was last known to be near the end of the log.
#[derive(Debug)]
struct Current {
    state: State,
    verified_ms: i64,
}

/// Commits read one by one before a listing takes over.
const SINGLE_READS: i64 = 32;

/// After this long without a look at the log, the next commit may have been cleaned away behind a checkpoint; tools keep
/// commits for days.
const VERIFIED_FOR_MS: i64 = 3_600_000;

/// Whether [`Table::advance`] came upon the commit it was told to look for.
#[derive(Debug, PartialEq, Eq)]
enum Advanced {
    ToTheEnd,
    /// Stopped at the caller's own commit.
    ToOwn,
}

impl Table {
    /// Opens a table and creates it where it does not exist. Adds columns that the spec has and the table lacks.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the table asks for what this version does not support, or has other columns.
    pub async fn open_or_create(store: &Store, tenant: &str, spec: &'static TableSpec) -> Result<Self> {
        let table = match Self::open(store, tenant, spec).await? {
            Some(table) => table,
            None => Self::create(store, tenant, spec).await?,
        };
        table.add_missing_columns().await?;
        Ok(table)
    }

    /// Opens an existing table for reading; `None` where there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the table asks for what this version does not support.
    pub async fn open(store: &Store, tenant: &str, spec: &'static TableSpec) -> Result<Option<Self>> {
        let root = Path::from_iter([tenant, spec.name]);
        let log = Log::new(store.object_store(), root.clone());
        let Some(state) = log.load().await? else { return Ok(None) };
        Ok(Some(Self::at(store, (root, log), spec, state)))
    }

    /// Opens an existing table for reading that is none of the product's own: a rollup of the user's. `None` where there is none,
    /// or one whose columns are not such as a rollup can have.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the table asks for what this version does not support.
    pub async fn open_any(store: &Store, tenant: &str, name: &str) -> Result<Option<Self>> {
        let root = Path::from_iter([tenant, name]);
        let log = Log::new(store.object_store(), root.clone());
        let Some(state) = log.load().await? else { return Ok(None) };
        let spec = schema::spec_of(name, &state.metadata);
        Ok(spec.map(|spec| Self::at(store, (root, log), spec, state)))
    }

    fn at(store: &Store, (root, log): (Path, Log), spec: &'static TableSpec, state: State) -> Self {
        Self {
            store: store.clone(),
            root,
            spec,
            log,
            snapshot: RwLock::new(Arc::clone(&state.snapshot)),
            state: tokio::sync::Mutex::new(Current { state, verified_ms: now_ms(store) }),
        }
    }

    /// The table's columns.
    pub fn spec(&self) -> &'static TableSpec {
        self.spec
    }

    /// The table's root below the store: `default/spans`.
    pub fn root(&self) -> Path {
        self.root.clone()
    }

    /// The object of a segment, by [`Segment::path`], below the store.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the path is none.
    pub fn object_path(&self, path: &str) -> Result<Path> {
        Path::parse(format!("{}/{path}", self.root)).map_err(|source| {
            Error::new(ErrorKind::Invalid, format!("segment {path} of table {} is no path", self.root))
                .with_source(source)
        })
    }

    /// The store it lies on.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The latest snapshot this process knows. No I/O.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Reads the commits that others made since, and returns the latest snapshot.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>> {
        let mut current = self.state.lock().await;
        self.advance(&mut current, None).await?;
        Ok(Arc::clone(&current.state.snapshot))
    }

    /// What the versions `after + 1 ..= until` changed, in order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] where the log no longer holds them: recompute from the snapshot.
    pub async fn changes(&self, after: i64, until: i64) -> Result<Vec<Change>> {
        let commits = self.log.read_all(after + 1..=until).await?;
        commits.into_iter().map(|(version, actions)| change_of(version, &actions)).collect()
    }

    /// Reads what others committed. Where `own` was tried, stops at it: its answer may have got lost.
    async fn advance(&self, current: &mut Current, own: Option<&Attempt>) -> Result<Advanced> {
        let now = now_ms(&self.store);
        let stale = now.saturating_sub(current.verified_ms) > VERIFIED_FOR_MS;
        // A commit of our own is never looked for in a checkpoint, where it could not be told from others.
        let reached = if stale && own.is_none() {
            self.log.catch_up(&mut current.state).await.map(|()| Advanced::ToTheEnd)
        } else {
            self.read_on(&mut current.state, own).await
        };
        self.publish(&current.state);
        let reached = reached?;
        current.verified_ms = now;
        Ok(reached)
    }

    /// Reads commit after commit. What was read before an error counts: on a store that fails now and then, a handle
    /// that fell behind would else never catch up.
    async fn read_on(&self, state: &mut State, own: Option<&Attempt>) -> Result<Advanced> {
        let before = state.snapshot.version;
        loop {
            let version = state.snapshot.version + 1;
            if version - before > SINGLE_READS && own.is_none() {
                self.log.catch_up(state).await?;
                return Ok(Advanced::ToTheEnd);
            }
            let Some(bytes) = self.log.read(version).await? else { return Ok(Advanced::ToTheEnd) };
            let mut replay = Replay::default();
            replay.commit(version, self.log.parse(version, &bytes)?)?;
            let is_own = match own.filter(|own| own.version == version) {
                Some(own) => own.is_written_as(&bytes)?,
                None => false,
            };
            state.advance(replay)?;
            if is_own {
                return Ok(Advanced::ToOwn);
            }
        }
    }

    fn publish(&self, state: &State) {
        *self.snapshot.write() = Arc::clone(&state.snapshot);
    }
}

fn now_ms(store: &Store) -> i64 {
    store.ambient().now_unix_micro() / 1_000
}

fn change_of(version: i64, actions: &[action::Action]) -> Result<Change> {
    let mut change = Change { version, adds: Vec::new(), removes: Vec::new(), data_change: false };
    for action in actions {
        if let Some(add) = &action.add {
            change.adds.push(Arc::new(add.to_segment()?));
            change.data_change |= add.data_change;
        }
        if let Some(remove) = &action.remove {
            change.removes.push(action::decode_path(&remove.path)?);
            change.data_change |= remove.data_change;
        }
    }
    Ok(change)
}
