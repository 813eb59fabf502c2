use std::io::Write;
use std::sync::Arc;

use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::Encode;
use crate::QueryError;

/// A row group is written out when it has grown to this size, or to [`ROW_GROUP_ROWS`].
const ROW_GROUP_BYTES: usize = 16 * 1024 * 1024;

/// Most rows of a row group.
const ROW_GROUP_ROWS: usize = 256 * 1024;

/// String and binary views are Arrow's youngest types, and many readers do not know them: they become plain ones.
fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(plain(field.data_type())))
}

fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) | DataType::ListView(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain_field(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}

fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = schema.fields().iter().map(|field| plain_field(field).as_ref().clone()).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn plain_batch(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, QueryError> {
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        if field.data_type() == column.data_type() { Ok(Arc::clone(column)) } else { cast(column, field.data_type()) }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// The Arrow IPC stream: a schema, batches, an end.
pub(super) struct Ipc {
    schema: SchemaRef,
    writer: StreamWriter<Vec<u8>>,
}

impl Ipc {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self, QueryError> {
        let schema = plain_schema(schema);
        let writer = StreamWriter::try_new(Vec::new(), &schema)?;
        Ok(Self { schema, writer })
    }
}

impl Encode for Ipc {
    fn begin(&mut self) -> Result<(), QueryError> {
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        Ok(self.writer.write(&plain_batch(&self.schema, batch)?)?)
    }

    fn end(&mut self) -> Result<(), QueryError> {
        Ok(self.writer.finish()?)
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }
}

/// A Parquet file, sent a row group at a time.
pub(super) struct Parquet {
    schema: SchemaRef,
    writer: ArrowWriter<Sink>,
    sink: Sink,
}

/// Bytes that the writer has done with. The writer owns one end and keeps its own count of the bytes before.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Parquet {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self, QueryError> {
        let schema = plain_schema(schema);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let sink = Sink::default();
        let writer = ArrowWriter::try_new(sink.clone(), Arc::clone(&schema), Some(properties));
        Ok(Self { schema, writer: writer.map_err(not_in_parquet)?, sink })
    }
}

impl Encode for Parquet {
    fn begin(&mut self) -> Result<(), QueryError> {
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        self.writer.write(&plain_batch(&self.schema, batch)?).map_err(not_in_parquet)?;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.writer.flush().map_err(not_in_parquet)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), QueryError> {
        self.writer.finish().map_err(not_in_parquet)?;
        Ok(())
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut *self.sink.0.lock())
    }
}

/// Writing to memory does not fail; what fails is a type that Parquet has no word for.
fn not_in_parquet(error: ParquetError) -> QueryError {
    QueryError::invalid(format!("the answer cannot be written as parquet; cast the column or ask for json: {error}"))
}
