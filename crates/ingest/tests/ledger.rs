//! The ledger counts what came, by service and minute, and what became of it; also after the log was read back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use spanlake_ingest::{ContentEncoding, ContentType, Decoder, Ingest, IngestOptions, RejectionKind, Request, Signal};
use spanlake_schema::{DEFAULT_TENANT, ledger, spans};
use spanlake_storage::{Lake, LakeOptions, PromotionList, Store, TableSource};
use spanlake_testkit::{ManualAmbient, NOON_UNIX_NANO, Traffic, spans_of, wait_until};

/// By minute of arrival and service.
type Key = (i64, Option<String>);

async fn open(dir: &Path, ambient: &Arc<ManualAmbient>) -> (Arc<Lake>, Ingest) {
    let store = dir.join("store");
    let options = LakeOptions {
        store: Store::open(store.to_str().unwrap()).unwrap(),
        wal_dir: dir.join("wal"),
        wal_limit_bytes: 64 << 20,
        hot_limit_bytes: 256 << 20,
        flush_interval: Duration::from_secs(3600),
        flush_bytes: u64::MAX,
        ack_on_commit: false,
        commit_timeout: Duration::from_secs(60),
        retry_window: Duration::from_secs(900),
        retry_limit_bytes: 1 << 20,
        promote: PromotionList::default(),
        ambient: Arc::clone(ambient) as _,
    };
    let lake = Lake::open(options, Arc::new(Decoder::default())).await.unwrap();
    let options = IngestOptions {
        message_limit_bytes: 4 << 20,
        in_flight_limit_bytes: 64 << 20,
        ambient: Arc::clone(ambient) as _,
    };
    let ingest = Ingest::new(Arc::clone(&lake), options);
    (lake, ingest)
}

fn request(body: impl Into<Bytes>) -> Request {
    Request {
        tenant: DEFAULT_TENANT.to_owned(),
        content_type: ContentType::Protobuf,
        content_encoding: ContentEncoding::Identity,
        body: body.into(),
    }
}

/// Sums by key, in the order of the ledger's columns.
async fn ledger_of(lake: &Lake) -> BTreeMap<Key, [i64; 8]> {
    let mut sums: BTreeMap<Key, [i64; 8]> = BTreeMap::new();
    for batch in lake.view(DEFAULT_TENANT, ledger::SPEC.name).await.unwrap().unwrap().hot {
        for row in 0..batch.num_rows() {
            let sum = sums.entry(key_of(&batch, "window_start", row)).or_default();
            for (number, name) in sum.iter_mut().zip(ledger::SPEC.sums) {
                *number += batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
            }
        }
    }
    sums
}

async fn spans_of_table(lake: &Lake) -> BTreeMap<Key, i64> {
    let mut counts = BTreeMap::new();
    for batch in lake.view(DEFAULT_TENANT, spans::SPEC.name).await.unwrap().unwrap().hot {
        for row in 0..batch.num_rows() {
            let (time, service) = key_of(&batch, "received_time", row);
            *counts.entry((time / 60_000_000 * 60_000_000, service)).or_default() += 1;
        }
    }
    counts
}

fn key_of(batch: &RecordBatch, time: &str, row: usize) -> Key {
    let times = batch.column_by_name(time).unwrap().as_primitive::<TimestampMicrosecondType>();
    let names = batch.column_by_name("service_name").unwrap().as_string::<i32>();
    (times.value(row), names.is_valid(row).then(|| names.value(row).to_owned()))
}

/// Traffic of several services, some of whose spans have to be refused.
fn partly_refused(traffic: &mut Traffic) -> (ExportTraceServiceRequest, i64) {
    let mut request = traffic.request(200);
    let mut refused = 0;
    for resource in &mut request.resource_spans {
        for span in resource.scope_spans.iter_mut().flat_map(|scope| &mut scope.spans).step_by(9) {
            span.trace_id.clear();
            refused += 1;
        }
    }
    (request, refused)
}

/// Scenario: whole, partly refused, wholly refused, empty, repeated and unreadable requests in two minutes; then the process
/// ends without a word and another one reads the log.
/// Guarantee: in each minute and service received = stored + refused + duplicate, and stored is what the table holds.
#[tokio::test]
async fn every_item_that_came_is_in_the_ledger_once() {
    let (dir, ambient) = (tempfile::tempdir().unwrap(), Arc::new(ManualAmbient::new(1)));
    let (lake, ingest) = open(dir.path(), &ambient).await;
    let mut traffic = Traffic::new(3).starting_at(NOON_UNIX_NANO);
    let (mut received, mut stored, mut refused, mut duplicate, mut requests) = (0, 0, 0, 0, 0);
    for _minute in 0..2 {
        let (body, bad) = partly_refused(&mut traffic);
        let all = spans_of(&body).count() as i64;
        let mut without_ids = traffic.request(7);
        let scopes = without_ids.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans);
        scopes.flat_map(|scope| &mut scope.spans).for_each(|span| span.span_id.clear());
        let worst = spans_of(&without_ids).count() as i64;
        for bytes in [body.encode_to_vec(), body.encode_to_vec(), without_ids.encode_to_vec(), Vec::new()] {
            ingest.export(Signal::Traces, request(bytes)).await.unwrap();
            requests += 1;
        }
        let rejection = ingest.export(Signal::Traces, request(&b"\xff\xff\xff"[..])).await.unwrap_err();
        assert_eq!(rejection.kind, RejectionKind::Malformed);
        received += 2 * all + worst;
        stored += all - bad;
        refused += 2 * bad + worst;
        duplicate += all - bad;
        ambient.advance(Duration::from_secs(60));
    }
    let total = |ledger: &BTreeMap<Key, [i64; 8]>| {
        ledger.values().fold([0; 8], |sum, row| std::array::from_fn(|at| sum[at] + row[at]))
    };
    // Nobody waits for the rows of what stored nothing.
    ingest.settle().await;
    wait_until("all is in the ledger", async || (total(&ledger_of(&lake).await)[6] == 2).then_some(())).await;
    let before = ledger_of(&lake).await;
    let sums = total(&before);
    assert_eq!([sums[0], sums[2], sums[3], sums[4], sums[5]], [requests, received, stored, refused, duplicate]);
    assert_eq!((sums[6], sums[7]), (2, 6));
    assert!(before.keys().map(|(minute, _)| minute).collect::<std::collections::BTreeSet<_>>().len() == 2);
    for (key, row) in &before {
        assert_eq!(row[2], row[3] + row[4] + row[5], "{key:?}");
    }
    let kept = |ledger: &BTreeMap<Key, [i64; 8]>| -> BTreeMap<Key, i64> {
        ledger.iter().filter(|(_, row)| row[3] > 0).map(|(key, row)| (key.clone(), row[3])).collect()
    };
    assert_eq!(kept(&before), spans_of_table(&lake).await);
    assert_eq!(ingest.stats().unlogged_requests_total, 0);
    drop(ingest);
    wait_until("nobody else has the lake", async || (Arc::strong_count(&lake) == 1).then_some(())).await;
    drop(lake);

    let (lake, _ingest) = open(dir.path(), &ambient).await;
    assert_eq!(ledger_of(&lake).await, before);
    assert_eq!(kept(&before), spans_of_table(&lake).await);
}
