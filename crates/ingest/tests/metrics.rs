//! Data points of metrics: out of their rows as they were sent, and what the columns say about them.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::{ProptestConfig, any};
use proptest::{prop_assert_eq, proptest};
use prost::Message;
use spanlake_ingest::rebuild::rebuild_points;
use spanlake_ingest::{Decoder, Signal, json};
use spanlake_schema::flags::{reading, time};
use spanlake_testkit::{SplitMix64, arbitrary_metrics, int, points_of, text};

const RECEIVED: u64 = 1_763_700_000_000_000_000;

fn rows(body: &[u8]) -> Vec<RecordBatch> {
    let rows = Decoder::default().rows(Signal::Metrics, body, RECEIVED).unwrap();
    rows.into_iter().filter(|(table, _)| *table == "metric_points").map(|(_, batch)| batch).collect()
}

/// A point with its origin, as bytes: NaN equals NaN there.
type Flat = (Vec<u8>, Option<Vec<u8>>, String, Option<Vec<u8>>, String);

fn sent(request: &ExportMetricsServiceRequest) -> Vec<Flat> {
    let mut sent = Vec::new();
    for resource in &request.resource_metrics {
        for scope in &resource.scope_metrics {
            let alone = ScopeMetrics { metrics: scope.metrics.clone(), ..ScopeMetrics::default() };
            let alone = ResourceMetrics { scope_metrics: vec![alone], ..ResourceMetrics::default() };
            for point in points_of(&ExportMetricsServiceRequest { resource_metrics: vec![alone] }) {
                sent.push((
                    point.encode_to_vec(),
                    resource.resource.as_ref().map(Message::encode_to_vec),
                    resource.schema_url.clone(),
                    scope.scope.as_ref().map(Message::encode_to_vec),
                    scope.schema_url.clone(),
                ));
            }
        }
    }
    sent
}

fn stored(body: &[u8]) -> Vec<Flat> {
    let rebuilt = rows(body).into_iter().flat_map(|batch| rebuild_points(&batch).unwrap());
    rebuilt
        .map(|row| {
            let (resource, scope) = (row.resource.as_ref(), row.scope.as_ref());
            (
                row.item.encode_to_vec(),
                resource.map(Message::encode_to_vec),
                row.resource_schema_url,
                scope.map(Message::encode_to_vec),
                row.scope_schema_url,
            )
        })
        .collect()
}

/// The rows of metrics of one service that come together.
fn batch(service: &str, metrics: Vec<Metric>) -> RecordBatch {
    let resource = Resource { attributes: vec![text("service.name", service)], ..Resource::default() };
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() }];
    rows(&ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()).remove(0)
}

fn ints(batch: &RecordBatch, column: &str) -> Vec<Option<i64>> {
    batch[column].as_primitive::<Int64Type>().iter().collect()
}

fn series(batch: &RecordBatch) -> Vec<String> {
    batch["series_id"].as_string::<i32>().iter().map(|id| id.unwrap().to_owned()).collect()
}

fn sum(name: &str, aggregation_temporality: i32, attributes: Vec<KeyValue>) -> Metric {
    let point = NumberDataPoint { attributes, time_unix_nano: RECEIVED, ..NumberDataPoint::default() };
    let data = Data::Sum(Sum { data_points: vec![point], aggregation_temporality, is_monotonic: true });
    Metric { name: name.to_owned(), data: Some(data), ..Metric::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Scenario: any request, every field set to anything. Guarantee: every data point with its metric, its scope and its
    /// resource comes back from the columns byte for byte, none is refused.
    #[test]
    fn any_point_comes_back_from_its_row(seed in any::<u64>()) {
        let request = arbitrary_metrics(seed);
        prop_assert_eq!(stored(&request.encode_to_vec()), sent(&request));
    }

    /// Scenario: a request with some bytes changed, removed or repeated. Guarantee: it is refused or stored, and nothing
    /// else happens.
    #[test]
    fn a_damaged_body_is_refused_or_stored(seed in any::<u64>()) {
        let mut body = arbitrary_metrics(seed).encode_to_vec();
        let mut random = SplitMix64::new(seed);
        for _ in 0..random.between(1, 4) {
            let at = random.below(body.len() as u64 + 1) as usize;
            match random.below(3) {
                0 => body.truncate(at),
                1 => body.insert(at, random.next_u64() as u8),
                _ => if let Some(byte) = body.get_mut(at) { *byte = random.next_u64() as u8 },
            }
        }
        let decoder = Decoder::default();
        if let Ok(rows) = decoder.rows(Signal::Metrics, &body, RECEIVED) {
            prop_assert_eq!(decoder.rows(Signal::Metrics, &body, RECEIVED).unwrap().len(), rows.len());
        }
    }
}

/// Scenario: every captured metrics body. Guarantee: its points come back from their rows.
#[test]
fn captured_points_come_back_from_their_rows() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/otlp");
    let mut bodies = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(".metrics.") {
            continue;
        }
        let file = std::fs::read(&path).unwrap();
        let body = if name.ends_with(".json") { json::to_protobuf(Signal::Metrics, &file).unwrap() } else { file };
        let request = ExportMetricsServiceRequest::decode(&body[..]).unwrap();
        assert_eq!(stored(&body), sent(&request), "{name}");
        bodies += 1;
    }
    assert_eq!(bodies, 13);
}

/// Scenario: points that differ in one part of what identifies a series. Guarantee: each has an id of its own, whatever the
/// order of attributes, and the id stays what it is from version to version.
#[test]
fn a_series_has_one_id_and_no_other_has_it() {
    let attributes = || vec![text("gen_ai.token.type", "input"), int("n", 1)];
    let turned = || vec![int("n", 1), text("gen_ai.token.type", "input")];
    let ids = series(&batch(
        "bot",
        vec![
            sum("usage", 2, attributes()),
            sum("usage", 2, turned()),
            sum("other", 2, attributes()),
            sum("usage", 1, attributes()),
            sum("usage", 2, vec![text("gen_ai.token.type", "output"), int("n", 1)]),
            Metric { unit: "{token}".to_owned(), ..sum("usage", 2, attributes()) },
        ],
    ));
    assert_eq!(ids[0], ids[1], "the order of attributes means nothing");
    let elsewhere = series(&batch("other bot", vec![sum("usage", 2, attributes())]));
    let distinct: std::collections::BTreeSet<&String> = ids.iter().chain(&elsewhere).collect();
    assert_eq!(distinct.len(), 6);
    assert_eq!(ids[0], "a7952fb5cc4951a2c03bb3ac7153dcc3");
}

/// Scenario: points without a time, without a start, that end before they start, of a far century. Guarantee: each is stored
/// and says so; what was not sent is NULL.
#[test]
fn odd_times_are_flagged() {
    let point = |start_time_unix_nano, time_unix_nano| NumberDataPoint {
        start_time_unix_nano,
        time_unix_nano,
        ..NumberDataPoint::default()
    };
    let data_points = vec![
        point(RECEIVED - 9, RECEIVED),
        point(0, RECEIVED),
        point(RECEIVED - 9, 0),
        point(RECEIVED, RECEIVED - 9),
        point(1, u64::MAX),
    ];
    let data = Data::Sum(Sum { data_points: data_points.clone(), aggregation_temporality: 2, is_monotonic: true });
    let gauge = Data::Gauge(Gauge { data_points: data_points[1..2].to_vec() });
    let metric = |data| Metric { name: "orders".to_owned(), data: Some(data), ..Metric::default() };
    let batch = batch("shop", vec![metric(data), metric(gauge)]);
    let flags = [
        0,
        time::NO_START,
        time::TIME_FROM_ARRIVAL,
        time::END_BEFORE_START,
        time::DATE_FROM_ARRIVAL,
        // A gauge needs no start.
        0,
    ];
    assert_eq!(ints(&batch, "time_flags"), flags.map(Some));
    assert_eq!(ints(&batch, "start_time_unix_nano")[1], None);
    assert_eq!(ints(&batch, "time_unix_nano")[2], None);
}

/// Scenario: histograms whose buckets fit, do not fit their bounds, do not add up, are absent, and a point without a value.
/// Guarantee: all are kept as sent, those that do not add up say so.
#[test]
fn buckets_that_do_not_add_up_are_kept_and_flagged() {
    let point = |count, bucket_counts: &[u64], explicit_bounds: &[f64]| HistogramDataPoint {
        count,
        bucket_counts: bucket_counts.to_vec(),
        explicit_bounds: explicit_bounds.to_vec(),
        ..HistogramDataPoint::default()
    };
    let data_points = vec![
        point(3, &[1, 2], &[10.0]),
        point(3, &[1, 2], &[10.0, 20.0]),
        point(4, &[1, 2], &[10.0]),
        point(4, &[], &[]),
        point(3, &[1, 1, 1], &[20.0, 10.0]),
        HistogramDataPoint { flags: 1, ..HistogramDataPoint::default() },
    ];
    let data = Data::Histogram(Histogram { data_points, aggregation_temporality: 7 });
    let metric = Metric { name: "latency".to_owned(), data: Some(data), ..Metric::default() };
    let batch = batch("shop", vec![metric]);
    let odd = reading::BUCKETS_INCONSISTENT;
    assert_eq!(ints(&batch, "reading_flags"), [0, odd, odd, 0, odd, 0].map(Some));
    assert_eq!(ints(&batch, "flags")[5], Some(1));
    assert_eq!(batch["temporality"].as_string::<i32>().value(0), "7");
    assert!(batch["sum"].is_null(0) && batch["value_double"].is_null(0) && batch["monotonic"].is_null(0));
    let counts = batch["bucket_counts"].as_list::<i32>().value(1);
    assert_eq!(counts.as_primitive::<Int64Type>().values().to_vec(), [1, 2]);
}

/// Scenario: packed and unpacked repeated numbers, as both are allowed on the wire. Guarantee: they are the same buckets.
#[test]
fn packed_and_unpacked_numbers_are_the_same() {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }
    let eight = |number: u8, value: u64| [&[number << 3 | 1][..], &value.to_le_bytes()].concat();
    let packed = field(6, &[1u64.to_le_bytes(), 300u64.to_le_bytes()].concat());
    let unpacked = [eight(6, 1), eight(6, 300)].concat();
    let bounds = [field(7, &2f64.to_le_bytes()), eight(7, 2f64.to_bits())];
    let exponential =
        [field(8, &[0x08, 0x03, 0x12, 0x03, 0x05, 0xac, 0x02]), field(8, &[0x08, 0x03, 0x10, 0x05, 0x10, 0xac, 0x02])];
    let body = |kind: u8, point: &[u8]| {
        let metric = field(kind, &field(1, point));
        field(1, &field(2, &field(2, &metric)))
    };
    let one = rows(&body(9, &[packed, bounds[0].clone()].concat()));
    let other = rows(&body(9, &[unpacked, bounds[1].clone()].concat()));
    assert_eq!(one, other);
    assert_eq!(
        one[0]["bucket_counts"].as_list::<i32>().value(0).as_primitive::<Int64Type>().values().to_vec(),
        [1, 300]
    );
    let (one, other) = (rows(&body(10, &exponential[0])), rows(&body(10, &exponential[1])));
    assert_eq!(one, other);
    assert_eq!(ints(&one[0], "positive_offset"), [Some(-2)]);
}
