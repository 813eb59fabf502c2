//! Any bytes as a trace request in JSON: refused, or rewritten into protobuf that the walk reads.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spanlake_ingest::{TraceDecoder, json};

const RECEIVED_UNIX_NANO: u64 = 1_768_478_400_000_000_000;

static DECODER: LazyLock<TraceDecoder> = LazyLock::new(TraceDecoder::default);

fuzz_target!(|body: &[u8]| {
    let Ok(protobuf) = json::traces_to_protobuf(body) else { return };
    DECODER.decode_traces(&protobuf, RECEIVED_UNIX_NANO).expect("what was rewritten can be read");
});
