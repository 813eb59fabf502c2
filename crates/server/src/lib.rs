//! The `spanlake` binary: command line, configuration, listeners, console, wiring, shutdown.
//!
//! **Why it exists.** Somebody has to own the sockets, the signals and the exit code, and to put the other crates
//! together. What can be said without a socket is said elsewhere.
//!
//! **What it must not know.** How a span becomes a row, how a table is committed, how a query is planned. It hands bytes to
//! `Ingest` as they came and statements to `QueryEngine` as they are written.
//!
//! **Invariants.**
//! - Everything is validated before a socket is opened, and every socket is open before the lake is.
//! - Until replay is done, and while the process ends, `/readyz` says so and senders are asked to come again.
//! - Every body has a limit of bytes and time; all bodies together have one of bytes.
//! - The runtime of the listeners only moves bytes: decoding runs on ingest's threads, queries on the engine's.
//! - The first SIGINT or SIGTERM ends in good order and with exit code 0; the second ends at once.
//!
//! **Units.** Limits are bytes and durations. The exit codes are documented in [`cli`].
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     spanlake_server::main()
//! }
//! ```

mod body;
pub mod cli;
pub mod config;
mod connections;
mod control;
mod demo;
mod gate;
mod http_api;
mod listener;
mod logging;
mod otlp_answer;
mod otlp_grpc;
mod otlp_http;
mod promote;
pub mod proto;
mod reading;
mod renormalise;
mod reprice;
mod scrape;
mod serve;
mod settle;
mod shutdown;
mod sql_http;
mod verify_http;

pub use cli::main;
