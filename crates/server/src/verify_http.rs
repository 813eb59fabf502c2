//! `GET /api/v1/verify`: whether the numbers add up, as JSON.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use spanlake_query::verify::{VerifyOptions, VerifyReport};
use spanlake_schema::DEFAULT_TENANT;

use crate::http_api::Api;
use crate::sql_http::ApiError;

/// The parameters `tenant`, `from` and `to`, all of which may be missing.
pub(crate) async fn get(State(api): State<Api>, request: Request) -> Response {
    let answer = verify(&api, request.uri().query().unwrap_or_default()).await.map(|report| {
        let body = serde_json::to_vec(&report).expect("invariant: a report becomes JSON");
        let builder = Response::builder().header(CONTENT_TYPE, "application/json");
        builder.body(Body::from(body)).expect("invariant: constant headers are valid")
    });
    answer.unwrap_or_else(ApiError::into_response)
}

async fn verify(api: &Api, query: &str) -> Result<VerifyReport, ApiError> {
    let mut options = VerifyOptions { tenant: DEFAULT_TENANT.to_owned(), ..VerifyOptions::default() };
    let invalid = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid", message);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let time = || parse_time(&value).map_err(|problem| invalid(format!("parameter `{name}`: {problem}")));
        match name.as_ref() {
            "tenant" => options.tenant = value.into_owned(),
            "from" => options.from_unix_micro = Some(time()?),
            "to" => options.to_unix_micro = Some(time()?),
            other => return Err(invalid(format!("there is no parameter `{other}`: use tenant, from and to"))),
        }
    }
    Ok(api.gate.services()?.engine.verify(&options).await?)
}

/// A time as people write it, in UTC where it names no offset: microseconds since 1970-01-01.
pub(crate) fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_micros());
    }
    let formats = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"];
    let time = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let time = time.or_else(|| text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0));
    let time =
        time.ok_or_else(|| format!("`{text}` is no time: write 2026-01-31, 2026-01-31T12:30 or 2026-01-31T12:30:00Z"))?;
    Ok(time.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn times_are_read_as_people_write_them() {
        let noon = 1_769_860_800_000_000;
        for text in ["2026-01-31T12:00", "2026-01-31 12:00:00", "2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00"] {
            assert_eq!(parse_time(text), Ok(noon), "{text}");
        }
        assert_eq!(parse_time("2026-01-31"), Ok(noon - 12 * 3_600_000_000));
        assert!(parse_time("yesterday").is_err_and(|problem| problem.contains("`yesterday`")));
    }
}
