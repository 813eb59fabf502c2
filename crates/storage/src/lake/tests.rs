mod promoting;
mod spilling;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, ListArray, MapArray, StringArray,
    StructArray, TimestampMicrosecondArray, new_empty_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use spanlake_schema::{DEFAULT_TENANT, TableSpec, model_usage, spans};
use spanlake_testkit::{Fault, FaultyStore, ManualAmbient, Operation, wait_until};
use tempfile::TempDir;

use super::meter::Meter;
use super::{Decode, Entry, Frame, Lake, LakeOptions, ReadOnlyLake, TableSource, TableView};
use crate::wal::faulty_disk::FaultyDisk;
use crate::{ErrorKind, Result, Store};

pub(super) const HOUR: &str = model_usage::HOUR_SPEC.name;
const SPANS: &str = spans::SPEC.name;
pub(super) const TODAY: i32 = 20_500;
/// Each process has randomness of its own.
static SEED: AtomicU64 = AtomicU64::new(1);

/// A payload is text: `table first_id end_id date`, one line for each batch, and empty lines.
#[derive(Debug)]
pub(super) struct TextDecode;

impl Decode for TextDecode {
    fn decode(&self, _frame: &Frame, payload: &Bytes) -> Result<Vec<(&'static str, RecordBatch)>> {
        let text = std::str::from_utf8(payload).unwrap();
        Ok(text.trim_end().lines().map(batch_of_line).collect())
    }
}

pub(super) fn batch_of_line(line: &str) -> (&'static str, RecordBatch) {
    let words: Vec<&str> = line.split(' ').collect();
    let [table, first, end, date] = words.as_slice() else { panic!("{line}") };
    let spec = if *table == HOUR { &model_usage::HOUR_SPEC } else { &spans::SPEC };
    (spec.name, rows(spec, first.parse().unwrap()..end.parse().unwrap(), date.parse().unwrap()))
}

/// The first column that always holds a number holds the row's id.
fn id_column(spec: &TableSpec) -> usize {
    let schema = spec.arrow_schema();
    schema.fields().iter().position(|field| !field.is_nullable() && *field.data_type() == DataType::Int64).unwrap()
}

fn rows(spec: &TableSpec, ids: Range<i64>, date: i32) -> RecordBatch {
    let schema = spec.arrow_schema();
    let count = ids.clone().count();
    let column = |(index, field): (usize, &Arc<arrow::datatypes::Field>)| -> ArrayRef {
        if index == id_column(spec) {
            return Arc::new(Int64Array::from_iter_values(ids.clone()));
        }
        if field.is_nullable() {
            return new_null_array(field.data_type(), count);
        }
        match field.data_type() {
            DataType::Date32 => Arc::new(Date32Array::from(vec![date; count])),
            DataType::Int64 => Arc::new(Int64Array::from(vec![0; count])),
            DataType::Float64 => Arc::new(Float64Array::from(vec![0.0; count])),
            DataType::Boolean => Arc::new(BooleanArray::from(vec![false; count])),
            DataType::Utf8 => Arc::new(StringArray::from(vec!["x"; count])),
            DataType::Timestamp(..) => Arc::new(TimestampMicrosecondArray::from(vec![0; count]).with_timezone("UTC")),
            DataType::Map(entries, sorted) => {
                let none = StructArray::from(new_empty_array(entries.data_type()).to_data());
                let offsets = OffsetBuffer::new_zeroed(count);
                Arc::new(MapArray::new(Arc::clone(entries), offsets, none, None, *sorted))
            }
            DataType::List(element) => {
                let none = new_empty_array(element.data_type());
                Arc::new(ListArray::new(Arc::clone(element), OffsetBuffer::new_zeroed(count), none, None))
            }
            other => panic!("{other}"),
        }
    };
    let columns = schema.fields().iter().enumerate().map(column).collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

pub(super) fn frame(tenant: &str) -> Frame {
    Frame { tenant: tenant.to_owned(), kind: 1, received_unix_nano: 5, rules_version: 1, prices_version: 1 }
}

fn entry_of(tenant: &str, lines: &[String]) -> Entry {
    let batches = lines.iter().map(|line| batch_of_line(line)).collect();
    Entry { frame: frame(tenant), payload: Bytes::from(lines.join("\n")), batches }
}

fn entry(ids: Range<i64>) -> Entry {
    entry_on(ids, TODAY)
}

fn entry_on(ids: Range<i64>, date: i32) -> Entry {
    entry_of(DEFAULT_TENANT, &[format!("{HOUR} {} {} {date}", ids.start, ids.end)])
}

/// A lake's surroundings: a store that can be made to fail, and a directory for the log.
pub(super) struct World {
    pub(super) objects: FaultyStore<InMemory>,
    dir: TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        Self { objects: FaultyStore::new(InMemory::new()), dir: TempDir::new().unwrap() }
    }

    fn store(&self) -> Store {
        Store::with_object_store("memory:///lake", Arc::new(self.objects.clone()))
    }

    pub(super) fn wal_dir(&self) -> PathBuf {
        self.dir.path().join("wal")
    }

    /// Nothing flushes by itself.
    pub(super) fn options(&self) -> LakeOptions {
        LakeOptions {
            store: self.store(),
            wal_dir: self.wal_dir(),
            wal_limit_bytes: 64 << 20,
            hot_limit_bytes: 256 << 20,
            flush_interval: Duration::from_secs(3600),
            flush_bytes: u64::MAX,
            ack_on_commit: false,
            commit_timeout: Duration::from_secs(60),
            retry_window: Duration::from_secs(900),
            retry_limit_bytes: 16 << 20,
            promote: crate::PromotionList::default(),
            ambient: Arc::new(ManualAmbient::new(SEED.fetch_add(1, Ordering::Relaxed))),
        }
    }

    async fn open(&self) -> Arc<Lake> {
        open(self.options()).await.unwrap()
    }

    /// The log as it is now, as a crash would leave it. The caller sees to it that nothing is being appended.
    fn copy_of_log(&self) -> TempDir {
        copy_dir(&self.wal_dir())
    }

    /// The same objects as they are now, on a store of their own.
    async fn fork(&self) -> Self {
        let fork = Self::new();
        let objects: Vec<_> = self.objects.list(None).try_collect().await.unwrap();
        for object in objects {
            let bytes = self.objects.get(&object.location).await.unwrap().bytes().await.unwrap();
            fork.objects.put(&object.location, bytes.into()).await.unwrap();
        }
        fork
    }

    /// A lake on a copied log and the same store.
    async fn open_copy(&self, log: &TempDir) -> Arc<Lake> {
        open(LakeOptions { wal_dir: log.path().to_path_buf(), ..self.options() }).await.unwrap()
    }
}

fn copy_dir(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap();
        match std::fs::copy(&path, to.path().join(name)) {
            // It is renamed whenever something was committed.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && name.to_string_lossy().starts_with("committed-") => {
            }
            copied => drop(copied.unwrap()),
        }
    }
    to
}

pub(super) async fn open(options: LakeOptions) -> Result<Arc<Lake>> {
    Lake::open(options, Arc::new(TextDecode)).await
}

async fn view(source: &dyn TableSource, table: &str) -> TableView {
    source.view(DEFAULT_TENANT, table).await.unwrap().unwrap()
}

fn count(view: &TableView) -> u64 {
    let cold: u64 = view.snapshot.segments.iter().map(|segment| segment.rows().unwrap()).sum();
    let spilled: u64 = view.spilled.iter().map(|spilled| spilled.segment().rows().unwrap()).sum();
    cold + spilled + view.hot.iter().map(|batch| batch.num_rows() as u64).sum::<u64>()
}

async fn committed_ids(view: &TableView) -> Vec<i64> {
    let mut ids = Vec::new();
    for segment in &view.snapshot.segments {
        let path = view.table.object_path(&segment.path).unwrap();
        ids.extend(ids_in(view, view.table.store().object_store().as_ref(), &path).await);
    }
    ids.sort_unstable();
    ids
}

async fn ids_in(view: &TableView, objects: &dyn ObjectStore, path: &object_store::path::Path) -> Vec<i64> {
    let spec = view.table.spec();
    let name = spec.columns[id_column(spec)].name;
    let bytes = objects.get(path).await.unwrap().bytes().await.unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    let ids = |batch: RecordBatch| {
        batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().iter().copied().collect::<Vec<_>>()
    };
    batches.flat_map(|batch| ids(batch.unwrap())).collect()
}

/// All ids that the view shows, sorted, those twice there twice.
pub(super) async fn ids(source: &dyn TableSource, table: &str) -> Vec<i64> {
    ids_of(&view(source, table).await).await
}

async fn ids_of(view: &TableView) -> Vec<i64> {
    let mut ids = committed_ids(view).await;
    for spilled in &view.spilled {
        let path = spilled.segment().path.as_str().into();
        ids.extend(ids_in(view, spilled.object_store().as_ref(), &path).await);
    }
    for batch in &view.hot {
        ids.extend(batch.column(id_column(view.table.spec())).as_primitive::<Int64Type>().values());
    }
    ids.sort_unstable();
    ids
}

#[track_caller]
fn assert_ids(found: &[i64], expected: Range<i64>) {
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn rows_are_there_once_before_and_after_flush_shutdown_and_reopening() {
    let world = World::new();
    let lake = world.open().await;
    assert_eq!(lake.append(entry(0..3)).await.unwrap(), 1);
    assert_eq!(lake.append(entry(3..4)).await.unwrap(), 2);
    assert_ids(&ids(&*lake, HOUR).await, 0..4);
    assert_eq!(view(&*lake, HOUR).await.hot.len(), 2);

    assert_eq!(lake.flush().await.unwrap(), 2);
    assert_ids(&ids(&*lake, HOUR).await, 0..4);
    let flushed = view(&*lake, HOUR).await;
    assert!(flushed.hot.is_empty());
    assert_eq!(flushed.snapshot.segments.len(), 1);

    lake.append(entry(4..6)).await.unwrap();
    assert_ids(&ids(&*lake, HOUR).await, 0..6);
    drop(lake);

    let lake = world.open().await;
    assert_ids(&ids(&*lake, HOUR).await, 0..6);
    assert_eq!(lake.append(entry(6..7)).await.unwrap(), 4, "positions go on");
    lake.shutdown().await.unwrap();
    assert_eq!(lake.append(entry(90..91)).await.unwrap_err().kind(), ErrorKind::Closed);
    lake.shutdown().await.unwrap();
    drop(lake);

    let lake = world.open().await;
    let stats = lake.stats();
    assert_eq!((stats.hot_rows, stats.wal_bytes, stats.position, stats.committed_position), (0, 0, 4, 4));
    assert_ids(&ids(&*lake, HOUR).await, 0..7);
    drop(lake);
    let at_rest = ReadOnlyLake::open(world.store()).await.unwrap();
    assert_ids(&ids(&at_rest, HOUR).await, 0..7);
}

/// Guarantee: while requests are appended, flushed and merged, each view shows at least what was acknowledged before it
/// was taken, at most what was sent, and never less than the view before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_never_miss_nor_repeat_a_row_while_flushes_run() {
    const REQUESTS: i64 = 600;
    let world = World::new();
    let lake = world.open().await;
    let (sent, acknowledged) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let appending = tokio::spawn({
        let (lake, sent, acknowledged) = (Arc::clone(&lake), Arc::clone(&sent), Arc::clone(&acknowledged));
        async move {
            for id in 0..REQUESTS {
                sent.fetch_add(1, Ordering::SeqCst);
                lake.append(entry(id..id + 1)).await.unwrap();
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let flushing = tokio::spawn({
        let (lake, acknowledged) = (Arc::clone(&lake), Arc::clone(&acknowledged));
        async move {
            let mut flushes = 0;
            while acknowledged.load(Ordering::SeqCst) < REQUESTS {
                lake.flush().await.unwrap();
                flushes += 1;
                tokio::task::yield_now().await;
            }
            flushes
        }
    });
    let (mut before, mut views, mut mixed) = (0, 0, 0);
    while before < REQUESTS as u64 {
        let at_least = acknowledged.load(Ordering::SeqCst) as u64;
        let view = view(&*lake, HOUR).await;
        let now = count(&view);
        let at_most = sent.load(Ordering::SeqCst) as u64;
        assert!((at_least..=at_most).contains(&now), "{at_least} <= {now} <= {at_most}");
        assert!(now >= before, "{before} rows, then {now}");
        mixed += u64::from(!view.hot.is_empty() && !view.snapshot.segments.is_empty());
        views += 1;
        before = now;
        tokio::task::yield_now().await;
    }
    appending.await.unwrap();
    let flushes = flushing.await.unwrap();
    assert!(views > 100 && mixed > 10 && flushes > 2, "{views} views, {mixed} of them hot and cold, {flushes} flushes");
    assert_ids(&ids(&*lake, HOUR).await, 0..REQUESTS);
}

/// Scenario: a process dies while its commit is on its way to the store; the commit comes in before the next process starts,
/// or after it has.
/// Guarantee: its rows are committed once.
#[tokio::test]
async fn a_commit_that_comes_in_after_its_process_died_is_no_second_one() {
    for before_start in [false, true] {
        let world = World::new();
        let lake = world.open().await;
        lake.append(entry(0..5)).await.unwrap();
        let log = format!("{HOUR}/_delta_log");
        world.objects.inject(Operation::Put, &log, 1, Fault::Late);
        world.objects.inject_run(Operation::Put, &log, 2, u64::MAX, Fault::Fail);
        lake.flush().await.unwrap_err();
        drop(lake);
        world.objects.heal();

        if before_start {
            assert_eq!(world.objects.deliver_late(1).await, 0);
        }
        let lake = world.open().await;
        assert_eq!(world.objects.deliver_late(1).await, 0);
        lake.append(entry(5..8)).await.unwrap();
        assert_ids(&ids(&*lake, HOUR).await, 0..8);
        lake.flush().await.unwrap();
        assert_ids(&ids(&*lake, HOUR).await, 0..8);
        lake.shutdown().await.unwrap();
        let at_rest = ReadOnlyLake::open(world.store()).await.unwrap();
        assert_ids(&ids(&at_rest, HOUR).await, 0..8);
    }
}

/// Guarantee: at whatever point between log and commit the process ends, what was acknowledged is there once.
#[tokio::test]
async fn a_crash_before_or_after_the_commit_loses_and_repeats_nothing() {
    let world = World::new();
    let lake = world.open().await;
    lake.append(entry(0..5)).await.unwrap();
    let before_commit = world.copy_of_log();
    let forked = world.fork().await;
    lake.flush().await.unwrap();
    drop(lake);

    // The commit did not happen.
    let restarted = forked.open_copy(&before_commit).await;
    assert_ids(&ids(&*restarted, HOUR).await, 0..5);
    assert_eq!(restarted.stats().hot_rows, 5);
    restarted.flush().await.unwrap();
    assert_ids(&ids(&*restarted, HOUR).await, 0..5);
    drop(restarted);

    // The commit happened, and the log was not freed yet.
    let log = copy_dir(before_commit.path());
    let restarted = world.open_copy(&log).await;
    assert_eq!(restarted.stats().hot_rows, 0);
    assert_ids(&ids(&*restarted, HOUR).await, 0..5);
    restarted.append(entry(5..6)).await.unwrap();
    restarted.flush().await.unwrap();
    assert_ids(&ids(&*restarted, HOUR).await, 0..6);
}

/// Guarantee: copies of log and store taken at any moment between two requests hold every request acknowledged before,
/// once, and go on from there, even where the copy of the store is younger than that of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_taken_while_flushes_run_open_with_every_row_once() {
    const ROUNDS: i64 = 12;
    const REQUESTS_A_ROUND: i64 = 9;
    let world = World::new();
    let lake = open(LakeOptions { flush_bytes: 1, ..world.options() }).await.unwrap();
    let (mut copies, mut last) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        for _ in 0..REQUESTS_A_ROUND {
            lake.append(entry(last..last + 1)).await.unwrap();
            last += 1;
        }
        copies.push((last, world.copy_of_log(), world.fork().await));
    }
    drop(lake);
    for (acknowledged, log, store) in copies {
        let lake = store.open_copy(&log).await;
        assert_ids(&ids(&*lake, HOUR).await, 0..acknowledged);
        lake.append(entry(acknowledged..acknowledged + 2)).await.unwrap();
        lake.flush().await.unwrap();
        assert_ids(&ids(&*lake, HOUR).await, 0..acknowledged + 2);
        lake.append(entry(acknowledged + 2..acknowledged + 3)).await.unwrap();
        drop(lake);
        let lake = store.open_copy(&log).await;
        assert_ids(&ids(&*lake, HOUR).await, 0..acknowledged + 3);
    }
}

/// Guarantee: a store that fails makes nothing disappear; when it answers again, everything is committed, once.
#[tokio::test]
async fn rows_stay_visible_while_the_store_fails_and_are_committed_when_it_answers() {
    let world = World::new();
    let lake = world.open().await;
    lake.append(entry(0..2)).await.unwrap();
    world.objects.inject_run(Operation::Put, HOUR, 1, u64::MAX, Fault::Fail);
    let error = lake.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    let stats = lake.stats();
    assert_eq!((stats.flush_failures_total, stats.flushes_total, stats.committed_position), (1, 0, 0));
    assert!(stats.last_flush_error.unwrap().contains("injected fault"));
    lake.append(entry(2..5)).await.unwrap();
    assert_ids(&ids(&*lake, HOUR).await, 0..5);
    world.objects.heal();
    // The flusher tries again by itself, and takes what came meanwhile as well.
    wait_until("the retry of the flush", async || (lake.stats().committed_position >= 1).then_some(())).await;
    lake.flush().await.unwrap();
    let stats = lake.stats();
    assert_eq!((stats.last_flush_error, stats.committed_position, stats.hot_rows), (None, 2, 0));
    assert_eq!((stats.committed_rows_total, stats.hot_bytes, stats.wal_bytes), (5, 0, 0));
    assert_ids(&ids(&*lake, HOUR).await, 0..5);
}

/// Guarantee: a commit that happened, but whose answer and whose very existence could not be read, is not repeated.
#[tokio::test]
async fn a_commit_with_a_lost_answer_is_found_again() {
    let world = World::new();
    let lake = world.open().await;
    lake.append(entry(0..3)).await.unwrap();
    world.objects.inject(Operation::Put, "_delta_log", 1, Fault::LostAnswer);
    world.objects.inject_run(Operation::Get, "_delta_log", 2, u64::MAX, Fault::Fail);
    assert_eq!(lake.flush().await.unwrap_err().kind(), ErrorKind::Retry);
    lake.append(entry(3..4)).await.unwrap();
    world.objects.heal();
    lake.flush().await.unwrap();
    let view = view(&*lake, HOUR).await;
    assert_eq!(view.snapshot.version, 2, "one commit for each flush");
    assert!(view.hot.is_empty());
    assert_ids(&ids(&*lake, HOUR).await, 0..4);
}

/// Guarantee: each table has its own position. What one commit holds and another table's does not is replayed for that
/// table alone.
#[tokio::test]
async fn tables_are_recovered_each_from_its_own_position() {
    let world = World::new();
    let lake = world.open().await;
    let both = |first: i64| {
        entry_of(DEFAULT_TENANT, &[HOUR, SPANS].map(|table| format!("{table} {first} {} {TODAY}", first + 2)))
    };
    lake.append(both(0)).await.unwrap();
    lake.append(both(2)).await.unwrap();
    world.objects.inject_run(Operation::Put, SPANS, 1, u64::MAX, Fault::Fail);
    lake.flush().await.unwrap_err();
    assert!(view(&*lake, HOUR).await.hot.is_empty());
    assert_eq!(view(&*lake, SPANS).await.hot.len(), 2);
    // A table that fails does not keep others from their commits.
    lake.append(both(4)).await.unwrap();
    lake.flush().await.unwrap_err();
    assert!(view(&*lake, HOUR).await.hot.is_empty());
    drop(lake);
    world.objects.heal();

    let lake = world.open().await;
    assert_eq!(lake.stats().hot_rows, 6);
    for table in [HOUR, SPANS] {
        assert_ids(&ids(&*lake, table).await, 0..6);
    }
    lake.flush().await.unwrap();
    assert_eq!(lake.stats().hot_rows, 0);
    for table in [HOUR, SPANS] {
        assert_ids(&ids(&*lake, table).await, 0..6);
    }
}

/// Guarantee: a log that holds more rows than memory may is recovered while the store takes nothing, within memory.
#[tokio::test]
async fn a_log_beyond_the_memory_limit_is_spilled_while_it_is_read() {
    let world = World::new();
    let lake = world.open().await;
    for id in 0..20 {
        let mut large = entry(id..id + 1);
        large.payload = [large.payload, Bytes::from(vec![b'\n'; 1 << 20])].concat().into();
        lake.append(large).await.unwrap();
    }
    drop(lake);
    world.objects.inject_run(Operation::Put, HOUR, 1, u64::MAX, Fault::Fail);
    let lake = open(LakeOptions { hot_limit_bytes: 1, ..world.options() }).await.unwrap();
    let stats = lake.stats();
    assert_eq!((stats.hot_rows, stats.hot_bytes, stats.spilled_rows), (0, 0, 20));
    assert_ids(&ids(&*lake, HOUR).await, 0..20);
    lake.flush().await.unwrap_err();
    assert_ids(&ids(&*lake, HOUR).await, 0..20);
    world.objects.heal();
    lake.flush().await.unwrap();
    let stats = lake.stats();
    assert_eq!((stats.spilled_rows, stats.spilled_bytes, stats.committed_rows_total), (0, 0, 20));
    lake.append(entry(20..21)).await.unwrap();
    assert_ids(&ids(&*lake, HOUR).await, 0..21);
}

#[tokio::test]
async fn with_ack_on_commit_an_append_returns_after_its_commit() {
    let world = World::new();
    let lake = open(LakeOptions { ack_on_commit: true, ..world.options() }).await.unwrap();
    let (one, two) = tokio::join!(lake.append(entry(0..1)), lake.append(entry(1..2)));
    assert_eq!([one.unwrap(), two.unwrap()], [1, 2]);
    let view = view(&*lake, HOUR).await;
    assert!(view.hot.is_empty());
    assert_ids(&committed_ids(&view).await, 0..2);

    // While the store is away an append waits, and at the end is not told that it was committed.
    world.objects.inject_run(Operation::Put, HOUR, 1, u64::MAX, Fault::Fail);
    let waiting = tokio::spawn({
        let lake = Arc::clone(&lake);
        async move { lake.append(entry(2..3)).await }
    });
    wait_until("a failing flush", async || (lake.stats().flush_failures_total > 0).then_some(())).await;
    assert!(!waiting.is_finished());
    lake.shutdown().await.unwrap_err();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn flushes_begin_by_time_and_by_bytes() {
    let by_time = LakeOptions { flush_interval: Duration::from_millis(20), ..World::new().options() };
    let by_bytes = LakeOptions { flush_bytes: 4096, ..World::new().options() };
    for options in [by_time, by_bytes] {
        let dir = TempDir::new().unwrap();
        let lake = open(LakeOptions { wal_dir: dir.path().join("wal"), ..options }).await.unwrap();
        for round in 0..3 {
            lake.append(entry(round * 100..(round + 1) * 100)).await.unwrap();
            let committed = async || (lake.stats().committed_position == round as u64 + 1).then_some(());
            wait_until("a flush by itself", committed).await;
        }
        assert_ids(&ids(&*lake, HOUR).await, 0..300);
    }
}

#[tokio::test]
async fn at_a_bound_appends_are_refused_until_the_store_has_taken_some() {
    let world = World::new();
    // Beyond the limit of memory rows are spilled, so that it is the log that refuses in the end.
    let by_memory = LakeOptions { hot_limit_bytes: 200_000, wal_limit_bytes: 100_000, ..world.options() };
    let other = World::new();
    let by_log = LakeOptions { wal_limit_bytes: 1_000, ..other.options() };
    for options in [by_memory, by_log] {
        let lake = open(options).await.unwrap();
        let mut accepted = 0;
        let error = loop {
            match lake.append(entry(accepted..accepted + 1)).await {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        assert!((2..2_000).contains(&accepted), "{accepted} requests accepted");
        lake.flush().await.unwrap();
        // The log is freed by its writer, a moment after the flush.
        wait_until("room", async || (lake.stats().wal_bytes == 0).then_some(())).await;
        lake.append(entry(accepted..accepted + 1)).await.unwrap();
        assert_ids(&ids(&*lake, HOUR).await, 0..accepted + 1);
        // What is larger than the bound alone is taken where nothing else is there.
        lake.flush().await.unwrap();
        wait_until("room", async || (lake.stats().wal_bytes == 0).then_some(())).await;
        let large = Entry { payload: Bytes::from(vec![b'\n'; 300_000]), ..entry(9_000..9_001) };
        lake.append(large).await.unwrap();
    }
}

#[tokio::test]
async fn a_commit_names_at_most_eight_days_and_the_rest_follows() {
    let world = World::new();
    let lake = world.open().await;
    for day in 0..20 {
        lake.append(entry_on(i64::from(day)..i64::from(day) + 1, TODAY + day)).await.unwrap();
    }
    lake.append(entry_on(20..21, TODAY)).await.unwrap();
    let begun = view(&*lake, HOUR).await.snapshot.version;
    assert_eq!(lake.flush().await.unwrap(), 21);
    let view = view(&*lake, HOUR).await;
    assert_ids(&committed_ids(&view).await, 0..21);
    let changes = view.table.changes(begun, view.snapshot.version).await.unwrap();
    let days: Vec<usize> = changes.iter().map(|change| change.adds.len()).collect();
    assert_eq!(days, [8, 8, 5], "4 days, and one of the first again");
}

#[tokio::test]
async fn tenants_are_kept_apart_and_come_back() {
    let world = World::new();
    let lake = world.open().await;
    assert!(lake.tables("acme").is_empty());
    assert!(lake.view("acme", HOUR).await.unwrap().is_none());
    let of_acme = |ids: Range<i64>| entry_of("acme", &[format!("{HOUR} {} {} {TODAY}", ids.start, ids.end)]);
    let (one, two) = tokio::join!(lake.append(of_acme(0..1)), lake.append(of_acme(1..2)));
    assert!(one.is_ok() && two.is_ok());
    lake.append(entry(0..5)).await.unwrap();
    assert_eq!(count(&lake.view("acme", HOUR).await.unwrap().unwrap()), 2);
    assert_eq!(lake.tables("acme").len(), spanlake_schema::TABLES.len());
    drop(lake);
    let lake = world.open().await;
    assert_eq!(count(&lake.view("acme", HOUR).await.unwrap().unwrap()), 2);
    lake.flush().await.unwrap();
    assert_eq!(count(&lake.view("acme", HOUR).await.unwrap().unwrap()), 2);
    assert_eq!(count(&view(&*lake, HOUR).await), 5);

    let long = "a".repeat(129);
    for name in ["", "..", "a/b", "_delta_log", "ä", long.as_str()] {
        let error = lake.append(Entry { frame: frame(name), ..entry(0..1) }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
    }
}

#[tokio::test]
async fn rows_that_do_not_fit_their_table_are_refused_and_nothing_is_logged() {
    let world = World::new();
    let lake = world.open().await;
    let good = entry(0..1).batches.remove(0).1;
    let renamed = {
        let mut fields: Vec<_> = good.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        fields[2] = fields[2].clone().with_name("other");
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), good.columns().to_vec()).unwrap()
    };
    let narrow = good.project(&[0, 1, 2]).unwrap();
    for batches in [vec![("nothing", good)], vec![(HOUR, renamed)], vec![(HOUR, narrow)]] {
        let error = lake.append(Entry { batches, ..entry(0..1) }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    let stats = lake.stats();
    assert_eq!((stats.position, stats.wal_bytes, stats.hot_bytes), (0, 0, 0));
}

#[tokio::test]
async fn a_log_of_another_store_is_refused_by_name() {
    let (one, two) = (World::new(), World::new());
    drop(one.open().await);
    drop(two.open().await);
    // Another store behind the same address, another address, and a store that lost its tables.
    let elsewhere = Store::with_object_store("memory:///elsewhere", Arc::new(two.objects.clone()));
    for store in [two.store(), elsewhere, World::new().store()] {
        let error = open(LakeOptions { store, ..one.options() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(text.contains(one.wal_dir().to_str().unwrap()) && text.contains("move the log directory"), "{text}");
    }
    // The same tables at another address are the same store.
    let moved = Store::with_object_store("memory:///moved", Arc::new(one.objects.clone()));
    open(LakeOptions { store: moved, ..one.options() }).await.unwrap();
}

/// Guarantee: where tables have gone on without this log, as after a disk was restored, new requests are not taken for
/// committed ones.
#[tokio::test]
async fn a_restored_log_goes_on_under_a_new_writer_id() {
    let world = World::new();
    let lake = world.open().await;
    lake.append(entry(0..2)).await.unwrap();
    let backup = world.copy_of_log();
    lake.append(entry(2..3)).await.unwrap();
    lake.append(entry(3..4)).await.unwrap();
    lake.flush().await.unwrap();
    drop(lake);

    let lake = world.open_copy(&backup).await;
    assert_ids(&ids(&*lake, HOUR).await, 0..4);
    lake.append(entry(4..5)).await.unwrap();
    lake.flush().await.unwrap();
    assert_ids(&ids(&*lake, HOUR).await, 0..5);
    let transactions = view(&*lake, HOUR).await.snapshot.transactions.clone();
    assert_eq!(transactions.len(), 2 * 2, "a position and a nonce of each writer: {transactions:?}");
    lake.append(entry(5..6)).await.unwrap();
    drop(lake);
    let lake = world.open_copy(&backup).await;
    assert_ids(&ids(&*lake, HOUR).await, 0..6);
}

/// Guarantee: two processes on copies of one log do not take each other's commits for their own, whichever is ahead.
#[tokio::test]
async fn a_log_that_was_copied_while_in_use_is_noticed() {
    for ahead in [0, 2] {
        let world = World::new();
        let lake = world.open().await;
        lake.append(entry(0..1)).await.unwrap();
        let clone = world.copy_of_log();
        let other = world.open_copy(&clone).await;
        lake.append(entry(1..3)).await.unwrap();
        other.append(entry(10..12)).await.unwrap();
        other.flush().await.unwrap();
        for id in 20..20 + ahead {
            lake.append(entry(id..id + 1)).await.unwrap();
        }
        let error = lake.flush().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = error.to_string();
        assert!(text.contains("both copies are in use") && text.contains("wal"), "{text}");
        assert_eq!(lake.stats().hot_rows, 3 + ahead as u64, "nothing is taken for committed");
    }
}

/// Guarantee: where two copies of one log were used one after the other, requests that only one of them has are not taken
/// for committed, whether its end lies before or beyond the other's commits. It says which they are and what to do; the
/// other copy goes on.
#[tokio::test]
async fn a_diverged_copy_of_a_log_is_refused() {
    for (own, restarts) in [(1, 0), (9, 0), (1, 1), (9, 1)] {
        let world = World::new();
        let lake = world.open().await;
        lake.append(entry(0..1)).await.unwrap();
        lake.append(entry(1..2)).await.unwrap();
        let clone = world.copy_of_log();
        let other = world.open_copy(&clone).await;
        for id in 0..own {
            other.append(entry(100 + id..101 + id)).await.unwrap();
        }
        drop(other);
        let mut lake = Some(lake);
        for _ in 0..restarts {
            drop(lake.take());
            lake = Some(world.open().await);
        }
        let lake = lake.unwrap();
        for id in 2..6 {
            lake.append(entry(id..id + 1)).await.unwrap();
        }
        lake.flush().await.unwrap();

        let options = LakeOptions { wal_dir: clone.path().to_path_buf(), ..world.options() };
        for _ in 0..2 {
            let error = open(options.clone()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let text = error.to_string();
            // Where the other copy was restarted, nobody can tell any more what the two had in common.
            let first = if restarts == 0 { 3 } else { 1 };
            let range = format!("requests at positions {first} to {} of this one", own + 2);
            assert!(text.contains("was copied and both copies were used") && text.contains(&range), "{text}");
            assert!(text.contains("holds position 6 of the other copy") && text.contains("wal export"), "{text}");
        }
        lake.append(entry(6..7)).await.unwrap();
        lake.flush().await.unwrap();
        drop(lake);
        assert_ids(&ids(&*world.open().await, HOUR).await, 0..7);
    }
}

/// Guarantee: an older copy goes on under a new writer id where all that it holds is committed for certain, also where
/// nobody knows who went on.
#[tokio::test]
async fn an_older_copy_whose_requests_are_committed_goes_on() {
    let world = World::new();
    let lake = world.open().await;
    lake.append(entry(0..3)).await.unwrap();
    lake.shutdown().await.unwrap();
    drop(lake);
    let backup = world.copy_of_log();
    for id in 3..6 {
        let lake = world.open().await;
        lake.append(entry(id..id + 1)).await.unwrap();
        lake.flush().await.unwrap();
    }
    let lake = world.open_copy(&backup).await;
    lake.append(entry(6..7)).await.unwrap();
    lake.flush().await.unwrap();
    assert_ids(&ids(&*lake, HOUR).await, 0..7);
    let goes_on = world.open().await;
    goes_on.append(entry(7..8)).await.unwrap();
    goes_on.flush().await.unwrap();
    assert_ids(&ids(&*goes_on, HOUR).await, 0..8);
}

/// Guarantee: damage in the log costs the requests it hits and no others, and is counted from then on.
#[tokio::test]
async fn a_damaged_frame_costs_its_own_rows_only() {
    let world = World::new();
    let lake = world.open().await;
    for id in 0..3 {
        lake.append(entry(id..id + 1)).await.unwrap();
    }
    drop(lake);
    let segment = world.wal_dir().join("wal-00000000000000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let second = entry(1..2).payload;
    let at = bytes.windows(second.len()).position(|part| *part == second[..]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    for _ in 0..2 {
        let lake = world.open().await;
        assert_eq!(ids(&*lake, HOUR).await, [0, 2]);
        assert_eq!((lake.stats().wal_lost_positions_total, lake.stats().position), (1, 3));
    }
    let lake = world.open().await;
    lake.append(entry(3..4)).await.unwrap();
    lake.shutdown().await.unwrap();
    assert_eq!(ids(&*lake, HOUR).await, [0, 2, 3]);
}

#[tokio::test]
async fn a_failed_sync_is_an_error_and_its_rows_are_not_visible() {
    let world = World::new();
    let disk = Arc::new(FaultyDisk::default());
    let on_disk = Arc::<FaultyDisk>::clone(&disk);
    let lake = super::open::open(world.options(), Arc::new(TextDecode), on_disk).await.unwrap();
    lake.append(entry(0..1)).await.unwrap();
    disk.sync_fails.store(true, Ordering::SeqCst);
    assert_eq!(lake.append(entry(50..60)).await.unwrap_err().kind(), ErrorKind::Retry);
    assert_ids(&ids(&*lake, HOUR).await, 0..1);
    lake.append(entry(1..2)).await.unwrap();
    drop(lake);
    let lake = world.open().await;
    assert_ids(&ids(&*lake, HOUR).await, 0..2);
}

#[tokio::test]
async fn a_lake_is_opened_once_and_its_log_is_free_when_it_is_dropped() {
    let world = World::new();
    let lake = world.open().await;
    let error = open(world.options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(world.wal_dir().to_str().unwrap()), "{error}");
    drop(lake);
    world.open().await;
}

#[tokio::test]
async fn small_batches_are_merged_and_their_memory_counted() {
    let world = World::new();
    let lake = world.open().await;
    for id in 0..100 {
        lake.append(entry(id..id + 1)).await.unwrap();
    }
    let few = async || (view(&*lake, HOUR).await.hot.len() <= 40).then_some(());
    wait_until("small batches to be merged", few).await;
    assert_ids(&ids(&*lake, HOUR).await, 0..100);
    let hot = view(&*lake, HOUR).await.hot;
    let measured: u64 = hot.iter().map(|batch| Meter::default().batch_bytes(batch)).sum();
    assert_eq!(lake.stats().hot_bytes, measured);
    lake.flush().await.unwrap();
    assert_eq!(lake.stats().hot_bytes, 0);
    assert_ids(&ids(&*lake, HOUR).await, 0..100);
}

#[tokio::test]
async fn frames_without_rows_do_not_hold_the_log() {
    let world = World::new();
    let lake = open(LakeOptions { flush_interval: Duration::from_millis(5), ..world.options() }).await.unwrap();
    for _ in 0..5 {
        lake.append(Entry { batches: Vec::new(), payload: Bytes::new(), ..entry(0..0) }).await.unwrap();
    }
    let freed = async || (lake.stats().committed_position == 5 && lake.stats().wal_bytes == 0).then_some(());
    wait_until("the log to be freed", freed).await;
    assert_eq!(view(&*lake, HOUR).await.snapshot.version, 0, "nothing was committed");
}

#[test]
fn shared_memory_is_counted_once_and_in_whole() {
    let large = rows(&model_usage::HOUR_SPEC, 0..10_000, TODAY);
    let whole = Meter::default().batch_bytes(&large);
    assert!(whole > 8 * 10_000 * 5, "{whole}");
    let slices = [large.slice(0, 10), large.slice(10, 10)];
    let one = Meter::default().batch_bytes(&slices[0]);
    assert!(one > whole / 2, "a slice keeps all of its memory alive");
    let mut meter = Meter::default();
    let both: u64 = slices.iter().map(|slice| meter.batch_bytes(slice)).sum();
    assert!(both < one + one / 10, "{both} for two slices, {one} for one");
}
