//! Stores that earlier versions left behind, killed in the middle of their work: `tests/stores`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use spanlake_testkit::ServerOptions;

use crate::{count_spans, export, server, traffic};

/// Bytes that a segment of the log has had when it was kept; what was not written yet is cut off in the tree.
const LOG_SEGMENT_BYTES: u64 = 1 << 20;

fn kept_versions() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores");
    let entries = std::fs::read_dir(&folder).expect("tests/stores");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let versions: Vec<PathBuf> = paths.filter(|path| path.join("store").is_dir()).collect();
    assert!(!versions.is_empty(), "no store in {}", folder.display());
    versions
}

pub(crate) fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory to copy") {
        let path = entry.expect("an entry").path();
        let copy = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_directory(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).expect("a copy");
        }
    }
}

/// A copy of a kept store, and of the log that lay in it, for a server to start on.
fn copy_of(kept: &Path) -> ServerOptions {
    let options = server();
    let store = Path::new(options.store_url());
    copy_directory(&kept.join("store"), store);
    std::fs::rename(store.join("wal"), options.wal_dir()).expect("the log is on the same file system");
    for entry in std::fs::read_dir(options.wal_dir()).expect("the log") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("a segment");
            file.set_len(LOG_SEGMENT_BYTES).expect("a longer file");
        }
    }
    options
}

/// What the version that made the store answered to `SELECT *`.
fn rows_of(kept: &Path, table: &str) -> Vec<Map<String, Value>> {
    let path = kept.join(format!("{table}.ndjson.zst"));
    let bytes = zstd::decode_all(std::fs::File::open(&path).expect("the kept answer")).expect("zstd");
    let text = String::from_utf8(bytes).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

/// Columns whose content may get better from version to version, where a row is read anew from the log.
const READ_ANEW: &[&str] = &["reading_flags", "usage_role", "usage_source", "cost_usd", "price_source"];

/// Rows in an order of their own, so that two lists of the same rows are equal.
fn sorted(
    rows: &[Map<String, Value>],
    without: impl Fn(&str) -> &'static [&'static str],
) -> Vec<BTreeMap<String, Value>> {
    let mut rows: Vec<BTreeMap<String, Value>> = rows
        .iter()
        .map(|row| {
            let without = without(row.get("span_id").and_then(Value::as_str).unwrap_or_default());
            row.clone().into_iter().filter(|(name, _)| !without.contains(&name.as_str())).collect()
        })
        .collect();
    rows.sort_by_cached_key(|row| serde_json::to_string(row).expect("JSON"));
    rows
}

/// A statement for the columns that the version that made the store had.
fn select(table: &str, rows: &[Map<String, Value>]) -> String {
    let columns: Vec<String> = rows[0].keys().map(|name| format!("\"{name}\"")).collect();
    format!("SELECT {} FROM {table}", columns.join(", "))
}

/// The committed rows of a store at rest.
async fn at_rest(options: &ServerOptions, statement: &str) -> Vec<Map<String, Value>> {
    let output = options.run(&["sql", "--store", options.store_url(), "--format", "json", statement]).await;
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("rows")
}

/// What is committed is as it was, read from the files alone. Returns the ids of the spans that only the log holds.
async fn check_at_rest(options: &ServerOptions, kept: &Path, spans: &[Map<String, Value>]) -> BTreeSet<String> {
    let rollup = rows_of(kept, "model_usage_hour");
    let found = at_rest(options, &select("model_usage_hour", &rollup)).await;
    assert_eq!(sorted(&found, |_| &[]), sorted(&rollup, |_| &[]));

    let ids = |rows: &[Map<String, Value>]| -> BTreeSet<String> {
        rows.iter().map(|row| row["span_id"].as_str().expect("an id").to_owned()).collect()
    };
    let found = at_rest(options, &select("spans", spans)).await;
    let committed = ids(&found);
    let expected: Vec<_> =
        spans.iter().filter(|row| committed.contains(row["span_id"].as_str().unwrap_or_default())).cloned().collect();
    assert_eq!(sorted(&found, |_| &[]), sorted(&expected, |_| &[]));
    let in_log: BTreeSet<String> = ids(spans).difference(&committed).cloned().collect();
    assert!(!in_log.is_empty() && !committed.is_empty(), "{} committed, {} in the log", committed.len(), in_log.len());
    in_log
}

/// Scenario: this version starts on a copy of a store that an earlier version left when it was killed: days of commits, a
/// checkpoint, files compacted by another tool, cleaned-up history, a rollup, a log with frames that no commit holds.
/// Guarantee: every row is there once and as it was, those of the log included; the store takes new spans, and shows old
/// and new after a flush, a restart and a kill, with and without a server.
#[tokio::test(flavor = "multi_thread")]
async fn stores_of_earlier_versions_open() {
    for kept in kept_versions() {
        let options = copy_of(&kept);
        let spans = rows_of(&kept, "spans");
        let in_log = check_at_rest(&options, &kept, &spans).await;
        let read_anew = |id: &str| if in_log.contains(id) { READ_ANEW } else { &[] };

        let server = options.start().await;
        let found = server.sql(&select("spans", &spans)).await;
        assert_eq!(sorted(&found, read_anew), sorted(&spans, read_anew));
        let sent = spans.len() as i64 + export(&server, &traffic(81).request(25)).await;
        assert_eq!(count_spans(&server).await, sent);

        let server = server.sigkill().await.start().await;
        assert_eq!(count_spans(&server).await, sent, "after a kill");
        server.stop().await;
        let rows = at_rest(&options, "SELECT count(*) AS n FROM spans").await;
        assert_eq!(rows[0]["n"], sent, "committed");
        let server = options.start().await;
        assert_eq!(count_spans(&server).await, sent, "after a restart");
        // Its first spans are older than the ledger.
        let (is_clean, report) = crate::verify::verify_server(&server).await;
        assert!(is_clean && report["signals"][0]["compared_from"].is_string(), "{report:#}");
    }
}
