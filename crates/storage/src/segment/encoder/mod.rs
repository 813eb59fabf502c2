//! An encoder of Parquet files for the tables of this store.
//!
//! ```text
//! batches ─► leaves (leaves.rs): levels, slots ─► values (values.rs, dictionary.rs) ─► pages (page.rs) ─► chunk (chunk.rs)
//!                                                                         every chunk ─► row group, footer: crate parquet (file.rs)
//! ```
//!
//! **Why it exists.** Encoding is the largest part of ingest. The `parquet` crate writes any file; this one writes ours: a
//! column without values costs a page of a few bytes, texts are copied whole instead of value by value, memory serves for
//! one column after the other, and columns are encoded side by side. Files are ordinary ones: everything is read back by
//! that crate in tests, and by other people's readers in the client tests.
//!
//! **What is written.** Data pages of version 1, compressed with zstd. Integers, times and decimals of up to 18 digits are
//! DELTA_BINARY_PACKED, doubles BYTE_STREAM_SPLIT, texts dictionaries or, where they hardly repeat, DELTA_LENGTH_BYTE_ARRAY.

mod bits;
mod bounds;
mod chunk;
mod dictionary;
mod file;
mod leaves;
mod page;
mod values;
pub(in crate::segment) mod widen;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use bytes::Bytes;
use parking_lot::Mutex;
use parquet::arrow::ArrowSchemaConverter;
use parquet::errors::ParquetError;
use parquet::schema::types::SchemaDescriptor;
use spanlake_schema::{DATE, TableSpec};

use super::properties::{self, ROW_GROUP_ROWS};
use crate::promotion::Shape;
use crate::{Error, ErrorKind, Result};
pub(in crate::segment) use chunk::Settings;
use chunk::{Chunk, Encoder};
use file::FileInPieces;
pub(in crate::segment) use leaves::Leaf;

/// From this many rows on, columns are encoded side by side.
const SIDE_BY_SIDE_ROWS: usize = 4096;
/// Threads for that: a flush is not all that a machine has to do.
const THREADS_MAX: usize = 4;

/// Encodes batches that have the table's columns as one file, given in pieces.
pub(super) fn encode(shape: Shape<'_>, batches: &[RecordBatch]) -> Result<Vec<Bytes>> {
    let failed = |source: ParquetError| {
        let what = format!("cannot encode a segment of table {}", shape.spec.name);
        Error::new(ErrorKind::Invalid, what).with_source(source)
    };
    let schema = ArrowSchemaConverter::new().convert(&shape.file_schema()).map_err(failed)?;
    let mut file = FileInPieces::new(schema.root_schema_ptr(), properties::writer_properties()).map_err(failed)?;
    let leaves = leaves_of(&shape.arrow_schema());
    for group in row_groups(batches, ROW_GROUP_ROWS) {
        let chunks = encode_group(shape.spec, &schema, &leaves, &group)?;
        file.append_row_group(chunks).map_err(failed)?;
    }
    file.finish().map_err(failed)
}

fn leaves_of(schema: &Schema) -> Vec<Leaf> {
    let columns = schema.fields().iter().enumerate().filter(|(_, field)| field.name() != DATE);
    columns.flat_map(|(index, field)| Leaf::of(index, field)).collect()
}

/// The batches by row group, each of at most so many rows.
pub(super) fn row_groups(batches: &[RecordBatch], limit_rows: usize) -> Vec<Vec<RecordBatch>> {
    let mut groups = vec![Vec::new()];
    let mut rows = 0;
    for batch in batches {
        let mut from = 0;
        while from < batch.num_rows() {
            if rows == limit_rows {
                groups.push(Vec::new());
                rows = 0;
            }
            let taken = (batch.num_rows() - from).min(limit_rows - rows);
            groups.last_mut().expect("there is a group from the start").push(batch.slice(from, taken));
            (from, rows) = (from + taken, rows + taken);
        }
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Encodes all leaves, the largest first, so that no thread is left with it at the end.
fn encode_group(
    spec: &TableSpec,
    schema: &SchemaDescriptor,
    leaves: &[Leaf],
    batches: &[RecordBatch],
) -> Result<Vec<Chunk>> {
    let width = batches.first().map_or(0, RecordBatch::num_columns);
    let columns: Vec<Vec<ArrayRef>> =
        (0..width).map(|index| batches.iter().map(|batch| Arc::clone(batch.column(index))).collect()).collect();
    let bytes = |leaf: &Leaf| -> usize {
        columns[leaf.column].iter().map(|column| values::bytes_of(&leaf.reach(column, 0..column.len()))).sum()
    };
    let mut order: Vec<(usize, usize)> = leaves.iter().map(bytes).zip(0..).collect();
    order.sort_unstable_by_key(|(bytes, index)| (std::cmp::Reverse(*bytes), *index));
    let next = AtomicUsize::new(0);
    let chunks: Mutex<Vec<Option<Chunk>>> = Mutex::new(leaves.iter().map(|_| None).collect());
    let work = || -> Result<()> {
        let mut encoder = Encoder::take()?;
        while let Some((_, index)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let leaf = &leaves[*index];
            let settings = properties::settings_of(spec, leaf);
            let chunk = encoder.chunk(leaf, &schema.column(*index), &columns[leaf.column], settings)?;
            chunks.lock()[*index] = Some(chunk);
        }
        encoder.give_back();
        Ok(())
    };
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if rows < SIDE_BY_SIDE_ROWS || cores == 1 {
        work()?;
    } else {
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..cores.min(THREADS_MAX)).map(|_| scope.spawn(work)).collect();
            let own = work();
            let panicked = |_| Err(Error::new(ErrorKind::Retry, "a thread that encoded a segment panicked"));
            others.into_iter().map(|other| other.join().unwrap_or_else(panicked)).fold(own, Result::and)
        })?;
    }
    let chunks = chunks.into_inner();
    chunks
        .into_iter()
        .map(|chunk| chunk.ok_or_else(|| Error::new(ErrorKind::Invalid, "a column of a segment was not encoded")))
        .collect()
}
