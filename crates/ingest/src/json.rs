//! OTLP/JSON into OTLP/protobuf, so that only one form of a request has to be walked.
//!
//! ```text
//! body ── reader.rs (tokens) ── transcode.rs (fields of schema.rs, values of value.rs) ── protobuf bytes
//! ```
//!
//! The text is read once, straight into the protobuf buffer: no tree of the whole body is built, so the memory is the
//! body and its (smaller) protobuf form. The proto3 JSON mapping applies with OTLP's own rules on top: ids are
//! hexadecimal instead of base64, and enums may be numbers or names.
//!
//! Readings where the mapping leaves room or senders stray:
//! - both `lowerCamelCase` and `snake_case` field names are read, unknown fields of any shape are skipped;
//! - of duplicate fields the last one counts, of a `oneof` (an attribute's value) the last member that is not null;
//! - null is absent; a null element of a list is an empty message (or an empty string);
//! - a 64-bit integer may be a string or a number, also `5.0` or `1e3`, and is read exactly;
//! - an id that is hexadecimal but of the wrong length is passed on, so that only its span is refused;
//! - an unpaired surrogate escape becomes U+FFFD (senders that cut strings between UTF-16 units write them).
//!
//! Bounds: nesting to [`DEPTH_LIMIT`] levels; the size is bounded by the caller, who has the body already.

mod error;
mod logs;
mod metrics;
mod reader;
pub(crate) mod schema;
#[cfg(test)]
mod tests;
mod transcode;
mod tree;
mod value;

pub use error::JsonError;
pub(crate) use tree::{Json, Object, parse as parse_tree};

use crate::signal::Signal;

/// Levels of JSON arrays and objects that a body may nest, itself included. An attribute value takes three levels for
/// each array and four for each key-value list inside another; the resulting messages nest fewer than 100 deep, which
/// is what protobuf decoders allow.
pub const DEPTH_LIMIT: usize = 128;

/// Turns the JSON form of an `ExportTraceServiceRequest` into its protobuf form.
///
/// # Errors
/// Where the body is no such request; the error says what and where.
pub fn traces_to_protobuf(body: &[u8]) -> Result<Vec<u8>, JsonError> {
    to_protobuf(Signal::Traces, body)
}

/// Turns the JSON form of a signal's export request into its protobuf form.
///
/// # Errors
/// Where the body is no such request; the error says what and where.
pub fn to_protobuf(signal: Signal, body: &[u8]) -> Result<Vec<u8>, JsonError> {
    transcode::transcode(body, request_schema(signal))
}

/// The message of a signal's export request, as a table.
pub(crate) fn request_schema(signal: Signal) -> &'static schema::Message {
    match signal {
        Signal::Traces => &schema::TRACES,
        Signal::Metrics => &metrics::METRICS,
        Signal::Logs => &logs::LOGS,
    }
}
