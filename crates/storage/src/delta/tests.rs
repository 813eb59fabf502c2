//! Scenarios over whole tables, on a local directory and on stores that misbehave.

use std::sync::Arc;

use object_store::memory::InMemory;
use spanlake_schema::promotion::PromotedColumn;
use spanlake_schema::{Column, ColumnType, TableSpec, model_usage, spans};
use spanlake_testkit::{Fault, FaultyStore, ManualAmbient, Operation, S3Server};

use super::*;

/// A table small enough to read its log by eye.
const NOTES: TableSpec = TableSpec {
    name: "notes",
    comment: "A table of these tests",
    columns: &[Column::required("date", ColumnType::Date, "day"), Column::required("note", ColumnType::Text, "text")],
    statistics: &["note"],
    bloom_filters: &[],
    sums: &[],
    attributes: &[],
};

/// A file of a commit; commits do not look into files, so that none has to lie there.
fn file(name: &str) -> AddFile {
    AddFile {
        segment: Segment {
            path: format!("date=2026-01-02/{name}.parquet"),
            size_bytes: 10,
            date: Some(20_455),
            modification_time_ms: 1_000,
            stats: Some(Arc::new(serde_json::json!({"numRecords": 2, "minValues": {"note": "a"}}))),
            promoted: None,
        },
    }
}

fn append(name: &str, transaction: Option<(&str, i64)>) -> Commit {
    Commit {
        adds: vec![file(name)],
        transaction: transaction.map(|(app_id, version)| AppTransaction { app_id: app_id.to_owned(), version }),
        operation: "WRITE",
        ..Commit::default()
    }
}

fn committed(outcome: CommitOutcome) -> Arc<Snapshot> {
    match outcome {
        CommitOutcome::Committed(snapshot) => snapshot,
        other => panic!("not committed: {other:?}"),
    }
}

fn paths(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.segments.iter().map(|segment| segment.path.as_str()).collect()
}

struct Lake {
    store: Store,
    _directory: tempfile::TempDir,
}

fn lake() -> Lake {
    let directory = tempfile::tempdir().unwrap();
    Lake { store: Store::open(directory.path().to_str().unwrap()).unwrap(), _directory: directory }
}

async fn notes(store: &Store) -> Table {
    Table::open_or_create(store, "default", &NOTES).await.unwrap()
}

#[tokio::test]
async fn a_table_is_created_appended_to_and_opened_again() {
    let lake = lake();
    assert!(Table::open(&lake.store, "default", &NOTES).await.unwrap().is_none());
    let table = notes(&lake.store).await;
    assert_eq!((table.snapshot().version, table.snapshot().segments.len()), (0, 0));
    let snapshot = committed(table.commit(append("b", None), None).await.unwrap());
    assert_eq!((snapshot.version, paths(&snapshot)), (1, vec!["date=2026-01-02/b.parquet"]));
    let snapshot = committed(table.commit(append("a", Some(("app", 7))), None).await.unwrap());
    let again = Table::open(&lake.store, "default", &NOTES).await.unwrap().unwrap().snapshot();
    assert_eq!(*again, *snapshot);
    assert_eq!(paths(&again), ["date=2026-01-02/a.parquet", "date=2026-01-02/b.parquet"]);
    assert_eq!(again.transactions["app"], 7);
    assert_eq!(again.segments[0].rows(), Some(2));
    assert_eq!(again.segments[0].date, Some(20_455));
}

#[tokio::test]
async fn all_tables_of_the_contract_can_be_created() {
    let lake = lake();
    for spec in [&spans::SPEC, &model_usage::HOUR_SPEC] {
        let first = Table::open_or_create(&lake.store, "default", spec).await.unwrap();
        let second = Table::open_or_create(&lake.store, "default", spec).await.unwrap();
        assert_eq!(*first.snapshot(), *second.snapshot());
    }
}

#[tokio::test]
async fn a_commit_planned_on_a_version_conflicts_with_every_change_since() {
    let lake = lake();
    let (table, other) = (notes(&lake.store).await, notes(&lake.store).await);
    let planned_on = committed(table.commit(append("a", None), None).await.unwrap()).version;
    let position = |version| Commit { adds: Vec::new(), ..append("", Some(("rollup", version))) };

    // Rows that others appended: a plan that only adds depends on them as much as one that removes.
    other.commit(append("b", None), None).await.unwrap();
    let outcome = table.commit(append("c", Some(("rollup", 1))), Some(planned_on)).await.unwrap();
    let CommitOutcome::Conflict(snapshot) = outcome else { panic!("no conflict: {outcome:?}") };
    assert_eq!((snapshot.version, snapshot.segments.len()), (planned_on + 1, 2));

    // A position that others moved, with or without rows.
    let planned_on = snapshot.version;
    committed(other.commit(position(2), None).await.unwrap());
    let outcome = table.commit(append("c", None), Some(planned_on)).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Conflict(_)), "no conflict: {outcome:?}");
    let outcome = table.commit(position(2), Some(planned_on)).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::AlreadyCommitted(_)), "not recognised: {outcome:?}");

    // Rows that were only rewritten change nothing that a plan can depend on, but its own files must be there.
    let planned_on = table.snapshot().version;
    let rewrite = Commit { rows_unchanged: true, removes: vec![file("a").segment.path], ..append("a2", None) };
    committed(other.commit(rewrite, None).await.unwrap());
    committed(table.commit(append("c", None), Some(planned_on)).await.unwrap());
    let remove = Commit { adds: Vec::new(), removes: vec![file("a").segment.path], ..append("", None) };
    let outcome = table.commit(remove, Some(table.snapshot().version)).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Conflict(_)), "no conflict: {outcome:?}");
}

/// Two processes on one lake, as far as the log can tell.
#[tokio::test]
async fn a_second_handle_reads_only_what_is_new() {
    let objects = FaultyStore::new(InMemory::new());
    let store = Store::with_object_store("memory://", Arc::new(objects.clone()));
    let (writer, reader) = (notes(&store).await, notes(&store).await);
    for round in 0..3 {
        committed(writer.commit(append(&format!("f{round}"), Some(("app", round))), None).await.unwrap());
        assert_eq!(reader.snapshot().version, round, "a snapshot is what was last read");
        let (listed, read) = (objects.count(Operation::List, ""), objects.count(Operation::Get, ""));
        assert_eq!(*reader.refresh().await.unwrap(), *writer.snapshot());
        assert_eq!(objects.count(Operation::List, "") - listed, 0);
        assert_eq!(objects.count(Operation::Get, "") - read, 2, "the new version, and the one after it");
    }
    assert_eq!(reader.changes(1, 3).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_long_gap_is_closed_by_a_listing() {
    let objects = FaultyStore::new(InMemory::new());
    let store = Store::with_object_store("memory://", Arc::new(objects.clone()));
    let (writer, reader) = (notes(&store).await, notes(&store).await);
    for round in 0..90 {
        committed(writer.commit(append(&format!("f{round:03}"), None), None).await.unwrap());
    }
    assert_eq!(*reader.refresh().await.unwrap(), *writer.snapshot());
    assert_eq!(reader.snapshot().segments.len(), 90);
}

fn delete_commits(lake: &Lake, versions: std::ops::RangeInclusive<i64>) {
    let log = lake.store.local_root().unwrap().join("default/notes/_delta_log");
    for version in versions {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
}

#[tokio::test]
async fn checkpoints_carry_the_table_when_the_commits_before_are_gone() {
    let lake = lake();
    let table = notes(&lake.store).await;
    for round in 1..=250 {
        let mut commit = append(&format!("f{round:03}"), Some(("app", round)));
        if round > 1 && round % 10 == 0 {
            commit.removes = vec![format!("date=2026-01-02/f{:03}.parquet", round - 1)];
        }
        let snapshot = committed(table.commit(commit, None).await.unwrap());
        assert_eq!(snapshot.version, round);
    }
    let pointer = table.log.last_checkpoint().await.unwrap().unwrap();
    assert_eq!((pointer.version, pointer.num_of_add_files), (200, Some(180)));
    // The 25 segments of the first hundred versions and so on are removed; what is left is the same from everywhere.
    let before = table.snapshot();
    assert_eq!(before.segments.len(), 225);
    delete_commits(&lake, 0..=200);
    let reopened = Table::open(&lake.store, "default", &NOTES).await.unwrap().unwrap();
    assert_eq!(*reopened.snapshot(), *before);
    let state = reopened.state.lock().await;
    assert_eq!(state.state.tombstones.len(), 25);
    assert_eq!(state.state.metadata, table.state.lock().await.state.metadata);
    drop(state);
    assert_eq!(reopened.changes(100, 110).await.unwrap_err().kind(), ErrorKind::Invalid);
    // A hint that is lost or points into the void costs a listing, nothing else.
    let hint = lake.store.local_root().unwrap().join("default/notes/_delta_log/_last_checkpoint");
    for content in [Some(r#"{"version":900,"size":3}"#), Some("broken"), None] {
        match content {
            Some(text) => std::fs::write(&hint, text).unwrap(),
            None => std::fs::remove_file(&hint).unwrap(),
        }
        assert_eq!(*Table::open(&lake.store, "default", &NOTES).await.unwrap().unwrap().snapshot(), *before);
    }
}

#[tokio::test]
async fn a_handle_that_slept_does_not_write_into_a_cleaned_log() {
    let mut lake = lake();
    let ambient = Arc::new(ManualAmbient::new(1));
    let sleeper = notes(&lake.store.clone().with_ambient(ambient.clone())).await;
    lake.store = lake.store.with_ambient(Arc::new(ManualAmbient::new(2)));
    let writer = notes(&lake.store).await;
    for round in 1..=100 {
        committed(writer.commit(append(&format!("f{round:03}"), None), None).await.unwrap());
    }
    delete_commits(&lake, 0..=99);
    ambient.advance(std::time::Duration::from_secs(24 * 3_600));
    let snapshot = committed(sleeper.commit(append("late", None), None).await.unwrap());
    assert_eq!((snapshot.version, snapshot.segments.len()), (101, 101));
}

#[tokio::test]
async fn a_checkpoint_that_fails_does_not_fail_the_commit_and_is_made_up_for() {
    let objects = FaultyStore::new(InMemory::new());
    let store = Store::with_object_store("memory://", Arc::new(objects.clone()));
    let table = notes(&store).await;
    objects.inject_run(Operation::Put, "checkpoint", 1, 2, Fault::Fail);
    for round in 1..=102 {
        let snapshot = committed(table.commit(append(&format!("f{round}"), None), None).await.unwrap());
        assert_eq!(snapshot.version, round);
    }
    assert_eq!(objects.injected(), 2);
    assert_eq!(table.log.last_checkpoint().await.unwrap().unwrap().version, 102);
}

#[tokio::test]
async fn a_transaction_is_committed_once_whoever_repeats_it() {
    let lake = lake();
    let table = notes(&lake.store).await;
    for version in 1..=120 {
        let name = format!("f{version:03}");
        committed(table.commit(append(&name, Some(("app", version))), None).await.unwrap());
    }
    let fresh = notes(&lake.store).await;
    for handle in [&table, &fresh] {
        for version in [1, 60, 120] {
            let outcome = handle.commit(append("again", Some(("app", version))), None).await.unwrap();
            assert!(matches!(&outcome, CommitOutcome::AlreadyCommitted(_)), "{version}: {outcome:?}");
        }
    }
    // Another application has its own versions.
    committed(fresh.commit(append("other", Some(("other", 1))), None).await.unwrap());
    let outcome = table.commit(append("again", Some(("other", 1))), None).await.unwrap();
    let CommitOutcome::AlreadyCommitted(snapshot) = outcome else { panic!("{outcome:?}") };
    assert_eq!((snapshot.version, snapshot.segments.len()), (121, 121));
}

/// Commits one file a version and returns the versions it got.
async fn commit_all(store: Store, app_id: &'static str, commits: i64) -> Vec<i64> {
    let table = notes(&store).await;
    let mut versions = Vec::new();
    for version in 1..=commits {
        let commit = append(&format!("{app_id}-{version:03}"), Some((app_id, version)));
        versions.push(committed(table.commit(commit, None).await.unwrap()).version);
    }
    versions
}

async fn race(store: &Store, commits: i64) {
    notes(store).await;
    let writers: Vec<_> =
        ["a", "b"].into_iter().map(|app| tokio::spawn(commit_all(store.clone(), app, commits))).collect();
    let mut versions = Vec::new();
    for writer in writers {
        versions.extend(writer.await.unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=2 * commits).collect::<Vec<_>>());
    let snapshot = notes(store).await.snapshot();
    let expected = ["a", "b"]
        .into_iter()
        .flat_map(|app| (1..=commits).map(move |version| format!("date=2026-01-02/{app}-{version:03}.parquet")));
    assert_eq!(paths(&snapshot), expected.collect::<Vec<_>>());
    assert_eq!((snapshot.transactions["a"], snapshot.transactions["b"]), (commits, commits));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_that_race_on_a_directory_both_get_everything_in() {
    race(&lake().store, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_that_race_on_s3_both_get_everything_in() {
    let server = S3Server::start("lakes").await;
    let store = Store::open_with_environment(&server.url("some/prefix"), server.environment()).unwrap();
    race(&store, 100).await;
    assert!(server.bucket_directory().join("some/prefix/default/notes/_delta_log").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_on_a_failing_store_get_everything_in_exactly_once() {
    let objects = FaultyStore::new(InMemory::new());
    let store = Store::with_object_store("memory://", Arc::new(objects.clone()));
    notes(&store).await;
    objects.fail_by_seed(7, 200, &[Fault::Fail, Fault::LostAnswer]);
    race_through_failures(&store).await;
    assert!(objects.injected() > 20, "{}", objects.injected());
    objects.heal();
    let snapshot = notes(&store).await.snapshot();
    assert_eq!(snapshot.segments.len(), 80);
    assert_eq!(
        snapshot.segments.iter().map(|segment| &segment.path).collect::<std::collections::HashSet<_>>().len(),
        80
    );
}

/// As [`race`], but a commit that gives up is tried again, as a flush does.
async fn race_through_failures(store: &Store) {
    let writer = |app: &'static str| {
        let store = store.clone();
        tokio::spawn(async move {
            let table = loop {
                match Table::open(&store, "default", &NOTES).await {
                    Ok(table) => break table.unwrap(),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Retry, "{error}"),
                }
            };
            for version in 1..=40 {
                // Names differ by try, so that a file that got in twice would show.
                for tried in 0.. {
                    let commit = append(&format!("{app}-{version}-{tried}"), Some((app, version)));
                    match table.commit(commit, None).await {
                        Ok(CommitOutcome::Conflict(_)) => panic!("an append does not conflict"),
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Retry, "{error}"),
                    }
                }
            }
        })
    };
    let (a, b) = (writer("a"), writer("b"));
    a.await.unwrap();
    b.await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_told_from_a_lost_race() {
    let objects = FaultyStore::new(InMemory::new());
    let store = Store::with_object_store("memory://", Arc::new(objects.clone()));
    let table = notes(&store).await;
    objects.inject(Operation::Put, "_delta_log", 1, Fault::LostAnswer);
    let snapshot = committed(table.commit(append("a", Some(("app", 1))), None).await.unwrap());
    assert_eq!((snapshot.version, paths(&snapshot).len()), (1, 1));
    // The same without a transaction, and another writer in between: the put fails, and then the race is lost.
    let other = notes(&store).await;
    objects.inject(Operation::Put, "_delta_log", 1, Fault::Fail);
    objects.inject(Operation::Get, "0002.json", 2, Fault::Fail);
    let (mine, theirs) = futures::join!(table.commit(append("b", None), None), other.commit(append("c", None), None));
    let (mine, theirs) = (committed(mine.unwrap()), committed(theirs.unwrap()));
    assert_ne!(mine.version, theirs.version);
    assert_eq!(paths(&notes(&store).await.snapshot()).len(), 3);
    assert_eq!(objects.injected(), 3);
    // The store stays away: the commit says that it may be tried again, and that is safe.
    objects.inject_run(Operation::Put, "0004.json", 1, 1, Fault::LostAnswer);
    objects.inject_run(Operation::Get, "0004.json", 2, 100, Fault::Fail);
    let error = table.commit(append("d", Some(("app", 2))), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    objects.heal();
    let outcome = table.commit(append("d", Some(("app", 2))), None).await.unwrap();
    assert!(matches!(&outcome, CommitOutcome::AlreadyCommitted(snapshot) if snapshot.version == 4), "{outcome:?}");
}

#[tokio::test]
async fn the_store_clients_own_repetition_is_recognised() {
    // The client repeats a put whose answer was lost, and gets to hear that the object exists.
    let objects = FaultyStore::new(InMemory::new());
    let store = Store::with_object_store("memory://", Arc::new(objects.clone()));
    let table = notes(&store).await;
    let mut current = table.state.lock().await;
    let attempt = Attempt::new(&current.state, vec![]).unwrap();
    assert!(matches!(table.log.put_new(1, attempt.bytes.clone()).await.unwrap(), log::Put::Done));
    assert_eq!(table.advance(&mut current, Some(&attempt)).await.unwrap(), Advanced::ToOwn);
    assert_eq!(current.state.snapshot.version, 1);
}

fn replace(removes: &[&str], add: &str) -> Commit {
    Commit {
        adds: vec![file(add)],
        removes: removes.iter().map(|name| format!("date=2026-01-02/{name}.parquet")).collect(),
        operation: "MERGE",
        ..Commit::default()
    }
}

#[tokio::test]
async fn a_replacement_conflicts_with_changes_it_has_not_seen() {
    let lake = lake();
    let (table, other) = (notes(&lake.store).await, notes(&lake.store).await);
    let base = committed(table.commit(append("a", None), None).await.unwrap()).version;
    committed(other.commit(append("b", None), None).await.unwrap());
    let outcome = table.commit(replace(&["a"], "a2"), Some(base)).await.unwrap();
    let CommitOutcome::Conflict(seen) = outcome else { panic!("{outcome:?}") };
    assert_eq!(seen.version, 2);
    let snapshot = committed(table.commit(replace(&["a"], "a2"), Some(seen.version)).await.unwrap());
    assert_eq!(paths(&snapshot), ["date=2026-01-02/a2.parquet", "date=2026-01-02/b.parquet"]);
    // The file is gone by now, whatever the version.
    for based_on in [None, Some(3)] {
        let outcome = other.commit(replace(&["a"], "a3"), based_on).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Conflict(_)), "{outcome:?}");
    }
    // Compaction changes no rows: a replacement planned before it is stopped only by the files it removes.
    let compaction = Commit { rows_unchanged: true, operation: "OPTIMIZE", ..replace(&["a2"], "c") };
    committed(other.commit(compaction, None).await.unwrap());
    let snapshot = committed(table.commit(replace(&["b"], "b2"), Some(3)).await.unwrap());
    assert_eq!(paths(&snapshot), ["date=2026-01-02/b2.parquet", "date=2026-01-02/c.parquet"]);
    let changes = table.changes(2, 5).await.unwrap();
    let shown: Vec<_> = changes.iter().map(|change| (change.version, change.data_change)).collect();
    assert_eq!(shown, [(3, true), (4, false), (5, true)]);
    assert_eq!(changes[1].removes, ["date=2026-01-02/a2.parquet"]);
    assert_eq!(changes[1].adds[0].path, "date=2026-01-02/c.parquet");
}

#[tokio::test]
async fn columns_that_a_newer_version_brings_are_added() {
    const WIDER: TableSpec = TableSpec {
        columns: &[
            Column::required("date", ColumnType::Date, "day"),
            Column::required("note", ColumnType::Text, "text"),
            Column::required("tokens", ColumnType::Int64, "count"),
        ],
        ..NOTES
    };
    let lake = lake();
    let old = notes(&lake.store).await;
    let new = Table::open_or_create(&lake.store, "default", &WIDER).await.unwrap();
    assert_eq!(new.snapshot().version, 1);
    assert_eq!(Table::open_or_create(&lake.store, "default", &WIDER).await.unwrap().snapshot().version, 1);
    // The older process goes on, and so does an older one that starts now.
    committed(old.commit(append("a", None), None).await.unwrap());
    assert_eq!(notes(&lake.store).await.snapshot().version, 2);
    assert_eq!(new.snapshot().table_id, old.snapshot().table_id);
}

/// Lines as other tools write them.
async fn commit_by_hand(lake: &Lake, version: i64, lines: &[serde_json::Value]) {
    let log = lake.store.local_root().unwrap().join("default/notes/_delta_log");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(log.join(format!("{version:020}.json")), text).unwrap();
}

#[tokio::test]
async fn what_other_tools_wrote_is_read_kept_and_removed_under_its_own_name() {
    let lake = lake();
    let table = notes(&lake.store).await;
    let raw = "date=2026-01-02/part%20one%2Bx.parquet";
    let add = serde_json::json!({"add": {
        "path": raw, "partitionValues": {"date": "2026-01-02"}, "size": 5, "modificationTime": 7, "dataChange": true,
        "stats": null, "tags": {"ZCUBE_ID": "x", "EMPTY": null}, "clusteringProvider": "liquid", "deletionVector": null,
    }});
    let null_partition = serde_json::json!({"add": {
        "path": "date=__HIVE_DEFAULT_PARTITION__/x.parquet", "partitionValues": {"date": null}, "size": 5,
        "modificationTime": 7, "dataChange": true,
    }});
    let info = serde_json::json!({"commitInfo": {"operation": "OPTIMIZE", "operationMetrics": {"n": "1"}}});
    commit_by_hand(&lake, 1, &[info, add, null_partition]).await;
    let snapshot = table.refresh().await.unwrap();
    assert_eq!(paths(&snapshot), ["date=2026-01-02/part one+x.parquet", "date=__HIVE_DEFAULT_PARTITION__/x.parquet"]);
    assert_eq!((snapshot.segments[0].rows(), snapshot.segments[1].date), (None, None));
    // Through a checkpoint.
    let state = table.state.lock().await.state.clone();
    let (bytes, pointer) = checkpoint::encode(&state, 10_000_000_000).await.unwrap();
    table.log.put_checkpoint(bytes, &pointer).await.unwrap();
    delete_commits(&lake, 0..=1);
    let reopened = notes(&lake.store).await;
    assert_eq!(*reopened.snapshot(), *snapshot);
    let extra = reopened.state.lock().await.state.extras["date=2026-01-02/part one+x.parquet"].clone();
    assert_eq!(extra.tags.unwrap()["ZCUBE_ID"].as_deref(), Some("x"));
    committed(reopened.commit(replace(&["part one+x"], "y"), None).await.unwrap());
    let log = lake.store.local_root().unwrap().join("default/notes/_delta_log/00000000000000000002.json");
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.contains(&format!(r#""path":"{raw}""#)), "{text}");
}

#[tokio::test]
async fn tables_that_would_be_misread_are_refused_by_name() {
    let add = |more: serde_json::Value| {
        let mut add = serde_json::json!({"path": "x", "partitionValues": {}, "size": 1, "modificationTime": 1,
            "dataChange": true});
        add.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::json!({"add": add})
    };
    let protocol = |feature: &str| {
        serde_json::json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7,
            "readerFeatures": [feature], "writerFeatures": [feature]}})
    };
    let vector = serde_json::json!({"deletionVector": {"storageType": "u", "pathOrInlineDv": "x"}});
    for (line, word) in [
        (protocol("deletionVectors"), "deletionVectors"),
        (protocol("v2Checkpoint"), "v2Checkpoint"),
        (add(vector), "deletion vector"),
        (add(serde_json::json!({"path": "s3://elsewhere/x"})), "s3://elsewhere"),
    ] {
        let lake = lake();
        let table = notes(&lake.store).await;
        commit_by_hand(&lake, 1, &[line]).await;
        for error in [
            table.refresh().await.unwrap_err(),
            table.commit(append("a", None), None).await.unwrap_err(),
            Table::open(&lake.store, "default", &NOTES).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(table.snapshot().version, 0, "what was understood stays readable");
    }
}

#[tokio::test]
async fn a_log_with_a_hole_is_corrupt() {
    let lake = lake();
    let table = notes(&lake.store).await;
    for name in ["a", "b"] {
        committed(table.commit(append(name, None), None).await.unwrap());
    }
    delete_commits(&lake, 1..=1);
    let error = Table::open(&lake.store, "default", &NOTES).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("lacks version 1"), "{error}");
}

/// Scenario: two processes promote attributes at the same time, the one of them while the other commits rows; the log goes on
/// until a checkpoint holds it all.
/// Guarantee: columns are added one after the other, the first taker keeps a name; rows committed by who does not know of a
/// column change nothing of it; whoever opens the table from the checkpoint reads the same, tags of files included.
#[tokio::test]
async fn promoted_columns_survive_other_committers_and_checkpoints() {
    let lake = lake();
    let (one, other) = (notes(&lake.store).await, notes(&lake.store).await);
    let column = |attribute: &str, column_type| PromotedColumn {
        name: spanlake_schema::promotion::column_name(attribute),
        attribute: attribute.to_owned(),
        column_type,
    };
    let (tier, same_name) = (column("a.tier", ColumnType::Text), column("a-tier", ColumnType::Int64));
    let seats = column("seats", ColumnType::Int64);
    assert_eq!(*one.promote(std::slice::from_ref(&tier)).await.unwrap().promoted, std::slice::from_ref(&tier));
    committed(other.commit(append("unaware", None), None).await.unwrap());
    let theirs = other.promote(&[same_name, seats.clone()]).await.unwrap();
    assert_eq!(*theirs.promoted, [tier.clone(), seats.clone()]);
    let version = theirs.version;
    assert_eq!(one.promote(&[seats, tier]).await.unwrap().version, version, "nothing is left to add");

    let mut holding = append("holding", None);
    holding.adds[0].segment.promoted = Some("a_tier,seats".into());
    committed(one.commit(holding, None).await.unwrap());
    for number in 0..100 {
        committed(one.commit(append(&format!("{number}"), None), None).await.unwrap());
    }
    let last = one.snapshot();
    let names = |path: &str| lake.store.local_root().unwrap().join("default/notes/_delta_log").join(path);
    for version in 0..=100 {
        std::fs::remove_file(names(&format!("{version:020}.json"))).unwrap();
    }
    let opened = Table::open(&lake.store, "default", &NOTES).await.unwrap().unwrap().snapshot();
    assert_eq!(*opened, *last);
    let holds = |name: &str| opened.segments.iter().find(|segment| segment.path.contains(name)).unwrap().holds("seats");
    assert!(holds("holding") && !holds("unaware"));
}
