use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use spanlake_schema::{Column, ColumnType, DEFAULT_TENANT, TableSpec};
use spanlake_storage::{Commit, Store, Table, TableSource, TableView, segment};

use crate::QueryEngine;
use crate::fixture::{csv, options};

const FIRST: TableSpec = TableSpec {
    name: "spans",
    comment: "a table as its first version had it",
    columns: &[
        Column::required("date", ColumnType::Date, "day"),
        Column::required("name", ColumnType::Text, "text"),
        Column::optional("cost_usd", ColumnType::Usd, "money"),
    ],
    statistics: &[],
    bloom_filters: &[],
    sums: &[],
};

const LATER: TableSpec = TableSpec {
    columns: &[
        Column::required("date", ColumnType::Date, "day"),
        Column::required("tokens", ColumnType::Int64, "a column that every row has by now"),
        Column::required("name", ColumnType::Text, "text"),
        Column::optional("note", ColumnType::Text, "text"),
        Column::optional("cost_usd", ColumnType::Usd, "money"),
    ],
    ..FIRST
};

fn batch(spec: &TableSpec, names: &[&str]) -> RecordBatch {
    let count = names.len();
    let columns = spec.columns.iter().map(|column| -> ArrayRef {
        match column.name {
            "date" => Arc::new(Date32Array::from(vec![20_500; count])),
            "tokens" => Arc::new(Int64Array::from(vec![7; count])),
            "name" => Arc::new(StringArray::from(names.to_vec())),
            _ => arrow::array::new_null_array(&column.column_type.arrow_type(), count),
        }
    });
    RecordBatch::try_new(spec.arrow_schema(), columns.collect()).expect("rows of the table")
}

async fn commit(table: &Table, file: &str, names: &[&str]) {
    let adds = segment::write(table, &[batch(table.spec(), names)], file).await.expect("segments");
    table.commit(Commit { adds, operation: "WRITE", ..Commit::default() }, None).await.expect("a commit");
}

/// One table, with one hot row.
#[derive(Debug)]
struct One(Arc<Table>);

#[async_trait]
impl TableSource for One {
    fn tables(&self, _tenant: &str) -> Vec<&'static TableSpec> {
        vec![self.0.spec()]
    }

    async fn view(&self, _tenant: &str, _table: &str) -> spanlake_storage::Result<Option<TableView>> {
        let hot = vec![batch(self.0.spec(), &["hot"])];
        Ok(Some(TableView { table: Arc::clone(&self.0), snapshot: self.0.snapshot(), hot, spilled: Vec::new() }))
    }
}

/// Scenario: a version that knows more columns opens a table of an earlier one, which goes on committing meanwhile.
/// Guarantee: the columns are added by one commit; rows of either version are read, the new columns NULL where a file lacks
/// them, even a column that the new version always fills.
#[tokio::test]
async fn columns_that_a_table_lacked_are_null_in_its_older_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path().to_str().expect("text")).expect("a store");
    let first = Table::open_or_create(&store, DEFAULT_TENANT, &FIRST).await.expect("a new table");
    commit(&first, "a", &["old"]).await;
    let later = Table::open_or_create(&store, DEFAULT_TENANT, &LATER).await.expect("columns are added");
    assert_eq!(later.snapshot().version, 2);
    let again = Table::open_or_create(&store, DEFAULT_TENANT, &LATER).await.expect("nothing to add");
    assert_eq!(again.snapshot().version, 2);
    commit(&later, "b", &["new"]).await;
    commit(&first, "c", &["old after new"]).await;
    later.refresh().await.expect("the log");

    let engine = QueryEngine::new(Arc::new(One(Arc::new(later))), options()).expect("an engine");
    let rows = csv(&engine, "SELECT * FROM spans ORDER BY name").await.expect("rows");
    assert_eq!(
        rows,
        [
            "date,tokens,name,note,cost_usd",
            "2026-02-16,7,hot,,",
            "2026-02-16,7,new,,",
            "2026-02-16,,old,,",
            "2026-02-16,,old after new,,"
        ]
    );
    let missing = "SELECT count(*) AS n, count(tokens) AS tokens FROM spans WHERE tokens IS NULL OR note = 'x'";
    assert_eq!(csv(&engine, missing).await.expect("rows"), ["n,tokens", "2,0"]);
}
