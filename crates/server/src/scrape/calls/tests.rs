//! Rows of `spans` in, series out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{Field, Schema};
use proptest::prelude::*;
use spanlake_schema::spans;

use super::*;
use crate::scrape::page::HistogramValue;

/// What a row says; all else of it is NULL.
#[derive(Clone, Debug, Default)]
struct Row {
    role: Option<&'static str>,
    model: Option<String>,
    status: &'static str,
    duration_ns: Option<i64>,
    input_tokens: Option<i64>,
    cache_read_tokens: Option<i64>,
    cost: Option<i128>,
}

fn call(model: &str) -> Row {
    Row { role: Some("leaf"), model: Some(model.to_owned()), status: "UNSET", ..Row::default() }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let integers = |read: fn(&Row) -> Option<i64>| Arc::new(rows.iter().map(read).collect::<Int64Array>()) as ArrayRef;
    let texts = |read: fn(&Row) -> Option<&str>| Arc::new(rows.iter().map(read).collect::<StringArray>()) as ArrayRef;
    let cost = rows.iter().map(|row| row.cost).collect::<Decimal128Array>().with_precision_and_scale(18, 12);
    let mut columns = BTreeMap::from([
        ("usage_role", texts(|row| row.role)),
        ("model", texts(|row| row.model.as_deref())),
        ("status_code", texts(|row| Some(row.status))),
        ("duration_ns", integers(|row| row.duration_ns)),
        ("input_tokens", integers(|row| row.input_tokens)),
        ("cache_read_tokens", integers(|row| row.cache_read_tokens)),
        ("cost_usd", Arc::new(cost.expect("the column's type")) as ArrayRef),
    ]);
    let schema = spans::SPEC.arrow_schema();
    let fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let arrays = fields
        .iter()
        .map(|field| {
            columns.remove(field.name().as_str()).unwrap_or_else(|| new_null_array(field.data_type(), rows.len()))
        })
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("rows of spans")
}

/// The number of a series by its family and the values of some labels.
fn number(totals: &CallTotals, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let found = series(totals, name, wanted);
    let [one] = found.as_slice() else { panic!("{name} {wanted:?}: {found:?}") };
    match &one.value {
        Value::Number(value) => *value,
        Value::Histogram(_) => panic!("{name} is a histogram"),
    }
}

fn histogram(totals: &CallTotals, name: &str) -> HistogramValue {
    match series(totals, name, &[]).remove(0).value {
        Value::Histogram(value) => *value,
        Value::Number(_) => panic!("{name} is a number"),
    }
}

fn series(totals: &CallTotals, name: &str, wanted: &[(&str, &str)]) -> Vec<Series> {
    let families = totals.families();
    let family = families.into_iter().find(|family| family.name == name).unwrap_or_else(|| panic!("no family {name}"));
    let has = |series: &Series, (name, value): &(&str, &str)| {
        series.labels.iter().any(|label| label.0 == *name && label.1 == *value)
    };
    family.series.into_iter().filter(|series| wanted.iter().all(|label| has(series, label))).collect()
}

/// Guarantee: only calls count, by model and outcome; what is unknown adds nothing.
#[test]
fn calls_are_counted_by_key() {
    let totals = CallTotals::default();
    let rows = [
        Row { input_tokens: Some(10), cost: Some(1_500_000_000_000), ..call("a") },
        Row { input_tokens: Some(7), cache_read_tokens: Some(3), ..call("a") },
        Row { status: "ERROR", ..call("a") },
        Row { input_tokens: Some(1), ..call("b") },
        Row { role: Some("aggregate"), input_tokens: Some(1_000), ..call("a") },
        Row { role: Some("duplicate"), input_tokens: Some(1_000), ..call("a") },
        Row { role: None, input_tokens: Some(1_000), ..call("a") },
        Row { model: None, ..call("") },
        Row { input_tokens: Some(-5), ..call("b") },
    ];
    totals.calls_stored(&[batch(&rows[..4]), batch(&rows[4..])]);
    let ok = [("model", "a"), ("status", "ok")];
    assert_eq!(number(&totals, "spanlake_llm_requests_total", &ok), 2.0);
    assert_eq!(number(&totals, "spanlake_llm_requests_total", &[("model", "a"), ("status", "error")]), 1.0);
    assert_eq!(number(&totals, "spanlake_llm_requests_total", &[("model", "")]), 1.0);
    assert_eq!(number(&totals, "spanlake_llm_input_tokens_total", &ok), 17.0);
    assert_eq!(number(&totals, "spanlake_llm_cache_read_tokens_total", &ok), 3.0);
    assert_eq!(number(&totals, "spanlake_llm_cost_usd_total", &ok), 1.5);
    assert_eq!(number(&totals, "spanlake_llm_unpriced_requests_total", &ok), 1.0);
    assert_eq!(number(&totals, "spanlake_llm_requests_total", &[("model", "b")]), 2.0);
    assert_eq!(number(&totals, "spanlake_llm_input_tokens_total", &[("model", "b")]), 1.0, "a counter never falls");
    assert_eq!(number(&totals, "spanlake_llm_label_sets", &[]), 4.0);
    assert!(series(&totals, "spanlake_llm_requests_total", &[("model", OTHER)]).is_empty());
}

/// Guarantee: there are never more keys than the bound and one, and no call is lost.
#[test]
fn keys_beyond_the_bound_are_folded_into_one() {
    let totals = CallTotals::with_keys(3);
    for round in 0..2 {
        let rows: Vec<Row> =
            (0..10).map(|model| Row { input_tokens: Some(1), ..call(&format!("model {model}")) }).collect();
        totals.calls_stored(&[batch(&rows)]);
        let all = series(&totals, "spanlake_llm_requests_total", &[]);
        assert_eq!(all.len(), 4);
        let folded = number(&totals, "spanlake_llm_requests_total", &[("model", OTHER), ("status", OTHER)]);
        assert_eq!(folded, 7.0 * f64::from(round + 1));
        assert_eq!(number(&totals, "spanlake_llm_input_tokens_total", &[("service_name", OTHER)]), folded);
        assert_eq!(number(&totals, "spanlake_llm_folded_requests_total", &[]), folded);
        assert_eq!(number(&totals, "spanlake_llm_label_sets", &[]), 3.0);
    }
    assert_eq!(series(&totals, "spanlake_llm_requests_total", &[]).len(), 4);
}

/// Guarantee: a label is no longer than its bound and ends with a whole character.
#[test]
fn long_labels_are_cut() {
    let totals = CallTotals::default();
    totals.calls_stored(&[batch(&[call(&"ü".repeat(10_000)), call(&format!("x{}", "ü".repeat(10_000)))])]);
    assert_eq!(number(&totals, "spanlake_llm_requests_total", &[("model", &"ü".repeat(64))]), 1.0);
    assert_eq!(number(&totals, "spanlake_llm_requests_total", &[("model", &format!("x{}", "ü".repeat(63)))]), 1.0);
}

/// Guarantee: a key stays small whatever is sent: values over all magnitudes, as many as there are.
#[test]
fn a_key_takes_bounded_memory() {
    // Buckets that lie so far apart, down from one next to the other.
    for gap in 1..=16 {
        let mut distribution = Distribution::new(MEASURED[0].measure);
        let mut schema = i32::MAX;
        for at in (0..63 * 8).step_by(gap) {
            distribution.add_all(&[2f64.powf(f64::from(at) / 8.0 + 0.06) as i64]);
            let now = distribution.value().exponential.expect("exponential buckets").scale();
            assert!(now <= schema, "the schema only becomes coarser");
            schema = now;
            assert!(distribution.memory_bytes() < 9 * 1024, "{gap}: {}", distribution.memory_bytes());
        }
        assert!((1..=8).contains(&schema), "{gap}: {schema}");
    }
}

proptest! {
    /// Guarantee: classic buckets are the exact counts of the values, exponential ones hold each value between their bounds, and
    /// both have the exact count and sum.
    #[test]
    fn buckets_count_the_values(values in prop::collection::vec(
        prop_oneof![0i64..200_000_000_000, Just(10_000_000), Just(10_000_001), Just(0)], 1..60), split in 0usize..60) {
        let totals = CallTotals::default();
        let rows: Vec<Row> = values.iter().map(|value| Row { duration_ns: Some(*value), ..call("a") }).collect();
        let (first, second) = rows.split_at(split.min(rows.len()));
        totals.calls_stored(&[batch(first), batch(second)]);
        let histogram = histogram(&totals, "spanlake_llm_request_duration_seconds");
        prop_assert_eq!(histogram.count, values.len() as u64);
        prop_assert_eq!(histogram.sum, values.iter().sum::<i64>() as f64 / 1e9);
        for ((bound, count), bound_ns) in histogram.buckets.iter().zip(bounds::DURATION_NS) {
            prop_assert_eq!(*bound, *bound_ns as f64 / 1e9);
            prop_assert_eq!(*count, values.iter().filter(|value| *value <= bound_ns).count() as u64);
        }
        let exponential = histogram.exponential.expect("exponential buckets");
        let native = exponential.to_native().expect("a native histogram");
        prop_assert!((-4..=8).contains(&native.schema));
        let back = spanlake_metrics::Histogram::from_native(&native).expect("the same");
        prop_assert_eq!(back.count(), values.len() as u64);
        for bucket in back.buckets() {
            let seconds = values.iter().map(|value| *value as f64 / 1e9);
            let held = seconds.filter(|value| (*value == 0.0 && bucket.upper == 0.0)
                || (bucket.lower < *value && *value <= bucket.upper)).count();
            prop_assert_eq!(held as u64, bucket.count);
        }
    }
}
