//! OTLP over HTTP: `POST /v1/traces`, `/v1/metrics` and `/v1/logs`, and the same behind every configured prefix.
//!
//! Bodies go to ingest as they came; nothing is decompressed or parsed here.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use spanlake_ingest::{ContentEncoding, ContentType, Request as ExportRequest, Signal};
use spanlake_schema::DEFAULT_TENANT;
use tonic::Code;

use crate::body::BodyReader;
use crate::gate::Gate;
use crate::otlp_answer::{Refusal, encode_success};

/// What both OTLP listeners need.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) gate: Arc<Gate>,
    pub(crate) bodies: BodyReader,
    pub(crate) message_limit_bytes: usize,
    pub(crate) path_prefixes: Vec<String>,
}

/// The listener's routes.
pub(crate) fn router(receiver: Arc<Receiver>) -> Router {
    Router::new().fallback(handle).with_state(receiver)
}

async fn handle(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let answer = answer(&receiver, request).await;
    receiver.gate.count_answer("http", answer.status().as_u16());
    answer
}

async fn answer(receiver: &Receiver, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    // Refusals speak the request's own encoding, and JSON where that is unknown: a person may be reading.
    let content_type = content_type(&parts.headers);
    let answer_type = content_type.as_ref().copied().unwrap_or(ContentType::Json);
    let checked = check(receiver, &parts.method, parts.uri.path(), &parts.headers)
        .and_then(|encoding| content_type.map(|content_type| (content_type, encoding)));
    let result = match checked {
        Ok((content_type, (signal, encoding))) => export(receiver, &mut body, signal, content_type, encoding).await,
        Err(refusal) => Err(refusal),
    };
    match result {
        Ok(success) => respond(StatusCode::OK, answer_type, success),
        Err(refusal) => {
            // A sender that waits for `100 Continue` has not sent its body yet, and one that was too slow was waited for.
            if !parts.headers.contains_key(EXPECT) && refusal.http != 408 {
                receiver.bodies.discard(&mut body).await;
            }
            refuse(&refusal, answer_type)
        }
    }
}

async fn export(
    receiver: &Receiver,
    body: &mut Body,
    signal: Signal,
    content_type: ContentType,
    content_encoding: ContentEncoding,
) -> Result<Bytes, Refusal> {
    let services = receiver.gate.services()?;
    let read = receiver.bodies.read(body).await;
    let (body, _reserved) = read.map_err(|error| Refusal::from_body(error, receiver.message_limit_bytes))?;
    let request = ExportRequest { tenant: DEFAULT_TENANT.to_owned(), content_type, content_encoding, body };
    let outcome = services.ingest.export(signal, request).await?;
    Ok(encode_success(signal, &outcome, content_type))
}

/// Whether path, method and encoding can be served.
fn check(
    receiver: &Receiver,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(Signal, ContentEncoding), Refusal> {
    let Some(signal) = signal(path, &receiver.path_prefixes) else {
        let message = format!("nothing is served at {path}: OTLP goes to /v1/traces, /v1/metrics and /v1/logs");
        return Err(Refusal::permanent(Code::NotFound, 404, message));
    };
    if method != Method::POST {
        return Err(Refusal::permanent(Code::Unimplemented, 405, format!("{method} is not served, only POST")));
    }
    Ok((signal, content_encoding(headers)?))
}

/// The signal that is taken at a path.
fn signal(path: &str, prefixes: &[String]) -> Option<Signal> {
    let signal = |path: &str| {
        let name = path.strip_prefix("/v1/")?;
        Signal::ALL.into_iter().find(|signal| signal.name() == name)
    };
    signal(path).or_else(|| prefixes.iter().find_map(|prefix| signal(path.strip_prefix(prefix.as_str())?)))
}

fn content_type(headers: &HeaderMap) -> Result<ContentType, Refusal> {
    let value = headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let refuse = || {
        let given = if value.is_empty() { "no content-type".to_owned() } else { format!("content-type `{value}`") };
        let message = format!("{given} is not read: send application/x-protobuf or application/json (in UTF-8)");
        Refusal::permanent(Code::InvalidArgument, 415, message)
    };
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    let found = match parts.next().as_deref() {
        Some("application/x-protobuf" | "application/protobuf") => ContentType::Protobuf,
        Some("application/json") => ContentType::Json,
        _ => return Err(refuse()),
    };
    let charset = parts.find_map(|part| part.strip_prefix("charset=").map(|name| name.trim_matches('"').to_owned()));
    match charset.as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(found),
        Some(_) if found == ContentType::Protobuf => Ok(found),
        Some(_) => Err(refuse()),
    }
}

fn content_encoding(headers: &HeaderMap) -> Result<ContentEncoding, Refusal> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let value = encodings.next().map_or("", |value| value.to_str().unwrap_or("?"));
    match (value.trim().to_ascii_lowercase().as_str(), encodings.next()) {
        ("" | "identity", None) => Ok(ContentEncoding::Identity),
        ("gzip" | "x-gzip", None) => Ok(ContentEncoding::Gzip),
        ("deflate", None) => Ok(ContentEncoding::Deflate),
        ("zstd", None) => Ok(ContentEncoding::Zstd),
        _ => {
            let message = format!("content-encoding `{value}` is not read: use gzip, deflate, zstd or none");
            Err(Refusal::permanent(Code::InvalidArgument, 415, message))
        }
    }
}

fn respond(status: StatusCode, content_type: ContentType, body: Bytes) -> Response {
    let content_type = match content_type {
        ContentType::Protobuf => "application/x-protobuf",
        ContentType::Json => "application/json",
    };
    let builder = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    builder.body(Body::from(body)).expect("invariant: constant headers are valid")
}

fn refuse(refusal: &Refusal, content_type: ContentType) -> Response {
    let status = StatusCode::from_u16(refusal.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = respond(status, content_type, refusal.encode(content_type));
    if let Some(seconds) = refusal.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, axum::http::HeaderValue::from_static("POST"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use http_body_util::BodyExt;
    use prost::Message;
    use serde_json::Value;
    use tonic::codegen::Service;

    use super::*;
    use crate::body::BodyBudget;
    use crate::otlp_answer::RpcStatus;
    use crate::shutdown::Stop;

    fn closed_receiver() -> Arc<Receiver> {
        Arc::new(Receiver {
            gate: Gate::new(Stop::new()),
            bodies: BodyReader::new(100, BodyBudget::new(1000)),
            message_limit_bytes: 100,
            path_prefixes: vec!["/otel".to_owned()],
        })
    }

    async fn send(receiver: &Arc<Receiver>, request: Request) -> (StatusCode, HeaderMap, Bytes) {
        let response = router(Arc::clone(receiver)).call(request).await.expect("is infallible");
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body.collect().await.expect("is whole").to_bytes())
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let mut builder = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::from("{}")).expect("is a request")
    }

    #[tokio::test]
    async fn refusals_have_their_status_and_a_readable_body() {
        let json = ("content-type", "application/json");
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);
        let cases: &[Case<'_>] = &[
            ("POST", "/", &[json], 404, "OTLP goes to /v1/traces, /v1/metrics and /v1/logs"),
            ("POST", "/other/v1/traces", &[json], 404, "nothing is served at /other/v1/traces"),
            ("POST", "/v1/metrics", &[json], 503, "is being replayed"),
            ("POST", "/otel/v1/logs", &[json], 503, "is being replayed"),
            ("GET", "/v1/traces", &[json], 405, "only POST"),
            ("POST", "/v1/traces", &[], 415, "no content-type"),
            ("POST", "/v1/traces", &[("content-type", "text/plain")], 415, "`text/plain` is not read"),
            ("POST", "/v1/traces", &[("content-type", "application/json; charset=utf-16")], 415, "in UTF-8"),
            ("POST", "/v1/traces", &[json, ("content-encoding", "br")], 415, "`br` is not read"),
            ("POST", "/v1/traces", &[json, ("content-encoding", "gzip, gzip")], 415, "is not read"),
            ("POST", "/v1/traces", &[json], 503, "is being replayed"),
            (
                "POST",
                "/otel/v1/traces",
                &[("content-type", "Application/JSON; charset=UTF-8")],
                503,
                "is being replayed",
            ),
        ];
        let receiver = closed_receiver();
        for (method, path, headers, status, part) in cases {
            let (got, answer_headers, body) = send(&receiver, request(method, path, headers)).await;
            assert_eq!(got.as_u16(), *status, "{method} {path} {headers:?}");
            assert_eq!(answer_headers[CONTENT_TYPE], "application/json", "{path}");
            let body: Value = serde_json::from_slice(&body).expect("is JSON");
            assert!(body["message"].as_str().expect("has a message").contains(part), "{body}");
            assert_eq!(answer_headers.contains_key(RETRY_AFTER), *status == 503, "{path}");
            assert_eq!(answer_headers.contains_key(ALLOW), *status == 405, "{path}");
        }
        let counted: u64 = receiver.gate.answers().values().sum();
        assert_eq!(counted, cases.len() as u64);
    }

    #[tokio::test]
    async fn protobuf_is_refused_in_protobuf() {
        let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "br")];
        let (status, headers, body) = send(&closed_receiver(), request("POST", "/v1/traces", &headers)).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(headers[CONTENT_TYPE], "application/x-protobuf");
        let status = RpcStatus::decode(body).expect("is a status");
        assert_eq!(status.code, 3);
        assert!(status.message.contains("`br`"), "{}", status.message);
    }

    #[test]
    fn reads_types_and_encodings() {
        let header =
            |name, value: &str| HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("is a header"))]);
        for value in ["application/x-protobuf", "application/x-protobuf; charset=x", "application/protobuf"] {
            assert_eq!(content_type(&header(CONTENT_TYPE, value)), Ok(ContentType::Protobuf), "{value}");
        }
        for value in ["application/json", "application/json;charset=utf-8", "application/json; charset=\"UTF-8\""] {
            assert_eq!(content_type(&header(CONTENT_TYPE, value)), Ok(ContentType::Json), "{value}");
        }
        for (value, encoding) in [
            ("gzip", ContentEncoding::Gzip),
            ("GZIP", ContentEncoding::Gzip),
            ("deflate", ContentEncoding::Deflate),
            ("zstd", ContentEncoding::Zstd),
            ("identity", ContentEncoding::Identity),
        ] {
            assert_eq!(content_encoding(&header(CONTENT_ENCODING, value)), Ok(encoding), "{value}");
        }
        assert_eq!(content_encoding(&HeaderMap::new()), Ok(ContentEncoding::Identity));
    }
}
