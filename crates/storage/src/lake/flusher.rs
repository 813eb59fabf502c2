//! The flusher: one task that turns hot batches into segments and commits them, table by table, until it succeeds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use futures::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::fence::{Fence, Fenced};
use super::hot::{Content, Part};
use crate::invariants::{self, may_go};
use crate::promotion::{PromotionStats, Survey};
use crate::{AddFile, AppTransaction, Commit, CommitOutcome, Error, ErrorKind, Position, Result, Table, segment};

/// Tables that are written at once.
const TABLES_AT_ONCE: usize = 4;
/// Waits between failing flushes.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// How often commits of other processes are looked for.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3);

type Answer = oneshot::Sender<Result<Position>>;

/// Rows of one table on their way into one commit. Kept until its outcome is known, since a commit whose answer was lost
/// may have happened: it is repeated with the same rows, files and position.
#[derive(Debug)]
struct Job {
    part: Part,
    table: Arc<Table>,
    /// The segments, once they are written.
    adds: Option<Vec<AddFile>>,
    /// Whether a commit was tried that may have happened.
    tried: bool,
}

/// Commits what is hot.
#[derive(Debug)]
pub(super) struct Flusher {
    shared: Arc<Shared>,
    jobs: Vec<Job>,
    failures: u32,
    /// After a failure, when to try again.
    retry_at: Option<Instant>,
    fence: Option<Fence>,
}

impl Flusher {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, jobs: Vec::new(), failures: 0, retry_at: None, fence: None }
    }

    /// Nothing is committed before this is closed.
    pub(super) fn fence(&mut self, fence: Fence) {
        self.fence = Some(fence);
    }

    /// Notes that a table got rows back from the log.
    pub(super) fn note_behind(&mut self, tenant: &str, table: &'static str) {
        if let Some(fence) = &mut self.fence {
            fence.add(tenant, table);
        }
    }

    /// Makes sure that what is hot is what the tables lack.
    pub(super) async fn close_fence(&mut self) -> Result<Fenced> {
        match &mut self.fence {
            Some(fence) => fence.close().await,
            None => Ok(Fenced::InTime),
        }
    }

    /// Flushes when it is time, and when asked.
    pub(super) async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Answer>) {
        loop {
            let mut answers: Vec<Answer> = Vec::new();
            let due = self.due();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(answer) => answers.push(answer),
                    None => return,
                },
                () = sleep_until(due) => {}
                () = self.shared.flush_wanted.notified() => {}
            }
            while let Ok(answer) = requests.try_recv() {
                answers.push(answer);
            }
            if answers.is_empty() && self.due().is_none_or(|due| due > Instant::now()) {
                continue;
            }
            let flushed = self.flush().await;
            self.note(flushed.as_ref().err());
            for answer in answers {
                // Who asked may have gone.
                let _ = answer.send(match &flushed {
                    Ok(position) => Ok(*position),
                    Err(error) => Err(Error::new(error.kind(), error.to_string())),
                });
            }
        }
    }

    /// When the next flush begins unless it is asked for earlier.
    fn due(&self) -> Option<Instant> {
        if self.retry_at.is_some() {
            return self.retry_at;
        }
        let waiting = self.shared.hot.waiting()?;
        if waiting.bytes >= self.shared.options.flush_bytes {
            return Some(waiting.since);
        }
        Some(waiting.since + self.shared.flush_interval())
    }

    /// Writes down how a flush ended, and after a failure when to try again.
    fn note(&mut self, error: Option<&Error>) {
        let text = error.map(ToString::to_string);
        self.shared.counters.update(|stats| {
            match error {
                Some(_) => stats.flush_failures_total += 1,
                None => stats.flushes_total += 1,
            }
            stats.last_flush_error = text;
        });
        let Some(error) = error else {
            (self.failures, self.retry_at) = (0, None);
            return;
        };
        let longest = BACK_OFF_MAX.min(BACK_OFF_FIRST * 2_u32.pow(self.failures.min(10)));
        // Between half and all of it, so that processes that failed together do not come back together.
        let per_mille = 500 + (self.shared.options.ambient.random_u128() % 501) as u32;
        let wait = longest * per_mille / 1000;
        self.failures += 1;
        self.retry_at = Some(Instant::now() + wait);
        tracing::warn!(%error, failures = self.failures, ?wait, "flush failed, rows stay hot and in the log");
    }

    /// Commits all that is hot when it begins. On an error what was not committed stays hot.
    pub(super) async fn flush(&mut self) -> Result<Position> {
        let shared = Arc::clone(&self.shared);
        if self.close_fence().await? == Fenced::TooLate {
            let message = format!(
                "a commit of the process before this one came in after this one had read the write-ahead log {}: start \
                 it again, nothing is committed twice",
                shared.options.wal_dir.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let end = shared.hot.last_position();
        loop {
            let busy = |tenant: &str, table: &str| {
                self.jobs.iter().any(|job| job.part.tenant == tenant && job.part.table == table)
            };
            let parts = shared.hot.seal(busy);
            self.jobs.extend(parts.into_iter().map(|part| self.job(part)).collect::<Result<Vec<_>>>()?);
            let had_jobs = !self.jobs.is_empty();
            self.run_jobs().await?;
            if shared.hot.committed_position() >= end {
                return Ok(shared.publish_progress());
            }
            if !had_jobs {
                // All that is left is on its way into files.
                shared.spill_ended.notified().await;
            }
        }
    }

    fn job(&self, part: Part) -> Result<Job> {
        let table = self.shared.tables.get(&part.tenant, part.table).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("table {}/{} is not open", part.tenant, part.table))
        })?;
        Ok(Job { part, table, adds: None, tried: false })
    }

    /// Tries each job; those that fail stay.
    async fn run_jobs(&mut self) -> Result<()> {
        let shared = &self.shared;
        let jobs = std::mem::take(&mut self.jobs);
        let mut running = stream::iter(jobs.into_iter().map(|mut job| async move {
            let done = job.run(shared).await;
            (job, done)
        }))
        .buffer_unordered(TABLES_AT_ONCE);
        let mut failure = None;
        while let Some((job, done)) = running.next().await {
            if let Err(error) = done {
                self.jobs.push(job);
                failure.get_or_insert(error);
            }
        }
        drop(running);
        self.shared.publish_progress();
        failure.map_or(Ok(()), Err)
    }
}

impl Job {
    async fn run(&mut self, shared: &Shared) -> Result<()> {
        let adds = match &self.adds {
            Some(adds) => adds.clone(),
            None => {
                let started = Instant::now();
                let adds = self.write_segments(shared).await?;
                let seconds = started.elapsed().as_secs_f64();
                shared.counters.update(|stats| stats.flush_seconds_total += seconds);
                self.adds.insert(adds).clone()
            }
        };
        let bytes: u64 = adds.iter().map(|add| add.segment.size_bytes).sum();
        let started = Instant::now();
        self.commit(shared, adds).await?;
        let seconds = started.elapsed().as_secs_f64();
        let (position, held) = (self.part.position, shared.committed_in(&self.table.snapshot()));
        if !may_go(position, held) {
            let what = format!("table {} holds {held} after a commit of {position}", self.table.root());
            return Err(invariants::broken(what));
        }
        shared.hot.committed(&self.part);
        shared.counters.update(|stats| {
            stats.commit_seconds_total += seconds;
            stats.committed_rows_total += self.part.rows();
            stats.committed_bytes_total += bytes;
        });
        Ok(())
    }

    async fn write_segments(&self, shared: &Shared) -> Result<Vec<AddFile>> {
        let (adds, stats) = match &self.part.content {
            Content::InMemory(batches) => {
                let batches: Vec<RecordBatch> = batches.iter().map(|hot| hot.batch.clone()).collect();
                let stats = self.promote(shared.survey(&self.table, &batches).await?).await?;
                let name = shared.segment_name(self.part.position);
                (segment::write(&self.table, &batches, &name).await?, stats)
            }
            Content::Spilled(spilled) => {
                let stats = self.promote(spilled.survey().clone()).await?;
                (spilled.upload(&self.table).await?, stats)
            }
        };
        shared.counters.update(|counted| counted.promotion.add(&stats));
        Ok(adds)
    }

    /// Makes the columns that the rows' attributes are to have, before any file has them.
    async fn promote(&self, survey: Survey) -> Result<PromotionStats> {
        let lacking = survey.lacking();
        let snapshot = match lacking.is_empty() {
            true => self.table.snapshot(),
            false => self.table.promote(&lacking).await?,
        };
        Ok(survey.stats(&snapshot.promoted))
    }

    async fn commit(&mut self, shared: &Shared, adds: Vec<AddFile>) -> Result<()> {
        let version = i64::try_from(self.part.position)
            .map_err(|_| Error::new(ErrorKind::Corrupt, "a log position is beyond what a table can hold"))?;
        let transaction = AppTransaction { app_id: shared.app_id.clone(), version };
        let tried_before = std::mem::replace(&mut self.tried, true);
        let lineage = shared.lineage.clone();
        let commit = Commit { adds, transaction: Some(transaction), lineage, operation: "WRITE", ..Commit::default() };
        match self.table.commit(commit, None).await? {
            CommitOutcome::Committed(_) => Ok(()),
            // An earlier try of this job did it, and its answer was lost.
            CommitOutcome::AlreadyCommitted(snapshot)
                if tried_before
                    && snapshot.transactions.get(&shared.app_id) == Some(&version)
                    && shared.accepts(&snapshot) =>
            {
                Ok(())
            }
            CommitOutcome::AlreadyCommitted(snapshot) => Err(self.claimed(shared, snapshot.version)),
            CommitOutcome::Conflict(_) => {
                Err(Error::new(ErrorKind::Retry, format!("an append to table {} met a conflict", self.table.root())))
            }
        }
    }

    /// Nobody else may commit positions of this log. To take their rows for these would lose these.
    fn claimed(&self, shared: &Shared, version: i64) -> Error {
        let message = format!(
            "table {} at version {version} holds a log position of {} that another process has committed, where position {} \
             is due: the log directory {} was copied and both copies are in use, stop one of the two; rows stay in the log",
            self.table.root(),
            shared.app_id,
            self.part.position,
            shared.options.wal_dir.display()
        );
        Error::new(ErrorKind::Corrupt, message)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Merges small hot batches, off the way of requests.
pub(super) async fn merge_small_batches(shared: Arc<Shared>) {
    loop {
        shared.merge_wanted.notified().await;
        while let Some(run) = shared.hot.next_merge() {
            let merged = tokio::task::spawn_blocking(move || (run.merge(), run)).await;
            match merged {
                Ok((Ok(merged), run)) => shared.hot.replace(&run, merged),
                Ok((Err(error), _)) => {
                    tracing::error!(%error, "hot batches stay small");
                    break;
                }
                Err(_) => return,
            }
        }
    }
}

/// Lets commits of other processes appear.
pub(super) async fn refresh_tables(shared: Arc<Shared>) {
    let mut turns = tokio::time::interval(REFRESH_INTERVAL);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        for table in shared.tables.every() {
            if let Err(error) = table.refresh().await {
                tracing::debug!(%error, table = %table.root(), "cannot look for commits of others");
            }
        }
    }
}
