//! How much memory one request takes at most, measured by an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use spanlake_ingest::decompress::decompress;
use spanlake_ingest::{ContentEncoding, Decoder, Signal, json};
use spanlake_testkit::Compression;

/// What a request takes, over the message limit.
const FACTOR: usize = 16;
const LIMIT_BYTES: usize = 1 << 18;
const RECEIVED: u64 = 1_763_700_000_000_000_000;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated at the same time, at most, by some work beyond what was there before.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (PEAK.load(Ordering::Relaxed) - before, result)
}

/// A length-delimited protobuf field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

/// A span of nothing but ids and these fields.
fn span(fields: &[u8]) -> Vec<u8> {
    field(2, &[&field(1, &[1; 16])[..], &field(2, &[2; 8]), fields].concat())
}

/// A request of one resource and spans.
fn request(resource: &[u8], spans: &[u8]) -> Vec<u8> {
    field(1, &[field(1, resource), field(2, spans)].concat())
}

/// As many copies as fit into so many bytes.
fn fill(bytes: usize, item: &[u8]) -> Vec<u8> {
    item.repeat(bytes / item.len())
}

fn text_attribute(number: u8, text: &[u8]) -> Vec<u8> {
    field(number, &[field(1, b"k"), field(2, &field(1, text))].concat())
}

/// Bodies of nearly the message limit that are all structure and no content, or all of what grows.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let most = LIMIT_BYTES - 64;
    let list = |item: &[u8]| field(2, &field(5, &fill(most, item)));
    let entries = |item: &[u8]| field(2, &field(6, &fill(most, item)));
    let attribute = |value: Vec<u8>| span(&field(9, &[field(1, b"k"), value].concat()));
    vec![
        ("spans of ids only", request(&[], &fill(most, &span(&[])))),
        ("empty spans", request(&[], &fill(most, &field(2, &[])))),
        ("empty events", request(&[], &span(&fill(most, &[11 << 3 | 2, 0])))),
        ("empty links", request(&[], &span(&fill(most, &[13 << 3 | 2, 0])))),
        ("empty attributes", request(&[], &span(&fill(most, &[9 << 3 | 2, 0])))),
        ("attributes of one event", request(&[], &span(&field(11, &fill(most, &[3 << 3 | 2, 0]))))),
        ("attributes of one link", request(&[], &span(&field(13, &fill(most, &[4 << 3 | 2, 0]))))),
        ("attributes of a resource", request(&fill(most, &[1 << 3 | 2, 0]), &span(&[]))),
        ("entities of a resource", request(&fill(most, &[3 << 3 | 2, 0]), &span(&[]))),
        ("keys of an entity", request(&field(3, &fill(most, &[3 << 3 | 2, 0])), &span(&[]))),
        ("a large resource copied", request(&text_attribute(1, &vec![b'x'; most / 2]), &fill(most / 2, &span(&[])))),
        ("empty attributes copied", request(&fill(most / 2, &[1 << 3 | 2, 0]), &fill(most / 2, &span(&[])))),
        ("empty entities copied", request(&fill(most / 2, &[3 << 3 | 2, 0]), &fill(most / 2, &span(&[])))),
        ("empty values of a list", request(&[], &attribute(list(&[1 << 3 | 2, 0])))),
        ("lists in a list", request(&[], &attribute(list(&field(1, &field(5, &[])))))),
        ("empty entries of a map", request(&[], &attribute(entries(&[1 << 3 | 2, 0])))),
        ("control characters", request(&[], &attribute(list(&field(1, &field(1, &[1; 1000])))))),
        ("invalid UTF-8", request(&[], &span(&text_attribute(9, &vec![0xff; most])))),
        ("one long text", request(&[], &span(&text_attribute(9, &vec![b'x'; most])))),
        ("one long id of a link", request(&[], &span(&field(13, &field(1, &vec![7; most]))))),
    ]
}

/// Scenario: bodies of the message limit, made to take as much memory as they can.
/// Guarantee: whether refused or read, a request takes no more than 16 times the message limit; what is honest is read.
#[test]
fn one_request_takes_a_bounded_multiple_of_the_message_limit() {
    let decoder = Decoder::default();
    decoder.decode_traces(&request(&[], &span(&[])), RECEIVED).expect("a first request");
    let mut refused = 0;
    for (name, body) in bodies() {
        assert!(body.len() <= LIMIT_BYTES, "{name}");
        let (bytes, decoded) =
            peak_bytes(|| decoder.rows_limited(Signal::Traces, &body, RECEIVED, LIMIT_BYTES).is_ok());
        println!("{name}: {} times the limit, read: {decoded}", bytes as f64 / LIMIT_BYTES as f64);
        assert!(bytes <= FACTOR * LIMIT_BYTES, "{name} takes {bytes} bytes");
        refused += usize::from(!decoded);
    }
    assert!(refused > 0, "something was refused");

    // A batch of 8192 spans with a resource of 2 KiB is what a collector may send.
    let resource = text_attribute(1, &[b'x'; 2048]);
    let honest = request(&resource, &fill(8192 * 300, &span(&text_attribute(9, &[b'y'; 260]))));
    let limit = 8 << 20;
    assert!(decoder.rows_limited(Signal::Traces, &honest, RECEIVED, limit).is_ok(), "{} bytes", honest.len());

    let spans = r#"{"traceId":"0101","events":["#.to_owned() + &"{},".repeat(80_000) + "{}]}";
    let text = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#);
    let (bytes, _) = peak_bytes(|| json::traces_to_protobuf(text.as_bytes()));
    assert!(bytes <= FACTOR * LIMIT_BYTES, "JSON takes {bytes} bytes");

    for compression in [Compression::Gzip, Compression::Deflate, Compression::RawDeflate, Compression::Zstd] {
        let encoding = match compression {
            Compression::Gzip => ContentEncoding::Gzip,
            Compression::Deflate | Compression::RawDeflate => ContentEncoding::Deflate,
            Compression::Zstd => ContentEncoding::Zstd,
        };
        for plain_bytes in [LIMIT_BYTES, 64 * LIMIT_BYTES] {
            let bomb = Bytes::from(compression.compress(&vec![0; plain_bytes]));
            let (bytes, plain) = peak_bytes(|| decompress(encoding, bomb, LIMIT_BYTES));
            assert_eq!(plain.is_ok(), plain_bytes == LIMIT_BYTES);
            assert!(bytes <= 2 * LIMIT_BYTES, "{compression:?} takes {bytes} bytes");
        }
    }
}
