//! The table `ledger`: what came, and what became of it.

use crate::column::ColumnType::{Date, Int64, Text, Timestamp};
use crate::column::{Column, TableSpec};

/// `ledger`: requests and items by minute of arrival, service and signal. The tenant is the table's prefix.
///
/// In every row `received = stored + refused + duplicate`. A request that was pushed back (overload, a full or failing log)
/// is in no row: its sender is told to send it again, and it counts when it is taken.
pub const SPEC: TableSpec = TableSpec {
    name: "ledger",
    comment: "Requests and items by minute of arrival, service and signal; SUM over the rows is right at every version",
    columns: &[
        Column::required("date", Date, "UTC day of arrival; the partition"),
        Column::required("window_start", Timestamp, "Start of the minute of arrival, UTC; the window is half-open"),
        Column::optional("service_name", Text, "Resource attribute service.name; NULL also for requests without items"),
        Column::required("signal", Text, "traces, metrics or logs"),
        Column::required(
            "requests",
            Int64,
            "Requests that could be read, each counted once, under one of its services",
        ),
        Column::required("request_bytes", Int64, "Their bytes, decompressed"),
        Column::required("received", Int64, "Items received: spans, metric data points, log records"),
        Column::required("stored", Int64, "Items stored"),
        Column::required("refused", Int64, "Items refused by partial success"),
        Column::required("duplicate", Int64, "Items of requests that had been stored before and came again"),
        Column::required("undecodable_requests", Int64, "Requests that could not be read, or were too large"),
        Column::required("undecodable_bytes", Int64, "Their bytes, as sent"),
    ],
    statistics: &["window_start"],
    bloom_filters: &[],
    sums: &[
        "requests",
        "request_bytes",
        "received",
        "stored",
        "refused",
        "duplicate",
        "undecodable_requests",
        "undecodable_bytes",
    ],
    attributes: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_adds_up_and_nothing_else() {
        let numbers = SPEC.columns.iter().filter(|column| column.column_type == Int64).map(|column| column.name);
        assert!(numbers.eq(SPEC.sums.iter().copied()));
    }
}
