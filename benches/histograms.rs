//! What histograms cost: of values at hand, and in SQL against DataFusion's own percentiles, each answer verified before it
//! is timed.
//!
//! ```sh
//! cargo bench --bench histograms          # four million spans
//! cargo bench --bench histograms -- 2     # twice 65,536
//! ```
//!
//! Every figure is nanoseconds a value or span, the least of several rounds, with the ratio to a floor or peer measured in the
//! same run: machines differ, ratios less so. SQL runs on one thread, over rows in memory.

#[path = "../src/allocator.rs"]
mod allocator;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use prost::Message;
use spanlake_ingest::Decoder;
use spanlake_metrics::{Histogram, Kind};
use spanlake_query::{Parameters, QueryEngine, QueryOptions};
use spanlake_schema::{DEFAULT_TENANT, TableSpec, spans};
use spanlake_storage::{Store, Table, TableSource, TableView};
use spanlake_testkit::Traffic;
use tokio::runtime::Runtime;

const REQUESTS: usize = 128;
const SPANS_A_REQUEST: usize = 512;
const REPETITIONS: usize = 64;
const ROUNDS: usize = 7;
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];
const RECEIVED: u64 = 1_763_700_000_000_000_000;

/// Generated spans, in memory as often as asked for.
#[derive(Debug)]
struct Rows {
    _directory: tempfile::TempDir,
    table: Arc<Table>,
    hot: Vec<RecordBatch>,
}

impl Rows {
    async fn new(repetitions: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().to_str().unwrap()).unwrap();
        let table = Table::open_or_create(&store, DEFAULT_TENANT, &spans::SPEC).await.unwrap();
        let mut traffic = Traffic::new(1).without_content();
        let decoder = Decoder::default();
        let bodies = (0..REQUESTS).map(|_| traffic.request(SPANS_A_REQUEST).encode_to_vec());
        let batches: Vec<_> = bodies.flat_map(|body| decoder.decode_traces(&body, RECEIVED).unwrap()).collect();
        // As many rows a batch as a scan of files gives.
        let batches: Vec<_> =
            batches.chunks(16).map(|some| arrow::compute::concat_batches(&some[0].schema(), some).unwrap()).collect();
        let hot = (0..repetitions).flat_map(|_| batches.clone()).collect();
        Self { _directory: directory, table: Arc::new(table), hot }
    }

    fn len(&self) -> usize {
        self.hot.iter().map(RecordBatch::num_rows).sum()
    }

    /// The durations of each model's spans, sorted.
    fn durations(&self) -> BTreeMap<Option<String>, Vec<i64>> {
        let mut durations: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for batch in &self.hot {
            let models =
                arrow::compute::cast(batch.column_by_name("model").unwrap(), &arrow::datatypes::DataType::Utf8)
                    .unwrap();
            let all = batch.column_by_name("duration_ns").unwrap().as_primitive::<Int64Type>();
            for (model, duration) in models.as_string::<i32>().iter().zip(all) {
                durations.entry(model.map(str::to_owned)).or_default().extend(duration);
            }
        }
        durations.values_mut().for_each(|durations| durations.sort_unstable());
        durations
    }
}

#[async_trait]
impl TableSource for Rows {
    fn tables(&self, _: &str) -> Vec<&'static TableSpec> {
        vec![&spans::SPEC]
    }

    async fn view(&self, _: &str, table: &str) -> spanlake_storage::Result<Option<TableView>> {
        let view = || TableView {
            table: Arc::clone(&self.table),
            snapshot: self.table.snapshot(),
            hot: self.hot.clone(),
            spilled: Vec::new(),
        };
        Ok((table == spans::SPEC.name).then(view))
    }
}

/// The least time of several rounds, in nanoseconds for each of so many.
fn time(count: usize, mut work: impl FnMut()) -> f64 {
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work();
        least = least.min(started.elapsed());
    }
    least.as_nanos() as f64 / count as f64
}

fn report(step: &str, nanos: f64, against: &str, peer: f64) {
    println!("  {step:<58} {nanos:>7.2} ns  {:>5.2} x {against} ({peer:.2} ns)", nanos / peer);
}

/// Values at hand: one by one, and a batch at a time.
fn values(durations: &[i64]) {
    let at_once = |batch: usize| {
        let mut histogram = Histogram::new(Kind::INTEGER);
        durations.chunks(batch).for_each(|some| histogram.insert_all_units(some).unwrap());
        histogram
    };
    let each = || {
        let mut histogram = Histogram::new(Kind::INTEGER);
        durations.iter().for_each(|&duration| histogram.insert_units(i128::from(duration), 1).unwrap());
        histogram
    };
    assert_eq!(at_once(8_192), each(), "the same histogram");
    assert_eq!(each().sum_units(), Some(durations.iter().map(|&duration| i128::from(duration)).sum()), "the exact sum");
    let floor = time(durations.len(), || {
        let totals = durations.iter().fold((0i128, i64::MAX, i64::MIN), |(sum, min, max), &duration| {
            (sum + i128::from(duration), min.min(duration), max.max(duration))
        });
        black_box(totals);
    });
    let one_by_one = time(durations.len(), || drop(black_box(each())));
    let all = time(durations.len(), || drop(black_box(at_once(8_192))));
    let doubles: Vec<f64> = durations.iter().map(|&duration| duration as f64 / 1e9).collect();
    let of_doubles = time(doubles.len(), || {
        let mut histogram = Histogram::new(Kind::Double);
        doubles.chunks(8_192).for_each(|some| histogram.insert_all(some).unwrap());
        black_box(histogram);
    });
    println!("{} values at hand, each:", durations.len());
    report("sum, least and greatest alone", floor, "itself: a floor", floor);
    report("insert_units", one_by_one, "that floor", floor);
    report("insert_all_units, 8192 at once", all, "that floor", floor);
    report("insert_all, doubles", of_doubles, "that floor", floor);
}

/// A statement over the rows.
struct Sql<'a> {
    runtime: &'a Runtime,
    engine: &'a QueryEngine,
    rows: usize,
}

impl Sql<'_> {
    fn answer(&self, statement: &str) -> Vec<RecordBatch> {
        self.runtime.block_on(async {
            let stream = self.engine.sql(DEFAULT_TENANT, statement, Parameters::None).await.unwrap();
            stream.try_collect().await.unwrap()
        })
    }

    fn time(&self, statement: &str) -> f64 {
        time(self.rows, || drop(black_box(self.answer(statement))))
    }

    /// How far off quantiles are at worst, relative to the value at their rank: model, then a column for each quantile.
    fn error(&self, statement: &str, durations: &BTreeMap<Option<String>, Vec<i64>>) -> f64 {
        let mut worst: f64 = 0.0;
        let mut models = 0;
        for batch in self.answer(statement) {
            let model = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
            for (row, model) in model.as_string::<i32>().iter().enumerate() {
                let sorted = &durations[&model.map(str::to_owned)];
                models += 1;
                for (q, column) in QUANTILES.into_iter().zip(&batch.columns()[1..]) {
                    let column = arrow::compute::cast(column, &arrow::datatypes::DataType::Float64).unwrap();
                    let found = column.as_primitive::<Float64Type>().value(row);
                    let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
                    let exact = sorted[rank - 1] as f64;
                    worst = worst.max((found - exact).abs() / exact.max(1.0));
                }
            }
        }
        assert_eq!(models, durations.len(), "an answer for every model");
        worst
    }
}

/// Percentiles by model in SQL, ours and DataFusion's.
fn sql(sql: &Sql<'_>, durations: &BTreeMap<Option<String>, Vec<i64>>) {
    let by_model = |answers: &[String]| format!("SELECT model, {} FROM spans GROUP BY model", answers.join(", "));
    let ours = |quantiles: &[f64]| {
        by_model(
            &quantiles.iter().map(|q| format!("histogram_quantile(histogram(duration_ns), {q})")).collect::<Vec<_>>(),
        )
    };
    let theirs = |quantiles: &[f64]| {
        by_model(&quantiles.iter().map(|q| format!("approx_percentile_cont(duration_ns, {q})")).collect::<Vec<_>>())
    };
    let error = sql.error(&ours(&QUANTILES), durations);
    assert!(error <= 0.0055, "a quantile is {error} off");
    let their_error = sql.error(&theirs(&QUANTILES), durations);
    let floor = sql.time(&by_model(&["count(duration_ns)".to_owned()]));
    let totals = sql.time(&by_model(&["sum(duration_ns), min(duration_ns), max(duration_ns)".to_owned()]));
    let (our_three, their_three) = (sql.time(&ours(&QUANTILES)), sql.time(&theirs(&QUANTILES)));
    let (our_one, their_one) = (sql.time(&ours(&[0.95])), sql.time(&theirs(&[0.95])));
    println!(
        "{} spans by model in SQL, each; quantiles at worst {:.2} % off, DataFusion's {:.2} %:",
        sql.rows,
        100.0 * error,
        100.0 * their_error
    );
    report("count", floor, "itself: a floor", floor);
    report("sum, min, max", totals, "that floor", floor);
    report("histogram, one quantile", our_one, "that floor", floor);
    report("approx_percentile_cont, one quantile", their_one, "ours", our_one);
    report("histogram, three quantiles", our_three, "that floor", floor);
    report("approx_percentile_cont, three quantiles", their_three, "ours", our_three);
    report(
        "histogram, beyond the floor",
        our_three - floor,
        "approx_percentile_cont, three, beyond it",
        their_three - floor,
    );
}

fn main() {
    allocator::keep_freed_memory();
    let repetitions = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(REPETITIONS);
    let runtime = Runtime::new().unwrap();
    let rows = Arc::new(runtime.block_on(Rows::new(repetitions)));
    let durations = rows.durations();
    let unsorted: Vec<i64> = {
        let columns =
            rows.hot.iter().map(|batch| batch.column_by_name("duration_ns").unwrap().as_primitive::<Int64Type>());
        columns.flat_map(|column| column.iter().flatten()).collect()
    };
    values(&unsorted);
    let options = QueryOptions {
        memory_limit_bytes: 1 << 30,
        spill_limit_bytes: 1 << 30,
        timeout: Duration::from_secs(600),
        row_limit: 1_000,
        concurrency: 1,
        threads: 1,
    };
    let engine = QueryEngine::new(Arc::clone(&rows) as Arc<dyn TableSource>, options).unwrap();
    sql(&Sql { runtime: &runtime, engine: &engine, rows: rows.len() }, &durations);
}
