//! `spanlake sql`: asks a running server, or reads a store directly.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use spanlake_query::{Format, Parameters, QueryEngine, QueryError};
use spanlake_schema::DEFAULT_TENANT;
use spanlake_storage::{ReadOnlyLake, Store};

use super::Unreachable;
use crate::config::{Machine, Sources, load};
use crate::serve::{query_options, views};

const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

pub(super) fn command() -> Command {
    let statement =
        Arg::new("statement").value_name("STATEMENT").required(true).help("a SELECT, or - for standard input");
    let format = Arg::new("format")
        .long("format")
        .value_name("FORMAT")
        .default_value("table")
        .value_parser(["table", "json", "ndjson", "csv"])
        .help("how the answer is written");
    Command::new("sql")
        .about("Ask in SQL")
        .after_help("spanlake sql \"SELECT model, sum(cost_usd) AS usd FROM spans GROUP BY model ORDER BY usd DESC\"")
        .args([statement, server_argument(), store_argument(), format])
}

/// Which server is asked.
pub(super) fn server_argument() -> Arg {
    Arg::new("server")
        .long("server")
        .value_name("URL")
        .help("the HTTP address of a running server (its http_addr)")
        .default_value(DEFAULT_SERVER)
        .env("SPANLAKE_SERVER")
}

/// Which store is read without a server.
pub(super) fn store_argument() -> Arg {
    Arg::new("store")
        .long("store")
        .value_name("DIR|URL")
        .help("read this store directly, without a server: what is committed, and nothing that still waits in a log")
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let text = |name: &str| matches.get_one::<String>(name).expect("invariant: required or with a default").as_str();
    let mut statement = text("statement").to_owned();
    if statement == "-" {
        statement.clear();
        std::io::stdin().read_to_string(&mut statement).context("cannot read standard input")?;
    }
    let format = match text("format") {
        "json" => Some(Format::Json),
        "ndjson" => Some(Format::NdJson),
        "csv" => Some(Format::Csv),
        _ => None,
    };
    match matches.get_one::<String>("store") {
        Some(store) if matches.value_source("server") == Some(ValueSource::CommandLine) => {
            anyhow::bail!("--server and --store {store} exclude each other")
        }
        Some(store) => on_store(store, &statement, format).await,
        None => on_server(text("server"), &statement, format).await,
    }
}

async fn on_server(server: &str, statement: &str, format: Option<Format>) -> anyhow::Result<()> {
    let url = format!("{}/api/v1/sql", server.trim_end_matches('/'));
    let accept = format.unwrap_or(Format::ArrowStream).content_type();
    let request = reqwest::Client::new().post(&url).header("content-type", "application/sql").header("accept", accept);
    let mut answer = request.body(statement.to_owned()).send().await.map_err(|error| {
        if error.is_builder() {
            return anyhow::anyhow!("--server {server}: {error}");
        }
        Unreachable(format!(
            "no Spanlake answers at {server}: start one with `spanlake serve`, name another with --server, or read a store \
             with --store"
        ))
        .into()
    })?;
    if !answer.status().is_success() {
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        anyhow::bail!("{}", server_error(statement, &body).unwrap_or_else(|| format!("{url} answered {status}")));
    }
    let broke_off = "the answer broke off: the query failed on its way, or the server ended";
    if format.is_none() {
        let bytes = answer.bytes().await.context(broke_off)?;
        let reader = StreamReader::try_new(bytes.as_ref(), None).context("the answer is no Arrow stream")?;
        let schema = reader.schema();
        let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().context(broke_off)?;
        return print_table(&schema, &batches);
    }
    let mut output = Output::default();
    while let Some(piece) = answer.chunk().await.context(broke_off)? {
        output.write(&piece)?;
    }
    output.end()
}

async fn on_store(store: &str, statement: &str, format: Option<Format>) -> anyhow::Result<()> {
    let engine = engine_on_store(store).await?;
    let shown = |error: QueryError| anyhow::anyhow!("{}", pointed(statement, &error.message, error.position));
    let Some(format) = format else {
        let stream = engine.sql(DEFAULT_TENANT, statement, Parameters::None).await.map_err(shown)?;
        let schema = stream.schema();
        let batches: Vec<_> = stream.try_collect().await.map_err(|error| shown(error.into()))?;
        return print_table(&schema, &batches);
    };
    let mut pieces = engine.sql_encoded(DEFAULT_TENANT, statement, Parameters::None, format).await.map_err(shown)?;
    let mut output = Output::default();
    while let Some(piece) = pieces.next().await {
        output.write(&piece.map_err(shown)?)?;
    }
    output.end()
}

/// An engine over a store at rest.
pub(super) async fn engine_on_store(store: &str) -> anyhow::Result<Arc<QueryEngine>> {
    // Opening makes a missing directory, which a question should not.
    let directory = store.strip_prefix("file://").unwrap_or(store);
    anyhow::ensure!(directory.contains("://") || Path::new(directory).is_dir(), "--store {store}: no such directory");
    let lake = ReadOnlyLake::open(Store::open(store)?).await?;
    let config = load(&Sources::default(), Machine::detect())?;
    Ok(QueryEngine::with_views(Arc::new(lake), query_options(&config.query), views(&config.query)?)?)
}

/// Standard output whose last line ends, so that a shell's prompt does not stick to it.
#[derive(Default)]
struct Output {
    last: Option<u8>,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        std::io::stdout().write_all(bytes)?;
        self.last = bytes.last().copied().or(self.last);
        Ok(())
    }

    fn end(mut self) -> anyhow::Result<()> {
        if self.last.is_some_and(|last| last != b'\n') {
            self.write(b"\n")?;
        }
        Ok(std::io::stdout().flush()?)
    }
}

fn print_table(schema: &SchemaRef, batches: &[RecordBatch]) -> anyhow::Result<()> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut output = std::io::stdout().lock();
    let unit = if rows == 1 { "row" } else { "rows" };
    writeln!(output, "{}\n{rows} {unit}", spanlake_query::format::table(schema, batches))?;
    Ok(())
}

/// What the server says about a refused statement; `None` where it is no Spanlake.
fn server_error(statement: &str, body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error")?;
    let position = error["line"].as_u64().zip(error["column"].as_u64());
    Some(pointed(statement, error["message"].as_str()?, position))
}

/// A message with the statement's line and a mark below the place.
fn pointed(statement: &str, message: &str, position: Option<(u64, u64)>) -> String {
    let found = position.and_then(|(line, column)| {
        let line = statement.lines().nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
        let column = usize::try_from(column.checked_sub(1)?).ok()?;
        (column <= line.chars().count()).then(|| format!("\n\n  {line}\n  {}^", " ".repeat(column)))
    });
    format!("{message}{}", found.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_point_at_their_place() {
        let text = pointed("SELECT 1,\n  nothing FROM spans", "no column nothing", Some((2, 3)));
        assert_eq!(text, "no column nothing\n\n    nothing FROM spans\n    ^");
        for position in [None, Some((0, 0)), Some((9, 1)), Some((1, 99))] {
            assert_eq!(pointed("SELECT 1", "why", position), "why", "{position:?}");
        }
        let body = br#"{"error": {"kind": "invalid", "message": "why", "line": 1, "column": 8}}"#;
        assert_eq!(server_error("SELECT x", body).as_deref(), Some("why\n\n  SELECT x\n         ^"));
        assert_eq!(server_error("SELECT x", b"<html>"), None);
    }

    #[tokio::test]
    async fn without_a_server_it_says_what_to_do() {
        let error = on_server("http://127.0.0.1:1", "SELECT 1", None).await.expect_err("nobody listens");
        assert!(error.is::<Unreachable>() && error.to_string().contains("--store"), "{error}");
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_not_made() {
        let directory = tempfile::tempdir().expect("has a directory");
        let missing = directory.path().join("missing");
        let error = on_store(missing.to_str().expect("is text"), "SELECT 1", None).await.expect_err("is missing");
        assert!(error.to_string().contains("no such directory"), "{error}");
        assert!(!missing.exists());
    }
}
