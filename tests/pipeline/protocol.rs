//! What senders see: every encoding is taken, every mistake gets its answer.

use serde_json::json;
use spanlake_testkit::{
    Code, Compression, CompressionEncoding, GrpcOptions, HttpAnswer, JSON, PROTOBUF, RpcStatus, ServerProcess,
};

use crate::captures::{self, Capture, Sent};
use crate::{count_spans, server, traffic};

/// One way to send a body.
#[derive(Clone, Copy, Debug)]
enum Way {
    Grpc(Option<CompressionEncoding>),
    Http(Option<Compression>),
}

/// Sends a body and gives the number of spans that partial success refused. JSON goes over HTTP only.
async fn send(server: &ServerProcess, way: Way, capture: &Capture) -> u64 {
    match way {
        Way::Grpc(compression) if !capture.is_json => {
            let metadata = vec![("authorization".to_owned(), "Bearer abc".to_owned())];
            let options = GrpcOptions { compression, metadata };
            let answer = server.grpc().export_with(capture.body.clone(), &options).await;
            assert_eq!(answer.code, Code::Ok, "{}: {way:?}: {}", capture.name, answer.message);
            answer.rejected_spans()
        }
        Way::Grpc(_) => send_http(server, None, capture).await,
        Way::Http(compression) => send_http(server, compression, capture).await,
    }
}

async fn send_http(server: &ServerProcess, compression: Option<Compression>, capture: &Capture) -> u64 {
    let content_type = if capture.is_json { JSON } else { PROTOBUF };
    let mut headers = vec![("content-type", content_type)];
    headers.extend(compression.map(|compression| ("content-encoding", compression.name())));
    let body = compression.map_or_else(|| capture.body.clone(), |compression| compression.compress(&capture.body));
    let answer = server.otlp_http().post("/v1/traces", &headers, body).await;
    assert_eq!(answer.status, 200, "{}: {compression:?}: {}", capture.name, answer.text());
    assert_eq!(answer.header("content-type"), Some(content_type), "{}", capture.name);
    answer.rejected_spans()
}

/// Sends every capture to a fresh server and compares what SQL shows with what was sent.
async fn stores_every_capture(way: Way) {
    let server = server().start().await;
    let mut sent: Vec<Sent> = Vec::new();
    for capture in captures::all() {
        let before = count_spans(&server).await;
        let rejected = send(&server, way, &capture).await;
        assert_eq!(rejected, capture.invalid_spans(), "{}: spans refused", capture.name);
        let stored = count_spans(&server).await - before;
        assert_eq!(stored as u64, capture.span_count() - rejected, "{}: spans stored", capture.name);
        sent.extend(capture.valid_spans());
    }
    sent.sort();
    let rows = server.sql("SELECT trace_id, span_id, name FROM spans").await;
    let text = |row: &serde_json::Map<String, serde_json::Value>, key: &str| {
        row[key].as_str().unwrap_or_else(|| panic!("{key} is no text: {row:?}")).to_owned()
    };
    let mut stored: Vec<Sent> =
        rows.iter().map(|row| (text(row, "trace_id"), text(row, "span_id"), text(row, "name"))).collect();
    stored.sort();
    assert_eq!(stored, sent);
    the_huge_prompt_is_whole(&server).await;
}

async fn the_huge_prompt_is_whole(server: &ServerProcess) {
    let expected = &captures::json("edge_huge_prompt.expected.json")["calls"][0];
    let sql = "SELECT octet_length(content) AS bytes, encode(digest(content, 'sha256'), 'hex') AS sha256, input_tokens
         FROM messages JOIN spans USING (trace_id, span_id)
         WHERE spans.service_name = 'edge-huge' AND direction = 'input'";
    let rows = server.sql(sql).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["bytes"], expected["prompt_bytes"]);
    assert_eq!(rows[0]["sha256"], expected["prompt_sha256"]);
    assert_eq!(rows[0]["input_tokens"], expected["usage"]["input"]);
}

// Scenario: a fresh server gets every captured body in one encoding.
// Guarantee: exactly the spans of each body are stored, by count and by ids; those with invalid ids are refused by partial
// success and nothing else is.

#[tokio::test(flavor = "multi_thread")]
async fn captures_over_grpc_are_stored() {
    stores_every_capture(Way::Grpc(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_over_grpc_with_gzip_are_stored() {
    stores_every_capture(Way::Grpc(Some(CompressionEncoding::Gzip))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_over_grpc_with_zstd_are_stored() {
    stores_every_capture(Way::Grpc(Some(CompressionEncoding::Zstd))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_over_http_are_stored() {
    stores_every_capture(Way::Http(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_over_http_with_gzip_are_stored() {
    stores_every_capture(Way::Http(Some(Compression::Gzip))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_over_http_with_deflate_are_stored() {
    stores_every_capture(Way::Http(Some(Compression::Deflate))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_over_http_with_bare_deflate_are_stored() {
    stores_every_capture(Way::Http(Some(Compression::RawDeflate))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_over_http_with_zstd_are_stored() {
    stores_every_capture(Way::Http(Some(Compression::Zstd))).await;
}

/// What `malformed/expected.json` asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Refused,
    Taken,
    Either,
}

impl Verdict {
    fn read(text: &str) -> Self {
        match text {
            _ if text.starts_with("400, nothing stored") => Self::Refused,
            _ if text.starts_with("200: ") => Self::Taken,
            _ if text.starts_with("400 or ") || text.starts_with("400, or ") => Self::Either,
            _ => panic!("unknown verdict: {text}"),
        }
    }

    fn check(self, was_taken: bool, what: &str) {
        assert!(
            self == Self::Either || (self == Self::Taken) == was_taken,
            "{what}: taken {was_taken}, expected {self:?}"
        );
    }
}

#[track_caller]
fn is_readable(status: &RpcStatus, what: &str) {
    assert_eq!(status.code, Code::InvalidArgument as i32, "{what}");
    assert!(status.message.len() > 10, "{what}: {:?}", status.message);
    assert!(status.details.is_empty(), "{what}: a malformed body is not to be sent again");
}

/// Scenario: bodies that are truncated, garbage, of another type, wrongly encoded, or nested thousands deep.
/// Guarantee: each gets the answer that `malformed/expected.json` asks for, with a readable status in the request's own
/// encoding; nothing of a refused body is stored; the server stays up.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_are_refused_and_nothing_of_them_stored() {
    let server = server().start().await;
    let expected = captures::json("malformed/expected.json");
    let files: Vec<String> =
        captures::file_names("malformed").into_iter().filter(|name| name != "expected.json").collect();
    assert_eq!(files.len(), expected.as_object().expect("an object").len());
    for file in &files {
        let verdict = Verdict::read(expected[file].as_str().expect("a verdict"));
        let body = captures::bytes(&format!("malformed/{file}"));
        let content_type = if file.ends_with(".json") { JSON } else { PROTOBUF };
        let before = count_spans(&server).await;
        let answer = server.otlp_http().post("/v1/traces", &[("content-type", content_type)], body.clone()).await;
        assert_eq!(answer.header("content-type"), Some(content_type), "{file}");
        verdict.check(answer.status == 200, file);
        if answer.status == 200 {
            let stored = count_spans(&server).await - before;
            assert!(
                stored == 0 || verdict == Verdict::Either && answer.rejected_spans() == 0,
                "{file}: {stored} stored"
            );
        } else {
            assert_eq!(answer.status, 400, "{file}: {}", answer.text());
            is_readable(&answer.rpc_status(), file);
            assert_eq!(count_spans(&server).await, before, "{file}: something of it is stored");
        }
        if content_type == PROTOBUF {
            let before = count_spans(&server).await;
            let answer = server.grpc().export(body).await;
            verdict.check(answer.code == Code::Ok, &format!("{file} over gRPC: {}", answer.message));
            if answer.code != Code::Ok {
                assert_eq!(answer.code, Code::InvalidArgument, "{file}: {}", answer.message);
                assert!(answer.message.len() > 10, "{file}: {}", answer.message);
                assert_eq!(count_spans(&server).await, before, "{file}: something of it is stored");
            }
        }
        assert_eq!(server.http().get("/healthz").await.status, 200, "{file}");
    }
}

/// Scenario: bytes that are not what their `content-encoding` says.
/// Guarantee: 400, not 200 and not a crash, and nothing is stored.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_decompressed_are_refused() {
    let server = server().start().await;
    let body = captures::named("elastic_article").body;
    for compression in [Compression::Gzip, Compression::Deflate, Compression::RawDeflate, Compression::Zstd] {
        let whole = compression.compress(&body);
        for (what, broken) in
            [("plain", body.clone()), ("half", whole[..whole.len() / 2].to_vec()), ("none", Vec::new())]
        {
            let headers = [("content-type", PROTOBUF), ("content-encoding", compression.name())];
            let answer = server.otlp_http().post("/v1/traces", &headers, broken).await;
            // An empty body is an empty request, however it claims to be compressed.
            let is_fine = answer.status == 400 || what == "none" && answer.status == 200;
            assert!(is_fine, "{compression:?} {what}: {} {}", answer.status, answer.text());
        }
    }
    assert_eq!(count_spans(&server).await, 0);
}

/// Scenario: paths behind a configured prefix, wrong paths, methods and media types.
/// Guarantee: the prefix serves the same as the plain path; everything else gets 404, 405 or 415 with a status body that
/// says what would be right.
#[tokio::test(flavor = "multi_thread")]
async fn paths_methods_and_media_types() {
    let server = server().arg("--otlp-path-prefixes", "/otel,/ingest/otlp").start().await;
    let http = server.otlp_http();
    let mut source = traffic(1);
    for (path, spans) in [("/v1/traces", 3), ("/otel/v1/traces", 6), ("/ingest/otlp/v1/traces", 9)] {
        let body = prost::Message::encode_to_vec(&source.request(3));
        let answer = http.post(path, &[("content-type", PROTOBUF)], body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(count_spans(&server).await, spans, "{path}");
    }
    let json = ("content-type", JSON);
    let expect = async |status: u16, method: &str, path: &str, headers: &[(&str, &str)]| {
        let answer = http.request(method, path, headers, "{}").await;
        assert_eq!(answer.status, status, "{method} {path} {headers:?}: {}", answer.text());
        assert!(!answer.rpc_status().message.is_empty(), "{method} {path}");
        assert_eq!(answer.header("allow"), (status == 405).then_some("POST"), "{method} {path}");
    };
    expect(404, "POST", "/", &[json]).await;
    expect(404, "POST", "/other/v1/traces", &[json]).await;
    expect(404, "POST", "/otel", &[json]).await;
    expect(405, "GET", "/v1/traces", &[json]).await;
    expect(405, "PUT", "/otel/v1/traces", &[json]).await;
    expect(415, "POST", "/v1/traces", &[]).await;
    expect(415, "POST", "/v1/traces", &[("content-type", "text/html")]).await;
    expect(415, "POST", "/v1/traces", &[json, ("content-encoding", "br")]).await;
    assert_eq!(count_spans(&server).await, 9);
}

/// Scenario: JSON with a charset, and an empty export.
/// Guarantee: both are taken, and the answer speaks the request's encoding.
#[tokio::test(flavor = "multi_thread")]
async fn answers_speak_the_requests_encoding() {
    let server = server().start().await;
    let capture = captures::named("edge_json");
    let headers = [("content-type", "application/json; charset=utf-8")];
    let answer = server.otlp_http().post("/v1/traces", &headers, capture.body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(JSON)), "{}", answer.text());
    assert!(answer.json().is_object(), "{}", answer.text());
    assert_eq!(count_spans(&server).await, 3);
    for body in ["{}", "{\"resourceSpans\": []}"] {
        let answer = server.otlp_http().export_json(body).await;
        assert_eq!((answer.status, answer.json()), (200, json!({})), "{body}");
    }
    let answer = server.otlp_http().export(Vec::new()).await;
    assert_eq!((answer.status, answer.body.len(), answer.header("content-type")), (200, 0, Some(PROTOBUF)));
    assert_eq!(count_spans(&server).await, 3);
}

#[track_caller]
fn is_too_large(answer: &HttpAnswer) {
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert_eq!(answer.rpc_status().code, Code::ResourceExhausted as i32);
    assert!(answer.header("retry-after").is_none(), "a request that is too large is not to be sent again");
    let message = answer.rpc_status().message;
    assert!(message.contains("(message_limit)"), "{message}");
}

/// Scenario: requests over the message limit, as sent or only once decompressed.
/// Guarantee: 413 and RESOURCE_EXHAUSTED without RetryInfo, nothing is stored, and what is within the limit still is.
#[tokio::test(flavor = "multi_thread")]
async fn too_large_messages_are_refused() {
    let server = server().arg("--message-limit", "256KiB").start().await;
    let large = prost::Message::encode_to_vec(&traffic(2).request(512));
    assert!(large.len() > 256 * 1024);
    is_too_large(&server.otlp_http().export(large.clone()).await);
    let bomb = vec![0_u8; 64 << 20];
    for compression in [Compression::Gzip, Compression::Deflate, Compression::RawDeflate, Compression::Zstd] {
        is_too_large(&server.otlp_http().export_compressed(&bomb, compression).await);
    }
    for compression in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let body = if compression.is_some() { bomb.clone() } else { large.clone() };
        let options = GrpcOptions { compression, metadata: Vec::new() };
        let answer = server.grpc().export_with(body, &options).await;
        assert_eq!(answer.code, Code::ResourceExhausted, "{compression:?}: {}", answer.message);
        assert_eq!(answer.details.and_then(|status| status.retry_delay()), None, "{compression:?}");
    }
    assert_eq!(count_spans(&server).await, 0);
    crate::export(&server, &traffic(3).request(100)).await;
    assert_eq!(count_spans(&server).await, 100);
}
