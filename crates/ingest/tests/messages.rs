//! What was said comes back from the rows of `message_parts` and `message_contents`, in every shape that producers write.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::{ProptestConfig, Strategy, any};
use proptest::{prop_assert_eq, proptest};
use prost::Message;
use serde_json::json;
use spanlake_ingest::{Decoder, Signal};
use spanlake_testkit::{attribute, int, text};

const RECEIVED: u64 = 1_763_700_000_000_000_000;

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

fn span(attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        start_time_unix_nano: RECEIVED,
        end_time_unix_nano: RECEIVED + 1,
        attributes,
        ..Span::default()
    }
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = batch.column_by_name(name).unwrap().as_string::<i32>();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

fn ints(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

/// The rows of a table.
fn rows(tables: &[(&'static str, RecordBatch)], name: &str) -> Vec<RecordBatch> {
    tables.iter().filter(|(table, _)| *table == name).map(|(_, batch)| batch.clone()).collect()
}

fn decoded(spans: Vec<Span>) -> Vec<(&'static str, RecordBatch)> {
    Decoder::default().rows(Signal::Traces, &request(spans).encode_to_vec(), RECEIVED).unwrap()
}

/// Parts as lines, long contents put in: `direction position.part role kind [tool#call] {finish} content <details>`.
fn lines(tables: &[(&'static str, RecordBatch)]) -> Vec<String> {
    let mut contents = HashMap::new();
    for batch in rows(tables, "message_contents") {
        contents.extend(texts(&batch, "content_hash").into_iter().zip(texts(&batch, "content")));
    }
    let mut lines = Vec::new();
    for batch in rows(tables, "message_parts") {
        let column = |name| texts(&batch, name);
        let (direction, role, kind, hash) =
            (column("direction"), column("role"), column("kind"), column("content_hash"));
        let (tool, call, finish) = (column("tool_name"), column("tool_call_id"), column("finish_reason"));
        let (inline, details, source) = (column("content"), column("details"), column("source"));
        let (position, part) = (ints(&batch, "position"), ints(&batch, "part"));
        for row in 0..batch.num_rows() {
            let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            let mut line = or(&direction[row]);
            line += &position[row].map_or_else(|| " ?".to_owned(), |position| format!(" {position}"));
            line += &format!(".{} {} {}", part[row].unwrap(), or(&role[row]), or(&kind[row]));
            if tool[row].is_some() || call[row].is_some() {
                line += &format!(" [{}#{}]", or(&tool[row]), or(&call[row]));
            }
            line += &finish[row].as_ref().map(|finish| format!(" {{{finish}}}")).unwrap_or_default();
            if source[row].as_deref() != Some("attribute") {
                line += &format!(" ({})", or(&source[row]));
            }
            let whole = || contents.get(&hash[row]).cloned().flatten();
            line += &format!(" {}", inline[row].clone().or_else(whole).unwrap_or_else(|| "-".to_owned()));
            line += &details[row].as_ref().map(|details| format!(" <{details}>")).unwrap_or_default();
            lines.push(line);
        }
    }
    lines
}

fn said(attributes: Vec<KeyValue>) -> Vec<String> {
    lines(&decoded(vec![span(attributes)]))
}

/// The attributes that stayed, and the types of all.
fn kept(tables: &[(&'static str, RecordBatch)]) -> (Vec<String>, String) {
    let batch = &rows(tables, "spans")[0];
    let maps = batch.column_by_name("attributes").unwrap().as_map();
    let keys = maps.value(0).column(0).as_string::<i32>().iter().flatten().map(str::to_owned).collect();
    (keys, texts(batch, "attribute_types")[0].clone().unwrap())
}

fn object(entries: &[(&str, Value)]) -> Value {
    let values = entries.iter().map(|(key, value)| attribute(key, value.clone())).collect();
    Value::KvlistValue(KeyValueList { values })
}

fn string(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

fn array(values: Vec<Value>) -> Value {
    Value::ArrayValue(ArrayValue { values: values.into_iter().map(|value| AnyValue { value: Some(value) }).collect() })
}

/// Scenario: indexed families of both old dialects, out of order, with gaps, among other attributes. Guarantee: a row a part,
/// in the order of the numbers; the content has left the attributes, its places are visible, everything else stays.
#[test]
fn indexed_families_become_messages() {
    let tables = decoded(vec![span(vec![
        text("gen_ai.completion.0.finish_reason", "tool_calls"),
        text("gen_ai.prompt.7.content", "{\"temp\": 18}"),
        text("gen_ai.prompt.7.role", "tool"),
        text("gen_ai.prompt.7.tool_call_id", "call_1"),
        int("gen_ai.usage.input_tokens", 3),
        text("gen_ai.prompt.2.role", "user"),
        text("gen_ai.prompt.2.content", "Wetter? 天气 ☕"),
        text("gen_ai.prompt.0.content", "Be brief."),
        text("gen_ai.prompt.0.role", "system"),
        text("gen_ai.prompt.3.unheard_of", "stays"),
        text("gen_ai.completion.0.role", "assistant"),
        text("gen_ai.completion.0.tool_calls.1.name", "clock"),
        text("gen_ai.completion.0.tool_calls.0.arguments", "{\"city\":\"Paris\"}"),
        text("gen_ai.completion.0.tool_calls.0.name", "get_weather"),
        text("gen_ai.completion.0.tool_calls.0.id", "call_2"),
        text("llm.request.functions.0.name", "get_weather"),
        text("llm.request.functions.0.parameters", "{\"type\":\"object\"}"),
        int("gen_ai.prompt.9.content", 9),
        text("tier", "gold"),
    ])]);
    assert_eq!(
        lines(&tables),
        [
            "system 0.0 system text Be brief.",
            "input 2.0 user text Wetter? 天气 ☕",
            "input 7.0 tool tool_result [-#call_1] {\"temp\": 18}",
            "output 0.0 assistant tool_call [get_weather#call_2] {tool_calls} {\"city\":\"Paris\"}",
            "output 0.1 assistant tool_call [clock#-] {tool_calls} -",
            "tool_definition 0.0 - tool [get_weather#-] {\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\"}}",
        ]
    );
    let (keys, types) = kept(&tables);
    assert_eq!(keys, ["gen_ai.prompt.3.unheard_of", "gen_ai.prompt.9.content", "tier"]);
    assert_eq!(types, "4c*E4cs7cis");
}

/// Scenario: OpenInference, with contents of several parts, old completions and embeddings. Guarantee: as told; the whole
/// request in `input.value` is kept as raw beside what is better, and is the text where nothing is.
#[test]
fn openinference_becomes_messages() {
    let message = |rest: &str| format!("llm.input_messages.0.message.{rest}");
    assert_eq!(
        said(vec![
            text("input.value", "{\"messages\": []}"),
            text(&message("contents.1.message_content.image.image.url"), "data:image/png;base64,iVBO"),
            text(&message("contents.1.message_content.type"), "image"),
            text(&message("contents.0.message_content.text"), "What is this?"),
            text(&message("contents.0.message_content.type"), "text"),
            text(&message("role"), "user"),
            text("llm.output_messages.0.message.role", "assistant"),
            text("llm.output_messages.0.message.content", "A cat."),
            text("output.value", "A cat."),
            text("llm.tools.0.tool.json_schema", "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"),
        ]),
        [
            "input 0.0 user text What is this?",
            "input 0.1 user image data:image/png;base64,iVBO",
            "output 0.0 assistant text A cat.",
            "tool_definition 0.0 - tool [f#-] {\"type\":\"function\",\"function\":{\"name\":\"f\"}}",
            "input 0.0 - raw {\"messages\": []}",
            "output 0.0 - raw A cat.",
        ]
    );
    assert_eq!(
        said(vec![text("input.value", "q"), text("output.value", "a")]),
        ["input 0.0 - text q", "output 0.0 - text a"]
    );
    assert_eq!(
        said(vec![
            text("embedding.embeddings.2.embedding.text", "třetí"),
            text("llm.choices.0.completion.text", "\n\nx")
        ]),
        ["input 2.0 - text třetí", "output 0.0 - text \n\nx"]
    );
}

/// Scenario: messages as JSON text and as structured values, of OpenTelemetry and of the providers' APIs. Guarantee: the same
/// parts; `\u` escapes are decoded, surrogate pairs too.
#[test]
fn messages_as_json_become_parts() {
    let input = json!([
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Hi"}, {"type": "uri", "modality": "image", "uri": "https://x/y.png"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "f", "arguments": {"b": 1, "a": [true, null]}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "18 °C"}]},
    ]);
    let expected = [
        "system 0.0 system text Be brief.",
        "input 1.0 user text Hi",
        "input 1.1 user image https://x/y.png",
        "input 2.0 assistant tool_call [f#c1] {\"a\":[true,null],\"b\":1}",
        "input 3.0 tool tool_result [-#c1] 18 °C",
    ];
    assert_eq!(said(vec![text("gen_ai.input.messages", input.to_string())]), expected);
    let openai = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":[true,null],\"b\":1}"}}]},
        {"role": "tool", "content": "18 °C", "tool_call_id": "c1"},
    ]});
    assert_eq!(said(vec![text("ai.prompt", openai.to_string())]), expected);
    let anthropic = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "18"}]},
    ]);
    assert_eq!(
        said(vec![text("gen_ai.input.messages", anthropic.to_string())]),
        [
            "input 0.0 user text Hi",
            "input 1.0 assistant reasoning hm",
            "input 1.1 assistant tool_call [f#t] {}",
            "input 2.0 user tool_result [-#t] 18",
        ]
    );
    let escaped = r#"[{"role":"assistant","parts":[{"type":"text","content":"caf\u00e9 \ud83d\ude80"}],"finish_reason":"stop","x":1}]"#;
    assert_eq!(
        said(vec![text("gen_ai.output.messages", escaped)]),
        ["output 0.0 assistant text {stop} café 🚀 <{\"x\":1}>"]
    );
    let structured = array(vec![object(&[
        ("role", string("user")),
        ("parts", array(vec![object(&[("type", string("text")), ("content", string("Hi"))])])),
    ])]);
    assert_eq!(said(vec![attribute("gen_ai.input.messages", structured)]), ["input 0.0 user text Hi"]);
}

/// Scenario: system instructions, tool definitions, tool spans, the Vercel AI SDK, a whole answer in `response`. Guarantee: as
/// told.
#[test]
fn further_places_of_content() {
    assert_eq!(
        said(vec![
            text(
                "gen_ai.system_instructions",
                r#"[{"type":"text","content":"Be brief."},{"type":"text","content":"Be kind."}]"#
            ),
            text("gen_ai.tool.definitions", r#"[{"type":"function","name":"f","parameters":{}}]"#),
            text("gen_ai.tool.call.arguments", r#"{"city":"Paris"}"#),
            text("gen_ai.tool.call.result", "18"),
        ]),
        [
            "system 0.0 system text Be brief.",
            "system 0.1 system text Be kind.",
            r#"tool_definition 0.0 - tool [f#-] {"type":"function","name":"f","parameters":{}}"#,
            r#"input 0.0 - tool_call {"city":"Paris"}"#,
            "output 0.0 - tool_result 18",
        ]
    );
    assert_eq!(
        said(vec![
            text("ai.response.toolCalls", r#"[{"toolCallId":"c","toolName":"f","input":{"a":1}}]"#),
            text("ai.response.text", "Done."),
            text("ai.prompt", r#"{"system":"Be brief.","prompt":"Hi"}"#),
        ]),
        [
            r#"output 0.0 assistant tool_call [f#c] {"a":1}"#,
            "output 0.1 assistant text Done.",
            "system 0.0 system text Be brief.",
            "input 1.0 user text Hi",
        ]
    );
    let answer = r#"{"id":"cmpl-1","choices":[{"text":"\n\n\u5929","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":{}}"#;
    assert_eq!(
        said(vec![int("prompt_tokens", 1), text("response", answer)]),
        [format!("output 0.0 assistant raw {answer}"), "output 0.0 assistant text {stop} \n\n天".to_owned()]
    );
    let tables = decoded(vec![span(vec![text("response", "HTTP/1.1 200 OK")])]);
    assert_eq!((lines(&tables).len(), kept(&tables).0), (0, vec!["response".to_owned()]));
}

/// Scenario: JSON that is broken, unknown, or a heap of tiny values; a role without a word. Guarantee: kept as text, whole, or
/// left where it was.
#[test]
fn what_is_not_understood_is_kept() {
    for broken in [r#"[{"role":"user","content":"cut he"#, "[1,2,3]", "", "Hello [world]", r#"{"neither":"nor"}"#] {
        let told = said(vec![text("gen_ai.input.messages", broken)]);
        let shown = if broken.is_empty() { "-" } else { broken };
        assert_eq!(told, [format!("input 0.0 user text {shown}")]);
    }
    // Half a character, as senders leave it that cut texts at a number of UTF-16 units.
    let cut = r#"[{"role":"user","content":"lone \ud83d"}]"#;
    assert_eq!(said(vec![text("gen_ai.input.messages", cut)]), ["input 0.0 user text lone \u{fffd}"]);
    let heap = format!("[{}]", vec!["\"\""; 20_000].join(","));
    assert_eq!(said(vec![text("gen_ai.input.messages", &heap)]), [format!("input 0.0 user text {heap}")]);
    let unknown = json!([{"role": "user", "parts": [{"type": "hologram", "x": 1}]}]).to_string();
    assert_eq!(
        said(vec![text("gen_ai.input.messages", &unknown)]),
        [r#"input 0.0 user hologram {"type":"hologram","x":1}"#]
    );
    let mut deep = string("end");
    for _ in 0..100 {
        deep = array(vec![deep]);
    }
    let silent = vec![
        text("gen_ai.completion.0.role", "assistant"),
        text("gen_ai.completion.0.finish_reason", "stop"),
        attribute("gen_ai.input.messages", deep),
        int("gen_ai.system_instructions", 1),
    ];
    let tables = decoded(vec![span(silent.clone())]);
    assert!(lines(&tables).is_empty());
    assert_eq!(kept(&tables).0, silent.into_iter().map(|attribute| attribute.key).collect::<Vec<_>>());
}

/// Scenario: content in the events of a span. Guarantee: it leaves the events' attributes; the events stay.
#[test]
fn span_events_become_messages() {
    let event = |name: &str, attributes| Event { name: name.to_owned(), attributes, ..Event::default() };
    let events = vec![
        event("gen_ai.content.prompt", vec![text("gen_ai.prompt", r#"[{"role":"user","content":"Hi"}]"#), int("n", 1)]),
        event("gen_ai.user.message", vec![text("content", "Hello"), text("gen_ai.system", "openai")]),
        event(
            "gen_ai.choice",
            vec![
                int("index", 1),
                text("finish_reason", "stop"),
                text("message", r#"{"role":"assistant","content":"Yes"}"#),
            ],
        ),
        event("gen_ai.assistant.message", vec![text("gen_ai.event.content", r#"{"content":"Before"}"#)]),
        event("gen_ai.choice", vec![text("finish_reason", "stop"), int("index", 0)]),
        event("exception", vec![text("content", "no message")]),
    ];
    let tables = decoded(vec![Span { events, ..span(vec![]) }]);
    assert_eq!(
        lines(&tables),
        [
            "input 0.0 user text (event) Hi",
            "input ?.0 user text (event) Hello",
            "output 1.0 assistant text {stop} (event) Yes",
            "input ?.0 assistant text (event) Before",
        ]
    );
    let batch = &rows(&tables, "spans")[0];
    let list = batch.column_by_name("events").unwrap().as_list::<i32>().value(0);
    let events = list.as_struct();
    let types = events.column_by_name("attribute_types").unwrap().as_string::<i32>();
    assert_eq!(types.iter().flatten().collect::<Vec<_>>(), ["ci", "cs", "isc", "c", "si", "s"]);
}

/// Scenario: a conversation that resends its history, long texts in it, in one request. Guarantee: each long text is stored
/// once a day, every part refers to it, and nothing of it is in `spans`.
#[test]
fn long_contents_are_stored_once() {
    let long = "Policy text. ".repeat(500);
    let call = |number: u8, extra: &str| Span {
        span_id: vec![number; 8],
        ..span(vec![
            text("gen_ai.prompt.0.content", &long),
            text("gen_ai.prompt.0.role", "system"),
            text("gen_ai.prompt.1.content", extra),
        ])
    };
    let next_day = Span { start_time_unix_nano: RECEIVED + 86_400_000_000_000, ..call(9, "c") };
    let tables = decoded(vec![call(1, "a"), call(2, "b"), next_day]);
    let told = lines(&tables);
    assert_eq!(told.len(), 6);
    assert_eq!(told.iter().filter(|line| line.ends_with(&long)).count(), 3);
    let contents = rows(&tables, "message_contents");
    assert_eq!(contents.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    let parts = &rows(&tables, "message_parts")[0];
    let bytes = ints(parts, "content_bytes");
    assert_eq!((bytes[0], texts(parts, "content")[0].is_none()), (Some(long.len() as i64), true));
    assert!(!format!("{:?}", rows(&tables, "spans")).contains("Policy"));
}

/// Who says what.
type Conversation = Vec<(&'static str, String)>;

fn conversations() -> impl Strategy<Value = Conversation> {
    let roles = proptest::sample::select(vec!["user", "assistant", "system", "tool"]);
    let words = any::<String>().prop_map(|words| if words.len() % 5 == 0 { words.repeat(40) } else { words });
    proptest::collection::vec((roles, words), 1..8)
}

fn expected(conversation: &Conversation) -> Vec<String> {
    let line = |(place, (role, words)): (usize, &(&str, String))| {
        let (direction, kind) = match *role {
            "system" => ("system", "text"),
            "tool" => ("input", "tool_result"),
            _ => ("input", "text"),
        };
        format!("{direction} {place}.0 {role} {kind} {}", if words.is_empty() { "-" } else { words })
    };
    conversation.iter().enumerate().map(line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Scenario: any conversation, told in each way. Guarantee: the same parts, whole and in order.
    #[test]
    fn any_conversation_comes_back_however_it_is_told(conversation in conversations(), shuffle in any::<usize>()) {
        let indexed = |role: &dyn Fn(usize) -> String, content: &dyn Fn(usize) -> String| {
            let mut attributes = Vec::new();
            for (place, (who, words)) in conversation.iter().enumerate() {
                attributes.push(text(&role(place), *who));
                attributes.push(text(&content(place), words));
            }
            let middle = shuffle % attributes.len();
            attributes.rotate_left(middle);
            said(attributes)
        };
        let expected = expected(&conversation);
        prop_assert_eq!(&indexed(&|n| format!("gen_ai.prompt.{n}.role"), &|n| format!("gen_ai.prompt.{n}.content")), &expected);
        let open = |rest: &'static str| move |n| format!("llm.input_messages.{n}.message.{rest}");
        prop_assert_eq!(&indexed(&open("role"), &open("content")), &expected);
        let messages: Vec<_> = conversation.iter().map(|(role, words)| json!({"role": role, "content": words})).collect();
        prop_assert_eq!(&said(vec![text("gen_ai.input.messages", json!(messages).to_string())]), &expected);
        let parts = |words: &str| json!([{"type": "text", "content": words}]);
        let messages: Vec<_> = conversation.iter().map(|(role, words)| json!({"role": role, "parts": parts(words)})).collect();
        prop_assert_eq!(&said(vec![text("gen_ai.input.messages", json!(messages).to_string())]), &expected);
    }
}

/// Scenario: the names under which Langfuse's and Sentry's clients keep what was said, parts that Anthropic's and OpenAI's APIs
/// name in their own way. Guarantee: it is in the messages, and tool results are told from what a user said.
#[test]
fn clients_of_other_products_tell_messages() {
    let langfuse = said(vec![
        text("langfuse.observation.type", "generation"),
        text(
            "langfuse.observation.input",
            r#"{"messages":[{"role":"system","content":"be kind"},{"role":"user","content":"hi"}]}"#,
        ),
        text("langfuse.observation.output", "hello"),
    ])
    .join("\n");
    for part in ["be kind", "hi", "hello"] {
        assert!(langfuse.contains(part), "{part} is not in {langfuse}");
    }
    let sentry = said(vec![
        text("gen_ai.response.text", "it is cold"),
        text("gen_ai.response.tool_calls", r#"[{"id":"c1","name":"weather","arguments":"{}"}]"#),
    ])
    .join("\n");
    assert!(sentry.contains("it is cold") && sentry.contains("tool_call") && sentry.contains("weather"), "{sentry}");
    let result = said(vec![
        text("llm.input_messages.0.message.role", "user"),
        text("llm.input_messages.0.message.tool_call_id", "c1"),
        text("llm.input_messages.0.message.content", r#"{"temp":21}"#),
        text("llm.output_messages.0.message.role", "assistant"),
        text("llm.output_messages.0.message.contents.0.message_content.type", "output_text"),
        text("llm.output_messages.0.message.contents.0.message_content.text", "21 degrees"),
    ])
    .join("\n");
    assert!(result.contains("tool_result") && !result.contains("output_text"), "{result}");
}
