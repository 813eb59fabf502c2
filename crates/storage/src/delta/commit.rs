//! Commits: optimistic, by conditional put of the next version, recognised again after a lost answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions};
use serde_json::{Value, json};
use uuid::Uuid;

use super::action::{Action, Add, CommitInfo, Metadata, Remove, Txn, partition_values, render_commit};
use super::log::{Log, Put};
use super::state::{Replay, State};
use super::{Advanced, Commit, CommitOutcome, Current, Snapshot, Table, checkpoint, now_ms, protocol, schema};
use crate::Store;
use crate::error::{Error, ErrorKind, Result, store_error};
use crate::invariants::commit_goes_on;
use spanlake_schema::TableSpec;
use spanlake_schema::promotion::PromotedColumn;

/// Tries against other committers.
const CONTENDED_TRIES: u32 = 50;

/// Tries against a failing store, whose client has tried several times in each.
const FAILED_TRIES: u32 = 5;

/// Versions between checkpoints.
const CHECKPOINT_EVERY: i64 = 100;

/// A checkpoint spares work later; the commit does not wait for it longer than this.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(60);

/// A commit file that was, or will be, tried as one version. Whatever is tried as the same version again is the same file,
/// so that it does not matter which of several requests came through: the answer of a put can get lost, the request can
/// arrive late, and the store's client repeats requests by itself.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) version: i64,
    table: String,
    actions: Vec<Action>,
    pub(super) bytes: Bytes,
}

impl Attempt {
    pub(super) fn new(state: &State, actions: Vec<Action>) -> Result<Self> {
        let bytes = render(&state.table, &actions)?;
        Ok(Self { version: state.snapshot.version + 1, table: state.table.clone(), actions, bytes })
    }

    /// Whether the file found as this version is this one.
    pub(super) fn is_written_as(&self, found: &Bytes) -> Result<bool> {
        if *found == self.bytes {
            return Ok(true);
        }
        let id = self.actions.iter().find_map(|action| action.commit_info.as_ref()?.txn_id.as_deref());
        if id.is_some_and(|id| found.windows(id.len()).any(|part| part == id.as_bytes())) {
            let what = format!("version {} of table {} is not as it was written", self.version, self.table);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(false)
    }
}

/// Counts tries and waits between them.
#[derive(Debug, Default)]
struct Tries {
    contended: u32,
    failed: u32,
    last_error: Option<Error>,
}

impl Tries {
    /// Waits after losing against another committer.
    async fn contended(&mut self, store: &Store) {
        self.contended += 1;
        back_off(store, Duration::from_millis(5), self.contended).await;
    }

    /// Waits after a failure of the store, unless trying again is in vain.
    async fn failed(&mut self, store: &Store, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Retry {
            return Err(error);
        }
        self.failed += 1;
        tracing::debug!(%error, tries = self.failed, "commit failed, trying again");
        if self.failed < FAILED_TRIES {
            back_off(store, Duration::from_millis(50), self.failed).await;
        }
        self.last_error = Some(error);
        Ok(())
    }

    fn exhausted(&self) -> bool {
        self.contended >= CONTENDED_TRIES || self.failed >= FAILED_TRIES
    }

    fn into_error(self, table: &str) -> Error {
        let tries = self.contended + self.failed;
        let error = Error::new(ErrorKind::Retry, format!("cannot commit to table {table} in {tries} tries"));
        match self.last_error {
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }
}

/// Exponential back-off with full jitter, so that committers that collided once do not collide again.
async fn back_off(store: &Store, first: Duration, tries: u32) {
    let longest = first * 2_u32.pow(tries.min(7));
    let longest_us = longest.as_micros().max(1);
    let wait_us = store.ambient().random_u128() % longest_us;
    tokio::time::sleep(Duration::from_micros(u64::try_from(wait_us).unwrap_or(u64::MAX))).await;
}

impl Table {
    /// Commits. `based_on` is the version the commit was planned on where it depends on what it read there: others may
    /// then not have changed rows or an application transaction since, else [`CommitOutcome::Conflict`]. Appends need
    /// none, nor does a compaction, which only needs its files to be there still.
    ///
    /// The future may be dropped: the commit then has happened or not, and the next commit or refresh sees which.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`] where the store fails, or others commit too fast. The commit may have happened even so:
    /// a repetition with the same [`super::AppTransaction`] finds out.
    pub async fn commit(&self, commit: Commit, based_on: Option<i64>) -> Result<CommitOutcome> {
        let mut current = self.state.lock().await;
        let id = Uuid::from_u128(self.store.ambient().random_u128()).to_string();
        let mut tries = Tries::default();
        let mut attempt: Option<Attempt> = None;
        while !tries.exhausted() {
            match self.advance(&mut current, attempt.as_ref()).await {
                Ok(Advanced::ToTheEnd) => {}
                Ok(Advanced::ToOwn) => return Ok(self.committed(&mut current).await),
                Err(error) => {
                    tries.failed(&self.store, error).await?;
                    continue;
                }
            }
            let state = &current.state;
            if let Some(outcome) = settled(state, &commit, based_on) {
                return Ok(outcome);
            }
            let intent = protocol::Intent { removes_rows: !commit.removes.is_empty() && !commit.rows_unchanged };
            protocol::check_writable(&state.table, &state.protocol, &state.metadata, intent)?;
            let next = match attempt.take().filter(|tried| tried.version == state.snapshot.version + 1) {
                Some(same) => same,
                None => Attempt::new(state, actions_of(state, &commit, based_on, &id, now_ms(&self.store)))?,
            };
            let put = self.put(&mut current, &next).await;
            attempt = Some(next);
            match put {
                Ok(Put::Done) => return Ok(self.committed(&mut current).await),
                Ok(Put::Exists) => tries.contended(&self.store).await,
                Err(error) => tries.failed(&self.store, error).await?,
            }
        }
        Err(tries.into_error(&current.state.table))
    }

    /// Puts the next version; where that succeeds, the state moves on to it without reading it back.
    async fn put(&self, current: &mut Current, attempt: &Attempt) -> Result<Put> {
        let put = self.log.put_new(attempt.version, attempt.bytes.clone()).await?;
        if matches!(put, Put::Done) {
            let mut replay = Replay::default();
            replay.commit(attempt.version, attempt.actions.clone())?;
            current.state.advance(replay)?;
            current.verified_ms = now_ms(&self.store);
            self.publish(&current.state);
        }
        Ok(put)
    }

    async fn committed(&self, current: &mut Current) -> CommitOutcome {
        let outcome = CommitOutcome::Committed(current.state.snapshot.clone());
        match tokio::time::timeout(CHECKPOINT_TIMEOUT, self.checkpoint_if_due(&mut current.state)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(table = %self.root, %error, "cannot write a checkpoint"),
            Err(_) => tracing::warn!(table = %self.root, "writing a checkpoint took too long"),
        }
        outcome
    }

    /// Every hundredth version is the duty of its committer; whoever sees that it was not done, does it.
    async fn checkpoint_if_due(&self, state: &mut State) -> Result<()> {
        let version = state.snapshot.version;
        let since = |checkpoint: i64| version - checkpoint.max(0);
        if version == 0 || (version % CHECKPOINT_EVERY != 0 && since(state.checkpoint_version) < CHECKPOINT_EVERY) {
            return Ok(());
        }
        if version % CHECKPOINT_EVERY != 0 {
            let newest = self.log.last_checkpoint().await?.map_or(-1, |pointer| pointer.version);
            state.checkpoint_version = state.checkpoint_version.max(newest);
            if since(newest) < CHECKPOINT_EVERY {
                return Ok(());
            }
        }
        let (bytes, pointer) = checkpoint::encode(state, now_ms(&self.store)).await?;
        self.log.put_checkpoint(bytes, &pointer).await?;
        state.checkpoint_version = version;
        Ok(())
    }

    pub(super) async fn create(store: &Store, tenant: &str, spec: &'static TableSpec) -> Result<Self> {
        let root = object_store::path::Path::from_iter([tenant, spec.name]);
        if store.local_root().is_none() {
            check_conditional_put(store, &root).await?;
        }
        let log = Log::new(store.object_store(), root.clone());
        let now = now_ms(store);
        let metadata = schema::metadata_of(spec, Uuid::from_u128(store.ambient().random_u128()).to_string(), now)?;
        let actions = [
            info_action("CREATE TABLE", json!({"mode": "ErrorIfExists"}), None, now),
            Action { protocol: Some(protocol::created()), ..Action::default() },
            Action { meta_data: Some(metadata), ..Action::default() },
        ];
        let bytes = render(root.as_ref(), &actions)?;
        let mut tries = Tries::default();
        while !tries.exhausted() {
            // Whoever created it, and whether or not the answer came through: what lies there is the table.
            match log.put_new(0, bytes.clone()).await {
                Ok(_) => match Self::open(store, tenant, spec).await {
                    Ok(Some(table)) => return Ok(table),
                    Ok(None) => tries.contended(store).await,
                    Err(error) => tries.failed(store, error).await?,
                },
                Err(error) => tries.failed(store, error).await?,
            }
        }
        Err(tries.into_error(root.as_ref()))
    }

    /// Brings the table's columns up to the spec.
    pub(super) async fn add_missing_columns(&self) -> Result<()> {
        self.evolve(|table, metadata| schema::evolved(table, self.spec, metadata)).await.map(drop)
    }

    /// Adds columns promoted from attributes. Those that the table has already stay as they are, whoever added them; what finds
    /// its name taken or no room any more is left out: the snapshot says what there is now.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`] where the store fails, or others commit too fast.
    pub async fn promote(&self, wanted: &[PromotedColumn]) -> Result<Arc<Snapshot>> {
        self.evolve(|table, metadata| schema::with_promoted(table, self.spec, metadata, wanted)).await
    }

    /// Commits other metadata, until there is no need to: `evolved` gives what is to become of the metadata, if anything.
    async fn evolve(&self, evolved: impl Fn(&str, &Metadata) -> Result<Option<Metadata>>) -> Result<Arc<Snapshot>> {
        let mut current = self.state.lock().await;
        let mut tries = Tries::default();
        while !tries.exhausted() {
            let state = &current.state;
            let Some(metadata) = evolved(&state.table, &state.metadata)? else {
                return Ok(Arc::clone(&state.snapshot));
            };
            let intent = protocol::Intent { removes_rows: false };
            protocol::check_writable(&state.table, &state.protocol, &state.metadata, intent)?;
            let attempt = Attempt::new(state, evolution(metadata, now_ms(&self.store)))?;
            match self.put(&mut current, &attempt).await {
                Ok(Put::Done) => return Ok(Arc::clone(&current.state.snapshot)),
                Ok(Put::Exists) => tries.contended(&self.store).await,
                Err(error) => tries.failed(&self.store, error).await?,
            }
            if let Err(error) = self.advance(&mut current, None).await {
                tries.failed(&self.store, error).await?;
            }
        }
        Err(tries.into_error(&current.state.table))
    }
}

fn evolution(metadata: Metadata, now_ms: i64) -> Vec<Action> {
    vec![info_action("ADD COLUMNS", json!({}), None, now_ms), Action { meta_data: Some(metadata), ..Action::default() }]
}

/// The outcome that a state gives a commit before anything is written, if any.
fn settled(state: &State, commit: &Commit, based_on: Option<i64>) -> Option<CommitOutcome> {
    let snapshot = &state.snapshot;
    if let Some(transaction) = &commit.transaction
        && let Some(version) = snapshot.transactions.get(&transaction.app_id)
        && (!commit_goes_on(Some(*version), transaction.version)
            || commit.lineage.as_ref().is_some_and(|lineage| !lineage.accepts(&snapshot.transactions, *version)))
    {
        return Some(CommitOutcome::AlreadyCommitted(snapshot.clone()));
    }
    let changed = based_on.is_some_and(|version| state.changed_version > version);
    if changed || commit.removes.iter().any(|path| state.segment(path).is_none()) {
        return Some(CommitOutcome::Conflict(snapshot.clone()));
    }
    None
}

fn actions_of(state: &State, commit: &Commit, based_on: Option<i64>, id: &str, now_ms: i64) -> Vec<Action> {
    let data_change = !commit.rows_unchanged;
    let blind = commit.removes.is_empty() && based_on.is_none();
    let parameters = match commit.operation {
        "WRITE" => json!({"mode": "Append", "partitionBy": "[\"date\"]"}),
        _ => json!({}),
    };
    let mut info = info_action(commit.operation, parameters, Some(id), now_ms);
    if let Some(info) = &mut info.commit_info {
        info.is_blind_append = Some(blind);
    }
    let mut actions = vec![info];
    actions.extend(commit.transaction.iter().chain(&commit.further_transactions).map(|transaction| {
        let (app_id, version) = (transaction.app_id.clone(), transaction.version);
        Action { txn: Some(Txn { app_id, version, last_updated: Some(now_ms) }), ..Action::default() }
    }));
    actions.extend(commit.lineage.as_ref().map(|lineage| {
        let (app_id, version) = (lineage.app_id.clone(), lineage.nonce);
        Action { txn: Some(Txn { app_id, version, last_updated: Some(now_ms) }), ..Action::default() }
    }));
    actions.extend(commit.removes.iter().filter_map(|path| {
        let segment = state.segment(path)?;
        let encoded = Add::of(segment, state.encoded_path(path), data_change).path;
        let remove = Remove {
            path: encoded,
            deletion_timestamp: Some(now_ms),
            data_change,
            extended_file_metadata: Some(true),
            partition_values: Some(partition_values(segment.date)),
            size: i64::try_from(segment.size_bytes).ok(),
        };
        Some(Action { remove: Some(remove), ..Action::default() })
    }));
    actions.extend(commit.adds.iter().map(|file| {
        let add = Add::of(&file.segment, None, data_change);
        Action { add: Some(add), ..Action::default() }
    }));
    actions
}

fn info_action(operation: &str, parameters: Value, id: Option<&str>, now_ms: i64) -> Action {
    let info = CommitInfo {
        timestamp: Some(now_ms),
        operation: Some(operation.to_owned()),
        operation_parameters: Some(parameters),
        engine_info: Some(concat!("spanlake/", env!("CARGO_PKG_VERSION")).to_owned()),
        is_blind_append: None,
        txn_id: id.map(str::to_owned),
    };
    Action { commit_info: Some(info), ..Action::default() }
}

fn render(table: &str, actions: &[Action]) -> Result<Bytes> {
    let bytes = render_commit(actions).map_err(|source| {
        Error::new(ErrorKind::Corrupt, format!("cannot render a commit to table {table}")).with_source(source)
    })?;
    Ok(Bytes::from(bytes))
}

/// A store that ignores the condition of a put would let two committers overwrite each other. Some S3-compatible servers
/// do, so that a table is only created where the condition holds.
async fn check_conditional_put(store: &Store, root: &object_store::path::Path) -> Result<()> {
    let objects = store.object_store();
    let id = Uuid::from_u128(store.ambient().random_u128());
    let probe = root.clone().join(format!("_spanlake_probe_{id}"));
    let put = || objects.put_opts(&probe, Bytes::from_static(b"probe").into(), PutOptions::from(PutMode::Create));
    match put().await {
        // Nobody else knows the name: this very request was made twice, its first answer lost.
        Ok(_) | Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {}
        Err(source) => return Err(store_error("write", &probe, source)),
    }
    let second = put().await;
    if let Err(error) = objects.delete(&probe).await {
        tracing::warn!(path = %probe, %error, "cannot delete a probe");
    }
    match second {
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(()),
        Ok(_) => {
            let message =
                format!("the store {} ignores conditional puts (If-None-Match), commits would get lost", store.url());
            Err(Error::new(ErrorKind::Invalid, message))
        }
        Err(source) => Err(store_error("write", &probe, source)),
    }
}
