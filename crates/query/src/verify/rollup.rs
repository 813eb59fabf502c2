//! The rollup against its spans: in every hour it has taken in, it counts as many requests as there are leaf spans.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use spanlake_schema::{corrections, model_usage};
use spanlake_storage::{ErrorKind, Snapshot, TableView};

use super::report::{Cells, Difference, RollupReport, VerifyReport, time_text};
use super::source::Pinned;
use super::{DIFFERENCES_MAX, VerifyOptions};
use crate::rollup::dirty::suspects;
use crate::rollup::inputs::{Reached, corrected_times};
use crate::{Parameters, QueryEngine, QueryError};

const ROLLUP_SQL: &str = include_str!("../../../../sql/verify/rollup.sql");
const WINDOWS_SQL: &str = include_str!("../../../../sql/verify/windows.sql");
const HOUR_MICROS: i64 = 3_600_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;

/// Hours that the rollup's next run will look at.
#[derive(Debug, Default)]
struct Pending {
    windows: BTreeSet<i64>,
    days: BTreeSet<i64>,
}

impl Pending {
    fn contains(&self, window: i64) -> bool {
        self.windows.contains(&window) || self.days.contains(&window.div_euclid(DAY_MICROS))
    }
}

/// What the rollup reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read<'a> {
    pub(super) spans: &'a TableView,
    pub(super) corrections: Option<&'a TableView>,
}

pub(super) async fn verify(
    engine: &QueryEngine,
    options: &VerifyOptions,
    target: &TableView,
    read: Read<'_>,
    report: &mut VerifyReport,
) -> Result<(), QueryError> {
    let name = model_usage::HOUR_SPEC.name;
    let mut rollup = RollupReport { name: name.to_owned(), ..RollupReport::default() };
    match pending(engine, options, target, read).await? {
        Err(why) => rollup.not_compared = Some(why),
        Ok(pending) => {
            let (target, spans) = (committed(target), committed(read.spans));
            let corrections = read.corrections.map(committed);
            let corrections = corrections.iter().map(|view| (corrections::SPEC.name, view));
            let source = Pinned::new([(name, &target), ("items", &spans)].into_iter().chain(corrections));
            let rows = engine.verify_rows(&options.tenant, source, ROLLUP_SQL, Parameters::None).await?;
            for batch in &rows {
                for row in 0..batch.num_rows() {
                    compare(&Cells { batch, row }, options, &pending, &mut rollup, report);
                }
            }
        }
    }
    report.rollup = Some(rollup);
    Ok(())
}

/// A rollup takes in what is committed.
fn committed(view: &TableView) -> TableView {
    TableView { hot: Vec::new(), spilled: Vec::new(), ..view.clone() }
}

/// The hours that changed since the rollup's last run; an error says why that cannot be told.
async fn pending(
    engine: &QueryEngine,
    options: &VerifyOptions,
    target: &TableView,
    read: Read<'_>,
) -> Result<Result<Pending, String>, QueryError> {
    let reached = Reached::by(&target.snapshot, &format!("spanlake-rollup-{}", model_usage::HOUR_SPEC.name));
    let Some(source) = reached.source else { return Ok(Err("it has not run yet".to_owned())) };
    let mut pending = Pending::default();
    match changed(read.spans, source).await? {
        Err(why) => return Ok(Err(why)),
        Ok((changed, days)) => {
            pending.days.extend(days);
            if !changed.snapshot.segments.is_empty() {
                let corrections = read.corrections.map(|view| (corrections::SPEC.name, view));
                let source = Pinned::new(std::iter::once(("items", &changed)).chain(corrections));
                for batch in engine.verify_rows(&options.tenant, source, WINDOWS_SQL, Parameters::None).await? {
                    pending.windows.extend(batch.column(0).as_primitive::<TimestampMicrosecondType>().values());
                }
            }
        }
    }
    if let Some(corrections) = read.corrections {
        match changed(corrections, reached.corrections.unwrap_or(0)).await? {
            Err(why) => return Ok(Err(why)),
            Ok((changed, days)) => {
                pending.days.extend(days);
                let times = corrected_times(engine, &options.tenant, changed).await?;
                pending.windows.extend(times.iter().map(|time| time.div_euclid(HOUR_MICROS) * HOUR_MICROS));
            }
        }
    }
    Ok(Ok(pending))
}

/// The segments of a table that changed since a version, and the days of those that are gone; an error says why that
/// cannot be told.
async fn changed(view: &TableView, reached: i64) -> Result<Result<(TableView, Vec<i64>), String>, QueryError> {
    let latest = view.snapshot.version;
    if reached > latest {
        let table = view.table.spec().name;
        return Ok(Err(format!("it has taken in version {reached} of {table}, which is at version {latest}")));
    }
    let changes = match view.table.changes(reached, latest).await {
        Ok(changes) => changes,
        Err(error) if error.kind() == ErrorKind::Invalid => {
            return Ok(Err(format!("what changed since its last run is no longer known: {error}")));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(suspects) = suspects(&view.table, &view.snapshot, &changes).await? else {
        return Ok(Err("what changed since its last run cannot be told".to_owned()));
    };
    let snapshot = Snapshot { segments: suspects.segments, ..view.snapshot.as_ref().clone() };
    let days = suspects.days.iter().map(|day| i64::from(*day)).collect();
    Ok(Ok((TableView { snapshot: snapshot.into(), ..committed(view) }, days)))
}

fn compare(
    cells: &Cells<'_>,
    options: &VerifyOptions,
    pending: &Pending,
    rollup: &mut RollupReport,
    report: &mut VerifyReport,
) {
    let window = cells.time("window_start");
    let is_wanted = options.from_unix_micro.is_none_or(|from| window >= from)
        && options.to_unix_micro.is_none_or(|to| window + HOUR_MICROS <= to);
    if !is_wanted {
        return;
    }
    if pending.contains(window) {
        rollup.pending_windows += 1;
        return;
    }
    let (requests, leaf_spans) = (cells.number("requests"), cells.number("leaf_spans"));
    rollup.windows += 1;
    rollup.requests += requests;
    rollup.leaf_spans += leaf_spans;
    if requests == leaf_spans {
        return;
    }
    if report.differences.len() >= DIFFERENCES_MAX {
        report.is_cut = true;
        return;
    }
    let (from, to) = (time_text(window).unwrap_or_default(), time_text(window + HOUR_MICROS).unwrap_or_default());
    report.differences.push(Difference {
        equation: format!("requests of {} = leaf spans", rollup.name),
        left: requests,
        right: leaf_spans,
        signal: "traces".to_owned(),
        service_name: None,
        ledger: None,
        examples: Vec::new(),
        statement: format!(
            "SELECT trace_id, span_id, name, start_time, received_time FROM spans WHERE usage_role = 'leaf' AND CASE WHEN \
             (time_flags & 1) = 1 THEN received_time ELSE start_time END >= '{from}' AND CASE WHEN (time_flags & 1) = 1 THEN \
             received_time ELSE start_time END < '{to}' ORDER BY 1, 2"
        ),
        window_start: from,
    });
}
