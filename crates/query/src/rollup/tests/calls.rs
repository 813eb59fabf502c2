//! Span rows for tests: only what a rollup reads is told, the rest is as empty as the table allows.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, new_empty_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use spanlake_schema::{DATE, flags, spans};

use crate::rollup::windows::day_of;

/// One span, as far as a rollup reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) start: i64,
    pub(super) received: i64,
    pub(super) time_flags: i64,
    pub(super) role: Option<&'static str>,
    pub(super) status_code: &'static str,
    pub(super) service: Option<&'static str>,
    pub(super) provider: Option<&'static str>,
    pub(super) model: Option<&'static str>,
    pub(super) operation: Option<&'static str>,
    pub(super) environment: Option<&'static str>,
    pub(super) streamed: Option<bool>,
    pub(super) input_tokens: Option<i64>,
    pub(super) output_tokens: Option<i64>,
    pub(super) cache_read_tokens: Option<i64>,
    pub(super) cache_write_tokens: Option<i64>,
    pub(super) reasoning_tokens: Option<i64>,
    /// Units of 10^-12 US dollars.
    pub(super) cost: Option<i128>,
    pub(super) duration_ns: Option<i64>,
}

impl Call {
    /// A successful leaf call of `m` at a time, of which nothing else is known.
    pub(super) fn at(start: i64) -> Self {
        Self {
            start,
            received: start,
            time_flags: 0,
            role: Some("leaf"),
            status_code: "UNSET",
            service: Some("shop"),
            provider: Some("openai"),
            model: Some("m"),
            operation: Some("chat"),
            environment: None,
            streamed: None,
            input_tokens: None,
            output_tokens: None,
            cache_read_tokens: None,
            cache_write_tokens: None,
            reasoning_tokens: None,
            cost: None,
            duration_ns: None,
        }
    }

    /// The time that decides window and partition.
    pub(super) fn event_time(&self) -> i64 {
        if self.time_flags & flags::time::DATE_FROM_ARRIVAL != 0 { self.received } else { self.start }
    }
}

/// Rows of the table `spans`, partition column included.
pub(super) fn batch(calls: &[Call]) -> RecordBatch {
    let schema = spans::SPEC.arrow_schema();
    let columns = schema.fields().iter().map(|field| column(field, calls)).collect();
    RecordBatch::try_new(schema, columns).expect("every column as the table has it")
}

fn column(field: &Field, calls: &[Call]) -> ArrayRef {
    let text = |read: fn(&Call) -> Option<&'static str>| -> ArrayRef {
        Arc::new(calls.iter().map(read).collect::<StringArray>())
    };
    let int = |read: fn(&Call) -> Option<i64>| -> ArrayRef { Arc::new(calls.iter().map(read).collect::<Int64Array>()) };
    let time = |read: fn(&Call) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(calls.iter().map(read)).with_timezone("UTC"))
    };
    match field.name().as_str() {
        DATE => Arc::new(Date32Array::from_iter_values(calls.iter().map(|call| day_of(call.event_time())))),
        "trace_id" => {
            Arc::new(StringArray::from_iter_values(calls.iter().map(|call| format!("{:032x}", call.received))))
        }
        "span_id" => {
            Arc::new(StringArray::from_iter_values(calls.iter().map(|call| format!("{:016x}", call.received))))
        }
        "start_time" => time(|call| call.start),
        "received_time" => time(|call| call.received),
        "time_flags" => int(|call| Some(call.time_flags)),
        "usage_role" => text(|call| call.role),
        "status_code" => text(|call| Some(call.status_code)),
        "service_name" => text(|call| call.service),
        "provider" => text(|call| call.provider),
        "model" => text(|call| call.model),
        "operation" => text(|call| call.operation),
        "environment" => text(|call| call.environment),
        "streamed" => Arc::new(calls.iter().map(|call| call.streamed).collect::<BooleanArray>()),
        "input_tokens" => int(|call| call.input_tokens),
        "output_tokens" => int(|call| call.output_tokens),
        "cache_read_tokens" => int(|call| call.cache_read_tokens),
        "cache_write_tokens" => int(|call| call.cache_write_tokens),
        "reasoning_tokens" => int(|call| call.reasoning_tokens),
        "duration_ns" => int(|call| call.duration_ns),
        "cost_usd" => {
            let costs = calls.iter().map(|call| call.cost).collect::<Decimal128Array>();
            Arc::new(costs.with_precision_and_scale(18, 12).expect("the table's type"))
        }
        _ if field.is_nullable() => new_null_array(field.data_type(), calls.len()),
        _ => blank(field.data_type(), calls.len()),
    }
}

/// Empty text, zero, empty lists and maps.
fn blank(data_type: &DataType, rows: usize) -> ArrayRef {
    match data_type {
        DataType::Utf8 => Arc::new(StringArray::from_iter_values((0..rows).map(|_| ""))),
        DataType::Int64 => Arc::new(Int64Array::from_value(0, rows)),
        DataType::List(item) => {
            let values = new_empty_array(item.data_type());
            Arc::new(ListArray::new(Arc::clone(item), OffsetBuffer::new_zeroed(rows), values, None))
        }
        DataType::Map(entries, ordered) => {
            let values = arrow::array::AsArray::as_struct(&new_empty_array(entries.data_type())).clone();
            Arc::new(MapArray::new(Arc::clone(entries), OffsetBuffer::new_zeroed(rows), values, None, *ordered))
        }
        other => panic!("no blank value for {other}"),
    }
}
