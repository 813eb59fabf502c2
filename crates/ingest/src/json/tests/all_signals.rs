//! Any request of any signal, written as OTLP/JSON by the tables, is read back as it was.
//!
//! A table with a wrong number or type would write something else than the message holds; the names are held to what real
//! senders write by the captures of `tests/otlp`.

use std::fmt::Write;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use spanlake_testkit::{SplitMix64, arbitrary_logs, arbitrary_metrics};

use super::super::schema::{Field, Kind, Message};
use super::super::{logs, metrics, to_protobuf};
use crate::signal::Signal;

/// A scalar from the wire, as a number of 64 bits, or the bytes of a field with a length.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn fields(mut body: &[u8]) -> Vec<(u32, Raw<'_>)> {
    let mut fields = Vec::new();
    while !body.is_empty() {
        let (number, wire) = decode_key(&mut body).expect("a key");
        let raw = match wire {
            WireType::Varint => Raw::Number(decode_varint(&mut body).expect("a varint")),
            WireType::SixtyFourBit => Raw::Number(u64::from_le_bytes(take(&mut body, 8).try_into().expect("eight"))),
            WireType::ThirtyTwoBit => {
                Raw::Number(u32::from_le_bytes(take(&mut body, 4).try_into().expect("four")).into())
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut body).expect("a length") as usize;
                Raw::Bytes(take(&mut body, length))
            }
            other => panic!("{other:?}"),
        };
        fields.push((number, raw));
    }
    fields
}

fn take<'a>(body: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = body.split_at(count);
    *body = rest;
    taken
}

struct Writer {
    random: SplitMix64,
    out: String,
}

impl Writer {
    fn message(&mut self, message: &Message, body: &[u8]) {
        self.out.push('{');
        let fields = fields(body);
        let mut first = true;
        for field in message.fields {
            let values: Vec<&Raw<'_>> =
                fields.iter().filter(|(number, _)| *number == field.number).map(|(_, raw)| raw).collect();
            if values.is_empty() {
                continue;
            }
            if !std::mem::take(&mut first) {
                self.out.push(',');
            }
            let name = if self.random.chance(500) { field.camel } else { field.snake };
            let _ = write!(self.out, "{name:?}:");
            self.field(field, &values);
        }
        let known = |number: u32| message.fields.iter().any(|field| field.number == number);
        assert!(fields.iter().all(|(number, _)| known(*number)), "a field is missing in the table");
        self.out.push('}');
    }

    fn field(&mut self, field: &Field, values: &[&Raw<'_>]) {
        if !field.is_repeated {
            assert_eq!(values.len(), 1, "{} stands more than once", field.camel);
            return self.value(field, values[0]);
        }
        self.out.push('[');
        let mut first = true;
        for value in values {
            for item in unpacked(field, value) {
                if !std::mem::take(&mut first) {
                    self.out.push(',');
                }
                self.value(field, &item);
            }
        }
        self.out.push(']');
    }

    fn value(&mut self, field: &Field, raw: &Raw<'_>) {
        match (field.kind, raw) {
            (Kind::Message(message), Raw::Bytes(bytes)) => self.message(message, bytes),
            (Kind::Text, Raw::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes).expect("UTF-8");
                self.out.push_str(&serde_json::to_string(text).expect("a string"));
            }
            (Kind::Id(_), Raw::Bytes(bytes)) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let _ = write!(self.out, "{hex:?}");
            }
            (Kind::Bytes, Raw::Bytes(bytes)) => self.base64(bytes),
            (Kind::Bool, Raw::Number(number)) => self.out.push_str(if *number == 0 { "false" } else { "true" }),
            (Kind::Double, Raw::Number(bits)) => self.double(f64::from_bits(*bits)),
            (Kind::Int32 | Kind::Enum(_), Raw::Number(number)) => self.number(*number as i32),
            (Kind::Int64 | Kind::Sfixed64, Raw::Number(number)) => self.number(*number as i64),
            (Kind::Sint32, Raw::Number(number)) => {
                let number = *number as u32;
                self.number((number >> 1) as i32 ^ -((number & 1) as i32));
            }
            (Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64, Raw::Number(number)) => self.number(*number),
            (kind, _) => panic!("{} is no {kind:?}", field.camel),
        }
    }

    fn number(&mut self, number: impl std::fmt::Display) {
        let quote = if self.random.chance(500) { "\"" } else { "" };
        let _ = write!(self.out, "{quote}{number}{quote}");
    }

    fn double(&mut self, number: f64) {
        let _ = match number {
            nan if nan.is_nan() => write!(self.out, "\"NaN\""),
            f64::INFINITY => write!(self.out, "\"Infinity\""),
            f64::NEG_INFINITY => write!(self.out, "\"-Infinity\""),
            finite => write!(self.out, "{finite:?}"),
        };
    }

    fn base64(&mut self, bytes: &[u8]) {
        const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        self.out.push('"');
        for chunk in bytes.chunks(3) {
            let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for index in 0..=chunk.len() {
                self.out.push(char::from(SYMBOLS[(word >> (18 - 6 * index) & 63) as usize]));
            }
        }
        self.out.push('"');
    }
}

/// The items of a repeated field, which may be packed.
fn unpacked<'a>(field: &Field, raw: &Raw<'a>) -> Vec<Raw<'a>> {
    match (field.kind, raw) {
        (Kind::Double | Kind::Fixed64 | Kind::Sfixed64, Raw::Bytes(bytes)) => {
            let eight = |chunk: &[u8]| Raw::Number(u64::from_le_bytes(chunk.try_into().expect("eight")));
            bytes.chunks(8).map(eight).collect()
        }
        (Kind::Uint64, Raw::Bytes(bytes)) => {
            let (mut rest, mut numbers) = (*bytes, Vec::new());
            while !rest.is_empty() {
                numbers.push(Raw::Number(decode_varint(&mut rest).expect("a varint")));
            }
            numbers
        }
        (_, Raw::Bytes(bytes)) => vec![Raw::Bytes(bytes)],
        (_, Raw::Number(number)) => vec![Raw::Number(*number)],
    }
}

fn json(message: &Message, body: &[u8], seed: u64) -> String {
    let mut writer = Writer { random: SplitMix64::new(seed), out: String::new() };
    writer.message(message, body);
    writer.out
}

/// Scenario: any logs request as JSON, names in either form, integers as numbers or strings. Guarantee: the protobuf that it
/// is turned into is the request.
#[test]
fn any_logs_request_survives_json() {
    for seed in 0..150 {
        let request = arbitrary_logs(seed);
        let json = json(&logs::LOGS, &request.encode_to_vec(), seed);
        let protobuf = to_protobuf(Signal::Logs, json.as_bytes()).unwrap_or_else(|error| panic!("{error} in {json}"));
        let read = ExportLogsServiceRequest::decode(&protobuf[..]).expect("protobuf");
        assert_eq!(read.encode_to_vec(), request.encode_to_vec(), "{json}");
    }
}

/// Scenario: any metrics request as JSON. Guarantee: as for logs.
#[test]
fn any_metrics_request_survives_json() {
    for seed in 0..150 {
        let request = arbitrary_metrics(seed);
        let json = json(&metrics::METRICS, &request.encode_to_vec(), seed);
        let protobuf =
            to_protobuf(Signal::Metrics, json.as_bytes()).unwrap_or_else(|error| panic!("{error} in {json}"));
        let read = ExportMetricsServiceRequest::decode(&protobuf[..]).expect("protobuf");
        assert_eq!(read.encode_to_vec(), request.encode_to_vec(), "{json}");
    }
}

/// Scenario: enums by their names, two kinds of data in one metric, both values in one point. Guarantee: names are read, and
/// of the members of a oneof the last counts.
#[test]
fn enum_names_are_read_and_the_last_of_a_oneof_counts() {
    let body = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[
        {"name":"m","gauge":{"dataPoints":[{}]},"sum":{"aggregationTemporality":"AGGREGATION_TEMPORALITY_CUMULATIVE",
         "isMonotonic":true,"dataPoints":[{"asInt":"7","asDouble":1.5,"flags":1}]}}]}]}]}"#;
    let protobuf = to_protobuf(Signal::Metrics, body.as_bytes()).expect("a good body");
    let request = ExportMetricsServiceRequest::decode(&protobuf[..]).expect("protobuf");
    let data = &request.resource_metrics[0].scope_metrics[0].metrics[0].data;
    let Some(opentelemetry_proto::tonic::metrics::v1::metric::Data::Sum(sum)) = data else { panic!("{data:?}") };
    assert_eq!((sum.aggregation_temporality, sum.is_monotonic, sum.data_points.len()), (2, true, 1));
    let value = sum.data_points[0].value;
    assert_eq!(value, Some(opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsDouble(1.5)));

    let body = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityNumber":"SEVERITY_NUMBER_WARN2"},
        {"severityNumber":"fatal4"},{"severityNumber":17}]}]}]}"#;
    let protobuf = to_protobuf(Signal::Logs, body.as_bytes()).expect("a good body");
    let request = ExportLogsServiceRequest::decode(&protobuf[..]).expect("protobuf");
    let records = &request.resource_logs[0].scope_logs[0].log_records;
    assert_eq!(records.iter().map(|record| record.severity_number).collect::<Vec<_>>(), [14, 24, 17]);
}
