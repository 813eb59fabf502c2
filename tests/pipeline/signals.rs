//! Logs and metrics: the same way in as spans have, and what SQL says of them.

use std::collections::BTreeMap;

use prost::Message;
use serde_json::Value;
use spanlake_testkit::{
    Code, Compression, CompressionEncoding, GrpcOptions, JSON, PROTOBUF, ServerProcess, Service, arbitrary_logs,
    arbitrary_metrics, points_of, records_of,
};

use crate::{captures, server};

/// One captured body of a signal.
struct Body {
    file: String,
    /// The capture's name.
    capture: String,
    service: Service,
    bytes: Vec<u8>,
}

impl Body {
    fn is_json(&self) -> bool {
        self.file.ends_with(".json")
    }
}

/// All captured bodies of logs and metrics.
fn bodies() -> Vec<Body> {
    let bodies: Vec<Body> = captures::file_names("")
        .into_iter()
        .filter_map(|file| {
            let (capture, rest) = file.split_once('.')?;
            let service = match rest.split_once('.')?.0 {
                "logs" => Service::Logs,
                "metrics" => Service::Metrics,
                _ => return None,
            };
            Some(Body { capture: capture.to_owned(), service, bytes: captures::bytes(&file), file })
        })
        .collect();
    assert_eq!(bodies.len(), 19, "logs and metrics in tests/otlp");
    bodies
}

fn table(service: Service) -> &'static str {
    match service {
        Service::Traces => "spans",
        Service::Metrics => "metric_points",
        Service::Logs => "logs",
    }
}

async fn count(server: &ServerProcess, service: Service) -> i64 {
    server.sql_int(&format!("SELECT count(*) FROM {}", table(service))).await
}

/// Log records or points of all bodies of a capture, as its expected file has it.
fn expected_items(capture: &str, service: Service) -> i64 {
    let expected = captures::json(&format!("{capture}.expected.json"));
    let (counted, total) = match service {
        Service::Logs => ("log_records", "log_records_total"),
        _ => ("metric_points", "metric_points_total"),
    };
    let count = [&expected["counts"][counted], &expected[total]];
    count.iter().find_map(|count| count.as_i64()).unwrap_or_else(|| panic!("{capture}: no {counted}"))
}

/// One way to send a body.
#[derive(Clone, Copy, Debug)]
enum Way {
    Grpc(Option<CompressionEncoding>),
    Http(Option<Compression>),
}

/// Sends a body, JSON over HTTP only, and insists on its being taken whole.
async fn send(server: &ServerProcess, way: Way, body: &Body) {
    if let (Way::Grpc(compression), false) = (way, body.is_json()) {
        let options = GrpcOptions { compression, ..GrpcOptions::default() };
        let answer = server.grpc().export_to(body.service, body.bytes.clone(), &options).await;
        assert_eq!((answer.code, answer.rejected_spans()), (Code::Ok, 0), "{}: {}", body.file, answer.message);
        return;
    }
    let compression = if let Way::Http(compression) = way { compression } else { None };
    let mut headers = vec![("content-type", if body.is_json() { JSON } else { PROTOBUF })];
    headers.extend(compression.map(|compression| ("content-encoding", compression.name())));
    let bytes = compression.map_or_else(|| body.bytes.clone(), |compression| compression.compress(&body.bytes));
    let answer = server.otlp_http().post(body.service.http_path(), &headers, bytes).await;
    assert_eq!((answer.status, answer.rejected_spans()), (200, 0), "{}: {}", body.file, answer.text());
}

/// Scenario: a server gets every captured body of logs and metrics, in one encoding after the other, each time from scratch.
/// Guarantee: every log record and every data point is stored, none is refused, and no span appears.
#[tokio::test(flavor = "multi_thread")]
async fn every_capture_is_stored_in_each_encoding() {
    let ways = [Way::Grpc(Some(CompressionEncoding::Zstd)), Way::Http(None), Way::Http(Some(Compression::Gzip))];
    let mut wanted: BTreeMap<(&str, String), i64> = BTreeMap::new();
    let bodies = bodies();
    for body in &bodies {
        wanted.insert((table(body.service), body.capture.clone()), expected_items(&body.capture, body.service));
    }
    let of = |table: &str| wanted.iter().filter(|((name, _), _)| *name == table).map(|(_, count)| *count).sum::<i64>();
    for way in ways {
        let server = server().start().await;
        for body in &bodies {
            send(&server, way, body).await;
        }
        assert_eq!(count(&server, Service::Logs).await, of("logs"), "{way:?}");
        assert_eq!(count(&server, Service::Metrics).await, of("metric_points"), "{way:?}");
        assert_eq!(count(&server, Service::Traces).await, 0, "{way:?}");
    }
}

/// Scenario: a server with generated logs and metrics is killed; another start reads them back from the log, and a third,
/// after an end in good order, from files. Guarantee: the rows stay the same, column for column.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_same_hot_replayed_and_committed() {
    let mut server = server().arg("--flush-interval", "1h").start().await;
    let options = GrpcOptions::default();
    let (mut records, mut points) = (0, 0);
    for seed in 0..20 {
        let (logs, metrics) = (arbitrary_logs(seed), arbitrary_metrics(seed));
        records += records_of(&logs).count() as i64;
        points += points_of(&metrics).count() as i64;
        for (service, body) in [(Service::Logs, logs.encode_to_vec()), (Service::Metrics, metrics.encode_to_vec())] {
            let answer = server.grpc().export_to(service, body, &options).await;
            assert_eq!(answer.code, Code::Ok, "{}", answer.message);
        }
    }
    let mut before: Option<Vec<String>> = None;
    for _ in 0..3 {
        let mut rows = Vec::new();
        for (table, expected) in [("logs", records), ("metric_points", points)] {
            let found = server.sql(&format!("SELECT * FROM {table}")).await;
            assert_eq!(found.len() as i64, expected, "{table}");
            rows.extend(found.into_iter().map(|row| Value::Object(row).to_string()));
        }
        rows.sort();
        match before.take() {
            None => {
                before = Some(rows);
                server = server.sigkill().await.start().await;
            }
            Some(earlier) => {
                assert!(earlier == rows, "rows have changed");
                before = Some(rows);
                server = server.restart().await;
            }
        }
    }
}

/// Scenario: bodies that are none, for each service and encoding. Guarantee: each is refused whole with a status that says
/// what is wrong, nothing is stored, and the server goes on.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_are_refused_whole() {
    let server = server().start().await;
    for service in [Service::Logs, Service::Metrics] {
        let good = bodies().into_iter().find(|body| body.service == service && !body.is_json()).expect("a capture");
        let mut cut = good.bytes.clone();
        cut.pop();
        for body in [cut, b"<html>".to_vec(), vec![0xff; 40]] {
            let answer =
                server.otlp_http().post(service.http_path(), &[("content-type", PROTOBUF)], body.clone()).await;
            assert_eq!(answer.status, 400, "{service:?}: {}", answer.text());
            assert!(answer.rpc_status().message.contains("ServiceRequest"), "{}", answer.rpc_status().message);
            let answer = server.grpc().export_to(service, body, &GrpcOptions::default()).await;
            assert_eq!(answer.code, Code::InvalidArgument, "{service:?}");
        }
        for body in ["[]", "{\"resourceLogs\": 1, \"resourceMetrics\": 1}", "{\"resource"] {
            let answer = server.otlp_http().post(service.http_path(), &[("content-type", JSON)], body).await;
            assert_eq!(answer.status, 400, "{service:?}: {body}: {}", answer.text());
        }
        assert_eq!(count(&server, service).await, 0);
        send(&server, Way::Http(None), &good).await;
        assert!(count(&server, service).await > 0);
    }
}

/// Scenario: the captures whose metrics were exported twice, and the others. Guarantee: the tokens per type and model are
/// those of the last export, as the expected files have them; calls told as durations are counted once.
#[tokio::test(flavor = "multi_thread")]
async fn cumulative_captures_give_their_last_totals() {
    for capture in ["traceloop_openai", "openai_v2_json"] {
        let server = server().start().await;
        for body in bodies().iter().filter(|body| body.capture == capture && body.service == Service::Metrics) {
            send(&server, Way::Http(None), body).await;
        }
        let metrics = &captures::json(&format!("{capture}.expected.json"))["metrics"];
        let mut expected: BTreeMap<(String, String), (f64, i64)> = BTreeMap::new();
        for series in metrics["gen_ai.client.token.usage"]["sums"].as_array().expect("sums") {
            let text = |key: &str| series["attributes"][key].as_str().map(str::to_owned);
            let model = text("gen_ai.response.model").or_else(|| text("gen_ai.request.model")).expect("a model");
            let total = expected.entry((text("gen_ai.token.type").expect("a type"), model)).or_default();
            total.0 += series["sum"].as_f64().expect("a sum");
            total.1 += series["count"].as_i64().expect("a count");
        }
        let sql = "SELECT token_type, model, sum(tokens) AS tokens, sum(requests) AS requests
                   FROM client_token_usage GROUP BY token_type, model";
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let row = |row: serde_json::Map<String, Value>| {
            let total = (row["tokens"].as_f64().expect("tokens"), row["requests"].as_i64().expect("requests"));
            ((text(&row["token_type"]), text(&row["model"])), total)
        };
        let told: BTreeMap<_, _> = server.sql(sql).await.into_iter().map(row).collect();
        assert_eq!(told, expected, "{capture}");
        let series = metrics["gen_ai.client.operation.duration"]["series"].as_i64().expect("series");
        let totals = "SELECT count(*) FROM metric_totals WHERE name = 'gen_ai.client.operation.duration'";
        assert_eq!(server.sql_int(totals).await, series, "{capture}");
    }
}
