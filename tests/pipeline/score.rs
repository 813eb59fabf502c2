//! The captures, sent to a server in every order, against what their provider truly answered.

use std::collections::BTreeMap;

use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};
use spanlake_testkit::{PROTOBUF, ServerProcess};

use crate::captures::{bytes, file_names, json as expected_of};
use crate::{scored, server};

const JSON: &str = "application/json";

/// A capture: its name, its bodies by signal, what is expected.
struct Whole {
    name: String,
    bodies: Vec<(String, String)>,
    expected: Value,
}

/// Captures of real programs with all their bodies, in the order of their names.
fn wholes() -> Vec<Whole> {
    let files = file_names("");
    let names = files.iter().filter_map(|file| file.strip_suffix(".expected.json"));
    let wholes = names.map(|name| {
        let bodies = files.iter().filter_map(|file| {
            let (signal, kind) = file.strip_prefix(name)?.strip_prefix('.')?.split_once('.')?;
            let is_body = ["traces", "metrics", "logs"].contains(&signal) && !kind.contains("expected");
            is_body.then(|| (signal.to_owned(), file.clone()))
        });
        Whole {
            name: name.to_owned(),
            bodies: bodies.collect(),
            expected: expected_of(&format!("{name}.expected.json")),
        }
    });
    wholes.filter(|whole| whole.expected["counts"].is_object() && whole.expected["calls"].is_array()).collect()
}

async fn send(server: &ServerProcess, (signal, file): &(String, String)) {
    let content_type = if file.ends_with(".json") { JSON } else { PROTOBUF };
    let answer =
        server.otlp_http().post(&format!("/v1/{signal}"), &[("content-type", content_type)], bytes(file)).await;
    assert_eq!(answer.status, 200, "{file}: {}", answer.text());
}

async fn spans_of(server: &ServerProcess, traces: &str) -> RecordBatch {
    let sql = format!("SELECT * FROM spans WHERE trace_id IN ({traces})");
    let answer = server.post_sql(&json!({"sql": sql}), &[("accept", "application/vnd.apache.arrow.stream")]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let reader = StreamReader::try_new(answer.body.as_ref(), None).expect("an Arrow stream");
    let schema = reader.schema();
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().expect("batches");
    concat_batches(&schema, &batches).expect("one batch")
}

async fn said(server: &ServerProcess, traces: &str) -> BTreeMap<String, String> {
    let sql = format!("SELECT span_id, content FROM messages WHERE trace_id IN ({traces})");
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for row in server.sql(&sql).await {
        let text = texts.entry(row["span_id"].as_str().unwrap_or_default().to_owned()).or_default();
        text.push_str(row["content"].as_str().unwrap_or_default());
        text.push('\n');
    }
    texts
}

async fn check(server: &ServerProcess, wholes: &[Whole], when: &str) {
    let (mut asked, mut misses) = (0, Vec::new());
    for whole in wholes {
        let calls = whole.expected["calls"].as_array().expect("calls");
        let traces: Vec<String> =
            calls.iter().filter_map(|call| Some(format!("'{}'", call["span"]["trace_id"].as_str()?))).collect();
        if traces.is_empty() {
            continue;
        }
        let traces = traces.join(", ");
        let score = scored::score(
            &whole.name,
            spans_of(server, &traces).await,
            &whole.expected,
            Some(&said(server, &traces).await),
        );
        asked += score.cells.values().map(|cell| cell.1).sum::<u32>();
        misses.extend(score.misses);
    }
    println!("{when}: {asked} facts, {} wrong", misses.len());
    assert!(asked > 1_500, "{when}: {asked} facts are asked for");
    assert!(misses.is_empty(), "{when}: {} of {asked} facts are wrong:\n{}", misses.len(), misses.join("\n"));
}

/// Scenario: every capture with all of its signals, spans first, logs first, and all of it backwards; looked at while hot, after
/// a kill, and after an orderly restart that commits it.
/// Guarantee: every fact that the telemetry carries is right, what it does not carry is NULL, each call counts once, and what was
/// said is in `messages`.
#[tokio::test(flavor = "multi_thread")]
async fn every_fact_is_right_in_every_order() {
    let mut wholes = wholes();
    assert!(wholes.len() >= 10, "{} captures", wholes.len());
    for order in ["spans first", "logs first", "backwards"] {
        let rank = |signal: &str| match (order, signal) {
            ("spans first", "traces") => 0,
            (_, "logs") => 1,
            (_, "metrics") => 2,
            _ => 3,
        };
        for whole in &mut wholes {
            whole.bodies.sort_by_key(|(signal, file)| (rank(signal), file.clone()));
            if order == "backwards" {
                whole.bodies.reverse();
            }
        }
        if order == "backwards" {
            wholes.reverse();
        }
        let running = server().arg("--flush-interval", "1h").start().await;
        for body in wholes.iter().flat_map(|whole| &whole.bodies) {
            send(&running, body).await;
        }
        check(&running, &wholes, &format!("{order}, hot")).await;
        let running = running.sigkill().await.start().await;
        check(&running, &wholes, &format!("{order}, after a kill")).await;
        let running = running.restart().await;
        check(&running, &wholes, &format!("{order}, committed")).await;
    }
}
