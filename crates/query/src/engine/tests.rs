use std::sync::Arc;
use std::time::Duration;

use arrow::util::pretty::pretty_format_batches;
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use object_store::ObjectStoreExt;
use spanlake_schema::DEFAULT_TENANT;
use spanlake_storage::TableSource;
use spanlake_testkit::wait_until;

use super::{QueryEngine, QueryOptions};
use crate::fixture::{Fixture, MARCH, Span, batches, csv, csv_with, engine, numbered, options};
use crate::{Parameters, QueryError, QueryErrorKind};

/// 300 committed rows in three files of two days, 100 hot ones.
async fn filled() -> (Arc<Fixture>, Arc<QueryEngine>) {
    let fixture = Fixture::new().await;
    fixture.commit(DEFAULT_TENANT, &numbered(0, 100)).await;
    fixture.commit(DEFAULT_TENANT, &numbered(100, 100)).await;
    fixture.commit(DEFAULT_TENANT, &numbered(90_000, 100)).await;
    fixture.set_hot(DEFAULT_TENANT, &numbered(200, 100));
    let engine = engine(&fixture, options());
    (fixture, engine)
}

async fn plan(engine: &QueryEngine, statement: &str) -> String {
    let batches = batches(engine, &format!("EXPLAIN {statement}")).await.expect("a plan");
    pretty_format_batches(&batches).expect("text").to_string()
}

async fn error(engine: &QueryEngine, statement: &str) -> QueryError {
    batches(engine, statement).await.expect_err("an error")
}

#[tokio::test]
async fn hot_and_committed_rows_are_one_table() {
    let (_fixture, engine) = filled().await;
    assert_eq!(csv(&engine, "SELECT count(*) AS n FROM spans").await.expect("rows"), ["n", "400"]);
    assert_eq!(
        csv(&engine, "SELECT count(DISTINCT trace_id) AS n, min(duration_ns) AS a, max(duration_ns) AS b FROM spans")
            .await
            .expect("rows"),
        ["n,a,b", "400,1000,91099"]
    );
    let by_day = "SELECT date, count(*) AS n FROM spans GROUP BY date ORDER BY date";
    assert_eq!(csv(&engine, by_day).await.expect("rows"), ["date,n", "2026-03-01,300", "2026-03-02,100"]);
    // The statement names the table four times; each mention sees the same rows.
    let joined = "SELECT count(*) AS n FROM spans a JOIN spans b USING (trace_id) \
                  WHERE a.trace_id IN (SELECT trace_id FROM spans) AND (SELECT count(*) FROM spans) = 400";
    assert_eq!(csv(&engine, joined).await.expect("rows"), ["n", "400"]);
}

#[tokio::test]
async fn filters_find_the_same_rows_hot_and_cold() {
    let (_fixture, engine) = filled().await;
    let cases = [
        ("trace_id = '00000000000000000000000000000007'", 1),
        ("trace_id = '000000000000000000000000000000fa'", 1),
        ("trace_id = 'nothing'", 0),
        ("model IS NULL", 133),
        ("model LIKE 'gpt%' AND duration_ns >= 1100", 100),
        ("attributes['gen_ai.system'] = 'openai'", 400),
        ("attributes['absent'] IS NULL", 400),
        ("cost_usd > 0.0001", 267),
        ("cost_usd = 0.000123", 267),
        ("date = '2026-03-02'", 100),
        ("date IN ('2026-03-02', '2026-03-03') AND service_name = 'checkout'", 34),
        ("start_time >= '2026-03-01T00:03:20.123456Z'", 200),
        ("start_time > '2026-03-01T00:03:20.123456Z'", 199),
        ("start_time BETWEEN '2026-03-02' AND '2026-03-03'", 100),
        ("array_length(events) = 2", 400),
    ];
    for (filter, expected) in cases {
        let rows = csv(&engine, &format!("SELECT count(*) AS n FROM spans WHERE {filter}")).await;
        assert_eq!(rows.expect(filter), ["n".to_owned(), expected.to_string()], "{filter}");
        let rows = csv(&engine, &format!("SELECT trace_id FROM spans WHERE {filter}")).await;
        assert_eq!(rows.expect(filter).len(), expected + 1, "{filter}");
    }
}

#[tokio::test]
async fn segments_are_pruned_and_parquet_filters() {
    let (_fixture, engine) = filled().await;
    let files = |plan: &str| {
        plan.matches(".parquet:").count() + plan.matches(".parquet]").count() + plan.matches(".parquet,").count()
    };
    let all = plan(&engine, "SELECT name FROM spans").await;
    assert_eq!(files(&all), 3, "{all}");
    for (filter, expected) in [
        ("date = '2026-03-02'", 1),
        ("start_time < '2026-03-01T00:01:00Z'", 1),
        ("start_time >= '2026-03-01T00:01:39.123456Z' AND start_time <= '2026-03-01T00:02:00Z'", 2),
        ("duration_ns > 90000", 1),
        ("trace_id = '00000000000000000000000000000007'", 1),
        ("cost_usd > 1", 0),
        ("model IS NULL", 3),
        ("model = 'no such model'", 0),
        ("name = 'x'", 3),
    ] {
        let plan = plan(&engine, &format!("SELECT name FROM spans WHERE {filter}")).await;
        assert_eq!(files(&plan), expected, "{filter}: {plan}");
        if expected > 0 {
            // Parquet applies the filter itself: there is no filter above it but for the rows in memory.
            assert!(plan.contains("predicate="), "{plan}");
            assert_eq!(plan.matches("FilterExec").count(), 1, "{plan}");
        }
    }
}

#[tokio::test]
async fn a_trace_that_is_not_there_is_not_read() {
    let (fixture, engine) = filled().await;
    fixture.set_hot(DEFAULT_TENANT, &[]);
    // Within the bounds of one file, so that only the Bloom filter can tell.
    let statement = "EXPLAIN ANALYZE SELECT name FROM spans WHERE trace_id = '0000000000000000000000000000005z'";
    let plan = csv(&engine, statement).await.expect("metrics").join("\n");
    assert!(plan.contains("row_groups_pruned_bloom_filter=1 total \u{2192} 0 matched"), "{plan}");
    assert!(plan.contains("row_groups_pruned_statistics=1 total \u{2192} 1 matched"), "{plan}");
}

#[tokio::test]
async fn counting_everything_reads_nothing() {
    let (_fixture, engine) = filled().await;
    let plan = plan(&engine, "SELECT count(*) FROM spans").await;
    assert!(plan.contains("PlaceholderRowExec") && !plan.contains("DataSourceExec"), "{plan}");
}

#[tokio::test]
async fn types_come_back_as_the_table_has_them() {
    let (_fixture, engine) = filled().await;
    let batches = batches(&engine, "SELECT * FROM spans").await.expect("rows");
    assert_eq!(batches.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 400);
    let wanted = spanlake_schema::spans::SPEC.arrow_schema();
    for batch in &batches {
        for (field, wanted) in batch.schema().fields().iter().zip(wanted.fields()) {
            assert_eq!((field.name(), field.data_type()), (wanted.name(), wanted.data_type()));
        }
    }
}

#[tokio::test]
async fn maps_lists_and_decimals_work() {
    let (_fixture, engine) = filled().await;
    let cases = [
        ("SELECT attributes['tier'] AS t, count(*) AS n FROM spans GROUP BY t", vec!["t,n", "gold,400"]),
        ("SELECT sum(cost_usd) AS usd FROM spans", vec!["usd", "0.032841000000"]),
        ("SELECT sum(cost_usd) AS usd FROM spans WHERE model IS NULL", vec!["usd", "\"\""]),
        (
            "SELECT e['name'] AS e, count(*) AS n FROM (SELECT unnest(events) AS e FROM spans) GROUP BY e['name'] ORDER BY 1",
            vec!["e,n", "ended,400", "started,400"],
        ),
        ("SELECT DISTINCT map_keys(attributes) AS k FROM spans", vec!["k", "\"[\"\"gen_ai.system\"\",\"\"tier\"\"]\""]),
        ("SELECT DISTINCT events[1]['name'] AS e FROM spans", vec!["e", "started"]),
        (
            "SELECT date_trunc('minute', start_time) AS m, count(*) AS n FROM spans GROUP BY m ORDER BY m LIMIT 2",
            vec!["m,n", "2026-03-01T00:00:00Z,60", "2026-03-01T00:01:00Z,60"],
        ),
        (
            "SELECT approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ns) IS NOT NULL AS p FROM spans",
            vec!["p", "true"],
        ),
    ];
    for (statement, expected) in cases {
        assert_eq!(csv(&engine, statement).await.expect(statement), expected, "{statement}");
    }
}

#[tokio::test]
async fn a_tenant_sees_its_own_tables_and_nothing_else() {
    let (fixture, engine) = filled().await;
    fixture.add_tenant("other").await;
    fixture.commit("other", &numbered(0, 1)).await;
    let text = |batches: &[arrow::array::RecordBatch]| pretty_format_batches(batches).expect("text").to_string();
    let count = engine.sql("other", "SELECT count(*) AS n FROM spans", Parameters::None).await.expect("a plan");
    let rows: Vec<_> = count.map(|batch| batch.expect("a row")).collect().await;
    assert!(text(&rows).contains("| 1 |"), "{}", text(&rows));
    let tables = batches(&engine, "SHOW TABLES").await.expect("tables");
    let tables = text(&tables);
    assert!(tables.contains("| spanlake      | public             | spans "), "{tables}");
    assert!(!tables.contains("other"), "{tables}");
    for statement in
        ["SELECT * FROM other.spans", "SELECT * FROM other.public.spans", "SELECT * FROM spanlake.other.spans"]
    {
        let error = error(&engine, statement).await;
        assert_eq!(error.kind, QueryErrorKind::Invalid, "{statement}: {error}");
    }
    let nobody = engine.sql("nobody", "SELECT * FROM spans", Parameters::None).await.err().expect("no such tenant");
    assert_eq!(nobody.kind, QueryErrorKind::Invalid, "{nobody}");
}

#[tokio::test]
async fn describing_and_showing_work() {
    let (_fixture, engine) = filled().await;
    let described = csv(&engine, "DESCRIBE spans").await.expect("columns");
    assert_eq!(described.len(), spanlake_schema::spans::SPEC.columns.len() + 1);
    assert_eq!(described[1], "date,Date32,NO");
    let columns = "SELECT count(*) AS n FROM information_schema.columns WHERE table_name = 'spans'";
    let count = spanlake_schema::spans::SPEC.columns.len().to_string();
    assert_eq!(csv(&engine, columns).await.expect("columns"), ["n".to_owned(), count]);
    for statement in ["SHOW COLUMNS FROM spans", "SHOW ALL", "SHOW FUNCTIONS", "EXPLAIN ANALYZE SELECT * FROM spans"] {
        assert!(csv(&engine, statement).await.expect(statement).len() > 1, "{statement}");
    }
}

#[tokio::test]
async fn what_cannot_be_planned_says_why_and_where() {
    let (_fixture, engine) = filled().await;
    let cases = [
        ("SELECT nme FROM spans", "nme", Some((1, 8))),
        ("SELECT name\nFROM spams", "spams", None),
        ("SELECT nofunction(1)", "nofunction", None),
        ("SELECT * FROM spans WHERE", "Expected", Some((1, 26))),
        ("SELECT CAST('x' AS BIGINT)", "x", None),
        ("SELECT 1 / 0", "zero", None),
        ("SELECT date_trunc('fortnight', start_time) FROM spans", "fortnight", None),
    ];
    for (statement, word, position) in cases {
        let error = error(&engine, statement).await;
        assert_eq!(error.kind, QueryErrorKind::Invalid, "{statement}: {error}");
        assert!(error.message.contains(word), "{statement}: {error}");
        if position.is_some() {
            assert_eq!(error.position, position, "{statement}: {error}");
        }
        assert!(error.message.len() < 500, "{error}");
    }
}

#[tokio::test]
async fn parameters_are_bound_and_checked() {
    let (_fixture, engine) = filled().await;
    let text = |value: &str| ScalarValue::from(value);
    let named = |pairs: &[(&str, ScalarValue)]| {
        Parameters::Named(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    };
    let count = "SELECT count(*) AS n FROM spans WHERE";
    let good = [
        (
            format!("{count} model = $1 AND duration_ns > $2"),
            Parameters::Positional(vec![text("gpt-4o-mini"), 1100i64.into()]),
            100,
        ),
        (format!("{count} model = $m OR model = $m"), named(&[("m", text("gpt-4o-mini"))]), 134),
        (format!("{count} start_time >= $1"), Parameters::Positional(vec![text("2026-03-02T00:00:00Z")]), 100),
        (format!("{count} cost_usd > $1"), Parameters::Positional(vec![ScalarValue::from(0.0001)]), 267),
        (
            format!("{count} trace_id IN (SELECT trace_id FROM spans WHERE duration_ns = $1)"),
            Parameters::Positional(vec![1007i64.into()]),
            1,
        ),
    ];
    for (statement, parameters, expected) in good {
        let rows = csv_with(&engine, &statement, parameters).await.expect(&statement);
        assert_eq!(rows, ["n".to_owned(), expected.to_string()], "{statement}");
    }
    let list = Parameters::from_json(&serde_json::json!([["gpt-4o-mini", "claude-sonnet-4"]])).expect("a list");
    let rows = csv_with(&engine, &format!("{count} array_has($1, model)"), list).await.expect("a list");
    assert_eq!(rows, ["n", "267"]);
    let limited = csv_with(&engine, "SELECT name FROM spans LIMIT $1", Parameters::Positional(vec![3i64.into()])).await;
    assert_eq!(limited.expect("three rows").len(), 4);

    let bad = [
        ("SELECT $1", Parameters::None, "$1"),
        ("SELECT $1 + $2", Parameters::Positional(vec![1i64.into()]), "$2"),
        ("SELECT $1", Parameters::Positional(vec![1i64.into(), 2i64.into()]), "$2"),
        ("SELECT 1", Parameters::Positional(vec![1i64.into()]), "$1"),
        ("SELECT $a", named(&[("b", 1i64.into())]), "$a"),
        ("SELECT $a", named(&[("a", 1i64.into()), ("b", 1i64.into())]), "$b"),
        ("SELECT $a", Parameters::Positional(vec![1i64.into()]), "$a"),
        ("SELECT $1", named(&[("a", 1i64.into())]), "$1"),
    ];
    for (statement, parameters, word) in bad {
        let error = csv_with(&engine, statement, parameters).await.expect_err(statement);
        assert_eq!(error.kind, QueryErrorKind::Invalid, "{statement}: {error}");
        assert!(error.message.contains(word), "{statement}: {error}");
    }
}

#[tokio::test]
async fn an_answer_beyond_the_row_limit_ends_with_an_error() {
    let (_fixture, engine) = {
        let (fixture, _) = filled().await;
        let engine = engine(&fixture, QueryOptions { row_limit: 399, ..options() });
        (fixture, engine)
    };
    let error = error(&engine, "SELECT name FROM spans").await;
    assert_eq!(error.kind, QueryErrorKind::Exhausted);
    assert!(error.message.contains("399") && error.message.contains("query_row_limit"), "{error}");
    assert_eq!(csv(&engine, "SELECT name FROM spans LIMIT 399").await.expect("as many as may be").len(), 400);
    assert_eq!(csv(&engine, "SELECT count(*) AS n FROM spans").await.expect("one row"), ["n", "400"]);
    assert_eq!(engine.stats().failed_total, 1);
}

#[tokio::test]
async fn a_query_over_its_time_is_ended() {
    let (fixture, _) = filled().await;
    let engine = engine(&fixture, QueryOptions { timeout: Duration::from_millis(300), ..options() });
    // 25.6 billion rows.
    let endless = "SELECT count(*) FROM spans a, spans b, spans c, spans d WHERE a.duration_ns + b.duration_ns > c.duration_ns + d.duration_ns";
    let error = error(&engine, endless).await;
    assert_eq!(error.kind, QueryErrorKind::Timeout, "{error}");
    assert!(error.message.contains("query_timeout"), "{error}");
    // Its slot is free again: as many queries as there are slots run.
    all_slots_free(&engine, options().concurrency).await;
}

/// Takes every slot at once, which only works when nothing else holds one.
async fn all_slots_free(engine: &QueryEngine, concurrency: usize) {
    let count = u32::try_from(concurrency).expect("few");
    let all = tokio::time::timeout(Duration::from_secs(60), engine.slots.acquire_many(count)).await;
    drop(all.expect("every slot becomes free").expect("an open engine"));
}

#[tokio::test]
async fn dropping_an_answer_frees_its_slot() {
    let (fixture, _) = filled().await;
    let engine = engine(&fixture, QueryOptions { concurrency: 1, ..options() });
    let endless = "SELECT a.name FROM spans a, spans b, spans c, spans d";
    let mut answer = engine.sql(DEFAULT_TENANT, endless, Parameters::None).await.expect("a plan");
    answer.next().await.expect("a batch").expect("rows");
    assert_eq!(engine.stats().running, 1);
    assert_eq!(engine.slots.available_permits(), 0);
    drop(answer);
    all_slots_free(&engine, 1).await;
    let stats = engine.stats();
    assert_eq!((stats.cancelled_total, stats.running), (1, 0));
    assert_eq!(csv(&engine, "SELECT count(*) AS n FROM spans").await.expect("the slot is free"), ["n", "400"]);
}

#[tokio::test]
async fn dropping_a_query_that_still_waits_or_plans_frees_its_place() {
    let (fixture, _) = filled().await;
    let engine = engine(&fixture, QueryOptions { concurrency: 1, ..options() });
    let held = engine.slots.acquire().await.expect("an open engine");
    let waiting = engine.sql(DEFAULT_TENANT, "SELECT 1", Parameters::None);
    // One poll puts it into the queue.
    assert!(futures::poll!(Box::pin(waiting)).is_pending());
    drop(held);
    assert_eq!(engine.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(engine.stats().cancelled_total, 1);
    assert_eq!(csv(&engine, "SELECT 1 AS n").await.expect("the slot is free"), ["n", "1"]);
}

#[tokio::test]
async fn waiting_is_bounded_in_number_and_time() {
    let (fixture, _) = filled().await;
    let options = QueryOptions { concurrency: 1, timeout: Duration::from_millis(50), ..options() };
    let engine = engine(&fixture, options);
    let _held = engine.slots.acquire().await.expect("an open engine");
    let late = error(&engine, "SELECT 1").await;
    assert_eq!(late.kind, QueryErrorKind::Exhausted, "{late}");
    let limit = super::WAITING_PER_SLOT;
    let queue = futures::future::join_all((0..limit + 2).map(|_| error(&engine, "SELECT 1"))).await;
    let refused = queue.iter().filter(|error| error.message.contains("wait already")).count();
    assert_eq!(refused, 1, "{queue:?}");
    assert!(queue.iter().all(|error| error.kind == QueryErrorKind::Exhausted));
}

/// Many rows of 32 hex digits, made by the query itself.
const SORT: &str = "SELECT md5(value::varchar)::varchar AS h, value FROM range(0, 400000) ORDER BY h";

#[tokio::test]
async fn a_sort_beyond_memory_spills() {
    let fixture = Fixture::new().await;
    let engine = engine(&fixture, QueryOptions { memory_limit_bytes: 28 << 20, ..options() });
    let batches = batches(&engine, SORT).await.expect("a sort that spills");
    let rows: usize = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
    assert_eq!(rows, 400_000);
    let mut before = String::new();
    for batch in &batches {
        let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).expect("text");
        for hash in arrow::array::AsArray::as_string::<i32>(&column).iter().flatten() {
            assert!(*before <= *hash);
            hash.clone_into(&mut before);
        }
    }
    let spilled = csv(&engine, &format!("EXPLAIN ANALYZE {SORT}")).await.expect("metrics").join("\n");
    let sort = spilled.split(" SortExec:").nth(1).and_then(|rest| rest.split("spill_count=").nth(1)).expect(&spilled);
    assert!(!sort.starts_with("0,"), "{spilled}");
}

#[tokio::test]
async fn memory_and_spill_limits_refuse_with_the_key_to_raise() {
    let fixture = Fixture::new().await;
    let no_disk =
        engine(&fixture, QueryOptions { memory_limit_bytes: 12 << 20, spill_limit_bytes: 1 << 20, ..options() });
    let refused = error(&no_disk, SORT).await;
    assert_eq!(refused.kind, QueryErrorKind::Exhausted, "{refused}");
    assert!(refused.message.contains("query_memory_limit") && refused.message.contains("temporary"), "{refused}");

    let no_memory = engine(&fixture, QueryOptions { memory_limit_bytes: 1 << 20, ..options() });
    // A hash join holds one side whole and cannot spill it.
    let held = "SELECT count(*) FROM (SELECT md5(value::varchar) AS h FROM range(0, 200000)) a \
                JOIN (SELECT md5(value::varchar) AS h FROM range(0, 200001)) b ON a.h = b.h";
    let refused = error(&no_memory, held).await;
    assert_eq!(refused.kind, QueryErrorKind::Exhausted, "{refused}");
    assert!(refused.message.contains("query_memory_limit"), "{refused}");
    let given_back = async || (no_memory.stats().memory_bytes == 0).then_some(());
    wait_until("a refused query gives its memory back", given_back).await;
}

#[tokio::test]
async fn functions_that_make_much_of_little_are_bounded() {
    let (_fixture, engine) = filled().await;
    for expression in [
        "range(0, 1000000000000)",
        "range(1000000000000)",
        "generate_series(1000000000000, 0, -1)",
        "range(TIMESTAMP '2000-01-01', TIMESTAMP '2030-01-01', INTERVAL '1 microsecond')",
        "repeat('x', 1000000000)",
        "repeat(repeat('x', 100000), 100000)",
        "array_repeat(1, 1000000000)",
        "list_repeat('x', 1000000000)",
        "array_resize([1], 1000000000, 0)",
        "lpad('x', 1000000000)",
        "rpad(name, 1000000) FROM spans",
        "range(0, duration_ns * 1000) FROM spans",
        "repeat(trace_id, duration_ns * 100) FROM spans",
    ] {
        let error = error(&engine, &format!("SELECT {expression}")).await;
        assert_eq!(error.kind, QueryErrorKind::Exhausted, "{expression}: {error}");
    }
    for (expression, expected) in [
        ("cardinality(range(0, 1000000))", "1000000"),
        ("cardinality(range(10, 0, -3))", "4"),
        ("cardinality(generate_series(DATE '2026-01-01', DATE '2026-01-31', INTERVAL '1 day'))", "31"),
        ("repeat('ab', 3)", "ababab"),
        ("cardinality(list_repeat('x', 3))", "3"),
        ("array_to_string(array_resize([1], 3, 0), '-')", "1-0-0"),
        ("lpad('7', 3, '0')", "007"),
        ("rpad('7', 3, '0')", "700"),
        ("repeat('x', NULL) IS NULL", "true"),
        ("max(length(repeat(trace_id, 3))) FROM spans", "96"),
        ("sum(cardinality(range(duration_ns, duration_ns + 2))) FROM spans", "800"),
    ] {
        let answer = csv(&engine, &format!("SELECT {expression}")).await.expect(expression);
        assert_eq!(answer[1], expected, "{expression}");
    }
}

#[tokio::test]
async fn statistics_count_how_queries_end() {
    let (_fixture, engine) = filled().await;
    csv(&engine, "SELECT 1").await.expect("one row");
    error(&engine, "SELECT nothing").await;
    error(&engine, "DROP TABLE spans").await;
    drop(engine.sql(DEFAULT_TENANT, "SELECT * FROM spans", Parameters::None).await.expect("a plan"));
    let stats = engine.stats();
    assert_eq!(
        (stats.succeeded_total, stats.failed_total, stats.forbidden_total, stats.cancelled_total, stats.running),
        (1, 1, 1, 1, 0)
    );
    assert_eq!(stats.duration_seconds_buckets.iter().map(|(_, count)| count).sum::<u64>(), 4);
    assert_eq!(stats.duration_seconds_buckets.last().expect("a bucket").0, f64::INFINITY);
    assert!(stats.duration_seconds_sum > 0.0);
}

/// A source whose views fail.
#[derive(Debug)]
struct Broken(bool);

#[async_trait::async_trait]
impl TableSource for Broken {
    fn tables(&self, _tenant: &str) -> Vec<&'static spanlake_schema::TableSpec> {
        vec![&spanlake_schema::spans::SPEC]
    }

    async fn view(&self, _: &str, _: &str) -> spanlake_storage::Result<Option<spanlake_storage::TableView>> {
        assert!(!self.0, "the view panics");
        Err(spanlake_storage::Error::new(spanlake_storage::ErrorKind::Retry, "the store is away"))
    }
}

#[tokio::test]
async fn a_failing_store_and_a_panic_end_one_query_only() {
    for (panics, kind, word) in
        [(false, QueryErrorKind::Unavailable, "the store is away"), (true, QueryErrorKind::Internal, "the view panics")]
    {
        let engine = QueryEngine::new(Arc::new(Broken(panics)), options()).expect("an engine");
        for _ in 0..2 * options().concurrency {
            let error = error(&engine, "SELECT * FROM spans").await;
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(word), "{error}");
        }
        assert_eq!(csv(&engine, "SELECT 1 AS n").await.expect("another query runs"), ["n", "1"]);
    }
}

#[tokio::test]
async fn a_lost_segment_is_unavailable_not_empty() {
    let (fixture, engine) = filled().await;
    let table = fixture.table(DEFAULT_TENANT);
    let lost = table.object_path(&table.snapshot().segments[0].path).expect("a path");
    table.store().object_store().delete(&lost).await.expect("deleted");
    let error = error(&engine, "SELECT max(name) FROM spans").await;
    assert_eq!(error.kind, QueryErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn deep_expressions_within_the_bound_run() {
    let (_fixture, engine) = filled().await;
    let chain = "+ duration_ns ".repeat(450);
    let statement = format!("SELECT max(0 {chain}) AS n FROM spans WHERE duration_ns = 1000");
    assert_eq!(csv(&engine, &statement).await.expect("a long sum"), ["n", "450000"]);
    let words = " OR name = 'y'".repeat(450);
    let statement = format!("SELECT count(*) AS n FROM spans WHERE name = 'x' {words}");
    assert_eq!(csv(&engine, &statement).await.expect("a long condition"), ["n", "400"]);
}

#[tokio::test]
async fn an_engine_is_dropped_within_another_runtime_and_ends_its_answers() {
    let (_fixture, engine) = filled().await;
    let endless = "SELECT a.name FROM spans a, spans b, spans c, spans d";
    let mut answer = engine.sql(DEFAULT_TENANT, endless, Parameters::None).await.expect("a plan");
    drop(engine);
    let end = loop {
        match answer.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break QueryError::from(error),
            None => panic!("an answer that was cut off looks whole"),
        }
    };
    assert_eq!(end.kind, QueryErrorKind::Unavailable, "{end}");
}

/// Scenario: DataFusion tells of a cancelled task in words only. Guarantee: it is no fault of the statement's.
#[test]
fn a_cancelled_task_is_no_invalid_statement() {
    let told = datafusion::error::DataFusionError::Execution("Non Panic Task error: task 7 was cancelled".to_owned());
    assert_eq!(QueryError::from(told).kind, QueryErrorKind::Unavailable);
}

#[tokio::test]
async fn timestamps_at_the_edge_of_a_millisecond_are_not_pruned_away() {
    let fixture = Fixture::new().await;
    let at = |micros| Span { trace_id: "a".into(), start_micros: MARCH + micros, ..Span::default() };
    fixture.commit(DEFAULT_TENANT, &[at(1_000), at(2_999)]).await;
    let engine = engine(&fixture, options());
    for (filter, expected) in [
        (">= '2026-03-01T00:00:00.002999Z'", 1),
        ("> '2026-03-01T00:00:00.002001Z'", 1),
        ("<= '2026-03-01T00:00:00.001Z'", 1),
        ("> '2026-03-01T00:00:00.004Z'", 0),
    ] {
        let rows = csv(&engine, &format!("SELECT count(*) AS n FROM spans WHERE start_time {filter}")).await;
        assert_eq!(rows.expect(filter), ["n".to_owned(), expected.to_string()], "{filter}");
    }
}
