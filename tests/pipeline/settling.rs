//! Calls that several spans tell of, in requests of their own: each counts once.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::Value;
use spanlake_schema::{Ambient, System};
use spanlake_testkit::{ServerProcess, SplitMix64, wait_until};

use crate::captures;
use crate::server;

const MODELS: [&str; 3] = ["gpt-4o", "claude-sonnet-4-20250514", "house-model"];
const MILLISECOND: u64 = 1_000_000;

/// Calls, input and output tokens by model.
type Totals = BTreeMap<String, (i64, i64, i64)>;

/// A span and the scope it comes from.
type Scoped = (&'static str, Span);

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn int(key: &str, value: i64) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::IntValue(value)) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Traces whose calls are told by agents, chains, wrappers and second instrumentations, and the truth about them.
struct World {
    random: SplitMix64,
    now: u64,
    spans: Vec<Scoped>,
    truth: Totals,
}

/// Where a span is made: its trace, its parent and its time.
#[derive(Clone)]
struct Place {
    trace_id: Vec<u8>,
    parent: Vec<u8>,
    start: u64,
    end: u64,
}

impl World {
    fn new(seed: u64, traces: usize) -> Self {
        let now = System.now_unix_nano() - 600_000 * MILLISECOND;
        let mut world = Self { random: SplitMix64::new(seed), now, spans: Vec::new(), truth: Totals::new() };
        for _ in 0..traces {
            world.trace();
        }
        world
    }

    /// Adds a span; returns the place below it.
    fn span(&mut self, place: &Place, scope: &'static str, name: &str, attributes: Vec<KeyValue>) -> Place {
        let span_id = self.random.id(8);
        self.spans.push((
            scope,
            Span {
                trace_id: place.trace_id.clone(),
                span_id: span_id.clone(),
                parent_span_id: place.parent.clone(),
                name: name.to_owned(),
                kind: 3,
                start_time_unix_nano: place.start,
                end_time_unix_nano: place.end,
                attributes,
                ..Span::default()
            },
        ));
        Place { parent: span_id, start: place.start + MILLISECOND, end: place.end - MILLISECOND, ..place.clone() }
    }

    fn trace(&mut self) {
        self.now += 2_000 * MILLISECOND;
        let top = Place {
            trace_id: self.random.id(16),
            parent: Vec::new(),
            start: self.now,
            end: self.now + 1_000 * MILLISECOND,
        };
        let mut place = self.span(&top, "http", "POST /answer", vec![text("http.request.method", "POST")]);
        let calls = 1 + self.random.index(4);
        let used: Vec<(i64, i64)> =
            (0..calls as i64).map(|call| (100 * (call + 1) + self.random.index(90) as i64, 7 + call)).collect();
        let sum = used.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        for _ in 0..self.random.index(3) {
            place = match self.random.index(3) {
                0 => {
                    let told = vec![
                        text("gen_ai.operation.name", "invoke_agent"),
                        int("gen_ai.usage.input_tokens", sum.0),
                        int("gen_ai.usage.output_tokens", sum.1),
                    ];
                    self.span(&place, "agents", "invoke_agent helper", told)
                }
                1 => self.span(&place, "chains", "answer.workflow", vec![text("traceloop.span.kind", "workflow")]),
                _ => self.span(&place, "http", "internal", Vec::new()),
            };
        }
        for (number, used) in (0u64..).zip(used) {
            let start = place.start + number * 100 * MILLISECOND;
            self.call(&Place { start, end: start + 90 * MILLISECOND, ..place.clone() }, used);
        }
    }

    /// One call, and whatever else tells of it.
    fn call(&mut self, place: &Place, used: (i64, i64)) {
        let model = *self.random.pick(&MODELS);
        let truth = self.truth.entry(model.to_owned()).or_default();
        *truth = (truth.0 + 1, truth.1 + used.0, truth.2 + used.1);
        let told = |provider: &str| {
            vec![
                text("gen_ai.operation.name", "chat"),
                text("gen_ai.provider.name", provider),
                text("gen_ai.request.model", model),
                text("gen_ai.response.model", model),
                int("gen_ai.usage.input_tokens", used.0),
                int("gen_ai.usage.output_tokens", used.1),
            ]
        };
        let mut place = place.clone();
        for _ in 0..self.random.index(3) {
            place = match self.random.chance(600) {
                true => self.span(&place, "wrapper", "chat", told("openai")),
                false => self.span(&place, "http", "retry loop", Vec::new()),
            };
        }
        self.span(&place, "instrumentation", "chat", told("openai"));
        if self.random.chance(300) {
            self.span(&place, "second.instrumentation", "chat", told("openai"));
        }
        if self.random.chance(200) {
            // The same span comes again, as after an answer that was lost, among other spans.
            let again = self.spans[self.spans.len() - 1].clone();
            self.spans.push(again);
        }
    }

    /// The spans in any order, in requests of any size. The same span is never twice in one.
    fn requests(&mut self) -> Vec<Vec<u8>> {
        let mut spans = std::mem::take(&mut self.spans);
        for end in (1..spans.len()).rev() {
            spans.swap(end, self.random.index(end + 1));
        }
        let mut requests: Vec<Vec<Scoped>> = vec![Vec::new()];
        for (scope, span) in spans {
            let last = requests.last().expect("a request");
            if last.len() > self.random.index(12) || last.iter().any(|(_, other)| other.span_id == span.span_id) {
                requests.push(Vec::new());
            }
            requests.last_mut().expect("a request").push((scope, span));
        }
        requests.into_iter().map(|spans| body(&spans)).collect()
    }
}

fn body(spans: &[Scoped]) -> Vec<u8> {
    let mut scopes: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for (scope, span) in spans {
        scopes.entry(scope).or_default().push(span.clone());
    }
    let scope_spans = scopes.into_iter().map(|(name, spans)| ScopeSpans {
        scope: Some(InstrumentationScope { name: name.to_owned(), ..InstrumentationScope::default() }),
        spans,
        ..ScopeSpans::default()
    });
    let resource_spans = vec![ResourceSpans { scope_spans: scope_spans.collect(), ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

async fn totals(server: &ServerProcess) -> Totals {
    let sql = "SELECT model, count(*) AS calls, sum(input_tokens) AS input, sum(output_tokens) AS output
        FROM llm_calls GROUP BY model";
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let row = |row: &serde_json::Map<String, Value>| {
        let model = row["model"].as_str().unwrap_or_default().to_owned();
        (model, (number(&row["calls"]), number(&row["input"]), number(&row["output"])))
    };
    server.sql(sql).await.iter().map(row).collect()
}

async fn settles_to(server: &ServerProcess, truth: &Totals, what: &str) {
    wait_until(&format!("{what} settles to {truth:?}"), || async { (totals(server).await == *truth).then_some(()) })
        .await;
}

/// Scenario: traces with agents, chains, wrappers and second instrumentations at any depth, spans told again, all of it in any
/// order and batching, with flushes, an orderly restart and a kill in between. Guarantee: the calls that count, and their
/// tokens by model, are the truth; hot, committed and after another restart; the rollup counts the same.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_counts_once_whatever_tells_of_it_and_when() {
    for seed in 1..=2 {
        let mut world = World::new(seed, 20);
        let requests = world.requests();
        let mut server = server().arg("--flush-interval", "300ms").start().await;
        for (number, request) in requests.iter().enumerate() {
            let answer = server.otlp_http().export(request.clone()).await;
            assert_eq!(answer.status, 200, "seed {seed}: {}", answer.text());
            if number == requests.len() / 3 {
                server = server.restart().await;
            } else if number == requests.len() * 2 / 3 {
                server = server.sigkill().await.start().await;
            }
        }
        settles_to(&server, &world.truth, &format!("seed {seed}")).await;
        let server = server.restart().await;
        settles_to(&server, &world.truth, &format!("seed {seed} after a restart")).await;
        let counted = "SELECT CAST(coalesce(sum(requests), 0) AS BIGINT) FROM model_usage_hour";
        let calls: i64 = world.truth.values().map(|one| one.0).sum();
        wait_until("the rollup counts the calls", || async {
            let run =
                server.options().run(&["rollup", "run", "model_usage_hour", "--control", &control(&server)]).await;
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            (server.sql_int(counted).await == calls).then_some(())
        })
        .await;
    }
}

fn control(server: &ServerProcess) -> String {
    format!("http://{}", server.addresses().control)
}

/// The spans of a body, one a request.
fn one_by_one(body: &[u8]) -> Vec<Vec<u8>> {
    let request = ExportTraceServiceRequest::decode(body).expect("a request");
    let mut requests = Vec::new();
    for resource in request.resource_spans {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                let scope_spans = vec![ScopeSpans { spans: vec![span.clone()], ..scope.clone() }];
                let resource_spans = vec![ResourceSpans { scope_spans, ..resource.clone() }];
                requests.push(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
            }
        }
    }
    requests
}

/// Scenario: what real instrumentations sent, span by span, reversed and shuffled. Guarantee: the calls of each
/// model and their tokens are those of the whole bodies, hot and after a flush and a restart.
#[tokio::test(flavor = "multi_thread")]
async fn captured_calls_count_once_span_by_span() {
    let is_real = |capture: &captures::Capture| !capture.is_json && capture.expected["counts"].is_object();
    let captures: Vec<_> = captures::all().into_iter().filter(is_real).collect();
    assert!(captures.len() >= 8, "{} captures", captures.len());
    let whole = server().start().await;
    for capture in &captures {
        assert_eq!(whole.otlp_http().export(capture.body.clone()).await.status, 200);
    }
    let truth = totals(&whole).await;
    drop(whole);
    let mut random = SplitMix64::new(7);
    for order in ["reversed", "shuffled"] {
        let mut requests: Vec<Vec<u8>> = captures.iter().flat_map(|capture| one_by_one(&capture.body)).collect();
        match order {
            "reversed" => requests.reverse(),
            _ => (1..requests.len()).rev().for_each(|end| requests.swap(end, random.index(end + 1))),
        }
        let server = server().start().await;
        for request in requests {
            assert_eq!(server.otlp_http().export(request).await.status, 200);
        }
        settles_to(&server, &truth, order).await;
        let server = server.restart().await;
        settles_to(&server, &truth, &format!("{order}, after a restart")).await;
    }
}

/// Scenario: a model gets a price of the user's own after its calls were stored, some of them committed, some hot.
/// Guarantee: a dry run tells calls and cost before and after, and changes nothing; the run records it; queries, views and the
/// rollup have the new cost, after a restart too; a second run finds nothing to change.
#[tokio::test(flavor = "multi_thread")]
async fn stored_calls_are_priced_again() {
    let mut world = World::new(9, 12);
    let first = server().start().await;
    for request in world.requests() {
        assert_eq!(first.otlp_http().export(request).await.status, 200);
    }
    settles_to(&first, &world.truth, "what is to be priced").await;
    let (calls, input, output) = world.truth["house-model"];
    let options = first.stop().await;
    let catalogue = options.home().join("prices.toml");
    let text = "name = \"house\"\n[[price]]\nmodel = \"house-*\"\ninput = 2\noutput = 8\n";
    std::fs::write(&catalogue, text).expect("the catalogue");
    let server = options.arg("--prices", catalogue.to_str().expect("text")).start().await;
    let url = format!("http://{}", server.addresses().http);
    let reprice = async |more: &[&str]| {
        let arguments =
            [&["reprice", "--server", &url, "--from", "2020-01-01", "--to", "2100-01-01"][..], more].concat();
        let output = server.options().run(&arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let cost = "SELECT CAST(sum(cost_usd) AS VARCHAR) AS usd, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
        FROM llm_calls WHERE model = 'house-model'";
    let expected = format!("{:.12}", (2 * input + 8 * output) as f64 / 1e6);

    let told = reprice(&["--dry-run"]).await;
    assert!(told.contains(&expected) && told.contains(&format!("{calls} calls would change")), "{expected} in {told}");
    assert_eq!(server.sql(cost).await[0]["unpriced"], calls);
    let other = reprice(&["--model", "gpt-4o"]).await;
    assert!(other.contains("0 calls changed"), "{other}");
    let told = reprice(&["--model", "house-model"]).await;
    assert!(told.contains(&format!("{calls} calls changed")), "{told}");
    let check = async |server: &ServerProcess| {
        let row = &server.sql(cost).await[0];
        assert_eq!((row["usd"].as_str(), &row["unpriced"]), (Some(expected.as_str()), &0.into()));
    };
    check(&server).await;
    assert!(reprice(&[]).await.contains("0 calls changed"));
    let server = server.restart().await;
    check(&server).await;
    let run = server.options().run(&["rollup", "run", "model_usage_hour", "--control", &control(&server)]).await;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let rolled = "SELECT CAST(sum(cost_usd) AS VARCHAR) AS usd, CAST(sum(unpriced_requests) AS BIGINT) AS unpriced
        FROM model_usage_hour WHERE model = 'house-model'";
    let row = &server.sql(rolled).await[0];
    assert_eq!((row["usd"].as_str(), &row["unpriced"]), (Some(expected.as_str()), &0.into()));
}
