//! A request that comes again: because its answer was lost, because its sender hung up, or because the server died between
//! the two.

use prost::Message;
use spanlake_testkit::{Code, Compression, ServerProcess};

use crate::{count_spans, export, server, traffic};

async fn metric(server: &ServerProcess, name: &str) -> f64 {
    let page = server.http().get("/metrics").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is shown: {page}")).parse().expect("a number")
}

/// Scenario: SIGKILL after the log was synced; as the sender has seen no answer, it sends again: at once, after a flush and a
/// second death, over the other protocol, and compressed.
/// Guarantee: each time it gets its answer, the spans are there once, and the repeats are counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_answer_was_lost_with_the_server_is_stored_once() {
    let options = server().arg("--flush-interval", "1h");
    let server = options.start().await;
    let mut source = traffic(51);
    let (request, other) = (source.request(100), source.request(3));
    let sent = export(&server, &request).await;
    let server = server.sigkill().await.start().await;
    assert_eq!(export(&server, &request).await, sent);
    assert_eq!(count_spans(&server).await, sent);
    assert_eq!(metric(&server, "spanlake_ingest_duplicate_requests_total").await, 1.0);
    assert_eq!(metric(&server, "spanlake_ingest_duplicate_spans_total").await, sent as f64);

    let server = server.restart().await;
    let sent_other = export(&server, &other).await;
    let server = server.sigkill().await.start().await;
    let body = request.encode_to_vec();
    let answer = server.otlp_http().export_compressed(&body, Compression::Zstd).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(server.grpc().export(body).await.code, Code::Ok);
    assert_eq!(count_spans(&server).await, sent + sent_other);
    assert_eq!(metric(&server, "spanlake_ingest_duplicate_requests_total").await, 2.0);
}

/// Guarantee: what was refused is refused again in the same words, and what was stored of the request stays there once.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_same_partial_success() {
    let server = server().start().await;
    let mut request = traffic(52).request(20);
    let broken = &mut request.resource_spans[0].scope_spans[0].spans[0];
    broken.trace_id.clear();
    let answers = [(); 2].map(|()| server.otlp_http().export(request.encode_to_vec()));
    let answers = futures::future::join_all(answers).await;
    assert_eq!(answers[0].status, 200);
    assert_eq!(answers[0].rejected_spans(), 1, "{}", answers[0].text());
    assert_eq!(answers[0].body, answers[1].body);
    let server = server.sigkill().await.start().await;
    let again = server.otlp_http().export(request.encode_to_vec()).await;
    assert_eq!((again.status, &again.body), (200, &answers[0].body));
    assert_eq!(count_spans(&server).await, 19);
}

/// Guarantee: with `retry_window = "0s"` nothing is remembered, and after the window a request is another one.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_window_every_request_is_new() {
    let options = server().arg("--retry-window", "0s");
    let server = options.start().await;
    let request = traffic(53).request(5);
    let sent = export(&server, &request).await + export(&server, &request).await;
    assert_eq!(count_spans(&server).await, sent);
    assert_eq!(metric(&server, "spanlake_ingest_duplicate_requests_total").await, 0.0);
}
