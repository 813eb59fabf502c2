//! The columns of a table while a request is walked.

use std::marker::PhantomData;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Date32Array};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use spanlake_schema::{Column, ColumnType, TableSpec, flags, spans};

use crate::columns::{Fixed, Repaired, Text, TextMap};
use crate::lists::{NumberList, TextList, finish_structs};
use crate::point_columns::{ExemplarColumns, QuantileColumns};

/// A table that requests are walked into. Its columns include those that [`crate::origin::Origin`] writes,
/// `attributes` and `reading_flags`.
pub(crate) trait Table {
    /// The table.
    const SPEC: TableSpec;
    /// Columns of ids that most rows have, and the characters of one.
    const IDS: &'static [(&'static str, usize)];

    /// The table's Arrow schema, made once.
    fn schema() -> SchemaRef;
}

/// The table `spans`.
#[derive(Debug)]
pub(crate) struct Spans;

impl Table for Spans {
    const SPEC: TableSpec = spans::SPEC;
    const IDS: &'static [(&'static str, usize)] = &[("trace_id", 32), ("span_id", 16)];

    fn schema() -> SchemaRef {
        static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Spans::SPEC.arrow_schema());
        Arc::clone(&SCHEMA)
    }
}

/// A column's place among the columns of its own type, known at compile time.
///
/// # Panics
/// At compile time, where `spans` has no such column.
pub(crate) const fn slot(name: &str) -> usize {
    slot_in(spans::SPEC.columns, name)
}

/// A column's place among a table's columns of its own type, known at compile time.
///
/// # Panics
/// At compile time, where the table has no such column.
pub(crate) const fn slot_in(columns: &[Column], name: &str) -> usize {
    let at = index(columns, name);
    let (mut before, mut place) = (0, 0);
    while before < at {
        if columns[before].column_type as u8 == columns[at].column_type as u8 {
            place += 1;
        }
        before += 1;
    }
    place
}

const fn index(columns: &[Column], name: &str) -> usize {
    let mut at = 0;
    while at < columns.len() {
        if equal(columns[at].name.as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("the table has no such column");
}

const fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

fn count<T: Table>(column_type: ColumnType) -> usize {
    T::SPEC.columns.iter().filter(|column| column.column_type == column_type).count()
}

/// Where a fact is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Text(usize),
    Int(usize),
    Float(usize),
    Bool(usize),
    List(usize),
    Usd(usize),
}

impl Target {
    /// The target of a column, where facts can be written to it.
    pub(crate) fn of(column: &Column) -> Option<Self> {
        let slot = slot(column.name);
        Some(match column.column_type {
            ColumnType::Text => Self::Text(slot),
            ColumnType::Int64 => Self::Int(slot),
            ColumnType::Float64 => Self::Float(slot),
            ColumnType::Bool => Self::Bool(slot),
            ColumnType::TextList => Self::List(slot),
            ColumnType::Usd => Self::Usd(slot),
            _ => return None,
        })
    }
}

/// Span events of all rows.
#[derive(Debug)]
pub(crate) struct EventColumns {
    pub(crate) count: usize,
    pub(crate) time: Fixed<i64>,
    pub(crate) time_unix_nano: Fixed<i64>,
    pub(crate) name: Text,
    pub(crate) attributes: TextMap,
    pub(crate) attribute_types: Text,
    pub(crate) dropped: Fixed<i64>,
    ends: Vec<i32>,
}

/// Span links of all rows.
#[derive(Debug)]
pub(crate) struct LinkColumns {
    pub(crate) count: usize,
    pub(crate) trace_id: Text,
    pub(crate) span_id: Text,
    pub(crate) trace_state: Text,
    pub(crate) flags: Fixed<i64>,
    pub(crate) attributes: TextMap,
    pub(crate) attribute_types: Text,
    pub(crate) dropped: Fixed<i64>,
    ends: Vec<i32>,
}

impl EventColumns {
    fn new() -> Self {
        Self {
            count: 0,
            time: Fixed::default(),
            time_unix_nano: Fixed::default(),
            name: Text::default(),
            attributes: TextMap::default(),
            attribute_types: Text::default(),
            dropped: Fixed::default(),
            ends: vec![0],
        }
    }

    fn finish(self, repaired: &mut Repaired) -> ArrayRef {
        let mut bad = Repaired::new();
        let columns = vec![
            self.time.finish_timestamp(self.count),
            self.time_unix_nano.finish_required(self.count),
            self.name.finish_required(self.count, &mut bad),
            Arc::new(self.attributes.finish(self.count, &mut bad)),
            self.attribute_types.finish_required(self.count, &mut bad),
            self.dropped.finish_required(self.count),
        ];
        finish_structs(&element(ColumnType::Events), self.ends, columns, &bad, repaired)
    }
}

impl LinkColumns {
    fn new() -> Self {
        Self {
            count: 0,
            trace_id: Text::default(),
            span_id: Text::default(),
            trace_state: Text::default(),
            flags: Fixed::default(),
            attributes: TextMap::default(),
            attribute_types: Text::default(),
            dropped: Fixed::default(),
            ends: vec![0],
        }
    }

    fn finish(self, repaired: &mut Repaired) -> ArrayRef {
        let mut bad = Repaired::new();
        let columns = vec![
            self.trace_id.finish_required(self.count, &mut bad),
            self.span_id.finish_required(self.count, &mut bad),
            self.trace_state.finish_required(self.count, &mut bad),
            self.flags.finish_required(self.count),
            Arc::new(self.attributes.finish(self.count, &mut bad)),
            self.attribute_types.finish_required(self.count, &mut bad),
            self.dropped.finish_required(self.count),
        ];
        finish_structs(&element(ColumnType::Links), self.ends, columns, &bad, repaired)
    }
}

pub(crate) fn element(column_type: ColumnType) -> Arc<arrow::datatypes::Field> {
    let DataType::List(element) = column_type.arrow_type() else { unreachable!("structs stand in lists") };
    element
}

/// The columns of `spans`.
pub(crate) type SpanColumns = Columns<Spans>;

/// All columns of a table, by type; [`slot_in`] gives a column's place.
#[derive(Debug)]
pub(crate) struct Columns<T: Table> {
    table: PhantomData<T>,
    pub(crate) rows: usize,
    pub(crate) dates: Vec<i32>,
    pub(crate) texts: Vec<Text>,
    pub(crate) ints: Vec<Fixed<i64>>,
    pub(crate) floats: Vec<Fixed<f64>>,
    pub(crate) bools: Vec<Fixed<bool>>,
    pub(crate) times: Vec<Fixed<i64>>,
    pub(crate) usds: Vec<Fixed<i128>>,
    pub(crate) lists: Vec<TextList>,
    pub(crate) int_lists: Vec<NumberList<i64>>,
    pub(crate) float_lists: Vec<NumberList<f64>>,
    pub(crate) maps: Vec<TextMap>,
    pub(crate) events: EventColumns,
    pub(crate) links: LinkColumns,
    pub(crate) exemplars: Option<ExemplarColumns>,
    pub(crate) quantiles: Option<QuantileColumns>,
}

/// Rows a batch holds at most.
pub(crate) const ROWS_MAX: usize = 32_768;

impl<T: Table> Columns<T> {
    /// Columns for about so many rows.
    pub(crate) fn new(rows: usize) -> Self {
        let mut maps = vec![TextMap::default(); count::<T>(ColumnType::TextMap)];
        maps[slot_in(T::SPEC.columns, "attributes")] = TextMap::sparse(rows);
        let mut texts = vec![Text::sparse(rows); count::<T>(ColumnType::Text)];
        for (column, characters) in T::IDS {
            texts[slot_in(T::SPEC.columns, column)] = Text::with_capacity(rows, rows * characters);
        }
        Self {
            table: PhantomData,
            rows: 0,
            dates: Vec::with_capacity(rows),
            texts,
            ints: vec![Fixed::sparse(rows); count::<T>(ColumnType::Int64)],
            floats: vec![Fixed::sparse(rows); count::<T>(ColumnType::Float64)],
            bools: vec![Fixed::sparse(rows); count::<T>(ColumnType::Bool)],
            times: vec![Fixed::with_capacity(rows); count::<T>(ColumnType::Timestamp)],
            usds: vec![Fixed::sparse(rows); count::<T>(ColumnType::Usd)],
            lists: vec![TextList::default(); count::<T>(ColumnType::TextList)],
            maps,
            events: EventColumns::new(),
            int_lists: vec![NumberList::default(); count::<T>(ColumnType::Int64List)],
            float_lists: vec![NumberList::default(); count::<T>(ColumnType::Float64List)],
            links: LinkColumns::new(),
            exemplars: (count::<T>(ColumnType::Exemplars) > 0).then(ExemplarColumns::new),
            quantiles: (count::<T>(ColumnType::Quantiles) > 0).then(QuantileColumns::new),
        }
    }

    /// Ends a row: all its values are set.
    #[inline]
    pub(crate) fn end_row(&mut self) {
        self.events.ends.push(self.events.count as i32);
        self.links.ends.push(self.links.count as i32);
        self.exemplars.iter_mut().for_each(ExemplarColumns::end_row);
        self.quantiles.iter_mut().for_each(QuantileColumns::end_row);
        self.rows += 1;
    }

    /// The record batch, and how many strings were repaired.
    pub(crate) fn finish(self) -> (RecordBatch, u64) {
        let rows = self.rows;
        let mut repaired = Repaired::new();
        let mut arrays = Vec::with_capacity(T::SPEC.columns.len());
        let (mut texts, mut floats) = (self.texts.into_iter(), self.floats.into_iter());
        let (mut bools, mut times) = (self.bools.into_iter(), self.times.into_iter());
        let (mut usds, mut lists) = (self.usds.into_iter(), self.lists.into_iter());
        let (mut maps, mut dates) = (self.maps.into_iter(), Some(self.dates));
        let (mut events, mut links) = (Some(self.events), Some(self.links));
        let (mut int_lists, mut float_lists) = (self.int_lists.into_iter(), self.float_lists.into_iter());
        let (mut exemplars, mut quantiles) = (self.exemplars, self.quantiles);
        for column in T::SPEC.columns {
            let array: Option<ArrayRef> = match column.column_type {
                ColumnType::Date => Some(Arc::new(Date32Array::from(built(dates.take())))),
                ColumnType::Text => {
                    let text = built(texts.next());
                    Some(if column.nullable {
                        text.finish(rows, &mut repaired)
                    } else {
                        text.finish_required(rows, &mut repaired)
                    })
                }
                // Integers come last: the repairs found meanwhile set bits in one of them.
                ColumnType::Int64 => None,
                ColumnType::Float64 => Some(built(floats.next()).finish(rows)),
                ColumnType::Bool => Some(built(bools.next()).finish(rows)),
                ColumnType::Timestamp => Some(built(times.next()).finish_timestamp(rows)),
                ColumnType::Usd => Some(built(usds.next()).finish_usd(rows)),
                ColumnType::TextList => Some(built(lists.next()).finish(rows, &mut repaired)),
                ColumnType::TextMap => Some(Arc::new(built(maps.next()).finish(rows, &mut repaired))),
                ColumnType::Events => Some(built(events.take()).finish(&mut repaired)),
                ColumnType::Links => Some(built(links.take()).finish(&mut repaired)),
                ColumnType::Int64List => Some(built(int_lists.next()).finish(rows)),
                ColumnType::Float64List => Some(built(float_lists.next()).finish(rows)),
                ColumnType::Exemplars => Some(built(exemplars.take()).finish(&mut repaired)),
                ColumnType::Quantiles => Some(built(quantiles.take()).finish(&mut repaired)),
                ColumnType::UsdSum | ColumnType::Histogram => unreachable!("a table of telemetry holds no sums"),
            };
            arrays.push(array);
        }
        finish_ints::<T>(self.ints, rows, &repaired, &mut arrays);
        let arrays = arrays.into_iter().flatten().collect();
        let batch = RecordBatch::try_new(T::schema(), arrays);
        let batch = batch.unwrap_or_else(|error| unreachable!("the builders follow the schema: {error}"));
        (batch, repaired.len() as u64)
    }
}

/// A column's builder: there is one for each column.
fn built<T>(builder: Option<T>) -> T {
    builder.unwrap_or_else(|| unreachable!("every column has a builder"))
}

fn finish_ints<T: Table>(mut ints: Vec<Fixed<i64>>, rows: usize, repaired: &[usize], arrays: &mut [Option<ArrayRef>]) {
    for &row in repaired {
        ints[const { slot_in(T::SPEC.columns, "reading_flags") }]
            .update(row, |bits| bits | flags::reading::UTF8_REPAIRED);
    }
    let mut ints = ints.into_iter();
    for (column, array) in T::SPEC.columns.iter().zip(arrays) {
        if column.column_type == ColumnType::Int64 {
            let int = ints.next().unwrap_or_default();
            *array = Some(if column.nullable { int.finish(rows) } else { int.finish_required(rows) });
        }
    }
}
