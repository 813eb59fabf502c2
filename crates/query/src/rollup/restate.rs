use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Date32Array, Int64Array, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options, concat_batches, interleave_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use arrow::util::display::FormatOptions;
use spanlake_schema::{ColumnType, DATE, TableSpec};

use super::windows::day_of;

/// The column that says which window a row belongs to.
pub(super) const WINDOW_START: &str = "window_start";
/// The column that counts how often a window was written.
pub(super) const REVISION: &str = "revision";

/// A stretch of a rollup's table after its dirty windows were computed anew.
#[derive(Debug)]
pub(super) struct Restatement {
    /// All its rows in order of window and keys; empty where none is left.
    pub(super) rows_left: RecordBatch,
    /// Windows whose rows changed, appeared or vanished.
    pub(super) windows: u64,
    /// Rows of those windows.
    pub(super) rows: u64,
}

/// A number that does not fit is an error, not NULL.
const EXACT: CastOptions<'static> = CastOptions { safe: false, format_options: FormatOptions::new() };

/// Brings what a rollup's SELECT returned into the shape of its table: `date` is the day of the window, `revision` is 0
/// until [`restate`] knows it.
pub(super) fn conform(spec: &TableSpec, selected: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let schema = spec.arrow_schema();
    let mut conformed = Vec::with_capacity(selected.len());
    for batch in selected {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            columns.push(match field.name().as_str() {
                DATE => Arc::new(days_of(&in_micros(column(batch, WINDOW_START)?)?)?),
                REVISION => Arc::new(Int64Array::from_value(0, batch.num_rows())),
                name => cast_with_options(column(batch, name)?, field.data_type(), &EXACT)?,
            });
        }
        conformed.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
    }
    concat_batches(&schema, &conformed)
}

/// The windows that rows belong to.
pub(super) fn window_starts(rows: &RecordBatch) -> Result<Vec<i64>, ArrowError> {
    Ok(column(rows, WINDOW_START)?.as_primitive::<TimestampMicrosecondType>().values().to_vec())
}

/// Starts of windows, which are whole milliseconds, in microseconds.
pub(super) fn in_micros(starts: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match starts.data_type() {
        DataType::Timestamp(_, Some(_)) => cast_with_options(starts, &ColumnType::Timestamp.arrow_type(), &EXACT),
        _ => Ok(Arc::clone(starts)),
    }
}

/// Checks that a window has one row for each value of the keys.
pub(super) fn check_keys(recomputed: &RecordBatch, keys: &[String]) -> Result<(), ArrowError> {
    let names = std::iter::once(WINDOW_START).chain(keys.iter().map(String::as_str));
    let columns = names.map(|name| column(recomputed, name).cloned()).collect::<Result<Vec<_>, _>>()?;
    let rows = row_converter(&columns)?.convert_columns(&columns)?;
    let mut seen = HashSet::with_capacity(rows.num_rows());
    if rows.iter().all(|row| seen.insert(row)) {
        return Ok(());
    }
    Err(ArrowError::InvalidArgumentError(format!(
        "the select returned several rows of one window with the same {}",
        keys.join(", ")
    )))
}

/// Puts the recomputed rows of the dirty windows in place of the existing ones. A window whose rows came out the same keeps
/// them and its revision; `None` where that holds for all of them, so that nothing has to be written.
///
/// Both batches have the schema of the rollup's table and rows of one day.
pub(super) fn restate(
    existing: &RecordBatch,
    recomputed: &RecordBatch,
    dirty: &BTreeSet<i64>,
) -> Result<Option<Restatement>, ArrowError> {
    let converter = row_converter(&content_columns(existing))?;
    let old = Content::of(existing, &converter)?;
    let new = Content::of(recomputed, &converter)?;
    if let Some(stray) = new.windows.keys().find(|start| !dirty.contains(start)) {
        return Err(ArrowError::InvalidArgumentError(format!(
            "the select returned window_start {stray}, which is no window it was asked for"
        )));
    }
    let changed: BTreeSet<i64> = dirty.iter().copied().filter(|start| !old.equals(&new, *start)).collect();
    if changed.is_empty() {
        return Ok(None);
    }

    let old_revisions = column(existing, REVISION)?.as_primitive::<Int64Type>();
    let mut picked: Vec<Picked<'_>> = Vec::new();
    for (_, rows) in old.windows.iter().filter(|(start, _)| !changed.contains(start)) {
        picked.extend(rows.iter().map(|&row| Picked {
            key: old.rows.row(row),
            place: (0, row),
            revision: old_revisions.value(row),
        }));
    }
    let mut written_rows = 0;
    for start in &changed {
        let old_rows = old.windows.get(start).map_or(&[][..], Vec::as_slice);
        let revision = old_rows.iter().map(|&row| old_revisions.value(row)).max().unwrap_or(0) + 1;
        for &row in new.windows.get(start).map_or(&[][..], Vec::as_slice) {
            picked.push(Picked { key: new.rows.row(row), place: (1, row), revision });
            written_rows += 1;
        }
    }
    picked.sort_by(|left, right| left.key.cmp(&right.key));
    let day = assemble(existing, recomputed, &picked)?;
    Ok(Some(Restatement { rows_left: day, windows: changed.len() as u64, rows: written_rows }))
}

/// A row of the restated day: its content to sort by, the batch and row it comes from, and its revision.
struct Picked<'a> {
    key: arrow::row::Row<'a>,
    place: (usize, usize),
    revision: i64,
}

fn assemble(
    existing: &RecordBatch,
    recomputed: &RecordBatch,
    picked: &[Picked<'_>],
) -> Result<RecordBatch, ArrowError> {
    let schema = existing.schema();
    if picked.is_empty() {
        return Ok(RecordBatch::new_empty(schema));
    }
    let places: Vec<(usize, usize)> = picked.iter().map(|row| row.place).collect();
    let day = interleave_record_batch(&[existing, recomputed], &places)?;
    let mut columns = day.columns().to_vec();
    columns[schema.index_of(REVISION)?] = Arc::new(Int64Array::from_iter_values(picked.iter().map(|row| row.revision)));
    RecordBatch::try_new(schema, columns)
}

/// The rows of a batch without their revision, comparable byte by byte, and which of them each window has.
struct Content {
    rows: Rows,
    windows: BTreeMap<i64, Vec<usize>>,
}

impl Content {
    fn of(batch: &RecordBatch, converter: &RowConverter) -> Result<Self, ArrowError> {
        let rows = converter.convert_columns(&content_columns(batch))?;
        let starts = column(batch, WINDOW_START)?.as_primitive::<TimestampMicrosecondType>();
        let mut windows: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (row, start) in starts.values().iter().enumerate() {
            windows.entry(*start).or_default().push(row);
        }
        for indices in windows.values_mut() {
            indices.sort_by(|left, right| rows.row(*left).cmp(&rows.row(*right)));
        }
        Ok(Self { rows, windows })
    }

    fn equals(&self, other: &Self, start: i64) -> bool {
        match (self.windows.get(&start), other.windows.get(&start)) {
            (None, None) => true,
            (Some(left), Some(right)) => {
                left.len() == right.len()
                    && left.iter().zip(right).all(|(&left, &right)| self.rows.row(left) == other.rows.row(right))
            }
            _ => false,
        }
    }
}

fn row_converter(columns: &[ArrayRef]) -> Result<RowConverter, ArrowError> {
    RowConverter::new(columns.iter().map(|column| SortField::new(column.data_type().clone())).collect())
}

fn content_columns(batch: &RecordBatch) -> Vec<ArrayRef> {
    let schema = batch.schema();
    let named = schema.fields().iter().zip(batch.columns());
    named.filter(|(field, _)| field.name() != REVISION).map(|(_, column)| Arc::clone(column)).collect()
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("the select returned no column {name}")))
}

fn days_of(window_starts: &ArrayRef) -> Result<Date32Array, ArrowError> {
    let starts = window_starts.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| {
        ArrowError::SchemaError(format!("window_start is {} and no timestamp", window_starts.data_type()))
    })?;
    if starts.null_count() > 0 {
        return Err(ArrowError::InvalidArgumentError("the select returned a window_start that is NULL".to_owned()));
    }
    Ok(Date32Array::from_iter_values(starts.values().iter().map(|micros| day_of(*micros))))
}

#[cfg(test)]
mod tests {
    use arrow::array::{StringArray, TimestampMicrosecondArray, new_null_array};
    use arrow::compute::cast;
    use arrow::datatypes::Date32Type;
    use spanlake_schema::model_usage::HOUR_SPEC;

    use super::*;

    const HOUR: i64 = 3_600_000_000;

    /// Window, model, requests, revision.
    type Line = (i64, Option<&'static str>, i64, i64);

    fn selected(lines: &[Line]) -> RecordBatch {
        let schema = HOUR_SPEC.arrow_schema();
        let columns: Vec<(&str, ArrayRef)> = schema
            .fields()
            .iter()
            .filter(|field| field.name() != DATE && field.name() != REVISION)
            .map(|field| {
                let values: ArrayRef = match field.name().as_str() {
                    WINDOW_START => {
                        let starts = lines.iter().map(|line| line.0 * HOUR);
                        Arc::new(TimestampMicrosecondArray::from_iter_values(starts).with_timezone("UTC"))
                    }
                    "model" => Arc::new(lines.iter().map(|line| line.1).collect::<StringArray>()),
                    _ if field.is_nullable() => new_null_array(field.data_type(), lines.len()),
                    _ => Arc::new(Int64Array::from_iter_values(lines.iter().map(|line| line.2))),
                };
                (field.name().as_str(), values)
            })
            .collect();
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, values)| (name, values, true)))
            .expect("columns of one length")
    }

    fn stored(lines: &[Line]) -> RecordBatch {
        let batch = conform(&HOUR_SPEC, &[selected(lines)]).expect("the table's columns");
        let mut columns = batch.columns().to_vec();
        columns[HOUR_SPEC.index_of(REVISION)] = Arc::new(Int64Array::from_iter_values(lines.iter().map(|line| line.3)));
        RecordBatch::try_new(batch.schema(), columns).expect("the same columns")
    }

    fn lines(batch: &RecordBatch) -> Vec<(i64, Option<String>, i64, i64)> {
        let starts = batch["window_start"].as_primitive::<TimestampMicrosecondType>();
        let models = batch["model"].as_string::<i32>();
        let requests = batch["requests"].as_primitive::<Int64Type>();
        let revisions = batch[REVISION].as_primitive::<Int64Type>();
        (0..batch.num_rows())
            .map(|row| {
                let model = models.is_valid(row).then(|| models.value(row).to_owned());
                (starts.value(row) / HOUR, model, requests.value(row), revisions.value(row))
            })
            .collect()
    }

    fn dirty(hours: &[i64]) -> BTreeSet<i64> {
        hours.iter().map(|hour| hour * HOUR).collect()
    }

    fn owned(lines: &[Line]) -> Vec<(i64, Option<String>, i64, i64)> {
        lines.iter().map(|line| (line.0, line.1.map(str::to_owned), line.2, line.3)).collect()
    }

    #[test]
    fn the_day_is_derived_and_text_views_become_text() {
        let mut batch = selected(&[(-1, Some("a"), 1, 0), (25, None, 2, 0)]);
        let index = batch.schema().index_of("model").expect("there is one");
        let mut columns = batch.columns().to_vec();
        columns[index] = cast(&columns[index], &arrow::datatypes::DataType::Utf8View).expect("text casts to views");
        batch = RecordBatch::try_from_iter_with_nullable(
            batch.schema().fields().iter().zip(columns).map(|(field, values)| (field.name(), values, true)),
        )
        .expect("columns of one length");

        let conformed = conform(&HOUR_SPEC, &[batch]).expect("the table's columns");
        assert_eq!(conformed.schema(), HOUR_SPEC.arrow_schema());
        assert_eq!(conformed[DATE].as_primitive::<Date32Type>().values(), &[-1, 1]);
        assert_eq!(lines(&conformed), owned(&[(-1, Some("a"), 1, 0), (25, None, 2, 0)]));
    }

    #[test]
    fn null_where_the_table_has_none_is_refused() {
        let batch = selected(&[(0, Some("a"), 1, 0)]);
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).map(|(field, values)| {
            let null = field.name() == "requests";
            (field.name().clone(), if null { new_null_array(values.data_type(), 1) } else { Arc::clone(values) }, true)
        });
        let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
        let error = conform(&HOUR_SPEC, &[batch]).expect_err("requests is required").to_string();
        assert!(error.contains("requests"), "{error}");
    }

    #[test]
    fn only_windows_whose_rows_differ_are_rewritten() {
        let existing = stored(&[
            (0, Some("a"), 1, 4),
            (1, None, 2, 1),
            (1, Some("a"), 3, 1),
            (2, Some("a"), 5, 7),
            (3, None, 1, 2),
        ]);
        let recomputed = stored(&[(1, Some("a"), 3, 0), (1, None, 9, 0), (2, Some("a"), 5, 0), (4, Some("b"), 1, 0)]);
        let restatement = restate(&existing, &recomputed, &dirty(&[1, 2, 3, 4])).expect("same columns");
        let restatement = restatement.expect("three windows changed");
        assert_eq!((restatement.windows, restatement.rows), (3, 3));
        assert_eq!(
            lines(&restatement.rows_left),
            owned(&[
                (0, Some("a"), 1, 4),
                (1, None, 9, 2),
                (1, Some("a"), 3, 2),
                (2, Some("a"), 5, 7),
                (4, Some("b"), 1, 1),
            ])
        );
    }

    #[test]
    fn equal_rows_in_another_order_change_nothing() {
        let existing = stored(&[(1, None, 2, 1), (1, Some("a"), 3, 1)]);
        let recomputed = stored(&[(1, Some("a"), 3, 0), (1, None, 2, 0)]);
        assert!(restate(&existing, &recomputed, &dirty(&[1, 2])).expect("same columns").is_none());
    }

    #[test]
    fn a_window_without_rows_vanishes() {
        let existing = stored(&[(1, None, 2, 1)]);
        let restatement = restate(&existing, &stored(&[]), &dirty(&[1])).expect("same columns").expect("a change");
        assert_eq!((restatement.rows_left.num_rows(), restatement.windows, restatement.rows), (0, 1, 0));
    }

    #[test]
    fn the_keys_name_one_row_of_a_window() {
        let keys = ["provider", "model"].map(str::to_owned);
        let one_each = [(0, None, 1, 0), (0, Some("a"), 1, 0), (1, None, 1, 0)];
        check_keys(&stored(&one_each), &keys).expect("no key comes twice");
        let error = check_keys(&stored(&[(0, None, 1, 0), (0, None, 2, 0)]), &keys).expect_err("NULL comes twice");
        assert!(error.to_string().contains("several rows of one window with the same provider, model"), "{error}");
    }

    #[test]
    fn a_row_outside_the_windows_asked_for_is_refused() {
        let error = restate(&stored(&[]), &stored(&[(2, None, 1, 0)]), &dirty(&[1])).expect_err("hour 2 is not dirty");
        assert!(error.to_string().contains("which is no window it was asked for"), "{error}");
    }
}
