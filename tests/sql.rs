//! SQL as users write it, kept in `tests/slt/*.slt` with the answers they get.
//!
//! The engine runs in this process over a lake in a temporary directory, filled through OTLP with the spans of
//! `tests/sql/traffic.rs`, for the files of `tests/slt/agents` with all three signals of `tests/sql/agents.rs`; half of them
//! are committed, the others hot. After an intended change of answers, `SLT_COMPLETE=1 cargo test --test sql` writes the
//! new ones into the files: read the difference before you keep it.

#[path = "sql/agents.rs"]
mod agents;
#[path = "sql/statements.rs"]
mod statements;
#[path = "sql/traffic.rs"]
mod traffic;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use prost::Message;
use spanlake_ingest::{ContentEncoding, ContentType, Decoder, Ingest, IngestOptions, Request, Signal};
use spanlake_query::{Parameters, QueryEngine, QueryError, QueryOptions};
use spanlake_schema::DEFAULT_TENANT;
use spanlake_storage::{Lake, LakeOptions, PromotionList, Store};
use spanlake_testkit::ManualAmbient;
use sqllogictest::{DB, DBOutput, DefaultColumnType, Runner, default_normalizer, default_validator};
use tokio::runtime::Runtime;

/// A lake with the traffic in it, and what keeps it alive.
struct FilledLake {
    engine: Arc<QueryEngine>,
    lake: Arc<Lake>,
    directory: tempfile::TempDir,
}

/// What a lake is filled with: bodies that are committed, and bodies that stay hot.
type Bodies = [Vec<(Signal, Vec<u8>)>; 2];

async fn fill([committed, hot]: Bodies) -> FilledLake {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ambient = Arc::new(ManualAmbient::new(1));
    let options = LakeOptions {
        store: Store::open(directory.path().join("store").to_str().expect("a path in UTF-8")).expect("a store"),
        wal_dir: directory.path().join("wal"),
        wal_limit_bytes: 64 << 20,
        hot_limit_bytes: 64 << 20,
        flush_interval: Duration::from_secs(86_400),
        flush_bytes: 64 << 20,
        ack_on_commit: false,
        commit_timeout: Duration::from_secs(60),
        retry_window: Duration::from_secs(900),
        retry_limit_bytes: 16 << 20,
        promote: PromotionList::default(),
        ambient: ambient.clone(),
    };
    let lake = Lake::open(options, Arc::new(Decoder::default())).await.expect("a lake");
    let options = IngestOptions { message_limit_bytes: 1 << 20, in_flight_limit_bytes: 8 << 20, ambient };
    let ingest = Ingest::new(Arc::clone(&lake), options);
    let send = async |bodies: Vec<(Signal, Vec<u8>)>| {
        for (signal, body) in bodies {
            let request = Request {
                tenant: DEFAULT_TENANT.to_owned(),
                content_type: ContentType::Protobuf,
                content_encoding: ContentEncoding::Identity,
                body: body.into(),
            };
            let outcome = ingest.export(signal, request).await.expect("stored");
            assert!(outcome.stored > 0 && outcome.rejected == 0, "{outcome:?}");
        }
    };
    send(committed).await;
    lake.flush().await.expect("committed");
    send(hot).await;

    let options = QueryOptions {
        memory_limit_bytes: 256 << 20,
        spill_limit_bytes: 256 << 20,
        timeout: Duration::from_secs(60),
        row_limit: 1_000,
        concurrency: 2,
        threads: 2,
    };
    let engine = QueryEngine::new(lake.clone(), options).expect("an engine");
    FilledLake { engine, lake, directory }
}

/// A connection of the runner.
struct Connection {
    runtime: Arc<Runtime>,
    engine: Arc<QueryEngine>,
}

/// An error with its kind, which the files name.
#[derive(Debug)]
struct Refusal(QueryError);

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}: {}", self.0.kind, self.0.message)
    }
}

impl std::error::Error for Refusal {}

impl DB for Connection {
    type Error = Refusal;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Refusal> {
        let answer = self.runtime.block_on(async {
            let stream = self.engine.sql(DEFAULT_TENANT, sql, Parameters::None).await?;
            let schema = stream.schema();
            Ok::<_, QueryError>((schema, stream.try_collect::<Vec<_>>().await?))
        });
        let (schema, batches) = answer.map_err(Refusal)?;
        let types = schema.fields().iter().map(|field| column_type(field.data_type())).collect();
        let rows = batches.iter().flat_map(rows).collect();
        Ok(DBOutput::Rows { types, rows })
    }
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        data_type if data_type.is_integer() => DefaultColumnType::Integer,
        data_type if data_type.is_numeric() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a type that can be shown"))
        .collect();
    let cell = |text: String| if text.is_empty() { "(empty)".to_owned() } else { text.replace('\n', "\\n") };
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| cell(column.value(row).to_string())).collect())
        .collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).expect("the folder of .slt files");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    files.sort_unstable();
    files
}

#[test]
fn every_statement_gets_its_answer() {
    let traces = |request: opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest| {
        vec![(Signal::Traces, request.encode_to_vec())]
    };
    let wrong = wrong_answers(files("tests/slt"), [traces(traffic::shop()), traces(traffic::desk())]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_statement_about_agents_gets_its_answer() {
    let wrong = wrong_answers(files("tests/slt/agents"), agents::bodies());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Runs files over a lake of their own. Returns what has another answer than the files say.
fn wrong_answers(files: Vec<PathBuf>, bodies: Bodies) -> Vec<String> {
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let lake = runtime.block_on(fill(bodies));
    let connect = || {
        let connection = Connection { runtime: Arc::clone(&runtime), engine: Arc::clone(&lake.engine) };
        async move { Ok(connection) }
    };
    let complete = std::env::var_os("SLT_COMPLETE").is_some();
    assert!(files.len() >= 2, "only {} files", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let mut runner = Runner::new(connect);
        runner.with_column_validator(sqllogictest::strict_column_validator);
        let outcome = if complete {
            let check = sqllogictest::strict_column_validator;
            let update = runner.update_test_file(&file, " ", default_validator, default_normalizer, check);
            futures::executor::block_on(update).map_err(|error| error.to_string())
        } else {
            runner.run_file(&file).map_err(|error| error.display(false).to_string())
        };
        wrong.extend(outcome.err());
    }
    wrong
}
