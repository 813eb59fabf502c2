//! Any bytes as a request of any signal: refused or read, never a panic; the same bytes make the same, valid rows, which take no more
//! than their room.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spanlake_ingest::{Decoder, Signal};

/// Small, so that small bodies reach the bound.
const MESSAGE_LIMIT_BYTES: usize = 64 << 10;
/// What `crates/ingest/tests/memory.rs` measures, and a constant for the ninety columns.
const ROWS_BYTES_MAX: usize = 16 * MESSAGE_LIMIT_BYTES + (256 << 10);
const RECEIVED_UNIX_NANO: u64 = 1_768_478_400_000_000_000;

static DECODER: LazyLock<Decoder> = LazyLock::new(Decoder::default);

fuzz_target!(|body: &[u8]| Signal::ALL.into_iter().for_each(|signal| walk(signal, body)));

fn walk(signal: Signal, body: &[u8]) {
    let Ok(rows) = DECODER.rows_limited(signal, body, RECEIVED_UNIX_NANO, MESSAGE_LIMIT_BYTES) else { return };
    let bytes: usize = rows.iter().map(|(_, batch)| batch.get_array_memory_size()).sum();
    assert!(bytes <= ROWS_BYTES_MAX, "{bytes} bytes of rows");
    for (_, batch) in &rows {
        for column in batch.columns() {
            column.to_data().validate_full().expect("columns are valid");
        }
    }
    let again = DECODER.rows(signal, body, RECEIVED_UNIX_NANO).expect("the same bytes are read again");
    assert!(rows == again, "the same bytes make the same rows");
}
