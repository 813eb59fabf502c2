use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::*;

const ENCODINGS: [ContentEncoding; 3] = [ContentEncoding::Gzip, ContentEncoding::Deflate, ContentEncoding::Zstd];

#[derive(Clone, Copy, Debug)]
enum Writer {
    Gzip,
    Zlib,
    Raw,
    Zstd,
    ZstdWithoutSize,
}

const WRITERS: [Writer; 5] = [Writer::Gzip, Writer::Zlib, Writer::Raw, Writer::Zstd, Writer::ZstdWithoutSize];

impl Writer {
    fn encoding(self) -> ContentEncoding {
        match self {
            Self::Gzip => ContentEncoding::Gzip,
            Self::Zlib | Self::Raw => ContentEncoding::Deflate,
            Self::Zstd | Self::ZstdWithoutSize => ContentEncoding::Zstd,
        }
    }

    fn compress(self, data: &[u8], level: u32) -> Vec<u8> {
        match self {
            Self::Gzip => finish(GzEncoder::new(Vec::new(), Compression::new(level)), data, GzEncoder::finish),
            Self::Zlib => finish(ZlibEncoder::new(Vec::new(), Compression::new(level)), data, ZlibEncoder::finish),
            Self::Raw => finish(DeflateEncoder::new(Vec::new(), Compression::new(level)), data, DeflateEncoder::finish),
            Self::Zstd => ::zstd::bulk::compress(data, level as i32).unwrap(),
            Self::ZstdWithoutSize => {
                let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), level as i32).unwrap();
                encoder.include_contentsize(false).unwrap();
                encoder.include_checksum(true).unwrap();
                finish(encoder, data, ::zstd::stream::write::Encoder::finish)
            }
        }
    }

    fn decompress(self, body: &[u8], limit_bytes: usize) -> Result<Bytes, DecompressError> {
        decompress(self.encoding(), Bytes::copy_from_slice(body), limit_bytes)
    }
}

fn finish<W: Write>(mut encoder: W, data: &[u8], finish: impl Fn(W) -> std::io::Result<Vec<u8>>) -> Vec<u8> {
    encoder.write_all(data).unwrap();
    finish(encoder).unwrap()
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..2_000),
        (vec(any::<u8>(), 1..40), 0..5_000_usize).prop_map(|(unit, times)| unit.repeat(times)),
        (any::<u8>(), prop_oneof![Just(0), Just(1), Just(65_535), Just(65_536), Just(300_000)])
            .prop_map(|(byte, len)| vec![byte; len]),
    ]
}

proptest! {
    #[test]
    fn what_was_compressed_comes_back(data in data(), level in 1..9_u32, second in data()) {
        for writer in WRITERS {
            let body = writer.compress(&data, level);
            let read = writer.decompress(&body, data.len());
            prop_assert_eq!(read.as_deref(), Ok(data.as_slice()), "{:?}", writer);
            if !data.is_empty() {
                let limit_bytes = data.len() - 1;
                let refused = writer.decompress(&body, limit_bytes);
                prop_assert_eq!(refused, Err(DecompressError::TooLarge { limit_bytes }), "{:?}", writer);
            }
        }
        for writer in [Writer::Gzip, Writer::Zstd, Writer::ZstdWithoutSize] {
            let body = [writer.compress(&data, level), writer.compress(&second, level)].concat();
            let whole = [data.as_slice(), second.as_slice()].concat();
            let read = writer.decompress(&body, whole.len());
            prop_assert_eq!(read.as_deref(), Ok(whole.as_slice()), "two of {:?}", writer);
        }
    }

    #[test]
    fn arbitrary_bodies_never_panic_nor_pass_the_limit(
        start in prop_oneof![
            Just(vec![]),
            Just(vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]),
            Just(vec![0x78, 0x9c]),
            Just(vec![0x28, 0xb5, 0x2f, 0xfd]),
        ],
        rest in vec(any::<u8>(), 0..200),
        limit_bytes in 0..5_000_usize,
    ) {
        let body = Bytes::from([start, rest].concat());
        for encoding in ENCODINGS {
            if let Ok(read) = decompress(encoding, body.clone(), limit_bytes) {
                assert!(read.len() <= limit_bytes);
            }
        }
    }
}

#[test]
fn a_cut_body_is_refused_wherever_it_is_cut() {
    let data = b"spans, spans, and more spans than one would think".repeat(5);
    for writer in WRITERS {
        let body = writer.compress(&data, 6);
        for len in 0..body.len() {
            let refused = writer.decompress(&body[..len], 1 << 20);
            assert!(
                matches!(refused, Err(DecompressError::Malformed { .. })),
                "{writer:?} cut to {len} of {} bytes gives {refused:?}",
                body.len()
            );
        }
    }
}

#[test]
fn a_second_member_that_is_cut_or_no_member_spoils_the_whole() {
    for writer in [Writer::Gzip, Writer::Zstd] {
        let body = [writer.compress(b"first", 6), writer.compress(b"second", 6)].concat();
        let first_bytes = writer.compress(b"first", 6).len();
        for len in first_bytes + 1..body.len() {
            assert!(writer.decompress(&body[..len], 1 << 20).is_err(), "{writer:?} cut to {len} bytes");
        }
    }
    for writer in [Writer::Gzip, Writer::Zlib, Writer::Zstd] {
        let body = [writer.compress(b"first", 6), b"trailing garbage".to_vec()].concat();
        assert!(writer.decompress(&body, 1 << 20).is_err(), "{writer:?} followed by garbage");
    }
}

#[test]
fn equal_and_empty_members_are_all_read() {
    let (one, none) = (Writer::Gzip.compress(b"same", 6), Writer::Gzip.compress(b"", 6));
    for (members, expected) in [
        (vec![&one, &one], "samesame"),
        (vec![&one, &none], "same"),
        (vec![&none, &one], "same"),
        (vec![&none], ""),
        (vec![&none, &none], ""),
    ] {
        let body: Vec<u8> = members.into_iter().flatten().copied().collect();
        assert_eq!(Writer::Gzip.decompress(&body, 8).as_deref(), Ok(expected.as_bytes()));
    }
}

#[test]
fn damaged_checksums_are_noticed() {
    for writer in [Writer::Gzip, Writer::Zlib, Writer::ZstdWithoutSize] {
        let mut body = writer.compress(b"spans, spans, spans", 6);
        let checksum_at = body.len() - if matches!(writer, Writer::Gzip) { 8 } else { 1 };
        body[checksum_at] ^= 1;
        let refused = writer.decompress(&body, 1 << 20);
        assert!(matches!(refused, Err(DecompressError::Malformed { .. })), "{writer:?} gives {refused:?}");
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let data = vec![0; 20 << 20];
    for writer in WRITERS {
        let body = writer.compress(&data, 6);
        assert!(body.len() < 40_000, "{writer:?} makes {} bytes", body.len());
        let limit_bytes = 1 << 20;
        let refused = writer.decompress(&body, limit_bytes);
        assert_eq!(refused, Err(DecompressError::TooLarge { limit_bytes }), "{writer:?}");
    }
    let members = Writer::Gzip.compress(&vec![0; 1 << 20], 6).repeat(20);
    let refused = Writer::Gzip.decompress(&members, 5 << 20);
    assert_eq!(refused, Err(DecompressError::TooLarge { limit_bytes: 5 << 20 }));
}

#[test]
fn buffers_grow_up_to_the_limit_and_not_beyond() {
    for (guess, limit) in [(0, 0), (0, 1), (10, 1_000_000), (1 << 40, 5_000), (256, 256), (usize::MAX, 300)] {
        let mut sizes = Vec::new();
        let stop = with_buffer(guess, limit, |buffer| {
            sizes.push(buffer.len());
            Err(Stop::Full)
        });
        assert_eq!(stop, Err(Stop::Full));
        assert_eq!(sizes.last(), Some(&limit));
        assert!(sizes.is_sorted() && sizes.len() < 10, "{sizes:?}");
    }
}

#[test]
fn a_size_that_cannot_be_is_not_believed() {
    let mut body = Writer::Gzip.compress(b"small", 6);
    let size_at = body.len() - 4;
    body[size_at..].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = Writer::Gzip.decompress(&body, 64 << 20);
    assert!(matches!(refused, Err(DecompressError::Malformed { encoding: "gzip", .. })), "{refused:?}");
}

#[test]
fn other_headers_of_gzip_are_read() {
    let header = flate2::GzBuilder::new().filename("spans").comment("c").extra("x").mtime(7);
    let body = finish(header.write(Vec::new(), Compression::fast()), b"data", GzEncoder::finish);
    assert_eq!(Writer::Gzip.decompress(&body, 4).as_deref(), Ok(b"data".as_slice()));
}

#[test]
fn identity_is_handed_on_up_to_the_limit() {
    let body = Bytes::from_static(b"as it is");
    let read = decompress(ContentEncoding::Identity, body.clone(), 8).unwrap();
    assert_eq!(read.as_ptr(), body.as_ptr());
    let refused = decompress(ContentEncoding::Identity, body, 7).unwrap_err();
    assert_eq!(refused.to_string(), "body is larger than the limit of 7 bytes (message_limit)");
}

#[test]
fn a_wrong_encoding_is_named() {
    let refused = decompress(ContentEncoding::Gzip, Bytes::from_static(b"plain"), 100).unwrap_err();
    assert_eq!(refused.to_string(), "body is not valid gzip: not a gzip header");
}
