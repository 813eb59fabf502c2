//! Several processes on one store that fails: conditional puts that lose, and commits whose answers get lost.

use std::sync::Mutex;
use std::time::Duration;

use prost::Message;
use spanlake_testkit::{HttpClient, PROTOBUF, S3Fault, S3Server, ServerOptions, ServerProcess, Traffic, wait_until};

use crate::delta_files::DeltaFiles;
use crate::visibility::input_tokens;
use crate::{count_spans, server, traffic};

const REQUESTS: usize = 20;
const SPANS: usize = 7;

/// Sends a request until it is stored.
async fn insist(server: &ServerProcess, body: &[u8]) {
    let http = HttpClient::new(server.addresses().otlp_http);
    wait_until("a request to be taken", async || {
        let answer = http.try_request("POST", "/v1/traces", &[("content-type", PROTOBUF)], body.to_vec()).await;
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}

/// Sends so many requests over two connections, and says how many tokens they told of.
async fn send(server: &ServerProcess, source: Traffic) -> i64 {
    let (source, tokens) = (Mutex::new(source), Mutex::new(0));
    let connection = async || {
        for _ in 0..REQUESTS / 2 {
            let request = source.lock().expect("one at a time").request(SPANS);
            *tokens.lock().expect("one at a time") += input_tokens(&request);
            insist(server, &request.encode_to_vec()).await;
        }
    };
    tokio::join!(connection(), connection());
    tokens.into_inner().expect("they have ended")
}

/// Scenario: two servers commit every few milliseconds to the same tables of a store that loses answers of commits it did,
/// answers 500 and 503, is slow and cuts connections; in the middle one of them is killed and started again.
/// Guarantee: conflicts and lost answers end in one outcome each: both show every span once, each writer's positions only grow
/// in the table's log, files and rows agree, and `verify` is clean.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_a_store_that_loses_answers_store_all_once() {
    let s3 = S3Server::start("telemetry").await;
    let options = |ack: &str| -> ServerOptions {
        let options = server().store(s3.url("lake")).envs(s3.environment());
        options.arg("--flush-interval", "20ms").arg("--ack", ack)
    };
    let (one, other) = (options("wal").start().await, options("commit").start().await);
    let faults = [
        S3Fault::LostAnswer,
        S3Fault::Status(500),
        S3Fault::Status(503),
        S3Fault::Slow(Duration::from_millis(10)),
        S3Fault::Cut,
    ];
    s3.fail_by_seed(4711, 100, &faults);
    let (first, second) = tokio::join!(send(&one, traffic(81)), send(&other, traffic(82)));
    let one = one.sigkill().await.start().await;
    let (third, fourth) = tokio::join!(send(&one, traffic(83)), send(&other, traffic(84)));
    assert!(s3.injected() > 20, "{} faults", s3.injected());
    s3.heal();
    let (spans, tokens) = ((4 * REQUESTS * SPANS) as u64, first + second + third + fourth);
    let table = s3.bucket_directory().join("lake/default/spans");
    wait_until("all to be committed", async || (DeltaFiles::read(&table).claimed_rows() == spans).then_some(())).await;
    let files = DeltaFiles::read(&table);
    assert_eq!(files.rows_and_sum("input_tokens"), (spans, tokens));
    assert_eq!(files.transactions.len(), 2 * 2, "a position and a nonce of each: {:?}", files.transactions);
    for server in [&one, &other] {
        wait_until("the other's commits to be seen", async || {
            (count_spans(server).await >= spans as i64).then_some(())
        })
        .await;
        assert_eq!(count_spans(server).await, spans as i64);
        assert_eq!(server.sql_int("SELECT count(DISTINCT span_id) FROM spans").await, spans as i64);
    }
    let store = one.stop().await;
    other.stop().await;
    let (is_clean, report) = crate::verify::verify_store(&store, store.store_url()).await;
    assert!(is_clean, "{report:#}");
}
