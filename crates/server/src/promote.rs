//! `POST /api/v1/promote`: promoted columns for spans that were committed before.

use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use spanlake_query::QueryError;
use spanlake_schema::{ColumnType, DEFAULT_TENANT, spans};
use spanlake_storage::Backfill;

use crate::gate::Services;
use crate::http_api::Api;
use crate::reprice::{Wanted, answer, invalid};
use crate::sql_http::ApiError;

/// What was done, or would be.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) is_dry_run: bool,
    /// Columns that spans lacked, of attributes that only older spans have.
    pub(crate) columns: Vec<ColumnReport>,
    /// Files that were written again, their rows, and their bytes as they were.
    pub(crate) files: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Files that stay without the columns: too large, or unreadable.
    pub(crate) left_files: u64,
}

/// A column and its attribute.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ColumnReport {
    pub(crate) name: String,
    pub(crate) attribute: String,
    #[serde(rename = "type")]
    pub(crate) value_type: String,
}

impl Report {
    fn of(done: Backfill, is_dry_run: bool) -> Self {
        let value_type = |column_type| match column_type {
            ColumnType::Int64 => "int",
            ColumnType::Float64 => "double",
            ColumnType::Bool => "bool",
            _ => "string",
        };
        let columns = done.columns.into_iter().map(|column| ColumnReport {
            value_type: value_type(column.column_type).to_owned(),
            name: column.name,
            attribute: column.attribute,
        });
        Self {
            is_dry_run,
            columns: columns.collect(),
            files: done.files,
            rows: done.rows,
            bytes: done.bytes,
            left_files: done.left_files,
        }
    }
}

/// The parameters `from`, `to` and `dry_run`: files of days that have spans in the range of time, without one all.
pub(crate) async fn post(State(api): State<Api>, request: Request) -> Response {
    let wanted = Wanted::of(&request);
    drop(request);
    answer(async { promote(api.gate.services()?, wanted?).await }.await)
}

async fn promote(services: &Services, wanted: Wanted) -> Result<Report, ApiError> {
    if wanted.model.is_some() {
        return Err(invalid("there is no parameter `model` here: files hold spans of all kinds".to_owned()));
    }
    let is_dry_run = wanted.is_dry_run;
    let done = services.lake.backfill(DEFAULT_TENANT, spans::SPEC.name, wanted.days()?, is_dry_run).await;
    Ok(Report::of(done.map_err(QueryError::from)?, is_dry_run))
}
