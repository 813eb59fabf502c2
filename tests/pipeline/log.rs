//! The write-ahead log in the hands of an operator: damage, missing files, a store that is away at the end.

use std::path::{Path, PathBuf};
use std::process::Output;

use prost::Message;
use serde_json::Value;
use spanlake_testkit::{PROTOBUF, S3Server, wait_until};

use crate::{count_spans, export, server, traffic};

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn only_segment(wal_dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(wal_dir).expect("a log").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let segments: Vec<_> = entries.filter(|path| name(path).starts_with("wal-")).collect();
    assert_eq!(segments.len(), 1, "{segments:?}");
    segments[0].clone()
}

/// Scenario: SIGKILL with three requests in the log; a byte of the second one is changed; start again.
/// Guarantee: the server starts, has the other two requests, and says in its log, in /metrics and by `wal inspect` what is
/// lost; `wal export` refuses beside it, and after its end writes what can be read, byte by byte as it was sent.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_the_rest_is_served() {
    let running = server().arg("--flush-interval", "1h").start().await;
    let mut source = traffic(71);
    let requests = [20, 30, 40].map(|spans| source.request(spans));
    for request in &requests {
        export(&running, request).await;
    }
    let options = running.sigkill().await;
    let wal_dir = options.wal_dir();
    let segment = only_segment(&wal_dir);
    let mut bytes = std::fs::read(&segment).expect("a segment");
    let second = requests[1].encode_to_vec();
    let at = bytes.windows(second.len()).position(|part| part == second).expect("the request is in the log");
    bytes[at + 100] ^= 1;
    std::fs::write(&segment, bytes).expect("writes");

    let running = options.start().await;
    assert_eq!(count_spans(&running).await, 60);
    let log = running.stderr();
    assert!(log.contains("the write-ahead log is damaged") && log.contains("first=2 last=2"), "{log}");
    let metrics = running.http().try_request("GET", "/metrics", &[], Vec::new()).await.expect("metrics").text();
    assert!(metrics.contains("\nspanlake_wal_lost_positions_total 1\n"), "{metrics}");
    let dir = wal_dir.to_str().expect("text");
    let page = text(&options.run(&["wal", "inspect", "--wal-dir", dir]).await);
    for part in ["in use", "by process", "position 2: damaged", "position 2 cannot be read", "default 2", "traces 2"] {
        assert!(page.contains(part), "{part} is not in: {page}");
    }
    let output = options.home().join("exported");
    let output = output.to_str().expect("text");
    let command = ["wal", "export", "--wal-dir", dir, "--output", output];
    let in_use = refusal(&options.run(&command).await);
    assert!(in_use.contains("is in use by process") && in_use.contains("--set-aside"), "{in_use}");

    let options = running.sigkill().await;
    let page = text(&options.run(&["wal", "inspect", "--wal-dir", dir, "--json"]).await);
    let page: Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["segments"][0]["damage"][0]["first_position"], 2, "{page}");
    assert_eq!(page["identity"]["lost"][0]["reason"], "damaged", "{page}");
    let exported = text(&options.run(&command).await);
    assert!(exported.contains("2 requests in") && exported.contains("curl"), "{exported}");
    for (position, request) in [(1, &requests[0]), (3, &requests[2])] {
        let file = Path::new(output).join(format!("{position:020}.traces.pb"));
        assert_eq!(std::fs::read(file).expect("exported"), request.encode_to_vec());
    }
    let manifest = std::fs::read_to_string(Path::new(output).join("manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest["requests"][1]["position"], 3, "{manifest}");
    let again = refusal(&options.run(&command).await);
    assert!(again.contains("is not empty"), "{again}");
}

/// Scenario: SIGKILL; the last request in the log is there by its first half, as where a machine loses power while it writes.
/// Guarantee: the server starts, has what came before, says in its log where it cut and how much, and takes the request when
/// it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_told() {
    let running = server().arg("--flush-interval", "1h").start().await;
    let mut source = traffic(72);
    let requests = [20, 30].map(|spans| source.request(spans));
    for request in &requests {
        export(&running, request).await;
    }
    let options = running.sigkill().await;
    let segment = only_segment(&options.wal_dir());
    let mut bytes = std::fs::read(&segment).expect("a segment");
    let last = requests[1].encode_to_vec();
    let at = bytes.windows(last.len()).position(|part| part == last).expect("the request is in the log");
    bytes[at + last.len() / 2..].fill(0);
    std::fs::write(&segment, bytes).expect("writes");

    let running = options.start().await;
    assert_eq!(count_spans(&running).await, 20);
    let log = running.stderr();
    let line = log.lines().find(|line| line.contains("torn tail of the write-ahead log cut")).unwrap_or_default();
    assert!(line.contains(segment.to_str().expect("text")) && line.contains("position=2"), "{log}");
    export(&running, &requests[1]).await;
    assert_eq!(count_spans(&running).await, 50);
}

/// Scenario: the log's only segment is removed by hand; directories that are no log.
/// Guarantee: the server refuses with positions and command; that command makes it start again.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_segment_is_named_with_what_to_do() {
    let running = server().arg("--flush-interval", "1h").start().await;
    export(&running, &traffic(72).request(9)).await;
    // What a start has read is noted.
    let running = running.sigkill().await.start().await;
    let options = running.sigkill().await;
    let wal_dir = options.wal_dir();
    std::fs::remove_file(only_segment(&wal_dir)).expect("removes");
    let refused = options.try_start().await.expect_err("a segment is missing");
    assert!(refused.contains("the requests at positions 1 to 1 are missing"), "{refused}");
    let dir = wal_dir.to_str().expect("text");
    let command = format!("spanlake wal give-up --wal-dir {dir} --positions 1-1");
    assert!(refused.contains(&command), "{refused}");
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    assert_eq!(text(&options.run(&words).await), "given up: position 1\n");
    assert_eq!(count_spans(&options.start().await).await, 0);

    let nowhere = refusal(&options.run(&["wal", "inspect", "--wal-dir", "no-such-log"]).await);
    assert!(nowhere.contains("no-such-log") && nowhere.contains("no such directory"), "{nowhere}");
    let home = options.home().to_str().expect("text");
    let no_log = refusal(&options.run(&["wal", "inspect", "--wal-dir", home]).await);
    assert!(no_log.contains("is no write-ahead log directory"), "{no_log}");
}

/// Scenario: SIGTERM while the store hangs, and nobody sends a second signal.
/// Guarantee: the process ends within `shutdown_timeout` by itself, says how much stays in the log, and the next start has it.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_within_its_limit_while_the_store_hangs() {
    let s3 = S3Server::start("lake").await;
    let options = server().store(s3.url("tables")).envs(s3.environment()).arg("--flush-interval", "1h");
    let mut running = options.arg("--shutdown-timeout", "900ms").start().await;
    let sent = export(&running, &traffic(73).request(64)).await;
    let hanging = s3.hold_writes().await;
    running.sigterm();
    let status = running.wait().await;
    let log = running.stderr();
    assert_eq!(status.code(), Some(1), "{status}\n{log}");
    let left = "rows of the requests at log positions 1 to 1 are not committed and stay in the write-ahead log";
    assert!(log.contains("900ms (shutdown_timeout)") && log.contains(left), "{log}");
    drop(hanging);
    let running = running.options().clone().start().await;
    assert_eq!(count_spans(&running).await, sent);
}

/// Scenario: `ack = "commit"` while the store hangs; the sender comes again with the same request once the store is back.
/// Guarantee: 503 with Retry-After within `ack_timeout`, with what happened to the request; in the end it is stored once.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_does_not_come_pushes_its_sender_back() {
    let s3 = S3Server::start("lake").await;
    let options = server().store(s3.url("tables")).envs(s3.environment());
    let running = options.arg("--ack", "commit").arg("--ack-timeout", "300ms").start().await;
    let hanging = s3.hold_writes().await;
    let request = traffic(74).request(32);
    let body = request.encode_to_vec();
    let answer = running.otlp_http().export(body.clone()).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    let why = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(why.contains("did not commit it within 300ms"), "{why}");
    drop(hanging);
    wait_until("the repeated request is answered", async || {
        let answer =
            running.otlp_http().try_request("POST", "/v1/traces", &[("content-type", PROTOBUF)], body.clone()).await;
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(count_spans(&running).await, 32);
}
