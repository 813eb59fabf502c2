//! The table `span_corrections`: what was learned of a span after its row was written.
//!
//! A late child tells that its parent is a wrapper, a late log record tells the usage, a price changes: the row of `spans`
//! stays as it is, and a row here says what its columns are from now on. Several rows may correct one span, each some of its
//! columns; of each column the highest `revision` holds. Queries of `spans` see corrected values.
//!
//! A row of `spans` is addressed by `trace_id`, `span_id`, `received_time` and `telling`, since the same span may be told
//! more than once; `date` is the same in both tables.

mod rows;

pub use rows::{Address, Correction, Reason, Value, batch, dollars};

use crate::column::ColumnType::{Date, Int64, Text, TextList, Timestamp};
use crate::column::{Column, TableSpec};
use crate::spans;

/// The table `span_corrections`.
pub const SPEC: TableSpec = TableSpec {
    name: "span_corrections",
    comment: "What was learned of spans after their rows were written; of each column the highest revision holds",
    columns: &COLUMNS,
    statistics: &["trace_id", "start_time", "received_time", "recorded_time"],
    bloom_filters: &["trace_id"],
    sums: &[],
    attributes: &[],
};

/// Columns that say which row of `spans` is corrected. They have the values that they have there.
pub const ADDRESS: &[&str] = &["date", "trace_id", "span_id", "received_time", "telling"];

const HEAD: [Column; 10] = [
    Column::required("date", Date, "The span's date; the partition"),
    Column::required("trace_id", Text, "The span's trace id"),
    Column::required("span_id", Text, "The span's id"),
    Column::required("received_time", Timestamp, "The received_time of the span's row"),
    Column::optional("telling", Int64, "The telling of the span's row"),
    Column::required("start_time", Timestamp, "The start_time of the span's row"),
    Column::required("revision", Int64, "Of several corrections of a column the highest holds; nanoseconds since 1970"),
    Column::required("recorded_time", Timestamp, "When the correction was made"),
    Column::required("reason", Text, "role, facts, price or rules: why the span is corrected"),
    Column::required("changed_columns", TextList, "The columns below that are corrected; the others say nothing"),
];

/// The columns of `spans` that can be corrected: those that say what a span means.
pub const CORRECTABLE: &[&str] = &[
    "environment",
    "operation",
    "provider",
    "request_model",
    "response_model",
    "model",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "total_tokens",
    "streamed",
    "finish_reasons",
    "time_to_first_token_ns",
    "time_per_output_token_ns",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "choice_count",
    "conversation_id",
    "user_id",
    "session_id",
    "agent_id",
    "agent_name",
    "workflow_name",
    "tool_name",
    "tool_call_id",
    "prompt_name",
    "prompt_version",
    "response_id",
    "error_type",
    "service_tier",
    "usage_role",
    "usage_source",
    "unattributed_tokens",
    "cost_usd",
    "cost_reported_usd",
    "price_source",
    "dialect",
    "reading_flags",
    "http_request_method",
    "http_response_status_code",
    "http_route",
    "http_url",
    "db_system",
    "db_namespace",
    "db_operation",
    "db_query_text",
    "server_address",
    "server_port",
    "tool_type",
    "agent_version",
    "data_source_id",
    "output_type",
    "embedding_dimensions",
    "encoding_formats",
    "mcp_method",
    "mcp_session_id",
    "mcp_protocol_version",
    "mcp_resource_uri",
    "jsonrpc_request_id",
    "jsonrpc_protocol_version",
    "rpc_response_status_code",
];

const COLUMNS: [Column; HEAD.len() + CORRECTABLE.len()] = {
    let mut columns = [HEAD[0]; HEAD.len() + CORRECTABLE.len()];
    let mut at = 0;
    while at < columns.len() {
        columns[at] = if at < HEAD.len() { HEAD[at] } else { corrected(CORRECTABLE[at - HEAD.len()]) };
        at += 1;
    }
    columns
};

/// The column of `spans` as it stands here: NULL where it is not corrected.
const fn corrected(name: &str) -> Column {
    let columns = spans::SPEC.columns;
    let mut at = 0;
    while at < columns.len() {
        if is_same(columns[at].name, name) {
            return Column::optional(columns[at].name, columns[at].column_type, columns[at].comment);
        }
        at += 1;
    }
    panic!("a column that can be corrected is one of spans")
}

const fn is_same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_stands_in_both_tables() {
        for name in ADDRESS {
            let (here, there) = (SPEC.columns[SPEC.index_of(name)], spans::SPEC.columns[spans::SPEC.index_of(name)]);
            assert_eq!((here.column_type, here.nullable), (there.column_type, there.nullable), "{name}");
        }
    }

    #[test]
    fn what_identifies_a_span_or_is_kept_as_sent_is_never_corrected() {
        let fixed = ["trace_id", "span_id", "start_time", "date", "attributes", "promoted", "events", "received_time"];
        assert!(fixed.iter().all(|name| !CORRECTABLE.contains(name)));
    }
}
