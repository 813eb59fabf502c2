//! Every captured call against what its provider truly answered: fact by fact, as the rows of its body tell it.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use serde_json::Value;
use spanlake_ingest::{Decoder, json};
use spanlake_schema::spans::SPEC;

const RECEIVED: u64 = 1_763_702_400_000_000_000;

/// Facts right and facts asked for, by name.
type Cells = BTreeMap<&'static str, (u32, u32)>;

struct Score {
    name: String,
    batch: RecordBatch,
    rows: BTreeMap<String, usize>,
    cells: Cells,
    misses: Vec<String>,
}

/// A fact, the column, and where the provider's own log has it.
const TOKENS: [(&str, &str, &str); 5] = [
    ("input_tokens", "input_tokens", "input_tokens_including_cache"),
    ("output_tokens", "output_tokens", "output_tokens"),
    ("cached_tokens", "cache_read_tokens", "cached_tokens"),
    ("cache_write_tokens", "cache_write_tokens", "cache_write_tokens"),
    ("reasoning_tokens", "reasoning_tokens", "reasoning_tokens"),
];

/// Spellings of the provider that really answered.
fn providers(told: &str) -> &'static [&'static str] {
    match told {
        "openai" => &["openai"],
        "anthropic" => &["anthropic"],
        "bedrock" => &["aws.bedrock"],
        // A client of OpenAI's pointed at another host.
        "moonshot" => &["moonshot_ai", "openai"],
        "gemini" => &["gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai"],
        other => panic!("no provider {other}"),
    }
}

fn operations(told: &str) -> Vec<&str> {
    match told {
        "assistant.run" => vec!["chat", "invoke_agent", "assistant.run"],
        "chat" => vec!["chat", "generate_content"],
        other => vec![other],
    }
}

/// All integers in a JSON value.
fn numbers(value: &Value) -> Vec<i64> {
    match value {
        Value::Number(number) => number.as_i64().into_iter().collect(),
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Object(entries) => entries.values().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

impl Score {
    fn text(&self, column: &str, row: usize) -> Option<&str> {
        let column = self.batch.column_by_name(column).unwrap().as_string::<i32>();
        column.is_valid(row).then(|| column.value(row))
    }

    fn int(&self, column: &str, row: usize) -> Option<i64> {
        let column = self.batch.column_by_name(column).unwrap().as_primitive::<Int64Type>();
        column.is_valid(row).then(|| column.value(row))
    }

    fn note(&mut self, fact: &'static str, right: bool, span: &str, told: impl std::fmt::Debug) {
        let cell = self.cells.entry(fact).or_default();
        cell.0 += u32::from(right);
        cell.1 += 1;
        if !right {
            self.misses.push(format!("{} {span} {fact}: {told:?}", self.name));
        }
    }

    fn call(&mut self, call: &Value, span: &str) {
        let Some(&row) = self.rows.get(span) else { return self.note("span", false, span, "no row") };
        self.note("span", true, span, "");
        let (carried, absent, differs) = (&call["carried_by"], &call["absent"], &call["differs"]);
        // What stands inside another fact's JSON is there for those who look.
        let gone = |fact: &str| absent[fact].as_str().is_some_and(|why| !why.starts_with("only inside"));
        let carries = |fact: &str| !carried[fact].is_null();
        for (fact, column, truth) in TOKENS {
            let (got, truth) = (self.int(column, row), call[truth].as_i64());
            match truth {
                _ if truth.is_none() || gone(fact) => self.note(fact, got.is_none(), span, (got, "invented")),
                Some(truth) if !differs[fact].is_null() => {
                    let told = numbers(&differs[fact]["telemetry"]);
                    let right = got.is_some_and(|got| got == truth || told.contains(&got));
                    self.note(fact, right, span, (got, told));
                }
                Some(truth) if carries(fact) || !absent[fact].is_null() => {
                    self.note(fact, got == Some(truth) || truth == 0 && got.is_none(), span, (got, truth));
                }
                _ => {}
            }
        }
        for (fact, column) in [("model_requested", "request_model"), ("model_returned", "response_model")] {
            if let Some(truth) = call[fact].as_str().filter(|_| !gone(fact) && carries(fact)) {
                let got = self.text(column, row).map(str::to_owned);
                self.note(fact, got.as_deref() == Some(truth), span, (got, truth));
            }
        }
        if let Some(truth) = call["provider"].as_str() {
            let got = self.text("provider", row).map(str::to_owned);
            let right = got.as_deref().map_or(gone("provider"), |got| providers(truth).contains(&got));
            self.note("provider", right, span, (got, truth));
        }
        if let Some(truth) = call["operation"].as_str().filter(|_| !gone("operation")) {
            let got = self.text("operation", row).map(str::to_owned);
            self.note(
                "operation",
                got.as_deref().is_some_and(|got| operations(truth).contains(&got)),
                span,
                (got, truth),
            );
        }
        if !gone("streamed") && carries("streamed") {
            let column = self.batch.column_by_name("streamed").unwrap().as_boolean();
            let got = column.is_valid(row) && column.value(row);
            self.note("streamed", Some(got) == call["streamed"].as_bool(), span, got);
        }
        let told_reasons = call["finish_reasons"].as_array().is_some_and(|reasons| !reasons.is_empty());
        if !gone("finish_reasons") && carries("finish_reasons") && told_reasons {
            let lists = self.batch.column_by_name("finish_reasons").unwrap().as_list::<i32>();
            let right = lists.is_valid(row) && !lists.value(row).is_empty();
            self.note("finish_reasons", right, span, "");
        }
        self.counted_once(call, span, row);
    }

    fn counted_once(&mut self, call: &Value, span: &str, row: usize) {
        if self.int("input_tokens", row).is_none() && self.int("output_tokens", row).is_none() {
            return;
        }
        let also = call["also_reported_on_spans"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let companion = call["companion_span"]["span_id"].as_str();
        let told: BTreeSet<&str> = also.chain(companion).chain([span]).collect();
        let leaves = told.iter().filter_map(|span| self.rows.get(*span));
        let leaves = leaves.filter(|&&row| self.text("usage_role", row) == Some("leaf")).count();
        self.note("counted once", leaves == 1, span, leaves);
    }

    /// Spans that are no call must not be leaves.
    fn others(&mut self, calls: &[Value]) {
        let mut told: BTreeSet<String> = BTreeSet::new();
        for call in calls {
            let also = call["also_reported_on_spans"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let own = [&call["span"], &call["companion_span"]].map(|span| span["span_id"].as_str());
            told.extend(also.chain(own.into_iter().flatten()).map(str::to_owned));
        }
        let rows: Vec<(String, usize)> = self.rows.iter().map(|(span, row)| (span.clone(), *row)).collect();
        for (span, row) in rows.iter().filter(|(span, _)| !told.contains(span)) {
            let role = self.text("usage_role", *row).map(str::to_owned);
            self.note("no call", role.as_deref() != Some("leaf"), span, role);
        }
    }
}

fn score(name: &str, body: &[u8], expected: &Value) -> Score {
    let batches = Decoder::default().decode_traces(body, RECEIVED).unwrap();
    let batch = concat_batches(&SPEC.arrow_schema(), &batches).unwrap();
    let ids = batch.column_by_name("span_id").unwrap().as_string::<i32>();
    let rows = (0..batch.num_rows()).map(|row| (ids.value(row).to_owned(), row)).collect();
    let mut score = Score { name: name.to_owned(), rows, batch, cells: Cells::new(), misses: Vec::new() };
    let calls = expected["calls"].as_array().expect("calls");
    for call in calls {
        if let Some(span) = call["span"]["span_id"].as_str() {
            score.call(call, span);
        }
    }
    score.others(calls);
    score
}

/// Scenario: what real instrumentations sent, of every dialect captured. Guarantee: each fact that a body's spans carry is
/// read right, what they do not carry is NULL, and each call counts once.
#[test]
fn every_fact_of_every_captured_call_is_right() {
    let folder = format!("{}/../../tests/otlp", env!("CARGO_MANIFEST_DIR"));
    let (mut captures, mut asked, mut misses) = (0, 0, Vec::new());
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let Some((name, kind)) = name.split_once(".traces.") else { continue };
        let expected = std::fs::read(format!("{folder}/{name}.expected.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        // The others were built by hand; what they must give stands in `meaning.rs`.
        if !expected["counts"].is_object() {
            continue;
        }
        let body = std::fs::read(&file).unwrap();
        let body = if kind == "json" { json::traces_to_protobuf(&body).unwrap() } else { body };
        let score = score(name, &body, &expected);
        let right: u32 = score.cells.values().map(|cell| cell.0).sum();
        let all: u32 = score.cells.values().map(|cell| cell.1).sum();
        let cells: Vec<_> = score.cells.iter().map(|(fact, (right, all))| format!("{fact} {right}/{all}")).collect();
        println!("{name}: {right}/{all} ({})", cells.join(", "));
        captures += 1;
        asked += all;
        misses.extend(score.misses);
    }
    assert!(captures >= 10 && asked > 1_400, "{captures} captures, {asked} facts");
    assert!(misses.is_empty(), "{} of {asked} facts are wrong:\n{}", misses.len(), misses.join("\n"));
}
