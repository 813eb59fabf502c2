//! Made-up traffic of a small company that lives on language models: traces, built from OTLP's own structs.

use std::ops::Range;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::random::Random;
use super::scenarios;

const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.40.0";

/// The services that send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Support,
    Search,
    Reports,
    Code,
}

impl Service {
    const ALL: [Self; 4] = [Self::Support, Self::Search, Self::Reports, Self::Code];

    fn resource(self) -> Resource {
        let (name, version, language) = match self {
            Self::Support => ("support-chat", "2.3.1", "python"),
            Self::Search => ("search-api", "1.18.0", "nodejs"),
            Self::Reports => ("report-writer", "0.9.4", "python"),
            Self::Code => ("code-assistant", "4.0.2", "go"),
        };
        let attributes = vec![
            text("service.name", name),
            text("service.namespace", "acme"),
            text("service.version", version),
            text("deployment.environment.name", "production"),
            text("telemetry.sdk.name", "opentelemetry"),
            text("telemetry.sdk.language", language),
            text("host.name", format!("{name}-7d9f")),
        ];
        Resource { attributes, ..Resource::default() }
    }
}

/// Makes traces. The same seed and times give the same ones.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) random: Random,
    /// While this lasts, one provider is overloaded.
    incident_unix_nano: Range<u64>,
}

impl Traffic {
    pub(super) fn new(seed: u64, incident_unix_nano: Range<u64>) -> Self {
        Self { random: Random::new(seed), incident_unix_nano }
    }

    /// One trace that ends at this time.
    pub(super) fn trace(&mut self, end_unix_nano: u64) -> Trace {
        let mut trace = Trace {
            id: self.random.bytes::<16>(),
            spans: Vec::new(),
            is_incident: self.incident_unix_nano.contains(&end_unix_nano),
        };
        let choice = self.random.unit();
        match choice {
            c if c < 0.45 => scenarios::support_chat(&mut self.random, &mut trace),
            c if c < 0.75 => scenarios::search(&mut self.random, &mut trace),
            c if c < 0.95 => scenarios::code_completion(&mut self.random, &mut trace),
            _ => scenarios::report(&mut self.random, &mut trace),
        }
        trace.move_to_end_at(end_unix_nano);
        trace
    }

    /// Seconds until the next trace, at a mean rate that follows the hours of the day.
    pub(super) fn seconds_to_next(&mut self, now_unix_nano: u64, mean_per_second: f64) -> f64 {
        let day_nano = 86_400_000_000_000_u64;
        let part_of_day = (now_unix_nano % day_nano) as f64 / day_nano as f64;
        // Quietest at 02:00 UTC, busiest at 14:00.
        let busy = 1.0 - 0.45 * (std::f64::consts::TAU * (part_of_day - 2.0 / 24.0)).cos();
        self.random.gap(mean_per_second * busy)
    }
}

/// One trace while it is built. Times are nanoseconds since its start, until it is moved to its place.
#[derive(Debug)]
pub(super) struct Trace {
    id: Vec<u8>,
    spans: Vec<(Service, Span)>,
    /// Whether a provider is overloaded now.
    pub(super) is_incident: bool,
}

/// A span's own facts.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) id: Vec<u8>,
    pub(super) parent: Vec<u8>,
    pub(super) name: String,
    pub(super) kind: SpanKind,
    /// Start and end.
    pub(super) time: Range<u64>,
    /// What went wrong, if anything.
    pub(super) error: Option<String>,
    pub(super) attributes: Vec<KeyValue>,
}

impl Trace {
    pub(super) fn push(&mut self, service: Service, facts: Facts) {
        let status = match facts.error {
            Some(message) => Status { code: StatusCode::Error as i32, message },
            None => Status::default(),
        };
        let span = Span {
            trace_id: self.id.clone(),
            span_id: facts.id,
            parent_span_id: facts.parent,
            flags: 1,
            name: facts.name,
            kind: facts.kind as i32,
            start_time_unix_nano: facts.time.start,
            end_time_unix_nano: facts.time.end,
            attributes: facts.attributes,
            status: Some(status),
            ..Span::default()
        };
        self.spans.push((service, span));
    }

    fn move_to_end_at(&mut self, end_unix_nano: u64) {
        let end = self.spans.iter().map(|(_, span)| span.end_time_unix_nano).max().unwrap_or(0);
        let start = end_unix_nano.saturating_sub(end);
        for (_, span) in &mut self.spans {
            span.start_time_unix_nano += start;
            span.end_time_unix_nano += start;
        }
    }

    pub(super) fn span_count(&self) -> usize {
        self.spans.len()
    }
}

/// One request for many traces, grouped by service as a collector does.
pub(super) fn request(traces: impl IntoIterator<Item = Trace>) -> ExportTraceServiceRequest {
    let mut spans: Vec<(Service, Span)> = traces.into_iter().flat_map(|trace| trace.spans).collect();
    spans.sort_by_key(|(service, span)| (*service, span.end_time_unix_nano));
    let mut resource_spans = Vec::new();
    for service in Service::ALL {
        let own = spans.iter().filter(|(other, _)| *other == service).map(|(_, span)| span.clone());
        let scope = InstrumentationScope {
            name: "acme.telemetry".to_owned(),
            version: "1.4.0".to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_spans = ScopeSpans { scope: Some(scope), spans: own.collect(), schema_url: SCHEMA_URL.to_owned() };
        if !scope_spans.spans.is_empty() {
            resource_spans.push(ResourceSpans {
                resource: Some(service.resource()),
                scope_spans: vec![scope_spans],
                schema_url: SCHEMA_URL.to_owned(),
            });
        }
    }
    ExportTraceServiceRequest { resource_spans }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn texts(key: &str, values: &[&str]) -> KeyValue {
    let value = |value: &&str| AnyValue { value: Some(Value::StringValue((*value).to_owned())) };
    attribute(key, Value::ArrayValue(ArrayValue { values: values.iter().map(value).collect() }))
}

pub(super) fn int(key: &str, value: impl TryInto<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)))
}

pub(super) fn double(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

pub(super) fn boolean(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}
