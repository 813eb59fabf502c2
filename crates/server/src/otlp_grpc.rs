//! OTLP over gRPC: the `Export` of `TraceService`, `MetricsService` and `LogsService`.
//!
//! The five bytes before a gRPC message are read here, so that the message goes to ingest as it came: compressed bytes
//! are decompressed where the other CPU work is done, and nothing is decoded into structs on the way.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use spanlake_ingest::{ContentEncoding, ContentType, Request as ExportRequest, Signal};
use spanlake_schema::DEFAULT_TENANT;
use tonic::{Code, Status};

use crate::config::format_bytes;
use crate::otlp_answer::{Refusal, encode_success};
use crate::otlp_http::Receiver;

/// Compression flag and length before each message.
pub(crate) const PREFIX_BYTES: usize = 5;

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const ACCEPTED: HeaderValue = HeaderValue::from_static("identity,gzip,deflate,zstd");

/// The listener's routes. The receiver's bodies hold the prefix as well.
pub(crate) fn router(receiver: Arc<Receiver>) -> Router {
    Router::new().fallback(handle).with_state(receiver)
}

async fn handle(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    if !is_grpc(&parts.method, &parts.headers) {
        receiver.bodies.discard(&mut body).await;
        // Whoever reads this is a person who has mixed up the ports.
        let message = "this port speaks OTLP over gRPC (otlp_grpc_addr); OTLP over HTTP has its own (otlp_http_addr)\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    }
    let checked = signal(parts.uri.path()).and_then(|signal| Ok((signal, content_encoding(&parts.headers)?)));
    let result = match checked {
        Ok((signal, encoding)) => export(&receiver, &mut body, signal, encoding).await,
        Err(status) => Err(status),
    };
    let (code, mut response) = match result {
        Ok(message) => (Code::Ok, succeed(&message)),
        Err(status) => (status.code(), status.into_http::<Body>()),
    };
    receiver.gate.count_answer("grpc", code as u16);
    response.headers_mut().insert(GRPC_ACCEPT_ENCODING, ACCEPTED);
    response
}

/// Whether this is gRPC with protobuf at all.
fn is_grpc(method: &Method, headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    method == Method::POST && matches!(media_type, "application/grpc" | "application/grpc+proto")
}

/// The signal that a method takes.
fn signal(path: &str) -> Result<Signal, Status> {
    match path {
        TRACES => Ok(Signal::Traces),
        LOGS => Ok(Signal::Logs),
        METRICS => Ok(Signal::Metrics),
        other => Err(Status::unimplemented(format!("unknown method {other}"))),
    }
}

fn content_encoding(headers: &HeaderMap) -> Result<ContentEncoding, Status> {
    let name = headers.get(GRPC_ENCODING).map_or("identity", |value| value.to_str().unwrap_or("?"));
    match name {
        "identity" => Ok(ContentEncoding::Identity),
        "gzip" => Ok(ContentEncoding::Gzip),
        "deflate" => Ok(ContentEncoding::Deflate),
        "zstd" => Ok(ContentEncoding::Zstd),
        _ => Err(Status::unimplemented(format!("grpc-encoding `{name}` is not read: use gzip, deflate, zstd or none"))),
    }
}

async fn export(
    receiver: &Receiver,
    body: &mut Body,
    signal: Signal,
    encoding: ContentEncoding,
) -> Result<Bytes, Status> {
    let services = receiver.gate.services().map_err(|closed| Refusal::from(closed).to_grpc())?;
    let read = receiver.bodies.read(body).await;
    let (framed, _reserved) =
        read.map_err(|error| Refusal::from_body(error, receiver.message_limit_bytes).to_grpc())?;
    let (is_compressed, message) = unframe(framed, receiver.message_limit_bytes)?;
    let content_encoding = match (is_compressed, encoding) {
        (false, _) => ContentEncoding::Identity,
        (true, ContentEncoding::Identity) => {
            return Err(Status::internal("message is marked as compressed, but there is no grpc-encoding"));
        }
        (true, encoding) => encoding,
    };
    let request = ExportRequest {
        tenant: DEFAULT_TENANT.to_owned(),
        content_type: ContentType::Protobuf,
        content_encoding,
        body: message,
    };
    let outcome = services.ingest.export(signal, request).await;
    let outcome = outcome.map_err(|rejection| Refusal::from(rejection).to_grpc())?;
    Ok(encode_success(signal, &outcome, ContentType::Protobuf))
}

/// The one message of a unary call, and whether it is compressed.
fn unframe(mut framed: Bytes, limit: usize) -> Result<(bool, Bytes), Status> {
    if framed.len() < PREFIX_BYTES {
        return Err(Status::invalid_argument("request holds no whole gRPC message"));
    }
    let prefix = framed.split_to(PREFIX_BYTES);
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > limit {
        let limit = format_bytes(limit as u64);
        let message = format!("request is larger than the limit of {limit} (message_limit)");
        return Err(Status::resource_exhausted(message));
    }
    if framed.len() != length {
        let message = format!("gRPC message of {length} bytes expected, {} bytes came", framed.len());
        return Err(Status::invalid_argument(message));
    }
    match prefix[0] {
        0 => Ok((false, framed)),
        1 => Ok((true, framed)),
        flag => Err(Status::internal(format!("gRPC compression flag must be 0 or 1, got {flag}"))),
    }
}

fn succeed(message: &Bytes) -> Response {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("invariant: an answer is small"));
    framed.extend_from_slice(message);
    let trailers = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))]);
    let body = Full::new(framed.freeze()).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tonic::codegen::Service;

    use super::*;
    use crate::body::{BodyBudget, BodyReader};
    use crate::gate::Gate;
    use crate::otlp_answer::{RetryInfo, RpcStatus};
    use crate::shutdown::Stop;

    async fn call(path: &str, headers: &[(&str, &str)]) -> Response {
        let receiver = Arc::new(Receiver {
            gate: Gate::new(Stop::new()),
            bodies: BodyReader::new(105, BodyBudget::new(1000)),
            message_limit_bytes: 100,
            path_prefixes: Vec::new(),
        });
        let mut builder = Request::builder().method("POST").uri(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let request = builder.body(Body::from(&b"\0\0\0\0\0"[..])).expect("is a request");
        router(receiver).call(request).await.expect("is infallible")
    }

    fn status(response: &Response) -> Status {
        Status::from_header_map(response.headers()).expect("has a status")
    }

    #[tokio::test]
    async fn unknown_methods_signals_and_encodings_are_unimplemented() {
        let grpc = ("content-type", "application/grpc");
        for (path, headers, part) in [
            ("/other.Service/Method", &[grpc][..], "unknown method /other.Service/Method"),
            (METRICS, &[grpc, ("grpc-encoding", "lz4")][..], "`lz4` is not read"),
            (LOGS, &[grpc, ("grpc-encoding", "br")][..], "`br` is not read"),
            (TRACES, &[grpc, ("grpc-encoding", "snappy")][..], "`snappy` is not read"),
        ] {
            let response = call(path, headers).await;
            let status = status(&response);
            assert_eq!(status.code(), Code::Unimplemented, "{path}");
            assert!(status.message().contains(part), "{path}: {}", status.message());
            assert_eq!(response.headers()[GRPC_ACCEPT_ENCODING], ACCEPTED);
        }
    }

    #[tokio::test]
    async fn before_replay_is_done_senders_are_told_to_come_again() {
        let headers = [("content-type", "application/grpc+proto"), ("authorization", "Bearer any")];
        let status = status(&call(TRACES, &headers).await);
        assert_eq!(status.code(), Code::Unavailable);
        let details = RpcStatus::decode(status.details()).expect("is a status");
        RetryInfo::decode(details.details[0].value.as_slice())
            .expect("is retry info")
            .retry_delay
            .expect("has a delay");
    }

    #[tokio::test]
    async fn what_is_no_grpc_is_told_where_to_go() {
        let response = call("/v1/traces", &[("content-type", "application/x-protobuf")]).await;
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let body = response.into_body().collect().await.expect("is whole").to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("otlp_http_addr"));
    }

    #[test]
    fn a_frame_is_taken_apart_or_refused() {
        let unframe = |bytes: &'static [u8]| unframe(Bytes::from_static(bytes), 10);
        let (is_compressed, message) = unframe(b"\0\0\0\0\x03abc").expect("is a frame");
        assert!(!is_compressed && &message[..] == b"abc");
        assert!(unframe(b"\x01\0\0\0\0").expect("is a frame").0);
        for (bytes, code) in [
            (&b""[..], Code::InvalidArgument),
            (b"\0\0\0\0", Code::InvalidArgument),
            (b"\0\0\0\0\x03ab", Code::InvalidArgument),
            (b"\0\0\0\0\x03abc\0\0\0\0\0", Code::InvalidArgument),
            (b"\x02\0\0\0\0", Code::Internal),
            (b"\0\0\0\0\x0b", Code::ResourceExhausted),
        ] {
            let status = unframe(bytes).expect_err("is no frame");
            assert_eq!(status.code(), code, "{bytes:?}");
            assert!(status.details().is_empty(), "nothing of this is worth a retry");
        }
    }

    #[tokio::test]
    async fn success_is_a_framed_message_and_a_trailer() {
        let response = succeed(&Bytes::from_static(b"xy"));
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
        let body = response.into_body().collect().await.expect("is whole");
        assert_eq!(body.trailers().expect("has trailers")["grpc-status"], "0");
        assert_eq!(&body.to_bytes()[..], b"\0\0\0\0\x02xy");
    }
}
