//! `POST /api/v1/renormalise`: stored spans, read again by the rules of now.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use spanlake_ingest::{RenormalisedColumn, Renormalising, renormalised_columns};
use spanlake_query::QueryError;
use spanlake_schema::DEFAULT_TENANT;

use crate::gate::Services;
use crate::http_api::Api;
use crate::reprice::{Wanted, answer, invalid};
use crate::sql_http::ApiError;

/// Distinct changes of a column that are told.
const EXAMPLES: usize = 5;

/// What newer rules change.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) is_dry_run: bool,
    /// Spans that were read again.
    pub(crate) spans: u64,
    /// Those of them that change.
    pub(crate) changed: u64,
    pub(crate) columns: BTreeMap<String, ColumnReport>,
}

/// What newer rules change in one column.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ColumnReport {
    pub(crate) changed: u64,
    /// The most frequent changes.
    pub(crate) examples: Vec<Example>,
}

/// One change. Money is decimal text, in US dollars.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Example {
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) spans: u64,
}

impl From<RenormalisedColumn> for ColumnReport {
    fn from(told: RenormalisedColumn) -> Self {
        let examples = told.examples.into_iter().map(|((from, to), spans)| Example { from, to, spans });
        let mut examples: Vec<Example> = examples.collect();
        examples.sort_by_key(|example| std::cmp::Reverse(example.spans));
        examples.truncate(EXAMPLES);
        Self { changed: told.changed, examples }
    }
}

/// The parameters `from` and `to`, which are needed, and `dry_run`.
pub(crate) async fn post(State(api): State<Api>, request: Request) -> Response {
    let wanted = Wanted::of(&request);
    drop(request);
    answer(async { renormalise(api.gate.services()?, wanted?).await }.await)
}

async fn renormalise(services: &Services, wanted: Wanted) -> Result<Report, ApiError> {
    if wanted.model.is_some() {
        return Err(invalid("there is no parameter `model` here: rules are for spans of any kind".to_owned()));
    }
    let is_dry_run = wanted.is_dry_run;
    let started = wanted.started()?;
    let columns = renormalised_columns();
    let mut told = Renormalising::default();
    let mut stored = services.engine.stored_spans(DEFAULT_TENANT, started).await?;
    while let Some(batch) = stored.try_next().await.map_err(QueryError::from)? {
        let Some(arrived) = arrived(&batch) else { continue };
        let current = services.engine.arrived_spans(DEFAULT_TENANT, &columns, arrived).await?;
        let current: Vec<RecordBatch> = current.try_collect().await.map_err(QueryError::from)?;
        let read = services.ingest.renormalise(DEFAULT_TENANT, batch, current, &mut told, is_dry_run).await;
        read.map_err(QueryError::from)?;
    }
    let columns = told.columns.into_iter().map(|(name, told)| (name.to_owned(), told.into())).collect();
    Ok(Report { is_dry_run, spans: told.spans, changed: told.changed, columns })
}

/// When the first and the last of the rows arrived.
fn arrived(batch: &RecordBatch) -> Option<std::ops::RangeInclusive<i64>> {
    let times = batch.column_by_name("received_time")?.as_primitive_opt::<TimestampMicrosecondType>()?;
    arrow::compute::min(times).zip(arrow::compute::max(times)).map(|(first, last)| first..=last)
}
