//! What was said in the captured calls, out of `messages`, by what their expected files say was said.

use std::collections::HashMap;

use serde_json::Value;
use spanlake_testkit::ServerProcess;

use crate::{captures, server};

/// What a span said: the contents of each direction.
type Said = HashMap<(String, &'static str), Vec<String>>;

async fn said(server: &ServerProcess) -> Said {
    let mut said = Said::new();
    let rows = server.sql("SELECT span_id, direction, content FROM messages ORDER BY span_id, position, part").await;
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let direction = if row["direction"] == "output" { "output" } else { "input" };
        said.entry((text("span_id"), direction)).or_default().push(text("content"));
    }
    said
}

/// Whether a text was said: whole, or, where the expected file cuts it, by its beginning and length.
fn is_said(said: &[String], text: &str, length: Option<u64>) -> bool {
    match text.strip_suffix("…(cut in this file)") {
        Some(start) => said.iter().any(|part| part.starts_with(start) && Some(part.chars().count() as u64) == length),
        None => text.is_empty() || said.iter().any(|part| part == text),
    }
}

/// The texts that an attribute or event of a span told, as its expected file has them: direction, text, length.
fn expected(call: &Value) -> Vec<(&'static str, &str, Option<u64>)> {
    let on_span = |fact: &str| {
        let carriers = call["carried_by"][fact].as_array().into_iter().flatten();
        carriers.filter_map(Value::as_str).any(|carrier| carrier.starts_with("attribute"))
    };
    let list = |key: &str| call[key].as_array().into_iter().flatten();
    let mut texts = Vec::new();
    if on_span("prompt") {
        texts.extend(
            list("prompt").filter_map(|part| Some(("input", part["text"].as_str()?, part["text_length"].as_u64()))),
        );
    }
    if on_span("completion") {
        texts.extend(list("completion").filter_map(|text| Some(("output", text.as_str()?, None))));
    }
    texts
}

async fn nothing_is_missing(server: &ServerProcess, when: &str) {
    let said = said(server).await;
    let mut checked = 0;
    for capture in captures::all() {
        for call in capture.expected["calls"].as_array().into_iter().flatten() {
            let span_id = call["span"]["span_id"].as_str().unwrap_or_default();
            for (direction, text, length) in expected(call) {
                let parts = said.get(&(span_id.to_owned(), direction)).map(Vec::as_slice).unwrap_or_default();
                assert!(is_said(parts, text, length), "{when}: {} {span_id} lacks {text:?}: {parts:?}", capture.name);
                checked += 1;
            }
        }
    }
    assert!(checked > 130, "{when}: only {checked} texts were looked for");
    let huge = &captures::json("edge_huge_prompt.expected.json")["calls"][0];
    let rows = server
        .sql(
            "SELECT octet_length(content) AS bytes, encode(digest(content, 'sha256'), 'hex') AS sha256 FROM messages
             WHERE service_name = 'edge-huge' AND direction = 'input'",
        )
        .await;
    assert_eq!(rows.len(), 1, "{when}");
    assert_eq!((&rows[0]["bytes"], &rows[0]["sha256"]), (&huge["prompt_bytes"], &huge["prompt_sha256"]), "{when}");
}

// Scenario: a server gets every captured body, some of them twice, and is restarted before and after it commits.
// Guarantee: what was said in each call is there, whole and once, while hot, after a flush and after restarts; none of it is
// left in the attributes of `spans`.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_in_messages() {
    let server = server().arg("--flush-interval", "1h").start().await;
    for capture in captures::all() {
        for _ in 0..2 {
            let answer = match capture.is_json {
                true => server.otlp_http().export_json(capture.body.clone()).await,
                false => server.otlp_http().export(capture.body.clone()).await,
            };
            assert_eq!(answer.status, 200, "{}: {}", capture.name, answer.text());
        }
    }
    nothing_is_missing(&server, "hot").await;
    let told = "SELECT count(*) FROM messages";
    let (count, long) = (server.sql_int(told).await, "SELECT count(*) FROM message_contents");
    let distinct = "SELECT count(*) FROM (SELECT DISTINCT date, content_hash FROM message_contents)";
    assert_eq!(server.sql_int(long).await, server.sql_int(distinct).await);
    let twice = "SELECT count(*) FROM (SELECT span_id, direction, position, part FROM messages
                 GROUP BY span_id, direction, position, part HAVING count(*) > 1)";
    assert_eq!(server.sql_int(twice).await, 0);
    let left = "SELECT count(*) FROM spans WHERE array_to_string(map_values(attributes), ' ') LIKE '%Tell me a%'";
    assert_eq!(server.sql_int(left).await, 0);

    let server = server.sigkill().await.start().await;
    nothing_is_missing(&server, "replayed").await;
    assert_eq!(server.sql_int(told).await, count);
    let server = server.restart().await;
    nothing_is_missing(&server, "committed").await;
    assert_eq!(server.sql_int(told).await, count);
}
