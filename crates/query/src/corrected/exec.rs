use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
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

use super::found::Found;

/// Corrects rows; passes the first columns of its input on.
///
/// No filter from above goes below it: it would see the columns as they were. Those that may are there already.
#[derive(Clone, Debug)]
pub(super) struct CorrectExec {
    input: Arc<dyn ExecutionPlan>,
    columns: usize,
    found: Arc<Found>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl CorrectExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, columns: usize, found: Arc<Found>) -> Self {
        let fields: Vec<_> = input.schema().fields().iter().take(columns).cloned().collect();
        let schema = Arc::new(Schema::new(fields));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { input, columns, found, schema, properties: Arc::new(properties) }
    }

    fn over(&self, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| exec_datafusion_err!("CorrectExec has one input"))?;
        Ok(Arc::new(Self::new(input, self.columns, Arc::clone(&self.found))))
    }
}

impl DisplayAs for CorrectExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CorrectExec: corrected_rows={}", self.found.len())
    }
}

impl ExecutionPlan for CorrectExec {
    fn name(&self) -> &str {
        "CorrectExec"
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
        let (found, schema) = (Arc::clone(&self.found), Arc::clone(&self.schema));
        let corrected = input.and_then(move |batch| {
            let corrected = found.correct(&batch, &schema);
            async move { corrected }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), corrected)))
    }
}
