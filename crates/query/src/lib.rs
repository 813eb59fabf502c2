//! SQL over snapshot and hot batches; rollups and their schedule.
//!
//! **Why it exists.** It is the only crate that knows DataFusion. Whoever asks in SQL, over HTTP, from a rollup or from
//! the command line, asks a [`QueryEngine`].
//!
//! **What it must not know.** OTLP, HTTP, sockets. It reads tables through [`spanlake_storage::TableSource`] and never
//! writes one but a rollup's own.
//!
//! **Invariants.**
//! - A statement sees each table as it was at one moment: one snapshot and the hot batches beyond it, the same wherever
//!   the statement names the table.
//! - A statement sees one tenant's tables and nothing else: no file, no other store, no other tenant.
//! - Only reading runs. Everything else is refused before it is planned, and again after.
//! - Memory, spill files, time, rows, statements at once and statements waiting are bounded. An answer that is cut off
//!   ends with an error, never as if it were whole.
//! - Plans run on threads of their own; a panic of one ends that query only.
//!
//! **Units.** Limits are bytes, rows and durations. Money stays decimal through every sum and in every answer format.
//!
//! ```no_run
//! use std::sync::Arc;
//! use futures::TryStreamExt;
//! use spanlake_query::{Parameters, QueryEngine, QueryError};
//!
//! async fn dearest(engine: &QueryEngine) -> Result<String, QueryError> {
//!     let statement = "SELECT model, sum(cost_usd) AS usd FROM spans GROUP BY model ORDER BY usd DESC LIMIT 5";
//!     let stream = engine.sql("default", statement, Parameters::None).await?;
//!     let schema = stream.schema();
//!     let batches: Vec<_> = stream.try_collect().await?;
//!     Ok(spanlake_query::format::table(&schema, &batches))
//! }
//! ```

mod answer;
mod attributes;
mod contents;
mod cooperation;
mod corrected;
mod engine;
mod error;
pub mod format;
mod functions;
mod guard;
mod histogram;
mod parameters;
mod pool;
mod prune;
pub mod rollup;
mod session;
mod sql_file;
mod stats;
mod table;
mod traces;
pub mod verify;
mod views;

pub use engine::{QueryEngine, QueryOptions};
pub use error::{QueryError, QueryErrorKind};
pub use format::Format;
pub use parameters::Parameters;
pub use stats::QueryStats;
pub use traces::TraceSelection;
pub use views::Views;

#[cfg(test)]
mod fixture;
