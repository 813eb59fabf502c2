//! The table `logs`: one row a log record, events included.

use crate::column::ColumnType::{Date, Int64, Text, TextMap, Timestamp};
use crate::column::{Column, TableSpec};

/// The table `logs`.
pub const SPEC: TableSpec = TableSpec {
    name: "logs",
    comment: "OpenTelemetry log records and events",
    columns: COLUMNS,
    statistics: &["trace_id", "time", "severity_number", "event_name", "service_name", "received_time"],
    bloom_filters: &["trace_id"],
    sums: &[],
    attributes: &[],
};

const COLUMNS: &[Column] = &[
    Column::required("date", Date, "UTC day of the event, or of its arrival (time_flags); the partition"),
    Column::required(
        "time",
        Timestamp,
        "When it happened, else when it was observed, else when it arrived (time_flags)",
    ),
    Column::optional("time_unix_nano", Int64, "When it happened, exact nanoseconds (bit pattern of a u64)"),
    Column::optional(
        "observed_time_unix_nano",
        Int64,
        "When it was observed, exact nanoseconds (bit pattern of a u64)",
    ),
    Column::required("time_flags", Int64, "Bits: date from arrival 1, time from observation 32, time from arrival 64"),
    Column::optional("trace_id", Text, "Trace id, lower-case hex; NULL where none, or an invalid one, was sent"),
    Column::optional("span_id", Text, "Span id, lower-case hex; NULL where none, or an invalid one, was sent"),
    Column::required("flags", Int64, "W3C trace flags, 32 bits"),
    Column::optional("severity_number", Int64, "1 to 24, or the number sent; NULL where unspecified"),
    Column::optional("severity_text", Text, "Severity as the source names it"),
    Column::optional("event_name", Text, "The field event_name, else the attribute event.name"),
    Column::optional("service_name", Text, "Resource attribute service.name"),
    Column::optional("environment", Text, "Deployment environment"),
    Column::optional("scope_name", Text, "Instrumentation scope; NULL where none was sent"),
    Column::optional("scope_version", Text, "Version of the instrumentation scope"),
    Column::optional("scope_attributes", TextMap, "Attributes of the scope"),
    Column::optional("scope_attribute_types", Text, "Types of scope_attributes"),
    Column::optional("resource_schema_url", Text, "Schema URL of the resource"),
    Column::optional("scope_schema_url", Text, "Schema URL of the scope's log records"),
    Column::optional("body", Text, "Text as it is, other types as JSON; NULL where no body was sent"),
    Column::optional("body_type", Text, "Type of body, as in attribute_types; NULL where no body was sent"),
    Column::required("reading_flags", Int64, "Bits: how the record was read"),
    Column::required("attributes", TextMap, "Attributes"),
    Column::required("attribute_types", Text, "Types of attributes"),
    Column::optional("invalid_trace_id", Text, "What was sent for a trace id and is none, lower-case hex"),
    Column::optional("invalid_span_id", Text, "What was sent for a span id and is none, lower-case hex"),
    Column::optional("resource_attributes", TextMap, "Resource attributes; NULL where no resource was sent"),
    Column::optional("resource_attribute_types", Text, "Types of resource_attributes"),
    Column::optional("resource_entity_refs", Text, "Entity references of the resource, JSON"),
    Column::required("dropped_attributes_count", Int64, "Attributes the sender dropped"),
    Column::required("resource_dropped_attributes_count", Int64, "Resource attributes the sender dropped"),
    Column::required("scope_dropped_attributes_count", Int64, "Scope attributes the sender dropped"),
    Column::required("received_time", Timestamp, "When the request arrived"),
];
