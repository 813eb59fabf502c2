//! Any bytes as a request of any signal: refused or read, never a panic, and never with more memory than sixteen times the message
//! limit; the same bytes make the same, valid rows.
#![no_main]

mod allocated;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spanlake_ingest::{Decoder, Signal};

/// Small, so that small bodies reach the bound.
const MESSAGE_LIMIT_BYTES: usize = 64 << 10;
/// What `crates/ingest/tests/memory.rs` measures, and a constant for the builders of some hundred columns.
const PEAK_BYTES_MAX: usize = 16 * MESSAGE_LIMIT_BYTES + (256 << 10);
const RECEIVED_UNIX_NANO: u64 = 1_768_478_400_000_000_000;

static DECODER: LazyLock<Decoder> = LazyLock::new(Decoder::default);

fuzz_target!(|body: &[u8]| Signal::ALL.into_iter().for_each(|signal| walk(signal, body)));

fn walk(signal: Signal, body: &[u8]) {
    let decoder = &*DECODER;
    let (bytes, rows) =
        allocated::peak_bytes(|| decoder.rows_limited(signal, body, RECEIVED_UNIX_NANO, MESSAGE_LIMIT_BYTES));
    assert!(bytes <= PEAK_BYTES_MAX, "{} takes {bytes} bytes", signal.name());
    let Ok(rows) = rows else { return };
    for (_, batch) in &rows {
        for column in batch.columns() {
            column.to_data().validate_full().expect("columns are valid");
        }
    }
    let again = decoder.rows(signal, body, RECEIVED_UNIX_NANO).expect("the same bytes are read again");
    assert!(rows == again, "the same bytes make the same rows");
}
