//! Any bytes as a compressed body: refused, or no larger than the limit. The first byte chooses the encoding.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use spanlake_ingest::ContentEncoding;
use spanlake_ingest::decompress::decompress;

const LIMIT_BYTES: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else { return };
    let encoding = match first % 3 {
        0 => ContentEncoding::Gzip,
        1 => ContentEncoding::Deflate,
        _ => ContentEncoding::Zstd,
    };
    if let Ok(plain) = decompress(encoding, Bytes::copy_from_slice(body), LIMIT_BYTES) {
        assert!(plain.len() <= LIMIT_BYTES, "{} bytes", plain.len());
    }
});
