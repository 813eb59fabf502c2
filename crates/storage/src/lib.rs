//! Delta tables on an object store and the write-ahead log in front of them.
//!
//! **Why it exists.** It owns the bytes at rest: Parquet segments, the Delta log, the write-ahead log, the store's
//! credentials. Whoever holds a [`Position`] holds a promise of this crate.
//!
//! **What it must not know.** OTLP, GenAI, SQL. Payloads in the log are opaque bytes; a [`Decode`] turns them back into
//! record batches on recovery.
//!
//! **Invariants.**
//! - [`Lake::append`] returns only after its frame is in the log and synced.
//! - Each table commits its files together with an application transaction (writer id and shard, log position), so a row
//!   is committed exactly once, however often a flush is retried.
//! - A [`TableView`] is one snapshot and the hot rows beyond that snapshot's position, in memory and in spill files: no row
//!   twice, none missing.
//! - Every buffer is bounded in bytes; at the bound [`ErrorKind::Full`] pushes back.
//!
//! **Units.** Sizes are bytes, positions are per-shard frame numbers from 1, times are UTC.
//!
//! **Example.**
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use arrow::record_batch::RecordBatch;
//! # use bytes::Bytes;
//! # use spanlake_storage::{Decode, Entry, Frame, Lake, LakeOptions, PromotionList, Result, Store, TableSource};
//! #[derive(Debug)]
//! struct NoRows;
//!
//! impl Decode for NoRows {
//!     fn decode(&self, _frame: &Frame, _payload: &Bytes) -> Result<Vec<(&'static str, RecordBatch)>> {
//!         Ok(Vec::new())
//!     }
//! }
//!
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let store = dir.path().join("lake");
//! let lake = Lake::open(
//!     LakeOptions {
//!         store: Store::open(&store.to_string_lossy())?,
//!         wal_dir: store.join("wal"),
//!         wal_limit_bytes: 1 << 30,
//!         hot_limit_bytes: 256 << 20,
//!         flush_interval: Duration::from_secs(10),
//!         flush_bytes: 64 << 20,
//!         ack_on_commit: false,
//!         commit_timeout: Duration::from_secs(60),
//!         retry_window: Duration::from_secs(900),
//!         retry_limit_bytes: 16 << 20,
//!         promote: PromotionList::default(),
//!         ambient: Arc::new(spanlake_schema::System),
//!     },
//!     Arc::new(NoRows),
//! )
//! .await?;
//! let frame = Frame {
//!     tenant: "default".to_owned(),
//!     kind: 1,
//!     received_unix_nano: 1_768_478_400_000_000_000,
//!     rules_version: 1,
//!     prices_version: 1,
//! };
//! let position = lake.append(Entry { frame, payload: Bytes::from_static(b"request"), batches: Vec::new() }).await?;
//! assert_eq!(position, 1);
//! let view = lake.view("default", "spans").await?.expect("every lake has this table");
//! assert!(view.hot.is_empty() && view.snapshot.segments.is_empty());
//! lake.shutdown().await?;
//! # Ok(())
//! # })
//! # }
//! ```

pub mod delta;
mod error;
pub mod invariants;
pub mod lake;
pub mod promotion;
pub mod segment;
pub mod store;
pub mod wal;

pub use delta::{AddFile, AppTransaction, Commit, CommitOutcome, Lineage, Segment, Snapshot, Table};
pub use error::{Error, ErrorKind, Result};
pub use lake::{
    Backfill, Capture, Decode, Entry, Frame, Lake, LakeOptions, LakeStats, ReadOnlyLake, Receipt, SpilledSegment,
    TableSource, TableView,
};
pub use promotion::{PromotionList, PromotionStats};
pub use store::Store;

/// A frame's place in the write-ahead log of one shard: 1, 2, 3, … without gaps.
pub type Position = u64;
