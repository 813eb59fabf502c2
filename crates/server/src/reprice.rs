//! `POST /api/v1/reprice`: stored calls, priced again by the prices of now.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use spanlake_ingest::{RECALLED, RepricedModel, Repricing};
use spanlake_query::{QueryError, TraceSelection};
use spanlake_schema::DEFAULT_TENANT;
use spanlake_schema::corrections::dollars;

use crate::gate::Services;
use crate::http_api::Api;
use crate::sql_http::ApiError;
use crate::verify_http::parse_time;

/// What new prices change.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) is_dry_run: bool,
    /// By model; the empty name stands for calls without one.
    pub(crate) models: BTreeMap<String, ModelReport>,
}

/// What new prices change for the calls of one model. Sums of money are decimal text.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ModelReport {
    pub(crate) calls: u64,
    pub(crate) changed: u64,
    pub(crate) old_unpriced: u64,
    pub(crate) new_unpriced: u64,
    pub(crate) old_usd: String,
    pub(crate) new_usd: String,
    pub(crate) difference_usd: String,
}

impl From<RepricedModel> for ModelReport {
    fn from(told: RepricedModel) -> Self {
        Self {
            calls: told.calls,
            changed: told.changed,
            old_unpriced: told.old_unpriced,
            new_unpriced: told.new_unpriced,
            old_usd: dollars(told.old_usd_picos),
            new_usd: dollars(told.new_usd_picos),
            difference_usd: dollars(told.new_usd_picos - told.old_usd_picos),
        }
    }
}

/// Which calls: those that started from a time on and before another, of one model or of all.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    from_micros: Option<i64>,
    to_micros: Option<i64>,
    pub(crate) model: Option<String>,
    pub(crate) is_dry_run: bool,
}

/// The parameters `from` and `to`, which are needed, `model` and `dry_run`.
pub(crate) async fn post(State(api): State<Api>, request: Request) -> Response {
    let wanted = Wanted::of(&request);
    // A body is no part of it, and cannot be shared between threads while the calls are read.
    drop(request);
    answer(async { reprice(api.gate.services()?, wanted?).await }.await)
}

/// A report as JSON, or what is wrong.
pub(crate) fn answer(report: Result<impl Serialize, ApiError>) -> Response {
    let answer = report.map(|report| {
        let body = serde_json::to_vec(&report).expect("invariant: a report becomes JSON");
        let builder = Response::builder().header(CONTENT_TYPE, "application/json");
        builder.body(Body::from(body)).expect("invariant: constant headers are valid")
    });
    answer.unwrap_or_else(ApiError::into_response)
}

pub(crate) fn invalid(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid", message)
}

impl Wanted {
    /// What the parameters of a request say.
    pub(crate) fn of(request: &Request) -> Result<Self, ApiError> {
        // No page of another site can send this without asking first.
        if request.headers().get(CONTENT_TYPE).is_none_or(|told| told != "application/json") {
            return Err(invalid("the header content-type has to be application/json".to_owned()));
        }
        Self::parse(request.uri().query().unwrap_or_default())
    }

    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut wanted = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let time = || parse_time(&value).map_err(|problem| invalid(format!("parameter `{name}`: {problem}")));
            match name.as_ref() {
                "from" => wanted.from_micros = Some(time()?),
                "to" => wanted.to_micros = Some(time()?),
                "model" => wanted.model = Some(value.into_owned()),
                "dry_run" if value == "true" || value == "false" => wanted.is_dry_run = value == "true",
                "dry_run" => return Err(invalid(format!("parameter `dry_run` is true or false, not `{value}`"))),
                other => {
                    return Err(invalid(format!("there is no parameter `{other}`: use from, to, model and dry_run")));
                }
            }
        }
        Ok(wanted)
    }

    /// When the spans started that are meant, a half-open range in microseconds since 1970-01-01.
    pub(crate) fn started(&self) -> Result<std::ops::Range<i64>, ApiError> {
        let (Some(from), Some(to)) = (self.from_micros, self.to_micros) else {
            return Err(invalid("the parameters `from` and `to` say which spans are meant".to_owned()));
        };
        if from >= to {
            return Err(invalid("`from` has to lie before `to`".to_owned()));
        }
        Ok(from..to)
    }

    /// The days that have a part in the range of time; without one all days.
    pub(crate) fn days(&self) -> Result<std::ops::RangeInclusive<i32>, ApiError> {
        const DAY_MICROS: i64 = 86_400_000_000;
        if self.from_micros.zip(self.to_micros).is_some_and(|(from, to)| from >= to) {
            return Err(invalid("`from` has to lie before `to`".to_owned()));
        }
        let day = |micros: i64| i32::try_from(micros.div_euclid(DAY_MICROS)).unwrap_or(i32::MAX);
        let first = self.from_micros.map_or(i32::MIN, day);
        Ok(first..=self.to_micros.map_or(i32::MAX, |to| day(to.saturating_sub(1))))
    }

    fn selection(self) -> Result<TraceSelection, ApiError> {
        Ok(TraceSelection::Calls { started: self.started()?, model: self.model })
    }
}

async fn reprice(services: &Services, wanted: Wanted) -> Result<Report, ApiError> {
    let is_dry_run = wanted.is_dry_run;
    let selection = wanted.selection()?;
    let mut told = Repricing::default();
    let mut rows = services.engine.trace_spans(DEFAULT_TENANT, RECALLED, &selection).await?;
    while let Some(batch) = rows.try_next().await.map_err(QueryError::from)? {
        let repriced = services.ingest.reprice(DEFAULT_TENANT, &batch, &mut told, is_dry_run).await;
        repriced.map_err(QueryError::from)?;
    }
    let models = told.models.into_iter().map(|(model, told)| (model.unwrap_or_default(), told.into())).collect();
    Ok(Report { is_dry_run, models })
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn days_are_those_that_the_range_touches() {
        let days = |query: &str| Wanted::parse(query).and_then(|wanted| wanted.days()).ok();
        assert_eq!(days("from=1970-01-02&to=1970-01-03"), Some(1..=1));
        assert_eq!(days("from=1970-01-02T12:00&to=1970-01-03T00:01"), Some(1..=2));
        assert_eq!(days("from=1970-01-02"), Some(1..=i32::MAX));
        assert_eq!(days(""), Some(i32::MIN..=i32::MAX));
        assert_eq!(days("from=1970-01-02&to=1970-01-02"), None);
    }

    #[test]
    fn which_calls_has_to_be_told() {
        let problem = |query: &str| Wanted::parse(query).and_then(Wanted::selection).map(|_| ());
        assert!(problem("from=2026-01-01&to=2026-02-01&model=gpt-4o&dry_run=true").is_ok());
        for query in
            ["", "from=2026-01-01", "from=2026-02-01&to=2026-02-01", "from=x&to=2026-02-01", "day=1", "dry_run=1"]
        {
            assert!(problem(query).is_err(), "{query}");
        }
    }
}
