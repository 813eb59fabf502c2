//! What tests and benches share: a clock they move, spans they generate, a store that fails, clients that show every
//! detail of an answer, an S3 server, and the real binary as a child process.
//!
//! **Why it exists.** Tests and benches of all crates need the same inputs and the same faults. One generator means that
//! a benchmark measures what the tests check.
//!
//! **What it must not know.** Nothing of ingest, storage, query or server: their own tests use it, and it talks to the
//! product through its protocols only. It is never part of the product.
//!
//! **Invariants.**
//! - The same seed gives the same input, on every machine.
//! - Nothing waits for a fixed time: every wait is for a condition and ends with a panic that names it.
//! - What it starts ends with it: processes are killed, servers stop, directories go.
//!
//! **Units.** Times are nanoseconds since 1970 (`_unix_nano`), chances are in a thousand (`per_mille`).
//!
//! ```
//! use prost::Message;
//! use spanlake_testkit::{arbitrary, realistic, spans_of};
//!
//! let requests = realistic(42, 1_000);
//! assert_eq!(requests.iter().map(|request| spans_of(request).count()).sum::<usize>(), 1_000);
//! assert_eq!(arbitrary(42).encode_to_vec(), arbitrary(42).encode_to_vec());
//! ```

mod ambient;
mod faulty_store;
mod otlp_client;
mod promise;
mod random;
mod s3_faults;
mod s3_server;
mod server_process;
mod spans;
mod wait;

pub use ambient::{ManualAmbient, NOON_UNIX_NANO};
pub use faulty_store::{Fault, FaultyStore, Operation};
pub use otlp_client::{
    Compression, GrpcAnswer, GrpcOptions, HttpAnswer, HttpClient, JSON, OtlpGrpcClient, PROTOBUF, RpcStatus, Service,
};
pub use promise::stored_as_promised;
pub use random::SplitMix64;
pub use s3_faults::S3Fault;
pub use s3_server::S3Server;
pub use server_process::{Addresses, ServerOptions, ServerProcess};
pub use spans::{
    SPANS_PER_REQUEST, Traffic, arbitrary, arbitrary_logs, arbitrary_metrics, attribute, double, int, points_of,
    realistic, records_of, spans_of, text, texts,
};
pub use tonic::Code;
pub use tonic::codec::CompressionEncoding;
pub use wait::{DEADLINE, wait_until};
