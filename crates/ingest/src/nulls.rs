//! Columns without a value, over zeros that all of them share.
//!
//! Most columns of a request's rows have no value at all. Giving each its own zeros is a third of the memory that rows of a
//! few hundred bytes hold until they are flushed.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Decimal128Array, Float64Array, Int64Array, StringArray, new_null_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;

use crate::span_columns::ROWS_MAX;

/// Enough for the widest of values.
#[repr(align(64))]
struct Zeros([u8; (ROWS_MAX + 1) * size_of::<i128>()]);

static ZEROS: Zeros = Zeros([0; (ROWS_MAX + 1) * size_of::<i128>()]);

thread_local! {
    /// The columns made last: those of one batch are as long as each other.
    static LATELY: RefCell<Vec<ArrayRef>> = const { RefCell::new(Vec::new()) };
}

/// Types that have shared columns.
const TYPES_MAX: usize = 8;

/// A column of NULLs.
pub(crate) fn null_column(data_type: &DataType, rows: usize) -> ArrayRef {
    if rows > ROWS_MAX {
        return new_null_array(data_type, rows);
    }
    LATELY.with_borrow_mut(|lately| {
        if lately.first().is_some_and(|column| column.len() != rows) {
            lately.clear();
        }
        if let Some(column) = lately.iter().find(|column| column.data_type() == data_type) {
            return Arc::clone(column);
        }
        let column = over_zeros(data_type, rows);
        if lately.len() < TYPES_MAX {
            lately.push(Arc::clone(&column));
        }
        column
    })
}

fn over_zeros(data_type: &DataType, rows: usize) -> ArrayRef {
    // Each buffer is as long as what it is for: whoever counts memory takes it for what it would be.
    let zeros = |bytes: usize| Buffer::from(bytes::Bytes::from_static(&ZEROS.0[..bytes]));
    let nulls = Some(NullBuffer::new(BooleanBuffer::new(zeros(rows.div_ceil(8)), 0, rows)));
    match data_type {
        DataType::Int64 => Arc::new(Int64Array::new(ScalarBuffer::new(zeros(rows * 8), 0, rows), nulls)),
        DataType::Float64 => Arc::new(Float64Array::new(ScalarBuffer::new(zeros(rows * 8), 0, rows), nulls)),
        DataType::Decimal128(..) => {
            let values = ScalarBuffer::new(zeros(rows * 16), 0, rows);
            Arc::new(Decimal128Array::new(values, nulls).with_data_type(data_type.clone()))
        }
        DataType::Utf8 => {
            let ends = OffsetBuffer::new(ScalarBuffer::new(zeros((rows + 1) * 4), 0, rows + 1));
            Arc::new(StringArray::new(ends, zeros(0), nulls))
        }
        _ => new_null_array(data_type, rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_nulls_equal_those_of_arrow() {
        let types = [
            DataType::Int64,
            DataType::Float64,
            DataType::Utf8,
            DataType::Decimal128(18, 12),
            DataType::Boolean,
            spanlake_schema::ColumnType::TextList.arrow_type(),
        ];
        for data_type in &types {
            for rows in [0, 1, 7, 8, 513, ROWS_MAX, ROWS_MAX + 1] {
                let column = null_column(data_type, rows);
                assert_eq!(&column, &new_null_array(data_type, rows), "{data_type} {rows}");
                assert_eq!(column.null_count(), rows);
                column.to_data().validate_full().expect("a whole array");
            }
        }
    }

    #[test]
    fn memory_is_counted_by_what_is_used() {
        let column = null_column(&DataType::Int64, 512);
        assert_eq!(column.to_data().buffers()[0].capacity(), 512 * 8);
        assert_eq!(
            column.to_data().buffers()[0].as_ptr(),
            null_column(&DataType::Float64, 9).to_data().buffers()[0].as_ptr()
        );
    }
}
