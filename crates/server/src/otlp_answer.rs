//! Answers to OTLP exports: success, partial success and `google.rpc.Status`, in protobuf and in JSON.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use serde_json::json;
use spanlake_ingest::{ContentType, ExportOutcome, Rejection, RejectionKind, Signal};
use tonic::Code;

use crate::body::BodyError;
use crate::config::format_bytes;
use crate::gate::Closed;

/// When to come again, where nobody knows better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const RETRY_INFO_URL: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(crate) retry_delay: Option<prost_types::Duration>,
}

/// An export that was not taken: what gRPC and HTTP say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For gRPC, and for the status body of HTTP.
    pub(crate) code: Code,
    /// For HTTP.
    pub(crate) http: u16,
    /// What is wrong.
    pub(crate) message: String,
    /// When to try again; `None` where trying again is of no use.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that stays one, however often the request is repeated.
    pub(crate) fn permanent(code: Code, http: u16, message: impl Into<String>) -> Self {
        Self { code, http, message: message.into(), retry_after: None }
    }

    /// A body that could not be read.
    pub(crate) fn from_body(error: BodyError, limit: usize) -> Self {
        match error {
            BodyError::TooLarge => Self::permanent(
                Code::ResourceExhausted,
                413,
                format!("request is larger than the limit of {} (message_limit)", format_bytes(limit as u64)),
            ),
            BodyError::Overloaded => Self {
                code: Code::ResourceExhausted,
                http: 429,
                message: "too many bytes of requests are in flight (memory_limit)".to_owned(),
                retry_after: Some(RETRY_AFTER),
            },
            BodyError::TimedOut => {
                Self::permanent(Code::DeadlineExceeded, 408, "request body came too slowly, connection given up")
            }
            BodyError::Broken(error) => {
                Self::permanent(Code::InvalidArgument, 400, format!("request body cannot be read: {error}"))
            }
        }
    }

    /// As the body of an HTTP answer or as gRPC's details.
    pub(crate) fn to_status(&self) -> RpcStatus {
        let details = self.retry_after.map(|delay| {
            let retry_delay = prost_types::Duration {
                seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(delay.subsec_nanos()).unwrap_or(0),
            };
            let info = RetryInfo { retry_delay: Some(retry_delay) };
            prost_types::Any { type_url: RETRY_INFO_URL.to_owned(), value: info.encode_to_vec() }
        });
        RpcStatus { code: self.code as i32, message: self.message.clone(), details: details.into_iter().collect() }
    }

    /// The body of an HTTP answer.
    pub(crate) fn encode(&self, content_type: ContentType) -> Bytes {
        match content_type {
            ContentType::Protobuf => self.to_status().encode_to_vec().into(),
            ContentType::Json => {
                let mut status = json!({ "code": self.code as i32, "message": self.message });
                if let Some(delay) = self.retry_after {
                    let delay = format!("{}s", delay.as_secs_f64());
                    status["details"] = json!([{ "@type": RETRY_INFO_URL, "retryDelay": delay }]);
                }
                status.to_string().into()
            }
        }
    }

    /// For gRPC, with `RetryInfo` where trying again is of use.
    pub(crate) fn to_grpc(&self) -> tonic::Status {
        match self.retry_after {
            None => tonic::Status::new(self.code, &self.message),
            Some(_) => tonic::Status::with_details(self.code, &self.message, self.to_status().encode_to_vec().into()),
        }
    }

    /// Whole seconds for `Retry-After`, at least one.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let delay = self.retry_after?;
        Some((delay.as_secs() + u64::from(delay.subsec_nanos() > 0)).max(1))
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let (code, http, is_passing) = match rejection.kind {
            RejectionKind::Malformed => (Code::InvalidArgument, 400, false),
            RejectionKind::TooLarge => (Code::ResourceExhausted, 413, false),
            RejectionKind::Overloaded => (Code::ResourceExhausted, 429, true),
            RejectionKind::Unavailable => (Code::Unavailable, 503, true),
        };
        // RetryInfo on RESOURCE_EXHAUSTED is what makes a sender try again, so permanent refusals never carry it.
        let retry_after = is_passing.then(|| rejection.retry_after.unwrap_or(RETRY_AFTER));
        Self { code, http, message: rejection.message, retry_after }
    }
}

impl From<Closed> for Refusal {
    fn from(closed: Closed) -> Self {
        Self {
            code: Code::Unavailable,
            http: 503,
            message: closed.message().to_owned(),
            retry_after: Some(RETRY_AFTER),
        }
    }
}

/// The body of a successful answer. All stored and nothing to say is the empty message.
pub(crate) fn encode_success(signal: Signal, outcome: &ExportOutcome, content_type: ContentType) -> Bytes {
    let is_partial = outcome.rejected > 0 || !outcome.error_message.is_empty();
    match content_type {
        ContentType::Protobuf => {
            // The answers of all signals have the same fields under other names.
            let partial_success = is_partial.then(|| ExportTracePartialSuccess {
                rejected_spans: i64::try_from(outcome.rejected).unwrap_or(i64::MAX),
                error_message: outcome.error_message.clone(),
            });
            ExportTraceServiceResponse { partial_success }.encode_to_vec().into()
        }
        ContentType::Json if !is_partial => Bytes::from_static(b"{}"),
        ContentType::Json => {
            // The JSON mapping of protobuf writes 64-bit integers as strings.
            let mut partial = json!({ "errorMessage": outcome.error_message });
            if outcome.rejected > 0 {
                let rejected = match signal {
                    Signal::Traces => "rejectedSpans",
                    Signal::Metrics => "rejectedDataPoints",
                    Signal::Logs => "rejectedLogRecords",
                };
                partial[rejected] = json!(outcome.rejected.to_string());
            }
            json!({ "partialSuccess": partial }).to_string().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;

    use super::*;

    fn rejection(kind: RejectionKind, retry_after: Option<Duration>) -> Refusal {
        Rejection { kind, message: "why".to_owned(), retry_after }.into()
    }

    #[test]
    fn every_rejection_has_its_codes_and_only_passing_ones_ask_for_a_retry() {
        let cases = [
            (RejectionKind::Malformed, Code::InvalidArgument, 400, None),
            (RejectionKind::TooLarge, Code::ResourceExhausted, 413, None),
            (RejectionKind::Overloaded, Code::ResourceExhausted, 429, Some(3)),
            (RejectionKind::Unavailable, Code::Unavailable, 503, Some(3)),
        ];
        for (kind, code, http, seconds) in cases {
            let refusal = rejection(kind, Some(Duration::from_millis(2_500)));
            assert_eq!((refusal.code, refusal.http), (code, http), "{kind:?}");
            assert_eq!(refusal.retry_after_seconds(), seconds, "{kind:?}");
            let grpc = refusal.to_grpc();
            assert_eq!((grpc.code(), grpc.message()), (code, "why"));
            assert_eq!(grpc.details().is_empty(), seconds.is_none(), "{kind:?}");
        }
        assert_eq!(rejection(RejectionKind::Overloaded, None).retry_after_seconds(), Some(1));
    }

    #[test]
    fn details_hold_a_readable_retry_info() {
        let refusal = rejection(RejectionKind::Overloaded, Some(Duration::from_millis(2_500)));
        let status = RpcStatus::decode(refusal.to_grpc().details()).expect("is a status");
        assert_eq!((status.code, status.message.as_str()), (8, "why"));
        let info = RetryInfo::decode(status.details[0].value.as_slice()).expect("is retry info");
        let delay = info.retry_delay.expect("has a delay");
        assert_eq!((delay.seconds, delay.nanos), (2, 500_000_000));
        let json: serde_json::Value = serde_json::from_slice(&refusal.encode(ContentType::Json)).expect("is JSON");
        assert_eq!(json["code"], 8);
        assert_eq!(json["details"][0]["retryDelay"], "2.5s");
    }

    #[test]
    fn success_is_empty_and_partial_success_says_why() {
        let protobuf = |signal, outcome: &ExportOutcome| encode_success(signal, outcome, ContentType::Protobuf);
        let json = |signal, outcome: &ExportOutcome| -> serde_json::Value {
            serde_json::from_slice(&encode_success(signal, outcome, ContentType::Json)).expect("is JSON")
        };
        let outcome = ExportOutcome { stored: 2, ..ExportOutcome::default() };
        for signal in Signal::ALL {
            assert!(protobuf(signal, &outcome).is_empty());
            assert_eq!(json(signal, &outcome), json!({}));
        }
        let outcome = ExportOutcome { rejected: 1, error_message: "no id".to_owned(), ..outcome };
        let message = ExportTraceServiceResponse::decode(protobuf(Signal::Traces, &outcome)).expect("reads");
        let partial = message.partial_success.expect("is partial");
        assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (1, "no id"));
        let message = ExportMetricsServiceResponse::decode(protobuf(Signal::Metrics, &outcome)).expect("reads");
        let partial = message.partial_success.expect("is partial");
        assert_eq!((partial.rejected_data_points, partial.error_message.as_str()), (1, "no id"));
        let message = ExportLogsServiceResponse::decode(protobuf(Signal::Logs, &outcome)).expect("reads");
        let partial = message.partial_success.expect("is partial");
        assert_eq!((partial.rejected_log_records, partial.error_message.as_str()), (1, "no id"));
        let rejected =
            |name: &str| -> serde_json::Value { json!({"partialSuccess": {name: "1", "errorMessage": "no id"}}) };
        assert_eq!(json(Signal::Traces, &outcome), rejected("rejectedSpans"));
        assert_eq!(json(Signal::Metrics, &outcome), rejected("rejectedDataPoints"));
        assert_eq!(json(Signal::Logs, &outcome), rejected("rejectedLogRecords"));
        // A warning about nothing refused.
        let outcome = ExportOutcome { rejected: 0, ..outcome };
        assert_eq!(json(Signal::Logs, &outcome), json!({"partialSuccess": {"errorMessage": "no id"}}));
    }
}
