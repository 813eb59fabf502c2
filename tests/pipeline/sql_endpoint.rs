//! SQL over HTTP: formats, parameters, refusals, limits.

use std::io::Cursor;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type};
use arrow::ipc::reader::StreamReader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use spanlake_testkit::{HttpAnswer, ServerProcess};

use crate::{count_spans, export, server, traffic};

/// Posts raw SQL and asks for a media type.
async fn ask(server: &ServerProcess, sql: &str, accept: &str) -> HttpAnswer {
    server.http().post("/api/v1/sql", &[("content-type", "text/plain"), ("accept", accept)], sql.to_owned()).await
}

/// Scenario: one query with text, NULL, numbers, a list and a time, asked for in every format.
/// Guarantee: each answer has the media type asked for and holds the same rows, an empty result too; a type nobody writes
/// gets 406.
#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_format_asked_for() {
    let sql = r#"SELECT column1 AS name, column2 AS tokens, column3 AS share
        FROM (VALUES ('a "quoted", b', 9007199254740993, 0.5), (NULL, -1, NULL)) ORDER BY tokens DESC"#;
    let server = server().start().await;
    let rows = json!([{"name": "a \"quoted\", b", "tokens": 9_007_199_254_740_993_i64, "share": 0.5}, {"tokens": -1}]);
    let without_nulls = |value: &Value| match value {
        Value::Object(row) => Value::Object(row.clone().into_iter().filter(|(_, value)| !value.is_null()).collect()),
        other => other.clone(),
    };

    for accept in ["application/json", "*/*", "text/html, */*;q=0.8"] {
        let answer = ask(&server, sql, accept).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/json")),
            "{}",
            answer.text()
        );
        let found: Vec<Value> = answer.json().as_array().expect("an array").iter().map(without_nulls).collect();
        assert_eq!(Value::Array(found), rows);
    }
    let answer = ask(&server, sql, "application/x-ndjson").await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        answer.text().lines().map(|line| without_nulls(&serde_json::from_str(line).expect("JSON"))).collect();
    assert_eq!(Value::Array(lines), rows);

    let answer = ask(&server, sql, "text/csv").await;
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/csv")));
    let text = answer.text().replace("\r\n", "\n");
    assert_eq!(text, "name,tokens,share\n\"a \"\"quoted\"\", b\",9007199254740993,0.5\n,-1,\n");

    let answer = ask(&server, sql, "application/vnd.apache.arrow.stream").await;
    assert_eq!(answer.header("content-type"), Some("application/vnd.apache.arrow.stream"));
    let batches: Vec<_> =
        StreamReader::try_new(Cursor::new(answer.body), None).expect("IPC").map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 2);
    assert_eq!(batches[0].column(1).as_primitive::<Int64Type>().value(0), 9_007_199_254_740_993);

    let answer = ask(&server, sql, "application/vnd.apache.parquet").await;
    assert_eq!(answer.header("content-type"), Some("application/vnd.apache.parquet"));
    let parquet = ParquetRecordBatchReaderBuilder::try_new(answer.body).expect("Parquet").build().expect("a reader");
    let batches: Vec<_> = parquet.map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 2);
    assert!(batches[0].column(0).is_null(1));

    assert_eq!(ask(&server, sql, "image/png").await.status, 406);
    empty_results_have_a_shape(&server).await;
}

async fn empty_results_have_a_shape(server: &ServerProcess) {
    const SQL: &str = "SELECT name, input_tokens FROM spans WHERE name = 'none such'";
    assert_eq!(ask(server, SQL, "application/json").await.json(), json!([]));
    assert_eq!(ask(server, SQL, "application/x-ndjson").await.body.len(), 0);
    assert_eq!(ask(server, SQL, "text/csv").await.text().trim_end(), "name,input_tokens");
    let answer = ask(server, SQL, "application/vnd.apache.arrow.stream").await;
    let schema = StreamReader::try_new(Cursor::new(answer.body), None).expect("IPC").schema();
    assert_eq!(schema.field(1).data_type(), &DataType::Int64);
    let answer = ask(server, SQL, "application/vnd.apache.parquet").await;
    let builder = ParquetRecordBatchReaderBuilder::try_new(answer.body).expect("Parquet");
    assert_eq!((builder.schema().fields().len(), builder.metadata().file_metadata().num_rows()), (2, 0));
}

/// Scenario: parameters by place and by name, of every JSON type, one of them an attempt at injection.
/// Guarantee: they are bound as values and never read as SQL.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_bound() {
    let server = server().start().await;
    export(&server, &traffic(91).request(100)).await;
    let chats = server.sql_int("SELECT count(*) FROM spans WHERE operation = 'chat'").await;
    assert!(chats > 0);
    let sql = "SELECT count(*) AS n FROM spans WHERE operation = $1 AND duration_ns > $2";
    assert_eq!(server.sql_with(sql, json!(["chat", 0])).await[0]["n"], chats);
    let sql = "SELECT count(*) AS n FROM spans WHERE operation = $operation";
    assert_eq!(server.sql_with(sql, json!({"operation": "chat"})).await[0]["n"], chats);
    assert_eq!(server.sql_with(sql, json!({"operation": "x' OR '1'='1"})).await[0]["n"], 0);
    let row = &server.sql_with("SELECT $1 AS a, $2 AS b, $3 AS c", json!(["x", 1.5, true])).await[0];
    assert_eq!(Value::Object(row.clone()), json!({"a": "x", "b": 1.5, "c": true}));
    let missing = server.post_sql(&json!({"sql": sql, "params": {}}), &[]).await;
    assert_eq!(missing.status, 400, "{}", missing.text());
}

/// The text of an error answer, in any of its fields.
fn message(answer: &HttpAnswer) -> String {
    answer.json().to_string().to_lowercase()
}

/// Scenario: statements that would write, change the session, or leave the lake.
/// Guarantee: 403 with a reason; afterwards the data and the tables are as before.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_would_write_is_refused() {
    let options = server();
    let server = options.start().await;
    let sent = export(&server, &traffic(92).request(50)).await;
    let outside = options.home().join("outside.csv");
    std::fs::write(&outside, "a,b\n1,2\n").expect("a file");
    let path = outside.display();
    let statements = [
        "INSERT INTO spans (name) VALUES ('x')".to_owned(),
        "DELETE FROM spans".to_owned(),
        "UPDATE spans SET name = 'x'".to_owned(),
        "DROP TABLE spans".to_owned(),
        "CREATE TABLE t AS SELECT 1".to_owned(),
        "CREATE VIEW v AS SELECT * FROM spans".to_owned(),
        "CREATE SCHEMA s".to_owned(),
        format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{path}'"),
        format!("COPY (SELECT 1) TO '{}'", options.home().join("copied.csv").display()),
        format!("SELECT * FROM '{path}'"),
        format!("SELECT * FROM read_csv('{path}')"),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "SELECT 1; DROP TABLE spans".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO spans (name) VALUES ('x')".to_owned(),
        "PREPARE p AS DELETE FROM spans".to_owned(),
        "TRUNCATE TABLE spans".to_owned(),
    ];
    for sql in statements {
        let answer = ask(&server, &sql, "application/json").await;
        // A table function that does not exist cannot be planned at all: that is as safe.
        let is_refused = answer.status == 403 || answer.status == 400 && sql.contains("read_csv");
        assert!(is_refused, "{sql}: {} {}", answer.status, answer.text());
        assert!(message(&answer).len() > 20, "{sql}: {}", answer.text());
    }
    assert_eq!(count_spans(&server).await, sent);
    assert!(!options.home().join("copied.csv").exists());
    let tables = server.sql("SELECT table_name FROM information_schema.tables WHERE table_name IN ('t', 'v')").await;
    assert!(tables.is_empty(), "{tables:?}");
}

/// Scenario: statements that cannot be parsed or planned, and bodies that are no statement.
/// Guarantee: 400 with the engine's message and, where it is known, line and column.
#[tokio::test(flavor = "multi_thread")]
async fn bad_statements_say_what_is_wrong_and_where() {
    let server = server().start().await;
    let answer = ask(&server, "SELECT *\nFROM spans\nWHERE naem = 'x'", "application/json").await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(message(&answer).contains("naem"), "{}", answer.text());
    let answer = ask(&server, "SELECT name FORM spans WHERE", "application/json").await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let text = message(&answer);
    assert!(text.contains("line") && text.contains("column"), "{text}");
    for sql in ["", "   ", "SELECT * FROM no_such_table", "SELECT no_such_function(1)", "SELECT $1"] {
        let answer = ask(&server, sql, "application/json").await;
        assert_eq!(answer.status, 400, "{sql:?}: {}", answer.text());
    }
    for body in ["{", "{}", r#"{"sql": 5}"#, "[]"] {
        let answer = server.http().post("/api/v1/sql", &[("content-type", "application/json")], body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    for (method, path, status) in
        [("GET", "/api/v1/sql", 400), ("PUT", "/api/v1/sql", 405), ("POST", "/api/v1/sqll", 404)]
    {
        let answer = server.http().request(method, path, &[("content-type", "text/plain")], "SELECT 1").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    let answer = server.http().get("/api/v1/sql?q=SELECT%201%20AS%20one").await;
    assert_eq!((answer.status, answer.json()), (200, json!([{"one": 1}])));
}

/// Scenario: a row limit of 100, and answers of 100 and of 101 rows and more, small and streamed.
/// Guarantee: an answer that would be longer than the limit never looks whole: it is an error, or breaks off.
#[tokio::test(flavor = "multi_thread")]
async fn the_row_limit_never_cuts_silently() {
    let server = server().arg("--query-row-limit", "100").start().await;
    let rows = |count: u32| format!("SELECT value FROM range(0, {count})");
    let whole = ask(&server, &rows(100), "application/json").await;
    assert_eq!((whole.status, whole.json().as_array().map(Vec::len)), (200, Some(100)), "{}", whole.text());
    for accept in ["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"] {
        for count in [101, 50_000] {
            let headers = [("content-type", "text/plain"), ("accept", accept)];
            let answer = server.http().try_request("POST", "/api/v1/sql", &headers, rows(count)).await;
            if let Ok(answer) = answer {
                assert_ne!(answer.status, 200, "{accept}, {count} rows: {}", answer.text());
                assert!(message(&answer).contains("100"), "{}", answer.text());
            }
        }
    }
}

/// Scenario: a query that would run for hours, with a time limit of a second.
/// Guarantee: it ends with 408 and says why, and the server answers the next one.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_limit_ends_a_query() {
    let server = server().arg("--query-timeout", "1s").start().await;
    let endless = "SELECT count(*) FROM range(0, 100000000) a, range(0, 100000000) b WHERE a.value * b.value = -1";
    let answer = ask(&server, endless, "application/json").await;
    assert_eq!(answer.status, 408, "{}", answer.text());
    assert_eq!(count_spans(&server).await, 0);
}

/// Scenario: health, readiness and metrics of a running server.
/// Guarantee: both are fine, and the counters tell what was received, refused, stored and asked.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_tell_the_truth() {
    let server = server().start().await;
    let sent = export(&server, &traffic(93).request(33)).await;
    assert_eq!(server.otlp_http().export(vec![0xff; 9]).await.status, 400);
    assert_eq!(count_spans(&server).await, sent);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.http().get(path).await.status, 200, "{path}");
    }
    let metrics = server.http().get("/metrics").await;
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let text = metrics.text();
    let value = |name: &str| {
        let samples = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>()
    };
    for name in ["spanlake_ingest_received_spans_total", "spanlake_ingest_stored_spans_total"] {
        assert_eq!(value(name), sent as f64, "{name} in\n{text}");
    }
    let malformed = "spanlake_ingest_refused_requests_total{reason=\"malformed\"} 1";
    assert!(text.lines().any(|line| line == malformed), "{text}");
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let number = line.rsplit(' ').next().unwrap_or_default();
        assert!(number.parse::<f64>().is_ok(), "no sample of the text format: {line}");
    }
}
