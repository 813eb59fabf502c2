//! Lists, one a row, beside the plain columns: of text, of numbers, of structs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, ListArray, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field};

use crate::columns::{Present, Repaired, Text};
use crate::nulls::null_column;

/// Lists of text, or NULL.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextList {
    items: Text,
    ends: Vec<i32>,
    present: Present,
}

impl TextList {
    /// Appends an item to the list of the row that [`TextList::close`] ends.
    pub(crate) fn push_item(&mut self, value: &[u8]) {
        self.items.push(value);
    }

    /// Ends the list of a row beyond all rows set before.
    pub(crate) fn close(&mut self, row: usize) {
        let before = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(row + 1, before);
        self.ends.push(self.items.len() as i32);
        self.present.set(row);
    }

    pub(crate) fn finish(mut self, rows: usize, repaired: &mut Repaired) -> ArrayRef {
        let data_type = spanlake_schema::ColumnType::TextList.arrow_type();
        if self.present.count == 0 {
            return null_column(&data_type, rows);
        }
        let end = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(rows + 1, end);
        let DataType::List(field) = data_type else { unreachable!("a text list is a list") };
        let ends = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        let items = self.items.len();
        let mut bad = Repaired::new();
        let items = Arc::new(self.items.finish_string(items, &mut bad));
        repaired.extend(rows_of(&ends, &bad));
        Arc::new(ListArray::new(field, ends, items, self.present.finish(rows)))
    }
}

/// Lists of numbers, or NULL.
#[derive(Clone, Debug, Default)]
pub(crate) struct NumberList<T> {
    items: Vec<T>,
    ends: Vec<i32>,
    present: Present,
}

impl<T> NumberList<T> {
    /// Sets the list of a row beyond all rows set before.
    pub(crate) fn set(&mut self, row: usize, items: impl Iterator<Item = T>) {
        self.items.extend(items);
        let before = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(row + 1, before);
        self.ends.push(self.items.len() as i32);
        self.present.set(row);
    }

    fn finish_with(mut self, rows: usize, data_type: DataType, array: impl FnOnce(Vec<T>) -> ArrayRef) -> ArrayRef {
        let end = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(rows + 1, end);
        let DataType::List(field) = data_type else { unreachable!("a number list is a list") };
        let ends = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        Arc::new(ListArray::new(field, ends, array(self.items), self.present.finish(rows)))
    }
}

impl NumberList<i64> {
    pub(crate) fn finish(self, rows: usize) -> ArrayRef {
        let data_type = spanlake_schema::ColumnType::Int64List.arrow_type();
        self.finish_with(rows, data_type, |items| Arc::new(Int64Array::from(items)))
    }
}

impl NumberList<f64> {
    pub(crate) fn finish(self, rows: usize) -> ArrayRef {
        let data_type = spanlake_schema::ColumnType::Float64List.arrow_type();
        self.finish_with(rows, data_type, |items| Arc::new(Float64Array::from(items)))
    }
}

/// The rows whose lists hold the given items.
pub(crate) fn rows_of(ends: &OffsetBuffer<i32>, items: &[usize]) -> Vec<usize> {
    items.iter().map(|&item| ends.partition_point(|&end| end as usize <= item) - 1).collect()
}

/// Lists of structs, never NULL: events and links.
pub(crate) fn finish_structs(
    element: &Arc<Field>,
    ends: Vec<i32>,
    columns: Vec<ArrayRef>,
    bad_items: &[usize],
    repaired: &mut Repaired,
) -> ArrayRef {
    let DataType::Struct(fields) = element.data_type() else { unreachable!("events and links are structs") };
    let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
    repaired.extend(rows_of(&ends, bad_items));
    let length = columns.first().map_or(0, |column| column.len());
    let items = StructArray::try_new_with_length(fields.clone(), columns, None, length);
    let items = items.unwrap_or_else(|error| unreachable!("struct columns agree in type and length: {error}"));
    Arc::new(ListArray::new(Arc::clone(element), ends, Arc::new(items), None))
}
