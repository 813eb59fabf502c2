//! What spans mean, read from real request bodies and from the odd ones.

use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Date32Type, Decimal128Type, Int64Type};
use arrow::record_batch::RecordBatch;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use spanlake_ingest::Decoder;
use spanlake_schema::flags::{reading, time};
use spanlake_schema::spans::SPEC;

/// 2025-11-21T05:20:00Z.
const RECEIVED: u64 = 1_763_702_400_000_000_000;

struct Rows {
    batch: RecordBatch,
}

impl Rows {
    fn of(body: &[u8]) -> Self {
        let batches = Decoder::default().decode_traces(body, RECEIVED).unwrap();
        Self { batch: concat_batches(&SPEC.arrow_schema(), &batches).unwrap() }
    }

    fn capture(name: &str) -> Self {
        let path = format!("{}/../../tests/otlp/{name}", env!("CARGO_MANIFEST_DIR"));
        Self::of(&std::fs::read(path).unwrap())
    }

    fn span(span: Span) -> Self {
        Self::of(&request(vec![span]).encode_to_vec())
    }

    fn text(&self, column: &str, row: usize) -> Option<&str> {
        let column = self.batch.column_by_name(column).unwrap().as_string::<i32>();
        column.is_valid(row).then(|| column.value(row))
    }

    fn int(&self, column: &str, row: usize) -> Option<i64> {
        let column = self.batch.column_by_name(column).unwrap().as_primitive::<Int64Type>();
        column.is_valid(row).then(|| column.value(row))
    }

    fn usd(&self, column: &str, row: usize) -> Option<i128> {
        let column = self.batch.column_by_name(column).unwrap().as_primitive::<Decimal128Type>();
        column.is_valid(row).then(|| column.value(row))
    }

    fn date(&self, row: usize) -> i32 {
        self.batch.column(0).as_primitive::<Date32Type>().value(row)
    }

    fn named(&self, name: &str) -> usize {
        (0..self.batch.num_rows()).find(|&row| self.text("name", row) == Some(name)).unwrap()
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

fn span(attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: "call".to_owned(),
        start_time_unix_nano: RECEIVED - 2_000_000_000,
        end_time_unix_nano: RECEIVED - 1_000_000_000,
        attributes,
        ..Span::default()
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

/// Scenario: the hand-made names of a published program. Guarantee: tokens, models, the claimed cost and a computed cost
/// are read; the running counter beside them is not taken for tokens; the HTTP spans are no calls.
#[test]
fn hand_made_names_are_read() {
    let rows = Rows::capture("elastic_article.traces.pb");
    let calls: Vec<usize> = (0..rows.batch.num_rows()).filter(|&row| rows.int("input_tokens", row).is_some()).collect();
    assert_eq!(calls.len(), 4, "the failed call tells no usage");
    assert_eq!(calls.iter().filter_map(|&row| rows.int("input_tokens", row)).sum::<i64>(), 55);
    assert_eq!(calls.iter().filter_map(|&row| rows.int("output_tokens", row)).sum::<i64>(), 87);
    for &row in &calls {
        assert_eq!(rows.text("usage_role", row), Some("leaf"));
        assert_eq!(rows.text("dialect", row), Some("hand_made"));
        assert_eq!(rows.text("provider", row), Some("openai"));
        assert_ne!(rows.int("reading_flags", row).unwrap() & reading::PROVIDER_DERIVED, 0);
        let total = rows.int("total_tokens", row).unwrap();
        // The program bills 0.02 USD a thousand tokens of davinci, 0.002 of gpt-3.5-turbo.
        let davinci = rows.text("model", row) == Some("text-davinci-003");
        let price = if davinci { 20_000_000 } else { 2_000_000 };
        assert_eq!(rows.usd("cost_reported_usd", row), Some(i128::from(total) * price));
        assert!(rows.usd("cost_usd", row).is_some());
    }
    let other = (0..rows.batch.num_rows()).filter(|row| !calls.contains(row));
    assert!(other.into_iter().all(|row| rows.text("usage_role", row).is_none()));
}

/// Scenario: a program without any LLM call. Guarantee: nothing shows up as one.
#[test]
fn plain_spans_are_no_calls() {
    let rows = Rows::capture("http_plain.traces.pb");
    for row in 0..rows.batch.num_rows() {
        for column in ["usage_role", "operation", "provider", "model", "dialect"] {
            assert_eq!(rows.text(column, row), None, "{column}");
        }
        assert_eq!(rows.usd("cost_usd", row), None);
    }
    assert!((0..rows.batch.num_rows()).any(|row| rows.text("http_request_method", row).is_some()));
    assert!((0..rows.batch.num_rows()).any(|row| rows.text("db_query_text", row).is_some()));
}

/// Scenario: times that cannot be. Guarantee: no bogus day, no wrapped duration, and a flag that says what was odd.
#[test]
fn impossible_times_are_flagged() {
    let rows = Rows::capture("edge_cases.traces.pb");
    let arrival = (RECEIVED / 86_400_000_000_000) as i32;
    for (name, flags, duration) in [
        ("zero-duration", 0, Some(0)),
        ("end-before-start", time::END_BEFORE_START, None),
        ("no-end-time", time::NO_END, None),
        ("epoch-zero", time::NO_START | time::NO_END | time::DATE_FROM_ARRIVAL, None),
        ("ancient", time::DATE_FROM_ARRIVAL, Some(1_000_000_000)),
        ("y2100", time::DATE_FROM_ARRIVAL, Some(1_000_000_000)),
        ("u64max", time::DATE_FROM_ARRIVAL, Some(0)),
        ("long-day", 0, Some(90_000_000_000_000)),
    ] {
        let row = rows.named(name);
        assert_eq!(rows.int("time_flags", row), Some(flags), "{name}");
        assert_eq!(rows.int("duration_ns", row), duration, "{name}");
        assert_eq!(rows.date(row), arrival, "{name}");
    }
    assert_eq!(rows.int("start_time_unix_nano", rows.named("u64max")), Some(-1));
}

/// Scenario: a request that spreads over a hundred days. Guarantee: few partitions, the rest on the day of arrival.
#[test]
fn a_request_cannot_open_a_hundred_partitions() {
    let spans = (0..100u64).map(|day| Span {
        start_time_unix_nano: RECEIVED - day * 86_400_000_000_000,
        end_time_unix_nano: RECEIVED,
        ..span(Vec::new())
    });
    let rows = Rows::of(&request(spans.collect()).encode_to_vec());
    let mut dates: Vec<i32> = (0..100).map(|row| rows.date(row)).collect();
    dates.sort_unstable();
    dates.dedup();
    assert!(dates.len() <= 8, "{} partitions", dates.len());
    let flagged = (0..100).filter(|&row| rows.int("time_flags", row) == Some(time::DATE_FROM_ARRIVAL));
    assert!(flagged.count() >= 92);
}

/// Scenario: counts as text and doubles, and what is no count. Guarantee: counts are read, the rest is NULL and flagged.
#[test]
fn counts_are_read_from_any_numeric_type() {
    for (value, tokens) in [
        (Value::IntValue(12), Some(12)),
        (Value::DoubleValue(12.0), Some(12)),
        (Value::StringValue(" 12 ".to_owned()), Some(12)),
        (Value::IntValue(0), Some(0)),
        (Value::IntValue(-1), None),
        (Value::DoubleValue(1.5), None),
        (Value::DoubleValue(f64::NAN), None),
        (Value::DoubleValue(1e300), None),
        (Value::StringValue("many".to_owned()), None),
        (Value::BoolValue(true), None),
    ] {
        let usage = attribute("gen_ai.usage.input_tokens", value.clone());
        let rows = Rows::span(span(vec![text("gen_ai.operation.name", "chat"), usage]));
        assert_eq!(rows.int("input_tokens", 0), tokens, "{value:?}");
        let conflict = rows.int("reading_flags", 0).unwrap() & reading::TYPE_CONFLICT != 0;
        assert_eq!(conflict, tokens.is_none(), "{value:?}");
    }
}

/// Scenario: a token count near the end of Int64. Guarantee: it is kept as sent and flagged, but not summed with others.
#[test]
fn an_implausible_count_is_not_read() {
    let usage = int("gen_ai.usage.input_tokens", i64::MAX - 1);
    let rows = Rows::span(span(vec![text("gen_ai.operation.name", "chat"), usage]));
    assert_eq!(rows.int("input_tokens", 0), None);
    assert_eq!(rows.int("reading_flags", 0), Some(reading::COUNT_IMPLAUSIBLE));
    let map = rows.batch.column_by_name("attributes").unwrap().as_map().value(0);
    assert_eq!(map.column(1).as_string::<i32>().value(0), (i64::MAX - 1).to_string());
}

/// Scenario: an emitter whose input count leaves cached tokens out. Guarantee: the column includes them, the row says
/// so, and the attribute as sent is kept.
#[test]
fn cached_tokens_are_part_of_the_input() {
    let call = span(vec![
        text("gen_ai.operation.name", "chat"),
        text("gen_ai.provider.name", "anthropic"),
        text("gen_ai.request.model", "claude-sonnet-4-20250514"),
        int("gen_ai.usage.input_tokens", 10),
        int("gen_ai.usage.output_tokens", 1),
        int("gen_ai.usage.cache_read.input_tokens", 1_000),
    ]);
    let rows = Rows::span(call);
    assert_eq!(rows.int("input_tokens", 0), Some(1_010));
    assert_ne!(rows.int("reading_flags", 0).unwrap() & reading::INPUT_EXCLUDED_CACHE, 0);
    // 10 tokens at 3 USD, 1,000 at 0.30 USD, 1 at 15 USD a million.
    assert_eq!(rows.usd("cost_usd", 0), Some(30_000_000 + 300_000_000 + 15_000_000));
}

/// Scenario: an agent that repeats the usage of its calls, a tool, a call that failed. Guarantee: only the call is a leaf.
#[test]
fn only_calls_are_leaves() {
    let of = |operation: &str, more: Vec<KeyValue>| {
        let mut attributes = vec![text("gen_ai.operation.name", operation)];
        attributes.extend(more);
        Rows::span(span(attributes)).text("usage_role", 0).map(str::to_owned)
    };
    let usage = || vec![int("gen_ai.usage.input_tokens", 5)];
    assert_eq!(of("chat", Vec::new()).as_deref(), Some("leaf"));
    assert_eq!(of("embeddings", usage()).as_deref(), Some("leaf"));
    assert_eq!(of("invoke_agent", usage()).as_deref(), Some("aggregate"));
    assert_eq!(of("execute_tool", Vec::new()), None);
}

/// Scenario: common names on a span that is no call. Guarantee: they are not read.
#[test]
fn common_names_alone_are_no_call() {
    let rows = Rows::span(span(vec![text("model", "Corolla"), attribute("cost", Value::DoubleValue(3.5))]));
    assert_eq!(rows.text("model", 0), None);
    assert_eq!(rows.usd("cost_reported_usd", 0), None);
    assert_eq!(rows.text("usage_role", 0), None);
}

/// Scenario: a model that no catalogue knows. Guarantee: no cost, not zero.
#[test]
fn an_unknown_price_is_null() {
    let rows = Rows::span(span(vec![
        text("gen_ai.operation.name", "chat"),
        text("gen_ai.request.model", "house-model-1"),
        int("gen_ai.usage.input_tokens", 5),
        int("gen_ai.usage.output_tokens", 5),
    ]));
    assert_eq!(rows.usd("cost_usd", 0), None);
    assert_eq!(rows.text("price_source", 0), None);
    assert_eq!(rows.text("model", 0), Some("house-model-1"));
}

/// Scenario: ten thousand attributes, a value nested a thousand deep. Guarantee: stored, the depth cut and flagged.
#[test]
fn outsized_spans_are_stored() {
    let mut attributes: Vec<KeyValue> = (0..10_000).map(|n| int(&format!("key.{n}"), n)).collect();
    let mut deep = AnyValue { value: Some(Value::IntValue(1)) };
    // Encoded by hand below prost's own limit on nesting when decoding; encoding has none.
    for _ in 0..90 {
        deep = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![deep] })) };
    }
    attributes.push(KeyValue { key: "deep".to_owned(), value: Some(deep), ..KeyValue::default() });
    let rows = Rows::span(span(attributes));
    let map = rows.batch.column_by_name("attributes").unwrap().as_map().value(0);
    assert_eq!(map.len(), 10_001);
    assert_ne!(rows.int("reading_flags", 0).unwrap() & reading::NESTING_CUT, 0);
}

/// Scenario: bodies that are no request. Guarantee: each is refused with the place named, or read; never a panic.
#[test]
fn malformed_bodies_are_refused() {
    let folder = format!("{}/../../tests/otlp/malformed", env!("CARGO_MANIFEST_DIR"));
    let decoder = Decoder::default();
    for (name, refused) in [
        ("truncated.traces.pb", true),
        ("garbage.traces.pb", true),
        ("html.traces.pb", true),
        ("empty.traces.pb", false),
        ("badutf8.traces.pb", false),
        ("deep_kvlist_3000.traces.pb", false),
    ] {
        let body = std::fs::read(format!("{folder}/{name}")).unwrap();
        let answer = decoder.decode_traces(&body, RECEIVED);
        assert_eq!(answer.is_err(), refused, "{name}");
        if let Err(error) = answer {
            assert!(error.to_string().contains("at byte"), "{error}");
        }
    }
    let whole = std::fs::read(format!("{folder}/../elastic_article.traces.pb")).unwrap();
    for end in 0..whole.len() {
        // A cut between two messages is a shorter request; anywhere else it is an error. Neither may panic.
        let _ = decoder.decode_traces(&whole[..end], RECEIVED).is_ok();
    }
}

/// Scenario: invalid UTF-8 in a name, a key and a value. Guarantee: repaired and flagged, the other spans untouched.
#[test]
fn invalid_utf8_is_repaired() {
    let good = span(vec![text("kept", "föhn")]);
    let bad = span(vec![text("abcdefgh", "stuvwxyz")]);
    let mut body = request(vec![good, bad]).encode_to_vec();
    let at = body.windows(8).position(|window| window == b"stuvwxyz").unwrap();
    body[at] = 0xff;
    let rows = Rows::of(&body);
    let flag = |row| rows.int("reading_flags", row).unwrap() & reading::UTF8_REPAIRED;
    assert_eq!((flag(0), flag(1)), (0, reading::UTF8_REPAIRED));
    let map = rows.batch.column_by_name("attributes").unwrap().as_map().value(1);
    assert_eq!(map.column(1).as_string::<i32>().value(0), "\u{fffd}tuvwxyz");
}

/// A call of a scope, with the counts of one call of Anthropic's: 200 uncached, 64 read from the cache, 30 written to it.
fn cached_call(scope: (&str, &str), input: i64, total: Option<i64>) -> Rows {
    let mut attributes = vec![
        text("gen_ai.operation.name", "chat"),
        text("gen_ai.provider.name", "aws.bedrock"),
        text("gen_ai.request.model", "claude-sonnet-4-20250514"),
        int("gen_ai.usage.input_tokens", input),
        int("gen_ai.usage.output_tokens", 18),
        int("gen_ai.usage.cache_read.input_tokens", 64),
        int("gen_ai.usage.cache_creation.input_tokens", 30),
    ];
    attributes.extend(total.map(|total| int("gen_ai.usage.total_tokens", total)));
    let mut request = request(vec![span(attributes)]);
    let (name, version) = (scope.0.to_owned(), scope.1.to_owned());
    let told = InstrumentationScope { name, version, ..InstrumentationScope::default() };
    request.resource_spans[0].scope_spans[0].scope = Some(told);
    Rows::of(&request.encode_to_vec())
}

/// Scenario: emitters that count input with and without cached tokens, some of which make totals of their own.
/// Guarantee: the input of the call is 294 tokens, whoever tells it.
#[test]
fn emitters_that_disagree_on_cached_tokens_tell_the_same_input() {
    for (scope, version, input, total) in [
        // What strands counts has changed, and no version is told: the provider's total decides.
        ("strands.telemetry.tracer", "", 294, Some(312)),
        ("strands.telemetry.tracer", "", 200, Some(312)),
        ("openinference.instrumentation.bedrock", "0.1.61", 294, Some(312)),
        ("openinference.instrumentation.bedrock", "0.1.45", 200, None),
        // Its total is the sum of what it tells.
        ("opentelemetry.instrumentation.bedrock", "0.62.4", 200, Some(218)),
        ("@traceloop/instrumentation-anthropic", "0.27.0", 200, Some(218)),
        ("openlit.instrumentation.anthropic", "1.0.0", 200, Some(218)),
    ] {
        let rows = cached_call((scope, version), input, total);
        assert_eq!(rows.int("input_tokens", 0), Some(294), "{scope} {version} {input} {total:?}");
    }
}

/// Scenario: spans of a provider's client that ask for a count of tokens, or open a session; one that says why it stopped.
/// Guarantee: the first two are no calls; of the third the reason and the service tier are read.
#[test]
fn the_client_of_anthropic_tells_calls_from_other_requests() {
    for name in ["anthropic.messages.count_tokens", "anthropic.sessions.create"] {
        let attributes =
            vec![text("gen_ai.provider.name", "anthropic"), text("gen_ai.request.model", "claude-sonnet-4-0")];
        let rows = Rows::span(Span { name: name.to_owned(), ..span(attributes) });
        assert_eq!(rows.text("usage_role", 0), None, "{name}");
    }
    let rows = Rows::span(span(vec![
        text("gen_ai.operation.name", "chat"),
        text("gen_ai.request.model", "claude-sonnet-4-0"),
        text("anthropic.message.stop_reason", "tool_use"),
        text("anthropic.response.service_tier", "standard"),
    ]));
    let reasons = rows.batch.column_by_name("finish_reasons").unwrap().as_list::<i32>().value(0);
    assert_eq!(reasons.as_string::<i32>().value(0), "tool_use");
    assert_eq!(rows.text("service_tier", 0), Some("standard"));
}

/// Scenario: a framework's instrumentation sees of a stream only what came out; the client of the provider beside it sees all.
/// Guarantee: it is one call, and the report that tells its input stands for it; a second call of the same output counts.
#[test]
fn half_a_report_of_a_stream_is_no_second_call() {
    let call = |id: u8, start: u64, input: i64| {
        let attributes = vec![
            text("gen_ai.operation.name", "chat"),
            text("gen_ai.provider.name", "anthropic"),
            text("gen_ai.request.model", "claude-sonnet-4-0"),
            int("gen_ai.usage.input_tokens", input),
            int("gen_ai.usage.output_tokens", 27),
        ];
        let (start, end) = (RECEIVED - start, RECEIVED - start + 500_000_000);
        let times = Span { start_time_unix_nano: start, end_time_unix_nano: end, ..span(attributes) };
        Span { span_id: vec![id; 8], parent_span_id: vec![9; 8], name: format!("call {id}"), ..times }
    };
    let scoped = |name: &str, spans| {
        let scope = InstrumentationScope { name: name.to_owned(), ..InstrumentationScope::default() };
        ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }
    };
    let framework = scoped("framework", vec![call(1, 2_000_000_000, 0), call(2, 1_000_000_000, 0)]);
    let client = scoped("client", vec![call(3, 1_990_000_000, 294)]);
    let resource_spans = vec![ResourceSpans { scope_spans: vec![framework, client], ..ResourceSpans::default() }];
    let rows = Rows::of(&ExportTraceServiceRequest { resource_spans }.encode_to_vec());
    let role = |name: &str| rows.text("usage_role", rows.named(name));
    assert_eq!(role("call 1"), Some("duplicate"));
    assert_eq!(role("call 2"), Some("leaf"));
    assert_eq!(role("call 3"), Some("leaf"));
}

/// Scenario: MLflow's export, which writes its attributes as JSON and counts cached tokens in; an agent's call in Haystack; a call of
/// Mistral's own client; a provider under the name of a class. Guarantee: input is counted once, and models have no quotes.
#[test]
fn what_mlflow_haystack_and_mistral_tell_of_calls() {
    let usage = r#"{"input_tokens":294,"output_tokens":27,"total_tokens":321,"cache_read_input_tokens":64,"cache_creation_input_tokens":30}"#;
    let rows = Rows::span(span(vec![
        text("mlflow.spanType", "\"CHAT_MODEL\""),
        text("mlflow.llm.model", "\"claude-sonnet-4-0\""),
        text("mlflow.llm.provider", "\"anthropic\""),
        text("mlflow.chat.tokenUsage", usage),
    ]));
    assert_eq!(rows.text("model", 0), Some("claude-sonnet-4-0"));
    assert_eq!(
        ["input_tokens", "output_tokens", "cache_read_tokens"].map(|of| rows.int(of, 0)),
        [294, 27, 64].map(Some)
    );
    assert_eq!(rows.text("usage_role", 0), Some("leaf"));

    let output = r#"{"replies":[{"role":"assistant","meta":{"model":"gpt-4o-mini-2024-07-18","finish_reason":"tool_calls","usage":{"prompt_tokens":22,"completion_tokens":13}}}]}"#;
    let attributes = vec![text("haystack.agent.step.llm.output", output)];
    let rows = Rows::span(Span { name: "haystack.agent.step.llm".to_owned(), ..span(attributes) });
    assert_eq!((rows.text("operation", 0), rows.text("usage_role", 0)), (Some("chat"), Some("leaf")));
    assert_eq!((rows.int("input_tokens", 0), rows.int("output_tokens", 0)), (Some(22), Some(13)));
    let attributes = vec![text("haystack.tool.name", "get_weather")];
    let rows = Rows::span(Span { name: "haystack.agent.step.tool".to_owned(), ..span(attributes) });
    assert_eq!((rows.text("operation", 0), rows.text("tool_name", 0)), (Some("execute_tool"), Some("get_weather")));

    let attributes = vec![
        text("gen_ai.system", "openai_responses_llm"),
        text("gen_ai.request.model", "gpt-4o-mini"),
        int("gen_ai.usage.prompt_tokens", 19),
        int("gen_ai.usage.completion_tokens", 5),
    ];
    let name = "chat_completion_v1_chat_completions_post".to_owned();
    let rows = Rows::span(Span { name, ..span(attributes) });
    assert_eq!((rows.text("operation", 0), rows.text("provider", 0)), (Some("chat"), Some("openai")));
}
