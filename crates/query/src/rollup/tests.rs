mod calls;
mod oracle;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use futures::TryStreamExt;
use spanlake_schema::corrections::{Address, Correction, Reason, Value};
use spanlake_schema::{DEFAULT_TENANT, System};
use spanlake_storage::{Decode, Entry, Frame, Lake, LakeOptions, PromotionList, Store, TableSource};
use spanlake_testkit::{Fault, Operation, SplitMix64, wait_until};

use self::calls::Call;
use self::oracle::{HOUR, Key, Totals};
use self::world::{DAYS_PER_COMMIT, Process, ROLLUP, World};
use super::definition::{BUILT_IN, Definition};
use super::windows::{DAY_MICROS, day_of};
use super::{FIRST_RETRY, RollupStatus, Rollups, pause};
use crate::{Parameters, QueryEngine, QueryErrorKind};

/// 2026-01-14T00:00:00Z, the day before the manual clock's.
const DAY: i64 = 1_768_348_800_000_000;

type Rows = BTreeMap<Key, (Totals, i64)>;

fn totals(rows: &Rows) -> BTreeMap<Key, Totals> {
    rows.iter().map(|(key, (totals, _))| (key.clone(), totals.clone())).collect()
}

/// Revision of each window; all rows of a window have the same.
fn revisions(rows: &Rows) -> BTreeMap<i64, i64> {
    let mut revisions = BTreeMap::new();
    for (key, (_, revision)) in rows {
        let first = *revisions.entry(key.window).or_insert(*revision);
        assert_eq!(first, *revision, "window {} has rows of two revisions", key.window);
    }
    revisions
}

fn window_of(rows: &BTreeMap<Key, Totals>, window: i64) -> Vec<(&Key, &Totals)> {
    rows.iter().filter(|(key, _)| key.window == window).collect()
}

/// The rollup says what the calls say, and so does its SELECT over everything; a window's revision grew by one where its rows
/// differ from those before, and only there.
async fn check(world: &World, process: &Process, before: &Rows) -> Rows {
    let after = process.stored().await;
    assert_eq!(totals(&after), world.expected());

    let (file, text) = BUILT_IN[0];
    let definition = Definition::parse(file, text).expect("the built-in rollup is right");
    let everything = definition.parameters(&(DAY - 1_000 * DAY_MICROS..DAY + 1_000 * DAY_MICROS));
    let by_hand = oracle::read(&process.sql(&definition.select, everything).await);
    assert_eq!(totals(&after), totals(&by_hand));

    let (old, new) = (revisions(before), revisions(&after));
    let (old_rows, new_rows) = (totals(before), totals(&after));
    for (window, revision) in &new {
        let same = window_of(&old_rows, *window) == window_of(&new_rows, *window);
        let expected = match old.get(window) {
            Some(old) if same => *old,
            Some(old) => old + 1,
            None => 1,
        };
        assert_eq!(*revision, expected, "revision of window {window}");
    }
    let status = process.status().await;
    assert_eq!((status.source_version, status.source_latest), (Some(world.version()), world.version()));
    after
}

fn eventful(hour: i64) -> Vec<Call> {
    let start = DAY + hour * HOUR;
    let plain = Call::at(start);
    vec![
        Call {
            input_tokens: Some(10),
            output_tokens: Some(0),
            cost: Some(1),
            duration_ns: Some(5),
            streamed: Some(true),
            ..plain.clone()
        },
        Call { input_tokens: Some(7), cost: Some(999_999_999_999_999_999), duration_ns: Some(6), ..plain.clone() },
        Call { streamed: Some(false), start: start + HOUR - 1, ..plain.clone() },
        Call { status_code: "ERROR", reasoning_tokens: Some(3), ..plain.clone() },
        Call { model: None, provider: None, service: None, operation: None, ..plain.clone() },
        Call { environment: Some("prod"), cache_read_tokens: Some(1), cache_write_tokens: Some(2), ..plain.clone() },
        Call { role: Some("aggregate"), input_tokens: Some(1_000), ..plain.clone() },
        Call { role: None, ..plain.clone() },
        // The start cannot be believed: the hour of arrival counts.
        Call {
            start: DAY - 900 * DAY_MICROS,
            received: start + 7,
            time_flags: 1 | 4,
            duration_ns: Some(1),
            ..plain.clone()
        },
        // Sums that fit no column are NULL, not wrapped around.
        Call { model: Some("huge"), input_tokens: Some(i64::MAX), duration_ns: Some(i64::MAX), ..plain.clone() },
        Call { model: Some("huge"), input_tokens: Some(1), duration_ns: Some(1), ..plain },
    ]
}

#[tokio::test]
async fn every_sum_is_exact_and_null_is_a_key() {
    let mut world = World::new(1).await;
    let process = world.process().await;
    world.add(&eventful(3)).await;
    world.add(&eventful(3)).await;
    world.add(&eventful(30)).await;
    let report = process.run().await;
    assert_eq!((report.source_version, report.windows, report.rows), (3, 2, 10));
    assert!(!report.already_done);

    let rows = check(&world, &process, &Rows::new()).await;
    let key = |model: Option<&str>| Key {
        window: DAY + 3 * HOUR,
        keys: [Some("shop"), Some("openai"), model, Some("chat"), None].map(|text| text.map(str::to_owned)),
        status: "ok".to_owned(),
    };
    let (plain, revision) = &rows[&key(Some("m"))];
    assert_eq!(*revision, 1);
    assert_eq!((plain.requests, plain.streamed, plain.unpriced), (8, 2, 4));
    assert_eq!(plain.tokens, [Some(34), Some(0), None, None, None]);
    assert_eq!(plain.cost, Some(2_000_000_000_000_000_000));
    assert_eq!((plain.duration_count, plain.duration_mean), (6, Some(4f64.to_bits())));
    let (huge, _) = &rows[&key(Some("huge"))];
    assert_eq!((huge.tokens[0], huge.duration_sum, huge.duration_max), (None, None, Some(i64::MAX)));
}

#[tokio::test]
async fn running_again_does_nothing() {
    let mut world = World::new(2).await;
    let process = world.process().await;
    let empty = process.run().await;
    assert_eq!((empty.source_version, empty.windows), (0, 0));
    world.add(&eventful(1)).await;
    assert_eq!(process.run().await.windows, 1);
    let version = process.target.snapshot().version;
    let again = process.run().await;
    assert_eq!((again.source_version, again.windows, again.rows, again.already_done), (1, 0, 0, false));
    assert_eq!(world.process().await.run().await.windows, 0);
    assert_eq!(process.target.refresh().await.expect("the store answers").version, version);
}

#[tokio::test]
async fn late_calls_restate_exactly_their_windows() {
    let mut world = World::new(3).await;
    let process = world.process().await;
    for hour in [0, 1, 2, 26, 50] {
        world.add(&eventful(hour)).await;
    }
    process.run().await;
    let first = check(&world, &process, &Rows::new()).await;
    let untouched: Vec<_> = paths_of(&process, DAY + 50 * HOUR);

    world.add(&[Call::at(DAY + HOUR + 5), Call::at(DAY + 26 * HOUR)]).await;
    world.add(&[Call::at(DAY + HOUR + 6), Call::at(DAY + 5 * HOUR)]).await;
    let report = process.run().await;
    assert_eq!(report.windows, 3);
    let second = check(&world, &process, &first).await;
    let expected =
        [(0, 1), (1, 2), (2, 1), (5, 1), (26, 2), (50, 1)].map(|(hour, revision)| (DAY + hour * HOUR, revision));
    assert_eq!(revisions(&second), BTreeMap::from(expected));
    assert_eq!(paths_of(&process, DAY + 50 * HOUR), untouched, "a day without dirty windows is not rewritten");
}

/// The rollup's segments of the day of a time.
fn paths_of(process: &Process, time: i64) -> Vec<String> {
    let snapshot = process.target.snapshot();
    let of_day = snapshot.segments.iter().filter(|segment| segment.date == Some(day_of(time)));
    of_day.map(|segment| segment.path.clone()).collect()
}

#[tokio::test]
async fn calls_that_do_not_count_move_only_the_position() {
    let mut world = World::new(4).await;
    let process = world.process().await;
    world.add(&eventful(1)).await;
    process.run().await;
    let first = check(&world, &process, &Rows::new()).await;
    let segments = paths_of(&process, DAY);
    world.add(&[Call { role: None, ..Call::at(DAY + HOUR) }, Call { role: Some("duplicate"), ..Call::at(DAY) }]).await;
    assert_eq!(process.run().await.windows, 0);
    check(&world, &process, &first).await;
    assert_eq!(paths_of(&process, DAY), segments);
}

/// A correction of a call's role and tokens.
fn correction(call: &Call, revision: i64, role: &str, input_tokens: i64) -> Correction {
    let address = Address {
        date: day_of(call.event_time()),
        trace_id: format!("{:032x}", call.received),
        span_id: format!("{:016x}", call.received),
        received_micros: call.received,
        telling: None,
        start_micros: call.start,
    };
    let changes = vec![
        ("usage_role".to_owned(), Some(Value::Text(role.to_owned()))),
        ("input_tokens".to_owned(), Some(Value::Int(input_tokens))),
    ];
    Correction { address, revision, recorded_micros: call.received, reason: Reason::Role, changes }
}

/// Scenario: corrections of calls that count already, of one that is not committed yet, and of one whose start cannot be
/// believed. Guarantee: the windows they touch are restated, no others, and every correction counts once.
#[tokio::test]
async fn corrections_restate_the_windows_of_their_spans() {
    let mut world = World::new(14).await;
    let process = world.process().await;
    let at = |hour: i64| Call { input_tokens: Some(5), ..Call::at(DAY + hour * HOUR) };
    let odd = Call { start: DAY - 900 * DAY_MICROS, received: DAY + 9 * HOUR, time_flags: 1, ..at(0) };
    let late = at(30);
    world.add(&[at(1), Call { start: DAY + HOUR + 1, ..at(2) }, at(3), odd.clone()]).await;
    assert_eq!(process.run().await.windows, 3);

    world.correct(&[correction(&at(1), 1, "aggregate", 5), correction(&late, 1, "leaf", 70)]).await;
    assert_eq!(process.run().await.windows, 1);
    let sums = async |process: &Process| {
        let rows = process.stored().await;
        rows.iter()
            .map(|(key, (totals, _))| ((key.window - DAY) / HOUR, totals.requests, totals.tokens[0]))
            .collect::<Vec<_>>()
    };
    assert_eq!(sums(&process).await, [(1, 1, Some(5)), (3, 1, Some(5)), (9, 1, Some(5))]);
    assert_eq!(process.run().await.windows, 0, "a correction is taken in once");

    world.add(&[late]).await;
    world.correct(&[correction(&odd, 1, "leaf", 6), correction(&odd, 2, "leaf", 8)]).await;
    let other = world.process().await;
    assert_eq!(other.run().await.windows, 2);
    assert_eq!(process.run().await.windows, 0, "another process has done it");
    let expected = [(1, 1, Some(5)), (3, 1, Some(5)), (9, 1, Some(8)), (30, 1, Some(70))];
    assert_eq!(sums(&process).await, expected);
}

#[tokio::test]
async fn compaction_dirties_nothing() {
    let mut world = World::new(5).await;
    let process = world.process().await;
    world.add(&eventful(1)).await;
    world.add(&eventful(2)).await;
    process.run().await;
    let first = check(&world, &process, &Rows::new()).await;
    let gets = world.objects.count(Operation::Get, "spans/date=");
    world.compact(&world.paths()).await;
    assert_eq!(process.run().await.windows, 0);
    assert_eq!(world.objects.count(Operation::Get, "spans/date="), gets, "no row is read for a compaction");
    check(&world, &process, &first).await;

    // Calls that were compacted and vacuumed away before the run saw their first segment count all the same.
    world.add(&eventful(3)).await;
    world.compact(&world.paths()).await;
    world.vacuum().await;
    assert_eq!(process.run().await.windows, 1);
    check(&world, &process, &first).await;
}

#[tokio::test]
async fn deleted_calls_restate_their_windows() {
    let mut world = World::new(6).await;
    let process = world.process().await;
    let call = |hour: i64, model| Call { model: Some(model), ..Call::at(DAY + hour * HOUR) };
    let (one, two) = (call(1, "a"), call(2, "a"));
    world.add(&[one.clone(), call(1, "b"), two.clone(), call(2, "b")]).await;
    world.add(&[call(3, "a")]).await;
    process.run().await;
    let first = check(&world, &process, &Rows::new()).await;

    // The segment that was removed can still be read.
    let path = path_with(&world, &one);
    world.delete(&path, |call| *call != one).await;
    assert_eq!(process.run().await.windows, 1);
    let second = check(&world, &process, &first).await;

    // It cannot: the whole day is computed anew, and still only the window that changed is rewritten.
    let path = path_with(&world, &two);
    world.delete(&path, |call| *call != two).await;
    world.vacuum().await;
    assert_eq!(process.run().await.windows, 1);
    let third = check(&world, &process, &second).await;
    assert_eq!(revisions(&third), BTreeMap::from([(DAY + HOUR, 2), (DAY + 2 * HOUR, 2), (DAY + 3 * HOUR, 1)]));

    // The last calls of a day go: so does the rollup's segment.
    for path in world.paths() {
        world.delete(&path, |_| false).await;
    }
    assert_eq!(process.run().await.windows, 3);
    assert_eq!(check(&world, &process, &third).await, Rows::new());
    assert!(process.target.snapshot().segments.is_empty());
}

fn path_with(world: &World, call: &Call) -> String {
    world.paths().into_iter().find(|path| world.calls_in(path).contains(call)).expect("a segment has the call")
}

#[tokio::test]
async fn a_log_that_was_cleaned_up_makes_everything_dirty() {
    let mut world = World::new(7).await;
    let process = world.process().await;
    world.add(&eventful(1)).await;
    world.add(&eventful(30)).await;
    process.run().await;
    let first = check(&world, &process, &Rows::new()).await;
    world.add(&eventful(2)).await;
    world.add(&eventful(30)).await;
    process.status().await;
    world.forget_version(3).await;
    assert_eq!(process.run().await.windows, 2);
    check(&world, &process, &first).await;
}

#[tokio::test]
async fn a_source_older_than_the_position_is_an_error() {
    let mut world = World::new(8).await;
    let process = world.process().await;
    world.add(&eventful(1)).await;
    process.run().await;
    world.forget_version(1).await;
    let error = world.process().await.try_run().await.expect_err("version 1 is gone");
    assert_eq!(error.kind, QueryErrorKind::Internal);
    assert!(error.message.contains("has taken in version 1 of default/spans, which is at version 0"), "{error}");
}

/// One call on each of so many days.
fn daily(days: i64) -> Vec<Call> {
    (0..days).map(|day| Call::at(DAY + day * DAY_MICROS + 5 * HOUR)).collect()
}

#[tokio::test]
async fn a_long_history_goes_in_bounded_commits_and_may_break_off_anywhere() {
    let mut world = World::new(9).await;
    world.add(&daily(8)).await;
    let commits = |world: &World| world.objects.count(Operation::Put, "model_usage_hour/_delta_log/");
    let process = world.process().await;
    let before = commits(&world);
    // The third of three commits fails as often as it is tried.
    world.objects.inject_run(
        Operation::Put,
        "model_usage_hour/_delta_log/00000000000000000003",
        1,
        u64::MAX,
        Fault::Fail,
    );
    let error = process.try_run().await.expect_err("the store fails");
    assert_eq!(error.kind, QueryErrorKind::Unavailable);
    assert_eq!(process.status().await.last_error, Some(error.message));
    assert!(commits(&world) >= before + 3);
    assert_eq!(process.stored().await.len(), 2 * DAYS_PER_COMMIT);
    assert_eq!(process.status().await.source_version, None, "the position moves with the last commit only");

    world.objects.heal();
    world.add(&[Call::at(DAY + 5 * HOUR), Call::at(DAY + 7 * DAY_MICROS + 5 * HOUR)]).await;
    let partial = process.stored().await;
    let report = world.process().await.run().await;
    assert_eq!(report.windows, 2 + 1, "days 6 and 7, and day 0 again");
    check(&world, &process, &partial).await;
}

#[tokio::test]
async fn a_lost_answer_counts_nothing_twice() {
    let mut world = World::new(10).await;
    let process = world.process().await;
    let mut before = Rows::new();
    for hour in 0..4 {
        world.add(&eventful(hour)).await;
        world.objects.inject(Operation::Put, "model_usage_hour/_delta_log/", 1, Fault::LostAnswer);
        world.objects.inject(Operation::Put, "model_usage_hour/date=", 1, Fault::Fail);
        while process.try_run().await.is_err() {}
        world.objects.heal();
        before = check(&world, &process, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_processes_that_race_each_window_is_counted_once() {
    let mut world = World::new(11).await;
    let processes = [world.process().await, world.process().await, world.process().await];
    let mut before = Rows::new();
    for round in 0..4 {
        // More days than fit one commit, so that processes meet half way.
        let mut calls = daily(5);
        calls.extend(eventful(round));
        world.add(&calls).await;
        let [first, second, third] = &processes;
        let reports = tokio::join!(first.run(), second.run(), third.run());
        let reports = [reports.0, reports.1, reports.2];
        assert!(reports.iter().all(|report| report.source_version == world.version()), "{reports:?}");
        before = check(&world, first, &before).await;
    }
}

#[tokio::test]
async fn one_process_never_runs_a_rollup_twice_at_once() {
    let mut world = World::new(12).await;
    let process = world.process().await;
    world.add(&daily(3)).await;
    let (first, second) = tokio::join!(process.run(), process.run());
    let mut windows = [first.windows, second.windows];
    windows.sort_unstable();
    assert_eq!(windows, [0, 3]);
    assert!(!first.already_done && !second.already_done, "the second run waited and found nothing to do");
}

#[tokio::test]
async fn the_select_reads_only_the_dates_and_files_it_needs() {
    let mut world = World::new(13).await;
    let process = world.process().await;
    for day in 0..20 {
        for hour in [2, 9, 21] {
            world.add(&[Call::at(DAY + day * DAY_MICROS + hour * HOUR + 30)]).await;
        }
    }
    let (file, text) = BUILT_IN[0];
    let definition = Definition::parse(file, text).expect("the built-in rollup is right");
    let explain = format!("EXPLAIN {}", definition.select);
    let files = async |from: i64, until: i64| {
        let batches = process.sql(&explain, definition.parameters(&(DAY + from * HOUR..DAY + until * HOUR))).await;
        let mut paths = BTreeSet::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let plan = array_value_to_string(batch.column(1), row).expect("text");
                let named = plan.split(['[', ',', ' ', ']']).filter(|word| word.contains("/date="));
                paths.extend(named.map(str::to_owned));
            }
        }
        paths
    };
    let of_day = files(7 * 24, 8 * 24).await;
    assert_eq!(of_day.len(), 3, "{of_day:?}");
    assert!(of_day.iter().all(|path| path.contains("date=2026-01-21/")), "{of_day:?}");
    let of_hour = files(7 * 24 + 9, 7 * 24 + 10).await;
    assert_eq!(of_hour.len(), 1, "{of_hour:?}");
    assert!(of_hour.is_subset(&of_day));
    assert_eq!(files(7 * 24 + 3, 7 * 24 + 9).await, BTreeSet::new());

    // The run itself: after one more call only segments of its day are read.
    process.run().await;
    world.add(&[Call::at(DAY + 4 * DAY_MICROS)]).await;
    let read = |world: &World, date: &str| world.objects.count(Operation::Get, &format!("spans/date={date}"));
    let (all, dirty) = (read(&world, "2026-"), read(&world, "2026-01-18"));
    process.run().await;
    assert!(read(&world, "2026-01-18") > dirty);
    assert_eq!(read(&world, "2026-") - all, read(&world, "2026-01-18") - dirty);
}

#[tokio::test]
async fn a_schedule_follows_the_table_and_survives_failures() {
    let mut world = World::new(14).await;
    let (_, text) = BUILT_IN[0];
    let process = world.process_with(&text.replace("every 1m", "every 5ms")).await;
    let rollups = Arc::clone(&process.rollups);
    let scheduled = tokio::spawn(async move { rollups.run_scheduled().await });
    let until = async |what: &str, holds: &dyn Fn(&RollupStatus) -> bool| {
        wait_until(what, || async { Some(process.status().await).filter(|status| holds(status)) }).await
    };
    until("the empty table is taken in", &|status| status.source_version == Some(0)).await;
    world.add(&eventful(1)).await;
    until("a commit is taken in", &|status| status.source_version == Some(1)).await;
    let first = check(&world, &process, &Rows::new()).await;

    world.objects.inject_run(Operation::Put, "model_usage_hour/date=", 1, u64::MAX, Fault::Fail);
    world.add(&eventful(2)).await;
    let failed = until("a run fails", &|status| status.last_error.is_some()).await;
    assert_eq!(
        (failed.name.as_str(), failed.source.as_str(), failed.schedule.as_str()),
        (ROLLUP, "spans", "every 5ms")
    );
    assert_eq!((failed.source_version, failed.source_latest, failed.last_windows), (Some(1), 2, None));
    assert!(failed.last_run_unix_micro.is_some() && failed.last_run_millis.is_some());
    world.objects.heal();
    until("it recovers", &|status| status.source_version == Some(2) && status.last_error.is_none()).await;
    check(&world, &process, &first).await;
    scheduled.abort();
}

#[test]
fn a_failure_is_tried_again_sooner_but_ever_later() {
    let minute = Duration::from_secs(60);
    assert_eq!(pause(minute, 0), minute);
    let pauses: Vec<u64> = (1..9).map(|failures| pause(minute, failures).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pause(Duration::from_millis(5), 1), Duration::from_millis(5));
    assert_eq!(pause(FIRST_RETRY * 1_000_000, u32::MAX), FIRST_RETRY * 1_000_000);
}

/// The log of these tests is never read back.
struct Never;

impl Decode for Never {
    fn decode(&self, frame: &Frame, _payload: &Bytes) -> spanlake_storage::Result<Vec<(&'static str, RecordBatch)>> {
        panic!("nothing was to be replayed: {frame:?}")
    }
}

async fn lake_in(directory: &Path, wal: &str) -> Arc<Lake> {
    let options = LakeOptions {
        store: Store::open(directory.join("store").to_str().expect("a plain path")).expect("a directory"),
        wal_dir: directory.join(wal),
        wal_limit_bytes: 256 << 20,
        hot_limit_bytes: 256 << 20,
        flush_interval: Duration::from_secs(3_600),
        flush_bytes: 128 << 20,
        ack_on_commit: false,
        commit_timeout: Duration::from_secs(60),
        retry_window: Duration::from_secs(900),
        retry_limit_bytes: 16 << 20,
        promote: PromotionList::default(),
        ambient: Arc::new(System),
    };
    Lake::open(options, Arc::new(Never)).await.expect("the lake opens")
}

async fn append(lake: &Lake, calls: &[Call]) {
    let frame = Frame {
        tenant: DEFAULT_TENANT.to_owned(),
        kind: 1,
        received_unix_nano: 0,
        rules_version: 0,
        prices_version: 0,
    };
    let entry = Entry { frame, payload: Bytes::new(), batches: vec![("spans", calls::batch(calls))] };
    lake.append(entry).await.expect("the lake takes it");
}

#[tokio::test]
async fn over_a_lake_committed_calls_count_and_hot_ones_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let lakes = [lake_in(directory.path(), "wal-1").await, lake_in(directory.path(), "wal-2").await];
    let mut nodes = Vec::new();
    for lake in &lakes {
        let engine =
            QueryEngine::new(Arc::clone(lake) as Arc<dyn TableSource>, world::query_options()).expect("an engine");
        let rollups = Rollups::open(Arc::clone(lake), Arc::clone(&engine), Arc::new(System), None).await;
        nodes.push((rollups.expect("the built-in rollups are right"), engine));
    }
    let rows = async |engine: &QueryEngine| {
        let stream = engine.sql(DEFAULT_TENANT, &format!("SELECT * FROM {ROLLUP}"), Parameters::None).await;
        let batches: Vec<_> = stream.expect("the statement is right").try_collect().await.expect("the store answers");
        oracle::read(&batches)
    };

    let mut calls = eventful(1);
    append(&lakes[0], &calls).await;
    assert_eq!(nodes[0].0.run(ROLLUP).await.expect("it runs").windows, 0);
    assert_eq!(rows(&nodes[0].1).await, Rows::new());
    lakes[0].flush().await.expect("the store takes it");
    append(&lakes[0], &eventful(2)).await;
    assert_eq!(nodes[0].0.run(ROLLUP).await.expect("it runs").windows, 1);
    let first = rows(&nodes[0].1).await;
    assert_eq!(totals(&first), oracle::expected(calls.iter()));

    // Both nodes commit, both run.
    calls.extend(eventful(2));
    for (lake, hour) in lakes.iter().zip([1, 40]) {
        append(lake, &eventful(hour)).await;
        calls.extend(eventful(hour));
        lake.flush().await.expect("the store takes it");
    }
    let reports = tokio::join!(nodes[0].0.run(ROLLUP), nodes[1].0.run(ROLLUP));
    let reports = [reports.0.expect("it runs"), reports.1.expect("it runs")];
    assert_eq!(reports.iter().map(|report| report.windows).sum::<u64>(), 3, "{reports:?}");
    for (rollups, engine) in &nodes {
        rollups.list().await.expect("the store answers");
        let second = rows(engine).await;
        assert_eq!(totals(&second), oracle::expected(calls.iter()));
        assert_eq!(revisions(&second), BTreeMap::from([(1, 2), (2, 1), (40, 1)].map(|(h, r)| (DAY + h * HOUR, r))));
    }
    for lake in &lakes {
        lake.shutdown().await.expect("all is committed");
    }
}

#[tokio::test]
async fn an_unknown_rollup_is_named() {
    let process = World::new(15).await.process().await;
    let error = process.rollups.run("model_usage_week").await.expect_err("there is none");
    assert_eq!(error.kind, QueryErrorKind::Invalid);
    assert_eq!(error.message, "there is no rollup model_usage_week; there is model_usage_hour");
}

#[tokio::test]
async fn a_select_that_cannot_be_planned_is_refused_at_load() {
    let world = World::new(16).await;
    let (file, text) = BUILT_IN[0];
    let process = world.process().await;
    let line = text.lines().position(|line| line.contains("AS duration_ns_min")).expect("it is there") + 1;
    let cases = [
        ("min(duration_ns)", "min(duration_sn)", format!("{file}:{line}:")),
        ("max(duration_ns) AS", "max(model) AS", "the select returns column duration_ns_max as Utf8".to_owned()),
    ];
    for (from, to, expected) in cases {
        let definition = Definition::parse(file, &text.replace(from, to)).expect("it parses");
        let loaded = process.rollups.context.job(definition).await;
        let message = loaded.expect_err("the select is wrong").message;
        assert!(message.contains(&expected), "{message}");
        assert!(message.starts_with(file), "{message}");
    }
}

mod own;

/// A call at a random time, often near others, of random content.
fn random_call(random: &mut SplitMix64) -> Call {
    let time = DAY + random.below(4) as i64 * DAY_MICROS + *random.pick(&[0, 1, 1, 1, 7, 8, 23]) * HOUR;
    let time = time + *random.pick(&[0, 1, HOUR / 2, HOUR - 1]);
    let small = |random: &mut SplitMix64| random.chance(700).then(|| random.below(5_000) as i64);
    let far = random.chance(80);
    Call {
        start: if far { DAY - 900 * DAY_MICROS } else { time },
        received: if far { time } else { time + random.below(2 * DAY_MICROS as u64) as i64 },
        time_flags: if far { 1 } else { *random.pick(&[0, 4, 16]) },
        role: *random.pick(&[Some("leaf"), Some("leaf"), Some("leaf"), Some("aggregate"), Some("duplicate"), None]),
        status_code: random.pick::<&str>(&["UNSET", "OK", "ERROR", "7"]),
        service: *random.pick(&[Some("shop"), Some("shop"), None, Some("")]),
        provider: *random.pick(&[Some("openai"), None]),
        model: *random.pick(&[Some("a"), Some("b"), Some("c"), None]),
        operation: *random.pick(&[Some("chat"), Some("chat"), Some("embeddings"), None]),
        environment: *random.pick(&[None, None, Some("prod")]),
        streamed: *random.pick(&[None, Some(true), Some(false)]),
        input_tokens: if random.chance(5) { Some(i64::MAX) } else { small(random) },
        output_tokens: small(random),
        cache_read_tokens: small(random),
        cache_write_tokens: small(random),
        reasoning_tokens: small(random),
        cost: random.chance(600).then(|| i128::from(random.below(1_000_000_000_000_000_000))),
        duration_ns: random.chance(900).then(|| random.below(60_000_000_000) as i64),
    }
}

/// One random change of the table of spans.
async fn random_change(world: &mut World, random: &mut SplitMix64) {
    let paths = world.paths();
    match random.below(10) {
        0 if paths.len() > 1 => {
            let date = |path: &str| path.split('/').next().expect("a folder").to_owned();
            let day = date(random.pick::<String>(&paths));
            let of_day: Vec<String> = paths.into_iter().filter(|path| date(path) == day).collect();
            world.compact(&of_day).await;
        }
        1 if !paths.is_empty() => {
            let model = *random.pick(&[Some("a"), Some("b"), None]);
            world.delete(random.pick::<String>(&paths), |call| call.model != model).await;
        }
        2 => world.vacuum().await,
        _ => {
            let calls: Vec<Call> = (0..random.between(1, 20)).map(|_| random_call(random)).collect();
            world.add(&calls).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_random_histories_the_rollup_equals_the_direct_query() {
    let seeds = std::env::var("SPANLAKE_TEST_SEEDS").ok().map_or(4, |seeds| seeds.parse().expect("a number of seeds"));
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut random = SplitMix64::new(seed);
        let mut world = World::new(seed).await;
        let mut processes = [world.process().await, world.process().await];
        let mut before = Rows::new();
        for _ in 0..8 {
            for _ in 0..random.between(1, 5) {
                random_change(&mut world, &mut random).await;
            }
            let index = random.index(2);
            match random.below(4) {
                0 => {
                    tokio::join!(processes[0].run(), processes[1].run());
                }
                1 => {
                    world.objects.fail_by_seed(random.next_u64(), 60, &[Fault::Fail, Fault::LostAnswer]);
                    // Whether it succeeds or not, what it left must be a state that the next run makes right.
                    let _outcome = processes[index].try_run().await;
                    world.objects.heal();
                    processes[1 - index].run().await;
                }
                2 => {
                    processes[index] = world.process().await;
                    processes[index].run().await;
                }
                _ => {
                    processes[index].run().await;
                }
            }
            before = check(&world, &processes[random.index(2)], &before).await;
        }
    }
}
