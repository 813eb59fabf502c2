//! A store in a temporary directory with a real `spans` table, whose hot batches a test decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, Date32Array, Decimal128Array, Int64Array, ListArray, MapBuilder, MapFieldNames, StringArray,
    StringBuilder, StructArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use parking_lot::Mutex;
use spanlake_schema::{DEFAULT_TENANT, TableSpec, spans};
use spanlake_storage::{Commit, Store, Table, TableSource, TableView, segment};

use crate::{Parameters, QueryEngine, QueryError, QueryOptions};

/// 2026-03-01T00:00:00Z.
pub(crate) const MARCH: i64 = 1_772_323_200_000_000;

const DAY: i64 = 86_400_000_000;

/// The part of a span that tests decide.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) trace_id: String,
    pub(crate) service: Option<&'static str>,
    pub(crate) model: Option<&'static str>,
    pub(crate) start_micros: i64,
    pub(crate) duration_ns: Option<i64>,
    pub(crate) cost_picos: Option<i128>,
    pub(crate) attributes: Vec<(&'static str, &'static str)>,
    pub(crate) events: Vec<&'static str>,
}

/// Spans one second apart, numbered from `first`, over models and services in turn.
pub(crate) fn numbered(first: usize, count: usize) -> Vec<Span> {
    (first..first + count)
        .map(|number| Span {
            trace_id: format!("{number:032x}"),
            service: Some(["checkout", "search", "chat"][number % 3]),
            model: [Some("gpt-4o-mini"), Some("claude-sonnet-4"), None][number % 3],
            start_micros: MARCH + i64::try_from(number).unwrap_or_default() * 1_000_000 + 123_456,
            duration_ns: Some(1_000 + i64::try_from(number).unwrap_or_default()),
            cost_picos: (number % 3 != 2).then_some(123_000_000),
            attributes: vec![("gen_ai.system", "openai"), ("tier", "gold")],
            events: vec!["started", "ended"],
        })
        .collect()
}

/// A batch of `spans` with every column.
pub(crate) fn batch(rows: &[Span]) -> RecordBatch {
    let columns = spans::SPEC.columns.iter().map(|column| {
        let count = rows.len();
        let data_type = column.column_type.arrow_type();
        match column.name {
            "date" => {
                Arc::new(rows.iter().map(|row| i32::try_from(row.start_micros / DAY).ok()).collect::<Date32Array>())
                    as ArrayRef
            }
            "trace_id" => text(rows.iter().map(|row| Some(row.trace_id.as_str()))),
            "service_name" => text(rows.iter().map(|row| row.service)),
            "model" => text(rows.iter().map(|row| row.model)),
            "start_time" => {
                let array: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.start_micros)).collect();
                Arc::new(array.with_timezone("UTC"))
            }
            "duration_ns" => Arc::new(rows.iter().map(|row| row.duration_ns).collect::<Int64Array>()),
            "cost_usd" => {
                let array: Decimal128Array = rows.iter().map(|row| row.cost_picos).collect();
                Arc::new(array.with_data_type(data_type))
            }
            "attributes" => map(rows.iter().map(|row| row.attributes.clone())),
            "events" => events(rows),
            "links" => empty_lists(&data_type, count),
            _ if column.nullable => new_null_array(&data_type, count),
            _ => filler(&data_type, count),
        }
    });
    RecordBatch::try_new(spans::SPEC.arrow_schema(), columns.collect()).expect("the columns fit the schema")
}

fn text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn filler(data_type: &DataType, count: usize) -> ArrayRef {
    match data_type {
        DataType::Utf8 => text((0..count).map(|_| Some("x"))),
        DataType::Int64 => Arc::new(Int64Array::from(vec![0; count])),
        DataType::Timestamp(..) => Arc::new(TimestampMicrosecondArray::from(vec![MARCH; count]).with_timezone("UTC")),
        DataType::Map(..) => map((0..count).map(|_| Vec::new())),
        other => panic!("no filler for {other}"),
    }
}

fn map<'a>(rows: impl Iterator<Item = Vec<(&'a str, &'a str)>>) -> ArrayRef {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (key, value) in row {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder.append(true).expect("as many values as keys");
    }
    Arc::new(builder.finish())
}

fn list_field(data_type: &DataType) -> Arc<Field> {
    match data_type {
        DataType::List(field) => Arc::clone(field),
        other => panic!("{other} is no list"),
    }
}

fn empty_lists(data_type: &DataType, count: usize) -> ArrayRef {
    let field = list_field(data_type);
    let values = arrow::array::new_empty_array(field.data_type());
    Arc::new(ListArray::new(field, OffsetBuffer::new_zeroed(count), values, None))
}

fn events(rows: &[Span]) -> ArrayRef {
    let names: Vec<&str> = rows.iter().flat_map(|row| row.events.iter().copied()).collect();
    let fields = spanlake_schema::event_fields();
    let columns: Vec<ArrayRef> = fields
        .iter()
        .map(|field| match field.name().as_str() {
            "name" => text(names.iter().map(|name| Some(*name))),
            _ => filler(field.data_type(), names.len()),
        })
        .collect();
    let values = StructArray::new(fields.clone(), columns, None);
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.events.len()));
    let field = Arc::new(Field::new("element", DataType::Struct(fields), true));
    assert_eq!(values.len(), names.len());
    Arc::new(ListArray::new(field, offsets, Arc::new(values), None))
}

/// A tenant's `spans` and its hot rows.
type Tenant = (Arc<Table>, Vec<RecordBatch>);

/// Tables of tenants: committed rows on disk, hot rows as set.
#[derive(Debug)]
pub(crate) struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    tables: Mutex<HashMap<String, Tenant>>,
}

impl Fixture {
    pub(crate) async fn new() -> Arc<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(directory.path().to_str().expect("a path in UTF-8")).expect("a store");
        let fixture = Arc::new(Self { _directory: directory, store, tables: Mutex::default() });
        fixture.add_tenant(DEFAULT_TENANT).await;
        fixture
    }

    pub(crate) async fn add_tenant(&self, tenant: &str) {
        let table = Table::open_or_create(&self.store, tenant, &spans::SPEC).await.expect("a table");
        self.tables.lock().insert(tenant.to_owned(), (Arc::new(table), Vec::new()));
    }

    pub(crate) fn table(&self, tenant: &str) -> Arc<Table> {
        Arc::clone(&self.tables.lock().get(tenant).expect("a known tenant").0)
    }

    /// Commits rows as one file a day.
    pub(crate) async fn commit(&self, tenant: &str, rows: &[Span]) {
        let table = self.table(tenant);
        let name = format!("part-{}", table.snapshot().segments.len());
        let adds = segment::write(&table, &[batch(rows)], &name).await.expect("segments");
        let commit = Commit { adds, operation: "WRITE", ..Commit::default() };
        table.commit(commit, None).await.expect("a commit");
    }

    /// Replaces the hot rows.
    pub(crate) fn set_hot(&self, tenant: &str, rows: &[Span]) {
        self.tables.lock().get_mut(tenant).expect("a known tenant").1 = vec![batch(rows)];
    }
}

#[async_trait]
impl TableSource for Fixture {
    fn tables(&self, tenant: &str) -> Vec<&'static TableSpec> {
        if self.tables.lock().contains_key(tenant) { vec![&spans::SPEC] } else { Vec::new() }
    }

    async fn view(&self, tenant: &str, table: &str) -> spanlake_storage::Result<Option<TableView>> {
        let tables = self.tables.lock();
        Ok(tables.get(tenant).filter(|_| table == spans::SPEC.name).map(|(table, hot)| TableView {
            table: Arc::clone(table),
            snapshot: table.snapshot(),
            hot: hot.clone(),
            spilled: Vec::new(),
        }))
    }
}

pub(crate) fn options() -> QueryOptions {
    QueryOptions {
        memory_limit_bytes: 256 << 20,
        spill_limit_bytes: 1 << 30,
        timeout: Duration::from_secs(120),
        row_limit: 1_000_000,
        concurrency: 4,
        threads: 2,
    }
}

pub(crate) fn engine(fixture: &Arc<Fixture>, options: QueryOptions) -> Arc<QueryEngine> {
    QueryEngine::new(Arc::clone(fixture) as Arc<dyn TableSource>, options).expect("an engine")
}

/// The answer of a statement, or the error that ended it.
pub(crate) async fn batches(engine: &QueryEngine, statement: &str) -> Result<Vec<RecordBatch>, QueryError> {
    let stream = engine.sql(DEFAULT_TENANT, statement, Parameters::None).await?;
    Ok(stream.try_collect().await?)
}

/// The answer as lines of comma-separated values, header first.
pub(crate) async fn csv(engine: &QueryEngine, statement: &str) -> Result<Vec<String>, QueryError> {
    csv_with(engine, statement, Parameters::None).await
}

pub(crate) async fn csv_with(
    engine: &QueryEngine,
    statement: &str,
    parameters: Parameters,
) -> Result<Vec<String>, QueryError> {
    let pieces = engine.sql_encoded(DEFAULT_TENANT, statement, parameters, crate::Format::Csv).await?;
    let pieces: Vec<bytes::Bytes> = pieces.try_collect().await?;
    let text = String::from_utf8(pieces.concat()).expect("CSV is UTF-8");
    Ok(text.lines().map(str::to_owned).collect())
}
