//! What the rollup must say, computed from the calls themselves, and what it says.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};

use spanlake_metrics::{Histogram, Kind};

use super::calls::Call;
use crate::rollup::windows::day_of;

pub(super) const HOUR: i64 = 3_600_000_000;

/// Window start, the five optional keys in the table's order, status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) window: i64,
    pub(super) keys: [Option<String>; 5],
    pub(super) status: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) requests: i64,
    pub(super) errors: i64,
    pub(super) streamed: i64,
    /// Input, output, cache read, cache write, reasoning.
    pub(super) tokens: [Option<i64>; 5],
    pub(super) cost: Option<i128>,
    pub(super) unpriced: i64,
    pub(super) duration_min: Option<i64>,
    pub(super) duration_max: Option<i64>,
    pub(super) duration_sum: Option<i64>,
    pub(super) duration_count: i64,
    /// The bits of the mean: the very same double.
    pub(super) duration_mean: Option<u64>,
    /// Encoded.
    pub(super) duration: Option<Vec<u8>>,
    pub(super) cost_histogram: Option<Vec<u8>>,
}

/// The sum of what is known; none where nothing is.
fn sum(values: impl Iterator<Item = Option<i64>>) -> Option<i128> {
    values.flatten().map(i128::from).reduce(|left, right| left + right)
}

fn fitting(sum: Option<i128>) -> Option<i64> {
    i64::try_from(sum?).ok()
}

pub(super) fn expected<'a>(calls: impl Iterator<Item = &'a Call>) -> BTreeMap<Key, Totals> {
    let mut groups: BTreeMap<Key, Vec<&Call>> = BTreeMap::new();
    for call in calls.filter(|call| call.role == Some("leaf")) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let key = Key {
            window: call.event_time().div_euclid(HOUR) * HOUR,
            keys: [call.service, call.provider, call.model, call.operation, call.environment].map(owned),
            status: if call.status_code == "ERROR" { "error" } else { "ok" }.to_owned(),
        };
        groups.entry(key).or_default().push(call);
    }
    groups.into_iter().map(|(key, calls)| (key, totals(&calls))).collect()
}

fn totals(calls: &[&Call]) -> Totals {
    let count = |holds: fn(&Call) -> bool| calls.iter().filter(|call| holds(call)).count() as i64;
    let tokens = [
        |call: &Call| call.input_tokens,
        |call: &Call| call.output_tokens,
        |call: &Call| call.cache_read_tokens,
        |call: &Call| call.cache_write_tokens,
        |call: &Call| call.reasoning_tokens,
    ];
    let durations = || calls.iter().map(|call| call.duration_ns);
    let duration_sum = sum(durations());
    let duration_count = count(|call| call.duration_ns.is_some());
    Totals {
        requests: calls.len() as i64,
        errors: count(|call| call.status_code == "ERROR"),
        streamed: count(|call| call.streamed == Some(true)),
        tokens: tokens.map(|read| fitting(sum(calls.iter().map(|call| read(call))))),
        cost: calls.iter().filter_map(|call| call.cost).reduce(|left, right| left + right),
        unpriced: count(|call| call.cost.is_none()),
        duration_min: durations().flatten().min(),
        duration_max: durations().flatten().max(),
        duration_sum: fitting(duration_sum),
        duration_count,
        duration_mean: duration_sum.map(|sum| (sum as f64 / duration_count as f64).to_bits()),
        duration: histogram(Kind::INTEGER, durations().flatten().map(i128::from)),
        cost_histogram: histogram(Kind::Decimal { scale: 12 }, calls.iter().filter_map(|call| call.cost)),
    }
}

fn histogram(kind: Kind, units: impl Iterator<Item = i128>) -> Option<Vec<u8>> {
    let mut histogram = Histogram::new(kind);
    units.for_each(|units| histogram.insert_units(units, 1).expect("it fits"));
    (histogram.count() > 0).then(|| histogram.encode())
}

/// Rows of the rollup's table with their revision, or rows of its SELECT (then the revision is 0). No key may come twice.
pub(super) fn read(batches: &[RecordBatch]) -> BTreeMap<Key, (Totals, i64)> {
    let mut rows = BTreeMap::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let (key, totals) = read_row(batch, row);
            if let Some(date) = batch.column_by_name("date") {
                assert_eq!(date.as_primitive::<Date32Type>().value(row), day_of(key.window), "{key:?}");
            }
            let revision = batch.column_by_name("revision").map_or(0, |column| int(column, row).expect("required"));
            assert_eq!(rows.insert(key.clone(), (totals, revision)), None, "{key:?} stands twice");
        }
    }
    rows
}

fn read_row(batch: &RecordBatch, row: usize) -> (Key, Totals) {
    let text = |name: &str| {
        let column = batch[name].as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let bytes = |name: &str| {
        let column = batch[name].as_binary::<i32>();
        column.is_valid(row).then(|| column.value(row).to_vec())
    };
    let optional = |name: &str| int(&batch[name], row);
    let required = |name: &str| optional(name).unwrap_or_else(|| panic!("{name} is NULL"));
    let cost = batch["cost_usd"].as_primitive::<Decimal128Type>();
    let mean = batch["duration_ns_mean"].as_primitive::<Float64Type>();
    let key = Key {
        window: batch["window_start"].as_primitive::<TimestampMicrosecondType>().value(row),
        keys: ["service_name", "provider", "model", "operation", "environment"].map(text),
        status: text("status").expect("every row has a status"),
    };
    let tokens = ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"];
    let totals = Totals {
        requests: required("requests"),
        errors: required("errors"),
        streamed: required("streamed"),
        tokens: tokens.map(optional),
        cost: cost.is_valid(row).then(|| cost.value(row)),
        unpriced: required("unpriced_requests"),
        duration_min: optional("duration_ns_min"),
        duration_max: optional("duration_ns_max"),
        duration_sum: optional("duration_ns_sum"),
        duration_count: required("duration_count"),
        duration_mean: mean.is_valid(row).then(|| mean.value(row).to_bits()),
        duration: bytes("duration"),
        cost_histogram: bytes("cost_histogram"),
    };
    (key, totals)
}

fn int(column: &ArrayRef, row: usize) -> Option<i64> {
    let column = column.as_primitive::<Int64Type>();
    column.is_valid(row).then(|| column.value(row))
}
