use super::parse;
use crate::QueryErrorKind;

/// Statements that must pass the guard. Whether they can be planned is another question.
const READS: &[&str] = &[
    "SELECT 1",
    "select * from spans",
    "SELECT 1;",
    "  ;; SELECT 1 ; ",
    "-- a comment\nSELECT 1",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "WITH a AS (SELECT 1 AS x), b AS (SELECT x FROM a) SELECT * FROM b",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT * FROM n",
    "VALUES (1, 'a'), (2, 'b')",
    "SELECT * FROM (VALUES (1), (2)) AS t(x)",
    "EXPLAIN SELECT * FROM spans",
    "EXPLAIN ANALYZE SELECT * FROM spans",
    "EXPLAIN VERBOSE SELECT * FROM spans",
    "EXPLAIN FORMAT TREE SELECT * FROM spans",
    "DESCRIBE spans",
    "DESC spans",
    "SHOW TABLES",
    "SHOW COLUMNS FROM spans",
    "SHOW FUNCTIONS",
    "SHOW ALL",
    "SHOW datafusion.execution.batch_size",
    "SHOW CREATE TABLE spans",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM spanlake.public.spans",
    "SELECT * FROM \"spans\" AS s JOIN spans AS t ON s.trace_id = t.trace_id",
    "SELECT attributes['gen_ai.system'] FROM spans",
    "SELECT * FROM spans CROSS JOIN unnest(events) AS e",
    "SELECT * FROM unnest([1, 2])",
    "SELECT * FROM generate_series(1, 10)",
    "SELECT * FROM range(1, 10)",
    "SELECT 'INSERT INTO spans', 'COPY spans TO x', \"drop\" FROM spans",
    "SELECT 'file.parquet' AS name",
    "SELECT * FROM spans WHERE http_url LIKE '%/a.csv' AND name IN ('DROP TABLE spans')",
    "SELECT sum(x) FILTER (WHERE x > 1) OVER (PARTITION BY y ORDER BY z) FROM spans",
    "SELECT $1, $name",
    "SELECT (SELECT max(duration_ns) FROM spans) AS longest",
];

/// Statements that must be refused as forbidden, each with a word that its reason names.
const FORBIDDEN: &[(&str, &str)] = &[
    ("INSERT INTO spans SELECT * FROM spans", "INSERT"),
    ("INSERT INTO spans VALUES (1)", "INSERT"),
    ("UPDATE spans SET name = 'x'", "UPDATE"),
    ("DELETE FROM spans", "DELETE"),
    ("MERGE INTO spans USING s ON true WHEN MATCHED THEN DELETE", "MERGE"),
    ("TRUNCATE TABLE spans", "TRUNCATE"),
    ("CREATE TABLE t AS SELECT 1", "CREATE TABLE"),
    ("CREATE TABLE t (x INT)", "CREATE TABLE"),
    ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
    ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "CREATE EXTERNAL TABLE"),
    ("CREATE UNBOUNDED EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "CREATE EXTERNAL TABLE"),
    ("CREATE SCHEMA s", "CREATE SCHEMA"),
    ("CREATE DATABASE d", "CREATE DATABASE"),
    ("CREATE FUNCTION f() RETURNS INT RETURN 1", "CREATE FUNCTION"),
    ("CREATE INDEX i ON spans (name)", "CREATE INDEX"),
    ("DROP TABLE spans", "DROP TABLE"),
    ("DROP VIEW IF EXISTS v", "DROP VIEW"),
    ("DROP SCHEMA public CASCADE", "DROP SCHEMA"),
    ("ALTER TABLE spans ADD COLUMN x INT", "ALTER TABLE"),
    ("COPY spans TO '/tmp/out.parquet'", "COPY"),
    ("COPY (SELECT * FROM spans) TO 's3://bucket/x.csv' STORED AS CSV", "COPY"),
    ("COPY INTO spans FROM '/tmp/x'", "COPY"),
    ("SET datafusion.execution.batch_size = 1", "SET"),
    ("SET TIME ZONE 'UTC'", "SET"),
    ("RESET datafusion.execution.batch_size", "RESET"),
    ("PREPARE p AS SELECT 1", "PREPARE"),
    ("EXECUTE p(1)", "EXECUTE"),
    ("DEALLOCATE p", "DEALLOCATE"),
    ("BEGIN", "BEGIN"),
    ("START TRANSACTION", "START TRANSACTION"),
    ("COMMIT", "COMMIT"),
    ("ROLLBACK", "ROLLBACK"),
    ("SAVEPOINT s", "SAVEPOINT"),
    ("USE other", "USE"),
    ("GRANT SELECT ON spans TO x", "GRANT"),
    ("ATTACH DATABASE 'x.db' AS y", "ATTACH"),
    ("INSTALL httpfs", "INSTALL"),
    ("LOAD 'httpfs'", "LOAD"),
    ("PRAGMA database_list", "PRAGMA"),
    ("VACUUM spans", "VACUUM"),
    ("CALL f()", "CALL"),
    ("KILL 1", "KILL"),
    ("SELECT 1; SELECT 2", "several statements"),
    ("SELECT 1; DROP TABLE spans", "several statements"),
    ("DROP TABLE spans; SELECT 1", "DROP TABLE"),
    ("EXPLAIN INSERT INTO spans SELECT * FROM spans", "INSERT"),
    ("EXPLAIN ANALYZE INSERT INTO spans SELECT * FROM spans", "INSERT"),
    ("EXPLAIN CREATE TABLE t AS SELECT 1", "CREATE TABLE"),
    ("EXPLAIN COPY spans TO '/tmp/x.csv'", "COPY"),
    ("EXPLAIN CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "CREATE EXTERNAL TABLE"),
    ("EXPLAIN SET x = 1", "SET"),
    ("SELECT * INTO copy FROM spans", "SELECT INTO"),
    ("WITH t AS (SELECT 1) SELECT * INTO copy FROM t", "SELECT INTO"),
    ("SELECT * FROM spans WHERE trace_id IN (SELECT trace_id INTO x FROM spans)", "SELECT INTO"),
    ("WITH gone AS (DELETE FROM spans RETURNING *) SELECT * FROM gone", "DELETE"),
    ("WITH more AS (INSERT INTO spans VALUES (1) RETURNING *) SELECT * FROM more", "INSERT"),
    ("WITH s AS (SELECT 1) INSERT INTO spans SELECT * FROM s", "INSERT"),
    ("SELECT * FROM spans FOR UPDATE", "FOR UPDATE"),
    ("SELECT * FROM spans FOR SHARE", "FOR UPDATE or FOR SHARE"),
    ("SELECT * FROM read_csv('/etc/passwd')", "read_csv"),
    ("SELECT * FROM read_parquet('s3://other/x.parquet')", "read_parquet"),
    ("SELECT * FROM parquet_metadata('x.parquet')", "parquet_metadata"),
    ("SELECT * FROM TABLE(read_json('x'))", "read_json"),
    ("SELECT * FROM LATERAL read_csv('x')", "read_csv"),
    ("SELECT * FROM spans JOIN read_csv('x') ON true", "read_csv"),
    ("SELECT (SELECT count(*) FROM read_csv('x'))", "read_csv"),
    ("SELECT * FROM 'spans.parquet'", "names a file"),
    ("SELECT * FROM '/etc/passwd'", "names a file"),
    ("SELECT * FROM \"/etc/passwd\"", "names a file"),
    ("SELECT * FROM \"s3://bucket/key\"", "names a file"),
    ("SELECT * FROM \"C:\\data\"", "names a file"),
    ("SELECT * FROM \"*.parquet\"", "names a file"),
    ("SELECT * FROM \"spans.csv\"", "names a file"),
    ("SELECT * FROM spans.parquet", "names a file"),
    ("SELECT * FROM `data.json`", "names a file"),
    ("DESCRIBE 'file.parquet'", "names a file"),
    ("EXPLAIN SELECT * FROM 'file.parquet'", "names a file"),
];

/// Statements that are no SQL, or too much of it.
const INVALID: &[(&str, &str)] = &[
    ("", "empty"),
    (" ; ", "empty"),
    ("-- nothing", "empty"),
    ("SELEC 1", "SELEC"),
    ("SELECT 'open", "Unterminated"),
    ("SELECT 1 FROM", "identifier"),
    ("SELECT 1; garbage", "garbage"),
];

#[test]
fn reading_passes() {
    for statement in READS {
        if let Err(error) = parse(statement) {
            panic!("{statement} was refused: {error}");
        }
    }
}

#[test]
fn anything_more_than_reading_is_forbidden_with_a_reason() {
    for (statement, word) in FORBIDDEN {
        let error = parse(statement).err().unwrap_or_else(|| panic!("{statement} passed"));
        assert_eq!(error.kind, QueryErrorKind::Forbidden, "{statement}: {error}");
        assert!(error.message.contains(word), "{statement}: the reason does not name {word}: {error}");
    }
}

#[test]
fn what_is_no_sql_is_invalid() {
    for (statement, word) in INVALID {
        let error = parse(statement).err().unwrap_or_else(|| panic!("{statement} passed"));
        assert_eq!(error.kind, QueryErrorKind::Invalid, "{statement}: {error}");
        assert!(error.message.contains(word), "{statement}: the message does not name {word}: {error}");
    }
}

#[test]
fn a_syntax_error_says_where() {
    let error = parse("SELECT name\n  FORM spans").expect_err("no SQL");
    assert_eq!(error.position, Some((2, 8)), "{error}");
    let error = parse("SELECT *\nFROM spans WHERE").expect_err("no SQL");
    assert_eq!(error.position, Some((2, 17)), "{error}");
    let error = parse("SELECT 'open").expect_err("no SQL");
    assert_eq!(error.position, Some((1, 8)), "{error}");
}

#[test]
fn size_and_nesting_are_bounded() {
    let long = format!("SELECT '{}'", "x".repeat(super::STATEMENT_LIMIT_BYTES));
    let deep = |count: usize| format!("SELECT {}1{}", "(".repeat(count), ")".repeat(count));
    let chain = |count: usize| format!("SELECT 1{}", "+1".repeat(count));
    let unions = |count: usize| format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(count));
    let nested = format!("SELECT ({}1)", format!("({}", "1+".repeat(1_000)).repeat(20));
    let columns = format!("SELECT {}1", format!("1{}, ", "+x".repeat(900)).repeat(10));
    for statement in [long, deep(60), deep(100_000), chain(1_100), chain(400_000), unions(10_000), nested, columns] {
        let error = parse(&statement).expect_err("too much");
        assert_eq!(error.kind, QueryErrorKind::Invalid, "{error}");
    }
    let ids: Vec<String> = (0..20_000).map(|id| format!("'{id:032x}'")).collect();
    for statement in [deep(10), chain(900), format!("SELECT 1 WHERE '' IN ({})", ids.join(", "))] {
        parse(&statement).unwrap_or_else(|error| panic!("{}…: {error}", &statement[..40]));
    }
}
