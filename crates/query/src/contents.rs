//! Views whose long contents stand in another table: shown whole.
//!
//! A part of a message that is long is stored once, under its hash, and the rows that say it refer to it. Such a view is
//! planned without its contents, so that sorting and joining move hashes around; what is left in the end is filled in, and
//! only where a query reads the column. Filters reach the tables below, which are pruned by them; the contents are found by
//! day and hash.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Date32Type, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, ScalarValue, exec_datafusion_err};
use datafusion::datasource::{ViewTable as PlannedView, provider_as_source};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, col, in_list, lit};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties, collect,
};
use futures::TryStreamExt;
use spanlake_schema::DATE;
use spanlake_schema::messages::{CONTENTS_SPEC, INLINE_BYTES_MAX};

/// The column that is filled in.
pub(crate) const CONTENT: &str = "content";
const HASH: &str = "content_hash";
const BYTES: &str = "content_bytes";

/// What such a view has to return.
pub(crate) const NEEDED: [&str; 4] = [DATE, CONTENT, HASH, BYTES];

/// Bytes of contents that are looked up at once; a single one may be longer.
const SLICE_BYTES: i64 = 16 << 20;

/// Finds contents by day and hash.
#[derive(Clone)]
struct Contents {
    table: Arc<dyn TableProvider>,
    state: Arc<SessionState>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Contents").field("table", &self.table).finish_non_exhaustive()
    }
}

/// A view whose contents are filled in.
#[derive(Debug)]
pub(crate) struct FilledView {
    view: PlannedView,
    contents: Contents,
}

impl FilledView {
    /// `contents` is the table [`CONTENTS_SPEC`]; `state` plans the lookups.
    pub(crate) fn new(view: PlannedView, contents: Arc<dyn TableProvider>, state: Arc<SessionState>) -> Self {
        Self { view, contents: Contents { table: contents, state } }
    }
}

#[async_trait]
impl TableProvider for FilledView {
    fn schema(&self) -> SchemaRef {
        self.view.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.view.get_table_definition()
    }

    /// The view below does not have the contents.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let content = Column::from_name(CONTENT);
        let support = |filter: &&Expr| match filter.column_refs().iter().any(|column| column.name == content.name) {
            true => TableProviderFilterPushDown::Unsupported,
            false => TableProviderFilterPushDown::Exact,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        if !wanted.contains(&schema.index_of(CONTENT)?) {
            return self.view.scan(state, projection, filters, limit).await;
        }
        let mut needed = wanted.clone();
        for name in NEEDED {
            let index = schema.index_of(name)?;
            if !needed.contains(&index) {
                needed.push(index);
            }
        }
        let input = self.view.scan(state, Some(&needed), filters, limit).await?;
        Ok(Arc::new(ContentExec::new(input, wanted.len(), self.contents.clone())?))
    }
}

/// Fills in contents; passes the first columns of its input on.
#[derive(Clone, Debug)]
struct ContentExec {
    input: Arc<dyn ExecutionPlan>,
    columns: usize,
    contents: Contents,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl ContentExec {
    fn new(input: Arc<dyn ExecutionPlan>, columns: usize, contents: Contents) -> Result<Self> {
        let fields: Vec<_> = input.schema().fields().iter().take(columns).cloned().collect();
        let schema = Arc::new(Schema::new(fields));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { input, columns, contents, schema, properties: Arc::new(properties) })
    }
}

impl DisplayAs for ContentExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ContentExec")
    }
}

impl ExecutionPlan for ContentExec {
    fn name(&self) -> &str {
        "ContentExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| exec_datafusion_err!("ContentExec has one input"))?;
        Ok(Arc::new(Self::new(input, self.columns, self.contents.clone())?))
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| exec_datafusion_err!("ContentExec has one input"))?;
        Ok(Arc::new(Self::new(input, self.columns, self.contents.clone())?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let (contents, schema) = (self.contents.clone(), Arc::clone(&self.schema));
        let reserved = MemoryConsumer::new("contents of messages").register(context.memory_pool());
        let reserved = Arc::new(parking_lot::Mutex::new(reserved));
        let filled = input.map_ok(|batch| futures::stream::iter(slices(&batch))).try_flatten().and_then(move |slice| {
            let (contents, schema) = (contents.clone(), Arc::clone(&schema));
            let (context, reserved) = (Arc::clone(&context), Arc::clone(&reserved));
            async move {
                reserved.lock().try_resize(usize::try_from(long_bytes(&slice)?).unwrap_or(usize::MAX))?;
                contents.fill(&slice, &schema, context).await
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), filled)))
    }
}

/// Pieces of a batch whose contents fit in memory together.
fn slices(batch: &RecordBatch) -> Vec<Result<RecordBatch>> {
    let bytes = match column(batch, BYTES) {
        Ok(bytes) => bytes.as_primitive::<Int64Type>().clone(),
        Err(error) => return vec![Err(error)],
    };
    let (mut slices, mut start, mut sum) = (Vec::new(), 0, 0);
    for row in 0..batch.num_rows() {
        let more = bytes.value(row);
        if sum + more > SLICE_BYTES && row > start {
            slices.push(Ok(batch.slice(start, row - start)));
            (start, sum) = (row, 0);
        }
        sum += more;
    }
    slices.push(Ok(batch.slice(start, batch.num_rows() - start)));
    slices
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| exec_datafusion_err!("a view of contents lacks its column {name}"))
}

/// Rows whose content stands elsewhere.
fn long_rows(batch: &RecordBatch) -> Result<Vec<usize>> {
    let (content, hash) = (column(batch, CONTENT)?, column(batch, HASH)?);
    let bytes = column(batch, BYTES)?.as_primitive::<Int64Type>();
    let is_long =
        |row: &usize| content.is_null(*row) && hash.is_valid(*row) && bytes.value(*row) >= INLINE_BYTES_MAX as i64;
    Ok((0..batch.num_rows()).filter(is_long).collect())
}

fn long_bytes(batch: &RecordBatch) -> Result<i64> {
    let bytes = column(batch, BYTES)?.as_primitive::<Int64Type>();
    Ok(long_rows(batch)?.into_iter().map(|row| bytes.value(row)).sum())
}

impl Contents {
    async fn fill(&self, batch: &RecordBatch, schema: &SchemaRef, context: Arc<TaskContext>) -> Result<RecordBatch> {
        let long = long_rows(batch)?;
        let mut columns: Vec<ArrayRef> = batch.columns()[..schema.fields().len()].to_vec();
        if !long.is_empty() {
            let hashes: &StringArray = column(batch, HASH)?.as_string();
            let found = self.look_up(batch, &long, hashes, context).await?;
            let inline: &StringArray = column(batch, CONTENT)?.as_string();
            let mut by_hash: HashMap<&str, &str> = HashMap::new();
            for batch in &found {
                let (hash, content) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
                by_hash.extend((0..batch.num_rows()).map(|row| (hash.value(row), content.value(row))));
            }
            let whole = (0..batch.num_rows()).map(|row| match inline.is_valid(row) {
                true => Some(inline.value(row)),
                false if hashes.is_valid(row) => by_hash.get(hashes.value(row)).copied(),
                false => None,
            });
            columns[schema.index_of(CONTENT)?] = Arc::new(whole.collect::<StringArray>());
        }
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }

    async fn look_up(
        &self,
        batch: &RecordBatch,
        long: &[usize],
        hashes: &StringArray,
        context: Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let dates = column(batch, DATE)?.as_primitive::<Date32Type>();
        let mut days: Vec<i32> = long.iter().map(|row| dates.value(*row)).collect();
        let mut wanted: Vec<&str> = long.iter().map(|row| hashes.value(*row)).collect();
        days.sort_unstable();
        days.dedup();
        wanted.sort_unstable();
        wanted.dedup();
        let days = days.into_iter().map(|day| lit(ScalarValue::Date32(Some(day)))).collect();
        let wanted = wanted.into_iter().map(lit).collect();
        let plan = LogicalPlanBuilder::scan(CONTENTS_SPEC.name, provider_as_source(Arc::clone(&self.table)), None)?
            .filter(in_list(col(DATE), days, false).and(in_list(col(HASH), wanted, false)))?
            .project([col(HASH), col(CONTENT)])?
            .build()?;
        let plan = self.state.create_physical_plan(&plan).await?;
        collect(plan, context).await
    }
}
