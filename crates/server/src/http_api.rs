//! The HTTP port for people, dashboards and machines: start page, SQL, health, metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::body::{BodyBudget, BodyReader};
use crate::config::resident_bytes;
use crate::gate::{Gate, Services};
use crate::scrape::{self, Figures, Format};
use crate::sql_http::{self, ApiError, STATEMENT_BYTES_MAX};
use crate::{promote, renormalise, reprice, verify_http};

/// Statements being received at once, in bytes.
const STATEMENTS_BYTES_MAX: usize = 64 * STATEMENT_BYTES_MAX;

/// The start page carries its own style and script, and talks to this server only.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                           img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the routes share.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) gate: Arc<Gate>,
    pub(crate) statements: BodyReader,
    page: Arc<str>,
    otlp_budget: BodyBudget,
    started: Instant,
    /// Held while a page of `/metrics` is written.
    scrapes: Arc<Mutex<()>>,
}

impl Api {
    /// `facts` are shown on the start page.
    pub(crate) fn new(
        gate: Arc<Gate>,
        otlp_budget: BodyBudget,
        body_timeout: Duration,
        facts: &[(&str, String)],
    ) -> Self {
        Self {
            gate,
            statements: BodyReader::new(STATEMENT_BYTES_MAX, BodyBudget::new(STATEMENTS_BYTES_MAX))
                .with_timeout(body_timeout),
            page: start_page(facts).into(),
            otlp_budget,
            started: Instant::now(),
            scrapes: Arc::default(),
        }
    }
}

/// The listener's routes.
pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/sql", get(sql_http::get).post(sql_http::post).fallback(any(wrong_method)))
        .route("/api/v1/verify", get(verify_http::get))
        .route("/api/v1/renormalise", post(renormalise::post))
        .route("/api/v1/promote", post(promote::post))
        .route("/api/v1/reprice", post(reprice::post))
        .fallback(not_found)
        .with_state(api)
}

async fn page(State(api): State<Api>) -> Response {
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    (headers, api.page.to_string()).into_response()
}

async fn ready(State(api): State<Api>) -> Response {
    match api.gate.readiness() {
        Ok(()) => "ready\n".into_response(),
        Err(closed) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", closed.message())).into_response(),
    }
}

async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Response {
    let format = Format::accepted(&headers);
    // With as many keys as there may be a page has some 20 MB and takes many milliseconds to write: one at a time, off the I/O runtime.
    let writing = Arc::clone(&api.scrapes).lock_owned().await;
    let page = tokio::task::spawn_blocking(move || {
        let _writing = writing;
        let services = api.gate.services().ok();
        let figures = figures(&api, services);
        scrape::render(format, &figures, services.map(|services| &*services.calls))
    });
    let Ok(page) = page.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let cached = |text| HeaderValue::from_static(text);
    let headers =
        [(CONTENT_TYPE, format.content_type()), (CACHE_CONTROL, cached("no-store")), (VARY, cached("accept"))];
    (headers, page).into_response()
}

fn figures(api: &Api, services: Option<&Services>) -> Figures {
    Figures {
        version: env!("CARGO_PKG_VERSION"),
        is_ready: api.gate.readiness().is_ok(),
        uptime_seconds: api.started.elapsed().as_secs_f64(),
        resident_bytes: resident_bytes(),
        body_bytes: api.otlp_budget.used_bytes() as u64,
        answers: api.gate.answers(),
        services: services.map(|services| (services.ingest.stats(), services.lake.stats(), services.engine.stats())),
    }
}

async fn not_found(request: Request) -> Response {
    let message = format!("nothing is served at {}", request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("{} is not served here, only POST and GET", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).into_response()
}

fn start_page(facts: &[(&str, String)]) -> String {
    let rows: String =
        facts.iter().map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value))).collect();
    include_str!("start_page.html").replace("{{facts}}", &rows).replace("{{version}}", env!("CARGO_PKG_VERSION"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tonic::codegen::Service;

    use super::*;
    use crate::shutdown::Stop;

    async fn ask(method: &str, path: &str) -> (StatusCode, String, String) {
        let facts = [("store", "<s3>".to_owned())];
        let api = Api::new(Gate::new(Stop::new()), BodyBudget::new(0), Duration::from_secs(60), &facts);
        let request = Request::builder().method(method).uri(path).body(Body::from("SELECT 1")).expect("is a request");
        let response = router(api).call(request).await.expect("is infallible");
        let (parts, body) = response.into_parts();
        let content_type = parts.headers[CONTENT_TYPE].to_str().expect("is text").to_owned();
        let body = body.collect().await.expect("is whole").to_bytes();
        (parts.status, content_type, String::from_utf8(body.to_vec()).expect("is text"))
    }

    #[tokio::test]
    async fn while_the_log_is_replayed_the_process_is_alive_but_not_ready() {
        assert_eq!(ask("GET", "/healthz").await.0, StatusCode::OK);
        let (status, _, body) = ask("GET", "/readyz").await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "starting: the write-ahead log is being replayed\n")
        );
        let (status, content_type, body) = ask("GET", "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(content_type, Format::Text.content_type());
        assert!(body.contains("\nspanlake_ready 0\n"), "{body}");
        for (method, path) in [("POST", "/api/v1/sql"), ("GET", "/api/v1/sql?q=SELECT+1")] {
            let (status, _, body) = ask(method, path).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            let body: Value = serde_json::from_str(&body).expect("is JSON");
            assert_eq!(body["error"]["kind"], "unavailable");
        }
    }

    #[tokio::test]
    async fn wrong_paths_methods_and_parameters_are_told_in_json() {
        for (method, path, status, kind) in [
            ("GET", "/nowhere", 404, "not_found"),
            ("DELETE", "/api/v1/sql", 405, "method_not_allowed"),
            ("GET", "/api/v1/sql", 400, "invalid"),
        ] {
            let (got, content_type, body) = ask(method, path).await;
            assert_eq!((got.as_u16(), content_type.as_str()), (status, "application/json"), "{method} {path}");
            let body: Value = serde_json::from_str(&body).expect("is JSON");
            assert_eq!(body["error"]["kind"], kind);
        }
    }

    #[tokio::test]
    async fn the_start_page_is_whole_and_escapes_what_it_shows() {
        let (status, content_type, body) = ask("GET", "/").await;
        assert_eq!((status, content_type.as_str()), (StatusCode::OK, "text/html; charset=utf-8"));
        assert!(body.contains("<dt>store</dt><dd>&lt;s3&gt;</dd>"), "{body}");
        assert!(!body.contains("{{") && !body.contains("src=\"http") && !body.contains("href=\"http"), "{body}");
    }
}
