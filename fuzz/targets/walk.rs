//! Any bytes as a trace request: refused or read, never a panic; the same bytes make the same, valid rows, which take no more
//! than their room.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spanlake_ingest::TraceDecoder;

/// Small, so that small bodies reach the bound.
const MESSAGE_LIMIT_BYTES: usize = 64 << 10;
/// What `crates/ingest/tests/memory.rs` measures, and a constant for the ninety columns.
const ROWS_BYTES_MAX: usize = 16 * MESSAGE_LIMIT_BYTES + (256 << 10);
const RECEIVED_UNIX_NANO: u64 = 1_768_478_400_000_000_000;

static DECODER: LazyLock<TraceDecoder> = LazyLock::new(TraceDecoder::default);

fuzz_target!(|body: &[u8]| {
    let Ok(batches) = DECODER.decode_limited(body, RECEIVED_UNIX_NANO, MESSAGE_LIMIT_BYTES) else { return };
    let bytes: usize = batches.iter().map(|batch| batch.get_array_memory_size()).sum();
    assert!(bytes <= ROWS_BYTES_MAX, "{bytes} bytes of rows");
    for batch in &batches {
        for column in batch.columns() {
            column.to_data().validate_full().expect("columns are valid");
        }
    }
    let again = DECODER.decode_traces(body, RECEIVED_UNIX_NANO).expect("the same bytes are read again");
    assert!(batches == again, "the same bytes make the same rows");
});
