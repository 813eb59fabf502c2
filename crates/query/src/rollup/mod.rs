//! Rollups: SQL files, their schedule, their exactly-once commits.
//!
//! A rollup is a file of `sql/rollups/`: a header and a SELECT that computes the windows it is asked for. A run finds the
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
//! - Commits of the source that only rewrite rows dirty nothing. Where the log or a removed segment can no longer be read,
//!   more is computed anew, never less.

mod definition;
mod restate;
mod windows;

pub(crate) mod dirty;
pub(crate) mod inputs;
mod run;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use spanlake_schema::{Ambient, DEFAULT_TENANT, corrections, spans};
use spanlake_storage::{Lake, Table};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::{QueryEngine, QueryError};
use definition::{BUILT_IN, Definition};
use run::{DAYS_PER_COMMIT, Job};

/// The pause after a run that failed for the first time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What `rollup list` shows.
#[derive(Clone, Debug)]
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

/// Runs rollups over a lake.
#[derive(Debug)]
pub struct Rollups {
    jobs: Vec<Job>,
}

impl Rollups {
    /// Loads the built-in rollups and checks them.
    ///
    /// # Errors
    /// [`crate::QueryErrorKind::Invalid`] where a rollup's file is wrong; the message names file, line and column.
    pub async fn open(
        lake: Arc<Lake>,
        engine: Arc<QueryEngine>,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Arc<Self>, QueryError> {
        let definitions =
            BUILT_IN.iter().map(|(file, text)| Definition::parse(file, text)).collect::<Result<_, _>>()?;
        Self::over(definitions, &|name| lake.table(DEFAULT_TENANT, name), &engine, &ambient, DAYS_PER_COMMIT).await
    }

    async fn over(
        definitions: Vec<Definition>,
        find: &(dyn Fn(&str) -> Option<Arc<Table>> + Sync),
        engine: &Arc<QueryEngine>,
        ambient: &Arc<dyn Ambient>,
        days_per_commit: usize,
    ) -> Result<Arc<Self>, QueryError> {
        let mut jobs = Vec::with_capacity(definitions.len());
        for definition in definitions {
            let table = |name: &str| {
                let missing = || QueryError::internal(format!("rollup {}: no table {name}", definition.name));
                find(name).ok_or_else(missing)
            };
            let (source, target) = (table(definition.source.name)?, table(definition.target.name)?);
            let is_corrected = definition.source.name == spans::SPEC.name;
            let corrections = is_corrected.then(|| find(corrections::SPEC.name)).flatten();
            let job = Job {
                tenant: DEFAULT_TENANT.to_owned(),
                source,
                corrections,
                target,
                engine: Arc::clone(engine),
                ambient: Arc::clone(ambient),
                days_per_commit,
                running: Mutex::new(()),
                last: parking_lot::Mutex::default(),
                definition: Arc::new(definition),
            };
            job.check().await?;
            jobs.push(job);
        }
        Ok(Arc::new(Self { jobs }))
    }

    /// All rollups and how they stand, as the store has it now.
    pub async fn list(&self) -> Result<Vec<RollupStatus>, QueryError> {
        let mut statuses = Vec::with_capacity(self.jobs.len());
        for job in &self.jobs {
            statuses.push(job.status().await?);
        }
        Ok(statuses)
    }

    /// Runs one rollup now, whatever its schedule; waits where it is running already.
    ///
    /// # Errors
    /// [`crate::QueryErrorKind::Invalid`] where there is no such rollup.
    pub async fn run(&self, name: &str) -> Result<RunReport, QueryError> {
        let Some(job) = self.jobs.iter().find(|job| job.definition.name == name) else {
            let names: Vec<_> = self.jobs.iter().map(|job| job.definition.name.as_str()).collect();
            return Err(QueryError::invalid(format!("there is no rollup {name}; there is {}", names.join(", "))));
        };
        job.run().await
    }

    /// Runs each rollup at once and then on its schedule, until the future is dropped. A run that fails is logged, shown by
    /// [`Self::list`], and tried again sooner than the schedule says, with growing pauses.
    pub async fn run_scheduled(&self) {
        join_all(self.jobs.iter().map(follow)).await;
    }
}

async fn follow(job: &Job) {
    let mut failures = 0;
    loop {
        let started = Instant::now();
        failures = if job.run().await.is_ok() { 0 } else { failures + 1 };
        tokio::time::sleep_until(started + pause(job.definition.every, failures)).await;
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
