//! The same on S3: a real S3 protocol server, started by the test.

use prost::Message;
use spanlake_testkit::{Code, S3Server, wait_until};

use crate::delta_files::DeltaFiles;
use crate::visibility::input_tokens;
use crate::{count_spans, export, server, traffic};

/// Scenario: store on S3; send, query hot, flush, query cold, kill, restart, end in good order.
/// Guarantee: the count is right at every step; two readers of the open table, `spanlake sql` on the store and one that knows
/// only the Delta log and Parquet, agree on count and sum of tokens.
#[tokio::test(flavor = "multi_thread")]
async fn spans_go_to_s3_and_come_back() {
    let s3 = S3Server::start("telemetry").await;
    let options = server().store(s3.url("prod/lake")).envs(s3.environment()).arg("--flush-interval", "500ms");
    let server = options.start().await;
    let table = s3.bucket_directory().join("prod/lake/default/spans");
    let mut source = traffic(51);
    let (mut sent, mut tokens) = (0, 0);
    for size in [300, 512, 1] {
        let request = source.request(size);
        tokens += input_tokens(&request);
        sent += export(&server, &request).await;
        assert_eq!(count_spans(&server).await, sent, "hot");
    }
    wait_until("all spans are committed to S3", async || {
        assert_eq!(count_spans(&server).await, sent, "while the flush runs");
        (DeltaFiles::read(&table).claimed_rows() == sent as u64).then_some(())
    })
    .await;
    assert_eq!(count_spans(&server).await, sent, "cold");

    let request = source.request(77);
    tokens += input_tokens(&request);
    sent += export(&server, &request).await;
    let server = server.sigkill().await.start().await;
    assert_eq!(count_spans(&server).await, sent, "after the kill");
    server.stop().await;

    assert_eq!(DeltaFiles::read(&table).rows_and_sum("input_tokens"), (sent as u64, tokens));
    let sql = "SELECT 'spans ' || count(*) || ', tokens ' || sum(input_tokens) AS answer FROM spans";
    let output = options.run(&["sql", sql, "--store", options.store_url()]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("spans {sent}, tokens {tokens}")), "{text}");
}

/// Scenario: two servers with logs of their own on one store, sending at the same time.
/// Guarantee: each table takes both writers' commits, none is lost or doubled, and both servers show everything that is
/// committed.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_share_one_store() {
    let s3 = S3Server::start("telemetry").await;
    let start = async || {
        let options = server().store(s3.url("lake")).envs(s3.environment()).arg("--flush-interval", "200ms");
        options.start().await
    };
    let (first, second) = (start().await, start().await);
    let send = async |server: &spanlake_testkit::ServerProcess, seed: u64| {
        let mut source = traffic(seed);
        let mut sent = 0;
        for _ in 0..20 {
            sent += export(server, &source.request(25)).await;
        }
        sent
    };
    let (a, b) = tokio::join!(send(&first, 61), send(&second, 62));
    for server in [&first, &second] {
        wait_until("both servers' spans are visible", async || (count_spans(server).await == a + b).then_some(()))
            .await;
        assert_eq!(server.sql_int("SELECT count(DISTINCT span_id) FROM spans").await, a + b);
    }
    let table = DeltaFiles::read(&s3.bucket_directory().join("lake/default/spans"));
    assert_eq!(table.claimed_rows(), (a + b) as u64);
    assert_eq!(table.transactions.len(), 2 * 2, "a position and a nonce of each: {:?}", table.transactions);
}

/// Scenario: a store that cannot be reached, and one of a kind that is not built in.
/// Guarantee: the server ends with a message that names the store; no secret is in it.
#[tokio::test(flavor = "multi_thread")]
async fn stores_that_cannot_be_used_are_named() {
    let s3 = S3Server::start("telemetry").await;
    let strange = server().store("gs://bucket/lake").try_start().await.expect_err("gs:// is not built in");
    assert!(strange.contains("gs://bucket/lake") || strange.contains("gs"), "{strange}");
    let environment = s3.environment().into_iter().map(|(key, value)| match key.as_str() {
        "AWS_SECRET_ACCESS_KEY" => (key, "not-the-right-secret".to_owned()),
        _ => (key, value),
    });
    let options = server().store(s3.url("lake")).envs(environment);
    let refused = options.try_start().await.expect_err("the secret is wrong");
    assert!(refused.contains("s3://telemetry/lake"), "{refused}");
    assert!(!refused.contains("not-the-right-secret"), "{refused}");
}

/// Scenario: the store hangs until the log has reached its limit; then it is back.
/// Guarantee: senders are pushed back with what makes them come again, `Retry-After` over HTTP and `RetryInfo` over gRPC;
/// nothing of a refused request is stored and everything acknowledged stays visible; once the store is back it is all
/// committed, and senders are taken again.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_store_pushes_senders_back() {
    let s3 = S3Server::start("telemetry").await;
    let options = server().store(s3.url("lake")).envs(s3.environment()).arg("--flush-interval", "200ms");
    let server = options.arg("--message-limit", "1MiB").arg("--wal-limit", "4MiB").start().await;
    let hanging = s3.hold_writes().await;
    let mut source = traffic(63);
    let mut sent = 0;
    let refusal = loop {
        let request = source.request(512);
        let answer = server.otlp_http().export(request.encode_to_vec()).await;
        if answer.status != 200 {
            break answer;
        }
        sent += 512;
        assert!(sent < 512 * 100, "the log has a limit of 4 MiB and took {sent} spans");
    };
    assert!(sent > 0 && matches!(refusal.status, 429 | 503), "{} {}", refusal.status, refusal.text());
    let seconds = refusal.header("retry-after").expect("Retry-After").parse::<u64>();
    assert!(seconds.is_ok_and(|seconds| seconds >= 1), "{:?}", refusal.headers);
    let grpc = server.grpc().export(source.request(512).encode_to_vec()).await;
    assert!(matches!(grpc.code, Code::ResourceExhausted | Code::Unavailable), "{:?}: {}", grpc.code, grpc.message);
    assert!(grpc.details.and_then(|status| status.retry_delay()).is_some(), "no RetryInfo: {}", grpc.message);
    assert_eq!(count_spans(&server).await, sent);

    drop(hanging);
    let last = source.request(1).encode_to_vec();
    wait_until("a request is taken again", async || {
        let answer = server.otlp_http().export(last.clone()).await;
        (answer.status == 200).then_some(())
    })
    .await;
    sent += 1;
    let table = s3.bucket_directory().join("lake/default/spans");
    wait_until("all is committed", async || {
        assert_eq!(count_spans(&server).await, sent);
        (DeltaFiles::read(&table).claimed_rows() == sent as u64).then_some(())
    })
    .await;
}
