//! What reading spans by the rules costs beside walking them into columns.
//!
//! ```sh
//! cargo bench --bench normalising
//! ```
//!
//! The same requests are walked by two decoders: one that reads nothing of what spans mean, and the one that the server has. What
//! both make of them is verified first. Reading fills columns, settles which spans are calls, and prices them; of what was said it
//! makes messages. Rounds of the two alternate, so that both see the same machine.

#[path = "../src/allocator.rs"]
mod allocator;

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use spanlake_ingest::{Decoder, Signal};
use spanlake_schema::{messages, spans};
use spanlake_testkit::{Traffic, spans_of};

const REQUESTS: usize = 64;
const SPANS_A_REQUEST: usize = 512;
const ROUNDS: usize = 40;
const RECEIVED: u64 = 1_763_700_000_000_000_000;

/// Requests of one kind of spans.
struct Load {
    name: &'static str,
    requests: Vec<ExportTraceServiceRequest>,
    bodies: Vec<Vec<u8>>,
    /// What the product aims at for such spans, in percent of walking them.
    aim: Option<f64>,
}

impl Load {
    /// Of the traffic's spans those of which this is true.
    fn new(name: &'static str, aim: Option<f64>, mut traffic: Traffic, wants: fn(&Span) -> bool) -> Self {
        let mut requests: Vec<_> = (0..REQUESTS).map(|_| traffic.request(SPANS_A_REQUEST)).collect();
        for scope in
            requests.iter_mut().flat_map(|request| &mut request.resource_spans).flat_map(|r| &mut r.scope_spans)
        {
            scope.spans.retain(wants);
        }
        let bodies = requests.iter().map(ExportTraceServiceRequest::encode_to_vec).collect();
        Self { name, requests, bodies, aim }
    }

    fn spans(&self) -> usize {
        self.requests.iter().map(|request| spans_of(request).count()).sum()
    }
}

fn is_llm(span: &Span) -> bool {
    span.attributes.iter().any(|attribute| attribute.key.starts_with("gen_ai."))
}

fn told_tokens(span: &Span) -> i64 {
    let told = span.attributes.iter().find(|attribute| attribute.key == "gen_ai.usage.input_tokens");
    match told.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::IntValue(tokens)) => *tokens,
        _ => 0,
    }
}

/// Rows of `spans`, the sum of their input tokens, entries of their attributes, and parts of messages.
fn answer(decoder: &Decoder, load: &Load) -> [i64; 4] {
    let mut answer = [0; 4];
    for body in &load.bodies {
        for (table, batch) in decoder.rows(Signal::Traces, body, RECEIVED).expect("the body is a request") {
            if table == messages::PARTS_SPEC.name {
                answer[3] += batch.num_rows() as i64;
            }
            if table == spans::SPEC.name {
                let tokens = batch.column_by_name("input_tokens").expect("there is the column");
                answer[0] += batch.num_rows() as i64;
                answer[1] += tokens.as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
                let attributes = batch.column_by_name("attributes").expect("there is the column").as_map();
                answer[2] += attributes.entries().len() as i64;
            }
        }
    }
    answer
}

/// Both make all spans of the load; only the reader's tell tokens, and have no attribute twice.
fn verify(load: &Load, unread: &Decoder, reading: &Decoder) {
    let spans = || load.requests.iter().flat_map(spans_of);
    let attributes: i64 = spans().map(|span| span.attributes.len() as i64).sum();
    let said =
        spans().flat_map(|span| &span.attributes).filter(|attribute| attribute.key.ends_with(".messages")).count();
    let [rows, tokens, entries, parts] = answer(unread, load);
    assert_eq!([rows, tokens, entries, parts], [load.spans() as i64, 0, attributes, 0]);
    let [rows, tokens, entries, parts] = answer(reading, load);
    assert_eq!((rows, tokens), (load.spans() as i64, spans().map(told_tokens).sum()));
    assert!(entries < attributes && parts >= said as i64, "{entries} of {attributes} stay, {parts} parts of {said}");
}

fn walk(decoder: &Decoder, load: &Load) -> Duration {
    let started = Instant::now();
    for body in &load.bodies {
        black_box(decoder.rows(Signal::Traces, body, RECEIVED).expect("the body is a request"));
    }
    started.elapsed()
}

fn main() {
    allocator::keep_freed_memory();
    let (unread, reading) = (Decoder::default().unread(), Decoder::default());
    let loads = [
        Load::new("LLM spans", Some(25.0), Traffic::new(1).without_content(), is_llm),
        Load::new("LLM spans, with what was said", None, Traffic::new(1), is_llm),
        Load::new("other spans", Some(5.0), Traffic::new(1).without_content(), |span| !is_llm(span)),
    ];
    for load in &loads {
        verify(load, &unread, &reading);
        let mut least = [Duration::MAX; 2];
        for _ in 0..ROUNDS {
            least[0] = least[0].min(walk(&unread, load));
            least[1] = least[1].min(walk(&reading, load));
        }
        let [walked, read] = least.map(|time| time.as_nanos() as f64 / load.spans() as f64);
        let aim = load.aim.map_or_else(String::new, |aim| format!(", aim {aim:.0} %"));
        let more = (read / walked - 1.0) * 100.0;
        println!("{:<32} walked {walked:>5.0} ns, read {read:>5.0} ns a span: {more:+.1} %{aim}", load.name);
    }
}
