//! Promoted columns where no file has them: computed from the rows' attributes.

use std::fmt;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::exec_datafusion_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::TryStreamExt;
use spanlake_schema::TableSpec;
use spanlake_schema::promotion::PromotedColumn;
use spanlake_storage::promotion::columns_of;

use crate::QueryError;

/// Gives rows their promoted columns, out of the maps of attributes that its input has beside what is wanted.
///
/// No filter from above goes below it: it may name a column that is made here. Those that may are there already.
#[derive(Clone, Debug)]
pub(super) struct PromoteExec {
    input: Arc<dyn ExecutionPlan>,
    spec: &'static TableSpec,
    promoted: Arc<Vec<PromotedColumn>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl PromoteExec {
    /// `schema` is what it gives: columns of the input by their names, and promoted ones, which are named in `promoted`.
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        spec: &'static TableSpec,
        promoted: Arc<Vec<PromotedColumn>>,
        schema: SchemaRef,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { input, spec, promoted, schema, properties: Arc::new(properties) }
    }

    fn over(&self, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| exec_datafusion_err!("PromoteExec has one input"))?;
        Ok(Arc::new(Self::new(input, self.spec, Arc::clone(&self.promoted), Arc::clone(&self.schema))))
    }
}

fn promote(
    spec: &TableSpec,
    promoted: &[PromotedColumn],
    schema: &SchemaRef,
    batch: &RecordBatch,
) -> Result<RecordBatch> {
    let made = columns_of(spec, promoted, batch).map_err(QueryError::from)?;
    let column = |name: &str| -> Result<ArrayRef> {
        let made = promoted.iter().position(|column| column.name == name).and_then(|place| made.get(place));
        let found = made.or_else(|| batch.column_by_name(name));
        found.cloned().ok_or_else(|| exec_datafusion_err!("rows lack the column {name}"))
    };
    let columns = schema.fields().iter().map(|field| column(field.name())).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

impl DisplayAs for PromoteExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.promoted.iter().map(|column| column.name.as_str()).collect();
        write!(formatter, "PromoteExec: columns=[{}]", names.join(", "))
    }
}

impl ExecutionPlan for PromoteExec {
    fn name(&self) -> &str {
        "PromoteExec"
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
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (spec, promoted, schema) = (self.spec, Arc::clone(&self.promoted), Arc::clone(&self.schema));
        let filled = input.and_then(move |batch| {
            let filled = promote(spec, &promoted, &schema, &batch);
            async move { filled }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), filled)))
    }
}

/// The given columns of a schema, by name.
pub(super) fn named(schema: &Schema, names: &[&str]) -> Result<SchemaRef> {
    let fields = names.iter().map(|name| Ok(schema.field_with_name(name)?.clone())).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}
