use std::path::PathBuf;
use std::sync::Arc;

use spanlake_schema::DEFAULT_TENANT;
use spanlake_storage::TableSource;

use super::*;
use crate::fixture::{Fixture, csv, numbered, options};
use crate::{QueryEngine, QueryErrorKind};

const HEADER: &str = "-- name: mine\n-- description: a view\n";

fn with(files: &[(&str, &str)]) -> Result<Views, QueryError> {
    Views::of(BUILT_IN.iter().copied().chain(files.iter().copied()))
}

/// What is said about a view `mine` with this SELECT, at load or when the engine plans it.
async fn refusal(select: &str) -> String {
    let text = format!("{HEADER}{select}");
    let fixture = Fixture::new().await;
    let error = match with(&[("mine.sql", &text)]) {
        Ok(views) => QueryEngine::with_views(fixture, options(), views).expect_err("the view is wrong"),
        Err(error) => error,
    };
    assert!(matches!(error.kind, QueryErrorKind::Invalid | QueryErrorKind::Forbidden), "{error:?}");
    error.message
}

/// Scenario: the folder of views. Guarantee: every file in it is built in, and described.
#[test]
fn every_file_is_built_in() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../sql/views"));
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder of views")
        .map(|entry| format!("sql/views/{}", entry.expect("an entry").file_name().to_string_lossy()))
        .collect();
    files.sort_unstable();
    let built_in: Vec<_> = BUILT_IN.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(files, built_in);
    let views = Views::built_in().expect("the built-in views are right");
    assert_eq!(views.list().count(), files.len());
    assert!(views.list().all(|(_, description)| description.len() > 20));
}

/// Scenario: views that are wrong. Guarantee: the message names file, line and column, and what is wrong.
#[tokio::test]
async fn a_wrong_view_is_refused_at_load() {
    for (select, message) in [
        ("SELECT mode FROM spans", "mine.sql:3:8: no field named mode"),
        ("SELECT\n  model FROM\n  spam", "mine.sql:3:1: there is no table and no view spam"),
        ("SELECT model FROM spans WHERE", "mine.sql:3:30: sql parser: "),
        ("SELECT 1; SELECT 2", "mine.sql:3:1: several statements"),
        ("DELETE FROM spans", "mine.sql:3:1: DELETE FROM is refused"),
        ("SHOW TABLES", "mine.sql:3:1: a view is exactly one select"),
        ("SELECT model FROM spans WHERE model = $model", "mine.sql:3:1: a view has no parameters, this one has $model"),
        ("SELECT * FROM '/etc/passwd'", "mine.sql:3:1: "),
        ("SELECT * FROM mine", "mine.sql:3:1: views read each other in a circle: mine → mine"),
    ] {
        let refusal = refusal(select).await;
        assert!(refusal.starts_with(message), "{select}: {refusal}");
    }
    let error = |file: &str, text: &str| with(&[(file, text)]).expect_err("the view is wrong").message;
    assert_eq!(
        error("mine.sql", "-- name: other\nSELECT 1"),
        "mine.sql:1:1: name other differs from the file's name mine"
    );
    assert_eq!(error("mine.sql", "-- name: mine\nSELECT 1"), "mine.sql:1:1: the header has no key description");
    assert_eq!(error("spans.sql", "-- name: spans\nSELECT 1"), "spans.sql:1:1: name spans is that of a table");
    let error = with(&[("a/llm_calls.sql", "-- name: llm_calls\n-- description: another\nSELECT 1")]);
    let message = "a/llm_calls.sql:1:1: view llm_calls is defined in sql/views/llm_calls.sql too";
    assert_eq!(error.expect_err("defined twice").message, message);
    let (one, two) =
        ("-- name: one\n-- description: a\nSELECT * FROM two", "-- name: two\n-- description: b\nSELECT * FROM one");
    let error = with(&[("one.sql", one), ("two.sql", two)]).expect_err("a circle");
    assert_eq!(error.message, "two.sql:3:1: views read each other in a circle: one → two → one");
}

/// Scenario: a user's folder with views over a table, over the product's and over each other. Guarantee: statements read
/// them like tables, SHOW TABLES and the information schema list them, filters reach the table below.
#[tokio::test]
async fn a_users_views_stand_beside_the_tables() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("missing");
    let error = Views::with_user_files(&missing).expect_err("no such directory").message;
    assert!(error.starts_with(&format!("sql_dir: cannot read {}", missing.display())), "{error}");
    assert_eq!(Views::with_user_files(directory.path()).expect("no views").list().count(), BUILT_IN.len());

    std::fs::create_dir(directory.path().join("views")).expect("a folder");
    let write = |name: &str, select: &str| {
        let text = format!("-- name: {name}\n-- description: a view of a user\n--\n-- Prose.\n{select};\n");
        std::fs::write(directory.path().join(format!("views/{name}.sql")), text).expect("written");
    };
    write("long_spans", "SELECT trace_id, duration_ns FROM spans WHERE duration_ns > 1010");
    write("longest_span", "SELECT * FROM long_spans ORDER BY duration_ns DESC LIMIT 1");
    std::fs::write(directory.path().join("views/notes.txt"), "not SQL").expect("written");
    let fixture = Fixture::new().await;
    fixture.commit(DEFAULT_TENANT, &numbered(0, 100)).await;
    fixture.set_hot(DEFAULT_TENANT, &numbered(200, 100));
    let views = Views::with_user_files(directory.path()).expect("right views");
    let engine = QueryEngine::with_views(fixture as Arc<dyn TableSource>, options(), views).expect("an engine");

    assert_eq!(csv(&engine, "SELECT count(*) AS n FROM long_spans").await.expect("rows"), ["n", "189"]);
    assert_eq!(csv(&engine, "SELECT duration_ns FROM longest_span").await.expect("rows"), ["duration_ns", "1299"]);
    let joined = "SELECT count(*) AS n FROM long_spans a JOIN spans b USING (trace_id) WHERE a.trace_id IN \
                  (SELECT trace_id FROM longest_span)";
    assert_eq!(csv(&engine, joined).await.expect("rows"), ["n", "1"]);
    let listed =
        "SELECT table_name, table_type FROM information_schema.tables WHERE table_name LIKE 'long%' ORDER BY 1";
    assert_eq!(
        csv(&engine, listed).await.expect("rows"),
        ["table_name,table_type", "long_spans,VIEW", "longest_span,VIEW"]
    );
    let shown = csv(&engine, "SHOW TABLES").await.expect("rows");
    assert!(shown.iter().any(|row| row.contains("longest_span")), "{shown:?}");
    let columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'longest_span' ORDER BY 1";
    assert_eq!(csv(&engine, columns).await.expect("rows"), ["column_name", "duration_ns", "trace_id"]);
    let plan = csv(&engine, "EXPLAIN SELECT * FROM long_spans WHERE trace_id = 'x'").await.expect("a plan").join("\n");
    let scan = plan.split("TableScan: spans").nth(1).expect("a scan of the table");
    assert!(scan.lines().next().is_some_and(|line| line.contains("trace_id = ")), "{plan}");
    let error = csv(&engine, "SELECT * FROM longest_spam").await.expect_err("no such view");
    assert_eq!(error.kind, QueryErrorKind::Invalid);
}
