//! Captured calls against what their provider truly answered, fact by fact.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use serde_json::Value;

/// Facts right and facts asked for, by name.
pub(crate) type Cells = BTreeMap<&'static str, (u32, u32)>;

/// How one capture is read.
pub(crate) struct Score {
    name: String,
    batch: RecordBatch,
    rows: BTreeMap<String, usize>,
    /// By fact.
    pub(crate) cells: Cells,
    /// What is wrong, a line each.
    pub(crate) misses: Vec<String>,
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

    /// What was said has to be in the messages of the span, or of the one beside it that tells of the same call.
    fn content(&mut self, call: &Value, span: &str, texts: &BTreeMap<String, String>) {
        let prompts = call["prompt"].as_array().into_iter().flatten().map(|part| part["text"].as_str());
        let answers = call["completion"].as_array().into_iter().flatten().map(Value::as_str);
        let facts: [(&str, Option<Vec<&str>>); 2] = [("prompt", prompts.collect()), ("completion", answers.collect())];
        let said = |span: Option<&str>| span.and_then(|span| texts.get(span)).map_or("", String::as_str);
        let seen = [said(Some(span)), said(call["companion_span"]["span_id"].as_str())].concat();
        for (fact, wanted) in facts {
            let carried = &call["carried_by"][fact];
            // A line of source within a stack trace is no prompt.
            let only_in_trace = carried.as_array().is_some_and(|by| *by == ["span event exception"]);
            let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty() && !carried.is_null() && !only_in_trace)
            else {
                continue;
            };
            // Long texts are cut in the expected file.
            let whole = |text: &&str| text.split("…(cut in this file)").next().unwrap_or_default().to_owned();
            let right = wanted.iter().map(whole).all(|text| seen.contains(&text));
            self.note("content", right, span, (fact, seen.chars().take(80).collect::<String>()));
        }
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

/// Scores a capture by its rows of `spans`, and by what was said by span where that is given.
pub(crate) fn score(
    name: &str,
    batch: RecordBatch,
    expected: &Value,
    said: Option<&BTreeMap<String, String>>,
) -> Score {
    let ids = batch.column_by_name("span_id").unwrap().as_string::<i32>();
    let rows = (0..batch.num_rows()).map(|row| (ids.value(row).to_owned(), row)).collect();
    let mut score = Score { name: name.to_owned(), rows, batch, cells: Cells::new(), misses: Vec::new() };
    let calls = expected["calls"].as_array().expect("calls");
    for call in calls {
        if let Some(span) = call["span"]["span_id"].as_str() {
            score.call(call, span);
            if let Some(said) = said {
                score.content(call, span, said);
            }
        }
    }
    score.others(calls);
    score
}
