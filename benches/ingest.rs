//! What a span costs on its way in, step by step, each answer verified before it is timed.
//!
//! ```sh
//! cargo bench --bench ingest
//! ```
//!
//! Every figure is nanoseconds a span, the least of several rounds, with the ratio to a floor or peer measured in the
//! same run: machines differ, ratios less so.

#[path = "../src/allocator.rs"]
mod allocator;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use spanlake_ingest::{ContentEncoding, ContentType, Decoder, Ingest, IngestOptions, Request, Signal};
use spanlake_schema::{System, TABLES, spans};
use spanlake_storage::{Lake, LakeOptions, PromotionList, Store, TableSource, segment};
use spanlake_testkit::{Traffic, spans_of};

const REQUESTS: usize = 128;
const SPANS_A_REQUEST: usize = 512;
const SENDERS: usize = 4;
const ROUNDS: usize = 7;
/// Fields of a message that are told apart where every field is copied.
const COLUMNS: usize = 16;
const RECEIVED: u64 = 1_763_700_000_000_000_000;

/// The workload: bodies, and what is true of them.
struct Load {
    name: &'static str,
    bodies: Vec<Bytes>,
    /// Where the trace ids of each body's spans begin.
    trace_ids: Vec<Vec<usize>>,
    spans: usize,
    input_tokens: i64,
}

impl Load {
    fn new(name: &'static str, mut traffic: Traffic) -> Self {
        let requests: Vec<_> = (0..REQUESTS).map(|_| traffic.request(SPANS_A_REQUEST)).collect();
        let bodies: Vec<Bytes> = requests.iter().map(|request| request.encode_to_vec().into()).collect();
        Self {
            name,
            trace_ids: bodies.iter().map(|body| trace_ids(body)).collect(),
            bodies,
            spans: requests.iter().map(|request| spans_of(request).count()).sum(),
            input_tokens: requests.iter().flat_map(spans_of).map(input_tokens_of).sum(),
        }
    }

    fn bytes(&self) -> usize {
        self.bodies.iter().map(Bytes::len).sum()
    }
}

fn input_tokens_of(span: &Span) -> i64 {
    let told = span.attributes.iter().find(|attribute| attribute.key == "gen_ai.usage.input_tokens");
    match told.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::IntValue(tokens)) => *tokens,
        _ => 0,
    }
}

/// The least time of several rounds by the clock, in nanoseconds a span.
fn time(load: &Load, mut work: impl FnMut()) -> f64 {
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work();
        least = least.min(started.elapsed());
    }
    least.as_nanos() as f64 / load.spans as f64
}

/// The mean processor time of several rounds, all threads, in nanoseconds a span.
fn processor_time(load: &Load, mut work: impl FnMut()) -> f64 {
    let before = cpu_nanos();
    for _ in 0..ROUNDS {
        work();
    }
    (cpu_nanos() - before) / (ROUNDS * load.spans) as f64
}

/// What each step takes of the processor, in nanoseconds a span.
#[derive(Default)]
struct Steps {
    /// Copying every field to its column, compressing the request's bytes, copying the columns once more, as an encoding does,
    /// writing and syncing the request: one thread, nothing looked up, nothing understood. Nobody does with less.
    floor: f64,
    walk: f64,
    parquet: f64,
    /// Of Parquet, the compression.
    zstd: f64,
    log: f64,
}

fn report(step: &str, nanos: f64, against: &str, peer: f64) {
    println!("  {step:<46} {nanos:>7.0} ns a span  {:>5.2} x {against} ({peer:.0} ns)", nanos / peer);
}

/// Visits every field of a message and copies each value to the end of its field's column: the least that makes columns of
/// protobuf.
fn visit(mut bytes: &[u8], depth: usize, columns: &mut [Vec<u8>]) -> usize {
    let mut fields = 0;
    while !bytes.is_empty() {
        let (tag, rest) = varint(bytes);
        fields += 1;
        bytes = match tag & 7 {
            0 => {
                let (value, rest) = varint(rest);
                columns[(tag >> 3) as usize % COLUMNS].extend_from_slice(&value.to_le_bytes());
                rest
            }
            1 => {
                columns[(tag >> 3) as usize % COLUMNS].extend_from_slice(&rest[..8]);
                &rest[8..]
            }
            5 => &rest[4..],
            _ => {
                let (length, rest) = varint(rest);
                let (inner, rest) = rest.split_at(length as usize);
                // Messages by their places in the schema: resource and scope spans, spans, then attributes and their
                // values at depth 4; events, links and status are visited as leaves, at depth 6.
                let below = match (depth, tag >> 3) {
                    (0, _) | (1 | 2, 1 | 2) | (3, 9) | (4, 2) => Some(depth + 1),
                    (3, 11 | 13 | 15) => Some(6),
                    _ => None,
                };
                match below {
                    Some(below) => fields += visit(inner, below, columns),
                    None => columns[(tag >> 3) as usize % COLUMNS + depth * COLUMNS].extend_from_slice(inner),
                }
                rest
            }
        };
    }
    fields
}

fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return (value, &bytes[index + 1..]);
        }
    }
    (value, &[])
}

fn decode(load: &Load) -> Vec<RecordBatch> {
    let decoder = Decoder::default();
    load.bodies.iter().flat_map(|body| decoder.decode_traces(body, RECEIVED).unwrap()).collect()
}

/// The batches of every table.
fn decode_all(load: &Load) -> BTreeMap<&'static str, Vec<RecordBatch>> {
    let decoder = Decoder::default();
    let mut tables: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for body in &load.bodies {
        for (table, batch) in decoder.rows(Signal::Traces, body, RECEIVED).unwrap() {
            tables.entry(table).or_default().push(batch);
        }
    }
    tables
}

/// A file for each table.
fn encode_all(tables: &BTreeMap<&'static str, Vec<RecordBatch>>) -> Vec<segment::Encoded> {
    let spec = |name: &str| *TABLES.iter().find(|spec| spec.name == name).unwrap();
    tables.iter().map(|(name, batches)| segment::encode(spec(name), batches).unwrap()).collect()
}

fn verify(load: &Load, batches: &[RecordBatch]) {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, load.spans, "every span is a row");
    let columns = batches.iter().map(|batch| batch.column_by_name("input_tokens").unwrap());
    let sum: i64 = columns.filter_map(|column| arrow::compute::sum(column.as_primitive::<Int64Type>())).sum();
    assert_eq!(sum, load.input_tokens, "every token is counted");
}

/// Walking: the wire alone, prost, columns.
fn walk(load: &Load, steps: &mut Steps) {
    let decoder = Decoder::default();
    verify(load, &decode(load));
    let mut columns = vec![Vec::new(); 7 * COLUMNS];
    let floor = time(load, || {
        for body in &load.bodies {
            columns.iter_mut().for_each(Vec::clear);
            black_box(visit(body, 0, &mut columns));
        }
    });
    let prost = time(load, || {
        for body in &load.bodies {
            black_box(ExportTraceServiceRequest::decode(body.clone()).unwrap());
        }
    });
    let columns = time(load, || {
        for body in &load.bodies {
            black_box(decoder.decode_traces(body, RECEIVED).unwrap());
        }
    });
    report("copy every field, understand nothing", floor, "itself: a floor", floor);
    report("prost structs, no columns yet", prost, "that floor", floor);
    report("walk into priced Arrow columns", columns, "prost structs", prost);
    steps.floor += floor;
    steps.walk = columns;
}

/// Parquet: our encoding against compressing the same request bytes, which no column format can avoid, and against the
/// `parquet` crate's writer.
fn parquet(load: &Load, steps: &mut Steps) {
    let tables = decode_all(load);
    let encoded = segment::encode(&spans::SPEC, &tables[spans::SPEC.name]).unwrap();
    let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(encoded.to_bytes()).unwrap();
    let read: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    verify(load, &read);
    let files: Vec<Bytes> = encode_all(&tables).iter().map(segment::Encoded::to_bytes).collect();
    let size: usize = files.iter().map(Bytes::len).sum();
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    let floor = time(load, || {
        for body in &load.bodies {
            black_box(compressor.compress(body).unwrap());
        }
    });
    let mut copy = Vec::new();
    let copied = time(load, || {
        copy.clear();
        let columns = tables.values().flatten().flat_map(RecordBatch::columns);
        for buffer in columns.flat_map(|column| buffers_of(&column.to_data())) {
            copy.extend_from_slice(&buffer);
        }
        black_box(&copy);
    });
    let pages: Vec<Bytes> = files.into_iter().flat_map(pages_of).collect();
    let zstd = time(load, || {
        for page in &pages {
            black_box(compressor.compress(page).unwrap());
        }
    });
    let (wall, ours) = {
        let encode = || {
            black_box(encode_all(&tables));
        };
        (time(load, encode), processor_time(load, encode))
    };
    let theirs = processor_time(load, || {
        for batches in tables.values() {
            black_box(written_by_the_crate(batches));
        }
    });
    report("zstd 1 of the request bytes", floor, "itself: a floor", floor);
    report("Parquet of all columns, wall", wall, "that floor", floor);
    report("Parquet of all columns, processor time", ours, "that floor", floor);
    report("the parquet crate's writer, processor time", theirs, "ours", ours);
    println!("  Parquet takes {} bytes a span of {} on the wire", size / load.spans, load.bytes() / load.spans);
    report("copy the columns once", copied, "itself: a floor", copied);
    steps.floor += floor + copied;
    steps.parquet = ours;
    steps.zstd = zstd;
}

/// The memory of an array and all within it.
fn buffers_of(data: &arrow::array::ArrayData) -> Vec<arrow::buffer::Buffer> {
    let within = data.child_data().iter().flat_map(buffers_of);
    data.buffers().iter().cloned().chain(data.nulls().map(|nulls| nulls.buffer().clone())).chain(within).collect()
}

/// The pages of a file, decompressed.
fn pages_of(file: Bytes) -> Vec<Bytes> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let reader = SerializedFileReader::new(file).unwrap();
    let mut pages = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).unwrap();
        for column in 0..group.num_columns() {
            pages.extend(group.get_column_page_reader(column).unwrap().map(|page| page.unwrap().buffer().clone()));
        }
    }
    pages
}

/// The same batches by the `parquet` crate, at the same level of zstd.
fn written_by_the_crate(batches: &[RecordBatch]) -> Vec<u8> {
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::properties::{EnabledStatistics, WriterProperties};
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.into_inner().unwrap()
}

/// Writing and syncing the same bytes to a file that is there already, one sync a request.
fn log_floor(load: &Load, steps: &mut Steps) {
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("floor")).unwrap();
    file.write_all(&vec![0; load.bytes()]).unwrap();
    file.sync_all().unwrap();
    let mut write = || {
        file.seek(SeekFrom::Start(0)).unwrap();
        for body in &load.bodies {
            file.write_all(body).unwrap();
            file.sync_data().unwrap();
        }
    };
    let wall = time(load, &mut write);
    report("write and sync the bytes, a sync a request", wall, "itself: a floor", wall);
    steps.floor += wall;
    steps.log = processor_time(load, write);
}

/// Processor time of this process, all threads, in nanoseconds: the kernel's own count, in ticks of 10 ms.
fn cpu_nanos() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 1e7
}

/// From a request's bytes to its Delta commit, by way of the log.
async fn end_to_end(load: &Load, steps: &Steps) {
    const ROUNDS: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(options(folder.path()), Arc::new(Decoder::default())).await.unwrap();
    let options =
        IngestOptions { message_limit_bytes: 64 << 20, in_flight_limit_bytes: 1 << 30, ambient: Arc::new(System) };
    let ingest = Arc::new(Ingest::new(Arc::clone(&lake), options));
    assert_eq!(load.trace_ids.iter().map(Vec::len).sum::<usize>(), load.spans, "every trace id is found");
    // A server runs for long: the memory it needs at this rate has been touched before.
    for round in 0..ROUNDS {
        send(&ingest, load, round).await;
    }
    lake.flush().await.unwrap();
    let (started, cpu) = (Instant::now(), cpu_nanos());
    for round in ROUNDS..2 * ROUNDS {
        send(&ingest, load, round).await;
    }
    let acknowledged = started.elapsed();
    lake.flush().await.unwrap();
    let (wall, cpu) = (started.elapsed(), cpu_nanos() - cpu);
    let view = lake.view("default", "spans").await.unwrap().unwrap();
    let rows: u64 = view.snapshot.segments.iter().filter_map(|segment| segment.rows()).sum();
    let spans = load.spans * ROUNDS;
    assert_eq!(rows, 2 * spans as u64, "every span is committed once");
    let a_span = |time: Duration| time.as_nanos() as f64 / spans as f64;
    let (floor, cpu) = (steps.floor, cpu / spans as f64);
    report("acknowledged, wall, four senders", a_span(acknowledged), "sum of floors", floor);
    report("committed, wall", a_span(wall), "sum of floors", floor);
    report("committed, processor time", cpu, "sum of floors", floor);
    println!(
        "  of that: walk {:.0}, zstd {:.0}, the rest of Parquet {:.0}, log {:.0}, all else (admission, hot batches, statistics, \
         commits, memory) {:.0}",
        steps.walk,
        steps.zstd,
        steps.parquet - steps.zstd,
        steps.log,
        cpu - steps.walk - steps.parquet - steps.log,
    );
    let stats = lake.stats();
    println!(
        "  {} flushes took {:.2} s, commits {:.2} s, {} log syncs {:.2} s, walking {:.2} s",
        stats.flushes_total,
        stats.flush_seconds_total,
        stats.commit_seconds_total,
        stats.wal_syncs_total,
        stats.wal_sync_seconds_total,
        ingest.stats().walk_seconds_total,
    );
    lake.shutdown().await.unwrap();
}

/// The same spans in traces of their own: in the same ones they would be repeats, which cost more.
fn in_round(body: &[u8], trace_ids: &[usize], round: usize) -> Bytes {
    let mut body = body.to_vec();
    for &at in trace_ids {
        body[at] ^= round as u8;
    }
    body.into()
}

/// Where the trace ids of a request's spans begin: field 1, of 16 bytes, before field 2, of 8.
fn trace_ids(body: &[u8]) -> Vec<usize> {
    let starts = body.windows(20).enumerate();
    starts.filter(|(_, bytes)| bytes[..2] == [0x0a, 16] && bytes[18..] == [0x12, 8]).map(|(at, _)| at + 2).collect()
}

/// Senders at once, each with its share of the requests, which sends one after the other.
async fn send(ingest: &Arc<Ingest>, load: &Load, round: usize) {
    let requests: Vec<_> = load.bodies.iter().cloned().zip(load.trace_ids.iter().cloned()).collect();
    let shares = requests.chunks(requests.len().div_ceil(SENDERS));
    let senders: Vec<_> = shares
        .map(|share| {
            let (ingest, share) = (Arc::clone(ingest), share.to_vec());
            tokio::spawn(async move {
                for (body, trace_ids) in share {
                    let body = in_round(&body, &trace_ids, round);
                    let request = Request {
                        tenant: "default".to_owned(),
                        content_type: ContentType::Protobuf,
                        content_encoding: ContentEncoding::Identity,
                        body,
                    };
                    ingest.export(Signal::Traces, request).await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
}

fn options(folder: &std::path::Path) -> LakeOptions {
    LakeOptions {
        store: Store::open(folder.join("store").to_str().unwrap()).unwrap(),
        wal_dir: folder.join("wal"),
        wal_limit_bytes: 8 << 30,
        hot_limit_bytes: 4 << 30,
        flush_interval: Duration::from_secs(10),
        flush_bytes: 64 << 20,
        ack_on_commit: false,
        commit_timeout: Duration::from_secs(60),
        retry_window: Duration::from_secs(900),
        retry_limit_bytes: 16 << 20,
        promote: PromotionList::default(),
        ambient: Arc::new(System),
    }
}

fn main() {
    allocator::keep_freed_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let loads =
        [Load::new("with content", Traffic::new(1)), Load::new("without content", Traffic::new(1).without_content())];
    for load in &loads {
        let each = load.bytes() / load.spans;
        println!("{}: {} spans of {each} bytes, {SPANS_A_REQUEST} a request", load.name, load.spans);
        let mut steps = Steps::default();
        walk(load, &mut steps);
        parquet(load, &mut steps);
        log_floor(load, &mut steps);
        runtime.block_on(end_to_end(load, &steps));
        println!();
    }
}
