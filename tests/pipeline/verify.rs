//! `spanlake verify`: clean where everything is as it came, and naming every difference where something was tampered with.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, RecordBatch};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use prost::Message;
use serde_json::Value;
use spanlake_schema::{DEFAULT_TENANT, TableSpec, ledger, model_usage, spans};
use spanlake_storage::{AddFile, Commit, CommitOutcome, Segment, Store, Table, segment};
use spanlake_testkit::{ServerOptions, ServerProcess, wait_until};

use crate::visibility::spans_table;
use crate::{export, server, traffic};

/// The report, and whether the command ended well.
fn report(output: &Output) -> (bool, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    (output.status.success(), report)
}

pub(crate) async fn verify_server(server: &ServerProcess) -> (bool, Value) {
    let url = format!("http://{}", server.addresses().http);
    report(&server.options().run(&["verify", "--server", &url, "--json"]).await)
}

pub(crate) async fn verify_store(options: &ServerOptions, store: &str) -> (bool, Value) {
    report(&options.run(&["verify", "--store", store, "--json"]).await)
}

/// The table as tools other than Spanlake may write it: a segment taken out and another one put in.
struct Tampered {
    table: Table,
}

impl Tampered {
    async fn open(store: &str, spec: &'static TableSpec) -> Self {
        let store = Store::open(store).expect("a store");
        let table = Table::open(&store, DEFAULT_TENANT, spec).await.expect("it opens").expect("it is there");
        Self { table }
    }

    fn first(&self) -> Arc<Segment> {
        Arc::clone(&self.table.snapshot().segments[0])
    }

    /// The rows of a segment, with their day.
    fn rows(&self, store: &str, segment: &Segment) -> RecordBatch {
        let spec = self.table.spec();
        let path = Path::new(store).join(self.table.object_path(&segment.path).expect("a path").as_ref());
        let file = std::fs::File::open(path).expect("the segment");
        let options = ArrowReaderOptions::new().with_schema(spec.file_schema());
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).expect("Parquet").build();
        let batches: Vec<RecordBatch> = reader.expect("a reader").map(|batch| batch.expect("rows")).collect();
        let rows = arrow::compute::concat_batches(&spec.file_schema(), &batches).expect("rows of one schema");
        let day: ArrayRef = Arc::new(Date32Array::from(vec![segment.date.expect("a day"); rows.num_rows()]));
        let columns = [day].into_iter().chain(rows.columns().iter().cloned()).collect();
        RecordBatch::try_new(spec.arrow_schema(), columns).expect("rows of the table")
    }

    async fn commit(&self, removes: Vec<String>, adds: Vec<AddFile>) {
        let commit = Commit { adds, removes, operation: "WRITE", ..Commit::default() };
        let outcome = self.table.commit(commit, None).await.expect("a commit");
        assert!(matches!(outcome, CommitOutcome::Committed(_)), "{outcome:?}");
    }

    /// Takes the first row out of the first segment; returns that row's service and minute (or hour).
    async fn without_first_row(store: &str, spec: &'static TableSpec) {
        let tampered = Self::open(store, spec).await;
        let first = tampered.first();
        let rows = tampered.rows(store, &first);
        let rest = rows.slice(1, rows.num_rows() - 1);
        let adds = segment::write(&tampered.table, &[rest], "tampered").await.expect("a segment");
        tampered.commit(vec![first.path.clone()], adds).await;
    }

    /// Puts a copy of the first segment beside it; returns how many rows it has.
    async fn with_first_segment_twice(store: &str, spec: &'static TableSpec) -> i64 {
        let tampered = Self::open(store, spec).await;
        let first = tampered.first();
        let path = first.path.replace(".zstd.parquet", "-copy.zstd.parquet");
        let place = |path: &str| Path::new(store).join(tampered.table.object_path(path).expect("a path").as_ref());
        std::fs::copy(place(&first.path), place(&path)).expect("a copy");
        tampered.commit(Vec::new(), vec![AddFile { segment: Segment { path, ..first.as_ref().clone() } }]).await;
        first.rows().expect("a count") as i64
    }
}

fn copy_of(store: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    crate::kept_stores::copy_directory(Path::new(store), copy.path());
    copy
}

/// Traffic of several services, with repeats, refused spans and a body that is none, in a store that was killed and started
/// again, whose rollup has run.
async fn eventful_store() -> ServerOptions {
    let options = server().arg("--flush-interval", "300ms");
    let server = options.start().await;
    let mut source = traffic(61);
    let mut refused = source.request(60);
    refused.resource_spans[0].scope_spans[0].spans[0].trace_id.clear();
    let body = refused.encode_to_vec();
    for _ in 0..2 {
        assert_eq!(server.otlp_http().export(body.clone()).await.rejected_spans(), 1);
    }
    assert_eq!(server.otlp_http().export(vec![0xff; 3]).await.status, 400);
    let repeated = source.request(100);
    export(&server, &repeated).await;
    let server = server.sigkill().await.start().await;
    export(&server, &repeated).await;
    wait_until("the repeat is in the ledger", async || {
        let duplicates = "SELECT coalesce(sum(duplicate), 0) FROM ledger";
        (server.sql_int(duplicates).await >= 100).then_some(())
    })
    .await;
    let (is_clean, report) = verify_server(&server).await;
    assert!(is_clean && report["is_clean"] == true, "{report:#}");
    export(&server, &source.request(200)).await;
    let spans = crate::count_spans(&server).await;
    crate::visibility::committed_with_constant_count(&server, &spans_table(&options), spans).await;
    let control = format!("http://{}", server.addresses().control);
    let run = options.run(&["rollup", "run", "model_usage_hour", "--control", &control]).await;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let (is_clean, report) = verify_server(&server).await;
    assert!(is_clean, "{report:#}");
    let told = &report["signals"][0];
    assert_eq!((told["stored"].as_i64(), told["rows"].as_i64()), (Some(spans), Some(spans)), "{told:#}");
    assert!(told["duplicate"].as_i64() >= Some(100) && told["refused"].as_i64() >= Some(1), "{told:#}");
    let rollup = &report["rollup"];
    assert!(rollup["windows"].as_i64() > Some(0) && rollup["not_compared"].is_null(), "{rollup:#}");
    assert!(rollup["requests"].as_i64() > Some(0) && rollup["requests"] == rollup["leaf_spans"], "{rollup:#}");
    server.stop().await;
    options
}

/// Scenario: a store with everything that happens to a store; then, each on a copy of its own: a span's row is taken out of
/// its file, a file of spans is there twice, a row of the ledger is gone, a row of the rollup is gone.
/// Guarantee: as it is, it verifies, on the running server and at rest; each of the four is found and named, and exits with 1.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_store_verifies_and_every_tampering_is_named() {
    let options = eventful_store().await;
    let (is_clean, clean) = verify_store(&options, options.store_url()).await;
    assert!(is_clean && clean["differences"].as_array().is_some_and(Vec::is_empty), "{clean:#}");
    let stored = clean["signals"][0]["stored"].as_i64().expect("a count");
    let human = options.run(&["verify", "--store", options.store_url()]).await;
    let text = String::from_utf8_lossy(&human.stdout);
    assert!(human.status.success() && text.contains("clean: every equation holds"), "{text}");

    let tampered = copy_of(options.store_url());
    let store = tampered.path().to_str().expect("text");
    Tampered::without_first_row(store, &spans::SPEC).await;
    let (is_clean, report) = verify_store(&options, store).await;
    let difference = report["differences"].as_array().expect("a list").iter().find(|one| one["ledger"].is_object());
    let difference = difference.unwrap_or_else(|| panic!("{report:#}"));
    assert!(!is_clean && difference["equation"] == "stored = rows of spans", "{report:#}");
    assert_eq!(difference["left"].as_i64().map(|left| left - 1), difference["right"].as_i64(), "{difference:#}");
    assert!(difference["service_name"].is_string() && difference["window_start"].is_string(), "{difference:#}");
    assert_eq!(report["signals"][0]["rows"].as_i64(), Some(stored - 1));

    let tampered = copy_of(options.store_url());
    let store = tampered.path().to_str().expect("text");
    let doubled = Tampered::with_first_segment_twice(store, &spans::SPEC).await;
    let (is_clean, report) = verify_store(&options, store).await;
    let differences: Vec<&Value> =
        report["differences"].as_array().expect("a list").iter().filter(|one| one["ledger"].is_object()).collect();
    let surplus: i64 =
        differences.iter().map(|one| one["right"].as_i64().unwrap() - one["left"].as_i64().unwrap()).sum();
    assert!(!is_clean, "{report:#}");
    assert_eq!(surplus, doubled, "{report:#}");
    assert_eq!(differences[0]["examples"][0]["copies"], 2, "{report:#}");

    let tampered = copy_of(options.store_url());
    let store = tampered.path().to_str().expect("text");
    Tampered::without_first_row(store, &ledger::SPEC).await;
    let (is_clean, report) = verify_store(&options, store).await;
    assert!(!is_clean && report["differences"].as_array().is_some_and(|list| list.len() == 1), "{report:#}");
    let difference = &report["differences"][0];
    assert!(difference["left"].as_i64() < difference["right"].as_i64(), "{report:#}");
    let human = options.run(&["verify", "--store", store]).await;
    let text = String::from_utf8_lossy(&human.stdout);
    assert_eq!(human.status.code(), Some(1));
    assert!(text.contains("stored = rows of spans: ") && text.contains("SELECT trace_id"), "{text}");

    let tampered = copy_of(options.store_url());
    let store = tampered.path().to_str().expect("text");
    Tampered::without_first_row(store, &model_usage::HOUR_SPEC).await;
    let (is_clean, report) = verify_store(&options, store).await;
    assert!(!is_clean, "{report:#}");
    assert_eq!(report["differences"][0]["equation"], "requests of model_usage_hour = leaf spans", "{report:#}");
}

/// Guarantee: what cannot be verified is told, with the right exit code, instead of a report about nothing.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_get_clear_answers() {
    let server = server().start().await;
    let url = format!("http://{}", server.addresses().http);
    for (arguments, code, part) in [
        (&["verify", "--server", &url, "--tenant", "nobody"][..], 1, "there is no tenant nobody"),
        (&["verify", "--server", &url, "--from", "yesterday"][..], 2, "--from: `yesterday` is no time"),
        (&["verify", "--server", "http://127.0.0.1:1"][..], 3, "no Spanlake answers"),
    ] {
        let output = server.options().run(arguments).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(part), "{text}");
    }
}
