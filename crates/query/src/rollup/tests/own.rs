//! Every built-in rollup, and rollups of the user's own.

use super::*;
use crate::sql_file::read_folder;

/// Rollups as a user would write them: short windows, sketches, strange keys, one over another.
const OWN: &[(&str, &str)] = &[
    (
        "quarters.sql",
        "-- name: quarters
-- source: spans
-- schedule: every 10s
-- window: 15m
-- keys: model, is_long
--
SELECT
    date_bin(INTERVAL '15 minutes', start_time) AS window_start,
    model,
    duration_ns > 30000000000 AS is_long,
    count(*) AS spans,
    avg(duration_ns) AS mean_duration_ns,
    approx_distinct(trace_id) AS traces,
    histogram(duration_ns) AS duration
FROM spans
WHERE date BETWEEN $first_date AND $last_date AND start_time >= $window_start AND start_time < $window_end
    AND (time_flags & 1) = 0
GROUP BY 1, 2, 3",
    ),
    (
        "long_quarters.sql",
        "-- name: long_quarters
-- source: quarters
-- schedule: every 10s
-- window: 1d
-- keys: model
--
SELECT
    date_trunc('day', window_start) AS window_start,
    model,
    CAST(sum(spans) AS BIGINT) AS spans,
    histogram_merge(duration) AS duration
FROM quarters
WHERE is_long AND date BETWEEN $first_date AND $last_date
    AND window_start >= $window_start AND window_start < $window_end
GROUP BY 1, 2",
    ),
];

fn files() -> Vec<(&'static str, &'static str)> {
    BUILT_IN.iter().chain(OWN).copied().collect()
}

/// Rows as text, sorted, without what a run adds.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let names: BTreeSet<&str> = names.filter(|name| *name != "date" && *name != "revision").collect();
        for row in 0..batch.num_rows() {
            let cell = |name: &&str| {
                let text = array_value_to_string(batch.column_by_name(name).expect("there is one"), row);
                format!("{name}={}", text.expect("it can be shown"))
            };
            lines.push(names.iter().map(cell).collect::<Vec<_>>().join(" "));
        }
    }
    lines.sort_unstable();
    lines
}

/// Every rollup holds what its SELECT says over all of its source.
async fn check_all(process: &Process, files: &[(&str, &str)]) {
    for (file, text) in files {
        let definition = Definition::parse(file, text).expect("the file is right");
        let everything = definition.parameters(&(DAY - 1_000 * DAY_MICROS..DAY + 1_000 * DAY_MICROS));
        let by_hand = lines(&process.sql(&definition.select, everything).await);
        let stored = process.sql(&format!("SELECT * FROM {}", definition.name), Parameters::None).await;
        assert_eq!(lines(&stored), by_hand, "{}", definition.name);
    }
}

async fn run_all(process: &Process) {
    for job in process.rollups.jobs() {
        job.run().await.expect("the run succeeds");
    }
}

/// Scenario: random calls, late ones and ones with clocks that cannot be believed, come in random commits; rows are deleted, files
/// compacted; two processes run all rollups, in turn and at once. Guarantee: each rollup, the product's and the user's, over
/// spans and over rollups, equals its own SELECT over the whole source, to the last bit of histogram and sum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rollup_equals_its_select_over_all_of_the_source() {
    let seeds = std::env::var("SPANLAKE_ROLLUP_SEEDS").map_or(2, |seeds| seeds.parse().expect("a number of seeds"));
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut random = SplitMix64::new(900 + seed);
        let mut world = World::new(900 + seed).await;
        let (first, second) = (world.process_of(&files()).await, world.process_of(&files()).await);
        for _ in 0..3 {
            for _ in 0..random.between(1, 4) {
                let calls: Vec<Call> = (0..random.between(1, 40)).map(|_| random_call(&mut random)).collect();
                world.add(&calls).await;
            }
            let paths = world.paths();
            match random.below(4) {
                0 => world.compact(&[paths[random.below(paths.len() as u64) as usize].clone()]).await,
                1 => {
                    let path = paths[random.below(paths.len() as u64) as usize].clone();
                    world.delete(&path, |call| call.model != Some("b")).await;
                }
                _ => {}
            }
            match random.below(3) {
                0 => run_all(&first).await,
                1 => run_all(&second).await,
                _ => drop(tokio::join!(run_all(&first), run_all(&second))),
            }
            // What one committed meanwhile the rollups above take in with the next run.
            run_all(&first).await;
            check_all(&first, &files()).await;
        }
        assert!(
            !first.sql("SELECT * FROM long_quarters", Parameters::None).await.is_empty(),
            "the test tests something"
        );
    }
}

/// Scenario: calls spread over a day, then one more in one quarter of an hour. Guarantee: only that hour's file is rewritten.
#[tokio::test]
async fn short_windows_are_rewritten_by_the_hour() {
    let mut world = World::new(31).await;
    let process = world.process_of(&files()).await;
    let calls: Vec<Call> = (0..24).map(|hour| Call::at(DAY + hour * HOUR + HOUR / 2)).collect();
    world.add(&calls).await;
    process.rollups.run("quarters").await.expect("it runs");
    let written = |world: &World| world.objects.count(Operation::Put, "default/quarters/date=");
    assert_eq!(written(&world), 24);
    world.add(&[Call::at(DAY + 7 * HOUR + 20 * HOUR / 60), Call::at(DAY + 7 * HOUR)]).await;
    let report = process.rollups.run("quarters").await.expect("it runs");
    assert_eq!((report.windows, report.rows, written(&world)), (2, 2, 25));
    check_all(&process, OWN[..1].as_ref()).await;
}

/// Scenario: the SELECT of a rollup changes, and its window. Guarantee: the first run by the new one computes everything anew, rows
/// of the old windows go; a process with the old one is not asked again.
#[tokio::test]
async fn another_select_computes_everything_anew() {
    let mut world = World::new(32).await;
    world.add(&eventful(3)).await;
    world.add(&eventful(40)).await;
    let old = world.process_of(&files()).await;
    run_all(&old).await;
    let (file, text) = OWN[0];
    let text = text
        .replace("window: 15m", "window: 1h")
        .replace("INTERVAL '15 minutes'", "INTERVAL '1 hour'")
        .replace("count(*) AS spans", "count(*) AS spans,\n    min(duration_ns) AS shortest");
    let new = world.process_of(&[(file, &text)]).await;
    run_all(&new).await;
    check_all(&new, &[(file, &text)]).await;
    let report = new.rollups.run("quarters").await.expect("it runs");
    assert_eq!(report.windows, 0, "nothing is left to do");
}

/// Scenario: a user's folder of rollups: a right file, one that reads it, broken ones; then one is mended, one changed, one removed,
/// all while the server runs. Guarantee: right ones run whatever the others are; what is wrong is told with file, line and
/// column; what is new is taken up without a restart.
#[tokio::test]
async fn files_come_change_and_go_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let lake = lake_in(directory.path(), "wal").await;
    let sql_dir = directory.path().join("sql");
    let folder = sql_dir.join("rollups");
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
    let (_, quarters) = OWN[0];
    // Alphabetically before what it reads.
    write("a_long.sql", &OWN[1].1.replace("name: long_quarters", "name: a_long"));
    write("quarters.sql", quarters);
    write(
        "broken.sql",
        &quarters.replace("name: quarters", "name: broken").replace("avg(duration_ns)", "avg(duration)"),
    );
    write("llm_calls.sql", &quarters.replace("name: quarters", "name: llm_calls"));
    write("cost_daily.sql", &quarters.replace("name: quarters", "name: cost_daily"));

    let engine =
        QueryEngine::new(Arc::clone(&lake) as Arc<dyn TableSource>, world::query_options()).expect("an engine");
    let rollups = Rollups::open(Arc::clone(&lake), Arc::clone(&engine), Arc::new(System), Some(&sql_dir)).await;
    let rollups = rollups.expect("the others run");
    append(&lake, &eventful(1)).await;
    lake.flush().await.expect("the store takes it");
    let run = async |name: &str| rollups.run(name).await.map(|report| report.windows);
    let count = async |statement: &str| {
        let stream = engine.sql(DEFAULT_TENANT, statement, Parameters::None).await.map_err(|error| error.message)?;
        let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(array_value_to_string(batches[0].column(0), 0).expect("a value"))
    };
    assert!(run("quarters").await.expect("it runs") > 0);
    assert_eq!(run("a_long").await.expect("it runs"), 1, "one call is endless");
    let told = |statuses: Vec<RollupStatus>| -> BTreeMap<String, Option<String>> {
        statuses.into_iter().map(|status| (status.name, status.last_error)).collect()
    };
    let listed = told(rollups.list().await.expect("the store answers"));
    let broken = listed["broken"].clone().expect("it is wrong");
    assert!(broken.contains("broken.sql:12:") && broken.contains("duration"), "{broken}");
    assert!(listed["cost_daily"].clone().is_some_and(|error| error.contains("is one of the product's own")));
    assert!(listed["llm_calls"].clone().is_some_and(|error| error.ends_with("name llm_calls is that of a view")));
    assert_eq!((&listed["quarters"], &listed["a_long"]), (&None, &None));

    // What is wrong is not tried again before anything changes.
    let found = read_folder(&folder).expect("it can be read");
    assert_eq!(rollups.state.lock().take_in(found), []);
    write("broken.sql", &quarters.replace("name: quarters", "name: broken"));
    write("quarters.sql", &quarters.replace("count(*) AS spans", "count(*) AS spans, max(duration_ns) AS longest"));
    std::fs::remove_file(folder.join("a_long.sql")).expect("it is there");
    rollups.look_for_files().await;
    assert!(run("broken").await.expect("it runs") > 0);
    assert!(run("quarters").await.expect("it runs") > 0);
    assert_eq!(count("SELECT max(longest) FROM quarters").await.expect("a column"), i64::MAX.to_string());
    assert!(run("a_long").await.expect_err("it is gone").message.starts_with("there is no rollup a_long"));
    assert!(!told(rollups.list().await.expect("the store answers")).contains_key("a_long"));
    lake.shutdown().await.expect("all is committed");
}
