//! A store with a table of spans, and processes that run the rollup over it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use spanlake_schema::corrections::{self, Correction};
use spanlake_schema::{DEFAULT_TENANT, TableSpec, model_usage, spans};
use spanlake_storage::{Commit, CommitOutcome, Store, Table, TableSource, TableView, segment};
use spanlake_testkit::{FaultyStore, ManualAmbient};

use super::calls::{Call, batch};
use super::oracle::{self, Key, Totals};
use crate::rollup::definition::{BUILT_IN, Definition};
use crate::rollup::{Context, RollupStatus, Rollups, RunReport, Tables};
use crate::{Parameters, QueryEngine, QueryError, QueryOptions};

pub(super) const ROLLUP: &str = "model_usage_hour";

/// Few, so that a short history makes several commits.
pub(super) const DAYS_PER_COMMIT: usize = 3;

/// The tables of a process, as they are now, without hot rows.
#[async_trait]
impl TableSource for Opened {
    fn tables(&self, _tenant: &str) -> Vec<&'static TableSpec> {
        self.tables.lock().iter().map(|table| table.spec()).collect()
    }

    async fn view(&self, _tenant: &str, name: &str) -> spanlake_storage::Result<Option<TableView>> {
        let Some(table) = self.find(name) else { return Ok(None) };
        Ok(Some(TableView { snapshot: table.refresh().await?, table, hot: Vec::new(), spilled: Vec::new() }))
    }
}

pub(super) fn query_options() -> QueryOptions {
    QueryOptions {
        memory_limit_bytes: 256 << 20,
        spill_limit_bytes: 256 << 20,
        timeout: Duration::from_secs(120),
        row_limit: 1_000_000,
        concurrency: 4,
        threads: 2,
    }
}

/// The tables of a process.
#[derive(Debug)]
struct Opened {
    store: Store,
    tables: parking_lot::Mutex<Vec<Arc<Table>>>,
}

#[async_trait]
impl Tables for Opened {
    fn find(&self, name: &str) -> Option<Arc<Table>> {
        self.tables.lock().iter().find(|table| table.spec().name == name).cloned()
    }

    async fn add(&self, spec: &'static TableSpec) -> spanlake_storage::Result<Arc<Table>> {
        let table = Arc::new(Table::open_or_create(&self.store, DEFAULT_TENANT, spec).await?);
        self.tables.lock().push(Arc::clone(&table));
        Ok(table)
    }
}

/// One process: its own view of the tables, its own engine, its own rollups.
pub(super) struct Process {
    pub(super) target: Arc<Table>,
    pub(super) engine: Arc<QueryEngine>,
    pub(super) rollups: Arc<Rollups>,
}

impl Process {
    pub(super) async fn run(&self) -> RunReport {
        self.try_run().await.expect("the run succeeds")
    }

    pub(super) async fn try_run(&self) -> Result<RunReport, QueryError> {
        self.rollups.run(ROLLUP).await
    }

    pub(super) async fn status(&self) -> RollupStatus {
        self.rollups.list().await.expect("the store answers").remove(0)
    }

    /// All rows of a statement.
    pub(super) async fn sql(&self, statement: &str, parameters: Parameters) -> Vec<RecordBatch> {
        let stream = self.engine.sql(DEFAULT_TENANT, statement, parameters).await.expect("the statement is right");
        stream.try_collect().await.expect("the store answers")
    }

    /// The rollup as SQL shows it.
    pub(super) async fn stored(&self) -> BTreeMap<Key, (Totals, i64)> {
        oracle::read(&self.sql(&format!("SELECT * FROM {ROLLUP}"), Parameters::None).await)
    }
}

/// A store, a writer of spans, and what each live segment holds.
pub(super) struct World {
    pub(super) objects: FaultyStore<InMemory>,
    pub(super) ambient: Arc<ManualAmbient>,
    spans: Table,
    segments: BTreeMap<String, Vec<Call>>,
    /// Segments that left the table and whose objects still exist.
    left: Vec<String>,
    written: u64,
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        let objects = FaultyStore::new(InMemory::new());
        let store = Store::with_object_store("memory:///", Arc::new(objects.clone()));
        let spans = Table::open_or_create(&store, DEFAULT_TENANT, &spans::SPEC).await.expect("a new table");
        let ambient = Arc::new(ManualAmbient::new(seed));
        Self { objects, ambient, spans, segments: BTreeMap::new(), left: Vec::new(), written: 0 }
    }

    pub(super) fn store(&self) -> Store {
        Store::with_object_store("memory:///", Arc::new(self.objects.clone()))
    }

    pub(super) async fn process(&self) -> Process {
        let (_, text) = BUILT_IN[0];
        self.process_with(text).await
    }

    /// A process that runs the rollup by another text of its file.
    pub(super) async fn process_with(&self, text: &str) -> Process {
        self.process_of(&[(BUILT_IN[0].0, text)]).await
    }

    /// A process that runs rollups by their files and texts.
    pub(super) async fn process_of(&self, files: &[(&str, &str)]) -> Process {
        let open = async |spec| {
            Arc::new(Table::open_or_create(&self.store(), DEFAULT_TENANT, spec).await.expect("the table opens"))
        };
        let (spans, target) = (open(&spans::SPEC).await, open(&model_usage::HOUR_SPEC).await);
        let tables = vec![spans, Arc::clone(&target), open(&corrections::SPEC).await];
        let opened = Arc::new(Opened { store: self.store(), tables: parking_lot::Mutex::new(tables) });
        let engine = QueryEngine::new(Arc::clone(&opened) as _, query_options()).expect("an engine");
        let definitions = files.iter().map(|(file, text)| Definition::parse(file, text).expect("the file is right"));
        let context = Context {
            tables: opened,
            engine: Arc::clone(&engine),
            ambient: Arc::clone(&self.ambient) as _,
            days_per_commit: DAYS_PER_COMMIT,
        };
        let rollups = Rollups::over(context, definitions.collect(), None).await.expect("the select is right");
        Process { target, engine, rollups }
    }

    /// Every call in the table.
    pub(super) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.segments.values().flatten()
    }

    pub(super) fn expected(&self) -> BTreeMap<Key, Totals> {
        oracle::expected(self.calls())
    }

    /// Paths of the live segments.
    pub(super) fn paths(&self) -> Vec<String> {
        self.segments.keys().cloned().collect()
    }

    /// Calls in one live segment.
    pub(super) fn calls_in(&self, path: &str) -> &[Call] {
        &self.segments[path]
    }

    /// Appends calls in one commit.
    pub(super) async fn add(&mut self, calls: &[Call]) {
        self.replace(&[], calls, false).await;
    }

    /// Removes segments and adds calls in one commit.
    pub(super) async fn replace(&mut self, removes: &[String], calls: &[Call], rows_unchanged: bool) {
        let mut adds = Vec::new();
        if !calls.is_empty() {
            self.written += 1;
            let name = format!("test-{:08}", self.written);
            adds = segment::write(&self.spans, &[batch(calls)], &name).await.expect("the store takes segments");
        }
        for add in &adds {
            let here = calls.iter().filter(|call| Some(day(call)) == add.segment.date).cloned().collect();
            self.segments.insert(add.segment.path.clone(), here);
        }
        for path in removes {
            self.segments.remove(path).expect("the segment lives");
            self.left.push(path.clone());
        }
        let operation = if removes.is_empty() { "WRITE" } else { "MERGE" };
        let commit = Commit { adds, removes: removes.to_vec(), rows_unchanged, operation, ..Commit::default() };
        let based_on = (!removes.is_empty()).then(|| self.spans.snapshot().version);
        let outcome = self.spans.commit(commit, based_on).await.expect("the store takes commits");
        assert!(matches!(outcome, CommitOutcome::Committed(_)), "{outcome:?}");
    }

    /// Commits corrections.
    pub(super) async fn correct(&mut self, told: &[Correction]) {
        self.written += 1;
        let table = Table::open_or_create(&self.store(), DEFAULT_TENANT, &corrections::SPEC).await.expect("the table");
        let rows = corrections::batch(told).expect("rows");
        let adds = segment::write(&table, &[rows], &format!("test-{:08}", self.written)).await.expect("segments");
        let commit = Commit { adds, operation: "WRITE", ..Commit::default() };
        table.commit(commit, None).await.expect("the store takes commits");
    }

    /// Rewrites segments of one day as one, rows unchanged.
    pub(super) async fn compact(&mut self, paths: &[String]) {
        let calls: Vec<Call> = paths.iter().flat_map(|path| self.segments[path].clone()).collect();
        self.replace(paths, &calls, true).await;
    }

    /// Deletes the calls of a segment that are not to stay.
    pub(super) async fn delete(&mut self, path: &str, stays: impl Fn(&Call) -> bool) {
        let calls: Vec<Call> = self.segments[path].iter().filter(|call| stays(call)).cloned().collect();
        self.replace(&[path.to_owned()], &calls, false).await;
    }

    /// Deletes the objects of segments that left the table.
    pub(super) async fn vacuum(&mut self) {
        for path in self.left.drain(..) {
            let location = object_store::path::Path::from(format!("{}/{path}", self.spans.root()));
            self.objects.delete(&location).await.expect("the object is there");
        }
    }

    /// Deletes the log entry of a version of the table of spans.
    pub(super) async fn forget_version(&self, version: i64) {
        let location = object_store::path::Path::from(format!("{}/_delta_log/{version:020}.json", self.spans.root()));
        self.objects.delete(&location).await.expect("the log entry is there");
    }

    pub(super) fn version(&self) -> i64 {
        self.spans.snapshot().version
    }
}

fn day(call: &Call) -> i32 {
    crate::rollup::windows::day_of(call.event_time())
}
