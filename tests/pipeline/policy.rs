//! The attribute policy: what it takes away is on no disk.

use std::path::Path;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use serde_json::Value;
use spanlake_testkit::{
    Code, GrpcOptions, JSON, NOON_UNIX_NANO, PROTOBUF, S3Server, ServerOptions, ServerProcess, Service, text,
    wait_until,
};

use crate::server;

/// No part of anything else that is stored.
const SECRET: &str = "quetzalcoatl-7719";
const POLICY: &str = "drop = ['dropped.*']\n[[mask]]\npattern = 'quetzalcoatl-\\d+'\n";

/// A text around the secret, as part of a sentence and of JSON.
fn told(place: &str) -> String {
    format!("{{\"{place}\": \"it is {SECRET}, yes\"}}")
}

/// Attributes of every kind of value.
fn attributes(place: &str) -> Vec<KeyValue> {
    let string = || AnyValue { value: Some(Any::StringValue(told(place))) };
    let list =
        KeyValueList { values: vec![KeyValue { key: told("inner"), value: Some(string()), ..KeyValue::default() }] };
    let with = |key: &str, value: Any| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    vec![
        text("app.text", told(place)),
        text("dropped.text", told(place)),
        text(&format!("key.{SECRET}"), "value"),
        with("app.list", Any::ArrayValue(ArrayValue { values: vec![string()] })),
        with("app.map", Any::KvlistValue(list)),
        with("app.bytes", Any::BytesValue(told(place).into_bytes())),
        text("gen_ai.operation.name", "chat"),
        text("gen_ai.request.model", told(place)),
        text("gen_ai.input.messages", format!(r#"[{{"role":"user","content":"{SECRET}"}}]"#)),
        text("gen_ai.completion.0.content", format!("{} {SECRET}", "long ".repeat(1_000))),
    ]
}

fn resource() -> Option<Resource> {
    let attributes = [vec![text("service.name", told("service"))], attributes("resource")].concat();
    Some(Resource { attributes, ..Resource::default() })
}

fn scope() -> Option<InstrumentationScope> {
    let (name, version) = (told("scope"), told("version"));
    Some(InstrumentationScope { name, version, attributes: attributes("scope"), ..InstrumentationScope::default() })
}

fn traces(number: u8) -> Vec<u8> {
    let event = Event {
        name: told("event"),
        time_unix_nano: NOON_UNIX_NANO,
        attributes: attributes("event"),
        ..Event::default()
    };
    let choice = Event { name: "gen_ai.choice".to_owned(), attributes: attributes("choice"), ..Event::default() };
    let link = Link {
        trace_id: vec![7; 16],
        span_id: vec![7; 8],
        trace_state: told("link"),
        attributes: attributes("link"),
        ..Link::default()
    };
    let span = Span {
        trace_id: vec![number; 16],
        span_id: vec![number; 8],
        trace_state: told("state"),
        name: told("name"),
        start_time_unix_nano: NOON_UNIX_NANO,
        end_time_unix_nano: NOON_UNIX_NANO + 1,
        attributes: attributes("span"),
        events: vec![event, choice],
        links: vec![link],
        status: Some(Status { message: told("status"), code: 2 }),
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { scope: scope(), spans: vec![span], schema_url: told("schema") }];
    let resource_spans = vec![ResourceSpans { resource: resource(), scope_spans, schema_url: told("schema") }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn logs(number: u8) -> Vec<u8> {
    let record = |body: Any, event_name: String| LogRecord {
        time_unix_nano: NOON_UNIX_NANO + u64::from(number),
        body: Some(AnyValue { value: Some(body) }),
        event_name,
        severity_text: told("severity"),
        // No trace id: what was sent for one is kept.
        trace_id: SECRET.as_bytes().to_vec(),
        attributes: attributes("log"),
        ..LogRecord::default()
    };
    let kvlist = Any::KvlistValue(KeyValueList { values: attributes("body") });
    let records =
        vec![record(Any::StringValue(told("body")), told("event")), record(kvlist, "gen_ai.user.message".to_owned())];
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records: records, schema_url: told("schema") }];
    let resource_logs = vec![ResourceLogs { resource: resource(), scope_logs, schema_url: told("schema") }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

fn metrics(number: u8) -> Vec<u8> {
    let exemplar = Exemplar {
        filtered_attributes: attributes("exemplar"),
        value: Some(exemplar::Value::AsDouble(1.0)),
        ..Exemplar::default()
    };
    let point = NumberDataPoint {
        time_unix_nano: NOON_UNIX_NANO + u64::from(number),
        attributes: attributes("point"),
        exemplars: vec![exemplar],
        ..NumberDataPoint::default()
    };
    let metric = Metric {
        name: told("metric"),
        description: told("description"),
        unit: told("unit"),
        metadata: attributes("metadata"),
        data: Some(Data::Sum(Sum { data_points: vec![point], ..Sum::default() })),
    };
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics: vec![metric], schema_url: told("schema") }];
    let resource_metrics = vec![ResourceMetrics { resource: resource(), scope_metrics, schema_url: told("schema") }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

/// Makes the body of a request, by a number that tells it from others.
type MakeBody = fn(u8) -> Vec<u8>;

const ALL: [(Service, MakeBody); 3] = [(Service::Traces, traces), (Service::Logs, logs), (Service::Metrics, metrics)];

async fn send_all(server: &ServerProcess, number: u8) {
    for (service, body) in ALL {
        let answer = server.grpc().export_to(service, body(number), &GrpcOptions::default()).await;
        assert_eq!((answer.code, answer.rejected_spans()), (Code::Ok, 0), "{service:?}: {}", answer.message);
        let headers = [("content-type", PROTOBUF)];
        let answer = server.otlp_http().post(service.http_path(), &headers, body(number + 1)).await;
        assert_eq!((answer.status, answer.rejected_spans()), (200, 0), "{service:?}: {}", answer.text());
    }
    let json = serde_json::json!({"resourceSpans": [{"scopeSpans": [{"scope": {"name": told("scope")}, "spans": [{
        "traceId": format!("{:02x}", number + 2).repeat(16), "spanId": "0102030405060708", "name": told("name"),
        "startTimeUnixNano": NOON_UNIX_NANO.to_string(), "endTimeUnixNano": NOON_UNIX_NANO.to_string(),
        "unknown": told("unknown"),
        "attributes": [{"key": "app.text", "value": {"stringValue": told("json")}}],
    }]}]}]});
    let answer = server.otlp_http().post("/v1/traces", &[("content-type", JSON)], json.to_string()).await;
    assert_eq!((answer.status, answer.rejected_spans()), (200, 0), "{}", answer.text());
}

/// Rows of all tables in which the secret stands, column by column, as SQL shows them.
async fn rows_with_secret(server: &ServerProcess) -> usize {
    let mut found = 0;
    for table in ["spans", "logs", "metric_points", "message_parts", "message_contents", "messages", "ledger"] {
        let rows = server.sql(&format!("SELECT * FROM {table}")).await;
        assert!(!rows.is_empty(), "{table} is empty");
        let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
        let base64 = "cXVldHphbGNvYXRs";
        let holds = |row: &String| row.contains(SECRET) || row.contains(&hex) || row.contains(base64);
        found += rows.into_iter().map(|row| Value::Object(row).to_string()).filter(holds).count();
    }
    found
}

/// Files below a folder in whose bytes the secret stands.
fn files_with_secret(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_with_secret(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes())
            && path.extension().is_none_or(|extension| extension != "toml")
        {
            found.push(path.display().to_string());
        }
    }
}

fn found_in(options: &ServerOptions) -> Vec<String> {
    let mut found = Vec::new();
    files_with_secret(options.home(), &mut found);
    files_with_secret(Path::new(options.store_url()), &mut found);
    files_with_secret(&options.wal_dir(), &mut found);
    found
}

/// Scenario: secrets in every place of every signal, over gRPC, HTTP and JSON, against a server without a policy. Guarantee:
/// the search that the next test relies on finds them, in the log and in rows.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_secrets_are_found() {
    let server = server().arg("--flush-interval", "1h").start().await;
    send_all(&server, 1).await;
    assert!(rows_with_secret(&server).await > 10);
    assert!(!found_in(&server.sigkill().await).is_empty());
}

/// Scenario: the same with a policy that masks them; the server is killed, started again, and stopped so that all is
/// committed. Guarantee: no row and no file has the secret, hot, replayed or committed; what was sent twice is known; the rules
/// tell what they did; the ledger adds up.
#[tokio::test(flavor = "multi_thread")]
async fn masked_values_are_on_no_disk() {
    let options = server();
    let file = options.home().join("policy.toml");
    std::fs::write(&file, POLICY).expect("a policy file");
    let options = options.arg("--policy", file.to_str().expect("UTF-8")).arg("--flush-interval", "1h");
    let server = options.start().await;
    send_all(&server, 1).await;
    let spans = server.sql_int("SELECT count(*) FROM spans").await;
    send_all(&server, 1).await;
    assert_eq!(server.sql_int("SELECT count(*) FROM spans").await, spans);
    assert_eq!(rows_with_secret(&server).await, 0);
    let kept = "SELECT count(*) FROM spans WHERE attributes['app.text'] = '{\"span\": \"it is [masked], yes\"}'";
    assert_eq!(server.sql_int(kept).await, 2);
    let page = server.http().try_request("GET", "/metrics", &[], Vec::new()).await.expect("metrics").text();
    let counted = |rule: &str| {
        let line =
            page.lines().find(|line| line.starts_with(&format!("spanlake_policy_values_total{{rule=\"{rule}\"}}")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or_else(|| panic!("{rule}: {page}"))
    };
    assert!(counted("drop") > 10 && counted("mask pattern") > 100);
    let log = server.stderr();
    assert!(!log.contains(SECRET), "{log}");

    let options = server.sigkill().await;
    assert_eq!(found_in(&options), Vec::<String>::new());
    let server = options.start().await;
    assert_eq!(rows_with_secret(&server).await, 0);
    let options = server.stop().await;
    assert_eq!(found_in(&options), Vec::<String>::new());
    let server = options.start().await;
    assert_eq!(rows_with_secret(&server).await, 0);
    assert_eq!(server.sql_int("SELECT count(*) FROM spans").await, spans);
    let sums = "SELECT count(*) FROM ledger WHERE received <> stored + refused + duplicate";
    assert_eq!(server.sql_int(sums).await, 0);
}

/// Scenario: so much of it while the store is away that rows go to spill files; then a kill, and a byte of the log is damaged.
/// Guarantee: neither the spill files nor what is left of the log has the secret.
#[tokio::test(flavor = "multi_thread")]
async fn masked_values_are_neither_spilled_nor_in_a_damaged_log() {
    let s3 = S3Server::start("telemetry").await;
    let options = server().store(s3.url("lake")).envs(s3.environment());
    let file = options.home().join("policy.toml");
    std::fs::write(&file, POLICY).expect("a policy file");
    let options = options.arg("--policy", file.to_str().expect("UTF-8")).arg("--flush-interval", "200ms");
    let options = options.arg("--memory-limit", "4MiB").arg("--message-limit", "1MiB").arg("--flush-bytes", "512KiB");
    let server = options.start().await;
    send_all(&server, 251).await;
    wait_until("a commit", async || {
        (crate::bounds::figure(&server, "spanlake_committed_rows_total").await > 0.0).then_some(())
    })
    .await;
    let hanging = s3.hold_writes().await;
    let mut number = 0;
    while crate::bounds::figure(&server, "spanlake_spilled_rows").await == 0.0 {
        assert!(number < 240, "nothing was spilled");
        number += 1;
        send_all(&server, number).await;
    }
    assert_eq!(rows_with_secret(&server).await, 0);
    let spilled = std::fs::read_dir(options.wal_dir().join("spill")).expect("the directory").count();
    assert!(spilled > 0);
    assert_eq!(found_in(&options), Vec::<String>::new());

    server.sigkill().await;
    let segments = std::fs::read_dir(options.wal_dir()).expect("a log").map(|entry| entry.expect("an entry").path());
    let is_segment =
        |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-"));
    let first = segments.filter(is_segment).min().expect("a segment");
    let mut bytes = std::fs::read(&first).expect("a segment");
    let masked: Vec<usize> = (0..bytes.len() - 8).filter(|&at| bytes[at..].starts_with(b"[masked]")).collect();
    // Neither in what was committed at first, which is not read again, nor in the last frame, which may be a torn write.
    let at = masked[masked.len() * 3 / 4];
    bytes[at] ^= 1;
    std::fs::write(&first, bytes).expect("writes");
    drop(hanging);
    let server = options.start().await;
    assert!(server.stderr().contains("the write-ahead log is damaged"), "{}", server.stderr());
    assert_eq!(rows_with_secret(&server).await, 0);
    let options = server.stop().await;
    assert_eq!(found_in(&options), Vec::<String>::new());
    let mut found = Vec::new();
    files_with_secret(&s3.bucket_directory(), &mut found);
    assert_eq!(found, Vec::<String>::new());
}

/// Scenario: `policy test` with a good and a bad policy, and a start with the bad one. Guarantee: the changes are shown one by
/// one; the error names file and line.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_can_be_tried() {
    let options = server();
    let path = |name: &str, content: &[u8]| {
        let path = options.home().join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (good, bad) = (path("good.toml", POLICY.as_bytes()), path("bad.toml", b"\n[[mask]]\npattern = '('\n"));
    let body = path("body.pb", &traces(1));
    let shown = options.run(&["policy", "test", &body, "--policy", &good]).await;
    let text = String::from_utf8_lossy(&shown.stdout);
    for part in [
        "resource_spans[0].scope_spans[0].spans[0].name  [mask pattern]\n",
        "resource_spans[0].scope_spans[0].spans[0].attributes[1] dropped.text",
        "  dropped\n",
        "it is [masked], yes",
        "values changed",
    ] {
        assert!(shown.status.success() && text.contains(part), "{part}: {text}");
    }
    let refused = options.run(&["policy", "test", &body, "--policy", &bad]).await;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("bad.toml:3: `(`"));
    let error = options.arg("--policy", bad).try_start().await.expect_err("refused");
    assert!(error.contains("bad.toml:3: `(` is no regular expression"), "{error}");
}
