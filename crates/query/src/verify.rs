//! Whether the numbers add up: what came against what is there, and the rollup against its spans.
//!
//! ```text
//! per tenant, service, signal and minute of arrival    received = stored + refused + duplicate   within the ledger
//!                                                      stored = rows of the signal's table       ledger ↔ table
//! per tenant and hour of the event                     requests = leaf spans                     rollup ↔ spans
//! ```
//!
//! All tables are read as they were at one moment ([`spanlake_storage::TableSource::capture`]), so that a verification of a running server sees no
//! difference that is none. What cannot be compared yet is left out and said: minutes before the ledger began (stores of
//! the first version), rows of other writers of which only some tables have been committed, windows that the rollup's next run
//! will look at.

mod report;
mod rollup;
mod settled;
mod source;

pub use report::{Counts, Difference, RollupReport, SignalReport, VerifyReport};

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use spanlake_schema::{corrections, ledger, logs, metric_points, model_usage, spans};
use spanlake_storage::{Capture, TableView};

use crate::answer::Bounds;
use crate::{Parameters, QueryEngine, QueryError};
use report::{Cells, literal, time_text};
use settled::Unsettled;
use source::Pinned;

/// More differences than these are not listed.
const DIFFERENCES_MAX: usize = 1_000;
/// So many differences are shown with the rows behind them.
const EXAMPLES_MAX: usize = 20;
/// A verification may read the whole table.
const BOUNDS: Bounds = Bounds { timeout: std::time::Duration::from_secs(3_600), row_limit: usize::MAX };
const MINUTE_MICROS: i64 = 60_000_000;
/// Beyond every time that a clock may show: 9999-12-31T23:59Z.
const LAST_MINUTE_MICROS: i64 = 253_402_300_740_000_000;

const LEDGER_SQL: &str = include_str!("../../../sql/verify/ledger.sql");
const TOTALS_SQL: &str = include_str!("../../../sql/verify/totals.sql");
const SPANS_SQL: &str = include_str!("../../../sql/verify/spans_of_window.sql");

/// A signal, and the table that has a row for each of its stored items.
struct Signal {
    name: &'static str,
    table: &'static str,
    /// Shows rows of one service and minute.
    examples: Option<&'static str>,
    /// What to list in the statement that shows them all.
    columns: &'static str,
}

const SIGNALS: &[Signal] = &[
    Signal {
        name: "traces",
        table: spans::SPEC.name,
        examples: Some(SPANS_SQL),
        columns: "trace_id, span_id, name, received_time",
    },
    Signal {
        name: "logs",
        table: logs::SPEC.name,
        examples: None,
        columns: "time, severity_number, event_name, trace_id, received_time",
    },
    Signal {
        name: "metrics",
        table: metric_points::SPEC.name,
        examples: None,
        columns: "time, name, kind, series_id, received_time",
    },
];

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// The tenant.
    pub tenant: String,
    /// From this time of arrival on, microseconds since 1970-01-01; a minute that it cuts is left out.
    pub from_unix_micro: Option<i64>,
    /// Up to this time of arrival; a minute that it cuts is left out.
    pub to_unix_micro: Option<i64>,
}

/// Minutes `from <= minute < to`, microseconds.
#[derive(Clone, Copy, Debug)]
struct Minutes {
    from: i64,
    to: i64,
}

impl Minutes {
    fn parameters<'a>(&self, more: impl IntoIterator<Item = (&'a str, ScalarValue)>) -> Parameters {
        let time = |micros| ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()));
        let minutes = [("from", time(self.from)), ("to", time(self.to))];
        let values: BTreeMap<_, _> =
            minutes.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect();
        Parameters::Named(values)
    }
}

impl QueryEngine {
    /// Compares what came with what is there, and the rollup with its spans.
    ///
    /// # Errors
    /// [`crate::QueryErrorKind::Invalid`] where there is no such tenant, and as of queries.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport, QueryError> {
        let source = self.source();
        let tenant = options.tenant.as_str();
        let known: Vec<&str> = source.tables(tenant).iter().map(|spec| spec.name).collect();
        if known.is_empty() {
            return Err(QueryError::invalid(format!("there is no tenant {tenant} in this store")));
        }
        // The rollup before its source: what it claims to have taken in is there then.
        let names = [model_usage::HOUR_SPEC.name].into_iter().chain(SIGNALS.iter().map(|signal| signal.table));
        let names: Vec<&str> =
            names.chain([corrections::SPEC.name, ledger::SPEC.name]).filter(|name| known.contains(name)).collect();
        let capture = source.capture(tenant, &names).await?;
        let mut report = VerifyReport { tenant: tenant.to_owned(), ..VerifyReport::default() };
        for signal in SIGNALS {
            if let (Some(ledger), Some(items)) = (view(&capture, ledger::SPEC.name), view(&capture, signal.table)) {
                let verification = SignalVerification { engine: self, options, signal, ledger, items };
                verification.run(&capture, &mut report).await?;
            }
        }
        let rollup = view(&capture, model_usage::HOUR_SPEC.name).zip(view(&capture, spans::SPEC.name));
        if let Some((target, spans)) = rollup {
            let read = rollup::Read { spans, corrections: view(&capture, corrections::SPEC.name) };
            rollup::verify(self, options, target, read, &mut report).await?;
        }
        report.is_clean = report.differences.is_empty();
        Ok(report)
    }

    /// All rows of a statement over these tables.
    async fn verify_rows(
        &self,
        tenant: &str,
        source: Pinned,
        statement: &str,
        parameters: Parameters,
    ) -> Result<Vec<RecordBatch>, QueryError> {
        let stream = self.sql_over(source.shared(), tenant, statement, parameters, BOUNDS).await?;
        Ok(stream.try_collect().await?)
    }
}

fn view<'a>(capture: &'a Capture, name: &str) -> Option<&'a TableView> {
    capture.views.iter().find(|view| view.table.spec().name == name)
}

/// One signal's ledger against its table.
struct SignalVerification<'a> {
    engine: &'a QueryEngine,
    options: &'a VerifyOptions,
    signal: &'a Signal,
    ledger: &'a TableView,
    items: &'a TableView,
}

impl SignalVerification<'_> {
    async fn run(&self, capture: &Capture, report: &mut VerifyReport) -> Result<(), QueryError> {
        let minutes = self.minutes();
        let totals = self.rows(TOTALS_SQL, minutes).await?;
        let cells = totals.first().map(|batch| Cells { batch, row: 0 });
        let number = |name: &str| cells.as_ref().map_or(0, |cells| cells.number(name));
        let mut signal = SignalReport {
            signal: self.signal.name.to_owned(),
            table: self.signal.table.to_owned(),
            compared_from: time_text(minutes.from),
            requests: number("requests"),
            counts: Counts {
                received: number("received"),
                stored: number("stored"),
                refused: number("refused"),
                duplicate: number("duplicate"),
            },
            undecodable_requests: number("undecodable_requests"),
            undecodable_bytes: number("undecodable_bytes"),
            rows: number("item_rows"),
            unsettled: 0,
        };
        let unsettled = Unsettled::between(self.ledger, self.items, capture.writer.as_deref());
        for batch in self.rows(LEDGER_SQL, minutes).await? {
            for row in 0..batch.num_rows() {
                let cells = Cells { batch: &batch, row };
                signal.unsettled += self.compare(&cells, &unsettled, report).await?;
            }
        }
        report.signals.push(signal);
        Ok(())
    }

    /// From where the ledger has every request, within what was asked for.
    fn minutes(&self) -> Minutes {
        const TOGETHER_MS: i64 = 60_000;
        let created = |view: &TableView| view.snapshot.created_time_ms;
        let begins = match (created(self.ledger), created(self.items)) {
            // Made together with the table, it knows everything that the table holds.
            (Some(ledger), Some(items)) if items + TOGETHER_MS >= ledger => i64::MIN,
            (Some(ledger), _) => ceil_minute(ledger.saturating_mul(1_000)),
            (None, _) => i64::MIN,
        };
        let from = self.options.from_unix_micro.map_or(0, ceil_minute);
        let to = self.options.to_unix_micro.map_or(LAST_MINUTE_MICROS, floor_minute);
        Minutes { from: from.max(begins), to: to.min(LAST_MINUTE_MICROS) }
    }

    /// What is wrong in one service's minute. Returns 1 where it is not settled yet, else 0.
    async fn compare(
        &self,
        cells: &Cells<'_>,
        unsettled: &Unsettled,
        report: &mut VerifyReport,
    ) -> Result<u64, QueryError> {
        let number = |name: &str| cells.number(name);
        let counts = Counts {
            received: number("received"),
            stored: number("stored"),
            refused: number("refused"),
            duplicate: number("duplicate"),
        };
        let (rows, minute) = (number("item_rows"), cells.time("window_start"));
        let fates = counts.stored + counts.refused + counts.duplicate;
        let mut found = Vec::new();
        if counts.received != fates {
            found.push(("received = stored + refused + duplicate".to_owned(), counts.received, fates));
        }
        let is_unsettled = counts.stored != rows && unsettled.explains(minute, rows - counts.stored);
        if counts.stored != rows && !is_unsettled {
            found.push((format!("stored = rows of {}", self.signal.table), counts.stored, rows));
        }
        let service_name = cells.text("service_name");
        for (equation, left, right) in found {
            if report.differences.len() >= DIFFERENCES_MAX {
                report.is_cut = true;
                break;
            }
            let examples = if report.differences.len() < EXAMPLES_MAX {
                self.examples(service_name.as_deref(), minute).await?
            } else {
                Vec::new()
            };
            report.differences.push(Difference {
                equation,
                left,
                right,
                signal: self.signal.name.to_owned(),
                service_name: service_name.clone(),
                window_start: time_text(minute).unwrap_or_default(),
                ledger: Some(counts),
                examples,
                statement: self.statement(service_name.as_deref(), minute),
            });
        }
        Ok(u64::from(is_unsettled))
    }

    /// Some of the rows behind a difference.
    async fn examples(&self, service_name: Option<&str>, minute: i64) -> Result<Vec<serde_json::Value>, QueryError> {
        let Some(statement) = self.signal.examples else { return Ok(Vec::new()) };
        let minutes = Minutes { from: minute, to: minute + MINUTE_MICROS };
        let service = ScalarValue::Utf8(service_name.map(str::to_owned));
        let parameters = minutes.parameters([("service_name", service)]);
        let source = Pinned::new([("items", self.items)]);
        let batches = self.engine.verify_rows(&self.options.tenant, source, statement, parameters).await?;
        report::json_rows(&batches)
    }

    /// SQL that shows all of them.
    fn statement(&self, service_name: Option<&str>, minute: i64) -> String {
        let service =
            service_name.map_or("service_name IS NULL".to_owned(), |name| format!("service_name = {}", literal(name)));
        let (from, to) = (time_text(minute), time_text(minute + MINUTE_MICROS));
        format!(
            "SELECT {} FROM {} WHERE {service} AND received_time >= '{}' AND received_time < '{}' ORDER BY 1, 2",
            self.signal.columns,
            self.signal.table,
            from.unwrap_or_default(),
            to.unwrap_or_default(),
        )
    }

    async fn rows(&self, statement: &str, minutes: Minutes) -> Result<Vec<RecordBatch>, QueryError> {
        let source = Pinned::new([("ledger", self.ledger), ("items", self.items)]);
        let parameters = minutes.parameters([("signal", ScalarValue::Utf8(Some(self.signal.name.to_owned())))]);
        self.engine.verify_rows(&self.options.tenant, source, statement, parameters).await
    }
}

fn floor_minute(micros: i64) -> i64 {
    micros.div_euclid(MINUTE_MICROS).saturating_mul(MINUTE_MICROS)
}

fn ceil_minute(micros: i64) -> i64 {
    floor_minute(micros.saturating_add(MINUTE_MICROS - 1))
}
