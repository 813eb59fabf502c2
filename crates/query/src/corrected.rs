//! The table `spans` as it is corrected: the rows of one view, with what `span_corrections` says of them.
//!
//! Which rows are corrected is read first, within the days that a query looks at. Segments and hot batches that hold none of
//! them are scanned as ever, with statistics and filters; the others lose only what may not be trusted there, which is pruning
//! by columns that can be corrected. Where a query reads no such column, corrections are not looked at at all.

mod exec;
mod found;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Date32Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::union::UnionExec;
use spanlake_schema::DATE;
use spanlake_schema::corrections::{ADDRESS, CORRECTABLE};
use spanlake_storage::{Segment, Snapshot, TableView};

use crate::prune::time_bounds;
use crate::table::ViewTable;
use exec::CorrectExec;
use found::Found;

/// One view of `spans` and the corrections that belong to it.
#[derive(Debug)]
pub(crate) struct CorrectedTable {
    view: TableView,
    spans: ViewTable,
    corrections: Arc<ViewTable>,
}

impl CorrectedTable {
    /// The spans as they are corrected; as they are where nothing is.
    pub(crate) fn over(spans: TableView, corrections: Option<TableView>) -> Arc<dyn TableProvider> {
        let is_there = |view: &TableView| {
            !view.snapshot.segments.is_empty()
                || !view.spilled.is_empty()
                || view.hot.iter().any(|hot| hot.num_rows() > 0)
        };
        let table = ViewTable::new(spans.clone());
        match corrections.filter(is_there) {
            None => Arc::new(table),
            Some(corrections) => {
                Arc::new(Self { view: spans, spans: table, corrections: Arc::new(ViewTable::new(corrections)) })
            }
        }
    }

    /// The days of the rows that the filters leave.
    fn days(&self, state: &dyn Session, filters: &[Expr]) -> Result<BTreeSet<i32>> {
        let spilled: Vec<Arc<Segment>> = self.view.spilled.iter().map(|file| Arc::clone(file.segment())).collect();
        let mut days = BTreeSet::new();
        for segments in [&self.view.snapshot.segments, &spilled] {
            days.extend(self.spans.prune(state, segments, filters)?.iter().filter_map(|segment| segment.date));
        }
        for dates in self.view.hot.iter().filter_map(|batch| batch.column_by_name(DATE)) {
            days.extend(dates.as_primitive::<Date32Type>().values().iter().copied());
        }
        Ok(days)
    }

    /// The view, of which those segments and batches are kept for which the tests hold.
    fn part(&self, segment: impl Fn(&Segment) -> bool, batch: impl Fn(&RecordBatch) -> bool) -> ViewTable {
        let view = &self.view;
        let segments = view.snapshot.segments.iter().filter(|one| segment(one)).cloned().collect();
        ViewTable::new(TableView {
            table: Arc::clone(&view.table),
            snapshot: Arc::new(Snapshot { segments, ..view.snapshot.as_ref().clone() }),
            hot: view.hot.iter().filter(|one| batch(one)).cloned().collect(),
            spilled: view.spilled.iter().filter(|one| segment(one.segment())).cloned().collect(),
        })
    }

    /// The rows that may be corrected, as they are corrected.
    async fn corrected(
        &self,
        state: &dyn Session,
        table: &ViewTable,
        wanted: &[usize],
        filters: &[Expr],
        found: &Arc<Found>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        let mut columns = wanted.to_vec();
        let named = filters.iter().flat_map(Expr::column_refs).map(|column| column.name.as_str());
        for name in ADDRESS.iter().copied().filter(|name| *name != DATE).chain(named) {
            let index = schema.index_of(name)?;
            if !columns.contains(&index) {
                columns.push(index);
            }
        }
        let mut plan = table.scan(state, Some(&columns), filters, None).await?;
        if let Some(filter) = conjunction(filters.to_vec()) {
            let filter = state.create_physical_expr(filter, &DFSchema::try_from(plan.schema())?)?;
            plan = Arc::new(FilterExec::try_new(filter, plan)?);
        }
        Ok(Arc::new(CorrectExec::new(plan, wanted.len(), Arc::clone(found))))
    }
}

#[async_trait]
impl TableProvider for CorrectedTable {
    fn schema(&self) -> SchemaRef {
        self.spans.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.spans.supports_filters_pushdown(filters)
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
        let (unsure, sure): (Vec<Expr>, Vec<Expr>) = filters
            .iter()
            .cloned()
            .partition(|filter| filter.column_refs().iter().any(|one| is_correctable(&one.name)));
        let columns = wanted.iter().map(|index| schema.field(*index).name().as_str());
        let filtered = unsure.iter().flat_map(Expr::column_refs).map(|column| column.name.as_str());
        let read: BTreeSet<&str> = columns.chain(filtered).filter(|name| is_correctable(name)).collect();
        let read: Vec<&str> = read.into_iter().collect();
        if read.is_empty() {
            return self.spans.scan(state, projection, filters, limit).await;
        }
        let days = self.days(state, &sure)?;
        let found = Found::read(state, &self.corrections, &days, &sure, &read).await?;
        if found.is_empty() {
            return self.spans.scan(state, projection, filters, limit).await;
        }
        let found = Arc::new(found);
        let is_hit = |segment: &Segment| found.may_be_in(segment.date, time_bounds(segment, "received_time"));
        let plain = self.part(|segment| !is_hit(segment), |batch| !found.corrects(batch));
        let hit = self.part(is_hit, |batch| found.corrects(batch));
        let parts = vec![
            plain.scan(state, Some(&wanted), filters, limit).await?,
            self.corrected(state, &hit, &wanted, &sure, &found).await?,
        ];
        UnionExec::try_new(parts)
    }
}

fn is_correctable(name: &str) -> bool {
    CORRECTABLE.contains(&name)
}
