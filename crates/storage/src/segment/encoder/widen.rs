//! A file whose promoted columns are made anew: they are encoded, all others are copied byte for byte.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::Schema;
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::{SchemaDescriptor, Type};
use spanlake_schema::promotion::is_same_column;

use super::chunk::{Chunk, Encoder};
use super::file::FileInPieces;
use super::leaves::Leaf;
use crate::promotion::{Shape, fields_of};
use crate::segment::properties;
use crate::{Error, ErrorKind, Result};

/// Arrays that follow one another.
pub(in crate::segment) type Column = Vec<ArrayRef>;

/// The file with the promoted columns of a shape, which are given by row group, behind those it has otherwise.
pub(in crate::segment) fn widen(
    shape: Shape<'_>,
    file: &Bytes,
    metadata: &ParquetMetaData,
    groups: &[Vec<Column>],
) -> Result<Vec<Bytes>> {
    let failed = |source: ParquetError| {
        let what = format!("cannot copy a segment of table {}", shape.spec.name);
        Error::new(ErrorKind::Invalid, what).with_source(source)
    };
    let old = metadata.file_metadata().schema_descr();
    let is_promoted = |name: &str| shape.promoted.iter().any(|column| is_same_column(&column.name, name));
    let kept: Vec<usize> =
        (0..old.num_columns()).filter(|column| !is_promoted(old.get_column_root(*column).name())).collect();
    let fields: Vec<_> = fields_of(shape.promoted).collect();
    let new = ArrowSchemaConverter::new().convert(&Schema::new(fields.clone())).map_err(failed)?;
    let root = old.root_schema();
    let own = root.get_fields().iter().filter(|field| !is_promoted(field.name()));
    let types = own.chain(new.root_schema().get_fields()).cloned().collect();
    let root = Type::group_type_builder(root.name()).with_fields(types).build().map_err(failed)?;
    let schema = SchemaDescriptor::new(Arc::new(root));

    let mut widened = FileInPieces::new(schema.root_schema_ptr(), properties::writer_properties()).map_err(failed)?;
    let mut encoder = Encoder::take()?;
    for (group, columns) in groups.iter().enumerate() {
        let mut chunks = kept
            .iter()
            .map(|column| copied(file, metadata, group, *column))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        for (place, (field, column)) in fields.iter().zip(columns).enumerate() {
            for leaf in Leaf::of(shape.spec.columns.len() + place, field) {
                let settings = properties::settings_of(shape.spec, &leaf);
                chunks.push(encoder.chunk(&leaf, &schema.column(kept.len() + place), column, settings)?);
            }
        }
        widened.append_row_group(chunks).map_err(failed)?;
    }
    encoder.give_back();
    widened.finish().map_err(failed)
}

/// A column chunk as it is, with its statistics, its page index and its Bloom filter.
fn copied(file: &Bytes, metadata: &ParquetMetaData, group: usize, column: usize) -> Result<Chunk, ParquetError> {
    let (row_group, outside) =
        (metadata.row_group(group), || ParquetError::General("a column lies outside of its file".to_owned()));
    let chunk = row_group.column(column);
    let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
    let start = usize::try_from(start).map_err(|_| outside())?;
    let length = usize::try_from(chunk.compressed_size()).map_err(|_| outside())?;
    let end = start.checked_add(length).filter(|end| *end <= file.len()).ok_or_else(outside)?;
    let close = ColumnCloseResult {
        bytes_written: length as u64,
        rows_written: u64::try_from(row_group.num_rows()).map_err(|_| outside())?,
        metadata: chunk.clone(),
        bloom_filter: Sbbf::read_from_column_chunk(chunk, file)?,
        column_index: metadata.column_index().and_then(|index| index.get(group)?.get(column)).cloned(),
        offset_index: metadata.offset_index().and_then(|index| index.get(group)?.get(column)).cloned(),
    };
    Ok(Chunk { pages: vec![file.slice(start..end)], close })
}
