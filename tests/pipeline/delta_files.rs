//! The tables as another reader sees them: the Delta log's JSON commits and the Parquet files they name, without any code of
//! the product.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

/// A table at its newest version.
#[derive(Debug, Default)]
pub(crate) struct DeltaFiles {
    root: PathBuf,
    /// Live data files by their path, with the row count that their statistics claim.
    files: BTreeMap<String, u64>,
    /// Commits in the log.
    pub(crate) versions: usize,
    /// Application transactions: the highest version each has reached.
    pub(crate) transactions: BTreeMap<String, i64>,
}

impl DeltaFiles {
    /// Replays the JSON commits of a table from the first. A table that is not there yet is empty.
    pub(crate) fn read(root: &Path) -> Self {
        let mut table = Self { root: root.to_owned(), ..Self::default() };
        loop {
            let path = root.join(format!("_delta_log/{:020}.json", table.versions));
            let Ok(text) = std::fs::read_to_string(&path) else { return table };
            for line in text.lines().filter(|line| !line.is_empty()) {
                let action: Value =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                table.apply(&action);
            }
            table.versions += 1;
        }
    }

    fn apply(&mut self, action: &Value) {
        let text = |value: &Value| value.as_str().expect("a text in the log").to_owned();
        if let Some(add) = action.get("add") {
            let statistics: Value = serde_json::from_str(add["stats"].as_str().expect("statistics")).expect("JSON");
            let rows = statistics["numRecords"].as_u64().expect("numRecords");
            assert!(self.files.insert(text(&add["path"]), rows).is_none(), "a file was added twice: {add}");
        }
        if let Some(remove) = action.get("remove") {
            self.files.remove(&text(&remove["path"]));
        }
        if let Some(transaction) = action.get("txn") {
            let version = transaction["version"].as_i64().expect("a version");
            let application = text(&transaction["appId"]);
            let before = self.transactions.insert(application.clone(), version);
            assert!(
                before.is_none_or(|before| before < version || (before == version && application.ends_with("-copy"))),
                "transaction {application} went from {before:?} to {version}"
            );
        }
    }

    /// Rows that the statistics claim.
    pub(crate) fn claimed_rows(&self) -> u64 {
        self.files.values().sum()
    }

    /// The texts of a column in all files; of one that lacks the column it says so.
    pub(crate) fn texts(&self, column: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for name in self.files.keys() {
            let file = std::fs::File::open(self.root.join(percent_decode(name))).expect("a data file");
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
            for batch in reader {
                let batch = batch.expect("rows");
                match batch.column_by_name(column) {
                    Some(found) => {
                        texts.extend(found.as_string::<i32>().iter().map(|text| text.unwrap_or("-").to_owned()))
                    }
                    None => texts.push("(no column)".to_owned()),
                }
            }
        }
        texts
    }

    /// Rows that the Parquet files hold, and the sum of an integer column over them.
    pub(crate) fn rows_and_sum(&self, column: &str) -> (u64, i64) {
        let (mut rows, mut sum) = (0, 0);
        for (name, claimed) in &self.files {
            let file = std::fs::File::open(self.root.join(percent_decode(name)))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let builder =
                ParquetRecordBatchReaderBuilder::try_new(file).unwrap_or_else(|error| panic!("{name}: {error}"));
            let projection = ProjectionMask::columns(builder.parquet_schema(), [column]);
            let mut in_file = 0;
            for batch in builder.with_projection(projection).build().expect("a Parquet reader") {
                let batch = batch.unwrap_or_else(|error| panic!("{name}: {error}"));
                in_file += batch.num_rows() as u64;
                let values = batch.column(0).as_primitive::<Int64Type>();
                sum += values.iter().flatten().sum::<i64>();
            }
            assert_eq!(in_file, *claimed, "{name}: rows against numRecords");
            rows += in_file;
        }
        (rows, sum)
    }
}

/// Paths in the log are URLs.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let code = (*byte == b'%').then(|| tail.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).expect("a path in UTF-8")
}
