//! What the `.slt` files ask about: two requests, so few that every answer can be counted by hand.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use spanlake_testkit::{attribute, double, int, text, texts};

/// 2026-01-15T00:00:00Z.
const MIDNIGHT: u64 = 1_768_435_200_000_000_000;

const SECOND: u64 = 1_000_000_000;

const HOUR: u64 = 3_600 * SECOND;

/// A trace of the shop: a request, two calls of a model and an embedding; and a call just before midnight.
pub(crate) fn shop() -> ExportTraceServiceRequest {
    let eleven = MIDNIGHT + 11 * HOUR;
    let root = Span {
        kind: SpanKind::Server.into(),
        attributes: vec![
            text("http.request.method", "POST"),
            text("http.route", "/ask"),
            int("http.response.status_code", 200),
        ],
        ..span(1, 1, "POST /ask", eleven, 4 * SECOND)
    };
    let chat = Span {
        parent_span_id: id(1, 8),
        attributes: call(
            "chat",
            "gpt-4o-mini",
            "gpt-4o-mini-2024-07-18",
            &[
                int("gen_ai.usage.input_tokens", 1_000),
                int("gen_ai.usage.output_tokens", 200),
                texts("gen_ai.response.finish_reasons", &["stop"]),
                double("gen_ai.request.temperature", 0.25),
                text("tier", "gold"),
                int("retries", 2),
            ],
        ),
        events: vec![
            event("gen_ai.choice", eleven + 2 * SECOND, vec![text("finish_reason", "stop"), int("index", 0)]),
            event("cache.miss", eleven + SECOND, vec![]),
        ],
        links: vec![Link { trace_id: id(9, 16), span_id: id(9, 8), ..Link::default() }],
        ..span(1, 2, "chat gpt-4o-mini", eleven + SECOND, 1_500_000_000)
    };
    let failed = Span {
        parent_span_id: id(1, 8),
        attributes: call("chat", "gpt-4o-mini", "", &[text("error.type", "timeout"), text("tier", "gold")]),
        status: Some(Status { code: StatusCode::Error.into(), message: "timed out, \"late\"".to_owned() }),
        ..span(1, 3, "chat gpt-4o-mini", eleven + 2 * SECOND, SECOND)
    };
    let embedding = Span {
        parent_span_id: id(1, 8),
        attributes: call(
            "embeddings",
            "text-embedding-3-small",
            "text-embedding-3-small",
            &[int("gen_ai.usage.input_tokens", 50), attribute("tags", Value::ArrayValue(Default::default()))],
        ),
        ..span(1, 4, "embeddings text-embedding-3-small", eleven + 3 * SECOND, 250_000_000)
    };
    let before_midnight = Span {
        attributes: call(
            "chat",
            "house-model",
            "house-model",
            &[
                int("gen_ai.usage.input_tokens", 7),
                int("gen_ai.usage.output_tokens", 0),
                KeyValue { key: "nothing".to_owned(), ..KeyValue::default() },
            ],
        ),
        ..span(2, 5, "chat house-model", MIDNIGHT - 1, 1)
    };
    request("shop", vec![root, chat, failed, embedding, before_midnight])
}

/// Calls of the help desk, without content, a key told twice.
pub(crate) fn desk() -> ExportTraceServiceRequest {
    let twelve = MIDNIGHT + 12 * HOUR;
    let call = |number: u8, model: &str, input: i64, output: i64| Span {
        attributes: call(
            "chat",
            model,
            model,
            &[
                int("gen_ai.usage.input_tokens", input),
                int("gen_ai.usage.output_tokens", output),
                text("tier", "silver"),
                text("tier", "bronze"),
            ],
        ),
        ..span(
            3,
            number,
            &format!("chat {model}"),
            twelve - u64::from(number) * SECOND,
            100_000_000 * u64::from(number),
        )
    };
    request(
        "desk",
        vec![call(6, "gpt-4o", 2_000, 1_000), call(7, "gpt-4o-mini", 300, 30), call(8, "gpt-4o-mini", 0, 0)],
    )
}

fn call(operation: &str, requested: &str, answered: &str, more: &[KeyValue]) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("gen_ai.operation.name", operation),
        text("gen_ai.provider.name", "openai"),
        text("gen_ai.request.model", requested),
    ];
    if !answered.is_empty() {
        attributes.push(text("gen_ai.response.model", answered));
    }
    attributes.extend_from_slice(more);
    attributes
}

fn id(number: u8, bytes: usize) -> Vec<u8> {
    let mut id = vec![0; bytes - 1];
    id.push(number);
    id
}

fn span(trace: u8, number: u8, name: &str, start: u64, duration: u64) -> Span {
    Span {
        trace_id: id(trace, 16),
        span_id: id(number, 8),
        name: name.to_owned(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + duration,
        ..Span::default()
    }
}

fn event(name: &str, time: u64, attributes: Vec<KeyValue>) -> Event {
    Event { name: name.to_owned(), time_unix_nano: time, attributes, ..Event::default() }
}

fn request(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope { name: "by hand".to_owned(), version: "1".to_owned(), ..Default::default() };
    let attributes = vec![text("service.name", service), text("deployment.environment.name", "test")];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }],
            schema_url: String::new(),
        }],
    }
}
