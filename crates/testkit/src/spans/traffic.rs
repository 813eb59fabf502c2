//! Traffic as LLM applications send it.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::{attribute, double, int, text, texts};
use crate::{NOON_UNIX_NANO, SplitMix64};
use opentelemetry_proto::tonic::common::v1::any_value::Value;

/// Spans in a full request: the batch size of the OpenTelemetry SDKs.
pub const SPANS_PER_REQUEST: usize = 512;

/// This many spans with content, in requests of [`SPANS_PER_REQUEST`]: about 1,084 bytes a span when encoded.
pub fn realistic(seed: u64, spans: usize) -> Vec<ExportTraceServiceRequest> {
    Traffic::new(seed).requests(spans)
}

/// An endless stream of requests of a handful of services that call language models: an HTTP server span for each
/// request of a user, below it chat calls, tools and embeddings, with the OpenTelemetry names for GenAI.
#[derive(Clone, Debug)]
pub struct Traffic {
    random: SplitMix64,
    now_unix_nano: u64,
    content: bool,
}

impl Traffic {
    /// Traffic with prompts and answers that starts at [`NOON_UNIX_NANO`].
    pub fn new(seed: u64) -> Self {
        Self { random: SplitMix64::new(seed), now_unix_nano: NOON_UNIX_NANO, content: true }
    }

    /// Leaves prompts and answers out: about 350 bytes a span when encoded.
    #[must_use]
    pub fn without_content(self) -> Self {
        Self { content: false, ..self }
    }

    /// The time at which the first trace starts.
    #[must_use]
    pub fn starting_at(self, unix_nano: u64) -> Self {
        Self { now_unix_nano: unix_nano, ..self }
    }

    /// This many spans, in requests of [`SPANS_PER_REQUEST`]; the last one may be smaller.
    pub fn requests(&mut self, spans: usize) -> Vec<ExportTraceServiceRequest> {
        let full = spans / SPANS_PER_REQUEST;
        let rest = spans % SPANS_PER_REQUEST;
        let sizes = std::iter::repeat_n(SPANS_PER_REQUEST, full).chain((rest > 0).then_some(rest));
        sizes.map(|size| self.request(size)).collect()
    }

    /// One request of exactly this many spans, of one service.
    pub fn request(&mut self, spans: usize) -> ExportTraceServiceRequest {
        let service = self.random.pick(SERVICES);
        let mut calls = Vec::with_capacity(spans);
        let mut servers = Vec::with_capacity(spans / 3);
        while calls.len() + servers.len() < spans {
            self.trace(&mut servers, &mut calls, spans);
        }
        let scope = |name: &str, version: &str, spans| ScopeSpans {
            scope: Some(InstrumentationScope {
                name: name.to_owned(),
                version: version.to_owned(),
                ..InstrumentationScope::default()
            }),
            spans,
            schema_url: "https://opentelemetry.io/schemas/1.37.0".to_owned(),
        };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource(service)),
                scope_spans: vec![
                    scope("opentelemetry.instrumentation.openai_v2", "2.4b0", calls),
                    scope("opentelemetry.instrumentation.fastapi", "0.66b1", servers),
                ],
                schema_url: String::new(),
            }],
        }
    }

    fn resource(&mut self, service: &str) -> Resource {
        let attributes = vec![
            text("telemetry.sdk.language", "python"),
            text("telemetry.sdk.name", "opentelemetry"),
            text("telemetry.sdk.version", "1.45.1"),
            text("service.name", service),
            text("service.version", "2026.1.3"),
            text("service.instance.id", hex(&self.random.id(16))),
            text("deployment.environment.name", *self.random.pick(&["production", "production", "staging"])),
        ];
        Resource { attributes, ..Resource::default() }
    }

    /// One request of a user: a server span and what happened below it. Stops at the wanted number of spans.
    fn trace(&mut self, servers: &mut Vec<Span>, calls: &mut Vec<Span>, spans: usize) {
        let trace = Trace {
            trace_id: self.random.id(16),
            root_id: self.random.id(8),
            conversation: format!("conv_{}", hex(&self.random.id(6))),
        };
        let start = self.now_unix_nano;
        let mut end = start + self.random.between(200_000, 3_000_000);
        for _ in 0..self.random.between(2, 6) {
            if servers.len() + calls.len() + 1 >= spans {
                break;
            }
            let call = match self.random.below(10) {
                0 => self.tool_call(&trace, end),
                1 => self.embedding(&trace, end),
                _ => self.chat(&trace, end),
            };
            end = call.end_time_unix_nano + self.random.between(20_000, 900_000);
            calls.push(call);
        }
        servers.push(self.server_span(&trace, start, end));
        self.now_unix_nano += self.random.between(1_000_000, 80_000_000);
    }

    fn server_span(&mut self, trace: &Trace, start: u64, end: u64) -> Span {
        let route = *self.random.pick(&["/v1/ask", "/v1/summarise", "/api/agents/{agent_id}/run", "/chat"]);
        let failed = self.random.chance(15);
        Span {
            parent_span_id: Vec::new(),
            span_id: trace.root_id.clone(),
            kind: SpanKind::Server.into(),
            attributes: vec![
                text("http.request.method", "POST"),
                text("http.route", route),
                text("url.scheme", "https"),
                text("url.path", route),
                int("http.response.status_code", if failed { 500 } else { 200 }),
                text("network.protocol.version", "1.1"),
                text("server.address", "api.example.com"),
            ],
            status: failed
                .then(|| Status { code: StatusCode::Error.into(), message: "internal server error".to_owned() }),
            ..trace.span(format!("POST {route}"), start, end)
        }
    }

    fn tool_call(&mut self, trace: &Trace, start: u64) -> Span {
        let tool = *self.random.pick(&["get_weather", "search_orders", "lookup_customer", "run_sql"]);
        let mut attributes = vec![
            text("gen_ai.operation.name", "execute_tool"),
            text("gen_ai.tool.name", tool),
            text("gen_ai.tool.call.id", format!("call_{}", hex(&self.random.id(12)))),
            text("gen_ai.tool.type", "function"),
        ];
        if self.content {
            let words = self.words(6, 14);
            attributes.push(text("gen_ai.tool.call.arguments", format!("{{\"query\": \"{words}\"}}")));
            attributes.push(text("gen_ai.tool.call.result", self.words(20, 90)));
        }
        let end = start + self.random.between(3_000_000, 400_000_000);
        Span {
            span_id: self.random.id(8),
            kind: SpanKind::Internal.into(),
            attributes,
            ..trace.span(format!("execute_tool {tool}"), start, end)
        }
    }

    fn embedding(&mut self, trace: &Trace, start: u64) -> Span {
        let model = *self.random.pick(&["text-embedding-3-small", "text-embedding-3-large"]);
        let end = start + self.random.between(20_000_000, 300_000_000);
        Span {
            span_id: self.random.id(8),
            kind: SpanKind::Client.into(),
            attributes: vec![
                text("gen_ai.operation.name", "embeddings"),
                text("gen_ai.provider.name", "openai"),
                text("gen_ai.request.model", model),
                text("gen_ai.response.model", model),
                int("gen_ai.usage.input_tokens", self.random.between(4, 8_000) as i64),
                int("gen_ai.embeddings.dimension.count", 1_536),
            ],
            ..trace.span(format!("embeddings {model}"), start, end)
        }
    }

    fn chat(&mut self, trace: &Trace, start: u64) -> Span {
        let (provider, requested, answered) = *self.random.pick(MODELS);
        let output_tokens = self.random.between(1, 900);
        let end = start + 180_000_000 + output_tokens * self.random.between(4_000_000, 21_000_000);
        let span = Span {
            span_id: self.random.id(8),
            kind: SpanKind::Client.into(),
            ..trace.span(format!("chat {requested}"), start, end)
        };
        let mut attributes = vec![
            text("gen_ai.operation.name", "chat"),
            text("gen_ai.provider.name", provider),
            text("gen_ai.request.model", requested),
        ];
        if self.random.chance(20) {
            return self.failed(span, attributes);
        }
        attributes.push(text("gen_ai.response.model", answered));
        attributes.push(int("gen_ai.usage.input_tokens", self.random.between(8, 6_000) as i64));
        attributes.push(int("gen_ai.usage.output_tokens", output_tokens as i64));
        self.optional_facts(trace, &mut attributes);
        if self.content {
            attributes.push(text("gen_ai.input.messages", self.messages("user", 86, 198)));
            attributes.push(text("gen_ai.output.messages", self.messages("assistant", 20, 55)));
        }
        Span { attributes, ..span }
    }

    fn optional_facts(&mut self, trace: &Trace, attributes: &mut Vec<KeyValue>) {
        if self.random.chance(450) {
            attributes.push(texts("gen_ai.response.finish_reasons", &[*self.random.pick(&["stop", "tool_calls"])]));
        }
        if self.random.chance(300) {
            attributes.push(text("gen_ai.response.id", format!("chatcmpl-{}", hex(&self.random.id(12)))));
        }
        if self.random.chance(200) {
            attributes.push(int("gen_ai.usage.cache_read.input_tokens", self.random.below(8) as i64));
        }
        if self.random.chance(250) {
            attributes.push(double("gen_ai.request.temperature", self.random.below(11) as f64 / 10.0));
        }
        if self.random.chance(150) {
            attributes.push(attribute("gen_ai.request.stream", Value::BoolValue(true)));
        }
        if self.random.chance(150) {
            attributes.push(text("gen_ai.conversation.id", trace.conversation.clone()));
        }
    }

    fn failed(&mut self, span: Span, mut attributes: Vec<KeyValue>) -> Span {
        attributes.push(text("error.type", "RateLimitError"));
        let message = "Error code: 429 - rate limit reached for requests";
        let event = Event {
            time_unix_nano: span.end_time_unix_nano,
            name: "exception".to_owned(),
            attributes: vec![text("exception.type", "openai.RateLimitError"), text("exception.message", message)],
            dropped_attributes_count: 0,
        };
        let status = Some(Status { code: StatusCode::Error.into(), message: message.to_owned() });
        Span { attributes, status, events: vec![event], ..span }
    }

    /// One message as the OpenTelemetry convention writes it: JSON in a string.
    fn messages(&mut self, role: &str, fewest: u64, most: u64) -> String {
        let words = self.words(fewest, most);
        format!(r#"[{{"role": "{role}", "parts": [{{"type": "text", "content": "{words}"}}]}}]"#)
    }

    /// Prose, as far as a compressor can tell: few words often, many words seldom.
    fn words(&mut self, fewest: u64, most: u64) -> String {
        let mut prose = String::new();
        for place in 0..self.random.between(fewest, most) {
            if place > 0 {
                prose.push(' ');
            }
            let length = WORDS.len() as u64;
            let rank = self.random.below(length) * self.random.below(length) / length;
            prose.push_str(WORDS[rank as usize]);
            if self.random.chance(60) {
                prose.push_str(&self.random.below(10_000).to_string());
            }
        }
        prose
    }
}

struct Trace {
    trace_id: Vec<u8>,
    root_id: Vec<u8>,
    conversation: String,
}

impl Trace {
    /// What all spans of the trace have in common.
    fn span(&self, name: String, start_time_unix_nano: u64, end_time_unix_nano: u64) -> Span {
        Span {
            trace_id: self.trace_id.clone(),
            parent_span_id: self.root_id.clone(),
            flags: 0x101,
            name,
            start_time_unix_nano,
            end_time_unix_nano,
            ..Span::default()
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const SERVICES: &[&str] = &["ask-api", "support-bot", "summariser", "agent-runner", "search", "batch-labeller"];

/// Provider, model as requested, model as answered.
const MODELS: &[(&str, &str, &str)] = &[
    ("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    ("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    ("openai", "gpt-4o", "gpt-4o-2024-08-06"),
    ("openai", "gpt-4.1", "gpt-4.1-2025-04-14"),
    ("openai", "o3-mini", "o3-mini-2025-01-31"),
    ("anthropic", "claude-sonnet-4-20250514", "claude-sonnet-4-20250514"),
    ("gcp.gemini", "gemini-2.5-flash", "gemini-2.5-flash"),
    ("self-hosted", "acme-7b-instruct", "acme-7b-instruct"),
];

const WORDS: &[&str] = &[
    "the",
    "to",
    "of",
    "and",
    "a",
    "in",
    "is",
    "that",
    "for",
    "it",
    "you",
    "with",
    "on",
    "are",
    "as",
    "this",
    "be",
    "order",
    "customer",
    "please",
    "can",
    "from",
    "or",
    "not",
    "your",
    "have",
    "an",
    "we",
    "will",
    "by",
    "time",
    "if",
    "model",
    "answer",
    "which",
    "was",
    "at",
    "more",
    "when",
    "there",
    "all",
    "how",
    "what",
    "about",
    "invoice",
    "team",
    "delivery",
    "question",
    "following",
    "should",
    "list",
    "table",
    "first",
    "summary",
    "would",
    "because",
    "between",
    "request",
    "account",
    "number",
    "date",
    "text",
    "where",
    "each",
    "than",
    "other",
    "into",
    "after",
    "been",
    "also",
    "shipment",
    "warehouse",
    "refund",
    "explain",
    "example",
    "important",
    "however",
    "therefore",
    "describe",
    "several",
    "language",
    "temperature",
    "document",
    "paragraph",
    "translate",
    "document's",
    "contract",
    "quarter",
    "revenue",
    "increase",
    "performance",
    "latency",
    "observability",
    "database",
    "pipeline",
    "reasonable",
    "recommendation",
    "yesterday",
    "tomorrow",
    "Berlin",
    "München",
    "naïve",
    "café",
    "résumé",
    "schedule",
    "appointment",
    "available",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prost::Message;

    use super::{ExportTraceServiceRequest, SPANS_PER_REQUEST, Traffic, realistic};
    use crate::spans_of;

    fn bytes_a_span(requests: &[ExportTraceServiceRequest]) -> usize {
        let bytes: usize = requests.iter().map(Message::encoded_len).sum();
        bytes / requests.iter().map(|request| spans_of(request).count()).sum::<usize>()
    }

    /// Guarantee: what benches measure per span is a span of the size the design's figures are about.
    #[test]
    fn has_the_size_of_real_spans() {
        for seed in [1, 2, 3] {
            let with_content = bytes_a_span(&realistic(seed, 20_000));
            assert!((1_060..=1_110).contains(&with_content), "{with_content} bytes a span with content");
            let without_content = bytes_a_span(&Traffic::new(seed).without_content().requests(20_000));
            assert!((340..=360).contains(&without_content), "{without_content} bytes a span without content");
        }
    }

    #[test]
    fn gives_as_many_spans_as_asked_for_and_no_id_twice() {
        for wanted in [1, 2, 511, 512, 1_300] {
            let requests = realistic(5, wanted);
            let sizes: Vec<usize> = requests.iter().map(|request| spans_of(request).count()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), wanted);
            assert!(sizes.iter().all(|size| *size <= SPANS_PER_REQUEST));
            let ids: HashSet<_> = requests.iter().flat_map(spans_of).map(|span| &span.span_id).collect();
            assert_eq!(ids.len(), wanted);
        }
    }

    #[test]
    fn repeats_itself_for_a_seed() {
        assert_eq!(realistic(9, 700), realistic(9, 700));
        assert_ne!(realistic(9, 700), realistic(10, 700));
    }
}
