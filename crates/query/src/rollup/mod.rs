//! Rollups: SQL files, their schedule, their exactly-once commits.
//!
//! A rollup is a file of `sql/rollups/`, or of the folder `rollups` of the user's `sql_dir`: a header and a SELECT that computes the windows it is asked for. A run finds the
//! windows that the source's commits touched since the last run, computes them anew from the source at exactly one version,
//! without hot rows, and puts them in place of the old ones.
//!
//! ```text
//! Rollups ── Job (run.rs) ──► dirty.rs: commits ──► segments that changed ──► windows.rs: dirty windows
//!   │          │
//!   │          │                            (inputs.rs: the versions of the source and of its corrections that it reads)
//!   │          └──► SELECT per range of windows ──► restate.rs: rows of a day, old and new ──► one commit
//!   └── Definition (definition.rs): header and SELECT, checked at load
//! ```
//!
//! **Invariants.**
//! - The source version that a rollup has taken in is an application transaction (`spanlake-rollup-<name>`) in the commit that
//!   writes its rows. A commit holds only if no other process changed the table since it was planned. So every window counts
//!   once, whoever runs the rollup, however often a run is repeated or broken off.
//! - A window is replaced whole, and only where its rows differ: `revision` counts how often that happened.
//! - Spans are counted as they are corrected. The version of `span_corrections` taken in is a further transaction
//!   (`spanlake-rollup-<name>-corrections`); what corrections have come since dirties the windows of their spans.
//! - The SELECT that filled the table is known by a fingerprint (`spanlake-rollup-<name>-definition`). Another one computes
//!   everything anew.
//! - Commits of the source that only rewrite rows dirty nothing. Where the log or a removed segment can no longer be read,
//!   more is computed anew, never less.

mod definition;
mod restate;
mod windows;

pub(crate) mod dirty;
pub(crate) mod inputs;
mod run;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use spanlake_schema::{Ambient, DEFAULT_TENANT, TABLES, TableSpec, corrections, spans};
use spanlake_storage::{Lake, Table};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::sql_file::read_folder;
use crate::{QueryEngine, QueryError, QueryErrorKind};
use definition::{BUILT_IN, Definition};
use run::{DAYS_PER_COMMIT, Job};

/// The pause after a run that failed for the first time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How often the user's folder is looked at.
const LOOK_FOR_FILES: Duration = Duration::from_secs(5);

/// What `rollup list` shows.
#[derive(Clone, Debug, Default)]
pub struct RollupStatus {
    /// The rollup's and its table's name.
    pub name: String,
    /// The table it reads.
    pub source: String,
    /// Its schedule, as written.
    pub schedule: String,
    /// The source version it has taken in.
    pub source_version: Option<i64>,
    /// The newest source version.
    pub source_latest: i64,
    /// When the last run ended, microseconds since 1970-01-01.
    pub last_run_unix_micro: Option<i64>,
    /// How long the last run took.
    pub last_run_millis: Option<u64>,
    /// Windows rewritten by the last run.
    pub last_windows: Option<u64>,
    /// The last error, while it lasts.
    pub last_error: Option<String>,
}

/// What one run did.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    /// The source version taken in.
    pub source_version: i64,
    /// Windows rewritten.
    pub windows: u64,
    /// Rows written.
    pub rows: u64,
    /// Whether another process had done it already.
    pub already_done: bool,
}

/// Where rollups find their tables.
#[async_trait]
pub(crate) trait Tables: std::fmt::Debug + Send + Sync {
    /// A table of the tenant.
    fn find(&self, name: &str) -> Option<Arc<Table>>;

    /// Opens or makes a table that only a rollup fills.
    async fn add(&self, spec: &'static TableSpec) -> spanlake_storage::Result<Arc<Table>>;
}

#[derive(Debug)]
struct OfLake(Arc<Lake>);

#[async_trait]
impl Tables for OfLake {
    fn find(&self, name: &str) -> Option<Arc<Table>> {
        self.0.table(DEFAULT_TENANT, name)
    }

    async fn add(&self, spec: &'static TableSpec) -> spanlake_storage::Result<Arc<Table>> {
        self.0.add_table(DEFAULT_TENANT, spec).await
    }
}

/// Runs rollups over a lake.
#[derive(Debug)]
pub struct Rollups {
    context: Context,
    /// Where the user's rollups lie.
    folder: Option<PathBuf>,
    state: parking_lot::Mutex<State>,
}

/// What jobs are made of.
#[derive(Debug)]
struct Context {
    tables: Arc<dyn Tables>,
    engine: Arc<QueryEngine>,
    ambient: Arc<dyn Ambient>,
    days_per_commit: usize,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they are run: what a rollup reads comes before it.
    jobs: Vec<Arc<Job>>,
    /// The user's files that were read last, and what is wrong with them, if anything is.
    files: BTreeMap<PathBuf, ReadFile>,
}

#[derive(Debug)]
struct ReadFile {
    text: String,
    error: Option<QueryError>,
}

impl Rollups {
    /// Loads the built-in rollups, and those of a user: the files `rollups/*.sql` below `sql_dir`. What is wrong with one of the
    /// user's is logged and shown by [`Self::list`]; the others run.
    ///
    /// # Errors
    /// [`crate::QueryErrorKind::Invalid`] where a built-in rollup's file is wrong, [`crate::QueryErrorKind::Unavailable`] where
    /// the store fails.
    pub async fn open(
        lake: Arc<Lake>,
        engine: Arc<QueryEngine>,
        ambient: Arc<dyn Ambient>,
        sql_dir: Option<&Path>,
    ) -> Result<Arc<Self>, QueryError> {
        let context = Context { tables: Arc::new(OfLake(lake)), engine, ambient, days_per_commit: DAYS_PER_COMMIT };
        let definitions =
            BUILT_IN.iter().map(|(file, text)| Definition::parse(file, text)).collect::<Result<_, _>>()?;
        let rollups = Self::over(context, definitions, sql_dir.map(|folder| folder.join("rollups"))).await?;
        rollups.look_for_files().await;
        Ok(rollups)
    }

    async fn over(
        context: Context,
        definitions: Vec<Definition>,
        folder: Option<PathBuf>,
    ) -> Result<Arc<Self>, QueryError> {
        let rollups = Self { context, folder, state: parking_lot::Mutex::default() };
        for definition in definitions {
            let job = rollups.context.job(definition).await?;
            rollups.state.lock().jobs.push(Arc::new(job));
        }
        Ok(Arc::new(rollups))
    }

    /// All rollups and how they stand, as the store has it now; files that cannot be used come last.
    pub async fn list(&self) -> Result<Vec<RollupStatus>, QueryError> {
        let mut statuses = Vec::new();
        for job in self.jobs() {
            statuses.push(job.status().await?);
        }
        let state = self.state.lock();
        statuses.extend(state.files.iter().filter_map(|(path, file)| {
            let error = file.error.as_ref()?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Some(RollupStatus { name, last_error: Some(error.message.clone()), ..RollupStatus::default() })
        }));
        Ok(statuses)
    }

    /// Runs one rollup now, whatever its schedule; waits where it is running already.
    ///
    /// # Errors
    /// [`crate::QueryErrorKind::Invalid`] where there is no such rollup.
    pub async fn run(&self, name: &str) -> Result<RunReport, QueryError> {
        let jobs = self.jobs();
        let Some(job) = jobs.iter().find(|job| job.definition.name == name) else {
            let names: Vec<_> = jobs.iter().map(|job| job.definition.name.as_str()).collect();
            return Err(QueryError::invalid(format!("there is no rollup {name}; there is {}", names.join(", "))));
        };
        job.run().await
    }

    /// Runs each rollup at once and then on its schedule, and looks for new files of the user, until the future is dropped. A run
    /// that fails is logged, shown by [`Self::list`], and tried again sooner than the schedule says, with growing pauses.
    pub async fn run_scheduled(&self) {
        let mut turns = BTreeMap::<String, Turn>::new();
        let mut looked = Instant::now();
        loop {
            if looked.elapsed() >= LOOK_FOR_FILES {
                self.look_for_files().await;
                looked = Instant::now();
            }
            // One after the other, those that others read first: memory and processors are for queries and ingest.
            for job in self.jobs() {
                let turn = turns.entry(job.definition.name.clone()).or_insert_with(Turn::now);
                if turn.at <= Instant::now() {
                    let started = Instant::now();
                    turn.failures = if job.run().await.is_ok() { 0 } else { turn.failures + 1 };
                    turn.at = started + pause(job.definition.every, turn.failures);
                }
            }
            let next = turns.values().map(|turn| turn.at).min().unwrap_or_else(|| looked + LOOK_FOR_FILES);
            tokio::time::sleep_until(next.min(looked + LOOK_FOR_FILES)).await;
        }
    }

    fn jobs(&self) -> Vec<Arc<Job>> {
        self.state.lock().jobs.clone()
    }

    /// Takes up new and changed files of the user, and drops those that are gone. Their tables stay.
    async fn look_for_files(&self) {
        let Some(folder) = &self.folder else { return };
        let found = match read_folder(folder) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot look for rollups");
                return;
            }
        };
        let mut fresh = self.state.lock().take_in(found);
        // A rollup may read one that stands later in the alphabet.
        for _ in 0..fresh.len() {
            let mut left = Vec::new();
            for (path, text) in std::mem::take(&mut fresh) {
                let error = self.take_up(&path, &text).await.err();
                if error.is_some() {
                    left.push((path.clone(), text.clone()));
                }
                let known = self.state.lock().files.insert(path, ReadFile { text, error: error.clone() });
                if let Some(error) = error
                    && known.and_then(|known| known.error).is_none_or(|known| known.message != error.message)
                {
                    tracing::warn!(%error, "a rollup cannot be used");
                }
            }
            fresh = left;
        }
    }

    async fn take_up(&self, path: &Path, text: &str) -> Result<(), QueryError> {
        let definition = Definition::parse(&path.to_string_lossy(), text)?;
        if is_built_in(&definition.name) {
            return Err(definition.error(format!("rollup {} is one of the product's own", definition.name)));
        }
        if self.context.engine.has_view(&definition.name) {
            return Err(definition.error(format!("name {} is that of a view", definition.name)));
        }
        let name = definition.name.clone();
        let job = Arc::new(self.context.job(definition).await?);
        let mut state = self.state.lock();
        match state.jobs.iter().position(|known| known.definition.name == name) {
            Some(at) => state.jobs[at] = job,
            None => state.jobs.push(job),
        }
        Ok(())
    }
}

/// Whether a rollup of that name comes with the product.
pub(crate) fn is_built_in(name: &str) -> bool {
    let stem = |file: &str| file.rsplit('/').next().and_then(|last| last.strip_suffix(".sql")) == Some(name);
    BUILT_IN.iter().any(|(file, _)| stem(file))
}

impl State {
    /// Drops the files that are gone, and their rollups. Returns the files that are to be read: new and changed ones, and those
    /// that could not be used, where that may be otherwise by now: the store failed, or another file has changed.
    fn take_in(&mut self, found: BTreeMap<PathBuf, String>) -> Vec<(PathBuf, String)> {
        let gone: Vec<String> = self
            .files
            .extract_if(.., |path, _| !found.contains_key(path))
            .filter_map(|(path, _)| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        self.jobs.retain(|job| !gone.contains(&job.definition.name));
        let is_known =
            |(path, text): &(&PathBuf, &String)| self.files.get(*path).is_some_and(|file| file.text == **text);
        let is_news = !gone.is_empty() || !found.iter().all(|file| is_known(&file));
        let is_settled = |(path, text): &(PathBuf, String)| {
            let Some(file) = self.files.get(path).filter(|file| file.text == *text) else { return false };
            match &file.error {
                None => true,
                Some(error) => !is_news && error.kind != QueryErrorKind::Unavailable,
            }
        };
        found.into_iter().filter(|file| !is_settled(file)).collect()
    }
}

impl Context {
    /// Plans a rollup's SELECT, and opens the table that it fills.
    async fn job(&self, definition: Definition) -> Result<Job, QueryError> {
        let unknown = || definition.error(format!("source {} is no known table", definition.source));
        let source = self.tables.find(&definition.source).ok_or_else(unknown)?;
        let is_corrected = definition.source == spans::SPEC.name;
        let corrections = is_corrected.then(|| self.tables.find(corrections::SPEC.name)).flatten();
        let output = run::output(&self.engine, &source, &definition).await?;
        let spec = definition.target(&output)?;
        let is_own = TABLES.iter().any(|own| own.name == spec.name);
        let target = match self.tables.find(spec.name).filter(|_| is_own) {
            Some(table) => table,
            None => self.tables.add(spec).await.map_err(|error| match error.kind() {
                spanlake_storage::ErrorKind::Invalid => definition.error(error.to_string()),
                _ => error.into(),
            })?,
        };
        Ok(Job {
            tenant: DEFAULT_TENANT.to_owned(),
            source,
            corrections,
            target,
            engine: Arc::clone(&self.engine),
            ambient: Arc::clone(&self.ambient),
            days_per_commit: self.days_per_commit,
            running: Mutex::new(()),
            last: parking_lot::Mutex::default(),
            definition: Arc::new(definition),
        })
    }
}

/// When a rollup is due.
struct Turn {
    at: Instant,
    failures: u32,
}

impl Turn {
    fn now() -> Self {
        Self { at: Instant::now(), failures: 0 }
    }
}

/// Time from the start of a run to the next: the schedule's, or 1 s doubling with each failure up to it.
fn pause(every: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => every,
        Some(doublings) => FIRST_RETRY.saturating_mul(2u32.saturating_pow(doublings)).min(every),
    }
}

#[cfg(test)]
mod tests;
