//! What holds for histograms of any rows, however these are split.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch,
};
use arrow::compute::take;
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::MemoryCatalogProviderList;
use datafusion::config::ConfigOptions;
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::prelude::SessionContext;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::Index;
use spanlake_metrics::{Histogram, Kind};

use super::groups::HistogramGroups;
use crate::QueryOptions;
use crate::fixture::options;
use crate::session::{base_state, runtime_env};

/// A column of one of the types.
#[derive(Clone, Debug)]
enum Values {
    Integers(Vec<Option<i64>>),
    Decimals(Vec<Option<i128>>),
    Doubles(Vec<Option<f64>>),
}

impl Values {
    fn kind(&self) -> Kind {
        match self {
            Self::Integers(_) => Kind::INTEGER,
            Self::Decimals(_) => Kind::Decimal { scale: 12 },
            Self::Doubles(_) => Kind::Double,
        }
    }

    fn len(&self) -> usize {
        self.column().len()
    }

    fn column(&self) -> ArrayRef {
        match self {
            Self::Integers(values) => Arc::new(Int64Array::from(values.clone())),
            Self::Decimals(values) => {
                let values = Decimal128Array::from(values.clone());
                Arc::new(values.with_precision_and_scale(38, 12).expect("a decimal type"))
            }
            Self::Doubles(values) => Arc::new(Float64Array::from(values.clone())),
        }
    }

    /// Adds a row as the crate of histograms does, unless it is NULL.
    fn insert(&self, row: usize, weight: u64, histogram: &mut Option<Histogram>) {
        if weight == 0 || self.column().is_null(row) {
            return;
        }
        let histogram = histogram.get_or_insert_with(|| Histogram::new(self.kind()));
        match self {
            Self::Integers(values) => histogram.insert_units(values[row].unwrap_or_default().into(), weight),
            Self::Decimals(values) => histogram.insert_units(values[row].unwrap_or_default(), weight),
            Self::Doubles(values) => histogram.insert(values[row].unwrap_or_default(), weight),
        }
        .expect("few values");
    }
}

fn values() -> impl Strategy<Value = Values> {
    let integer = prop_oneof![4 => 0i64..2_000_000, 1 => any::<i64>(), 1 => Just(0)];
    let decimal = prop_oneof![4 => (0i64..5_000_000_000).prop_map(i128::from), 1 => any::<(i64, i32)>().prop_map(|(a, b)| i128::from(a) * i128::from(b))];
    let double = prop_oneof![4 => 1e-3..1e6f64, 2 => any::<f64>(), 1 => Just(f64::NAN), 1 => Just(-0.0)];
    prop_oneof![
        vec(weighted(0.9, integer), 1..300).prop_map(Values::Integers),
        vec(weighted(0.9, decimal), 1..300).prop_map(Values::Decimals),
        vec(weighted(0.9, double), 1..300).prop_map(Values::Doubles),
    ]
}

/// Rows and how they are split: a group, a subgroup and a partition each, and lengths of batches.
#[derive(Clone, Debug)]
struct Split {
    values: Values,
    groups: Vec<i64>,
    subgroups: Vec<i64>,
    weights: Vec<i64>,
    partitions: Vec<usize>,
    lengths: Vec<usize>,
}

fn splits() -> impl Strategy<Value = Split> {
    // Few groups are sorted by, many are not.
    let groups = prop_oneof![Just(1i64), Just(5), Just(200)];
    let groups = groups.prop_flat_map(|count| vec(0..count, 1..300));
    (values(), groups, vec(0i64..4, 1..20), vec(0i64..5, 1..20), vec(0usize..3, 1..20), vec(1usize..120, 1..5))
        .prop_map(|(values, groups, subgroups, weights, partitions, lengths)| {
            let rows = values.len();
            let cycled = |items: Vec<i64>| items.into_iter().cycle().take(rows).collect::<Vec<_>>();
            Split {
                groups: cycled(groups),
                subgroups: cycled(subgroups),
                weights: cycled(weights),
                partitions: partitions.into_iter().cycle().take(rows).collect(),
                values,
                lengths,
            }
        })
}

impl Split {
    /// What one look at the rows gives, by the group that `group` names.
    fn expected(&self, group: impl Fn(usize) -> i64, weight: impl Fn(usize) -> u64) -> BTreeMap<i64, Option<Vec<u8>>> {
        let mut histograms: BTreeMap<i64, Option<Histogram>> = BTreeMap::new();
        for row in 0..self.values.len() {
            self.values.insert(row, weight(row), histograms.entry(group(row)).or_default());
        }
        let encoded = |histogram: Option<Histogram>| histogram.map(|histogram| histogram.encode());
        histograms.into_iter().map(|(group, histogram)| (group, encoded(histogram))).collect()
    }

    fn batch(&self) -> RecordBatch {
        let integers = |items: &[i64]| Arc::new(Int64Array::from(items.to_vec())) as ArrayRef;
        RecordBatch::try_from_iter_with_nullable([
            ("k", integers(&self.groups), true),
            ("j", integers(&self.subgroups), true),
            ("w", integers(&self.weights), true),
            ("v", self.values.column(), true),
        ])
        .expect("columns of one length")
    }

    fn cut(&self) -> Vec<Vec<RecordBatch>> {
        let whole = self.batch();
        let partition = |wanted: usize| {
            let rows = self.partitions.iter().enumerate().filter(|(_, partition)| **partition == wanted);
            let rows: Vec<i64> = rows.map(|(row, _)| row as i64).collect();
            let rows = Int64Array::from(rows);
            let columns = whole.columns().iter().map(|column| take(column, &rows, None).expect("rows")).collect();
            let part = RecordBatch::try_new(whole.schema(), columns).expect("the same columns");
            let (mut batches, mut start) = (Vec::new(), 0);
            for length in self.lengths.iter().cycle() {
                let length = (*length).min(part.num_rows() - start);
                batches.push(part.slice(start, length));
                start += length;
                if start == part.num_rows() {
                    return batches;
                }
            }
            batches
        };
        (0..3).map(partition).collect()
    }
}

/// A session as statements have it, over a table `t` of these batches.
fn session(
    options: &QueryOptions,
    partitions: Vec<Vec<RecordBatch>>,
    set: impl FnOnce(&mut ConfigOptions),
) -> SessionContext {
    let base = base_state(options, runtime_env(options).expect("a runtime"));
    let mut config = base.config().clone().with_create_default_catalog_and_schema(true);
    set(config.options_mut());
    let builder = SessionStateBuilder::new_from_existing(base).with_config(config);
    let context =
        SessionContext::new_with_state(builder.with_catalog_list(Arc::new(MemoryCatalogProviderList::new())).build());
    let schema = partitions.iter().flatten().next().expect("a batch").schema();
    let table = MemTable::try_new(schema, partitions).expect("a table");
    context.register_table("t", Arc::new(table)).expect("a new table");
    context
}

async fn answer(context: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    context.sql(sql).await.expect(sql).collect().await.expect(sql)
}

/// Group and encoding of every row.
async fn histograms(context: &SessionContext, sql: &str) -> BTreeMap<i64, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for batch in answer(context, sql).await {
        let (groups, histograms) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_binary::<i32>());
        for (group, histogram) in groups.values().iter().zip(histograms) {
            assert!(found.insert(*group, histogram.map(<[u8]>::to_vec)).is_none(), "group {group} twice");
        }
    }
    found
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Scenario: any rows in any partitions, batches and groups, aggregated in SQL at once or in steps. Guarantee: the bytes that
    /// the crate of histograms makes of all rows at once.
    #[test]
    fn any_split_gives_the_bytes_of_one_pass(split in splits()) {
        let context = session(&options(), split.cut(), |_| {});
        let once = |_| 1;
        let weight = |row: usize| split.weights[row].unsigned_abs();
        let group = |row: usize| split.groups[row];
        let of_first = |row: usize| u64::from(split.subgroups[row] == 0);
        block_on(async {
            let grouped = histograms(&context, "SELECT k, histogram(v) FROM t GROUP BY k").await;
            prop_assert_eq!(&grouped, &split.expected(group, once));
            let steps = "SELECT k, histogram_merge(h) FROM (SELECT k, j, histogram(v) AS h FROM t GROUP BY k, j) GROUP BY k";
            prop_assert_eq!(histograms(&context, steps).await, grouped);
            let weighted = histograms(&context, "SELECT k, histogram(v, w) FROM t GROUP BY k").await;
            prop_assert_eq!(weighted, split.expected(group, weight));
            let filtered = histograms(&context, "SELECT k, histogram(v) FILTER (WHERE j = 0) FROM t GROUP BY k").await;
            prop_assert_eq!(filtered, split.expected(group, of_first));
            let all = histograms(&context, "SELECT 0, histogram(v) FROM t").await;
            prop_assert_eq!(&all, &split.expected(|_| 0, once));
            let merged = "SELECT 0, histogram_merge(h) FROM (SELECT histogram(v) AS h FROM t GROUP BY k)";
            prop_assert_eq!(histograms(&context, merged).await, all);
            let weighted = "SELECT 0, histogram(v, w) FILTER (WHERE w <> 1) FROM t";
            let expected = split.expected(|_| 0, |row| if split.weights[row] == 1 { 0 } else { weight(row) });
            prop_assert_eq!(histograms(&context, weighted).await, expected);
            Ok(())
        })?;
    }

    /// Scenario: any rows, a quantile. Guarantee: SQL answers within 0.55 % of the value at its rank.
    #[test]
    fn quantiles_are_close_to_the_value_at_their_rank(values in vec(1i64..10_000_000_000, 1..400), q in 0.0..=1.0f64) {
        let column = Arc::new(Int64Array::from(values.clone())) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("v", column)]).expect("a column");
        let context = session(&options(), vec![vec![batch]], |_| {});
        let mut sorted = values;
        sorted.sort_unstable();
        let quantiles = [q, 0.0, 0.5, 0.95, 0.99, 1.0];
        let list = quantiles.map(|q| format!("{q:?}")).join(", ");
        let sql = format!("SELECT histogram_quantile(histogram(v), [{list}]) FROM t");
        let answers = block_on(answer(&context, &sql));
        let answers = answers[0].column(0).as_list::<i32>().value(0);
        for (q, found) in quantiles.into_iter().zip(answers.as_primitive::<Float64Type>().values()) {
            let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let exact = sorted[rank - 1] as f64;
            prop_assert!((found - exact).abs() <= 0.0055 * exact, "{}: {} for {}", q, found, exact);
        }
    }

    /// Scenario: batches that go straight in, through the state of another accumulator, or row by row as states of their own;
    /// groups that leave early. Guarantee: the bytes of one pass, and the memory told is the memory taken.
    #[test]
    fn states_carry_everything(split in splits(), ways in vec(0u8..3, 1..8), leave in any::<Index>()) {
        let batch = split.batch();
        let column = |name: &str| Arc::clone(batch.column_by_name(name).expect("a column"));
        let make = || HistogramGroups::new("histogram", Some(split.values.kind()));
        let filter: BooleanArray = split.subgroups.iter().map(|&subgroup| (subgroup > 0).then_some(subgroup != 1)).collect();
        let total = split.groups.iter().max().map_or(0, |&group| group as usize + 1);
        let mut accumulator = make();
        let mut start = 0;
        for (length, way) in split.lengths.iter().cycle().zip(ways.iter().cycle()) {
            let length = (*length).min(batch.num_rows() - start);
            let rows = [column("v").slice(start, length)];
            let groups: Vec<usize> = split.groups[start..start + length].iter().map(|&group| group as usize).collect();
            let filter = filter.slice(start, length);
            match way {
                0 => accumulator.update_batch(&rows, &groups, Some(&filter), total).expect("values"),
                1 => {
                    let mut other = make();
                    other.update_batch(&rows, &groups, Some(&filter), total).expect("values");
                    let state = other.state(EmitTo::All).expect("a state");
                    let everyone: Vec<usize> = (0..total).collect();
                    accumulator.merge_batch(&state, &everyone, total).expect("a state");
                }
                _ => {
                    let state = accumulator.convert_to_state(&rows, Some(&filter)).expect("states");
                    accumulator.merge_batch(&state, &groups, total).expect("states");
                }
            }
            prop_assert!(accumulator.size() > accumulator.heap_bytes());
            start += length;
            if start == batch.num_rows() {
                break;
            }
        }
        let first = leave.index(total + 1);
        let mut found = Vec::new();
        for emit_to in [EmitTo::First(first), EmitTo::All] {
            let emitted = accumulator.evaluate(emit_to).expect("histograms");
            found.extend(emitted.as_binary::<i32>().iter().map(|histogram| histogram.map(<[u8]>::to_vec)));
        }
        let expected = split.expected(|row| split.groups[row], |row| u64::from(split.subgroups[row] > 1));
        let expected: Vec<_> = (0..total as i64).map(|group| expected.get(&group).cloned().flatten()).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(accumulator.heap_bytes(), 0);
    }
}

/// Rows of so many groups, each `rounds` times, in batches.
fn many_groups(groups: i64, rounds: i64) -> Vec<Vec<RecordBatch>> {
    let batch = |start: i64| {
        let numbers = start..(start + 4_096).min(groups * rounds);
        let column =
            |number: &dyn Fn(i64) -> i64| Arc::new(numbers.clone().map(number).collect::<Int64Array>()) as ArrayRef;
        let value = |number: i64| (number * 7_919) % 1_000_003 - 1_000;
        RecordBatch::try_from_iter([("k", column(&|number| number % groups)), ("v", column(&value))]).expect("columns")
    };
    let batches: Vec<RecordBatch> = (0..groups * rounds).step_by(4_096).map(batch).collect();
    let (left, right) = batches.split_at(batches.len() / 2);
    vec![left.to_vec(), right.to_vec()]
}

/// The metrics of a statement, as EXPLAIN ANALYZE prints them.
async fn metrics(context: &SessionContext, sql: &str) -> String {
    let plan = answer(context, &format!("EXPLAIN ANALYZE {sql}")).await;
    pretty_format_batches(&plan).expect("text").to_string()
}

/// The greatest of the numbers that follow a name in a text.
fn greatest(text: &str, name: &str) -> u64 {
    let numbers = text.split(name).skip(1).map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        rest[..end].parse::<f64>().map_or(0, |number| number.ceil() as u64)
    });
    numbers.max().unwrap_or(0)
}

/// Scenario: more groups than memory holds. Guarantee: the aggregate spills, and its answer is to the byte the one it gives in
/// plenty of memory.
#[tokio::test]
async fn a_spilled_aggregate_is_the_same() {
    let sql = "SELECT k, histogram(v) AS h FROM t GROUP BY k";
    let merged = "SELECT k, histogram_merge(h) AS h FROM (SELECT k, v % 3 AS j, histogram(v) AS h FROM t GROUP BY k, v % 3) GROUP BY k";
    let rows = many_groups(12_000, 4);
    let plenty = session(&options(), rows.clone(), |_| {});
    let wanted = histograms(&plenty, sql).await;
    assert_eq!(wanted.len(), 12_000);
    assert_eq!(greatest(&metrics(&plenty, sql).await, "spill_count="), 0);

    // Merging what was spilled holds the groups of a batch at least.
    let tight = QueryOptions { memory_limit_bytes: 6 << 20, ..options() };
    let tight = session(&tight, rows, |settings| {
        settings.set("datafusion.execution.batch_size", "512").expect("a setting");
    });
    for sql in [sql, merged] {
        let found = histograms(&tight, sql).await;
        assert!(found == wanted, "{sql}: {} groups", found.len());
        let metrics = metrics(&tight, sql).await;
        assert!(greatest(&metrics, "spill_count=") > 0, "{metrics}");
    }
}

/// Scenario: a first phase that finds nearly as many groups as rows and gives up. Guarantee: rows pass as states of their own,
/// and the answer is the same.
#[tokio::test]
async fn an_aggregate_that_skips_its_first_phase_is_the_same() {
    let sql = "SELECT k, histogram(v) AS h FROM t GROUP BY k";
    let rows = many_groups(9_000, 2);
    let wanted = histograms(&session(&options(), rows.clone(), |_| {}), sql).await;
    let skipping = session(&options(), rows, |settings| {
        settings.execution.skip_partial_aggregation_probe_rows_threshold = 100;
        settings.execution.skip_partial_aggregation_probe_ratio_threshold = 0.5;
    });
    assert!(histograms(&skipping, sql).await == wanted);
    let metrics = metrics(&skipping, sql).await;
    assert!(greatest(&metrics, "skipped_aggregation_rows=") > 0, "{metrics}");
}

/// Scenario: histograms as another program gives them, hostile ones among them. Guarantee: every function refuses them with its
/// own name, and none panics.
#[tokio::test]
async fn every_function_refuses_bytes_that_are_no_histogram() {
    let good = Histogram::new(Kind::INTEGER).encode();
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    bad.extend([vec![2, 0, 0], vec![1; 40], [good, vec![0]].concat()]);
    for bytes in bad {
        let column = Arc::new(BinaryArray::from(vec![bytes.as_slice()])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("h", column)]).expect("a column");
        let context = session(&options(), vec![vec![batch]], |_| {});
        let unary = ["count", "non_finite_count", "sum", "min", "max", "mean", "sum_exact", "min_exact", "max_exact"];
        let unary =
            unary.into_iter().chain(["relative_error", "buckets", "merge"]).map(|name| format!("histogram_{name}(h)"));
        let others = ["histogram_quantile(h, 0.5)", "histogram_quantile(h, [0.5])", "histogram_fraction_below(h, 1)"];
        let others = others.into_iter().chain(["histogram_rank(h, 1)"]).map(str::to_owned);
        for call in unary.chain(others) {
            let answer = context.sql(&format!("SELECT {call} FROM t")).await.expect(&call).collect().await;
            let error = crate::QueryError::from(answer.expect_err(&call));
            let (name, _) = call.split_once('(').expect("a call");
            assert!(error.message.starts_with(&format!("{name}: encoded histogram of ")), "{call}: {error}");
            assert_eq!(error.kind, crate::QueryErrorKind::Invalid, "{call}: {error}");
        }
    }
}

/// Scenario: histograms in an answer. Guarantee: each format carries them; those with a schema say what they are.
#[tokio::test]
async fn formats_carry_histograms() {
    use futures::TryStreamExt;
    let context = session(&options(), many_groups(1, 3), |_| {});
    let sql = "SELECT histogram(v) AS h FROM t WHERE v > 0";
    let wanted = answer(&context, sql).await;
    let digits: String =
        wanted[0].column(0).as_binary::<i32>().value(0).iter().map(|byte| format!("{byte:02x}")).collect();
    let encoded = async |format| {
        let stream = context.sql(sql).await.expect(sql).execute_stream().await.expect(sql);
        let pieces: Vec<bytes::Bytes> = crate::format::encode(format, stream).try_collect().await.expect("bytes");
        pieces.concat()
    };
    let text = async |format| String::from_utf8(encoded(format).await).expect("UTF-8");
    assert_eq!(text(crate::Format::Json).await, format!("[{{\"h\":\"{digits}\"}}]\n"));
    assert_eq!(text(crate::Format::Csv).await, format!("h\n{digits}\n"));
    assert!(crate::format::table(&wanted[0].schema(), &wanted).contains(&digits));
    let ipc = encoded(crate::Format::ArrowStream).await;
    let reader = arrow::ipc::reader::StreamReader::try_new(ipc.as_slice(), None).expect("a stream");
    assert_eq!(reader.schema().field(0).metadata()["ARROW:extension:name"], "spanlake.histogram");
    let parquet = bytes::Bytes::from(encoded(crate::Format::Parquet).await);
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(parquet).expect("a file");
    assert_eq!(reader.schema().field(0).metadata()["ARROW:extension:name"], "spanlake.histogram");
    let read = reader.build().expect("a reader").next().expect("a batch").expect("rows");
    assert_eq!(read.column(0), wanted[0].column(0));
}
