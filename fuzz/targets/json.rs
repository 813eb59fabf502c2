//! Any bytes as a request of any signal in JSON: refused, or rewritten into protobuf that the walk reads.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spanlake_ingest::{Decoder, Signal, json};

const RECEIVED_UNIX_NANO: u64 = 1_768_478_400_000_000_000;

static DECODER: LazyLock<Decoder> = LazyLock::new(Decoder::default);

fuzz_target!(|body: &[u8]| {
    for signal in Signal::ALL {
        let Ok(protobuf) = json::to_protobuf(signal, body) else { continue };
        DECODER.rows(signal, &protobuf, RECEIVED_UNIX_NANO).expect("what was rewritten can be read");
    }
});
