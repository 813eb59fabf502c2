//! Folding: rows of a table whose numbers add up, made one where they are equal in everything else.
//!
//! A request adds a row or a few to such a table ([`TableSpec::sums`]); a segment needs one for each key. Folding changes no
//! sum, so that it may happen anywhere between the log and the commit, or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use spanlake_schema::TableSpec;

use crate::{Error, ErrorKind, Result};

/// The rows of some batches of a table, folded where its numbers add up. CPU work.
///
/// # Errors
/// [`ErrorKind::Invalid`] where a batch does not have the table's columns.
pub(super) fn fold(spec: &TableSpec, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    if spec.sums.is_empty() || batches.iter().map(RecordBatch::num_rows).sum::<usize>() < 2 {
        return Ok(batches);
    }
    let folded = fold_into_one(spec, &batches).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("cannot fold rows of table {}", spec.name)).with_source(error)
    })?;
    Ok(vec![folded])
}

fn fold_into_one(spec: &TableSpec, batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let batch = concat_batches(&spec.arrow_schema(), batches)?;
    let adds_up = |name: &str| spec.sums.contains(&name);
    let keys: Vec<ArrayRef> = spec
        .columns
        .iter()
        .zip(batch.columns())
        .filter(|(column, _)| !adds_up(column.name))
        .map(|(_, array)| Arc::clone(array))
        .collect();
    let converter = RowConverter::new(keys.iter().map(|key| SortField::new(key.data_type().clone())).collect())?;
    let rows = converter.convert_columns(&keys)?;
    let (mut groups, mut firsts) = (HashMap::new(), Vec::new());
    let group_of: Vec<usize> = (0..batch.num_rows())
        .map(|row| {
            *groups.entry(rows.row(row)).or_insert_with(|| {
                firsts.push(row as u32);
                firsts.len() - 1
            })
        })
        .collect();
    let folded = take_record_batch(&batch, &UInt32Array::from(firsts))?;
    let mut columns = folded.columns().to_vec();
    for name in spec.sums {
        let index = spec.index_of(name);
        let mut sums = vec![0_i64; folded.num_rows()];
        for (group, number) in group_of.iter().zip(batch.column(index).as_primitive::<Int64Type>().values()) {
            sums[*group] = sums[*group].checked_add(*number).ok_or_else(|| {
                ArrowError::ArithmeticOverflow(format!("the sum of column {name} does not fit into 64 bits"))
            })?;
        }
        columns[index] = Arc::new(Int64Array::from(sums));
    }
    RecordBatch::try_new(folded.schema(), columns)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, StringArray, TimestampMicrosecondArray};
    use spanlake_schema::{ledger, spans};

    use super::*;

    type Row<'a> = (i32, i64, Option<&'a str>, &'a str, i64);

    /// Rows whose numbers are `n`, `n + 1`, ….
    fn batch(rows: &[Row<'_>]) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Date32Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC")),
            Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| Some(row.3)).collect::<StringArray>()),
        ];
        for at in 0..ledger::SPEC.sums.len() as i64 {
            columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.4 + at))));
        }
        RecordBatch::try_new(ledger::SPEC.arrow_schema(), columns).unwrap()
    }

    #[test]
    fn rows_of_equal_keys_become_one_and_null_is_a_key() {
        let batches = vec![
            batch(&[(1, 60, Some("a"), "traces", 1), (1, 60, None, "traces", 10), (1, 60, Some(""), "traces", 5)]),
            batch(&[(1, 60, Some("a"), "logs", 7)]),
            batch(&[(1, 60, None, "traces", 20), (1, 60, Some("a"), "traces", 2), (2, 60, Some("a"), "traces", 9)]),
        ];
        let folded = fold(&ledger::SPEC, batches).unwrap();
        let numbers = |at: usize| folded[0].column(4 + at).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!((folded.len(), numbers(0)), (1, vec![3, 30, 5, 7, 9]));
        assert_eq!(numbers(7), vec![3 + 14, 30 + 14, 5 + 7, 7 + 7, 9 + 7]);
        let again = fold(&ledger::SPEC, folded.clone()).unwrap();
        assert_eq!(again, folded);
    }

    #[test]
    fn a_sum_beyond_64_bits_is_an_error_and_other_tables_are_left_alone() {
        let huge = batch(&[(1, 60, None, "traces", i64::MAX - 7), (1, 60, None, "traces", i64::MAX - 7)]);
        let error = fold(&ledger::SPEC, vec![huge.clone()]).unwrap_err();
        assert!(error.to_string().contains("table ledger"), "{error}");
        assert_eq!(fold(&spans::SPEC, vec![huge.clone(), huge.clone()]).unwrap(), vec![huge.clone(), huge]);
    }
}
