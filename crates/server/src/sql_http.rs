//! SQL over HTTP: `POST /api/v1/sql`.
//!
//! The answer is streamed as the query yields it. Its first piece is waited for, so that a query that fails early gets a
//! status code; one that fails later ends with a broken connection, which no client takes for a whole answer.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use spanlake_query::{Format, Parameters, QueryError, QueryErrorKind};
use spanlake_schema::DEFAULT_TENANT;

use crate::body::BodyError;
use crate::gate::Closed;
use crate::http_api::Api;

/// Largest statement with its parameters.
pub(crate) const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// A query that gets no answer but this.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    position: Option<(u64, u64)>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), position: None }
    }

    pub(crate) fn into_response(self) -> Response {
        let mut error = Map::new();
        error.insert("kind".to_owned(), self.kind.into());
        error.insert("message".to_owned(), self.message.into());
        if let Some((line, column)) = self.position {
            error.insert("line".to_owned(), line.into());
            error.insert("column".to_owned(), column.into());
        }
        let mut builder = Response::builder().status(self.status).header(CONTENT_TYPE, "application/json");
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            builder = builder.header(RETRY_AFTER, "1");
        }
        let body = json!({ "error": error }).to_string();
        builder.body(Body::from(body)).expect("invariant: constant headers are valid")
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let (status, kind) = match error.kind {
            QueryErrorKind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
            QueryErrorKind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            QueryErrorKind::Timeout => (StatusCode::REQUEST_TIMEOUT, "timeout"),
            QueryErrorKind::Exhausted => (StatusCode::TOO_MANY_REQUESTS, "exhausted"),
            QueryErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self { status, kind, message: error.message, position: error.position }
    }
}

impl From<Closed> for ApiError {
    fn from(closed: Closed) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", closed.message())
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => {
                let message = format!("statement is larger than {STATEMENT_BYTES_MAX} bytes");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
            }
            BodyError::Overloaded => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "exhausted", "too many statements are being received")
            }
            BodyError::TimedOut => Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the statement came too slowly"),
            BodyError::Broken(error) => {
                let message = format!("the statement cannot be received: {error}");
                Self::new(StatusCode::BAD_REQUEST, "invalid", message)
            }
        }
    }
}

/// `POST`: the statement is the body.
pub(crate) async fn post(State(api): State<Api>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answer = async {
        let (bytes, _reserved) = api.statements.read(&mut body).await?;
        let (statement, parameters) = read_statement(&parts.headers, &bytes)?;
        run(&api, &parts.headers, &statement, parameters).await
    };
    answer.await.unwrap_or_else(ApiError::into_response)
}

/// `GET`: the statement is the parameter `q`.
pub(crate) async fn get(State(api): State<Api>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let statement =
        url::form_urlencoded::parse(query).find(|(name, _)| name == "q").map(|(_, value)| value.into_owned());
    let answer = match statement {
        Some(statement) => run(&api, request.headers(), &statement, Parameters::None).await,
        None => Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid", "parameter `q` is missing")),
    };
    answer.unwrap_or_else(ApiError::into_response)
}

async fn run(api: &Api, headers: &HeaderMap, statement: &str, parameters: Parameters) -> Result<Response, ApiError> {
    let format = format(headers)?;
    let engine = &api.gate.services()?.engine;
    let mut pieces = engine.sql_encoded(DEFAULT_TENANT, statement, parameters, format).await?;
    let first = pieces.next().await.transpose()?;
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(pieces));
    let builder = Response::builder().header(CONTENT_TYPE, format.content_type());
    Ok(builder.body(body).expect("invariant: constant headers are valid"))
}

fn format(headers: &HeaderMap) -> Result<Format, ApiError> {
    let values: Option<Vec<_>> = headers.get_all(ACCEPT).iter().map(|value| value.to_str().ok()).collect();
    let accept = values.map(|values| values.join(","));
    accept.as_deref().and_then(Format::from_accept).ok_or_else(|| {
        let message = "accept: none of these can be written; choose application/json, application/x-ndjson, text/csv, \
                       application/vnd.apache.arrow.stream or application/vnd.apache.parquet";
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonStatement {
    sql: String,
    #[serde(default)]
    params: Value,
}

fn read_statement(headers: &HeaderMap, body: &Bytes) -> Result<(String, Parameters), ApiError> {
    let invalid = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid", message);
    let content_type = headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        // What command-line clients send where nobody says anything is the form type.
        "" | "text/plain" | "application/sql" | "application/x-www-form-urlencoded" => {
            let statement = std::str::from_utf8(body).map_err(|_| invalid("the statement is not UTF-8".to_owned()))?;
            Ok((statement.to_owned(), Parameters::None))
        }
        "application/json" => {
            let read: JsonStatement = serde_json::from_slice(body)
                .map_err(|error| invalid(format!("body is not {{\"sql\": …, \"params\": …}}: {error}")))?;
            Ok((read.sql, Parameters::from_json(&read.params)?))
        }
        _ => {
            let message = format!(
                "content-type `{content_type}` is not read: send the statement as text/plain, or \
                 {{\"sql\", \"params\"}} as application/json"
            );
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn header(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn statements_come_as_text_or_as_json_with_parameters() {
        for content_type in ["text/plain; charset=utf-8", "application/sql", "application/x-www-form-urlencoded"] {
            let read = read_statement(&header(CONTENT_TYPE, content_type), &Bytes::from_static(b"SELECT 1"));
            assert_eq!(read.expect(content_type).0, "SELECT 1");
        }
        let json = header(CONTENT_TYPE, "application/json");
        let (statement, parameters) =
            read_statement(&json, &Bytes::from_static(br#"{"sql": "SELECT $1", "params": [7]}"#)).expect("reads");
        assert_eq!(statement, "SELECT $1");
        assert!(matches!(parameters, Parameters::Positional(values) if values.len() == 1));
        let (_, parameters) = read_statement(&json, &Bytes::from_static(br#"{"sql": "SELECT 1"}"#)).expect("reads");
        assert_eq!(parameters, Parameters::None);
    }

    #[test]
    fn other_bodies_are_refused_with_a_reason() {
        let json = header(CONTENT_TYPE, "application/json");
        for (headers, body, status) in [
            (HeaderMap::new(), &b"\xff"[..], 400),
            (json.clone(), b"SELECT 1", 400),
            (json.clone(), br#"{"query": "SELECT 1"}"#, 400),
            (json, br#"{"sql": "SELECT 1", "params": 7}"#, 400),
            (header(CONTENT_TYPE, "text/html"), b"SELECT 1", 415),
        ] {
            let error = read_statement(&headers, &Bytes::from_static(body)).expect_err("is refused");
            assert_eq!(error.status.as_u16(), status, "{error:?}");
            assert!(!error.message.is_empty());
        }
    }

    #[test]
    fn every_kind_of_error_has_its_status() {
        for (kind, status, name) in [
            (QueryErrorKind::Invalid, 400, "invalid"),
            (QueryErrorKind::Forbidden, 403, "forbidden"),
            (QueryErrorKind::Timeout, 408, "timeout"),
            (QueryErrorKind::Exhausted, 429, "exhausted"),
            (QueryErrorKind::Unavailable, 503, "unavailable"),
            (QueryErrorKind::Internal, 500, "internal"),
        ] {
            let error = QueryError { kind, message: "why".to_owned(), position: Some((2, 5)) };
            let response = ApiError::from(error).into_response();
            assert_eq!(response.status().as_u16(), status, "{name}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), matches!(status, 429 | 503), "{name}");
        }
    }

    #[test]
    fn formats_follow_the_accept_header() {
        assert_eq!(format(&HeaderMap::new()).expect("has a default"), Format::Json);
        assert_eq!(format(&header(ACCEPT, "text/csv")).expect("is known"), Format::Csv);
        let error = format(&header(ACCEPT, "image/png")).expect_err("is unknown");
        assert_eq!(error.status, StatusCode::NOT_ACCEPTABLE);
    }
}
