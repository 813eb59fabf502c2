//! What percentiles of a week cost from a rollup, and from the spans themselves.
//!
//! ```sh
//! cargo bench --bench rollups          # a million spans
//! cargo bench --bench rollups -- 20    # twenty million
//! ```
//!
//! A week of traffic is committed as a server would commit it, an hour at a time, and rolled up. Both answers are the same, to the
//! last bit, before either is timed. With SPANLAKE_BENCH_DIR the store is kept there, for other programs to read.

#[path = "../src/allocator.rs"]
mod allocator;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use futures::TryStreamExt;
use prost::Message;
use spanlake_ingest::Decoder;
use spanlake_query::rollup::Rollups;
use spanlake_query::{Parameters, QueryEngine, QueryOptions};
use spanlake_schema::{DEFAULT_TENANT, System, spans};
use spanlake_storage::{Commit, Lake, LakeOptions, PromotionList, Store, TableSource, segment};
use spanlake_testkit::Traffic;

const HOURS: u64 = 7 * 24;
const SPANS_A_REQUEST: usize = 512;
const ROUNDS: usize = 9;
const HOUR_NS: u64 = 3_600_000_000_000;
/// 2026-01-12T00:00:00Z, a Monday.
const MONDAY: u64 = 1_768_176_000_000_000_000;

const FROM_ROLLUP: &str = "SELECT window_start, model, sum(requests) AS calls,
    histogram_quantile(histogram_merge(duration), [0.5, 0.95, 0.99]) AS quantiles
    FROM model_usage_hour GROUP BY window_start, model ORDER BY window_start, model";

const FROM_SPANS: &str = "SELECT date_trunc('hour', start_time) AS window_start, model, count(*) AS calls,
    histogram_quantile(histogram(duration_ns), [0.5, 0.95, 0.99]) AS quantiles
    FROM spans WHERE usage_role = 'leaf' GROUP BY 1, 2 ORDER BY 1, 2";

struct World {
    lake: Arc<Lake>,
    engine: Arc<QueryEngine>,
}

impl World {
    async fn open(directory: &std::path::Path) -> Self {
        let store = Store::open(directory.to_str().expect("UTF-8")).expect("a store");
        let options = LakeOptions {
            store,
            wal_dir: directory.join("wal"),
            wal_limit_bytes: 1 << 30,
            hot_limit_bytes: 1 << 30,
            flush_interval: Duration::from_secs(10),
            flush_bytes: 64 << 20,
            ack_on_commit: false,
            commit_timeout: Duration::from_secs(60),
            retry_window: Duration::from_secs(900),
            retry_limit_bytes: 16 << 20,
            ambient: Arc::new(System),
            promote: PromotionList::default(),
        };
        let lake = Lake::open(options, Arc::new(Decoder::default())).await.expect("a lake");
        let options = QueryOptions {
            memory_limit_bytes: 4 << 30,
            spill_limit_bytes: 4 << 30,
            timeout: Duration::from_secs(3_600),
            row_limit: 1_000_000,
            concurrency: 2,
            threads: 2,
        };
        let engine = QueryEngine::new(Arc::clone(&lake) as Arc<dyn TableSource>, options).expect("an engine");
        Self { lake, engine }
    }

    /// Commits a week of spans. Returns how many there are.
    async fn fill(&self, spans: usize) -> usize {
        let table = self.lake.table(DEFAULT_TENANT, spans::SPEC.name).expect("the table of spans");
        let decoder = Decoder::default();
        let mut count = 0;
        for hour in 0..HOURS {
            let mut traffic = Traffic::new(hour).without_content().starting_at(MONDAY + hour * HOUR_NS);
            let mut batches = Vec::new();
            for _ in 0..(spans / HOURS as usize).div_ceil(SPANS_A_REQUEST) {
                let body = traffic.request(SPANS_A_REQUEST).encode_to_vec();
                batches.extend(decoder.decode_traces(&body, MONDAY + (hour + 1) * HOUR_NS).expect("a request"));
            }
            count += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
            let rows = concat_batches(&batches[0].schema(), &batches).expect("of one table");
            let adds = segment::write(&table, &[rows], &format!("bench-{hour:04}")).await.expect("a segment");
            let commit = Commit { adds, operation: "WRITE", ..Commit::default() };
            table.commit(commit, None).await.expect("a commit");
        }
        count
    }

    async fn answer(&self, statement: &str) -> RecordBatch {
        let stream =
            self.engine.sql(DEFAULT_TENANT, statement, Parameters::None).await.expect("the statement is right");
        let schema = stream.schema();
        let batches: Vec<RecordBatch> = stream.try_collect().await.expect("an answer");
        concat_batches(&schema, &batches).expect("of one answer")
    }

    /// The least time of several rounds, in milliseconds.
    async fn time(&self, statement: &str, rounds: usize) -> f64 {
        let mut least = Duration::MAX;
        for _ in 0..rounds {
            let started = Instant::now();
            self.answer(statement).await;
            least = least.min(started.elapsed());
        }
        least.as_secs_f64() * 1e3
    }
}

fn text(answer: &RecordBatch) -> String {
    pretty_format_batches(std::slice::from_ref(answer)).expect("it can be shown").to_string()
}

async fn run(millions: usize, directory: &std::path::Path) {
    let world = World::open(directory).await;
    let started = Instant::now();
    let spans = world.fill(millions * 1_000_000).await;
    println!("{spans} spans of a week, committed in {:.0} s", started.elapsed().as_secs_f64());

    let rollups = Rollups::open(Arc::clone(&world.lake), Arc::clone(&world.engine), Arc::new(System), None).await;
    let rollups = rollups.expect("the built-in rollups are right");
    let started = Instant::now();
    let report = rollups.run("model_usage_hour").await.expect("it runs");
    let took = started.elapsed();
    let each = took.as_nanos() as f64 / spans as f64;
    println!("rolled up into {} rows in {:.1} s, {each:.0} ns a span", report.rows, took.as_secs_f64());

    let (stored, by_hand) = (world.answer(FROM_ROLLUP).await, world.answer(FROM_SPANS).await);
    assert_eq!(text(&stored), text(&by_hand), "the rollup says what the spans say");
    let leaves = world.answer("SELECT count(*) FROM llm_calls").await.column(0).as_primitive::<Int64Type>().value(0);
    let calls = stored.column_by_name("calls").expect("there is the column").as_primitive::<Int64Type>();
    assert_eq!(calls.values().iter().sum::<i64>(), leaves, "every call is counted");

    let from_rollup = world.time(FROM_ROLLUP, ROUNDS).await;
    let from_spans = world.time(FROM_SPANS, 3).await;
    let ratio = from_spans / from_rollup;
    println!(
        "p50, p95 and p99 of {} pairs of hour and model: {from_rollup:.1} ms from the rollup, {from_spans:.0} ms from the spans, \
         {ratio:.0} times as long",
        stored.num_rows()
    );
    drop(rollups);
    world.lake.shutdown().await.expect("all is committed");
}

fn main() {
    allocator::keep_freed_memory();
    let millions = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match std::env::var_os("SPANLAKE_BENCH_DIR") {
        Some(directory) => runtime.block_on(run(millions, directory.as_ref())),
        None => {
            let directory = tempfile::tempdir().expect("a directory");
            runtime.block_on(run(millions, directory.path()));
        }
    }
}
