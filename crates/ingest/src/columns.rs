//! Plain columns that grow row by row and become Arrow arrays without a copy.
//!
//! A column is only touched by rows that have a value for it: [`Text::set`] and its kin fill the gap since the last
//! value with NULLs. Most of the ninety columns of `spans` are NULL in most rows, so this is most of their cost.
//! UTF-8 is checked once a column, when it is finished.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, MapArray, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;

use crate::lists::rows_of;
use crate::nulls::null_column;

/// One bit a row: whether the row has a value. No bits are kept as long as all rows have one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Present {
    bits: Vec<u8>,
    pub(crate) count: usize,
}

impl Present {
    #[inline]
    pub(crate) fn set(&mut self, row: usize) {
        if self.bits.is_empty() && row == self.count {
            self.count += 1;
        } else {
            self.set_bit(row);
        }
    }

    fn set_bit(&mut self, row: usize) {
        self.spell_out();
        let byte = row / 8;
        if byte >= self.bits.len() {
            self.bits.resize(byte + 1, 0);
        }
        self.bits[byte] |= 1 << (row % 8);
        self.count += 1;
    }

    /// Makes bits of "all rows so far".
    fn spell_out(&mut self) {
        if self.bits.is_empty() {
            self.bits.resize(self.count / 8, u8::MAX);
            if !self.count.is_multiple_of(8) {
                self.bits.push((1 << (self.count % 8)) - 1);
            }
        }
    }

    fn has(&self, row: usize) -> bool {
        match self.bits.get(row / 8) {
            Some(byte) => byte >> (row % 8) & 1 == 1,
            None => self.bits.is_empty() && row < self.count,
        }
    }

    /// Sets these many rows from one on.
    fn set_run(&mut self, row: usize, rows: usize) {
        if self.bits.is_empty() && row == self.count {
            self.count += rows;
        } else {
            (row..row + rows).for_each(|row| self.set_bit(row));
        }
    }

    pub(crate) fn finish(mut self, rows: usize) -> Option<NullBuffer> {
        if self.count == rows {
            return None;
        }
        self.spell_out();
        self.bits.resize(rows.div_ceil(8), 0);
        let bits = BooleanBuffer::new(Buffer::from_vec(self.bits), 0, rows);
        Some(NullBuffer::new(bits))
    }
}

/// Text, or NULL.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    data: Vec<u8>,
    ends: Vec<i32>,
    present: Present,
    /// Rows to make room for with the first value.
    rows_hint: usize,
}

/// Room that a column gets with its first value, in bytes at most.
const FIRST_ROOM_BYTES: usize = 4096;

/// Where invalid UTF-8 was replaced: indices of values.
pub(crate) type Repaired = Vec<usize>;

impl Text {
    pub(crate) fn with_capacity(rows: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self { data: Vec::with_capacity(bytes), ends, present: Present::default(), rows_hint: rows }
    }

    /// A column that takes no memory before its first value, and then room for about so many rows.
    pub(crate) fn sparse(rows_hint: usize) -> Self {
        Self { rows_hint, ..Self::default() }
    }

    /// Makes room for so many bytes.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.data.reserve(bytes);
    }

    /// Values so far, NULLs included.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.ends.len().saturating_sub(1)
    }

    #[inline]
    fn pad(&mut self, row: usize) {
        if self.ends.len() <= row {
            self.fill(row);
        }
    }

    #[cold]
    fn fill(&mut self, row: usize) {
        if self.ends.is_empty() {
            self.ends.reserve(self.rows_hint.max(row) + 2);
        }
        let end = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(row + 1, end);
    }

    /// Rows of a column tend to be as long as the first.
    #[cold]
    fn make_room(&mut self, bytes: usize) {
        self.data.reserve((bytes * self.rows_hint).min(FIRST_ROOM_BYTES));
    }

    #[inline]
    fn close(&mut self) {
        self.ends.push(self.data.len() as i32);
    }

    /// Sets the value of a row beyond all rows set before.
    #[inline]
    pub(crate) fn set(&mut self, row: usize, value: &[u8]) {
        self.pad(row);
        if self.data.capacity() == 0 {
            self.make_room(value.len());
        }
        self.data.extend_from_slice(value);
        self.close();
        self.present.set(row);
    }

    /// Sets the value of a row to what `write` appends.
    #[inline]
    pub(crate) fn set_with(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.pad(row);
        write(&mut self.data);
        self.close();
        self.present.set(row);
    }

    /// Sets the value of a row to what `write` appends, or to NULL where it returns false.
    pub(crate) fn try_set_with<E>(
        &mut self,
        row: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.pad(row);
        if write(&mut self.data)? {
            self.close();
            self.present.set(row);
        }
        Ok(())
    }

    /// Appends a value.
    #[inline]
    pub(crate) fn push(&mut self, value: &[u8]) {
        let row = self.len();
        self.set(row, value);
    }

    /// A value set before; `None` for NULL.
    fn get(&self, row: usize) -> Option<&[u8]> {
        self.present.has(row).then(|| &self.data[self.ends[row] as usize..self.ends[row + 1] as usize])
    }

    /// Appends all values of another column, their bytes in one copy.
    fn append(&mut self, other: &Text) {
        let rows = self.len();
        self.pad(rows);
        let base = self.data.len() as i32;
        self.data.extend_from_slice(&other.data);
        self.ends.extend(other.ends.iter().skip(1).map(|end| base + end));
        if other.present.count == other.len() {
            self.present.set_run(rows, other.len());
        } else {
            for row in 0..other.len() {
                if other.present.has(row) {
                    self.present.set(rows + row);
                }
            }
        }
    }

    pub(crate) fn finish_string(mut self, rows: usize, repaired: &mut Repaired) -> StringArray {
        self.pad(rows);
        let nulls = self.present.finish(rows);
        let ends = OffsetBuffer::new(ScalarBuffer::from(fitting(self.ends)));
        let data = Buffer::from_vec(fitting(self.data));
        match StringArray::try_new(ends.clone(), data.clone(), nulls.clone()) {
            Ok(array) => array,
            Err(_) => repair(&ends, &data, nulls.as_ref(), repaired),
        }
    }

    pub(crate) fn finish(self, rows: usize, repaired: &mut Repaired) -> ArrayRef {
        if self.present.count == 0 {
            return null_column(&DataType::Utf8, rows);
        }
        Arc::new(self.finish_string(rows, repaired))
    }

    /// A column that has a value in every row, however few the rows.
    pub(crate) fn finish_required(self, rows: usize, repaired: &mut Repaired) -> ArrayRef {
        Arc::new(self.finish_string(rows, repaired))
    }
}

/// Rows are held until they are flushed: room that was not needed is given back.
fn fitting<T>(mut values: Vec<T>) -> Vec<T> {
    if values.capacity() > values.len() * 2 {
        values.shrink_to_fit();
    }
    values
}

/// The slow path: values with invalid UTF-8 get U+FFFD in place of what is invalid.
#[cold]
fn repair(ends: &OffsetBuffer<i32>, data: &[u8], nulls: Option<&NullBuffer>, repaired: &mut Repaired) -> StringArray {
    let values = ends.windows(2).enumerate().map(|(index, pair)| {
        if nulls.is_some_and(|nulls| nulls.is_null(index)) {
            return None;
        }
        let text = String::from_utf8_lossy(&data[pair[0] as usize..pair[1] as usize]);
        if matches!(text, std::borrow::Cow::Owned(_)) {
            repaired.push(index);
        }
        Some(text)
    });
    values.collect()
}

/// Values of a fixed width, or NULL.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fixed<T> {
    values: Vec<T>,
    present: Present,
    /// Rows to make room for with the first value.
    rows_hint: usize,
}

impl<T: Copy + Default> Fixed<T> {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self { values: Vec::with_capacity(rows), ..Self::sparse(rows) }
    }

    /// A column that takes no memory before its first value, and then room for about so many rows.
    pub(crate) fn sparse(rows_hint: usize) -> Self {
        Self { rows_hint, values: Vec::new(), present: Present::default() }
    }

    /// Sets the value of a row beyond all rows set before.
    #[inline]
    pub(crate) fn set(&mut self, row: usize, value: T) {
        if self.values.len() < row || self.values.capacity() == 0 {
            self.fill(row);
        }
        self.values.push(value);
        self.present.set(row);
    }

    #[cold]
    fn fill(&mut self, row: usize) {
        if self.values.is_empty() {
            self.values.reserve(self.rows_hint.max(row) + 1);
        }
        self.values.resize(row, T::default());
    }

    /// Changes the value of a row set before.
    pub(crate) fn update(&mut self, row: usize, change: impl FnOnce(T) -> T) {
        if let Some(value) = self.values.get_mut(row) {
            *value = change(*value);
        }
    }

    fn parts(mut self, rows: usize) -> (Vec<T>, Option<NullBuffer>) {
        self.values.resize(rows, T::default());
        let nulls = self.present.finish(rows);
        (fitting(self.values), nulls)
    }
}

impl Fixed<i64> {
    pub(crate) fn finish(self, rows: usize) -> ArrayRef {
        if self.present.count == 0 {
            return null_column(&DataType::Int64, rows);
        }
        let (values, nulls) = self.parts(rows);
        Arc::new(Int64Array::new(values.into(), nulls))
    }

    /// A column that has a value in every row, however few the rows.
    pub(crate) fn finish_required(self, rows: usize) -> ArrayRef {
        let (values, nulls) = self.parts(rows);
        Arc::new(Int64Array::new(values.into(), nulls))
    }

    pub(crate) fn finish_timestamp(self, rows: usize) -> ArrayRef {
        let (values, nulls) = self.parts(rows);
        Arc::new(TimestampMicrosecondArray::new(values.into(), nulls).with_timezone("UTC"))
    }
}

impl Fixed<f64> {
    pub(crate) fn finish(self, rows: usize) -> ArrayRef {
        if self.present.count == 0 {
            return null_column(&DataType::Float64, rows);
        }
        let (values, nulls) = self.parts(rows);
        Arc::new(Float64Array::new(values.into(), nulls))
    }
}

impl Fixed<bool> {
    pub(crate) fn finish(self, rows: usize) -> ArrayRef {
        let (values, nulls) = self.parts(rows);
        Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls))
    }
}

impl Fixed<i128> {
    /// `DECIMAL(18,12)`: values are units of 1e-12.
    pub(crate) fn finish_usd(self, rows: usize) -> ArrayRef {
        let data_type = spanlake_schema::ColumnType::Usd.arrow_type();
        if self.present.count == 0 {
            return null_column(&data_type, rows);
        }
        let (values, nulls) = self.parts(rows);
        Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(data_type))
    }
}

/// Attribute keys and values of rows, or NULL.
#[derive(Clone, Debug)]
pub(crate) struct TextMap {
    keys: Text,
    values: Text,
    ends: Vec<i32>,
    present: Present,
}

impl Default for TextMap {
    fn default() -> Self {
        Self::sparse(0)
    }
}

/// Entries of a map, for sizing columns. Wrong guesses cost a reallocation.
const ENTRIES_GUESS: usize = 4;

impl TextMap {
    /// A map that takes no memory for entries before the first, and then room for about so many rows.
    pub(crate) fn sparse(rows_hint: usize) -> Self {
        let mut ends = Vec::with_capacity(rows_hint + 1);
        ends.push(0);
        let entries = rows_hint * ENTRIES_GUESS;
        Self { keys: Text::sparse(entries), values: Text::sparse(entries), ends, present: Present::default() }
    }

    /// Appends a key; its value must follow.
    #[inline]
    pub(crate) fn push_key(&mut self, key: &[u8]) {
        self.keys.push(key);
    }

    /// Appends the value that `write` appends, or NULL where it returns false.
    #[inline]
    pub(crate) fn push_value_with<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<bool, E>) -> Result<(), E> {
        let row = self.values.len();
        self.values.pad(row);
        if write(&mut self.values.data)? {
            self.values.present.set(row);
        }
        self.values.close();
        Ok(())
    }

    /// Ends the map of a row beyond all rows set before.
    #[inline]
    pub(crate) fn close(&mut self, row: usize) {
        let before = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(row + 1, before);
        self.ends.push(self.keys.len() as i32);
        self.present.set(row);
    }

    /// Entries so far.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The entries from this one on: keys and values, NULL as `None`.
    pub(crate) fn entries_from(&self, first: usize) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        (first..self.len()).map(|at| (self.keys.get(at).unwrap_or_default(), self.values.get(at)))
    }

    /// Appends the entries of a map of one row and ends the row.
    pub(crate) fn set_copy(&mut self, row: usize, template: &TextMap) {
        self.keys.append(&template.keys);
        self.values.append(&template.values);
        self.close(row);
    }

    /// What a row takes that [`TextMap::set_copy`] makes of this map of one row.
    pub(crate) fn copy_bytes(&self) -> usize {
        const OFFSETS_BYTES: usize = 8;
        self.keys.data.len() + self.values.data.len() + OFFSETS_BYTES * self.keys.len()
    }

    /// The map array, never shorter than the rows set.
    pub(crate) fn finish(mut self, rows: usize, repaired: &mut Repaired) -> MapArray {
        let end = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(rows + 1, end);
        let ends = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        let entries = self.keys.len();
        let mut bad = Repaired::new();
        let keys = self.keys.finish_string(entries, &mut bad);
        let values = self.values.finish_string(entries, &mut bad);
        repaired.extend(rows_of(&ends, &bad));
        let DataType::Map(field, _) = spanlake_schema::ColumnType::TextMap.arrow_type() else {
            unreachable!("a text map is a map")
        };
        let DataType::Struct(fields) = field.data_type() else { unreachable!("map entries are structs") };
        let entries = StructArray::new(fields.clone(), vec![Arc::new(keys), Arc::new(values)], None);
        MapArray::new(Arc::clone(&field), ends, entries, self.present.finish(rows), false)
    }
}
