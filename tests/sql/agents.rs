//! What the files of `tests/slt/agents` ask about: one run of an agent with its tools, evaluations told in every place, and
//! metrics that repeat and restart.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use spanlake_ingest::Signal;
use spanlake_testkit::{double, int, text, texts};

/// 2026-01-15T09:00:00Z.
const NINE: u64 = 1_768_467_600_000_000_000;
const SECOND: u64 = 1_000_000_000;
const DELTA: i32 = 1;
const CUMULATIVE: i32 = 2;

/// The agent's spans, and half of what is told of them, are committed; the rest is hot.
pub(crate) fn bodies() -> [Vec<(Signal, Vec<u8>)>; 2] {
    let logs = |records| (Signal::Logs, log_request(records).encode_to_vec());
    let metrics = |metrics| (Signal::Metrics, metric_request(metrics).encode_to_vec());
    [
        vec![
            (Signal::Traces, span_request("openai.agents", run()).encode_to_vec()),
            logs(vec![evaluation(Some((1, 3)), &[text("gen_ai.evaluation.name", "relevance"), score(0.75)])]),
            metrics(vec![tokens("{token}", CUMULATIVE, &[(0, 10, &[100.0])]), durations(&[(0, 10, 1_500.0)])]),
            metrics(vec![orders(CUMULATIVE, &[(0, 10, 5.0), (0, 20, 8.0)]), visits(&[(0, 10, 2.0)])]),
        ],
        vec![
            (Signal::Traces, span_request("retrievers", searches()).encode_to_vec()),
            logs(late_evaluations()),
            metrics(vec![
                tokens("{token}", CUMULATIVE, &[(0, 20, &[100.0, 7.0]), (0, 30, &[100.0, 7.0])]),
                tokens("token", CUMULATIVE, &[(40, 50, &[20.0])]),
                durations(&[(10, 20, 500.0)]),
                latency(),
            ]),
            metrics(vec![orders(CUMULATIVE, &[(0, 20, 8.0), (25, 30, 2.0), (25, 40, 3.0)]), visits(&[(10, 20, 3.0)])]),
            // Sent again by a sender that saw no answer, in another body.
            metrics(vec![visits(&[(10, 20, 3.0), (20, 30, 1.0)])]),
        ],
    ]
}

/// A workflow with an agent that calls a model, a function of its own, and a tool of a server, which tells of itself too.
fn run() -> Vec<Span> {
    let server = [
        text("mcp.method.name", "tools/call"),
        text("mcp.session.id", "session-1"),
        text("mcp.protocol.version", "2025-06-18"),
        text("jsonrpc.request.id", "7"),
        text("gen_ai.tool.name", "search"),
    ];
    let chat = [
        text("gen_ai.operation.name", "chat"),
        text("gen_ai.provider.name", "openai"),
        text("gen_ai.request.model", "gpt-4o"),
        text("gen_ai.response.model", "gpt-4o-2024-08-06"),
        text("gen_ai.response.id", "resp-1"),
        text("gen_ai.output.type", "json"),
        int("gen_ai.usage.input_tokens", 100),
        int("gen_ai.usage.output_tokens", 10),
    ];
    let relevant = [
        text("gen_ai.evaluation.name", "relevance"),
        score(0.75),
        text("gen_ai.evaluation.score.label", "relevant"),
        text("gen_ai.evaluation.explanation", "to the point"),
    ];
    let evaluated = Event {
        name: "gen_ai.evaluation.result".to_owned(),
        time_unix_nano: NINE + 4 * SECOND,
        attributes: relevant.to_vec(),
        ..Event::default()
    };
    let agent = [
        text("gen_ai.operation.name", "invoke_agent"),
        text("gen_ai.agent.name", "clerk"),
        text("gen_ai.agent.version", "3"),
        text("gen_ai.conversation.id", "c-1"),
        text("gen_ai.data_source.id", "manuals"),
    ];
    let workflow = [text("gen_ai.operation.name", "invoke_workflow"), text("gen_ai.workflow.name", "orders")];
    let function = [
        text("gen_ai.operation.name", "execute_tool"),
        text("gen_ai.tool.name", "add"),
        text("gen_ai.tool.type", "function"),
        text("gen_ai.tool.call.id", "call-1"),
    ];
    let client: Vec<KeyValue> = server
        .iter()
        .cloned()
        .chain([text("rpc.response.status_code", "-32602"), text("error.type", "tool_error")])
        .collect();
    vec![
        span(1, 1, 0, "orders", SpanKind::Internal, &workflow),
        span(1, 2, 1, "invoke_agent clerk", SpanKind::Internal, &agent),
        Span { events: vec![evaluated], ..span(1, 3, 2, "chat gpt-4o", SpanKind::Client, &chat) },
        span(1, 4, 2, "execute_tool add", SpanKind::Internal, &function),
        span(1, 5, 2, "tools/call search", SpanKind::Client, &client),
        span(1, 6, 5, "tools/call search", SpanKind::Server, &server),
        span(1, 7, 2, "tools/list", SpanKind::Client, &[text("mcp.method.name", "tools/list")]),
        span(
            1,
            8,
            2,
            "resources/read",
            SpanKind::Client,
            &[
                text("mcp.method.name", "resources/read"),
                text("mcp.resource.uri", "file:///a"),
                int("jsonrpc.request.id", 8),
            ],
        ),
    ]
}

/// Embeddings, retrievals and a reranking, in the words of two conventions.
fn searches() -> Vec<Span> {
    let embeddings = [
        text("gen_ai.operation.name", "embeddings"),
        text("gen_ai.provider.name", "openai"),
        text("gen_ai.request.model", "text-embedding-3-small"),
        int("gen_ai.embeddings.dimension.count", 512),
        texts("gen_ai.request.encoding_formats", &["base64", "float"]),
        int("gen_ai.usage.input_tokens", 9),
    ];
    let retrieval = [
        text("gen_ai.operation.name", "retrieval"),
        text("gen_ai.data_source.id", "manuals"),
        text("gen_ai.retrieval.query.text", "how do I return a book?"),
        double("gen_ai.request.top_k", 4.0),
        text("gen_ai.retrieval.documents", r#"[{"id":"d1","score":0.9}]"#),
    ];
    let retriever = [
        text("openinference.span.kind", "RETRIEVER"),
        text("input.value", "opening hours"),
        text("retrieval.documents.0.document.content", "nine to five"),
        text("retrieval.documents.0.document.id", "d7"),
        double("retrieval.documents.0.document.score", 0.5),
        text("retrieval.documents.1.document.content", "closed on Sunday"),
    ];
    let reranker = [
        text("openinference.span.kind", "RERANKER"),
        text("reranker.model_name", "rerank-v3"),
        text("reranker.query", "opening hours"),
        int("reranker.top_k", 1),
        text("reranker.input_documents.0.document.content", "closed on Sunday"),
        text("reranker.input_documents.1.document.content", "nine to five"),
        text("reranker.output_documents.0.document.content", "nine to five"),
    ];
    vec![
        span(2, 1, 0, "embeddings text-embedding-3-small", SpanKind::Client, &embeddings),
        span(2, 2, 0, "retrieval manuals", SpanKind::Client, &retrieval),
        span(2, 3, 0, "retriever", SpanKind::Internal, &retriever),
        span(2, 4, 0, "reranker", SpanKind::Internal, &reranker),
    ]
}

/// The span event told again, one that names an answer only, one of an agent, one that failed, and two that name nothing.
fn late_evaluations() -> Vec<LogRecord> {
    let name = |name: &str| text("gen_ai.evaluation.name", name);
    vec![
        evaluation(
            Some((1, 3)),
            &[
                name("relevance"),
                score(0.75),
                text("gen_ai.evaluation.score.label", "relevant"),
                text("gen_ai.evaluation.explanation", "to the point"),
            ],
        ),
        evaluation(
            None,
            &[name("grounded"), int("gen_ai.evaluation.score.value", 1), text("gen_ai.response.id", "resp-1")],
        ),
        evaluation(Some((1, 2)), &[name("task done"), text("gen_ai.evaluation.score.label", "pass")]),
        evaluation(Some((1, 3)), &[name("safety"), text("error.type", "timeout")]),
        evaluation(None, &[name("lonely"), score(0.5)]),
        evaluation(None, &[name("lonely"), score(0.5)]),
    ]
}

fn score(value: f64) -> KeyValue {
    double("gen_ai.evaluation.score.value", value)
}

fn evaluation(of: Option<(u8, u8)>, attributes: &[KeyValue]) -> LogRecord {
    LogRecord {
        time_unix_nano: NINE + 5 * SECOND,
        event_name: "gen_ai.evaluation.result".to_owned(),
        trace_id: of.map_or_else(Vec::new, |(trace, _)| id(trace, 16)),
        span_id: of.map_or_else(Vec::new, |(_, span)| id(span, 8)),
        attributes: attributes.to_vec(),
        ..LogRecord::default()
    }
}

fn at(second: u64) -> u64 {
    NINE + second * SECOND
}

/// Tokens of prompts as an explicit histogram: the values of each point, from a start to an end.
fn tokens(unit: &str, aggregation_temporality: i32, points: &[(u64, u64, &[f64])]) -> Metric {
    let bounds = [64.0, 256.0];
    let attributes = vec![text("gen_ai.token.type", "input"), text("gen_ai.request.model", "gpt-4o")];
    let data_points = points.iter().map(|(start, end, values)| HistogramDataPoint {
        start_time_unix_nano: at(*start),
        time_unix_nano: at(*end),
        attributes: attributes.clone(),
        count: values.len() as u64,
        sum: Some(values.iter().sum()),
        explicit_bounds: bounds.to_vec(),
        bucket_counts: (0..=bounds.len())
            .map(|bucket| {
                let within = |value: &&f64| bounds.iter().filter(|bound| **value > **bound).count() == bucket;
                values.iter().filter(within).count() as u64
            })
            .collect(),
        ..HistogramDataPoint::default()
    });
    let data = Data::Histogram(Histogram { data_points: data_points.collect(), aggregation_temporality });
    Metric {
        name: "gen_ai.client.token.usage".to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// Durations in milliseconds, as deltas of one call each.
fn durations(points: &[(u64, u64, f64)]) -> Metric {
    let data_points = points.iter().map(|(start, end, value)| HistogramDataPoint {
        start_time_unix_nano: at(*start),
        time_unix_nano: at(*end),
        attributes: vec![text("gen_ai.request.model", "gpt-4o"), text("gen_ai.operation.name", "chat")],
        count: 1,
        sum: Some(*value),
        min: Some(*value),
        max: Some(*value),
        ..HistogramDataPoint::default()
    });
    let data = Data::Histogram(Histogram { data_points: data_points.collect(), aggregation_temporality: DELTA });
    Metric {
        name: "gen_ai.client.operation.duration".to_owned(),
        unit: "ms".to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn latency() -> Metric {
    let point = ExponentialHistogramDataPoint {
        start_time_unix_nano: at(0),
        time_unix_nano: at(30),
        count: 6,
        sum: Some(9.5),
        scale: 1,
        zero_count: 1,
        positive: Some(Buckets { offset: -2, bucket_counts: vec![1, 0, 2] }),
        negative: Some(Buckets { offset: 3, bucket_counts: vec![2] }),
        ..ExponentialHistogramDataPoint::default()
    };
    let histogram = ExponentialHistogram { data_points: vec![point], aggregation_temporality: CUMULATIVE };
    Metric { name: "latency".to_owned(), data: Some(Data::ExponentialHistogram(histogram)), ..Metric::default() }
}

fn orders(temporality: i32, points: &[(u64, u64, f64)]) -> Metric {
    counter("orders", temporality, points)
}

fn visits(points: &[(u64, u64, f64)]) -> Metric {
    counter("visits", DELTA, points)
}

fn counter(name: &str, aggregation_temporality: i32, points: &[(u64, u64, f64)]) -> Metric {
    let data_points = points.iter().map(|(start, end, value)| NumberDataPoint {
        start_time_unix_nano: at(*start),
        time_unix_nano: at(*end),
        value: Some(number_data_point::Value::AsDouble(*value)),
        ..NumberDataPoint::default()
    });
    let data = Data::Sum(Sum { data_points: data_points.collect(), aggregation_temporality, is_monotonic: true });
    Metric { name: name.to_owned(), data: Some(data), ..Metric::default() }
}

fn id(number: u8, bytes: usize) -> Vec<u8> {
    let mut id = vec![0; bytes - 1];
    id.push(number);
    id
}

fn span(trace: u8, number: u8, parent: u8, name: &str, kind: SpanKind, attributes: &[KeyValue]) -> Span {
    Span {
        trace_id: id(trace, 16),
        span_id: id(number, 8),
        parent_span_id: if parent == 0 { Vec::new() } else { id(parent, 8) },
        name: name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: at(u64::from(number)),
        end_time_unix_nano: at(u64::from(number) + 1),
        attributes: attributes.to_vec(),
        ..Span::default()
    }
}

fn resource() -> Option<Resource> {
    Some(Resource { attributes: vec![text("service.name", "library")], ..Resource::default() })
}

fn span_request(scope: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope { name: scope.to_owned(), ..InstrumentationScope::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: resource(), scope_spans, ..ResourceSpans::default() }],
    }
}

fn log_request(log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: resource(), scope_logs, ..ResourceLogs::default() }],
    }
}

fn metric_request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource: resource(), scope_metrics, ..ResourceMetrics::default() }],
    }
}
