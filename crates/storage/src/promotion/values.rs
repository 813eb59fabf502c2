//! What the promoted columns of rows hold.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Float64Builder, Int64Builder, MapArray, StringArray, StringBuilder,
};
use arrow::record_batch::RecordBatch;
use spanlake_schema::promotion::PromotedColumn;
use spanlake_schema::types::{BOOL, DOUBLE, EMPTY, INT, MISSING, Places, STRING};
use spanlake_schema::{ColumnType, TableSpec};

use crate::{Error, ErrorKind, Result};

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Typed<'a> {
    Text(&'a str),
    Int(i64),
    Double(f64),
    Bool(bool),
    /// Said to be nothing.
    Empty,
    /// Of a type that no column has, or unreadable.
    Other,
}

impl<'a> Typed<'a> {
    /// As the map holds it: its type's symbol, where that is known, and its text.
    fn of(symbol: Option<char>, text: Option<&'a str>) -> Self {
        match (symbol, text) {
            (Some(EMPTY | MISSING), _) => Self::Empty,
            (Some(STRING), Some(text)) => Self::Text(text),
            (Some(INT), Some(text)) => text.parse().map_or(Self::Other, Self::Int),
            (Some(DOUBLE), Some(text)) => double(text).map_or(Self::Other, Self::Double),
            (Some(BOOL), Some("true")) => Self::Bool(true),
            (Some(BOOL), Some("false")) => Self::Bool(false),
            _ => Self::Other,
        }
    }

    /// The type of a column that is made for this value, where there is one.
    pub(super) fn column_type(self) -> Option<ColumnType> {
        match self {
            Self::Text(_) => Some(ColumnType::Text),
            Self::Int(_) => Some(ColumnType::Int64),
            Self::Double(_) => Some(ColumnType::Float64),
            Self::Bool(_) => Some(ColumnType::Bool),
            Self::Empty | Self::Other => None,
        }
    }

    /// Whether a column holds the value: one of its own type, one of doubles also an integer that is a double.
    pub(super) fn fits(self, column_type: ColumnType) -> bool {
        match (self, column_type) {
            (Self::Int(value), ColumnType::Float64) => exact_double(value).is_some(),
            _ => self.column_type() == Some(column_type),
        }
    }
}

fn double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
}

fn exact_double(value: i64) -> Option<f64> {
    let double = value as f64;
    // Back through a wider integer: 64 bits would saturate to the value that was rounded.
    (double as i128 == i128::from(value)).then_some(double)
}

/// An attribute of a row, and where it stands: its row, its map, its place there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<'a> {
    pub(super) row: usize,
    pub(super) map: usize,
    pub(super) slot: usize,
    pub(super) name: &'a str,
    symbol: Option<char>,
    text: Option<&'a str>,
}

impl<'a> Attribute<'a> {
    pub(super) fn value(&self) -> Typed<'a> {
        Typed::of(self.symbol, self.text)
    }
}

/// Calls for each attribute that the maps of a table's rows hold: row by row, those of the first map first. Maps that the batch
/// lacks are empty.
pub(super) fn for_each<'a>(spec: &TableSpec, batch: &'a RecordBatch, mut see: impl FnMut(Attribute<'a>)) -> Result<()> {
    let maps =
        spec.attributes.iter().map(|(map, types)| Map::of(spec, batch, map, types)).collect::<Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        for (index, map) in maps.iter().enumerate() {
            map.iter().for_each(|map| map.for_each(row, index, &mut see));
        }
    }
    Ok(())
}

/// A column of attributes.
struct Map<'a> {
    map: &'a MapArray,
    names: &'a StringArray,
    texts: &'a StringArray,
    symbols: Option<&'a StringArray>,
}

impl<'a> Map<'a> {
    fn of(spec: &TableSpec, batch: &'a RecordBatch, map: &str, types: &str) -> Result<Option<Self>> {
        let Some(column) = batch.column_by_name(map) else { return Ok(None) };
        let unfit = || Error::new(ErrorKind::Invalid, format!("column {map} of table {} is no map of text", spec.name));
        let map = column.as_map_opt().ok_or_else(unfit)?;
        let (names, texts) =
            (map.keys().as_string_opt().ok_or_else(unfit)?, map.values().as_string_opt().ok_or_else(unfit)?);
        let symbols = batch.column_by_name(types).and_then(|symbols| symbols.as_string_opt());
        Ok(Some(Self { map, names, texts, symbols }))
    }

    fn for_each(&self, row: usize, index: usize, see: &mut impl FnMut(Attribute<'a>)) {
        if self.map.is_null(row) {
            return;
        }
        let offsets = self.map.value_offsets();
        let entries = offsets[row] as usize..offsets[row + 1] as usize;
        let symbols = self.symbols.filter(|symbols| symbols.is_valid(row)).map_or("", |symbols| symbols.value(row));
        let mut places = Places::of(symbols);
        for (slot, entry) in entries.enumerate() {
            let symbol = places.next_in_map();
            let text = self.texts.is_valid(entry).then(|| self.texts.value(entry));
            see(Attribute { row, map: index, slot, name: self.names.value(entry), symbol, text });
        }
    }
}

/// What was found out about attributes by their names, looked up once for many rows: those of one sender have the same attributes
/// in the same places.
pub(super) struct Guess<'a, T> {
    last: Vec<Vec<Option<(&'a str, T)>>>,
}

impl<T> Default for Guess<'_, T> {
    fn default() -> Self {
        Self { last: Vec::new() }
    }
}

impl<'a, T: Copy> Guess<'a, T> {
    /// What was found for the attribute in this place of an earlier row, where it is the same.
    pub(super) fn get(&self, attribute: &Attribute<'a>) -> Option<T> {
        let (name, found) = (*self.last.get(attribute.map)?.get(attribute.slot)?)?;
        (name == attribute.name).then_some(found)
    }

    pub(super) fn set(&mut self, attribute: &Attribute<'a>, found: T) {
        if self.last.len() <= attribute.map {
            self.last.resize_with(attribute.map + 1, Vec::new);
        }
        let places = &mut self.last[attribute.map];
        if places.len() <= attribute.slot {
            places.resize(attribute.slot + 1, None);
        }
        places[attribute.slot] = Some((attribute.name, found));
    }
}

/// The promoted columns of a table's rows, of which the maps and their types are read; other columns may be missing. CPU work.
///
/// Of a name that a row has several times the first holds, and what a span has before what its resource has.
///
/// # Errors
/// [`ErrorKind::Invalid`] where the maps are none.
pub fn columns_of(spec: &TableSpec, promoted: &[PromotedColumn], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let places: HashMap<&str, usize> = promoted.iter().map(|column| column.attribute.as_str()).zip(0..).collect();
    let mut columns: Vec<Builder> = promoted.iter().map(|column| Builder::of(column.column_type)).collect();
    let mut guess = Guess::default();
    for_each(spec, batch, |attribute| {
        let place = guess.get(&attribute).unwrap_or_else(|| {
            let place = places.get(attribute.name).copied();
            guess.set(&attribute, place);
            place
        });
        let Some(column) = place.map(|place| &mut columns[place]) else { return };
        // The row has a value already.
        if column.rows <= attribute.row {
            column.pad(attribute.row);
            column.append(attribute.value());
        }
    })?;
    Ok(columns.into_iter().map(|column| column.finish(batch.num_rows())).collect())
}

struct Builder {
    rows: usize,
    values: Values,
}

enum Values {
    Text(StringBuilder),
    Int(Int64Builder),
    Double(Float64Builder),
    Bool(BooleanBuilder),
}

impl Builder {
    fn of(column_type: ColumnType) -> Self {
        let values = match column_type {
            ColumnType::Int64 => Values::Int(Int64Builder::new()),
            ColumnType::Float64 => Values::Double(Float64Builder::new()),
            ColumnType::Bool => Values::Bool(BooleanBuilder::new()),
            _ => Values::Text(StringBuilder::new()),
        };
        Self { rows: 0, values }
    }

    /// Fills up with NULL to so many rows.
    fn pad(&mut self, rows: usize) {
        let count = rows - self.rows;
        match &mut self.values {
            Values::Text(values) => values.append_nulls(count),
            Values::Int(values) => values.append_nulls(count),
            Values::Double(values) => values.append_nulls(count),
            Values::Bool(values) => values.append_nulls(count),
        }
        self.rows = rows;
    }

    fn append(&mut self, value: Typed<'_>) {
        match (&mut self.values, value) {
            (Values::Text(values), Typed::Text(value)) => values.append_value(value),
            (Values::Int(values), Typed::Int(value)) => values.append_value(value),
            (Values::Double(values), Typed::Double(value)) => values.append_value(value),
            (Values::Double(values), Typed::Int(value)) => values.append_option(exact_double(value)),
            (Values::Bool(values), Typed::Bool(value)) => values.append_value(value),
            _ => return self.pad(self.rows + 1),
        }
        self.rows += 1;
    }

    fn finish(mut self, rows: usize) -> ArrayRef {
        self.pad(rows);
        match self.values {
            Values::Text(mut values) => Arc::new(values.finish()),
            Values::Int(mut values) => Arc::new(values.finish()),
            Values::Double(mut values) => Arc::new(values.finish()),
            Values::Bool(mut values) => Arc::new(values.finish()),
        }
    }
}
