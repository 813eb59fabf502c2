//! Any bytes as a request of any signal in JSON: refused, or rewritten into protobuf that the walk reads, with memory for no
//! more than sixteen times the text.
#![no_main]

mod allocated;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spanlake_ingest::{Decoder, Signal, json};

const RECEIVED_UNIX_NANO: u64 = 1_768_478_400_000_000_000;

/// What texts of a few bytes take.
const CONSTANT_BYTES: usize = 16 << 10;

static DECODER: LazyLock<Decoder> = LazyLock::new(Decoder::default);

fuzz_target!(|body: &[u8]| {
    for signal in Signal::ALL {
        let (bytes, protobuf) = allocated::peak_bytes(|| json::to_protobuf(signal, body));
        assert!(bytes <= 16 * body.len() + CONSTANT_BYTES, "{} takes {bytes} bytes", signal.name());
        let Ok(protobuf) = protobuf else { continue };
        DECODER.rows(signal, &protobuf, RECEIVED_UNIX_NANO).expect("what was rewritten can be read");
    }
});
