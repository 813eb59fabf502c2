//! Segments that lack promoted columns, written again with them.
//!
//! Nothing else changes: the columns that are there are copied as they stand in the file, in the order of its rows, so that
//! whatever wrote them is read as before.

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use serde_json::Value;
use spanlake_schema::TableSpec;

use super::encoder::widen::{Column, widen};
use super::{Encoded, statistics};
use crate::promotion::{Shape, columns_of};
use crate::{Error, ErrorKind, Result};

/// Rows whose attributes are looked at together.
const BATCH_ROWS: usize = 8192;

/// A segment's file, of which the maps of attributes are read.
pub(crate) struct SegmentFile {
    bytes: Bytes,
    spec: &'static TableSpec,
    metadata: ArrowReaderMetadata,
}

impl SegmentFile {
    /// # Errors
    /// [`ErrorKind::Invalid`] where it is no Parquet file.
    pub(crate) fn open(spec: &'static TableSpec, bytes: Bytes) -> Result<Self> {
        // What other writers say of Arrow types beside the file's own is not needed to copy them.
        let options =
            ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&bytes, options).map_err(|source| unreadable(spec, source))?;
        Ok(Self { bytes, spec, metadata })
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> usize {
        let groups = self.metadata.metadata().row_groups();
        groups.iter().map(|group| usize::try_from(group.num_rows()).unwrap_or(0)).sum()
    }

    fn groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// Calls for the rows of a row group, of which only the maps of attributes are there. CPU work.
    fn for_each_batch(&self, group: usize, mut see: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), self.metadata.clone());
        let maps = self.spec.attributes.iter().flat_map(|(map, types)| [*map, *types]);
        let mask = ProjectionMask::columns(builder.parquet_schema(), maps);
        let builder = builder.with_projection(mask).with_row_groups(vec![group]).with_batch_size(BATCH_ROWS);
        for batch in builder.build().map_err(|source| unreadable(self.spec, source))? {
            let batch = batch.map_err(|source| unreadable(self.spec, ParquetError::from(source)))?;
            see(&batch)?;
        }
        Ok(())
    }

    /// Calls for all rows, as [`SegmentFile::promoted`] sees them. CPU work.
    pub(crate) fn for_each(&self, mut see: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        (0..self.groups()).try_for_each(|group| self.for_each_batch(group, &mut see))
    }

    /// The file with the promoted columns of a shape, and the statistics of the log for it. CPU work.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the file cannot be read.
    pub(crate) fn promoted(&self, shape: Shape<'_>, stats: Option<&Value>) -> Result<Encoded> {
        let mut groups: Vec<Vec<Column>> = Vec::with_capacity(self.groups());
        for group in 0..self.groups() {
            let mut columns = vec![Column::new(); shape.promoted.len()];
            self.for_each_batch(group, |batch| {
                let arrays = columns_of(shape.spec, shape.promoted, batch)?;
                columns.iter_mut().zip(arrays).for_each(|(column, array)| column.push(array));
                Ok(())
            })?;
            groups.push(columns);
        }
        let pieces = widen(shape, &self.bytes, self.metadata.metadata(), &groups)?;
        let promoted = shape.promoted.iter().enumerate().map(|(place, column)| {
            let arrays = groups.iter().flat_map(|columns| &columns[place]);
            (column.name.as_str(), arrays.collect::<Vec<_>>())
        });
        let stats = statistics::with(stats, self.rows(), promoted);
        Ok(Encoded { pieces, stats })
    }
}

fn unreadable(spec: &TableSpec, source: ParquetError) -> Error {
    Error::new(ErrorKind::Invalid, format!("cannot read a segment of table {}", spec.name)).with_source(source)
}
