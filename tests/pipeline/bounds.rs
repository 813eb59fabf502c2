//! Bounds: what a store that is away, and clients that misbehave, can do to others.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use prost::Message;
use spanlake_testkit::{Code, GrpcAnswer, HttpAnswer, HttpClient, OtlpGrpcClient, S3Server, ServerProcess, wait_until};

use crate::delta_files::DeltaFiles;
use crate::visibility::input_tokens;
use crate::{count_spans, export, server, traffic};

/// A figure of `/metrics`.
pub(crate) async fn figure(server: &ServerProcess, name: &str) -> f64 {
    let text = server.http().get("/metrics").await.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// What was acknowledged, by several senders together.
#[derive(Default)]
struct Sent {
    spans: AtomicI64,
    tokens: AtomicI64,
}

/// Sends until the log is full, by turns over gRPC and HTTP. A push-back says when to come again.
async fn send_until_pushed_back(server: &ServerProcess, seed: u64, sent: &Sent) {
    const SPANS: usize = 64;
    let addresses = server.addresses();
    let (http, grpc) = (HttpClient::new(addresses.otlp_http), OtlpGrpcClient::new(addresses.otlp_grpc));
    let source = Mutex::new(traffic(seed));
    // Beyond memory a sender may be told to wait until rows are on the disk; it is the log that ends this.
    wait_until("the log to be full", async || {
        let request = source.lock().expect("one sender").request(SPANS);
        let refusal = if seed.is_multiple_of(2) {
            push_back_of_http(&http.export(request.encode_to_vec()).await)
        } else {
            push_back_of_grpc(&grpc.export(request.encode_to_vec()).await)
        };
        if refusal.is_none() {
            sent.spans.fetch_add(SPANS as i64, Ordering::SeqCst);
            sent.tokens.fetch_add(input_tokens(&request), Ordering::SeqCst);
        }
        refusal.filter(|message| message.contains("the write-ahead log (wal_limit) holds"))
    })
    .await;
}

/// What a refusal says, which has to be one that makes a sender come again; nothing where it is none.
fn push_back_of_http(answer: &HttpAnswer) -> Option<String> {
    let seconds = || answer.header("retry-after")?.parse::<u64>().ok();
    match answer.status {
        200 => None,
        429 | 503 if seconds().is_some_and(|seconds| seconds >= 1) => Some(answer.text()),
        status => panic!("{status} {:?} {}", answer.headers, answer.text()),
    }
}

fn push_back_of_grpc(answer: &GrpcAnswer) -> Option<String> {
    let delay = || answer.details.as_ref()?.retry_delay();
    match answer.code {
        Code::Ok => None,
        Code::ResourceExhausted | Code::Unavailable if delay().is_some() => Some(answer.message.clone()),
        code => panic!("{code:?} {}", answer.message),
    }
}

/// Scenario: the store hangs; four senders send, over gRPC and HTTP, many times what memory may hold, until the log has
/// reached its limit; the server is killed and started again while the store still hangs; then it is back.
/// Guarantee: what is acknowledged goes to spill files and stays visible, once, within the limit of memory; senders are then
/// pushed back with what makes them come again; reading the log at the start keeps to the limit as well; when the store is
/// back all is committed once, no file is left, and as much as before is taken again without a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_absorbed_up_to_the_log_s_limit() {
    const HOT_LIMIT_BYTES: f64 = (2 << 20) as f64;
    let s3 = S3Server::start("telemetry").await;
    let options = server().store(s3.url("lake")).envs(s3.environment());
    let options = options.arg("--flush-interval", "200ms").arg("--flush-bytes", "512KiB");
    let options = options.arg("--message-limit", "1MiB").arg("--memory-limit", "4MiB").arg("--wal-limit", "4MiB");
    let server = options.start().await;
    let sent = Sent::default();
    let first = traffic(600).request(10);
    sent.spans.fetch_add(export(&server, &first).await, Ordering::SeqCst);
    sent.tokens.fetch_add(input_tokens(&first), Ordering::SeqCst);
    wait_until("a commit", async || (figure(&server, "spanlake_committed_rows_total").await > 0.0).then_some(())).await;

    let hanging = s3.hold_writes().await;
    let senders = (601..605).map(|seed| send_until_pushed_back(&server, seed, &sent));
    futures::future::join_all(senders).await;
    let (spans, tokens) = (sent.spans.load(Ordering::SeqCst), sent.tokens.load(Ordering::SeqCst));
    let check = async |server: &ServerProcess| {
        assert_eq!(count_spans(server).await, spans);
        assert_eq!(server.sql_int("SELECT sum(input_tokens) FROM spans").await, tokens);
        assert_eq!(server.sql_int("SELECT count(DISTINCT span_id) FROM spans").await, spans);
        let hot_bytes = figure(server, "spanlake_hot_bytes").await;
        assert!(hot_bytes <= HOT_LIMIT_BYTES, "{hot_bytes}");
    };
    check(&server).await;
    let (spilled, hot) = (figure(&server, "spanlake_spilled_rows").await, figure(&server, "spanlake_hot_rows").await);
    assert!(spilled > 2.0 * hot && spilled + hot >= (spans - 10) as f64, "{spilled} spilled, {hot} in memory");
    // One span is found wherever it lies, and what no file can hold is not read.
    let one = server.sql("SELECT trace_id, span_id FROM spans ORDER BY received_time DESC, span_id LIMIT 1").await;
    let ids = serde_json::json!([one[0]["trace_id"], one[0]["span_id"]]);
    let found = server.sql_with("SELECT count(*) AS n FROM spans WHERE trace_id = $1 AND span_id = $2", ids).await;
    assert_eq!(found[0]["n"], 1);
    assert_eq!(server.sql_int("SELECT count(*) FROM spans WHERE date < '2001-01-01'").await, 0);

    let server = server.sigkill().await.start().await;
    check(&server).await;
    assert!(figure(&server, "spanlake_spilled_rows").await > hot);

    drop(hanging);
    let table = s3.bucket_directory().join("lake/default/spans");
    crate::visibility::committed_with_constant_count(&server, &table, spans).await;
    assert_eq!(DeltaFiles::read(&table).rows_and_sum("input_tokens"), (spans as u64, tokens));
    for name in ["spanlake_spilled_rows", "spanlake_spilled_bytes", "spanlake_hot_rows"] {
        assert_eq!(figure(&server, name).await, 0.0, "{name}");
    }
    assert_eq!(std::fs::read_dir(options.wal_dir().join("spill")).expect("the directory").count(), 0);
    wait_until("the log to be freed", async || (figure(&server, "spanlake_wal_bytes").await == 0.0).then_some(()))
        .await;
    let mut source = traffic(605);
    let mut again = 0;
    for _ in 0..20 {
        again += export(&server, &source.request(64)).await;
    }
    assert_eq!(count_spans(&server).await, spans + again);
}
