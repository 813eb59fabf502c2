use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{MapBuilder, MapFieldNames, StringArray, StringBuilder};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use spanlake_schema::corrections::{self, Address, Correction, Reason, Value};
use spanlake_schema::promotion::PromotedColumn;
use spanlake_schema::{ColumnType, DEFAULT_TENANT, TableSpec, spans};
use spanlake_storage::{Commit, Store, Table, TableSource, TableView, segment};

use crate::QueryEngine;
use crate::fixture::{MARCH, Span, batch, csv, numbered, options};

const DAY: i64 = 86_400_000_000;

/// `spans` and `span_corrections`, committed and hot rows of each.
#[derive(Debug)]
struct Tables {
    _directory: tempfile::TempDir,
    tables: BTreeMap<&'static str, (Arc<Table>, Vec<RecordBatch>)>,
}

impl Tables {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(directory.path().to_str().expect("a path in UTF-8")).expect("a store");
        let mut tables = BTreeMap::new();
        for spec in [&spans::SPEC, &corrections::SPEC] {
            let table = Table::open_or_create(&store, DEFAULT_TENANT, spec).await.expect("a table");
            tables.insert(spec.name, (Arc::new(table), Vec::new()));
        }
        Self { _directory: directory, tables }
    }

    async fn commit(&self, name: &str, rows: RecordBatch) {
        let table = &self.tables[name].0;
        let file = format!("part-{}", table.snapshot().segments.len());
        let adds = segment::write(table, &[rows], &file).await.expect("segments");
        let commit = Commit { adds, operation: "WRITE", ..Commit::default() };
        table.commit(commit, None).await.expect("a commit");
    }

    async fn promote_tier(&self) {
        let (name, attribute) = ("tier".to_owned(), "tier".to_owned());
        let column = PromotedColumn { name, attribute, column_type: ColumnType::Text };
        self.tables["spans"].0.promote(&[column]).await.expect("a column");
    }

    fn set_hot(&mut self, name: &str, rows: RecordBatch) {
        self.tables.get_mut(name).expect("a table").1 = vec![rows];
    }
}

#[async_trait]
impl TableSource for Tables {
    fn tables(&self, _tenant: &str) -> Vec<&'static TableSpec> {
        vec![&spans::SPEC, &corrections::SPEC]
    }

    async fn view(&self, _tenant: &str, name: &str) -> spanlake_storage::Result<Option<TableView>> {
        Ok(self.tables.get(name).map(|(table, hot)| TableView {
            table: Arc::clone(table),
            snapshot: table.snapshot(),
            hot: hot.clone(),
            spilled: Vec::new(),
        }))
    }
}

/// A correction of a span that `fixture::numbered` made: every row of it arrived at the same time.
fn correction(span: &Span, revision: i64, changes: &[(&str, Option<Value>)]) -> Correction {
    let address = Address {
        date: i32::try_from(span.start_micros / DAY).expect("a day"),
        trace_id: span.trace_id.clone(),
        span_id: "00000000000000aa".to_owned(),
        received_micros: MARCH,
        telling: None,
        start_micros: span.start_micros,
    };
    let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Correction { address, revision, recorded_micros: MARCH, reason: Reason::Role, changes }
}

/// The fixture's ids are no hexadecimal; these are. Every second span has a tier.
fn rows(spans: &[Span]) -> RecordBatch {
    let rows = batch(spans);
    let mut columns = rows.columns().to_vec();
    let ids = StringArray::from(vec!["00000000000000aa"; rows.num_rows()]);
    columns[spans::SPEC.index_of("span_id")] = Arc::new(ids);
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    let mut types = StringBuilder::new();
    for span in spans {
        let is_gold = span.trace_id.ends_with(['0', '2', '4', '6', '8']);
        if is_gold {
            map.keys().append_value("tier");
            map.values().append_value("gold");
        }
        map.append(true).expect("as many values as keys");
        types.append_value(if is_gold { "s" } else { "" });
    }
    columns[spans::SPEC.index_of("attributes")] = Arc::new(map.finish());
    columns[spans::SPEC.index_of("attribute_types")] = Arc::new(types.finish());
    RecordBatch::try_new(rows.schema(), columns).expect("the same columns")
}

const QUESTIONS: &[&str] = &[
    "SELECT count(*) AS n FROM spans",
    "SELECT count(*) AS n, count(model) AS models, sum(cost_usd) AS usd FROM spans",
    "SELECT trace_id, model, cost_usd, service_name FROM spans ORDER BY trace_id",
    "SELECT model, count(*) AS n, sum(cost_usd) AS usd FROM spans GROUP BY model ORDER BY model NULLS FIRST",
    // Beyond every minimum and maximum that a segment has.
    "SELECT trace_id FROM spans WHERE model = 'zz-corrected' ORDER BY trace_id",
    "SELECT trace_id FROM spans WHERE model = 'gpt-4o-mini' ORDER BY trace_id",
    "SELECT trace_id FROM spans WHERE model IS NULL ORDER BY trace_id",
    "SELECT trace_id FROM spans WHERE cost_usd > 1 ORDER BY trace_id",
    "SELECT trace_id FROM spans WHERE cost_usd > 1 OR service_name = 'chat' ORDER BY trace_id",
    "SELECT trace_id, model FROM spans WHERE trace_id = '00000000000000000000000000000004'",
    "SELECT model FROM spans WHERE trace_id IN ('00000000000000000000000000000004', '00000000000000000000000000000019')
     AND model LIKE 'zz%' ORDER BY 1",
    "SELECT trace_id FROM spans WHERE date = '2026-03-02' AND model = 'zz-corrected' ORDER BY trace_id",
    "SELECT trace_id, model FROM spans ORDER BY cost_usd DESC NULLS LAST, trace_id LIMIT 5",
    "SELECT count(*) AS n FROM spans AS a JOIN spans AS b ON a.trace_id = b.trace_id AND a.model = b.model",
    "SELECT trace_id, start_time, duration_ns FROM spans WHERE service_name = 'search' ORDER BY start_time",
    "SELECT * FROM spans ORDER BY trace_id",
    "SELECT trace_id, tier, model FROM spans ORDER BY trace_id",
    "SELECT trace_id FROM spans WHERE tier = 'gold' AND model = 'zz-corrected' ORDER BY trace_id",
    "SELECT trace_id FROM spans WHERE tier IS NULL AND cost_usd > 1 OR tier = 'gold' AND model IS NULL ORDER BY trace_id",
    "SELECT tier, count(*) AS n, sum(cost_usd) AS usd FROM spans WHERE tier = 'gold' GROUP BY tier",
];

/// Scenario: rows of two segments on two days and hot ones, corrected by committed and hot corrections of several revisions,
/// told in any order; one segment holds a promoted column and the other one is older than it. Guarantee: every query answers as if the rows had been written so at first.
#[tokio::test]
async fn queries_see_corrected_rows_as_if_they_had_been_written_so() {
    let mut all = numbered(0, 30);
    all[10..20].iter_mut().for_each(|span| span.start_micros += DAY);
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let told = [
        correction(&all[4], 9, &[("model", text("zz-corrected"))]),
        correction(&all[4], 5, &[("model", text("older")), ("cost_usd", Some(Value::Usd(2_000_000_000_000)))]),
        correction(&all[12], 1, &[("model", None), ("cost_usd", None)]),
        correction(&all[13], 1, &[("model", text("zz-corrected"))]),
        correction(&all[25], 3, &[("cost_usd", Some(Value::Usd(3_000_000_000_000)))]),
        correction(&all[25], 2, &[("model", text("zz-corrected")), ("cost_usd", None)]),
    ];
    let mut tables = Tables::new().await;
    tables.commit("spans", rows(&all[0..10])).await;
    tables.promote_tier().await;
    tables.commit("spans", rows(&all[10..20])).await;
    tables.set_hot("spans", rows(&all[20..]));
    tables.commit("span_corrections", corrections::batch(&told[..3]).expect("rows")).await;
    tables.set_hot("span_corrections", corrections::batch(&told[3..]).expect("rows"));

    let mut expected = all.clone();
    (expected[4].model, expected[4].cost_picos) = (Some("zz-corrected"), Some(2_000_000_000_000));
    (expected[12].model, expected[12].cost_picos) = (None, None);
    expected[13].model = Some("zz-corrected");
    (expected[25].model, expected[25].cost_picos) = (Some("zz-corrected"), Some(3_000_000_000_000));
    let mut oracle = Tables::new().await;
    oracle.promote_tier().await;
    oracle.set_hot("spans", rows(&expected));

    let engines = [tables, oracle].map(|tables| QueryEngine::new(Arc::new(tables), options()).expect("an engine"));
    for question in QUESTIONS {
        let answer = csv(&engines[0], question).await.unwrap_or_else(|error| panic!("{question}: {error}"));
        let wanted = csv(&engines[1], question).await.expect("an answer");
        assert_eq!(answer, wanted, "{question}");
        assert!(wanted.len() > 1 || question.contains("JOIN"), "{question} asks for nothing");
    }
}

/// Scenario: one row of many is corrected. Guarantee: what cannot meet it is read as if there were no corrections.
#[tokio::test]
async fn what_holds_no_corrected_row_is_scanned_as_ever() {
    let all = numbered(0, 20);
    let mut tables = Tables::new().await;
    tables.commit("spans", rows(&all[..10])).await;
    let told = correction(&all[4], 9, &[("model", Some(Value::Text("zz-corrected".to_owned())))]);
    tables.set_hot("span_corrections", corrections::batch(&[told]).expect("rows"));
    let engine = QueryEngine::new(Arc::new(tables), options()).expect("an engine");
    let plan = async |question: &str| csv(&engine, &format!("EXPLAIN {question}")).await.expect("a plan").join("\n");
    for question in [
        "SELECT count(*) FROM spans WHERE duration_ns > 5",
        "SELECT cost_usd, input_tokens FROM spans",
        "SELECT model FROM spans WHERE date = '2026-03-02'",
        "SELECT model FROM spans WHERE trace_id = '00000000000000000000000000000005'",
    ] {
        assert!(!plan(question).await.contains("CorrectExec"), "{question}");
    }
    let corrected = plan("SELECT model FROM spans WHERE trace_id = '00000000000000000000000000000004'").await;
    assert!(corrected.contains("CorrectExec: corrected_rows=1"), "{corrected}");
    assert!(corrected.contains("predicate=trace_id"), "what cannot be corrected is filtered below: {corrected}");
}

/// Scenario: a span told twice in one request, and once more in another. Guarantee: a correction meets the row it names.
#[tokio::test]
async fn a_correction_meets_one_telling() {
    let span = numbered(7, 1);
    let told = rows(&[span[0].clone(), span[0].clone()]);
    let mut columns = told.columns().to_vec();
    columns[spans::SPEC.index_of("telling")] = Arc::new(arrow::array::Int64Array::from(vec![None, Some(1)]));
    let told = RecordBatch::try_new(told.schema(), columns).expect("the same columns");
    let mut second = correction(&span[0], 1, &[("usage_role", Some(Value::Text("duplicate".to_owned())))]);
    second.address.telling = Some(1);
    let mut elsewhere = correction(&span[0], 2, &[("usage_role", Some(Value::Text("leaf".to_owned())))]);
    elsewhere.address.received_micros += 1;
    let mut tables = Tables::new().await;
    tables.set_hot("spans", told);
    tables.set_hot("span_corrections", corrections::batch(&[second, elsewhere]).expect("rows"));
    let engine = QueryEngine::new(Arc::new(tables), options()).expect("an engine");
    let answer = csv(&engine, "SELECT telling, usage_role FROM spans ORDER BY telling NULLS FIRST").await;
    assert_eq!(answer.expect("an answer"), ["telling,usage_role", ",", "1,duplicate"]);
}
