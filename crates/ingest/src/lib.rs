//! OTLP requests into bounded record batches; acknowledges what is durable.
//!
//! **Why it exists.** It owns the OTLP wire: protobuf and JSON bodies, compressed or not, and what a span means. A
//! request is walked from its bytes straight into Arrow columns, its facts are read by rules kept as data, its cost is
//! priced, its bytes go to the write-ahead log, and only then is it answered.
//!
//! **What it must not know.** Sockets and protocols' status codes (`server` maps a [`Rejection`]), SQL, histograms, and
//! where or how tables lie.
//!
//! **Invariants.**
//! - A request is stored whole but for the items that partial success names, or not at all. Sent again, it is answered as
//!   before and stored nothing of.
//! - The same bytes and arrival time make the same rows, so that replaying the log is identical.
//! - What the telemetry does not carry is NULL; what was derived sets its bit in `reading_flags`.
//! - A span, a log record or a metric point can be rebuilt from its row: see [`rebuild`]. Content is the exception: it is kept by meaning,
//!   part by part.
//! - Bytes in flight are bounded; at the bound senders are pushed back.
//!
//! **Units.** Times are nanoseconds since 1970-01-01 UTC, sizes bytes, money integers of 1e-12 US dollars.
//!
//! ```
//! use spanlake_ingest::Decoder;
//!
//! // One span with a trace id, a span id and a name, in one scope of one resource.
//! let span = [&[0x0a, 16][..], &[1; 16], &[0x12, 8], &[2; 8], b"\x2a\x04chat"].concat();
//! let scope = [&[0x12, span.len() as u8][..], &span].concat();
//! let resource = [&[0x12, scope.len() as u8][..], &scope].concat();
//! let body = [&[0x0a, resource.len() as u8][..], &resource].concat();
//! let batches = Decoder::default().decode_traces(&body, 1_763_700_000_000_000_000).unwrap();
//! assert_eq!(batches[0].num_rows(), 1);
//! ```

mod columns;
mod content;
mod dates;
mod decimal;
mod decode;
pub mod decompress;
pub mod json;
mod ledger;
mod lists;
mod log_walk;
mod meaning;
mod metric_fields;
mod metric_walk;
mod nulls;
mod observer;
mod origin;
mod point_columns;
pub mod policy;
pub mod price;
mod reading;
pub mod rebuild;
mod recall;
mod receive;
mod renormalise;
mod reprice;
mod resources;
mod roles;
mod room;
mod rules;
mod series;
mod settling;
mod signal;
mod span_columns;
mod span_fields;
mod stats;
mod traces;
mod value;
mod walk;
mod wire;

pub use decode::{Decoder, FileText};
pub use observer::CallObserver;
pub use recall::RECALLED;
pub use receive::{
    ContentEncoding, ContentType, ExportOutcome, Ingest, IngestOptions, Rejection, RejectionKind, Request,
};
pub use renormalise::{RenormalisedColumn, Renormalising, renormalised_columns};
pub use reprice::{RepricedModel, Repricing};
pub use signal::Signal;
pub use stats::{IngestStats, SignalStats};
pub use traces::{TRACE_WINDOW, TraceOf};
