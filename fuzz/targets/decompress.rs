//! Any bytes as a compressed body: refused, or no larger than the limit, with memory for twice the limit. The first byte
//! chooses the encoding.
#![no_main]

mod allocated;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use spanlake_ingest::ContentEncoding;
use spanlake_ingest::decompress::decompress;

const LIMIT_BYTES: usize = 1 << 20;
/// The state of a decoder.
const CONSTANT_BYTES: usize = 256 << 10;

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else { return };
    let encoding = match first % 3 {
        0 => ContentEncoding::Gzip,
        1 => ContentEncoding::Deflate,
        _ => ContentEncoding::Zstd,
    };
    let body = Bytes::copy_from_slice(body);
    let (bytes, plain) = allocated::peak_bytes(|| decompress(encoding, body, LIMIT_BYTES));
    assert!(bytes <= 2 * LIMIT_BYTES + CONSTANT_BYTES, "{encoding:?} takes {bytes} bytes");
    if let Ok(plain) = plain {
        assert!(plain.len() <= LIMIT_BYTES, "{} bytes", plain.len());
    }
});
