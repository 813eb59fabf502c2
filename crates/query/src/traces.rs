//! Whole traces, for settling what their spans are to the totals.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use spanlake_schema::{TableSpec, corrections, spans};
use spanlake_storage::{TableSource, TableView};

use crate::answer::Bounds;
use crate::{Parameters, QueryEngine, QueryError};

/// Settling may look at more than a person would wait for.
const BOUNDS: Bounds = Bounds { timeout: std::time::Duration::from_secs(3_600), row_limit: usize::MAX };

/// Which traces are wanted.
#[derive(Clone, Debug)]
pub enum TraceSelection {
    /// These, by id in lower-case hex; anything else is no trace.
    Ids(Vec<String>),
    /// Those with calls that arrived in this half-open range of time, microseconds since 1970-01-01, as far as their spans
    /// arrived in it.
    Received(std::ops::Range<i64>),
    /// Not whole traces, but the calls that started in this half-open range of time, microseconds since 1970-01-01, of one model
    /// or of all; what is told of them twice, too.
    Calls {
        /// When they started.
        started: std::ops::Range<i64>,
        /// Their model.
        model: Option<String>,
    },
}

impl TraceSelection {
    fn condition(&self) -> String {
        match self {
            Self::Ids(ids) => {
                let is_id = |id: &&String| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
                let ids: Vec<String> = ids.iter().filter(is_id).map(|id| format!("'{id}'")).collect();
                if ids.is_empty() { "false".to_owned() } else { format!("trace_id IN ({})", ids.join(", ")) }
            }
            Self::Calls { started, model } => {
                let model = model.as_ref().map(|model| format!(" AND model = '{}'", model.replace('\'', "''")));
                format!(
                    "usage_role IN ('leaf', 'duplicate') AND start_time >= to_timestamp_micros({}) AND start_time < \
                     to_timestamp_micros({}){}",
                    started.start,
                    started.end,
                    model.unwrap_or_default()
                )
            }
            Self::Received(range) => {
                let arrived = format!(
                    "received_time >= to_timestamp_micros({}) AND received_time < to_timestamp_micros({})",
                    range.start, range.end
                );
                format!(
                    "{arrived} AND trace_id IN (SELECT trace_id FROM spans WHERE usage_role IS NOT NULL AND {arrived})"
                )
            }
        }
    }
}

/// The tables without what corrects them.
#[derive(Debug)]
struct Uncorrected(Arc<dyn TableSource>);

#[async_trait]
impl TableSource for Uncorrected {
    fn tables(&self, tenant: &str) -> Vec<&'static TableSpec> {
        let mut tables = self.0.tables(tenant);
        tables.retain(|spec| spec.name != corrections::SPEC.name);
        tables
    }

    async fn view(&self, tenant: &str, table: &str) -> spanlake_storage::Result<Option<TableView>> {
        if table == corrections::SPEC.name {
            return Ok(None);
        }
        self.0.view(tenant, table).await
    }
}

impl QueryEngine {
    /// Columns of the spans of some traces, hot ones too, as they are corrected; those of a whole trace follow
    /// each other.
    ///
    /// # Errors
    /// As of queries.
    pub async fn trace_spans(
        &self,
        tenant: &str,
        columns: &[&str],
        selection: &TraceSelection,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        let (columns, condition) = (columns.join(", "), selection.condition());
        let order = if matches!(selection, TraceSelection::Calls { .. }) { "" } else { " ORDER BY trace_id" };
        let statement = format!("SELECT {columns} FROM spans WHERE {condition}{order}");
        let source = Arc::clone(self.source());
        self.sql_over(source, tenant, &statement, Parameters::None, BOUNDS).await
    }

    /// Spans that started in a half-open range of time, microseconds since 1970-01-01, as they were written: all of the table's own columns, and no
    /// corrections. In the order of their arrival.
    ///
    /// # Errors
    /// As of queries.
    pub async fn stored_spans(
        &self,
        tenant: &str,
        started: std::ops::Range<i64>,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        let columns: Vec<&str> = spans::SPEC.columns.iter().map(|column| column.name).collect();
        let statement = format!(
            "SELECT {} FROM spans WHERE start_time >= to_timestamp_micros({}) AND start_time < to_timestamp_micros({}) \
             ORDER BY received_time",
            columns.join(", "),
            started.start,
            started.end
        );
        let source: Arc<dyn TableSource> = Arc::new(Uncorrected(Arc::clone(self.source())));
        self.sql_over(source, tenant, &statement, Parameters::None, BOUNDS).await
    }

    /// Columns of the spans that arrived in a closed range of time, microseconds since 1970-01-01, as they are corrected.
    ///
    /// # Errors
    /// As of queries.
    pub async fn arrived_spans(
        &self,
        tenant: &str,
        columns: &[&str],
        arrived: std::ops::RangeInclusive<i64>,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        let statement = format!(
            "SELECT {} FROM spans WHERE received_time >= to_timestamp_micros({}) AND received_time <= to_timestamp_micros({})",
            columns.join(", "),
            arrived.start(),
            arrived.end()
        );
        let source = Arc::clone(self.source());
        self.sql_over(source, tenant, &statement, Parameters::None, BOUNDS).await
    }

    /// When the last of the spans arrived that came after a time, microseconds since 1970-01-01; `None` where none did.
    ///
    /// # Errors
    /// As of queries.
    pub async fn last_arrival(&self, tenant: &str, after_micros: i64) -> Result<Option<i64>, QueryError> {
        use arrow::array::{Array, AsArray};
        use arrow::datatypes::TimestampMicrosecondType;
        use futures::TryStreamExt;

        let statement =
            format!("SELECT max(received_time) FROM spans WHERE received_time >= to_timestamp_micros({after_micros})");
        let source = Arc::clone(self.source());
        let stream = self.sql_over(source, tenant, &statement, Parameters::None, BOUNDS).await?;
        let batches: Vec<arrow::record_batch::RecordBatch> = stream.try_collect().await?;
        let last = batches.iter().find(|batch| batch.num_rows() > 0).and_then(|batch| {
            let times = batch.column(0).as_primitive_opt::<TimestampMicrosecondType>()?;
            times.is_valid(0).then(|| times.value(0))
        });
        Ok(last)
    }
}
