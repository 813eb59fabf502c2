#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use spanlake_schema::DATE;
use spanlake_storage::{Segment, SpilledSegment, TableView};

use crate::QueryError;
use crate::prune::prune;

/// One consistent view of a table, as DataFusion scans it: the segments of the snapshot and the hot rows beyond it, in local
/// files and in memory.
#[derive(Debug)]
pub(crate) struct ViewTable {
    view: TableView,
    schema: SchemaRef,
}

impl ViewTable {
    pub(crate) fn new(view: TableView) -> Self {
        let schema = schema_of(&view);
        Self { view, schema }
    }

    /// The segments that the filters leave.
    pub(crate) fn prune(
        &self,
        state: &dyn Session,
        segments: &[Arc<Segment>],
        filters: &[Expr],
    ) -> Result<Vec<Arc<Segment>>> {
        let predicate = conjunction(filters.to_vec())
            .map(|filter| state.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(&self.schema))?))
            .transpose()?;
        prune(segments, &self.schema, predicate)
    }

    /// The committed rows: Parquet on the store, with `date` taken from the log.
    fn cold(&self, state: &dyn Session, filters: &[Expr]) -> Result<Option<Files>> {
        let segments = self.prune(state, &self.view.snapshot.segments, filters)?;
        if segments.is_empty() {
            return Ok(None);
        }
        let store = self.view.table.store();
        let files = segments.iter().map(|segment| {
            let location = self.view.table.object_path(&segment.path).map_err(QueryError::from)?;
            Ok(partitioned_file(location, segment))
        });
        let files = files.collect::<Result<_>>()?;
        Ok(Some(Files { url: store_url("store", store.url())?, objects: store.object_store(), files, segments }))
    }

    /// The rows that memory had no room for: Parquet on the local disk.
    fn spilled(&self, state: &dyn Session, filters: &[Expr]) -> Result<Option<Files>> {
        let segments: Vec<_> = self.view.spilled.iter().map(|spilled| Arc::clone(spilled.segment())).collect();
        let segments = self.prune(state, &segments, filters)?;
        let Some(first) = self.view.spilled.first().filter(|_| !segments.is_empty()) else { return Ok(None) };
        // Pruning keeps the order.
        let mut kept = segments.iter().peekable();
        let is_kept =
            |spilled: &&Arc<SpilledSegment>| kept.next_if(|kept| Arc::ptr_eq(kept, spilled.segment())).is_some();
        let files = self.view.spilled.iter().filter(is_kept).map(|spilled| {
            let location = Path::parse(&spilled.segment().path)?;
            // The plan holds the file: it would go with the commit of its rows else, in the middle of a query.
            Ok(partitioned_file(location, spilled.segment()).with_extension(Arc::clone(spilled)))
        });
        let files = files.collect::<Result<_>>()?;
        let url = store_url("spill", &first.directory().to_string_lossy())?;
        Ok(Some(Files { url, objects: first.object_store(), files, segments }))
    }

    fn scan_files(
        &self,
        state: &dyn Session,
        files: Files,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Files { url, objects, files, segments } = files;
        state.runtime_env().register_object_store(url.as_ref(), Arc::clone(&objects));

        let (partition, file): (Vec<_>, Vec<_>) =
            self.schema.fields().iter().cloned().partition(|field| field.name() == DATE);
        let file_schema = Arc::new(Schema::new(file));
        let table_schema = TableSchema::builder(file_schema).with_table_partition_cols(partition).build();
        let projection = self.scan_projection(table_schema.table_schema(), projection)?;
        let statistics = row_statistics(&segments, table_schema.table_schema());

        let metadata_cache = state.runtime_env().cache_manager.get_file_metadata_cache();
        let readers = CachedParquetFileReaderFactory::new(objects, metadata_cache);
        let source = ParquetSource::new(table_schema)
            .with_table_parquet_options(state.table_options().parquet.clone())
            .with_parquet_file_reader_factory(Arc::new(readers));
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(Some(projection))?
            .with_statistics(statistics)
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// File columns come first and the partition column last in a scan; the table has them in its own order.
    fn scan_projection(&self, scan: &SchemaRef, projection: Option<&Vec<usize>>) -> Result<Vec<usize>> {
        let all: Vec<usize>;
        let wanted = match projection {
            Some(projection) => projection,
            None => {
                all = (0..self.schema.fields().len()).collect();
                &all
            }
        };
        wanted.iter().map(|index| Ok(scan.index_of(self.schema.field(*index).name())?)).collect()
    }

    /// The rows in memory, spread over the partitions.
    fn hot(&self, state: &dyn Session, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let batches = &self.view.hot;
        let count = state.config().target_partitions().clamp(1, batches.len().max(1));
        let mut partitions = vec![Vec::new(); count];
        for (index, batch) in batches.iter().enumerate() {
            let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec())?;
            partitions[index % count].push(batch);
        }
        let source = MemorySourceConfig::try_new(&partitions, Arc::clone(&self.schema), projection.cloned())?;
        Ok(DataSourceExec::from_data_source(source.with_show_sizes(false)))
    }
}

#[async_trait]
impl TableProvider for ViewTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Pruning uses every filter; the rows that remain are filtered again, by Parquet or above the scan.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut parts = Vec::with_capacity(3);
        for files in [self.cold(state, filters)?, self.spilled(state, filters)?].into_iter().flatten() {
            parts.push(self.scan_files(state, files, projection, limit)?);
        }
        if self.view.hot.iter().any(|batch| batch.num_rows() > 0) {
            parts.push(self.hot(state, projection)?);
        }
        match parts.len() {
            0 => {
                let schema = match projection {
                    Some(projection) => Arc::new(self.schema.project(projection)?),
                    None => Arc::clone(&self.schema),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => Ok(parts.remove(0)),
            _ => UnionExec::try_new(parts),
        }
    }
}

/// The table's columns. Those that were required only after the table was made are NULL in its older segments.
fn schema_of(view: &TableView) -> SchemaRef {
    let schema = view.table.spec().arrow_schema();
    let nullable = &view.snapshot.nullable_columns;
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| match nullable.contains(field.name()) && !field.is_nullable() {
            true => Arc::new(field.as_ref().clone().with_nullable(true)),
            false => Arc::clone(field),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// Segments that lie on one store, and where.
struct Files {
    url: ObjectStoreUrl,
    objects: Arc<dyn ObjectStore>,
    files: Vec<PartitionedFile>,
    segments: Vec<Arc<Segment>>,
}

fn partitioned_file(location: Path, segment: &Segment) -> PartitionedFile {
    let meta = ObjectMeta {
        location,
        last_modified: DateTime::from_timestamp_millis(segment.modification_time_ms).unwrap_or_default(),
        size: segment.size_bytes,
        e_tag: None,
        version: None,
    };
    PartitionedFile::new_from_meta(meta).with_partition_values(vec![ScalarValue::Date32(segment.date)])
}

/// The name under which a plan finds a store again: private to this process, one a store.
fn store_url(kind: &str, address: &str) -> Result<ObjectStoreUrl> {
    let mut hasher = DefaultHasher::new();
    address.hash(&mut hasher);
    ObjectStoreUrl::parse(format!("spanlake://{kind}-{:016x}", hasher.finish()))
}

/// Row counts are exact where the log has one for each segment: COUNT(*) then reads nothing.
fn row_statistics(segments: &[Arc<Segment>], schema: &SchemaRef) -> Statistics {
    let rows = segments.iter().map(|segment| segment.rows()).sum::<Option<u64>>();
    let bytes = segments.iter().map(|segment| segment.size_bytes).sum::<u64>();
    let mut statistics = Statistics::new_unknown(schema);
    if let Some(rows) = rows.and_then(|rows| usize::try_from(rows).ok()) {
        statistics.num_rows = Precision::Exact(rows);
    }
    if let Ok(bytes) = usize::try_from(bytes) {
        statistics.total_byte_size = Precision::Inexact(bytes);
    }
    statistics
}
