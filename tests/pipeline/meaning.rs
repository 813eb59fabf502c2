//! What spans mean: tokens and cost per model out of captured telemetry, and the rollup over them.

use std::collections::BTreeMap;

use serde_json::Value;
use spanlake_testkit::{Code, HttpAnswer, ServerProcess, Traffic};

use crate::captures::{self, Capture};
use crate::{count_spans, export, server, traffic};

/// Calls of one model and their tokens; `None` where no call tells.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    calls: i64,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
}

async fn send(server: &ServerProcess, capture: &Capture) {
    let answer: HttpAnswer = match capture.is_json {
        true => server.otlp_http().export_json(capture.body.clone()).await,
        false => server.otlp_http().export(capture.body.clone()).await,
    };
    assert_eq!(answer.status, 200, "{}: {}", capture.name, answer.text());
}

async fn usage_per_model(server: &ServerProcess) -> BTreeMap<String, Usage> {
    let sql = "SELECT model, count(*) AS calls, sum(input_tokens) AS input, sum(output_tokens) AS output
        FROM spans WHERE usage_role = 'leaf' GROUP BY model";
    let number = |value: &Value| if value.is_null() { None } else { Some(value.as_i64().expect("an integer")) };
    let rows = server.sql(sql).await;
    let usage = rows.iter().map(|row| {
        let (input_tokens, output_tokens) = (number(&row["input"]), number(&row["output"]));
        let usage = Usage { calls: number(&row["calls"]).expect("a count"), input_tokens, output_tokens };
        (row["model"].as_str().expect("a model").to_owned(), usage)
    });
    usage.collect()
}

/// What the expected file says that the telemetry carries, call by call.
fn expected_per_model(capture: &Capture) -> BTreeMap<String, Usage> {
    let mut all: BTreeMap<String, Usage> = BTreeMap::new();
    let calls = capture.expected["calls"].as_array().expect("calls");
    for call in calls.iter().filter(|call| !call["span"].is_null()) {
        let told = |fact: &str| if call["absent"].get(fact).is_none() { call[fact].as_str() } else { None };
        let Some(model) = told("model_returned").or_else(|| told("model_requested")) else { continue };
        let carried = |fact: &str| call["carried_by"][fact].as_object()?.values().find_map(Value::as_i64);
        let add = |sum: &mut Option<i64>, more: Option<i64>| *sum = more.map(|more| sum.unwrap_or(0) + more).or(*sum);
        let usage = all.entry(model.to_owned()).or_default();
        usage.calls += 1;
        add(&mut usage.input_tokens, carried("input_tokens"));
        add(&mut usage.output_tokens, carried("output_tokens"));
    }
    all
}

/// Scenario: captures of the OpenTelemetry instrumentation for OpenAI (protobuf, gRPC and JSON ones) and of an article's
/// program with hand-made names.
/// Guarantee: calls, input and output tokens per model equal what the provider's log says the telemetry carries; what it
/// does not carry is NULL, not zero.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_per_model_equal_the_providers_log() {
    for name in ["openai_v2_content", "openai_v2_nocontent_grpc", "openai_v2_json", "elastic_article"] {
        let server = server().start().await;
        let capture = captures::named(name);
        send(&server, &capture).await;
        let found = usage_per_model(&server).await;
        assert_eq!(found, expected_per_model(&capture), "{name}");
        let totals = &capture.expected["totals"]["telemetry_on_call_spans"];
        let input: i64 = found.values().filter_map(|usage| usage.input_tokens).sum();
        let output: i64 = found.values().filter_map(|usage| usage.output_tokens).sum();
        assert_eq!((&totals["input_tokens"], &totals["output_tokens"]), (&input.into(), &output.into()), "{name}");
    }
}

/// Scenario: the article's program, which writes its own names and its own cost.
/// Guarantee: 55 input and 87 output tokens, the claimed cost beside the computed one, the plain HTTP spans are no calls.
#[tokio::test(flavor = "multi_thread")]
async fn hand_made_names_are_read() {
    let server = server().start().await;
    send(&server, &captures::named("elastic_article")).await;
    let sql = "SELECT sum(input_tokens) AS input, sum(output_tokens) AS output, count(*) AS calls,
        CAST(CAST(sum(cost_reported_usd) AS DECIMAL(38, 6)) AS VARCHAR) AS reported FROM spans WHERE usage_role = 'leaf'";
    let rows = server.sql(sql).await;
    assert_eq!((&rows[0]["input"], &rows[0]["output"], &rows[0]["calls"]), (&55.into(), &87.into(), &4.into()));
    // 3 × 32 tokens at 0.02 and 46 at 0.002 dollars for a thousand: the article's own prices.
    assert_eq!(rows[0]["reported"], "0.002012");
    assert_eq!(server.sql_int("SELECT count(*) FROM spans WHERE name = 'POST' AND usage_role IS NOT NULL").await, 0);
}

/// Scenario: models with known prices, and one that no catalogue knows.
/// Guarantee: cost is decimal and right to the last digit; it is NULL where no price is known, never zero.
#[tokio::test(flavor = "multi_thread")]
async fn cost_is_exact_or_unknown() {
    let server = server().start().await;
    send(&server, &captures::named("openai_v2_content")).await;
    send(&server, &captures::named("edge_cases")).await;
    let sql = "SELECT CAST(sum(cost_usd) AS VARCHAR) AS cost FROM spans WHERE model = 'gpt-4o-mini-2024-07-18'";
    let rows = server.sql(sql).await;
    // 16 + 12 + 13 input tokens at 0.15 and 20 + 8 + 45 output tokens at 0.60 dollars a million.
    let cost = rows[0]["cost"].as_str().expect("a cost").trim_end_matches('0').to_owned();
    assert_eq!(cost, "0.00004995");
    let unknown = "SELECT count(*) FROM spans WHERE name = 'chat unknown-model'";
    assert_eq!(server.sql_int(unknown).await, 1);
    assert_eq!(server.sql_int(&format!("{unknown} AND cost_usd IS NULL")).await, 1);
}

/// Scenario: OTLP/JSON with numbers as strings, enums as names and values of every type.
/// Guarantee: all read as protobuf would be; integers beyond 2^53 keep every digit.
#[tokio::test(flavor = "multi_thread")]
async fn json_corners_are_read() {
    let server = server().start().await;
    send(&server, &captures::named("edge_json")).await;
    let rows = server
        .sql("SELECT model, kind, status_code, input_tokens, output_tokens FROM spans WHERE operation = 'chat'")
        .await;
    let expected = serde_json::json!([{
        "model": "gpt-4o", "kind": "CLIENT", "status_code": "ERROR", "input_tokens": 11, "output_tokens": 22
    }]);
    assert_eq!(serde_json::to_value(&rows).expect("JSON"), expected);
    let rows = server.sql("SELECT attributes['i_str'] AS big FROM spans WHERE span_id = 'eee19b7ec3c1b174'").await;
    assert_eq!(rows[0]["big"], "9007199254740993");
}

/// Totals: their name, how the rollup's rows give them, how the raw spans do.
const TOTALS: &[(&str, &str, &str)] = &[
    ("requests", "sum(requests)", "count(*)"),
    ("errors", "sum(errors)", "count(*) FILTER (WHERE status_code = 'ERROR')"),
    ("streamed", "sum(streamed)", "count(*) FILTER (WHERE streamed)"),
    ("input_tokens", "sum(input_tokens)", "sum(input_tokens)"),
    ("output_tokens", "sum(output_tokens)", "sum(output_tokens)"),
    ("cache_read_tokens", "sum(cache_read_tokens)", "sum(cache_read_tokens)"),
    ("reasoning_tokens", "sum(reasoning_tokens)", "sum(reasoning_tokens)"),
    ("cost_usd", "sum(cost_usd)", "sum(cost_usd)"),
    ("unpriced_requests", "sum(unpriced_requests)", "count(*) FILTER (WHERE cost_usd IS NULL)"),
    ("duration_ns_sum", "sum(duration_ns_sum)", "sum(duration_ns)"),
    ("duration_count", "sum(duration_count)", "count(duration_ns)"),
    ("shortest", "min(duration_ns_min)", "min(duration_ns)"),
    ("longest", "max(duration_ns_max)", "max(duration_ns)"),
];

/// The rollup's totals and the same out of the raw spans, as text so that no digit is lost.
async fn rollup_and_raw(server: &ServerProcess) -> (Value, Value) {
    let select = |pick: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
        let columns = TOTALS
            .iter()
            .map(|total| format!("CAST(CAST({} AS DECIMAL(38, 12)) AS VARCHAR) AS {}", pick(total), total.0));
        columns.collect::<Vec<_>>().join(", ")
    };
    let rollup = format!("SELECT {} FROM model_usage_hour", select(|total| total.1));
    let raw = format!("SELECT {} FROM spans WHERE usage_role = 'leaf'", select(|total| total.2));
    let (rollup, raw) = (server.sql(&rollup).await, server.sql(&raw).await);
    (serde_json::to_value(rollup).expect("JSON"), serde_json::to_value(raw).expect("JSON"))
}

async fn run_rollup(server: &ServerProcess) {
    let control = format!("http://{}", server.addresses().control);
    let output = server.options().run(&["rollup", "run", "model_usage_hour", "--control", &control]).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// Scenario: an hour and more of traffic with calls, tools, failures and unknown models; `rollup run`; then late spans in
/// windows that were rolled up already, and `rollup run` again, twice.
/// Guarantee: each time the table's totals equal those of the raw leaf spans, digit by digit; a run without news changes
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_rollup_adds_up() {
    let server = server().arg("--flush-interval", "200ms").start().await;
    let mut source = traffic(71);
    let mut sent = 0;
    for hours in [0, 1, 2] {
        sent += export(&server, &earlier(72 + hours, hours).request(400)).await;
    }
    sent += export(&server, &source.request(400)).await;
    assert_eq!(count_spans(&server).await, sent);
    for late in [Some(0), Some(2), None] {
        if let Some(hours) = late {
            export(&server, &earlier(80 + hours, hours).request(60)).await;
        }
        wait_until_committed(&server).await;
        run_rollup(&server).await;
        let (rollup, raw) = rollup_and_raw(&server).await;
        assert_eq!(rollup, raw, "late: {late:?}");
    }
    let windows = "SELECT count(*) FROM (SELECT DISTINCT window_start FROM model_usage_hour)";
    assert!(server.sql_int(windows).await >= 3, "several windows");
    let doubled = "SELECT count(*) FROM (SELECT 1 FROM model_usage_hour
        GROUP BY window_start, service_name, provider, model, operation, environment, status HAVING count(*) > 1)";
    assert_eq!(server.sql_int(doubled).await, 0, "a window's key comes once");
}

/// Traffic of some hours ago.
fn earlier(seed: u64, hours: u64) -> Traffic {
    use spanlake_schema::Ambient;
    const HOUR_NS: u64 = 3_600_000_000_000;
    traffic(seed).starting_at(spanlake_schema::System.now_unix_nano() - (hours + 1) * HOUR_NS)
}

pub(crate) async fn wait_until_committed(server: &ServerProcess) {
    let table = crate::visibility::spans_table(server.options());
    let spans = count_spans(server).await;
    crate::visibility::committed_with_constant_count(server, &table, spans).await;
}

/// Scenario: `rollup list`, and a rollup that does not exist.
/// Guarantee: the list names the rollup; running an unknown one fails and says so, on the command line and over gRPC.
#[tokio::test(flavor = "multi_thread")]
async fn rollups_are_listed_and_unknown_ones_refused() {
    let server = server().start().await;
    let control = format!("http://{}", server.addresses().control);
    let listed = server.options().run(&["rollup", "list", "--control", &control]).await;
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success() && text.contains("model_usage_hour"), "{text}");
    let unknown = server.options().run(&["rollup", "run", "no_such_rollup", "--control", &control]).await;
    let text = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && text.contains("no_such_rollup"), "{text}");
    assert_eq!(server.grpc().export(Vec::new()).await.code, Code::Ok, "the server goes on");
}
