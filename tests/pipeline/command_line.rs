//! The command line: what people type, what they read, and the exit codes that scripts rely on.

use std::process::Output;

use serde_json::{Value, json};
use spanlake_testkit::ServerOptions;

use crate::{count_spans, export, server, traffic};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn fails(output: &Output, code: i32, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

/// Scenario: `spanlake sql` in every format against a running server, and straight on its store once it has ended.
/// Guarantee: both show the same rows; the table names its columns and counts its rows; text formats end their last line.
#[tokio::test(flavor = "multi_thread")]
async fn sql_is_asked_of_a_server_and_of_a_store() {
    let running = server().start().await;
    let sent = export(&running, &traffic(301).request(40)).await;
    let url = format!("http://{}", running.addresses().http);
    let sql = "SELECT name, count(*) AS spans FROM spans GROUP BY name ORDER BY name";
    let ask = async |options: &ServerOptions, place: [&str; 2], format: &str| {
        stdout(&options.run(&["sql", sql, place[0], place[1], "--format", format]).await)
    };
    let on_server = ["--server", url.as_str()];
    let mut answers = Vec::new();
    for format in ["table", "json", "ndjson", "csv"] {
        let answer = ask(running.options(), on_server, format).await;
        assert!(answer.ends_with('\n'), "{format}: {answer}");
        answers.push((format, answer));
    }
    let rows: Vec<Value> = serde_json::from_str(&answers[1].1).expect("JSON");
    let total: i64 = rows.iter().map(|row| row["spans"].as_i64().expect("a count")).sum();
    assert_eq!(total, sent);
    let table = &answers[0].1;
    assert!(table.contains("| name ") && table.contains(&format!("\n{} rows\n", rows.len())), "{table}");
    assert_eq!(answers[2].1.lines().count(), rows.len());
    assert_eq!(answers[3].1.lines().count(), rows.len() + 1);

    let options = running.stop().await;
    let store = options.store_url().to_owned();
    for (format, answer) in answers {
        assert_eq!(ask(&options, ["--store", &store], format).await, answer, "{format}");
    }
}

/// Scenario: statements that fail, servers and stores that are not there.
/// Guarantee: exit code 1 with the place marked, or 3 with what to do; nothing is written where a store was only asked for.
#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_to_do() {
    let running = server().start().await;
    let options = running.options().clone();
    let url = format!("http://{}", running.addresses().http);
    let wrong = "SELECT name\nFROM spans\nWHERE naem = 'x'";
    fails(&options.run(&["sql", wrong, "--server", &url]).await, 1, &["naem"]);
    fails(&options.run(&["sql", "DROP TABLE spans", "--server", &url]).await, 1, &["error: "]);
    let otlp = format!("http://{}", running.addresses().otlp_http);
    fails(&options.run(&["sql", "SELECT 1", "--server", &otlp]).await, 1, &["404"]);
    let nobody = "http://127.0.0.1:1";
    fails(&options.run(&["sql", "SELECT 1", "--server", nobody]).await, 3, &["spanlake serve", "--store"]);
    fails(&options.run(&["rollup", "list", "--control", nobody]).await, 3, &["spanlake serve"]);
    fails(&options.run(&["sql", "SELECT 1", "--store", "no-such-store"]).await, 1, &["no-such-store"]);
    assert!(!options.home().join("no-such-store").exists());
}

/// Scenario: a configuration that is wrong in two places, and a port that is taken.
/// Guarantee: exit code 2 with file, line and key of both, before anything is opened; exit code 1 naming key and address.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_refused_whole() {
    let options = server();
    let file = options.home().join("lake.toml");
    std::fs::write(&file, "flush_intervall = \"1s\"\n\nwal_limit = 7\n").expect("a file");
    let file = file.to_str().expect("text");
    let refused = options.run(&["serve", "--config", file, "--store", "made"]).await;
    fails(&refused, 2, &["lake.toml:1: unknown key `flush_intervall`, did you mean `flush_interval`?"]);
    fails(&refused, 2, &["lake.toml:3: wal_limit: `7` has no unit"]);
    fails(&options.run(&["serve", "--no-such-flag"]).await, 2, &["--no-such-flag"]);
    assert!(!options.home().join("made").exists());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let refused = options
        .run(&[
            "serve",
            "--store",
            "made",
            "--http-addr",
            &address,
            "--otlp-grpc-addr",
            "127.0.0.1:0",
            "--otlp-http-addr",
            "127.0.0.1:0",
            "--flight-addr",
            "127.0.0.1:0",
        ])
        .await;
    fails(&refused, 1, &["http_addr", &address, "--http-addr"]);
}

/// Scenario: a configuration file, and an environment variable that beats it.
/// Guarantee: the running server obeys the stronger one.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_beats_the_file() {
    let options = server();
    let file = options.home().join("lake.toml");
    std::fs::write(&file, "query_row_limit = 1\nlog_format = \"json\"\n").expect("a file");
    let file = file.to_str().expect("text").to_owned();
    let limit = ("SPANLAKE_QUERY_ROW_LIMIT".to_owned(), "2".to_owned());
    let running = options.arg("--config", file).envs([limit]).start().await;
    assert_eq!(running.sql("VALUES (1), (2)").await.len(), 2);
    let answer = running.post_sql(&json!({"sql": "VALUES (1), (2), (3)"}), &[]).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    let log = running.stderr();
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
    assert_eq!(count_spans(&running).await, 0);
}
