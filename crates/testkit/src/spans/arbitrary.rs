//! Anything OTLP can say about spans, whether it makes sense or not.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::{NOON_UNIX_NANO, SplitMix64};

/// How deep generated values nest. Ingest bounds the depth it takes; this stays well within.
pub(super) const DEPTH: u64 = 4;

/// A request with any field set to anything: absent resources and scopes, impossible times, unknown enum numbers, every
/// kind of value nested in every other, repeated keys, odd text. Only what would get a span refused is left out: trace
/// and span ids have 16 and 8 bytes and are not zero. The fields that only profiles use (`string_value_strindex`,
/// `key_strindex`) stay unset, and NaN is the usual one, without a payload.
///
/// The same seed gives the same request. Compare requests by their encoding, because NaN is not equal to itself.
pub fn arbitrary(seed: u64) -> ExportTraceServiceRequest {
    let mut generator = Generator::new(seed);
    let resource_spans = generator.up_to(3, Generator::resource_spans);
    ExportTraceServiceRequest { resource_spans }
}

pub(super) struct Generator {
    pub(super) random: SplitMix64,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: SplitMix64::new(seed) }
    }

    pub(super) fn up_to<T>(&mut self, most: u64, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.random.between(0, most);
        (0..count).map(|_| one(self)).collect()
    }

    pub(super) fn perhaps<T>(&mut self, per_mille: u64, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.random.chance(per_mille) { Some(one(self)) } else { None }
    }

    fn resource_spans(&mut self) -> ResourceSpans {
        ResourceSpans {
            resource: self.perhaps(800, Self::resource),
            scope_spans: self.up_to(3, Self::scope_spans),
            schema_url: self.schema_url(),
        }
    }

    pub(super) fn resource(&mut self) -> Resource {
        Resource {
            attributes: self.attributes(&["service.name", "deployment.environment.name", "host.name"]),
            dropped_attributes_count: self.count(),
            entity_refs: if self.random.chance(200) { self.up_to(2, Self::entity_ref) } else { Vec::new() },
        }
    }

    fn entity_ref(&mut self) -> EntityRef {
        EntityRef {
            schema_url: self.schema_url(),
            r#type: self.text(),
            id_keys: self.up_to(2, Self::text),
            description_keys: self.up_to(2, Self::text),
        }
    }

    fn scope_spans(&mut self) -> ScopeSpans {
        ScopeSpans {
            scope: self.perhaps(800, Self::scope),
            spans: self.up_to(5, Self::span),
            schema_url: self.schema_url(),
        }
    }

    pub(super) fn scope(&mut self) -> InstrumentationScope {
        InstrumentationScope {
            name: self.text(),
            version: self.text(),
            attributes: if self.random.chance(300) { self.attributes(&["scope.key"]) } else { Vec::new() },
            dropped_attributes_count: self.count(),
        }
    }

    fn span(&mut self) -> Span {
        Span {
            trace_id: self.random.id(16),
            span_id: self.random.id(8),
            trace_state: if self.random.chance(300) { self.text() } else { String::new() },
            parent_span_id: if self.random.chance(600) { self.random.id(8) } else { Vec::new() },
            flags: self.flags(),
            name: self.text(),
            kind: self.enumeration(),
            start_time_unix_nano: self.time(),
            end_time_unix_nano: self.time(),
            attributes: self.attributes(SPAN_KEYS),
            dropped_attributes_count: self.count(),
            events: self.up_to(3, Self::event),
            dropped_events_count: self.count(),
            links: self.up_to(2, Self::link),
            dropped_links_count: self.count(),
            status: self.perhaps(600, Self::status),
        }
    }

    fn event(&mut self) -> Event {
        Event {
            time_unix_nano: self.time(),
            name: self.text(),
            attributes: self.attributes(&["exception.type", "exception.message"]),
            dropped_attributes_count: self.count(),
        }
    }

    /// A link may point nowhere: nothing is refused for it, so its ids have any length.
    fn link(&mut self) -> Link {
        let lengths = [(16, 8), (16, 8), (0, 0), (3, 11)];
        let (trace_length, span_length) = *self.random.pick(&lengths);
        Link {
            trace_id: self.random.id(trace_length),
            span_id: if self.random.chance(100) { vec![0; 8] } else { self.random.id(span_length) },
            trace_state: if self.random.chance(300) { self.text() } else { String::new() },
            attributes: self.attributes(&["link.key"]),
            dropped_attributes_count: self.count(),
            flags: self.flags(),
        }
    }

    fn status(&mut self) -> Status {
        Status { message: if self.random.chance(500) { self.text() } else { String::new() }, code: self.enumeration() }
    }

    pub(super) fn attributes(&mut self, known_keys: &[&str]) -> Vec<KeyValue> {
        self.up_to(9, |generator| generator.key_value(known_keys, DEPTH))
    }

    fn key_value(&mut self, known_keys: &[&str], depth: u64) -> KeyValue {
        // Few distinct keys, so that the same key comes twice now and then, with another type.
        let key = match self.random.below(10) {
            0..=4 if !known_keys.is_empty() => (*self.random.pick(known_keys)).to_owned(),
            5..=7 => format!("key.{}", self.random.below(4)),
            _ => self.text(),
        };
        let value = self.perhaps(950, |generator| generator.any_value(depth));
        KeyValue { key, value, ..KeyValue::default() }
    }

    pub(super) fn any_value(&mut self, depth: u64) -> AnyValue {
        let kinds = if depth == 0 { 6 } else { 8 };
        let value = match self.random.below(kinds) {
            0 => None,
            1 => Some(Value::StringValue(self.text())),
            2 => Some(Value::BoolValue(self.random.chance(500))),
            3 => Some(Value::IntValue(self.integer())),
            4 => Some(Value::DoubleValue(self.double())),
            5 => Some(Value::BytesValue(self.up_to(9, |generator| generator.random.next_u64() as u8))),
            6 => Some(Value::ArrayValue(ArrayValue { values: self.array(depth - 1) })),
            _ => Some(Value::KvlistValue(KeyValueList {
                values: self.up_to(4, |generator| generator.key_value(&["a", "b", ""], depth - 1)),
            })),
        };
        AnyValue { value }
    }

    fn array(&mut self, depth: u64) -> Vec<AnyValue> {
        if self.random.chance(150) {
            // A vector, as embeddings are: many values of one kind in a row.
            return (0..self.random.between(5, 40))
                .map(|_| AnyValue { value: Some(Value::DoubleValue(self.double())) })
                .collect();
        }
        self.up_to(5, |generator| generator.any_value(depth))
    }

    pub(super) fn text(&mut self) -> String {
        match self.random.below(12) {
            0 => String::new(),
            1..=9 => (*self.random.pick(TEXTS)).to_owned(),
            10 => (*self.random.pick(TEXTS)).repeat(self.random.between(2, 60) as usize),
            _ => {
                let length = self.random.between(1, 12);
                (0..length).map(|_| self.character()).collect()
            }
        }
    }

    /// Any character there is; the surrogates are none.
    fn character(&mut self) -> char {
        char::from_u32(self.random.below(0x11_0000) as u32).unwrap_or('\u{fffd}')
    }

    pub(super) fn schema_url(&mut self) -> String {
        (*self.random.pick(&["", "", "https://opentelemetry.io/schemas/1.37.0", "ünknown:\u{0}url"])).to_owned()
    }

    pub(super) fn integer(&mut self) -> i64 {
        match self.random.below(4) {
            0 => *self.random.pick(&[0, 1, -1, i64::MIN, i64::MAX, 9_007_199_254_740_993]),
            1 => self.random.next_u64() as i64,
            _ => self.random.below(5_000) as i64,
        }
    }

    pub(super) fn double(&mut self) -> f64 {
        match self.random.below(4) {
            0 => *self.random.pick(DOUBLES),
            1 => {
                let any = f64::from_bits(self.random.next_u64());
                if any.is_nan() { f64::NAN } else { any }
            }
            _ => self.random.below(1_000_000) as f64 / 1_000.0,
        }
    }

    pub(super) fn time(&mut self) -> u64 {
        const YEAR_2100: u64 = 4_102_444_800_000_000_000;
        const DAY: u64 = 86_400_000_000_000;
        match self.random.below(6) {
            0 => *self.random.pick(&[0, 1, 1_000_000_000, YEAR_2100, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX]),
            1 => self.random.next_u64(),
            2 => NOON_UNIX_NANO - self.random.below(500 * DAY),
            _ => NOON_UNIX_NANO + self.random.below(10_000_000_000),
        }
    }

    pub(super) fn flags(&mut self) -> u32 {
        match self.random.below(4) {
            0 => self.random.next_u64() as u32,
            1 => *self.random.pick(&[1, 0x100, 0x301, u32::MAX]),
            _ => 0,
        }
    }

    pub(super) fn enumeration(&mut self) -> i32 {
        match self.random.below(8) {
            0 => *self.random.pick(&[-1, 6, 42, 99, i32::MIN, i32::MAX]),
            _ => self.random.below(6) as i32,
        }
    }

    pub(super) fn count(&mut self) -> u32 {
        match self.random.below(8) {
            0 => *self.random.pick(&[1, 2, 1_000, i32::MAX as u32 + 1, u32::MAX]),
            _ => 0,
        }
    }
}

/// Keys that ingest reads into columns: whatever value they carry must come back.
const SPAN_KEYS: &[&str] = &[
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.system",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.prompt_tokens",
    "gen_ai.usage.completion_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.response.finish_reasons",
    "gen_ai.response.id",
    "gen_ai.request.temperature",
    "gen_ai.request.top_p",
    "gen_ai.request.max_tokens",
    "gen_ai.request.stream",
    "gen_ai.conversation.id",
    "gen_ai.tool.name",
    "error.type",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "db.system.name",
    "db.query.text",
    "server.address",
    "server.port",
    "model",
    "cost",
    "prompt_tokens",
    "token_count",
];

const TEXTS: &[&str] = &[
    "chat",
    "openai",
    "OpenAI",
    "gpt-4o-mini",
    "chat gpt-4o",
    "42",
    "-7",
    "1e3",
    "true",
    "null",
    "[\"stop\"]",
    "{\"a\": [1, null]}",
    " space ",
    "\0",
    "a\0b",
    "line\nbreak\r\n\ttab",
    "quote\" back\\slash / \u{7f}\u{1b}",
    "emoji 👩‍👩‍👧‍👦 名前 שלום\u{202e}",
    "e\u{301} \u{feff}bom \u{2028}",
    "\u{ffff}\u{10ffff}",
];

const DOUBLES: &[f64] = &[
    0.0,
    -0.0,
    1.0,
    -1.5,
    0.1,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    f64::MIN,
    f64::MIN_POSITIVE,
    5e-324,
    1e21,
    9_007_199_254_740_993.0,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prost::Message;

    use super::{AnyValue, Value, arbitrary};
    use crate::spans_of;

    fn kinds(value: &AnyValue, depth: usize, seen: &mut HashSet<(&'static str, usize)>) {
        let kind = match &value.value {
            None => "empty",
            Some(Value::StringValue(_)) => "string",
            Some(Value::BoolValue(_)) => "bool",
            Some(Value::IntValue(_)) => "int",
            Some(Value::DoubleValue(number)) if number.is_nan() => "nan",
            Some(Value::DoubleValue(_)) => "double",
            Some(Value::BytesValue(_)) => "bytes",
            Some(Value::ArrayValue(array)) => {
                array.values.iter().for_each(|item| kinds(item, depth + 1, seen));
                "array"
            }
            Some(Value::KvlistValue(list)) => {
                list.values.iter().filter_map(|item| item.value.as_ref()).for_each(|item| kinds(item, depth + 1, seen));
                "kvlist"
            }
            Some(Value::StringValueStrindex(_)) => "profile only",
        };
        seen.insert((kind, depth));
    }

    /// Guarantee: a property test over a few hundred seeds meets every kind of value at several depths, absent parts,
    /// impossible times and unknown enum numbers, and never an id that gets a span refused.
    #[test]
    fn covers_what_otlp_can_say() {
        let mut seen = HashSet::new();
        let (mut no_resource, mut no_scope, mut backwards, mut unknown_kind, mut repeated_key, mut entities) =
            (0, 0, 0, 0, 0, 0);
        for seed in 0..400 {
            let request = arbitrary(seed);
            for resource in &request.resource_spans {
                no_resource += usize::from(resource.resource.is_none());
                entities += resource.resource.as_ref().map_or(0, |resource| resource.entity_refs.len());
                no_scope += resource.scope_spans.iter().filter(|scope| scope.scope.is_none()).count();
            }
            for span in spans_of(&request) {
                assert!(span.trace_id.len() == 16 && span.trace_id.iter().any(|byte| *byte != 0), "seed {seed}");
                assert!(span.span_id.len() == 8 && span.span_id.iter().any(|byte| *byte != 0), "seed {seed}");
                backwards += usize::from(span.end_time_unix_nano < span.start_time_unix_nano);
                unknown_kind += usize::from(!(0..=5).contains(&span.kind));
                let keys: HashSet<&str> = span.attributes.iter().map(|item| item.key.as_str()).collect();
                repeated_key += usize::from(keys.len() < span.attributes.len());
                span.attributes.iter().filter_map(|item| item.value.as_ref()).for_each(|v| kinds(v, 0, &mut seen));
            }
        }
        for kind in ["empty", "string", "bool", "int", "nan", "double", "bytes", "array", "kvlist"] {
            for depth in 0..3 {
                assert!(seen.contains(&(kind, depth)), "no {kind} at depth {depth}");
            }
        }
        assert!(!seen.iter().any(|(kind, _)| *kind == "profile only"));
        let counts = [no_resource, no_scope, backwards, unknown_kind, repeated_key, entities];
        assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    }

    #[test]
    fn repeats_itself_for_a_seed() {
        assert_eq!(arbitrary(11).encode_to_vec(), arbitrary(11).encode_to_vec());
        assert_ne!(arbitrary(11).encode_to_vec(), arbitrary(12).encode_to_vec());
    }
}
