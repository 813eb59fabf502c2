//! Which segments can hold rows that a query wants, by what the Delta log says about them.
//!
//! The log's statistics are JSON: numbers pass through doubles, timestamps are cut to milliseconds, and any of it may be
//! missing. Bounds are therefore widened outward before they decide, so that pruning never loses a row.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, SchemaRef};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use serde_json::Value;
use spanlake_schema::DATE;
use spanlake_storage::Segment;

/// The segments that may hold rows for which `predicate` is true.
pub(crate) fn prune(
    segments: &[Arc<Segment>],
    schema: &SchemaRef,
    predicate: Option<Arc<dyn PhysicalExpr>>,
) -> Result<Vec<Arc<Segment>>> {
    let Some(predicate) = predicate else { return Ok(segments.to_vec()) };
    let pruning = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).try_build(predicate)?;
    if pruning.always_true() {
        return Ok(segments.to_vec());
    }
    let kept = pruning.prune(&LogStatistics { segments, schema })?;
    Ok(segments.iter().zip(kept).filter(|(_, kept)| *kept).map(|(segment, _)| Arc::clone(segment)).collect())
}

/// What the Delta log knows, one entry a segment.
struct LogStatistics<'a> {
    segments: &'a [Arc<Segment>],
    schema: &'a SchemaRef,
}

#[derive(Clone, Copy)]
enum Bound {
    Min,
    Max,
}

impl LogStatistics<'_> {
    fn bounds(&self, column: &Column, bound: Bound) -> Option<ArrayRef> {
        if column.name == DATE {
            let dates: Date32Array = self.segments.iter().map(|segment| segment.date).collect();
            return Some(Arc::new(dates));
        }
        let field = self.schema.field_with_name(&column.name).ok()?;
        let key = match bound {
            Bound::Min => "minValues",
            Bound::Max => "maxValues",
        };
        let values = self.segments.iter().map(|segment| segment.stats.as_ref()?.get(key)?.get(&column.name));
        let array: ArrayRef = match field.data_type() {
            DataType::Utf8 => Arc::new(values.map(|value| value?.as_str()).collect::<StringArray>()),
            DataType::Int64 => Arc::new(values.map(|value| value?.as_i64()).collect::<Int64Array>()),
            DataType::Date32 => Arc::new(values.map(|value| days(value?)).collect::<Date32Array>()),
            DataType::Timestamp(_, zone) => Arc::new(
                values
                    .map(|value| micros(value?, bound))
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone_opt(zone.clone()),
            ),
            DataType::Decimal128(precision, scale) => Arc::new(
                values
                    .map(|value| decimal(value?, *scale, bound))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(*precision, *scale)
                    .ok()?,
            ),
            _ => return None,
        };
        (array.null_count() < array.len()).then_some(array)
    }
}

impl PruningStatistics for LogStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, Bound::Min)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, Bound::Max)
    }

    fn num_containers(&self) -> usize {
        self.segments.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts: UInt64Array = self
            .segments
            .iter()
            .map(|segment| match (column.name == DATE, segment.date) {
                (true, Some(_)) => Some(0),
                (true, None) => segment.rows(),
                _ => segment.stats.as_ref()?.get("nullCount")?.get(&column.name)?.as_u64(),
            })
            .collect();
        (counts.null_count() < counts.len()).then(|| Arc::new(counts) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts: UInt64Array = self.segments.iter().map(|segment| segment.rows()).collect();
        Some(Arc::new(counts))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// The bounds of a column of times in a segment, microseconds, where the log has them.
pub(crate) fn time_bounds(segment: &Segment, column: &str) -> Option<(i64, i64)> {
    let stats = segment.stats.as_ref()?;
    let bound = |key: &str, bound| micros(stats.get(key)?.get(column)?, bound);
    Some((bound("minValues", Bound::Min)?, bound("maxValues", Bound::Max)?))
}

fn days(value: &Value) -> Option<i32> {
    let date: NaiveDate = value.as_str()?.parse().ok()?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

/// Writers cut timestamps to milliseconds, some of them downward for the maximum too: that one gets the rest back.
fn micros(value: &Value, bound: Bound) -> Option<i64> {
    let text = value.as_str()?;
    let micros = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.timestamp_micros(),
        Err(_) => {
            let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f");
            let time = time.or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"));
            time.ok()?.and_utc().timestamp_micros()
        }
    };
    match bound {
        Bound::Min => Some(micros),
        Bound::Max => micros.checked_add(999),
    }
}

/// A double holds 53 bits of a decimal; the bound moves outward by more than what was lost.
fn decimal(value: &Value, scale: i8, bound: Bound) -> Option<i128> {
    let scaled = value.as_f64()? * 10f64.powi(i32::from(scale));
    let slack = scaled.abs() * 2f64.powi(-50) + 1.0;
    let widened = match bound {
        Bound::Min => (scaled - slack).floor(),
        Bound::Max => (scaled + slack).ceil(),
    };
    (widened.is_finite() && widened.abs() < 1e38).then_some(widened as i128)
}
