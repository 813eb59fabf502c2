//! OTLP senders that show every detail of the answer and send whatever bytes they are given.

use std::io::Write;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// `google.rpc.Status`: the body of an OTLP/HTTP error, and the details of a gRPC one.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    /// A `google.rpc.Code`.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// What is wrong.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Further facts, such as `google.rpc.RetryInfo`.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

impl RpcStatus {
    /// The delay of a `google.rpc.RetryInfo`, where there is one.
    pub fn retry_delay(&self) -> Option<std::time::Duration> {
        let any = self.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
        let info = RetryInfo::decode(any.value.as_slice()).expect("RetryInfo of the answer can be decoded");
        info.retry_delay.unwrap_or_default().try_into().ok()
    }
}

/// What came back over gRPC.
#[derive(Clone, Debug)]
pub struct GrpcAnswer {
    /// The status; [`Code::Ok`] where all went well.
    pub code: Code,
    /// The message of the status.
    pub message: String,
    /// The decoded `grpc-status-details-bin`, where there is one.
    pub details: Option<RpcStatus>,
    /// Headers, and in an error trailers.
    pub metadata: MetadataMap,
    /// The answer, where all went well.
    pub response: Option<ExportTraceServiceResponse>,
}

impl GrpcAnswer {
    /// Spans, metric points or log records refused by partial success.
    pub fn rejected_spans(&self) -> u64 {
        self.response.as_ref().map_or(0, rejected_spans)
    }
}

/// A signal's service. The answers of all have the same fields, under other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `TraceService`.
    Traces,
    /// `MetricsService`.
    Metrics,
    /// `LogsService`.
    Logs,
}

impl Service {
    /// The path over HTTP.
    pub fn http_path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }

    fn grpc_path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        })
    }
}

fn rejected_spans(response: &ExportTraceServiceResponse) -> u64 {
    let rejected = response.partial_success.as_ref().map_or(0, |partial| partial.rejected_spans);
    u64::try_from(rejected).expect("rejected_spans is not negative")
}

/// How a gRPC request is sent.
#[derive(Clone, Debug, Default)]
pub struct GrpcOptions {
    /// Compression of the message.
    pub compression: Option<CompressionEncoding>,
    /// Headers, such as `authorization`.
    pub metadata: Vec<(String, String)>,
}

/// Sends export requests over gRPC. Clones share one connection.
#[derive(Clone, Debug)]
pub struct OtlpGrpcClient {
    channel: Channel,
}

impl OtlpGrpcClient {
    /// Connects when first used.
    pub fn new(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
        Self { channel: endpoint.connect_lazy() }
    }

    /// Sends this trace request, uncompressed and without headers of its own.
    pub async fn export(&self, body: impl Into<Bytes>) -> GrpcAnswer {
        self.export_with(body, &GrpcOptions::default()).await
    }

    /// Sends these bytes as a trace request, whatever they are.
    pub async fn export_with(&self, body: impl Into<Bytes>, options: &GrpcOptions) -> GrpcAnswer {
        self.export_to(Service::Traces, body, options).await
    }

    /// Sends these bytes to a service, whatever they are.
    pub async fn export_to(&self, service: Service, body: impl Into<Bytes>, options: &GrpcOptions) -> GrpcAnswer {
        let mut request = tonic::Request::new(body.into());
        for (key, value) in &options.metadata {
            let key = MetadataKey::from_bytes(key.as_bytes()).expect("a metadata key");
            request.metadata_mut().insert(key, value.parse().expect("a metadata value"));
        }
        match self.send(service, request, options.compression).await {
            Ok(response) => {
                let (metadata, body, _) = response.into_parts();
                let response = ExportTraceServiceResponse::decode(body).expect("the answer is a response message");
                GrpcAnswer { code: Code::Ok, message: String::new(), details: None, metadata, response: Some(response) }
            }
            Err(status) => {
                let details = (!status.details().is_empty())
                    .then(|| RpcStatus::decode(status.details()).expect("the details are a google.rpc.Status"));
                GrpcAnswer {
                    code: status.code(),
                    message: status.message().to_owned(),
                    details,
                    metadata: status.metadata().clone(),
                    response: None,
                }
            }
        }
    }

    async fn send(
        &self,
        service: Service,
        request: tonic::Request<Bytes>,
        compression: Option<CompressionEncoding>,
    ) -> Result<tonic::Response<Bytes>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
            client = client.accept_compressed(encoding);
        }
        if let Some(compression) = compression {
            client = client.send_compressed(compression);
        }
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        client.unary(request, service.grpc_path(), RawCodec).await
    }
}

/// Messages as bytes, neither encoded nor decoded.
#[derive(Clone, Copy, Debug)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// What came back over HTTP.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl HttpAnswer {
    /// A header, where it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The body as the `google.rpc.Status` an error carries, in the encoding the content type names.
    ///
    /// # Panics
    /// Where the body is none.
    pub fn rpc_status(&self) -> RpcStatus {
        if self.is_json() {
            let json = self.json();
            let code = json["code"].as_i64().unwrap_or_else(|| panic!("no code in {json}"));
            let message = json["message"].as_str().unwrap_or_else(|| panic!("no message in {json}")).to_owned();
            return RpcStatus { code: code as i32, message, details: Vec::new() };
        }
        RpcStatus::decode(self.body.clone()).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// Spans, metric points or log records refused by partial success.
    ///
    /// # Panics
    /// Where the body is no answer of an export service in the encoding the content type names.
    pub fn rejected_spans(&self) -> u64 {
        if self.is_json() {
            // ProtoJSON writes 64-bit integers as strings; numbers are allowed too.
            let partial = &self.json()["partialSuccess"];
            let names = ["rejectedSpans", "rejectedDataPoints", "rejectedLogRecords"];
            let rejected = names.iter().map(|name| &partial[name]).find(|rejected| !rejected.is_null());
            return match rejected {
                None => 0,
                Some(serde_json::Value::String(text)) => text.parse().expect("what was rejected is a number"),
                Some(number) => number.as_u64().expect("what was rejected is a number"),
            };
        }
        let response = ExportTraceServiceResponse::decode(self.body.clone());
        rejected_spans(&response.unwrap_or_else(|error| panic!("{error} in {:?}", self.body)))
    }

    fn is_json(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("application/json"))
    }
}

/// How a body is compressed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// zlib (RFC 1950): what HTTP means by deflate.
    Deflate,
    /// The bare stream (RFC 1951) that some senders call deflate.
    RawDeflate,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Compression {
    /// The value of `content-encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate | Self::RawDeflate => "deflate",
            Self::Zstd => "zstd",
        }
    }

    /// The compressed bytes.
    pub fn compress(self, bytes: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::fast();
        let written = "compression into memory does not fail";
        match self {
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).expect(written);
                encoder.finish().expect(written)
            }
            Self::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).expect(written);
                encoder.finish().expect(written)
            }
            Self::RawDeflate => {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).expect(written);
                encoder.finish().expect(written)
            }
            Self::Zstd => zstd::encode_all(bytes, 1).expect(written),
        }
    }
}

/// Sends requests over HTTP. Clones share connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: reqwest::Client,
    base: String,
}

/// The content type of OTLP protobuf.
pub const PROTOBUF: &str = "application/x-protobuf";
/// The content type of OTLP JSON.
pub const JSON: &str = "application/json";

impl HttpClient {
    /// A client of the server at this address.
    ///
    /// # Panics
    /// Where the system gives no sockets.
    pub fn new(address: SocketAddr) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("an HTTP client can be built");
        Self { client, base: format!("http://{address}") }
    }

    /// Sends a protobuf trace request to `/v1/traces`.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn export(&self, body: impl Into<Bytes>) -> HttpAnswer {
        self.post("/v1/traces", &[("content-type", PROTOBUF)], body).await
    }

    /// Sends a compressed protobuf trace request to `/v1/traces`.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn export_compressed(&self, body: &[u8], compression: Compression) -> HttpAnswer {
        let headers = [("content-type", PROTOBUF), ("content-encoding", compression.name())];
        self.post("/v1/traces", &headers, compression.compress(body)).await
    }

    /// Sends a JSON trace request to `/v1/traces`.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn export_json(&self, body: impl Into<Bytes>) -> HttpAnswer {
        self.post("/v1/traces", &[("content-type", JSON)], body).await
    }

    /// POSTs.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> HttpAnswer {
        self.request("POST", path, headers, body).await
    }

    /// GETs.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn get(&self, path: &str) -> HttpAnswer {
        self.request("GET", path, &[], Bytes::new()).await
    }

    /// Sends any request.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> HttpAnswer {
        match self.try_request(method, path, headers, body).await {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {}{path}: {error:?}", self.base),
        }
    }

    /// Sends any request to a server that may be gone.
    ///
    /// # Errors
    /// Where there was no answer, or only a part of one.
    pub async fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<HttpAnswer, reqwest::Error> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("an HTTP method");
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            map.append(name, HeaderValue::from_str(value).expect("a header value"));
        }
        let request = self.client.request(method, format!("{}{path}", self.base)).headers(map).body(body.into());
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(HttpAnswer { status, headers, body: response.bytes().await? })
    }
}
