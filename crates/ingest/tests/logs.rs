//! Log records: out of their rows as they were sent, and what the columns say about them.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Date32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use proptest::prelude::{ProptestConfig, any};
use proptest::{prop_assert_eq, proptest};
use prost::Message;
use spanlake_ingest::rebuild::rebuild_logs;
use spanlake_ingest::{Decoder, Signal, json};
use spanlake_schema::flags::{reading, time};
use spanlake_testkit::{SplitMix64, arbitrary_logs, text};

const RECEIVED: u64 = 1_763_700_000_000_000_000;
const RECEIVED_DAY: i32 = 20_413;

fn rows(body: &[u8]) -> Vec<RecordBatch> {
    let rows = Decoder::default().rows(Signal::Logs, body, RECEIVED).unwrap();
    rows.into_iter().filter(|(table, _)| *table == "logs").map(|(_, batch)| batch).collect()
}

/// A record with its origin, as bytes: NaN equals NaN there.
type Flat = (Vec<u8>, Option<Vec<u8>>, String, Option<Vec<u8>>, String);

fn sent(request: &ExportLogsServiceRequest) -> Vec<Flat> {
    let mut sent = Vec::new();
    for resource in &request.resource_logs {
        for scope in &resource.scope_logs {
            for record in &scope.log_records {
                sent.push((
                    record.encode_to_vec(),
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
    let rebuilt = rows(body).into_iter().flat_map(|batch| rebuild_logs(&batch).unwrap());
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

fn request(records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
}

/// The rows of records that come together.
fn batch(records: Vec<LogRecord>) -> RecordBatch {
    rows(&request(records).encode_to_vec()).remove(0)
}

fn texts<'a>(batch: &'a RecordBatch, column: &str) -> Vec<Option<&'a str>> {
    batch[column].as_string::<i32>().iter().collect()
}

fn ints(batch: &RecordBatch, column: &str) -> Vec<Option<i64>> {
    batch[column].as_primitive::<Int64Type>().iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Scenario: any request, every field set to anything. Guarantee: every log record, its scope and its resource come
    /// back from the columns byte for byte, none is refused.
    #[test]
    fn any_log_record_comes_back_from_its_row(seed in any::<u64>()) {
        let request = arbitrary_logs(seed);
        prop_assert_eq!(stored(&request.encode_to_vec()), sent(&request));
    }

    /// Scenario: a request with some bytes changed, removed or repeated. Guarantee: it is refused or stored, and nothing
    /// else happens.
    #[test]
    fn a_damaged_body_is_refused_or_stored(seed in any::<u64>()) {
        let mut body = arbitrary_logs(seed).encode_to_vec();
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
        if let Ok(rows) = decoder.rows(Signal::Logs, &body, RECEIVED) {
            prop_assert_eq!(decoder.rows(Signal::Logs, &body, RECEIVED).unwrap(), rows);
        }
    }
}

/// Scenario: every captured logs body. Guarantee: its records come back from their rows.
#[test]
fn captured_records_come_back_from_their_rows() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/otlp");
    let mut bodies = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(".logs.") {
            continue;
        }
        let file = std::fs::read(&path).unwrap();
        let body = if name.ends_with(".json") { json::to_protobuf(Signal::Logs, &file).unwrap() } else { file };
        let request = ExportLogsServiceRequest::decode(&body[..]).unwrap();
        assert_eq!(stored(&body), sent(&request), "{name}");
        bodies += 1;
    }
    assert_eq!(bodies, 6);
}

/// Scenario: records that tell when they happened, only when they were observed, nothing, or nonsense. Guarantee: `time`
/// is the best that is known and says what it is, and the exact nanoseconds are NULL where none were sent.
#[test]
fn a_record_without_a_time_has_that_of_its_observation_or_arrival() {
    let record = |time_unix_nano, observed_time_unix_nano| LogRecord {
        time_unix_nano,
        observed_time_unix_nano,
        ..LogRecord::default()
    };
    let hour = 3_600_000_000_000;
    let batch = batch(vec![
        record(RECEIVED - hour, RECEIVED),
        record(0, RECEIVED - 2 * hour),
        record(0, 0),
        record(u64::MAX, 0),
    ]);
    let micros: Vec<_> = batch["time"].as_primitive::<TimestampMicrosecondType>().values().to_vec();
    let expected = [RECEIVED - hour, RECEIVED - 2 * hour, RECEIVED, u64::MAX].map(|nanos| (nanos / 1_000) as i64);
    assert_eq!(micros, expected);
    let flags = [0, time::TIME_FROM_OBSERVED, time::TIME_FROM_ARRIVAL, time::DATE_FROM_ARRIVAL];
    assert_eq!(ints(&batch, "time_flags"), flags.map(Some));
    let happened = [Some((RECEIVED - hour) as i64), None, None, Some(-1)];
    assert_eq!(ints(&batch, "time_unix_nano"), happened);
    let observed = [Some(RECEIVED as i64), Some((RECEIVED - 2 * hour) as i64), None, None];
    assert_eq!(ints(&batch, "observed_time_unix_nano"), observed);
    let dates = batch["date"].as_primitive::<Date32Type>().values().to_vec();
    assert_eq!(dates, [RECEIVED_DAY; 4]);
}

/// Scenario: ids that are none. Guarantee: the record is stored and belongs to no trace; what was sent is kept.
#[test]
fn ids_that_are_none_tie_a_record_to_nothing() {
    let record = |trace: &[u8], span: &[u8]| LogRecord {
        trace_id: trace.to_vec(),
        span_id: span.to_vec(),
        ..LogRecord::default()
    };
    let batch =
        batch(vec![record(&[1; 16], &[2; 8]), record(&[0; 16], &[0; 8]), record(&[3; 4], &[4; 16]), record(&[], &[])]);
    let (trace, span) = ("01".repeat(16), "02".repeat(8));
    assert_eq!(texts(&batch, "trace_id"), [Some(trace.as_str()), None, None, None]);
    assert_eq!(texts(&batch, "span_id"), [Some(span.as_str()), None, None, None]);
    let zeros = "00".repeat(16);
    assert_eq!(texts(&batch, "invalid_trace_id"), [None, Some(zeros.as_str()), Some("03030303"), None]);
}

/// Scenario: the name of an event in its field, in the attribute of older senders, in both, in neither, in an attribute
/// that is no text. Guarantee: `event_name` has it, the field first, and never something else.
#[test]
fn the_event_name_is_read_from_field_or_attribute() {
    let number = KeyValue {
        key: "event.name".to_owned(),
        value: Some(AnyValue { value: Some(Value::IntValue(7)) }),
        ..KeyValue::default()
    };
    let record =
        |field: &str, attributes| LogRecord { event_name: field.to_owned(), attributes, ..LogRecord::default() };
    let named = || vec![text("event.name", "gen_ai.choice")];
    let batch = batch(vec![
        record("gen_ai.user.message", Vec::new()),
        record("", named()),
        record("gen_ai.user.message", named()),
        record("", Vec::new()),
        record("", vec![number]),
    ]);
    let user = Some("gen_ai.user.message");
    assert_eq!(texts(&batch, "event_name"), [user, Some("gen_ai.choice"), user, None, None]);
    let flags = [0, reading::EVENT_NAME_FROM_ATTRIBUTE, 0, 0, 0];
    assert_eq!(ints(&batch, "reading_flags"), flags.map(Some));
}

/// Scenario: bodies of every type, one absent, severities known, unknown and unset. Guarantee: text is text, everything
/// else JSON with its type beside it, and what was not sent is NULL.
#[test]
fn bodies_are_text_or_json_with_their_type() {
    let entry =
        |key: &str, value| KeyValue { key: key.to_owned(), value: Some(AnyValue { value }), ..KeyValue::default() };
    let list =
        vec![entry("content", Some(Value::StringValue("hé\"llo".to_owned()))), entry("n", Some(Value::IntValue(2)))];
    let values = [
        Some(Some(Value::StringValue("plain".to_owned()))),
        Some(Some(Value::KvlistValue(opentelemetry_proto::tonic::common::v1::KeyValueList { values: list }))),
        Some(Some(Value::BytesValue(vec![1, 2, 3]))),
        Some(Some(Value::BoolValue(true))),
        Some(None),
        None,
    ];
    let severities = [9, 0, 24, 77, -3, 17];
    let records = values.into_iter().zip(severities).map(|(body, severity_number)| LogRecord {
        body: body.map(|value| AnyValue { value }),
        severity_number,
        ..LogRecord::default()
    });
    let batch = batch(records.collect());
    let bodies = [Some("plain"), Some("{\"content\":\"hé\\\"llo\",\"n\":2}"), Some("AQID"), Some("true"), None, None];
    assert_eq!(texts(&batch, "body"), bodies);
    assert_eq!(texts(&batch, "body_type"), [Some("s"), Some("{si}"), Some("y"), Some("b"), Some("e"), None]);
    assert_eq!(ints(&batch, "severity_number"), [Some(9), None, Some(24), Some(77), Some(-3), Some(17)]);
    assert!(batch["severity_text"].is_null(0), "no severity text was sent");
}

/// Scenario: a body nested three thousand deep, and text that is not UTF-8. Guarantee: both records are stored, marked, and
/// their neighbour is as it was sent.
#[test]
fn deep_nesting_and_bad_text_harm_nobody() {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut out);
        out.extend_from_slice(content);
        out
    }
    let mut deep = field(1, b"bottom");
    for _ in 0..3_000 {
        let entry = [field(1, b"k"), field(2, &deep)].concat();
        deep = field(6, &field(1, &entry));
    }
    let good = LogRecord { event_name: "good".to_owned(), ..LogRecord::default() }.encode_to_vec();
    let records = [field(5, &deep), field(5, &field(1, b"bad \xff text")), good];
    let records: Vec<u8> = records.iter().flat_map(|record| field(2, record)).collect();
    let body = field(1, &field(2, &records));
    let batch = &rows(&body)[0];
    let flags = [reading::NESTING_CUT, reading::UTF8_REPAIRED, 0];
    assert_eq!(ints(batch, "reading_flags"), flags.map(Some));
    assert_eq!(texts(batch, "body")[1], Some("bad \u{fffd} text"));
    assert_eq!(texts(batch, "event_name"), [None, None, Some("good")]);
}
