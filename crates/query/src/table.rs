mod promote;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
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
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::union::UnionExec;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use spanlake_schema::DATE;
use spanlake_schema::promotion::PromotedColumn;
use spanlake_storage::promotion::fields_of;
use spanlake_storage::{Segment, SpilledSegment, TableView};

use crate::QueryError;
use crate::prune::prune;
use promote::{PromoteExec, named};

/// One consistent view of a table, as DataFusion scans it: the segments of the snapshot and the hot rows beyond it, in local
/// files and in memory.
///
/// Promoted columns stand behind the table's own. Segments that hold those that a query names are read as ever; of the others,
/// and of rows in memory, they are computed from the maps of attributes.
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

    /// The segments that the filters leave, in their order.
    pub(crate) fn prune(
        &self,
        state: &dyn Session,
        segments: &[Arc<Segment>],
        filters: &[Expr],
    ) -> Result<Vec<Arc<Segment>>> {
        let promoted = self.promoted_in(&[], filters);
        if promoted.is_empty() {
            return self.prune_by(state, segments, filters);
        }
        // What is said of a column by who did not compute it says nothing.
        let (holding, lacking) = split(segments, &promoted);
        let mut kept: HashSet<*const Segment> = HashSet::new();
        let others = self.without_promoted(filters);
        for (segments, filters) in [(holding, filters), (lacking, others.as_slice())] {
            kept.extend(self.prune_by(state, &segments, filters)?.iter().map(Arc::as_ptr));
        }
        Ok(segments.iter().filter(|segment| kept.contains(&Arc::as_ptr(segment))).cloned().collect())
    }

    fn prune_by(&self, state: &dyn Session, segments: &[Arc<Segment>], filters: &[Expr]) -> Result<Vec<Arc<Segment>>> {
        let predicate = conjunction(filters.to_vec())
            .map(|filter| state.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(&self.schema))?))
            .transpose()?;
        prune(segments, &self.schema, predicate)
    }

    fn is_promoted(&self, name: &str) -> bool {
        self.view.snapshot.promoted.iter().any(|column| column.name == name)
    }

    /// The promoted columns among some columns and those of some filters.
    fn promoted_in(&self, columns: &[&str], filters: &[Expr]) -> Vec<PromotedColumn> {
        let promoted = &self.view.snapshot.promoted;
        if promoted.is_empty() {
            return Vec::new();
        }
        let filtered: HashSet<&str> =
            filters.iter().flat_map(Expr::column_refs).map(|column| column.name.as_str()).collect();
        let is_named = |column: &&PromotedColumn| {
            let name = column.name.as_str();
            columns.contains(&name) || filtered.contains(name)
        };
        promoted.iter().filter(is_named).cloned().collect()
    }

    /// The filters that name no promoted column.
    fn without_promoted(&self, filters: &[Expr]) -> Vec<Expr> {
        let is_plain = |filter: &&Expr| !filter.column_refs().iter().any(|column| self.is_promoted(&column.name));
        filters.iter().filter(is_plain).cloned().collect()
    }

    /// The committed rows: Parquet on the store, with `date` taken from the log.
    fn cold(&self, state: &dyn Session, filters: &[Expr]) -> Result<Option<Files>> {
        let segments = self.prune(state, &self.view.snapshot.segments, filters)?;
        if segments.is_empty() {
            return Ok(None);
        }
        let store = self.view.table.store();
        let files = segments.into_iter().map(|segment| {
            let location = self.view.table.object_path(&segment.path).map_err(QueryError::from)?;
            Ok((partitioned_file(location, &segment), segment))
        });
        let files = files.collect::<Result<_>>()?;
        Ok(Some(Files { url: store_url("store", store.url())?, objects: store.object_store(), files }))
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
            let file = partitioned_file(location, spilled.segment()).with_extension(Arc::clone(spilled));
            Ok((file, Arc::clone(spilled.segment())))
        });
        let files = files.collect::<Result<_>>()?;
        let url = store_url("spill", &first.directory().to_string_lossy())?;
        Ok(Some(Files { url, objects: first.object_store(), files }))
    }

    /// Columns of files that hold them.
    fn scan_files(
        &self,
        state: &dyn Session,
        files: Files,
        columns: &[&str],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Files { url, objects, files } = files;
        state.runtime_env().register_object_store(url.as_ref(), Arc::clone(&objects));

        let (partition, file): (Vec<_>, Vec<_>) =
            self.schema.fields().iter().cloned().partition(|field| field.name() == DATE);
        let file_schema = Arc::new(Schema::new(file));
        let table_schema = TableSchema::builder(file_schema).with_table_partition_cols(partition).build();
        // File columns come first and the partition column last in a scan.
        let scan = table_schema.table_schema();
        let projection = columns.iter().map(|name| Ok(scan.index_of(name)?)).collect::<Result<Vec<_>>>()?;
        let (files, segments): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        let statistics = row_statistics(&segments, scan);

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

    /// Columns of the rows in memory, which lack promoted ones, spread over the partitions.
    fn scan_hot(&self, state: &dyn Session, columns: &[&str]) -> Result<Arc<dyn ExecutionPlan>> {
        let batches = &self.view.hot;
        let own = Arc::new(self.schema.project(&(0..self.view.table.spec().columns.len()).collect::<Vec<_>>())?);
        let projection = columns.iter().map(|name| Ok(own.index_of(name)?)).collect::<Result<Vec<_>>>()?;
        let count = state.config().target_partitions().clamp(1, batches.len().max(1));
        let mut partitions = vec![Vec::new(); count];
        for (index, batch) in batches.iter().enumerate() {
            let batch = RecordBatch::try_new(Arc::clone(&own), batch.columns().to_vec())?;
            partitions[index % count].push(batch);
        }
        let source = MemorySourceConfig::try_new(&partitions, own, Some(projection))?;
        Ok(DataSourceExec::from_data_source(source.with_show_sizes(false)))
    }

    /// Columns of rows that lack the promoted ones among them, made from the maps of attributes.
    fn promoting(
        &self,
        state: &dyn Session,
        wanted: &Wanted<'_>,
        scan: impl FnOnce(&[&str]) -> Result<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let spec = self.view.table.spec();
        // What no promoted column is needed for is filtered below, where files can be pruned by it.
        let filter = conjunction(self.without_promoted(wanted.filters));
        let filtered = filter.iter().flat_map(Expr::column_refs).map(|column| column.name.as_str());
        let maps = spec.attributes.iter().flat_map(|(map, types)| [*map, *types]);
        let mut columns: Vec<&str> = Vec::new();
        for name in wanted.columns.iter().copied().chain(filtered).chain(maps) {
            if !columns.contains(&name) && !self.is_promoted(name) {
                columns.push(name);
            }
        }
        let mut plan = scan(&columns)?;
        if let Some(filter) = filter.clone() {
            let filter = state.create_physical_expr(filter, &DFSchema::try_from(plan.schema())?)?;
            plan = Arc::new(FilterExec::try_new(filter, plan)?);
        }
        let schema = named(&self.schema, wanted.columns)?;
        let promoted = wanted.promoted.iter().filter(|column| wanted.columns.contains(&column.name.as_str()));
        Ok(Arc::new(PromoteExec::new(plan, spec, Arc::new(promoted.cloned().collect()), schema)))
    }
}

/// What a scan is asked for.
struct Wanted<'a> {
    columns: &'a [&'a str],
    filters: &'a [Expr],
    /// The promoted columns among the columns and those of the filters.
    promoted: &'a [PromotedColumn],
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
        let fields = self.schema.fields();
        let columns: Vec<&str> = match projection {
            Some(projection) => projection.iter().map(|index| fields[*index].name().as_str()).collect(),
            None => fields.iter().map(|field| field.name().as_str()).collect(),
        };
        let promoted = self.promoted_in(&columns, filters);
        let wanted = Wanted { columns: &columns, filters, promoted: &promoted };
        let mut parts = Vec::with_capacity(5);
        for files in [self.cold(state, filters)?, self.spilled(state, filters)?].into_iter().flatten() {
            let (holding, lacking) = files.split(&promoted);
            if let Some(files) = holding {
                parts.push(self.scan_files(state, files, &columns, limit)?);
            }
            if let Some(files) = lacking {
                parts.push(self.promoting(state, &wanted, |columns| self.scan_files(state, files, columns, None))?);
            }
        }
        if self.view.hot.iter().any(|batch| batch.num_rows() > 0) {
            parts.push(match promoted.is_empty() {
                true => self.scan_hot(state, &columns)?,
                false => self.promoting(state, &wanted, |columns| self.scan_hot(state, columns))?,
            });
        }
        match parts.len() {
            0 => Ok(Arc::new(EmptyExec::new(named(&self.schema, &columns)?))),
            1 => Ok(parts.remove(0)),
            _ => UnionExec::try_new(parts),
        }
    }
}

/// Segments that hold all of some promoted columns, and those that do not.
fn split(segments: &[Arc<Segment>], promoted: &[PromotedColumn]) -> (Vec<Arc<Segment>>, Vec<Arc<Segment>>) {
    segments.iter().cloned().partition(|segment| holds_all(segment, promoted))
}

fn holds_all(segment: &Segment, promoted: &[PromotedColumn]) -> bool {
    promoted.iter().all(|column| segment.holds(&column.name))
}

/// The table's columns, and the promoted ones. Those that were required only after the table was made are NULL in its older
/// segments.
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
        .chain(fields_of(&view.snapshot.promoted))
        .collect();
    Arc::new(Schema::new(fields))
}

/// Segments that lie on one store, and where.
struct Files {
    url: ObjectStoreUrl,
    objects: Arc<dyn ObjectStore>,
    files: Vec<(PartitionedFile, Arc<Segment>)>,
}

impl Files {
    /// Those that hold all of some promoted columns, and those that do not.
    fn split(self, promoted: &[PromotedColumn]) -> (Option<Self>, Option<Self>) {
        let Self { url, objects, files } = self;
        let (holding, lacking): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(_, segment)| holds_all(segment, promoted));
        let some = |files: Vec<_>| {
            (!files.is_empty()).then(|| Self { url: url.clone(), objects: Arc::clone(&objects), files })
        };
        (some(holding), some(lacking))
    }
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
