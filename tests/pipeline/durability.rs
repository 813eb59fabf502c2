//! What a crash or an end in good order leaves behind.

use spanlake_testkit::wait_until;

use crate::visibility::spans_table;
use crate::{count_spans, export, server, traffic};

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
