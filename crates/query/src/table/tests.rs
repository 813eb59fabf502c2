use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Int64Array, MapBuilder, MapFieldNames, StringArray, StringBuilder, new_null_array,
};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use spanlake_schema::promotion::{PromotedColumn, column_name};
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
    attributes: &[],
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
            _ => new_null_array(&column.column_type.arrow_type(), count),
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

const TAGGED: TableSpec = TableSpec {
    columns: &[
        Column::required("date", ColumnType::Date, "day"),
        Column::required("name", ColumnType::Text, "text"),
        Column::required("attributes", ColumnType::TextMap, "map"),
        Column::required("attribute_types", ColumnType::Text, "types"),
        Column::optional("resource_attributes", ColumnType::TextMap, "map"),
        Column::optional("resource_attribute_types", ColumnType::Text, "types"),
    ],
    attributes: &[("attributes", "attribute_types"), ("resource_attributes", "resource_attribute_types")],
    ..FIRST
};

/// A row: its name, the text and the symbol of `customer.tier`, and of `seats`.
type Tagged<'a> = (&'a str, Option<(&'a str, &'a str)>, Option<(&'a str, &'a str)>);

fn tagged(rows: &[Tagged<'_>]) -> RecordBatch {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    let mut types = StringBuilder::new();
    for (_, tier, seats) in rows {
        for (attribute, value) in [("customer.tier", tier), ("seats", seats)] {
            if let Some((text, _)) = value {
                map.keys().append_value(attribute);
                map.values().append_value(text);
            }
        }
        map.append(true).expect("as many values as keys");
        types.append_value([tier, seats].into_iter().flatten().map(|(_, symbol)| *symbol).collect::<String>());
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from(vec![20_500; rows.len()])),
        Arc::new(rows.iter().map(|(name, ..)| Some(*name)).collect::<StringArray>()),
        Arc::new(map.finish()),
        Arc::new(types.finish()),
        new_null_array(&ColumnType::TextMap.arrow_type(), rows.len()),
        new_null_array(&ColumnType::Text.arrow_type(), rows.len()),
    ];
    RecordBatch::try_new(TAGGED.arrow_schema(), columns).expect("rows of the table")
}

/// One table, and rows in memory.
#[derive(Debug)]
struct Hot(Arc<Table>, RecordBatch);

#[async_trait]
impl TableSource for Hot {
    fn tables(&self, _tenant: &str) -> Vec<&'static TableSpec> {
        vec![self.0.spec()]
    }

    async fn view(&self, _tenant: &str, _table: &str) -> spanlake_storage::Result<Option<TableView>> {
        let (table, hot) = (Arc::clone(&self.0), vec![self.1.clone()]);
        Ok(Some(TableView { snapshot: table.snapshot(), table, hot, spilled: Vec::new() }))
    }
}

fn promoted(attribute: &str, column_type: ColumnType) -> PromotedColumn {
    PromotedColumn { name: column_name(attribute), attribute: attribute.to_owned(), column_type }
}

/// A table of a file that is older than its promoted columns, one that knows the first of them, one that holds both, one that
/// another tool has written, which gave all rows NULL and says so in its statistics, and rows in memory.
async fn mixed(store: &Store) -> Arc<QueryEngine> {
    let table = Table::open_or_create(store, DEFAULT_TENANT, &TAGGED).await.expect("a table");
    let commit = async |file: &str, rows: &[Tagged<'_>], rewritten: bool| {
        let mut adds = segment::write(&table, &[tagged(rows)], file).await.expect("segments");
        if rewritten {
            adds[0].segment.promoted = None;
            let stats = serde_json::json!({"numRecords": 1, "nullCount": {"customer_tier": 1, "seats": 1}});
            adds[0].segment.stats = Some(Arc::new(stats));
        }
        table.commit(Commit { adds, operation: "WRITE", ..Commit::default() }, None).await.expect("a commit");
    };
    commit("older", &[("a", Some(("gold", "s")), Some(("5", "i"))), ("b", None, None)], false).await;
    table.promote(&[promoted("customer.tier", ColumnType::Text)]).await.expect("a column");
    commit("first", &[("c", Some(("gold", "s")), Some(("6", "i"))), ("d", Some(("tin", "s")), None)], false).await;
    table.promote(&[promoted("seats", ColumnType::Int64)]).await.expect("a column");
    commit("both", &[("e", Some(("gold", "s")), Some(("7", "i"))), ("f", Some(("1", "i")), Some(("x", "s")))], false)
        .await;
    commit("foreign", &[("g", Some(("gold", "s")), Some(("8", "i")))], true).await;
    let hot = tagged(&[("h", Some(("gold", "s")), Some(("9", "i"))), ("i", Some(("true", "b")), None)]);
    QueryEngine::new(Arc::new(Hot(Arc::new(table), hot)), options()).expect("an engine")
}

/// Guarantee: a promoted column has for each row what its attributes say, wherever the row is and whoever wrote it, however the
/// column is asked for; files that hold it are pruned by it.
#[tokio::test]
async fn a_promoted_column_is_right_in_files_with_and_without_it_and_in_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path().to_str().expect("text")).expect("a store");
    let engine = mixed(&store).await;
    let rows = async |statement: &str| csv(&engine, statement).await.expect(statement)[1..].join(" ");
    assert_eq!(
        rows("SELECT name, customer_tier, seats FROM spans ORDER BY name").await,
        "a,gold,5 b,, c,gold,6 d,tin, e,gold,7 f,, g,gold,8 h,gold,9 i,,"
    );
    for (statement, answer) in [
        ("SELECT seats, name FROM spans WHERE customer_tier = 'gold' ORDER BY 1", "5,a 6,c 7,e 8,g 9,h"),
        ("SELECT name FROM spans WHERE seats > 6 AND name < 'h' ORDER BY 1", "e g"),
        ("SELECT name FROM spans WHERE seats = 5 OR name = 'd' ORDER BY 1", "a d"),
        ("SELECT name FROM spans WHERE seats IS NULL ORDER BY 1", "b d f i"),
        ("SELECT count(*), count(customer_tier), sum(seats) FROM spans", "9,6,35"),
        ("SELECT count(*) FROM spans WHERE customer_tier = 'lead'", "0"),
        (
            "SELECT customer_tier, count(*) FROM spans WHERE date = '2026-02-16' GROUP BY 1 ORDER BY 1",
            "gold,5 tin,1 ,3",
        ),
        ("SELECT attributes['seats'] FROM spans WHERE seats = 8", "8"),
        ("SELECT a.name FROM spans a JOIN spans b ON a.seats = b.seats + 1 WHERE b.name = 'g'", "h"),
        ("SELECT seats FROM spans WHERE customer_tier = 'gold' ORDER BY seats DESC LIMIT 2", "9 8"),
        ("SELECT count(*) FROM spans", "9"),
    ] {
        assert_eq!(rows(statement).await, answer, "{statement}");
    }
    let all = csv(&engine, "SELECT * FROM spans WHERE name = 'e'").await.expect("rows");
    assert!(all[0].ends_with("resource_attribute_types,customer_tier,seats"), "{all:?}");
    let plan = async |condition: &str| rows(&format!("EXPLAIN SELECT name FROM spans WHERE {condition}")).await;
    let wide = plan("seats >= 0").await;
    let narrow = plan("seats > 100").await;
    for (file, is_pruned) in [("older", false), ("first", false), ("both", true), ("foreign", false)] {
        assert!(wide.contains(file), "{file}: {wide}");
        assert_eq!(!narrow.contains(file), is_pruned, "{file}: {narrow}");
    }
    // Without promoted columns nothing is made.
    assert!(wide.contains("PromoteExec") && !plan("name = 'a'").await.contains("PromoteExec"));
}
