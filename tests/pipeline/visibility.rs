//! Hot and cold: a span is in SQL results as soon as its request was answered, once and only once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prost::Message;
use spanlake_testkit::{ServerOptions, ServerProcess, wait_until};

use crate::delta_files::DeltaFiles;
use crate::{count_spans, export, server, traffic};

/// The `spans` table of a local store.
pub(crate) fn spans_table(options: &ServerOptions) -> PathBuf {
    PathBuf::from(options.store_url()).join("default/spans")
}

/// Waits until this many rows are committed, and insists on every query in between showing exactly as many spans.
pub(crate) async fn committed_with_constant_count(server: &ServerProcess, table: &std::path::Path, spans: i64) {
    wait_until("all spans are committed", async || {
        assert_eq!(count_spans(server).await, spans, "while the flush runs");
        (DeltaFiles::read(table).claimed_rows() == spans as u64).then_some(())
    })
    .await;
    assert_eq!(count_spans(server).await, spans, "after the flush");
}

/// Scenario: requests one after another, a flush each half second, a restart in good order.
/// Guarantee: what was acknowledged is counted at once, before, during and after its flush and after the restart; the
/// Parquet files hold exactly these rows.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_spans_are_visible_at_once_and_once() {
    let options = server().arg("--flush-interval", "500ms");
    let server = options.start().await;
    let table = spans_table(&options);
    let mut source = traffic(11);
    let mut sent = 0;
    let mut tokens = 0;
    for size in [1, 512, 37, 200, 512, 3].into_iter().cycle().take(24) {
        let request = source.request(size);
        tokens += input_tokens(&request);
        sent += export(&server, &request).await;
        assert_eq!(count_spans(&server).await, sent);
    }
    committed_with_constant_count(&server, &table, sent).await;

    let server = server.restart().await;
    assert_eq!(count_spans(&server).await, sent);
    assert_eq!(server.sql_int("SELECT sum(input_tokens) FROM spans").await, tokens);
    assert_eq!(server.sql_int("SELECT count(DISTINCT span_id) FROM spans").await, sent);
    assert_eq!(DeltaFiles::read(&table).rows_and_sum("input_tokens"), (sent as u64, tokens));

    sent += export(&server, &source.request(5)).await;
    assert_eq!(count_spans(&server).await, sent);
}

/// The sum of `gen_ai.usage.input_tokens` over a generated request.
pub(crate) fn input_tokens(
    request: &opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest,
) -> i64 {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    spanlake_testkit::spans_of(request)
        .flat_map(|span| &span.attributes)
        .filter(|attribute| attribute.key == "gen_ai.usage.input_tokens")
        .map(|attribute| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::IntValue(tokens)) => *tokens,
            other => panic!("no integer: {other:?}"),
        })
        .sum()
}

/// Scenario: four senders and two readers at once, while flushes follow each other.
/// Guarantee: every count lies between what was acknowledged before the query began and what had been sent when it
/// ended, and counts never fall: no span is seen twice, none blinks out.
#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_span_twice_or_lose_one() {
    const REQUESTS: i64 = 60;
    const SPANS: i64 = 50;
    let options = server().arg("--flush-interval", "200ms");
    let server = options.start().await;
    let (sent, acknowledged) = (AtomicI64::new(0), AtomicI64::new(0));
    let sender = async |seed: u64| {
        let mut source = traffic(seed);
        for _ in 0..REQUESTS {
            let body = source.request(SPANS as usize).encode_to_vec();
            sent.fetch_add(SPANS, Ordering::SeqCst);
            let answer = server.otlp_http().export(body).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            acknowledged.fetch_add(SPANS, Ordering::SeqCst);
        }
    };
    let reader = async || {
        let mut last = 0;
        while last < 4 * REQUESTS * SPANS {
            let least = acknowledged.load(Ordering::SeqCst);
            let count = count_spans(&server).await;
            let most = sent.load(Ordering::SeqCst);
            assert!((least..=most).contains(&count), "{count} spans, acknowledged {least}, sent {most}");
            assert!(count >= last, "{count} spans after {last}");
            last = count;
        }
    };
    let all = async {
        tokio::join!(sender(21), sender(22), sender(23), sender(24), reader(), reader());
    };
    tokio::time::timeout(2 * spanlake_testkit::DEADLINE, all).await.expect("all is sent and seen in time");
    let table = spans_table(&options);
    committed_with_constant_count(&server, &table, 4 * REQUESTS * SPANS).await;
    assert!(DeltaFiles::read(&table).versions > 3, "several flushes ran meanwhile");
}

/// Scenario: `ack = commit`.
/// Guarantee: when the answer is there, so is the commit.
#[tokio::test(flavor = "multi_thread")]
async fn with_ack_commit_the_answer_follows_the_commit() {
    let options = server().arg("--ack", "commit");
    let server = options.start().await;
    let mut source = traffic(31);
    let mut sent = 0;
    for _ in 0..3 {
        let request = source.request(20);
        let answer = tokio::time::timeout(Duration::from_secs(60), export(&server, &request));
        sent += answer.await.expect("a commit follows soon");
        assert_eq!(DeltaFiles::read(&spans_table(&options)).claimed_rows(), sent as u64);
        assert_eq!(count_spans(&server).await, sent);
    }
}
