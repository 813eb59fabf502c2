//! Configuration: what can be set, from where it comes, and what is refused.
//!
//! Every key has one row in [`KEYS`]; the file, the environment and the flags all go through it, so that they cannot
//! differ. A flag beats the environment, the environment beats the file, the file beats the default.

mod keys;
mod load;
mod machine;
#[cfg(test)]
mod tests;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use spanlake_storage::PromotionList;

pub use keys::{KEYS, Key};
pub use load::{ConfigError, Sources, load};
pub use machine::Machine;
pub(crate) use machine::resident_bytes;
pub(crate) use units::{format_bytes, format_duration};

/// The store of `spanlake serve`, where none is named.
pub const DEFAULT_STORE: &str = "./spanlake-data";

/// The store of `spanlake demo`, where none is named: made-up traffic does not belong beside real one.
pub const DEMO_STORE: &str = "./spanlake-demo";

/// All of the configuration, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: ListenConfig,
    /// Store and write-ahead log.
    pub storage: StorageConfig,
    /// Taking telemetry in.
    pub ingest: IngestConfig,
    /// Answering SQL.
    pub query: QueryConfig,
    /// What this process says about itself.
    pub log: LogConfig,
}

/// Where to listen. Port 0 lets the operating system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// OTLP over gRPC.
    pub otlp_grpc_addr: SocketAddr,
    /// OTLP over HTTP.
    pub otlp_http_addr: SocketAddr,
    /// SQL over HTTP, landing page, metrics, health.
    pub http_addr: SocketAddr,
    /// Control over gRPC.
    pub flight_addr: SocketAddr,
    /// What clients may take.
    pub clients: ClientLimits,
}

/// What clients may take of connections and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections of one port at a time.
    pub connection_limit: usize,
    /// How long a connection may be without a request, and how long a request's headers may take.
    pub idle_timeout: Duration,
    /// The longest pause within a request's body.
    pub body_timeout: Duration,
}

/// When a sender gets its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// After the write-ahead log is synced.
    Wal,
    /// After the commit to the table.
    Commit,
}

/// Store and write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// A directory, or the URL of an object store.
    pub store: String,
    /// The write-ahead log's directory.
    pub wal_dir: PathBuf,
    /// When a sender gets its answer.
    pub ack: Ack,
    /// With `ack = "commit"`, how long a sender waits for the commit.
    pub ack_timeout: Duration,
    /// How long the end in good order takes at most.
    pub shutdown_timeout: Duration,
    /// How long a request is known, so that a repeat of it is not stored again; zero: not at all.
    pub retry_window: Duration,
    /// Bytes of memory for known requests.
    pub retry_limit_bytes: u64,
    /// How long a row waits in memory for its flush at most.
    pub flush_interval: Duration,
    /// Bytes of rows in memory that start a flush before its time.
    pub flush_bytes: u64,
    /// Bytes of memory for rows that wait for their flush.
    pub hot_limit_bytes: u64,
    /// Bytes of log beyond which senders are pushed back.
    pub wal_limit_bytes: u64,
    /// Attributes that become columns.
    pub promote: PromotionList,
}

/// Taking telemetry in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestConfig {
    /// Largest request in bytes, compressed and decompressed.
    pub message_limit_bytes: usize,
    /// Bytes of requests in flight beyond which senders are pushed back.
    pub in_flight_limit_bytes: usize,
    /// Further prefixes before `/v1/traces`, each with a leading and without a trailing slash.
    pub otlp_path_prefixes: Vec<String>,
    /// A rules file of the user's own.
    pub dialects: Option<PathBuf>,
    /// A price catalogue of the user's own.
    pub prices: Option<PathBuf>,
    /// An attribute policy.
    pub policy: Option<PathBuf>,
}

/// Answering SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryConfig {
    /// Memory of all running queries.
    pub memory_limit_bytes: usize,
    /// Bytes of spill files at most.
    pub spill_limit_bytes: u64,
    /// Longest run of a query.
    pub timeout: Duration,
    /// Most rows of an answer.
    pub row_limit: usize,
    /// Where the user's views lie.
    pub sql_dir: Option<PathBuf>,
    /// Queries that run at once.
    pub concurrency: usize,
    /// Threads that compute.
    pub threads: usize,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What this process says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or directives such as `info,spanlake_storage=debug`.
    pub level: String,
    /// How lines are written.
    pub format: LogFormat,
}

impl StorageConfig {
    /// The longest wait before a flush: with `ack = "commit"` senders wait for it, so it is at most a second.
    pub fn effective_flush_interval(&self) -> Duration {
        match self.ack {
            Ack::Wal => self.flush_interval,
            Ack::Commit => self.flush_interval.min(Duration::from_secs(1)),
        }
    }
}
