//! Parquet segments: writer settings, encodings, statistics.
//!
//! [`encode()`] is pure CPU work; [`write()`] folds rows that add up, splits by date, encodes off the I/O runtime and
//! uploads.

mod encoder;
mod fold;
mod properties;
mod rewrite;
mod statistics;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{Array, AsArray, Date32Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::Date32Type;
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use spanlake_schema::promotion::PromotedColumn;
use spanlake_schema::{DATE, TableSpec};

pub(crate) use rewrite::SegmentFile;

use crate::delta::format_date;
use crate::error::{Error, ErrorKind, store_error};
use crate::promotion::Shape;
use crate::{AddFile, Result, Segment, Table};

/// From this size on, an object is uploaded in parts.
const MULTIPART_FROM_BYTES: usize = 16 << 20;

/// The size of a part.
const PART_BYTES: usize = 8 << 20;

/// Parts in flight at once.
const PARTS_IN_FLIGHT: usize = 4;

/// A segment in memory.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The Parquet file, in pieces that follow one another.
    pub pieces: Vec<Bytes>,
    /// Statistics for the Delta log: `numRecords`, `minValues`, `maxValues`, `nullCount`.
    pub stats: serde_json::Value,
}

impl Encoded {
    /// The size of the file.
    pub fn size_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The file in one piece: a copy.
    pub fn to_bytes(&self) -> Bytes {
        self.pieces.concat().into()
    }
}

/// Writes batches (with their partition column `date`) as one Parquet object a date and returns what to add to the
/// table. Nothing is visible before a commit names the files; files of a failed commit are orphans that a vacuum removes.
///
/// The objects are `date=YYYY-MM-DD/<name>-<n>.zstd.parquet`; `name` must not have been used in the table before.
///
/// # Errors
/// [`ErrorKind::Invalid`] where a batch does not have the table's columns.
pub async fn write(table: &Table, batches: &[RecordBatch], name: &str) -> Result<Vec<AddFile>> {
    let (spec, owned) = (table.spec(), batches.to_vec());
    let promoted = Arc::clone(&table.snapshot().promoted);
    let held = promoted_names(&promoted);
    let encoded = tokio::task::spawn_blocking(move || -> Result<Vec<(i32, Encoded)>> {
        let folded = fold::fold(spec, owned)?;
        let parts = split_by_date(spec, &folded)?;
        drop(folded);
        parts.into_iter().map(|(date, batches)| Ok((date, encode_with(spec, &promoted, &batches)?))).collect()
    })
    .await
    .map_err(|error| Error::new(ErrorKind::Retry, format!("encoding of segment {name} ended")).with_source(error))??;
    let mut files = Vec::with_capacity(encoded.len());
    for (number, (date, encoded)) in encoded.into_iter().enumerate() {
        let segment = Segment {
            size_bytes: encoded.size_bytes(),
            date: Some(date),
            modification_time_ms: table.store().ambient().now_unix_micro() / 1_000,
            stats: Some(Arc::new(encoded.stats)),
            promoted: held.clone(),
            path: path(date, name, number),
        };
        upload(table, &segment.path, encoded.pieces).await?;
        files.push(AddFile { segment });
    }
    Ok(files)
}

/// The names of promoted columns as a segment has them.
pub(crate) fn promoted_names(promoted: &[PromotedColumn]) -> Option<Arc<str>> {
    let names: Vec<&str> = promoted.iter().map(|column| column.name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(",").into())
}

/// Where the segment of a date lies below its table.
pub(crate) fn path(date: i32, name: &str, number: usize) -> String {
    format!("{DATE}={}/{name}-{number}.zstd.parquet", format_date(date))
}

/// Puts a segment's bytes where its path says. To put the same bytes again changes nothing.
pub(crate) async fn upload(table: &Table, path: &str, pieces: Vec<Bytes>) -> Result<()> {
    let objects = table.store().object_store();
    let path = table.object_path(path)?;
    let size: usize = pieces.iter().map(Bytes::len).sum();
    let uploaded = if size < MULTIPART_FROM_BYTES || table.store().local_root().is_some() {
        objects.put(&path, PutPayload::from_iter(pieces)).await.map(|_| ())
    } else {
        upload_in_parts(objects.as_ref(), &path, pieces).await
    };
    uploaded.map_err(|source| store_error("write", &path, source))
}

async fn upload_in_parts(
    objects: &dyn ObjectStore,
    path: &object_store::path::Path,
    pieces: Vec<Bytes>,
) -> object_store::Result<()> {
    let upload = objects.put_multipart_opts(path, object_store::PutMultipartOptions::default()).await?;
    let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
    for mut rest in pieces {
        while !rest.is_empty() {
            parts.wait_for_capacity(PARTS_IN_FLIGHT).await?;
            parts.put(rest.split_to(rest.len().min(PART_BYTES)));
        }
    }
    parts.finish().await?;
    Ok(())
}

/// Encodes batches of one date (the column `date` included; it is left out of the file) as one Parquet file.
///
/// # Errors
/// [`ErrorKind::Invalid`] where a batch does not have the table's columns.
pub fn encode(spec: &TableSpec, batches: &[RecordBatch]) -> Result<Encoded> {
    encode_with(spec, &[], batches)
}

/// As [`encode()`], with columns promoted from the rows' attributes behind those of the table.
///
/// # Errors
/// As [`encode()`].
pub fn encode_with(spec: &TableSpec, promoted: &[PromotedColumn], batches: &[RecordBatch]) -> Result<Encoded> {
    let shape = Shape { spec, promoted };
    let filled = |batch: &RecordBatch| check_columns(spec, batch).and_then(|()| shape.fill(batch));
    let batches = batches.iter().map(filled).collect::<Result<Vec<_>>>()?;
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let pieces = encoder::encode(shape, &batches)?;
    Ok(Encoded { pieces, stats: statistics::of(shape, &batches, rows) })
}

fn check_columns(spec: &TableSpec, batch: &RecordBatch) -> Result<()> {
    let schema = batch.schema();
    let refused = |what: String| Err(Error::new(ErrorKind::Invalid, format!("a batch for table {} {what}", spec.name)));
    if schema.fields().len() != spec.columns.len() {
        return refused(format!("has {} columns instead of {}", schema.fields().len(), spec.columns.len()));
    }
    for (field, column) in schema.fields().iter().zip(spec.columns) {
        if field.name() != column.name || *field.data_type() != column.column_type.arrow_type() {
            let (found, of) = (field.name(), field.data_type());
            return refused(format!("has column {found} of type {of} in the place of {}", column.name));
        }
    }
    Ok(())
}

/// The batches of each date, in order of date. A batch of one date is passed on as it is.
pub(crate) fn split_by_date(spec: &TableSpec, batches: &[RecordBatch]) -> Result<Vec<(i32, Vec<RecordBatch>)>> {
    let mut parts = std::collections::BTreeMap::<i32, Vec<RecordBatch>>::new();
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        check_columns(spec, batch)?;
        let dates = batch.column(spec.index_of(DATE)).as_primitive::<Date32Type>();
        if dates.null_count() > 0 {
            let what = format!("a batch for table {} has rows without a date", spec.name);
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let first = dates.value(0);
        if dates.values().iter().all(|date| *date == first) {
            parts.entry(first).or_default().push(batch.clone());
            continue;
        }
        for (date, rows) in rows_by_date(dates) {
            let part = take_record_batch(batch, &rows).map_err(|source| {
                let what = format!("cannot split a batch for table {} by date", spec.name);
                Error::new(ErrorKind::Invalid, what).with_source(source)
            })?;
            parts.entry(date).or_default().push(part);
        }
    }
    Ok(parts.into_iter().collect())
}

fn rows_by_date(dates: &Date32Array) -> std::collections::BTreeMap<i32, UInt32Array> {
    let mut rows = std::collections::BTreeMap::<i32, Vec<u32>>::new();
    for (row, date) in (0_u32..).zip(dates.values()) {
        rows.entry(*date).or_default().push(row);
    }
    rows.into_iter().map(|(date, rows)| (date, UInt32Array::from(rows))).collect()
}
