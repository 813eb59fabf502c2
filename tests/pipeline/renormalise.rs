//! Stored spans, read again by newer rules.

use prost::Message;
use serde_json::{Map, Value};
use spanlake_testkit::{NOON_UNIX_NANO, ServerProcess, double, int, text, wait_until};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use crate::captures;
use crate::server;

async fn renormalise(server: &ServerProcess, more: &[&str]) -> String {
    let url = format!("http://{}", server.addresses().http);
    let range = ["renormalise", "--server", &url, "--from", "1970-01-01", "--to", "2200-01-01"];
    let output = server.options().run(&[&range[..], more].concat()).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

/// Scenario: every capture, read again by the rules it was read by, hot and committed.
/// Guarantee: nothing changes, so that what does change is the rules' doing.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_rules_read_the_same() {
    let mut running = server().start().await;
    let mut sent = 0;
    for capture in captures::all() {
        let http = running.otlp_http();
        let answer =
            if capture.is_json { http.export_json(capture.body).await } else { http.export(capture.body).await };
        assert_eq!(answer.status, 200, "{}: {}", capture.name, answer.text());
        sent += 1;
    }
    assert!(sent > 5, "there are {sent} captures");
    for when in ["hot", "committed"] {
        let told = renormalise(&running, &["--dry-run"]).await;
        let spans =
            running.sql("SELECT count(*) AS spans FROM spans WHERE start_time > '1970-01-01'").await[0]["spans"]
                .clone();
        assert_eq!(told, format!("0 of {spans} spans would change; nothing was recorded\n"), "{when}");
        running = running.restart().await;
    }
}

/// Calls of a house of its own: nobody knows its names.
fn calls() -> ExportTraceServiceRequest {
    let span = |number: u8, attributes| Span {
        trace_id: vec![number; 16],
        span_id: vec![number; 8],
        name: "ask".to_owned(),
        start_time_unix_nano: NOON_UNIX_NANO + u64::from(number),
        end_time_unix_nano: NOON_UNIX_NANO + 1_000_000,
        attributes,
        ..Span::default()
    };
    let call = |number: u8| {
        vec![
            text("house.verb", "house_ask"),
            text("house.model", "gpt-4o"),
            int("house.in", 1_000 * i64::from(number)),
            int("house.out", 100),
            double("temperature", 0.5),
        ]
    };
    let mut spans: Vec<Span> = (1..=3).map(|number| span(number, call(number))).collect();
    spans.push(span(9, vec![text("house.verb", "sweep")]));
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

const DIALECT: &str = r#"
[[column]]
name = "operation"
read = [{ dialect = "house", name = "house.verb" }]

[[column]]
name = "request_model"
read = [{ dialect = "house", name = "house.model" }]

[[column]]
name = "input_tokens"
read = [{ dialect = "house", name = "house.in" }]

[[column]]
name = "output_tokens"
read = [{ dialect = "house", name = "house.out" }]

[[operation]]
name = "chat"
is = "call"
spellings = ["house_ask"]
"#;

const SPENT: &str = "SELECT count(*) AS calls, sum(input_tokens) AS input, sum(output_tokens) AS output,
    CAST(sum(cost_usd) AS VARCHAR) AS usd FROM llm_calls WHERE model = 'gpt-4o'";

/// Scenario: calls that no rule knows are stored, some of them committed; the user writes rules for them.
/// Guarantee: a dry run tells what would change, column by column, and changes nothing; the run records it; the calls then
/// count, with their tokens and their price, after a kill too; what the rules do not name stays; a second run changes
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn new_rules_reach_stored_spans() {
    let running = server().start().await;
    assert_eq!(running.otlp_http().export(calls().encode_to_vec()).await.status, 200);
    assert_eq!(running.sql(SPENT).await[0]["calls"], 0);
    let options = running.stop().await;
    let dialect = options.home().join("house.toml");
    std::fs::write(&dialect, DIALECT).expect("the rules");
    let running = options.arg("--dialects", dialect.to_str().expect("text")).start().await;

    let told = renormalise(&running, &["--dry-run"]).await;
    assert!(told.ends_with("4 of 4 spans would change; nothing was recorded\n"), "{told}");
    assert!(told.contains("0.003500000000"), "{told}");
    for line in
        ["input_tokens   1      NULL  1000", "output_tokens  3      NULL  100", "operation      3      NULL  chat"]
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(told.lines().any(|told| told.split_whitespace().eq(words.iter().copied())), "{line} is not in {told}");
    }
    assert_eq!(running.sql(SPENT).await[0]["calls"], 0);

    let told = renormalise(&running, &[]).await;
    assert!(told.ends_with("4 of 4 spans changed\n"), "{told}");
    let spent = async |running: &ServerProcess| -> Option<Map<String, Value>> {
        let row = running.sql(SPENT).await[0].clone();
        (row["calls"] == 3).then_some(row)
    };
    let row = wait_until("the calls count", || spent(&running)).await;
    assert_eq!((&row["input"], &row["output"]), (&6_000.into(), &300.into()));
    // 2.50 and 10 dollars a million tokens.
    assert_eq!(row["usd"], "0.018000000000");
    let kept = "SELECT count(*) AS kept FROM spans WHERE attributes['temperature'] = '0.5' OR temperature = 0.5";
    assert_eq!(running.sql(kept).await[0]["kept"], 3);
    assert!(renormalise(&running, &[]).await.contains("0 of 4 spans changed"));
    let running = running.sigkill().await.start().await;
    assert_eq!(running.sql(SPENT).await[0], row);
    assert!(renormalise(&running, &[]).await.contains("0 of 4 spans changed"));
}
