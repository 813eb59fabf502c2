//! What a crash or an end in good order leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use spanlake_testkit::{Code, HttpClient, OtlpGrpcClient, ServerProcess, spans_of, wait_until};
use tokio::sync::{Mutex, watch};

use crate::visibility::spans_table;
use crate::{count_spans, export, hex, server, traffic};

/// A body with its span ids.
#[derive(Clone)]
struct Body {
    bytes: Vec<u8>,
    span_ids: Vec<String>,
}

/// What the senders know: which bodies were answered with success, and which were not answered at all.
#[derive(Default)]
struct Book {
    acknowledged: Vec<Body>,
    unanswered: Vec<Body>,
}

/// Sends over its own connection until the server is gone.
async fn send_until_killed(
    server: (HttpClient, OtlpGrpcClient),
    seed: u64,
    book: Arc<Mutex<Book>>,
    acknowledged: watch::Sender<u64>,
) {
    const SPANS: usize = 40;
    let (http, grpc) = server;
    let mut source = traffic(seed);
    loop {
        let request = source.request(SPANS);
        let span_ids = spans_of(&request).map(|span| hex(&span.span_id)).collect();
        let body = Body { bytes: request.encode_to_vec(), span_ids };
        let headers = [("content-type", spanlake_testkit::PROTOBUF)];
        let was_acknowledged = if seed.is_multiple_of(2) {
            let answer = http.try_request("POST", "/v1/traces", &headers, body.bytes.clone()).await;
            answer.is_ok_and(|answer| answer.status == 200)
        } else {
            grpc.export(body.bytes.clone()).await.code == Code::Ok
        };
        let mut book = book.lock().await;
        if !was_acknowledged {
            book.unanswered.push(body);
            return;
        }
        book.acknowledged.push(body);
        drop(book);
        acknowledged.send_modify(|count| *count += 1);
    }
}

/// Loads the server from six connections and kills it after this many acknowledgements.
async fn load_and_kill(
    server: ServerProcess,
    round: u64,
    requests: u64,
    book: &Arc<Mutex<Book>>,
) -> spanlake_testkit::ServerOptions {
    let (sender, mut acknowledged) = watch::channel(0);
    let senders: Vec<_> = (0..6)
        .map(|connection| {
            let addresses = server.addresses();
            let clients = (HttpClient::new(addresses.otlp_http), OtlpGrpcClient::new(addresses.otlp_grpc));
            let seed = 1_000 * round + connection;
            tokio::spawn(send_until_killed(clients, seed, Arc::clone(book), sender.clone()))
        })
        .collect();
    drop(sender);
    let enough = acknowledged.wait_for(|count| *count >= requests);
    let enough = tokio::time::timeout(spanlake_testkit::DEADLINE, enough).await;
    assert!(enough.is_ok_and(|seen| seen.is_ok()), "the senders stopped early:\n{}", server.stderr());
    let options = server.sigkill().await;
    for sender in senders {
        sender.await.expect("a sender ends when the server is gone");
    }
    options
}

/// Every acknowledged span is there once; of each unanswered body all or nothing.
async fn check_book(server: &ServerProcess, book: &Book) {
    let rows = server.sql("SELECT span_id, count(*) AS n FROM spans GROUP BY span_id").await;
    let mut stored: BTreeMap<String, i64> = rows
        .iter()
        .map(|row| (row["span_id"].as_str().expect("an id").to_owned(), row["n"].as_i64().expect("a count")))
        .collect();
    for id in book.acknowledged.iter().flat_map(|body| &body.span_ids) {
        assert_eq!(stored.remove(id), Some(1), "acknowledged span {id}");
    }
    for body in &book.unanswered {
        let counts: BTreeSet<i64> = body.span_ids.iter().map(|id| stored.remove(id).unwrap_or(0)).collect();
        assert_eq!(counts.len(), 1, "an unanswered body is stored in part: {counts:?}");
        assert!(counts.iter().all(|count| *count <= 1), "an unanswered body is stored twice, though sent once");
    }
    assert!(stored.is_empty(), "spans nobody sent: {stored:?}");
}

/// Scenario: SIGKILL while six connections send over gRPC and HTTP and flushes follow each other; start again on the same
/// directories; three times over.
/// Guarantee: every acknowledged span is there exactly once, at once and after the next flush; a body without an answer is
/// there whole or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn sigkill_under_load_loses_nothing_acknowledged() {
    let book = Arc::new(Mutex::new(Book::default()));
    let options = server().arg("--flush-interval", "150ms");
    let table = spans_table(&options);
    let mut server = options.start().await;
    for (round, requests) in [(1, 40), (2, 90), (3, 25)] {
        let options = load_and_kill(server, round, requests, &book).await;
        server = options.start().await;
        check_book(&server, &*book.lock().await).await;
    }
    let spans = count_spans(&server).await;
    crate::visibility::committed_with_constant_count(&server, &table, spans).await;
    check_book(&server, &*book.lock().await).await;
    let server = server.restart().await;
    check_book(&server, &*book.lock().await).await;
}

/// Scenario: SIGKILL before anything was flushed.
/// Guarantee: the log alone brings every acknowledged span back.
#[tokio::test(flavor = "multi_thread")]
async fn sigkill_before_the_first_flush_loses_nothing() {
    let options = server().arg("--flush-interval", "1h");
    let server = options.start().await;
    let mut source = traffic(41);
    let mut sent = 0;
    for size in [1, 512, 100] {
        sent += export(&server, &source.request(size)).await;
    }
    let server = server.sigkill().await.start().await;
    assert_eq!(count_spans(&server).await, sent);
    sent += export(&server, &source.request(9)).await;
    let server = server.restart().await;
    assert_eq!(count_spans(&server).await, sent);
    assert_eq!(server.sql_int("SELECT count(DISTINCT span_id) FROM spans").await, sent);
}

/// Scenario: SIGTERM with spans that no flush has taken yet; then the log's directory is lost.
/// Guarantee: the end in good order flushed and committed, so that the tables alone hold every span, for `spanlake sql` on
/// the store and for a new server.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_flushes_and_commits() {
    let options = server().arg("--flush-interval", "1h");
    let server = options.start().await;
    let sent = export(&server, &traffic(42).request(300)).await;
    server.stop().await;
    std::fs::remove_dir_all(options.wal_dir()).expect("the log's directory can be removed");

    let sql = "SELECT count(*) AS spans FROM spans";
    let output = options.run(&["sql", sql, "--store", options.store_url()]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&sent.to_string()), "{text}");
    assert_eq!(crate::delta_files::DeltaFiles::read(&spans_table(&options)).claimed_rows(), sent as u64);

    let server = options.start().await;
    assert_eq!(count_spans(&server).await, sent);
}

/// Scenario: SIGTERM while the store hangs, so that the last flush cannot end; then a second SIGTERM.
/// Guarantee: the second signal ends the process at once with the code shells expect, and nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let s3 = spanlake_testkit::S3Server::start("lake").await;
    let options = server().store(s3.url("tables")).envs(s3.environment()).arg("--flush-interval", "1h");
    let mut server = options.start().await;
    let sent = export(&server, &traffic(43).request(64)).await;
    let hanging = s3.hold_writes().await;
    server.sigterm();
    // Signals do not queue up: the second one counts only after the first was taken.
    wait_until("the shutdown has begun", async || {
        let headers = [("content-type", spanlake_testkit::PROTOBUF)];
        let answer = server.otlp_http().try_request("POST", "/v1/traces", &headers, Vec::new()).await;
        answer.map_or(true, |answer| answer.status == 503).then_some(())
    })
    .await;
    server.sigterm();
    let status = server.wait().await;
    assert_eq!(status.code(), Some(143), "{status}\n{}", server.stderr());
    drop(hanging);
    let server = options.start().await;
    assert_eq!(count_spans(&server).await, sent);
}

/// Scenario: a second server is started on the log of a running one.
/// Guarantee: it refuses and says why; the first one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_one_server() {
    let options = server();
    let first = options.start().await;
    let refusal = options.try_start().await.expect_err("the log is in use");
    assert!(refusal.contains("is in use by process"), "{refusal}");
    let sent = export(&first, &traffic(44).request(7)).await;
    assert_eq!(count_spans(&first).await, sent);
}
