//! What was said: the tables behind `messages`.
//!
//! A message is a list of parts: texts, tool calls, images. Each part is a row of `message_parts`. Parts of
//! [`INLINE_BYTES_MAX`] bytes and more stand in `message_contents` once a day and hash, so that a conversation that resends
//! its history is stored once. The SQL view `messages` shows every part whole, and once where several sources told it.

use crate::column::ColumnType::{Date, Int64, Text, Timestamp};
use crate::column::{Column, TableSpec};

/// The view that people read.
pub const VIEW: &str = "messages";

/// Parts of at least so many bytes stand in `message_contents`.
pub const INLINE_BYTES_MAX: usize = 1024;

/// Hexadecimal digits of `content_hash`: of contents in `message_contents` the first 128 bits of their SHA-256, by which they are
/// found; of shorter ones, which stand in their rows, XXH3 of 128 bits, by which equal ones are told.
pub const HASH_DIGITS: usize = 32;

/// The table `message_parts`: one row a message part, as told.
pub const PARTS_SPEC: TableSpec = TableSpec {
    name: "message_parts",
    comment: "Parts of prompts, answers, tool calls and tool definitions, one row a part, as each source told them",
    columns: &[
        Column::required("date", Date, "UTC day of the event, or of its arrival; the partition"),
        Column::optional("trace_id", Text, "Trace id, lower-case hex; NULL for a log record without one"),
        Column::optional("span_id", Text, "Span id, lower-case hex; NULL for a log record without one"),
        Column::required("time", Timestamp, "Start of the span, time of the event or log record"),
        Column::required("direction", Text, "system, input, output or tool_definition"),
        Column::optional(
            "position",
            Int64,
            "Place of the message among those of its direction; NULL where only time tells",
        ),
        Column::required("part", Int64, "Place of the part in its message, from 0"),
        Column::required(
            "sequence",
            Int64,
            "Place of the message in its request: orders those told by logs at one time",
        ),
        Column::optional("role", Text, "Who spoke: user, assistant, system, tool, …; as told"),
        Column::required(
            "kind",
            Text,
            "text, tool_call, tool_result, reasoning, refusal, image, audio, file, tool, raw, …",
        ),
        Column::optional("content", Text, "The part; NULL where it is told empty, or stands in message_contents"),
        Column::required("content_bytes", Int64, "Bytes of the part"),
        Column::optional("content_hash", Text, "128 bits in hex, equal for equal parts; NULL where it is empty"),
        Column::optional("tool_name", Text, "The tool that is called, defined, or that answered"),
        Column::optional("tool_call_id", Text, "The call"),
        Column::optional("finish_reason", Text, "Why the model stopped; on answers"),
        Column::optional("details", Text, "What else the message and its part told, JSON"),
        Column::required("source", Text, "attribute, event (of a span) or log"),
        Column::optional("service_name", Text, "Resource attribute service.name"),
        Column::required("received_time", Timestamp, "When the request arrived"),
    ],
    statistics: &["trace_id", "time", "service_name", "received_time"],
    bloom_filters: &["trace_id"],
    sums: &[],
    attributes: &[],
};

/// The table `message_contents`: parts of [`INLINE_BYTES_MAX`] bytes and more, by hash.
pub const CONTENTS_SPEC: TableSpec = TableSpec {
    name: "message_contents",
    comment: "Long message parts by day and hash; the same one may stand more than once, which changes nothing",
    columns: &[
        Column::required("date", Date, "The date of the parts that refer to it; the partition"),
        Column::required("content_hash", Text, "First 32 hex digits of the SHA-256 of the content"),
        Column::required("content", Text, "The content, whole"),
        Column::required("received_time", Timestamp, "When the request arrived that stored it"),
    ],
    statistics: &["content_hash", "received_time"],
    bloom_filters: &["content_hash"],
    sums: &[],
    attributes: &[],
};
