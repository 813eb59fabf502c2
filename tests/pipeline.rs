//! OTLP in, SQL out: the real binary, on real sockets, with real directories and an S3 server, fed with what real libraries
//! sent. Every test says in which scenario it gives which guarantee.

#[path = "pipeline/bad_input.rs"]
mod bad_input;
#[path = "pipeline/bounds.rs"]
mod bounds;
#[path = "pipeline/captures.rs"]
mod captures;
#[path = "pipeline/clients.rs"]
mod clients;
#[path = "pipeline/command_line.rs"]
mod command_line;
#[path = "pipeline/contention.rs"]
mod contention;
#[path = "pipeline/delta_files.rs"]
mod delta_files;
#[path = "pipeline/durability.rs"]
mod durability;
#[path = "pipeline/full_disk.rs"]
mod full_disk;
#[path = "pipeline/kept_stores.rs"]
mod kept_stores;
#[path = "pipeline/kills.rs"]
mod kills;
#[path = "pipeline/log.rs"]
mod log;
#[path = "pipeline/meaning.rs"]
mod meaning;
#[path = "pipeline/memory.rs"]
mod memory;
#[path = "pipeline/messages.rs"]
mod messages;
#[path = "pipeline/object_store.rs"]
mod object_store;
#[path = "pipeline/policy.rs"]
mod policy;
#[path = "pipeline/promote.rs"]
mod promote;
#[path = "pipeline/protocol.rs"]
mod protocol;
#[path = "pipeline/refusals.rs"]
mod refusals;
#[path = "pipeline/renormalise.rs"]
mod renormalise;
#[path = "pipeline/retries.rs"]
mod retries;
#[path = "pipeline/rollups.rs"]
mod rollups;
#[path = "pipeline/score.rs"]
mod score;
#[path = "pipeline/scored.rs"]
mod scored;
#[path = "pipeline/scrape.rs"]
mod scrape;
#[path = "pipeline/settling.rs"]
mod settling;
#[path = "pipeline/signals.rs"]
mod signals;
#[path = "pipeline/sql_endpoint.rs"]
mod sql_endpoint;
#[path = "pipeline/verify.rs"]
mod verify;
#[path = "pipeline/visibility.rs"]
mod visibility;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use spanlake_schema::{Ambient, System};
use spanlake_testkit::{ServerOptions, ServerProcess, Traffic, spans_of};

/// How the binary under test is started: on a store and log of its own. SPANLAKE_BIN names another build of it, for long runs.
fn server() -> ServerOptions {
    let binary = std::env::var_os("SPANLAKE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_spanlake").into());
    ServerOptions::new(binary)
}

/// Traffic that starts ten minutes ago, as seen by the server's clock.
fn traffic(seed: u64) -> Traffic {
    const TEN_MINUTES_NS: u64 = 600_000_000_000;
    Traffic::new(seed).starting_at(System.now_unix_nano() - TEN_MINUTES_NS)
}

/// How many spans the server shows.
async fn count_spans(server: &ServerProcess) -> i64 {
    server.sql_int("SELECT count(*) FROM spans").await
}

/// Sends a request over HTTP and insists on its being stored whole.
async fn export(server: &ServerProcess, request: &ExportTraceServiceRequest) -> i64 {
    let answer = server.otlp_http().export(request.encode_to_vec()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.rejected_spans(), 0, "{}", answer.text());
    spans_of(request).count() as i64
}

/// Identifiers of a span as the table shows them.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
