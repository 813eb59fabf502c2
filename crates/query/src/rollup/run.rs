use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use spanlake_schema::{Ambient, DEFAULT_TENANT};
use spanlake_storage::{AddFile, Commit, CommitOutcome, ErrorKind, Segment, Snapshot, Table, TableView, segment};
use tokio::sync::Mutex;

use super::definition::Definition;
use super::dirty::{Suspects, suspects};
use super::inputs::{Inputs, Pinned, Reached, committed};
use super::restate::{WINDOW_START, check_keys, conform, in_micros, restate, window_starts};
use super::windows::{DAY_MICROS, DirtyWindows, start_of};
use super::{RollupStatus, RunReport};
use crate::answer::Bounds;
use crate::prune::time_bounds;
use crate::{Parameters, QueryEngine, QueryError, QueryErrorKind};

/// Days that one commit restates at most.
pub(super) const DAYS_PER_COMMIT: usize = 31;

/// How often a run plans anew after another process changed the table under it, before it gives up until the next run.
const PLANS_PER_RUN: u32 = 12;

/// A rollup may look at more history at once than a person would wait for.
pub(super) const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(3_600), row_limit: usize::MAX };

/// The pause before planning anew; doubles each time, with jitter.
const REPLAN_PAUSE: Duration = Duration::from_millis(5);

/// Microseconds of an hour.
const HOUR_MICROS: i64 = 3_600_000_000;

/// A part of a day that is rewritten by itself.
#[derive(Debug, Default)]
struct Stretch {
    /// All segments that hold rows of it.
    segments: Vec<Arc<Segment>>,
    /// What of it is to be computed anew.
    ranges: Vec<Range<i64>>,
    /// The dirty windows in those ranges.
    starts: BTreeSet<i64>,
}

/// What the restatement of a stretch adds to a commit.
struct Rewritten {
    removes: Vec<String>,
    adds: Vec<AddFile>,
    windows: u64,
    rows: u64,
}

/// How the last run ended.
#[derive(Clone, Debug, Default)]
pub(super) struct LastRun {
    /// When it ended, microseconds since 1970-01-01.
    pub(super) ended_unix_micro: Option<i64>,
    /// How long it took.
    pub(super) millis: Option<u64>,
    /// Windows it rewrote.
    pub(super) windows: Option<u64>,
    /// Why it failed.
    pub(super) error: Option<String>,
}

/// The columns that a rollup's SELECT returns.
///
/// # Errors
/// What planning it gave, with file, line and column.
pub(super) async fn output(
    engine: &Arc<QueryEngine>,
    source: &Arc<Table>,
    definition: &Definition,
) -> Result<SchemaRef, QueryError> {
    let nothing = Snapshot { segments: Vec::new(), ..source.snapshot().as_ref().clone() };
    let views = Arc::new(Pinned(vec![committed(source, Arc::new(nothing))]));
    let parameters = definition.parameters(&(0..1));
    let stream = engine.sql_over(views, DEFAULT_TENANT, &definition.select, parameters, BOUNDS).await;
    Ok(stream.map_err(|error| definition.locate(error))?.schema())
}

/// One rollup of one tenant: its definition, its tables, and how its last run ended.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) definition: Arc<Definition>,
    pub(super) tenant: String,
    pub(super) source: Arc<Table>,
    /// The corrections of the source's rows, where it has any.
    pub(super) corrections: Option<Arc<Table>>,
    pub(super) target: Arc<Table>,
    pub(super) engine: Arc<QueryEngine>,
    pub(super) ambient: Arc<dyn Ambient>,
    /// Days that one commit restates at most.
    pub(super) days_per_commit: usize,
    /// Held by the run: a rollup never runs twice at once in a process.
    pub(super) running: Mutex<()>,
    pub(super) last: parking_lot::Mutex<LastRun>,
}

impl Job {
    /// Brings the rollup's table to the newest version of its source.
    ///
    /// What was committed when this was called is taken in, by this run or by one that another process made meanwhile.
    pub(super) async fn run(&self) -> Result<RunReport, QueryError> {
        let _running = self.running.lock().await;
        let started = Instant::now();
        let outcome = self.plan_until_done().await;
        let name = self.definition.name.as_str();
        match &outcome {
            Ok(report) if report.windows > 0 => {
                tracing::info!(rollup = name, source_version = report.source_version, windows = report.windows, "ran");
            }
            Ok(report) => tracing::debug!(rollup = name, source_version = report.source_version, "nothing changed"),
            Err(error) => tracing::warn!(rollup = name, %error, "failed"),
        }
        *self.last.lock() = LastRun {
            ended_unix_micro: Some(self.ambient.now_unix_micro()),
            millis: Some(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)),
            windows: outcome.as_ref().ok().map(|report| report.windows),
            error: outcome.as_ref().err().map(ToString::to_string),
        };
        outcome
    }

    /// How the rollup stands, as the store has it now.
    pub(super) async fn status(&self) -> Result<RollupStatus, QueryError> {
        let target = self.target.refresh().await?;
        let source = self.source.refresh().await?;
        let last = self.last.lock().clone();
        Ok(RollupStatus {
            name: self.definition.name.clone(),
            source: self.definition.source.clone(),
            schedule: self.definition.schedule.clone(),
            source_version: target.transactions.get(&self.app_id()).copied(),
            source_latest: source.version,
            last_run_unix_micro: last.ended_unix_micro,
            last_run_millis: last.millis,
            last_windows: last.windows,
            last_error: last.error,
        })
    }

    /// The application transaction that holds the source version reached.
    pub(super) fn app_id(&self) -> String {
        format!("spanlake-rollup-{}", self.definition.name)
    }

    async fn plan_until_done(&self) -> Result<RunReport, QueryError> {
        let mut report = RunReport::default();
        for plan in 0..PLANS_PER_RUN {
            if self.plan_and_commit(&mut report).await? {
                return Ok(report);
            }
            let ceiling = REPLAN_PAUSE * 2u32.pow(plan);
            tokio::time::sleep(ceiling.mul_f64(self.random_fraction())).await;
        }
        let message = format!(
            "rollup {}: others changed its table under each of {PLANS_PER_RUN} tries; it stays as they left it until the next \
             run",
            self.definition.name
        );
        Err(QueryError::new(QueryErrorKind::Unavailable, message))
    }

    /// One try. False where another process changed the table meanwhile, so that the plan no longer holds.
    ///
    /// The target is read before the source: whatever version the target claims to have taken in, the source read after it
    /// is at least as new. So no window is ever put back to an older state.
    async fn plan_and_commit(&self, report: &mut RunReport) -> Result<bool, QueryError> {
        let target = self.target.refresh().await?;
        let inputs = Inputs::refresh(&self.source, self.corrections.as_ref(), self.definition.fingerprint()).await?;
        report.source_version = inputs.source.version;
        let reached = Reached::by(&target, &self.app_id());
        if reached.is_beyond(&inputs) {
            let message = format!(
                "rollup {} has taken in version {} of {}, which is at version {}: the table was replaced; remove {} to \
                 compute it anew",
                self.definition.name,
                reached.source.unwrap_or_default(),
                self.source.root(),
                inputs.source.version,
                self.target.root()
            );
            return Err(QueryError::internal(message));
        }
        if reached.is_all_of(&inputs) {
            return Ok(true);
        }
        let dirty = self.dirty_windows(reached.by_definition(inputs.fingerprint), &inputs, &target).await?;
        self.commit(&dirty, &inputs, target, report).await
    }

    /// Restates the dirty windows and records the version reached.
    ///
    /// The days go in commits of bounded size, and the last one carries the position. A process that dies in between leaves
    /// windows that are right for a version between the old position and the newest one; as the position still is the old
    /// one, the next run finds the same windows dirty again, recomputes them, and rewrites those that differ. So each commit
    /// may be the last one that ever happens.
    async fn commit(
        &self,
        dirty: &DirtyWindows,
        inputs: &Inputs,
        mut target: Arc<Snapshot>,
        report: &mut RunReport,
    ) -> Result<bool, QueryError> {
        let days: Vec<i32> = dirty.days().collect();
        let mut chunks: Vec<&[i32]> = days.chunks(self.days_per_commit).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let last = chunks.len() - 1;
        for (index, chunk) in chunks.into_iter().enumerate() {
            let mut commit = Commit { operation: "MERGE", ..Commit::default() };
            let (mut windows, mut rows) = (0, 0);
            for day in chunk {
                for stretch in self.stretches(&target, dirty, *day) {
                    let Some(rewritten) = self.restate(inputs, &target, stretch).await? else { continue };
                    commit.removes.extend(rewritten.removes);
                    commit.adds.extend(rewritten.adds);
                    windows += rewritten.windows;
                    rows += rewritten.rows;
                }
            }
            if index == last {
                (commit.transaction, commit.further_transactions) = inputs.transactions(&self.app_id(), &target);
            } else if commit.adds.is_empty() && commit.removes.is_empty() {
                continue;
            }
            match self.target.commit(commit, Some(target.version)).await? {
                CommitOutcome::Committed(snapshot) => target = snapshot,
                CommitOutcome::AlreadyCommitted(snapshot) => {
                    let reached = Reached::by(&snapshot, &self.app_id());
                    report.already_done = true;
                    report.source_version = reached.source.unwrap_or(inputs.source.version);
                    return Ok(reached.is_all_of(inputs) || reached.is_beyond(inputs));
                }
                CommitOutcome::Conflict(_) => return Ok(false),
            }
            report.windows += windows;
            report.rows += rows;
        }
        Ok(true)
    }

    /// The windows that the commits after those that were taken in touched.
    async fn dirty_windows(
        &self,
        reached: Reached,
        inputs: &Inputs,
        target: &Snapshot,
    ) -> Result<DirtyWindows, QueryError> {
        let mut dirty = DirtyWindows::new(self.definition.window_micros);
        let mut suspected = Vec::new();
        let corrected = inputs.corrections.as_ref().map(|(table, snapshot)| {
            // A rollup that never saw corrections has taken in a table without any.
            (table, snapshot, reached.source.and(reached.corrections.or(Some(0))))
        });
        for (table, snapshot, reached) in
            std::iter::once((&self.source, &inputs.source, reached.source)).chain(corrected)
        {
            let Some(found) = self.suspects(table, snapshot, reached).await? else {
                let days = inputs.source.segments.iter().chain(&target.segments).filter_map(|segment| segment.date);
                days.for_each(|day| dirty.mark_day(day));
                return Ok(dirty);
            };
            found.days.iter().for_each(|day| dirty.mark_day(*day));
            suspected.push(found.segments);
        }
        let mut suspected = suspected.into_iter();
        for start in self.windows_in(inputs, suspected.next().unwrap_or_default()).await? {
            dirty.mark(start);
        }
        for time in inputs.corrected_times(&self.engine, &self.tenant, suspected.next().unwrap_or_default()).await? {
            dirty.mark(time);
        }
        Ok(dirty)
    }

    /// What changed in a table since a version; `None` where that cannot be told.
    async fn suspects(
        &self,
        table: &Table,
        snapshot: &Snapshot,
        reached: Option<i64>,
    ) -> Result<Option<Suspects>, QueryError> {
        let Some(reached) = reached else { return Ok(None) };
        if reached == snapshot.version {
            return Ok(Some(Suspects::default()));
        }
        match table.changes(reached, snapshot.version).await {
            Ok(changes) => suspects(table, snapshot, &changes).await,
            Err(error) if error.kind() == ErrorKind::Invalid => {
                tracing::warn!(rollup = self.definition.name, %error, "recomputing every window");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The windows to which the SELECT assigns the rows of some segments.
    async fn windows_in(&self, inputs: &Inputs, segments: Vec<Arc<Segment>>) -> Result<Vec<i64>, QueryError> {
        let days = || segments.iter().filter_map(|segment| segment.date);
        let (Some(first), Some(last)) = (days().min(), days().max()) else { return Ok(Vec::new()) };
        let statement = format!("SELECT DISTINCT {WINDOW_START} FROM ({}\n) AS windows", self.definition.select);
        let parameters = self.definition.parameters(&(start_of(first)..start_of(last + 1)));
        let snapshot = Snapshot { segments, ..inputs.source.as_ref().clone() };
        let batches = self.rows(inputs.views_at(&self.source, Arc::new(snapshot)), &statement, parameters).await?;
        let mut windows = Vec::new();
        for batch in &batches {
            let starts = in_micros(batch.column(0))?;
            windows.extend_from_slice(starts.as_primitive::<TimestampMicrosecondType>().values());
        }
        Ok(windows)
    }

    /// The stretches of a day that are rewritten each by itself, those with dirty windows. Short windows are kept by the hour, so that
    /// a run does not rewrite all of its day.
    fn stretches(&self, target: &Snapshot, dirty: &DirtyWindows, day: i32) -> Vec<Stretch> {
        let window = self.definition.window_micros;
        let is_short = window < HOUR_MICROS && HOUR_MICROS % window == 0;
        let length = if is_short { HOUR_MICROS } else { DAY_MICROS };
        let segments: Vec<_> = target.segments.iter().filter(|segment| segment.date == Some(day)).cloned().collect();
        let hour_of = |segment: &Segment| {
            let (first, last) = time_bounds(segment, WINDOW_START)?;
            // The bound that the log has for the last may lie a millisecond beyond it.
            let (first, last) = (first.div_euclid(length), (last - 999).div_euclid(length));
            (first == last).then_some(first)
        };
        let hours: Vec<Option<i64>> = segments.iter().map(|segment| hour_of(segment)).collect();
        if hours.contains(&None) {
            return vec![Stretch { segments, ranges: dirty.ranges(day), starts: dirty.starts(day).clone() }];
        }
        let mut stretches: BTreeMap<i64, Stretch> = BTreeMap::new();
        for &start in dirty.starts(day) {
            stretches.entry(start.div_euclid(length)).or_default().starts.insert(start);
        }
        for (hour, stretch) in &mut stretches {
            let within = |range: &Range<i64>| {
                let range = range.start.max(hour * length)..range.end.min((hour + 1) * length);
                (!range.is_empty()).then_some(range)
            };
            stretch.ranges = dirty.ranges(day).iter().filter_map(within).collect();
            let own = segments.iter().zip(&hours).filter(|(_, of)| **of == Some(*hour));
            stretch.segments = own.map(|(segment, _)| Arc::clone(segment)).collect();
        }
        stretches.into_values().collect()
    }

    /// Computes the dirty windows of a stretch anew and writes its new segment; `None` where they come out as they are.
    async fn restate(
        &self,
        inputs: &Inputs,
        target: &Snapshot,
        stretch: Stretch,
    ) -> Result<Option<Rewritten>, QueryError> {
        let mut selected = Vec::new();
        for range in &stretch.ranges {
            let parameters = self.definition.parameters(range);
            let views = inputs.views_at(&self.source, Arc::clone(&inputs.source));
            selected.extend(self.rows(views, &self.definition.select, parameters).await?);
        }
        let removes = stretch.segments.iter().map(|segment| segment.path.clone()).collect();
        let mut existing = Vec::new();
        if !stretch.segments.is_empty() {
            let snapshot = Arc::new(Snapshot { segments: stretch.segments, ..target.clone() });
            let statement = format!("SELECT * FROM {}", self.definition.name);
            existing = self.rows(vec![committed(&self.target, snapshot)], &statement, Parameters::None).await?;
        }
        let is_by_another = Reached::by(target, &self.app_id()).definition != Some(inputs.fingerprint);
        let (definition, mut starts, spec) = (Arc::clone(&self.definition), stretch.starts, self.target.spec());
        let compared = tokio::task::spawn_blocking(move || {
            let recomputed = conform(spec, &selected)?;
            check_keys(&recomputed, &definition.keys)?;
            let existing = concat_batches(&spec.arrow_schema(), &existing)?;
            if is_by_another {
                starts.extend(window_starts(&existing)?);
            }
            restate(&existing, &recomputed, &starts)
        });
        let compared = compared.await.map_err(|error| {
            QueryError::internal(format!("rollup {}: comparing the windows ended: {error}", self.definition.name))
        })?;
        let Some(restatement) = compared? else { return Ok(None) };
        let mut adds = Vec::new();
        if restatement.rows_left.num_rows() > 0 {
            let name = format!("rollup-{:032x}", self.ambient.random_u128());
            adds = segment::write(&self.target, &[restatement.rows_left], &name).await?;
        }
        Ok(Some(Rewritten { removes, adds, windows: restatement.windows, rows: restatement.rows }))
    }

    /// All rows of a statement over these tables.
    async fn rows(
        &self,
        views: Vec<TableView>,
        statement: &str,
        parameters: Parameters,
    ) -> Result<Vec<RecordBatch>, QueryError> {
        Ok(self.stream(views, statement, parameters).await?.try_collect().await?)
    }

    async fn stream(
        &self,
        views: Vec<TableView>,
        statement: &str,
        parameters: Parameters,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        self.engine.sql_over(Arc::new(Pinned(views)), &self.tenant, statement, parameters, BOUNDS).await
    }

    fn random_fraction(&self) -> f64 {
        (self.ambient.random_u128() >> 64) as f64 / 2f64.powi(64)
    }
}
