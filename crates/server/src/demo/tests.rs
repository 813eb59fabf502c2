use std::collections::{BTreeMap, BTreeSet, HashMap};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::traffic::{Traffic, request};

const END: u64 = 1_780_000_000_000_000_000;

fn spans(seed: u64, traces: u64) -> Vec<(String, Span)> {
    let mut traffic = Traffic::new(seed, 0..0);
    let request = request((0..traces).map(|index| traffic.trace(END + index)));
    let mut all = Vec::new();
    for resource_spans in request.resource_spans {
        let resource = resource_spans.resource.expect("has a resource");
        let Some(Value::StringValue(service)) = resource.attributes[0].value.clone().and_then(|value| value.value)
        else {
            panic!("service.name comes first");
        };
        let scopes = resource_spans.scope_spans.into_iter();
        all.extend(scopes.flat_map(|scope| scope.spans).map(|span| (service.clone(), span)));
    }
    all
}

fn value(span: &Span, key: &str) -> Option<Value> {
    span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

fn text(span: &Span, key: &str) -> Option<String> {
    match value(span, key)? {
        Value::StringValue(text) => Some(text),
        other => panic!("{key} is no text: {other:?}"),
    }
}

fn int(span: &Span, key: &str) -> i64 {
    match value(span, key) {
        Some(Value::IntValue(number)) => number,
        None => 0,
        other => panic!("{key} is no integer: {other:?}"),
    }
}

#[test]
fn the_same_seed_makes_the_same_bytes_and_another_seed_others() {
    let encode = |seed| {
        let mut traffic = Traffic::new(seed, END..END + 10);
        request((0..20).map(|index| traffic.trace(END + index))).encode_to_vec()
    };
    assert_eq!(encode(1), encode(1));
    assert_ne!(encode(1), encode(2));
}

#[test]
fn traces_hang_together() {
    let spans = spans(7, 300);
    let mut ids = BTreeSet::new();
    let by_id: HashMap<_, _> = spans.iter().map(|(_, span)| (span.span_id.clone(), span)).collect();
    for (_, span) in &spans {
        assert!(ids.insert(span.span_id.clone()), "span ids are unique");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
        assert!(span.end_time_unix_nano < END + 300, "nothing ends in the future");
        let mut keys = BTreeSet::new();
        assert!(span.attributes.iter().all(|attribute| keys.insert(&attribute.key)), "{}: a key twice", span.name);
        if span.parent_span_id.is_empty() {
            continue;
        }
        let parent = by_id.get(&span.parent_span_id).unwrap_or_else(|| panic!("{} has no parent", span.name));
        assert_eq!(parent.trace_id, span.trace_id);
        assert!(parent.start_time_unix_nano <= span.start_time_unix_nano, "{} in {}", span.name, parent.name);
        assert!(parent.end_time_unix_nano >= span.end_time_unix_nano, "{} in {}", span.name, parent.name);
    }
    let services: BTreeSet<_> = spans.iter().map(|(service, _)| service.as_str()).collect();
    assert_eq!(services, BTreeSet::from(["code-assistant", "report-writer", "search-api", "support-chat"]));
}

#[test]
fn token_parts_never_exceed_their_whole_and_every_feature_occurs() {
    let spans = spans(11, 2_000);
    let mut models: BTreeMap<String, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (_, span) in &spans {
        if let Some(model) = text(span, "gen_ai.request.model") {
            *models.entry(model).or_default() += 1;
        }
        let (input, output) = (int(span, "gen_ai.usage.input_tokens"), int(span, "gen_ai.usage.output_tokens"));
        let cached = int(span, "gen_ai.usage.cache_read.input_tokens");
        let written = int(span, "gen_ai.usage.cache_creation.input_tokens");
        assert!(cached + written <= input, "{}: {cached} + {written} of {input}", span.name);
        assert!(int(span, "gen_ai.usage.reasoning.output_tokens") <= output);
        if let Some(Value::DoubleValue(first)) = value(span, "gen_ai.response.time_to_first_chunk") {
            let duration = (span.end_time_unix_nano - span.start_time_unix_nano) as f64 / 1e9;
            assert!(first > 0.0 && first <= duration + 1e-6, "{first} of {duration}");
            seen.insert("stream".to_owned());
        }
        seen.extend(text(span, "gen_ai.operation.name"));
        seen.extend(text(span, "error.type"));
        seen.extend(text(span, "db.system.name"));
        seen.extend((cached > 0).then(|| "cache_read".to_owned()));
        seen.extend((written > 0).then(|| "cache_write".to_owned()));
    }
    let expected = [
        "acme/guard-8b",
        "claude-sonnet-4-20250514",
        "gemini-2.5-flash",
        "gpt-4o",
        "gpt-4o-mini",
        "text-embedding-3-small",
    ];
    assert_eq!(models.keys().collect::<Vec<_>>(), expected);
    for feature in [
        "chat",
        "embeddings",
        "execute_tool",
        "invoke_agent",
        "invoke_workflow",
        "429",
        "timeout",
        "502",
        "postgresql",
        "stream",
        "cache_read",
        "cache_write",
    ] {
        assert!(seen.contains(feature), "{feature} never occurs: {seen:?}");
    }
}

#[test]
fn an_incident_refuses_many_calls_of_one_provider() {
    let share = |incident: std::ops::Range<u64>| {
        let mut traffic = Traffic::new(3, incident);
        let request = request((0..500).map(|_| traffic.trace(END)));
        let spans =
            request.resource_spans.into_iter().flat_map(|spans| spans.scope_spans).flat_map(|scope| scope.spans);
        let calls: Vec<_> =
            spans.filter(|span| text(span, "gen_ai.request.model").as_deref() == Some("gpt-4o")).collect();
        let refused = calls.iter().filter(|span| text(span, "error.type").as_deref() == Some("429")).count();
        refused as f64 / calls.len() as f64
    };
    assert!(share(0..0) < 0.08);
    assert!(share(END..END + 1) > 0.25);
}

#[test]
fn a_listener_on_every_interface_is_reached_over_loopback() {
    for (address, expected) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")] {
        assert_eq!(super::reachable(address.parse().expect("is an address")).to_string(), expected);
    }
}
