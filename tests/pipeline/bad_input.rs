//! Telemetry that OTLP allows and nobody can read as it was meant.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use spanlake_testkit::{NOON_UNIX_NANO, attribute, int, text};

use crate::server;

/// A value that is a list of one key, which holds a list of one key, and so on.
fn nested(depth: usize) -> AnyValue {
    let mut value = AnyValue { value: Some(Any::StringValue("the bottom".to_owned())) };
    for _ in 0..depth {
        let entry = KeyValue { key: "in".to_owned(), value: Some(value), ..KeyValue::default() };
        value = AnyValue { value: Some(Any::KvlistValue(KeyValueList { values: vec![entry] })) };
    }
    value
}

/// A call with one thing that is wrong about it.
fn call(number: u8, wrong: KeyValue) -> Span {
    Span {
        trace_id: vec![number; 16],
        span_id: vec![number; 8],
        name: format!("chat {number}"),
        kind: 3,
        start_time_unix_nano: NOON_UNIX_NANO,
        end_time_unix_nano: NOON_UNIX_NANO + 1_000,
        attributes: vec![
            text("gen_ai.operation.name", "chat"),
            text("gen_ai.provider.name", "openai"),
            text("gen_ai.request.model", "gpt-4o"),
            int("gen_ai.usage.output_tokens", 7),
            wrong,
        ],
        ..Span::default()
    }
}

/// Seven calls, each with something else that is wrong about it, and how many.
fn odd_request() -> (Vec<u8>, usize) {
    let odd_enums = Span {
        kind: 77,
        status: Some(Status { code: 9, message: String::new() }),
        ..call(6, int("gen_ai.usage.input_tokens", 5))
    };
    let spans = vec![
        call(1, attribute("gen_ai.usage.input_tokens", Any::BoolValue(true))),
        call(2, int("gen_ai.usage.input_tokens", 9_000_000_000_000_000)),
        call(
            3,
            text(
                "gen_ai.input.messages",
                "[{\"role\": \"user\", \"parts\": [{\"type\": \"text\", \"content\": \"cut o",
            ),
        ),
        call(4, text("llm.invocation_parameters", "{\"temperature\": 0.")),
        call(5, KeyValue { key: "deep".to_owned(), value: Some(nested(3_000)), ..KeyValue::default() }),
        odd_enums,
        call(7, text("gen_ai.response.id", "REPLACED")),
    ];
    let count = spans.len();
    let scope = Some(InstrumentationScope { name: "odd".to_owned(), ..InstrumentationScope::default() });
    let scope_spans = vec![ScopeSpans { scope, spans, ..ScopeSpans::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] };
    let mut body = request.encode_to_vec();
    let at = body.windows(8).position(|part| part == b"REPLACED").expect("the text");
    body[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
    (body, count)
}

/// Scenario: counts of another type, counts that cannot be, JSON that breaks off in a document and in messages, a value nested 3,000
/// deep, kinds and status codes that have no name, text that is no UTF-8.
/// Guarantee: nothing is refused, every span is stored with what can be read of it, `completeness` counts each kind of
/// trouble, and so does /metrics; what was sent is still there to be looked at.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_stored_and_counted() {
    // Making such a value takes the stack that reading it must not take.
    let made = std::thread::Builder::new().stack_size(256 << 20).spawn(odd_request).expect("a thread");
    let (body, count) = made.join().expect("a request");
    let running = server().start().await;
    let answer = running.otlp_http().export(body).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0), "{}", answer.text());

    let sql = "SELECT calls, type_conflict_calls, implausible_count_calls, broken_json_calls, nesting_cut_calls,
        unknown_enum_calls, repaired_text_calls FROM completeness WHERE scope_name = 'odd'";
    let told = &running.sql(sql).await[0];
    assert_eq!(told["calls"], count);
    for (column, calls) in [
        ("type_conflict_calls", 1),
        ("implausible_count_calls", 1),
        ("broken_json_calls", 2),
        ("nesting_cut_calls", 1),
        ("unknown_enum_calls", 1),
        ("repaired_text_calls", 1),
    ] {
        assert_eq!(told[column], calls, "{column}: {told:?}");
    }
    let read =
        "SELECT CAST(sum(output_tokens) AS BIGINT) FROM llm_calls WHERE model = 'gpt-4o' AND provider = 'openai'";
    assert_eq!(running.sql_int(read).await, 7 * count as i64);
    for (sql, kept) in [
        ("SELECT attributes['gen_ai.usage.input_tokens'] AS kept FROM spans WHERE name = 'chat 1'", "true"),
        (
            "SELECT attributes['llm.invocation_parameters'] AS kept FROM spans WHERE name = 'chat 4'",
            "{\"temperature\": 0.",
        ),
        ("SELECT kind || ' ' || status_code AS kept FROM spans WHERE name = 'chat 6'", "77 9"),
    ] {
        assert_eq!(running.sql(sql).await[0]["kept"], kept, "{sql}");
    }
    let said = "SELECT content AS kept FROM messages WHERE trace_id = '03030303030303030303030303030303'";
    assert!(running.sql(said).await[0]["kept"].as_str().is_some_and(|text| text.ends_with("cut o")));
    let metrics = running.http().try_request("GET", "/metrics", &[], Vec::new()).await.expect("metrics").text();
    assert!(metrics.contains("\nspanlake_ingest_type_conflicts_total 1\n"), "{metrics}");
}
