use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::QueryError;

/// What a verification found.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct VerifyReport {
    /// The tenant.
    pub tenant: String,
    /// Whether every equation holds that could be looked at.
    pub is_clean: bool,
    /// What was compared of each signal; a store without a ledger has none.
    pub signals: Vec<SignalReport>,
    /// The rollup against its spans.
    pub rollup: Option<RollupReport>,
    /// Where an equation does not hold.
    pub differences: Vec<Difference>,
    /// Whether there are more differences than are listed.
    pub is_cut: bool,
}

/// Totals of one signal.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SignalReport {
    /// `traces`, `metrics` or `logs`.
    pub signal: String,
    /// The table that has a row for each stored item.
    pub table: String,
    /// The first minute of arrival that was compared; earlier ones have no ledger, or were not asked for.
    pub compared_from: Option<String>,
    /// Requests that could be read.
    pub requests: i64,
    /// What became of their items.
    #[serde(flatten)]
    pub counts: Counts,
    /// Requests that could not be read.
    pub undecodable_requests: i64,
    /// Their bytes.
    pub undecodable_bytes: i64,
    /// Rows of the table.
    pub rows: i64,
    /// Services and minutes that another writer has not committed to all tables yet.
    pub unsettled: u64,
}

/// Items by what became of them, as the ledger has them.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Items that came.
    pub received: i64,
    /// Items stored.
    pub stored: i64,
    /// Items refused by partial success.
    pub refused: i64,
    /// Items of requests that had been stored before.
    pub duplicate: i64,
}

/// The rollup against its spans.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RollupReport {
    /// The rollup.
    pub name: String,
    /// Why nothing was compared.
    pub not_compared: Option<String>,
    /// Hours compared.
    pub windows: u64,
    /// Hours that changed since the rollup's last run, which are left out.
    pub pending_windows: u64,
    /// Requests that the rollup counts in the hours compared.
    pub requests: i64,
    /// Leaf spans in them.
    pub leaf_spans: i64,
}

/// An equation that does not hold.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Difference {
    /// The equation.
    pub equation: String,
    /// Its left side.
    pub left: i64,
    /// Its right side.
    pub right: i64,
    /// The signal.
    pub signal: String,
    /// The service; absent where the resource names none, and for rollups, which are compared over all services.
    pub service_name: Option<String>,
    /// The minute of arrival, or the hour of the event.
    pub window_start: String,
    /// What the ledger says there.
    pub ledger: Option<Counts>,
    /// Some of the rows behind it, those that are there several times first.
    pub examples: Vec<Value>,
    /// SQL that lists all of them.
    pub statement: String,
}

/// One row of an answer.
pub(super) struct Cells<'a> {
    pub(super) batch: &'a RecordBatch,
    pub(super) row: usize,
}

impl Cells<'_> {
    fn column(&self, name: &str) -> &dyn Array {
        let column = self.batch.column_by_name(name);
        column.unwrap_or_else(|| panic!("invariant: the statement has a column {name}")).as_ref()
    }

    pub(super) fn number(&self, name: &str) -> i64 {
        self.column(name).as_primitive::<Int64Type>().value(self.row)
    }

    pub(super) fn time(&self, name: &str) -> i64 {
        self.column(name).as_primitive::<TimestampMicrosecondType>().value(self.row)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        let column = self.column(name).as_string::<i32>();
        column.is_valid(self.row).then(|| column.value(self.row).to_owned())
    }
}

/// A time for people and for SQL; `None` for the beginning of all times.
pub(super) fn time_text(micros: i64) -> Option<String> {
    let time = DateTime::from_timestamp_micros(micros)?;
    (micros > 0).then(|| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// A literal of SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Rows as JSON objects.
pub(super) fn json_rows(batches: &[RecordBatch]) -> Result<Vec<Value>, QueryError> {
    let failed = |error: String| QueryError::internal(format!("rows cannot be written as JSON: {error}"));
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    writer.write_batches(&batches).and_then(|()| writer.finish()).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&writer.into_inner()).map_err(|error| failed(error.to_string()))
}
