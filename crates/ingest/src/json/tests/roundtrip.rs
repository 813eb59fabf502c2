//! Any request, written as OTLP/JSON in any of the allowed ways, is read back as it was.

use std::fmt::Write;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use prost::Message;

use super::read;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => vec(any::<char>(), 0..6).prop_map(String::from_iter),
        1 => vec(prop_oneof![Just('"'), Just('\\'), Just('\n'), Just('\u{1}'), Just('é'), Just('\u{1f680}')], 0..6)
            .prop_map(String::from_iter),
        1 => (0..300_usize).prop_map(|len| "long ".repeat(len)),
    ]
}

fn id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 16), vec(any::<u8>(), 8), vec(any::<u8>(), 0..20)]
}

fn double() -> impl Strategy<Value = f64> {
    let special = prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0), Just(3.0)];
    // A NaN keeps no payload in JSON.
    prop_oneof![special, any::<f64>().prop_map(|double| if double.is_nan() { f64::NAN } else { double })]
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        text().prop_map(|it| Some(Value::StringValue(it))),
        any::<bool>().prop_map(|it| Some(Value::BoolValue(it))),
        any::<i64>().prop_map(|it| Some(Value::IntValue(it))),
        double().prop_map(|it| Some(Value::DoubleValue(it))),
        vec(any::<u8>(), 0..40).prop_map(|it| Some(Value::BytesValue(it))),
        any::<i32>().prop_map(|it| Some(Value::StringValueStrindex(it))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(5, 24, 4, |inner| {
        let pairs = (text(), option::of(inner.clone()), any::<i32>());
        let pairs = pairs.prop_map(|(key, value, key_strindex)| KeyValue { key, value, key_strindex });
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| Some(Value::ArrayValue(ArrayValue { values }))),
            vec(pairs, 0..4).prop_map(|values| Some(Value::KvlistValue(KeyValueList { values }))),
        ]
        .prop_map(|value| AnyValue { value })
    })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = (text(), option::of(any_value()), prop_oneof![Just(0), any::<i32>()]);
    vec(pair.prop_map(|(key, value, key_strindex)| KeyValue { key, value, key_strindex }), 0..4)
}

fn event() -> impl Strategy<Value = Event> {
    (any::<u64>(), text(), attributes(), any::<u32>()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn link() -> impl Strategy<Value = Link> {
    (id(), id(), text(), attributes(), any::<u32>(), any::<u32>()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    )
}

fn span() -> impl Strategy<Value = Span> {
    let kind = prop_oneof![4 => 0..6_i32, 1 => any::<i32>()];
    let code = prop_oneof![4 => 0..3_i32, 1 => any::<i32>()];
    let head = (id(), id(), text(), id(), any::<u32>(), text(), kind, any::<[u64; 2]>());
    let status = option::of((text(), code).prop_map(|(message, code)| Status { message, code }));
    let body = (attributes(), vec(event(), 0..3), vec(link(), 0..3), any::<[u32; 3]>(), status);
    (head, body).prop_map(|(head, (attributes, events, links, dropped, status))| {
        let (trace_id, span_id, trace_state, parent_span_id, flags, name, kind, times) = head;
        Span {
            trace_id,
            span_id,
            trace_state,
            parent_span_id,
            flags,
            name,
            kind,
            start_time_unix_nano: times[0],
            end_time_unix_nano: times[1],
            attributes,
            dropped_attributes_count: dropped[0],
            events,
            dropped_events_count: dropped[1],
            links,
            dropped_links_count: dropped[2],
            status,
        }
    })
}

fn resource() -> impl Strategy<Value = Resource> {
    let entity = (text(), text(), vec(text(), 0..3), vec(text(), 0..3)).prop_map(
        |(schema_url, r#type, id_keys, description_keys)| EntityRef { schema_url, r#type, id_keys, description_keys },
    );
    (attributes(), any::<u32>(), vec(entity, 0..3)).prop_map(|(attributes, dropped_attributes_count, entity_refs)| {
        Resource { attributes, dropped_attributes_count, entity_refs }
    })
}

fn request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let scope = (text(), text(), attributes(), any::<u32>()).prop_map(
        |(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
            name,
            version,
            attributes,
            dropped_attributes_count,
        },
    );
    let scope_spans = (option::of(scope), vec(span(), 0..4), text())
        .prop_map(|(scope, spans, schema_url)| ScopeSpans { scope, spans, schema_url });
    let resource_spans = (option::of(resource()), vec(scope_spans, 0..3), text())
        .prop_map(|(resource, scope_spans, schema_url)| ResourceSpans { resource, scope_spans, schema_url });
    vec(resource_spans, 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

/// Writes JSON; `choices` decides, over and over, among the ways that mean the same.
struct Writer {
    choices: Vec<u8>,
    next: usize,
}

impl Writer {
    fn choose(&mut self, ways: usize) -> usize {
        self.next += 1;
        usize::from(self.choices[self.next % self.choices.len()]) % ways
    }

    fn text(&mut self, text: &str) -> String {
        let mut json = String::from("\"");
        let escape_all = self.choose(4) == 0;
        for character in text.chars() {
            match character {
                '"' | '\\' => json.extend(['\\', character]),
                '\n' => json.push_str("\\n"),
                '\0'..='\x1f' => write!(json, "\\u{:04x}", u32::from(character)).unwrap(),
                _ if escape_all => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        write!(json, "\\u{unit:04X}").unwrap();
                    }
                }
                _ => json.push(character),
            }
        }
        json.push('"');
        json
    }

    fn id(&mut self, id: &[u8]) -> String {
        let upper = self.choose(2) == 0;
        let digits: String =
            id.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect();
        format!("\"{digits}\"")
    }

    fn integer(&mut self, number: impl Into<i128>) -> String {
        let number = number.into();
        match self.choose(5) {
            0 => format!("{number}"),
            1 => format!("{number}.0"),
            2 => format!("\"{number}.00E+0\""),
            3 => format!("{number}e0"),
            _ => format!("\"{number}\""),
        }
    }

    fn enumeration(&mut self, number: i32, prefix: &str, names: &[&str]) -> String {
        match (self.choose(3), usize::try_from(number).ok().and_then(|number| names.get(number))) {
            (0, Some(name)) => format!("\"{prefix}{name}\""),
            (1, Some(name)) => format!("\"{name}\""),
            _ => self.integer(number),
        }
    }

    fn double(&mut self, double: f64) -> String {
        match double {
            _ if double.is_nan() => "\"NaN\"".into(),
            f64::INFINITY => "\"Infinity\"".into(),
            f64::NEG_INFINITY => "\"-Infinity\"".into(),
            _ if self.choose(2) == 0 => format!("{double:?}"),
            _ => format!("\"{double:e}\""),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> String {
        const STANDARD: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let url_safe = self.choose(2) == 0;
        let mut json = String::from("\"");
        for chunk in bytes.chunks(3) {
            let bits = chunk.iter().enumerate().fold(0, |bits, (at, byte)| bits | usize::from(*byte) << (16 - 8 * at));
            for at in 0..=chunk.len() {
                json.push(match STANDARD[bits >> (18 - 6 * at) & 63] {
                    b'+' if url_safe => '-',
                    b'/' if url_safe => '_',
                    digit => char::from(digit),
                });
            }
        }
        if self.choose(2) == 0 {
            json.push_str(["", "", "==", "="][(json.len() - 1) % 4]);
        }
        json.push('"');
        json
    }

    fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T) -> String) -> String {
        if items.is_empty() && self.choose(2) == 0 {
            return "null".into();
        }
        let items: Vec<String> = items.iter().map(|item| write(self, item)).collect();
        let separator = [",", " ,\n\t"][self.choose(2)];
        format!("[{}]", items.join(separator))
    }

    fn optional<T>(&mut self, item: Option<&T>, write: impl Fn(&mut Self, &T) -> String) -> String {
        item.map_or_else(|| "null".into(), |item| write(self, item))
    }

    /// An object of the fields in any order, under either name, among fields that mean nothing.
    fn object<const N: usize>(&mut self, fields: [(&str, String); N]) -> String {
        let mut parts = Vec::new();
        for (name, json) in fields {
            let name = if self.choose(4) == 0 { snake_case(name) } else { name.to_owned() };
            match self.choose(12) {
                0 => parts.push(format!("\"{name}\" : null, \"{name}\" : {json}")),
                1 => parts.push(format!("\"unknown\":[{{\"a\":{json}}}],\"{name}\":{json}")),
                2 if json == "null" => {}
                _ => parts.push(format!("\"{name}\":{json}")),
            }
        }
        if !parts.is_empty() {
            let by = self.choose(parts.len());
            parts.rotate_left(by);
        }
        format!("{{{}}}", parts.join(","))
    }

    fn any_value(&mut self, value: &AnyValue) -> String {
        match &value.value {
            None => self.object([]),
            Some(Value::StringValue(it)) => {
                let json = self.text(it);
                self.object([("stringValue", json)])
            }
            Some(Value::BoolValue(it)) => self.object([("boolValue", it.to_string())]),
            Some(Value::IntValue(it)) => {
                let json = self.integer(*it);
                self.object([("intValue", json)])
            }
            Some(Value::DoubleValue(it)) => {
                let json = self.double(*it);
                self.object([("doubleValue", json)])
            }
            Some(Value::BytesValue(it)) => {
                let json = self.bytes(it);
                self.object([("bytesValue", json)])
            }
            Some(Value::StringValueStrindex(it)) => {
                let json = self.integer(*it);
                self.object([("stringValueStrindex", json)])
            }
            Some(Value::ArrayValue(it)) => {
                let json = self.list(&it.values, Self::any_value);
                let json = self.object([("values", json)]);
                self.object([("arrayValue", json)])
            }
            Some(Value::KvlistValue(it)) => {
                let json = self.list(&it.values, Self::key_value);
                let json = self.object([("values", json)]);
                self.object([("kvlistValue", json)])
            }
        }
    }

    fn key_value(&mut self, pair: &KeyValue) -> String {
        let fields = [
            ("key", self.text(&pair.key)),
            ("value", self.optional(pair.value.as_ref(), Self::any_value)),
            ("keyStrindex", self.integer(pair.key_strindex)),
        ];
        self.object(fields)
    }

    fn event(&mut self, event: &Event) -> String {
        let fields = [
            ("timeUnixNano", self.integer(event.time_unix_nano)),
            ("name", self.text(&event.name)),
            ("attributes", self.list(&event.attributes, Self::key_value)),
            ("droppedAttributesCount", self.integer(event.dropped_attributes_count)),
        ];
        self.object(fields)
    }

    fn link(&mut self, link: &Link) -> String {
        let fields = [
            ("traceId", self.id(&link.trace_id)),
            ("spanId", self.id(&link.span_id)),
            ("traceState", self.text(&link.trace_state)),
            ("attributes", self.list(&link.attributes, Self::key_value)),
            ("droppedAttributesCount", self.integer(link.dropped_attributes_count)),
            ("flags", self.integer(link.flags)),
        ];
        self.object(fields)
    }

    fn status(&mut self, status: &Status) -> String {
        let fields = [
            ("message", self.text(&status.message)),
            ("code", self.enumeration(status.code, "STATUS_CODE_", &["UNSET", "OK", "ERROR"])),
        ];
        self.object(fields)
    }

    fn span(&mut self, span: &Span) -> String {
        const KINDS: [&str; 6] = ["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
        let fields = [
            ("traceId", self.id(&span.trace_id)),
            ("spanId", self.id(&span.span_id)),
            ("traceState", self.text(&span.trace_state)),
            ("parentSpanId", self.id(&span.parent_span_id)),
            ("flags", self.integer(span.flags)),
            ("name", self.text(&span.name)),
            ("kind", self.enumeration(span.kind, "SPAN_KIND_", &KINDS)),
            ("startTimeUnixNano", self.integer(span.start_time_unix_nano)),
            ("endTimeUnixNano", self.integer(span.end_time_unix_nano)),
            ("attributes", self.list(&span.attributes, Self::key_value)),
            ("droppedAttributesCount", self.integer(span.dropped_attributes_count)),
            ("events", self.list(&span.events, Self::event)),
            ("droppedEventsCount", self.integer(span.dropped_events_count)),
            ("links", self.list(&span.links, Self::link)),
            ("droppedLinksCount", self.integer(span.dropped_links_count)),
            ("status", self.optional(span.status.as_ref(), Self::status)),
        ];
        self.object(fields)
    }

    fn scope(&mut self, scope: &InstrumentationScope) -> String {
        let fields = [
            ("name", self.text(&scope.name)),
            ("version", self.text(&scope.version)),
            ("attributes", self.list(&scope.attributes, Self::key_value)),
            ("droppedAttributesCount", self.integer(scope.dropped_attributes_count)),
        ];
        self.object(fields)
    }

    fn scope_spans(&mut self, scope_spans: &ScopeSpans) -> String {
        let fields = [
            ("scope", self.optional(scope_spans.scope.as_ref(), Self::scope)),
            ("spans", self.list(&scope_spans.spans, Self::span)),
            ("schemaUrl", self.text(&scope_spans.schema_url)),
        ];
        self.object(fields)
    }

    fn entity_ref(&mut self, entity: &EntityRef) -> String {
        let fields = [
            ("schemaUrl", self.text(&entity.schema_url)),
            ("type", self.text(&entity.r#type)),
            ("idKeys", self.list(&entity.id_keys, |writer, key| writer.text(key))),
            ("descriptionKeys", self.list(&entity.description_keys, |writer, key| writer.text(key))),
        ];
        self.object(fields)
    }

    fn resource(&mut self, resource: &Resource) -> String {
        let fields = [
            ("attributes", self.list(&resource.attributes, Self::key_value)),
            ("droppedAttributesCount", self.integer(resource.dropped_attributes_count)),
            ("entityRefs", self.list(&resource.entity_refs, Self::entity_ref)),
        ];
        self.object(fields)
    }

    fn resource_spans(&mut self, resource_spans: &ResourceSpans) -> String {
        let fields = [
            ("resource", self.optional(resource_spans.resource.as_ref(), Self::resource)),
            ("scopeSpans", self.list(&resource_spans.scope_spans, Self::scope_spans)),
            ("schemaUrl", self.text(&resource_spans.schema_url)),
        ];
        self.object(fields)
    }
}

fn snake_case(camel: &str) -> String {
    let mut snake = String::new();
    for character in camel.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

proptest! {
    #[test]
    fn any_request_is_read_back_as_it_was(request in request(), choices in vec(any::<u8>(), 1..64)) {
        let mut writer = Writer { choices, next: 0 };
        let list = writer.list(&request.resource_spans, Writer::resource_spans);
        let body = writer.object([("resourceSpans", list)]);
        let read = read(&body).map_err(|error| proptest::test_runner::TestCaseError::fail(format!("{error}: {body}")))?;
        // Encoded again, so that one NaN equals another.
        prop_assert_eq!(read.encode_to_vec(), request.encode_to_vec(), "{}", body);
    }
}
