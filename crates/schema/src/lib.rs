//! The public contract of Spanlake: the tables, their columns, and what each column means.
//!
//! **Why it exists.** Ingest fills these columns, storage writes them, queries read them, and people build dashboards on
//! them. One crate owns the names, so that no two places can disagree. Columns are added, never renamed.
//!
//! **What it must not know.** No I/O, no async, no OTLP wire format, no SQL engine.
//!
//! **Invariants.**
//! - Every table has a [`TableSpec`]; the order of its columns is the order in a record batch.
//! - The partition column (`date`) is the first column and lies in the path, not in the Parquet file.
//! - A column that the telemetry does not carry is NULL. NULL is never written as zero.
//!
//! **Units.** Timestamps are microseconds UTC; exact nanoseconds stand beside them as Int64 bit patterns (a `u64` beyond
//! `i64::MAX` shows as a negative number). Durations are integer nanoseconds (`_ns`), money is `DECIMAL` US dollars
//! (`_usd`), tokens are integers (`_tokens`).
//!
//! ```
//! use spanlake_schema::spans;
//!
//! let schema = spans::SPEC.arrow_schema();
//! assert_eq!(schema.field(0).name(), "date");
//! assert!(schema.index_of("input_tokens").is_ok());
//! ```

mod ambient;
mod column;
pub mod corrections;
pub mod flags;
pub mod ledger;
pub mod logs;
pub mod messages;
pub mod metric_points;
pub mod model_usage;
pub mod promotion;
pub mod spans;
pub mod types;

pub use ambient::{Ambient, System};
pub use column::{
    Column, ColumnType, TableSpec, event_fields, exemplar_fields, link_fields, map_type, quantile_fields,
};

/// The tenant of a store that names none. Tables lie below `<store>/<tenant>/<table>`.
pub const DEFAULT_TENANT: &str = "default";

/// The partition column of every table: the UTC day of the event.
pub const DATE: &str = "date";

/// All tables, in the order in which they are created.
pub const TABLES: &[&TableSpec] = &[
    &spans::SPEC,
    &corrections::SPEC,
    &messages::PARTS_SPEC,
    &messages::CONTENTS_SPEC,
    &model_usage::HOUR_SPEC,
    &logs::SPEC,
    &metric_points::SPEC,
    &ledger::SPEC,
];
