use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::{concat_batches, interleave};
use arrow::datatypes::{Date32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, col, in_list, lit};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;
use spanlake_schema::DATE;
use spanlake_schema::corrections::{ADDRESS, SPEC};

use crate::table::ViewTable;

/// What an entry costs beside its values: its key in the map and its place in the set of days and times.
const ENTRY_BYTES: usize = 128;

/// No correction.
const NONE: u32 = u32::MAX;

/// A row of `spans`, as corrections address it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    trace_id: u128,
    span_id: u64,
    received_micros: i64,
    telling: i64,
}

/// The corrections that a query needs, of each column the newest, in memory of the query's pool.
#[derive(Debug)]
pub(super) struct Found {
    /// The rows that are corrected, numbered.
    entries: HashMap<Key, u32>,
    /// Where such rows are: days and arrivals.
    places: BTreeSet<(i32, i64)>,
    arrivals: std::collections::HashSet<i64>,
    /// The corrections.
    rows: RecordBatch,
    /// By column: for each entry the row of `rows` that has its value, or [`NONE`].
    picks: HashMap<String, Vec<u32>>,
    _memory: MemoryReservation,
}

/// The columns of a batch that address its rows.
struct Addresses<'a> {
    trace_ids: &'a StringArray,
    span_ids: &'a StringArray,
    received: &'a TimestampMicrosecondArray,
    tellings: &'a Int64Array,
}

impl<'a> Addresses<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            trace_ids: column(batch, "trace_id")?.as_string(),
            span_ids: column(batch, "span_id")?.as_string(),
            received: column(batch, "received_time")?.as_primitive(),
            tellings: column(batch, "telling")?.as_primitive(),
        })
    }

    /// Ids that are none of ours have no corrections.
    fn key(&self, row: usize) -> Option<Key> {
        Some(Key {
            trace_id: u128::from_str_radix(self.trace_ids.value(row), 16).ok()?,
            span_id: u64::from_str_radix(self.span_ids.value(row), 16).ok()?,
            received_micros: self.received.value(row),
            telling: if self.tellings.is_null(row) { 0 } else { self.tellings.value(row) },
        })
    }
}

impl Found {
    /// Reads the corrections of some days, as far as the filters of the query let them through and it reads what they
    /// change.
    pub(super) async fn read(
        state: &dyn Session,
        corrections: &Arc<ViewTable>,
        days: &BTreeSet<i32>,
        filters: &[Expr],
        read: &[&str],
    ) -> Result<Self> {
        let mut columns: Vec<&str> = ADDRESS.to_vec();
        columns.extend(["revision", "changed_columns"]);
        columns.extend(read);
        let days = days.iter().map(|day| lit(ScalarValue::Date32(Some(*day)))).collect();
        let provider: Arc<dyn TableProvider> = Arc::clone(corrections) as _;
        let mut plan = LogicalPlanBuilder::scan(SPEC.name, provider_as_source(provider), None)?.filter(in_list(
            col(DATE),
            days,
            false,
        ))?;
        // These columns are the same in both tables.
        let is_shared = |name: &str| ADDRESS.contains(&name) || name == "start_time";
        for filter in filters.iter().filter(|one| one.column_refs().iter().all(|column| is_shared(&column.name))) {
            plan = plan.filter(filter.clone())?;
        }
        let plan = plan.project(columns.into_iter().map(col).collect::<Vec<_>>())?.build()?;
        let plan = state.create_physical_plan(&plan).await?;
        let memory = MemoryConsumer::new("corrections of spans").register(&state.runtime_env().memory_pool);
        let mut stream = execute_stream(Arc::clone(&plan), state.task_ctx())?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.try_next().await? {
            // Once more for the moment when all of them are made one.
            memory.try_grow(2 * batch.get_array_memory_size() + batch.num_rows() * ENTRY_BYTES)?;
            batches.push(batch);
        }
        let rows = concat_batches(&plan.schema(), &batches)?;
        Self::new(rows, read, memory)
    }

    fn new(rows: RecordBatch, read: &[&str], memory: MemoryReservation) -> Result<Self> {
        let mut order: Vec<u32> = (0..rows.num_rows()).filter_map(|row| u32::try_from(row).ok()).collect();
        let revisions = column(&rows, "revision")?.as_primitive::<Int64Type>().clone();
        order.sort_by_key(|row| revisions.value(*row as usize));
        let (mut entries, mut picks) = (HashMap::new(), HashMap::<String, Vec<u32>>::new());
        let (mut places, mut arrivals) = (BTreeSet::new(), std::collections::HashSet::new());
        {
            let addresses = Addresses::of(&rows)?;
            let dates = column(&rows, DATE)?.as_primitive::<Date32Type>();
            let changed = column(&rows, "changed_columns")?.as_list::<i32>();
            for row in order {
                let Some(key) = addresses.key(row as usize) else { continue };
                let names = changed.value(row as usize);
                let names: &StringArray = names.as_string();
                if !names.iter().flatten().any(|name| read.contains(&name)) {
                    continue;
                }
                let count = entries.len() as u32;
                let entry = *entries.entry(key).or_insert(count) as usize;
                places.insert((dates.value(row as usize), key.received_micros));
                arrivals.insert(key.received_micros);
                for name in names.iter().flatten().filter(|name| read.contains(name)) {
                    let picked = picks.entry(name.to_owned()).or_default();
                    if picked.len() <= entry {
                        picked.resize(entry + 1, NONE);
                    }
                    picked[entry] = row;
                }
            }
        }
        Ok(Self { entries, places, arrivals, rows, picks, _memory: memory })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many rows are corrected.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a segment of a day with arrivals between these may hold a row that is corrected.
    pub(super) fn may_be_in(&self, day: Option<i32>, arrivals: Option<(i64, i64)>) -> bool {
        let (Some(day), Some((first, last))) = (day, arrivals) else { return true };
        first <= last && self.places.range((day, first)..=(day, last)).next().is_some()
    }

    /// Whether a batch, its columns being those of the table, has a row that is corrected.
    pub(super) fn corrects(&self, batch: &RecordBatch) -> bool {
        // A batch whose rows cannot be told apart is looked at again when it is corrected.
        self.places_in(batch).map_or(true, |places| places.is_some())
    }

    /// For each row its entry, or [`NONE`]; `None` where no row has one.
    fn places_in(&self, batch: &RecordBatch) -> Result<Option<Vec<u32>>> {
        let addresses = Addresses::of(batch)?;
        let received: &[i64] = column(batch, "received_time")?.as_primitive::<TimestampMicrosecondType>().values();
        let mut places: Option<Vec<u32>> = None;
        // Rows of one request lie together.
        let mut known: Option<(i64, bool)> = None;
        for (row, arrival) in received.iter().enumerate() {
            let has_some = match known {
                Some((same, has_some)) if same == *arrival => has_some,
                _ => self.arrivals.contains(arrival),
            };
            known = Some((*arrival, has_some));
            if !has_some {
                continue;
            }
            if let Some(entry) = addresses.key(row).and_then(|key| self.entries.get(&key)) {
                places.get_or_insert_with(|| vec![NONE; batch.num_rows()])[row] = *entry;
            }
        }
        Ok(places)
    }

    /// The first columns of a batch, as they are corrected.
    pub(super) fn correct(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = batch.columns()[..schema.fields().len()].to_vec();
        if let Some(places) = self.places_in(batch)? {
            for (field, told) in schema.fields().iter().zip(&mut columns) {
                let Some(picked) = self.picks.get(field.name()) else { continue };
                let sources = places.iter().enumerate().map(|(row, entry)| {
                    let pick = picked.get(*entry as usize).copied().unwrap_or(NONE);
                    if pick == NONE { (0, row) } else { (1, pick as usize) }
                });
                let sources: Vec<(usize, usize)> = sources.collect();
                if sources.iter().any(|(source, _)| *source == 1) {
                    *told = interleave(&[told.as_ref(), column(&self.rows, field.name())?.as_ref()], &sources)?;
                }
            }
        }
        let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| exec_datafusion_err!("corrections lack the column {name}"))
}
