//! What `/metrics` says of LLM calls, held against SQL.

use std::collections::BTreeMap;

use serde_json::Value;
use spanlake_testkit::ServerProcess;

use crate::{captures, export, server, traffic};

/// Series of calls, by their lines.
type Page = BTreeMap<String, f64>;

/// Names of counters and histograms beside the SQL that gives the same. A call without a value counts in no histogram.
const SAME: &[(&str, &str)] = &[
    ("spanlake_llm_requests_total", "count(*)"),
    ("spanlake_llm_input_tokens_total", "coalesce(sum(input_tokens), 0)"),
    ("spanlake_llm_output_tokens_total", "coalesce(sum(output_tokens), 0)"),
    ("spanlake_llm_cache_read_tokens_total", "coalesce(sum(cache_read_tokens), 0)"),
    ("spanlake_llm_cache_write_tokens_total", "coalesce(sum(cache_write_tokens), 0)"),
    ("spanlake_llm_reasoning_tokens_total", "coalesce(sum(reasoning_tokens), 0)"),
    ("spanlake_llm_cost_usd_total", "CAST(coalesce(sum(cost_usd), 0) AS DOUBLE)"),
    (
        "spanlake_llm_unpriced_requests_total",
        "count(*) FILTER (WHERE cost_usd IS NULL AND (input_tokens IS NOT NULL OR output_tokens IS NOT NULL))",
    ),
    ("spanlake_llm_request_duration_seconds_count", "count(duration_ns)"),
    ("spanlake_llm_request_duration_seconds_sum", "coalesce(sum(duration_ns), 0) / 1e9"),
    ("spanlake_llm_time_to_first_token_seconds_count", "count(time_to_first_token_ns)"),
    ("spanlake_llm_request_input_tokens_count", "count(input_tokens)"),
    ("spanlake_llm_request_output_tokens_sum", "coalesce(sum(output_tokens), 0)"),
    ("spanlake_llm_request_cost_usd_count", "count(cost_usd)"),
];

async fn page(server: &ServerProcess) -> Page {
    let text = server.http().get("/metrics").await.text();
    let series = text.lines().filter(|line| line.starts_with("spanlake_llm_"));
    series
        .map(|line| {
            let (key, value) = line.rsplit_once(' ').expect("a sample has a value");
            (key.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// What SQL says, in the words of the page.
async fn by_sql(server: &ServerProcess) -> Page {
    let labels = ["service_name", "provider", "model", "operation", "status"];
    let columns: Vec<String> = SAME.iter().enumerate().map(|(at, (_, sql))| format!("{sql} AS v{at}")).collect();
    let (keys, columns) = (labels.join(", "), columns.join(", "));
    let rows = server.sql(&format!("SELECT {keys}, {columns} FROM llm_calls GROUP BY {keys}")).await;
    let mut page = Page::new();
    for row in rows {
        let text = |label: &&str| {
            let value = row[*label].as_str().unwrap_or_default().replace('\\', "\\\\").replace('"', "\\\"");
            format!("{label}=\"{}\"", value.replace('\n', "\\n"))
        };
        let key = labels.iter().map(text).collect::<Vec<_>>().join(",");
        for (at, (name, _)) in SAME.iter().enumerate() {
            let value = match &row[&format!("v{at}")] {
                Value::String(text) => text.parse().expect("a number"),
                value => value.as_f64().unwrap_or_else(|| panic!("{value} is no number")),
            };
            page.insert(format!("{name}{{{key}}}"), value);
        }
    }
    page
}

/// Those series of a page that SQL can tell.
fn comparable(page: &Page) -> Page {
    let is_same =
        |key: &str| SAME.iter().any(|(name, _)| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    page.iter().filter(|(key, _)| is_same(key)).map(|(key, value)| (key.clone(), *value)).collect()
}

#[track_caller]
fn assert_same(told: &Page, expected: &Page) {
    let names = |page: &Page| page.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(told), names(expected));
    for (key, value) in told {
        let expected = expected[key];
        assert!((value - expected).abs() <= 1e-9 * expected.abs(), "{key} is {value}, by SQL {expected}");
    }
}

/// Nothing is gone and no number has fallen.
#[track_caller]
fn assert_grown(before: &Page, after: &Page) {
    for (key, value) in before {
        assert!(after.get(key).is_some_and(|now| now >= value), "{key} was {value}, is {:?}", after.get(key));
    }
}

async fn send(server: &ServerProcess, capture: &captures::Capture) {
    let answer = match capture.is_json {
        true => server.otlp_http().export_json(capture.body.clone()).await,
        false => server.otlp_http().export(capture.body.clone()).await,
    };
    assert_eq!(answer.status, 200, "{}: {}", capture.name, answer.text());
}

/// Scenario: what real libraries sent, one body after the other, each of them a second time.
/// Guarantee: for each service, provider, model, operation and outcome the page has the sums of SQL; the repeat changes nothing, and
/// nothing ever falls.
#[tokio::test(flavor = "multi_thread")]
async fn totals_per_model_are_those_of_sql() {
    let server = server().start().await;
    let mut before = page(&server).await;
    for capture in captures::all() {
        send(&server, &capture).await;
        let after = page(&server).await;
        assert_grown(&before, &after);
        send(&server, &capture).await;
        assert_eq!(page(&server).await, after, "{} was sent again", capture.name);
        before = after;
    }
    let expected = by_sql(&server).await;
    assert!(expected.len() > 20 * SAME.len(), "the captures hold many models: {}", expected.len());
    assert_same(&comparable(&before), &expected);
}

/// Scenario: generated traffic, a flush in between, then a death and a start that replays the log, then traffic again.
/// Guarantee: totals are those of SQL; what was replayed or stored before the start does not count, what comes after it does, and a
/// repeat of what came before does not.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_counters_begin_anew() {
    let server = server().start().await;
    let mut source = traffic(77);
    let first = source.request(300);
    export(&server, &first).await;
    export(&server, &source.request(3_000)).await;
    let told = page(&server).await;
    assert_same(&comparable(&told), &by_sql(&server).await);

    let server = server.sigkill().await.start().await;
    assert!(server.sql_int("SELECT count(*) FROM llm_calls").await > 0, "the log was replayed");
    export(&server, &first).await;
    let begun = page(&server).await;
    assert_eq!(comparable(&begun), Page::new());
    assert_eq!(begun["spanlake_llm_label_sets"], 0.0);

    let latest = server.sql_int("SELECT CAST(max(received_time) AS BIGINT) FROM spans").await;
    export(&server, &source.request(200)).await;
    let calls =
        server.sql_int(&format!("SELECT count(*) FROM llm_calls WHERE CAST(received_time AS BIGINT) > {latest}")).await;
    let counted = page(&server).await.into_iter().filter(|(key, _)| key.starts_with("spanlake_llm_requests_total{"));
    assert_eq!(counted.map(|(_, value)| value).sum::<f64>(), calls as f64);
}

/// Guarantee: a scraper gets the format it asks for, by name.
#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_gets_the_format_it_accepts() {
    let server = server().start().await;
    export(&server, &traffic(78).request(50)).await;
    for (accept, content_type, has) in [
        (None, "text/plain; version=0.0.4; charset=utf-8", "# TYPE spanlake_llm_requests_total counter\n"),
        (
            Some("application/openmetrics-text; version=1.0.0"),
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "# TYPE spanlake_llm_requests counter\n",
        ),
        (
            Some(
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,*/*;q=0.1",
            ),
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
            "spanlake_llm_requests_total",
        ),
    ] {
        let headers: Vec<(&str, &str)> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        let answer = server.http().try_request("GET", "/metrics", &headers, Vec::new()).await.expect("an answer");
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(content_type)));
        assert_eq!(answer.header("vary"), Some("accept"));
        assert!(answer.text().contains(has), "{}", answer.text());
        assert_eq!(answer.text().ends_with("# EOF\n"), content_type.starts_with("application/openmetrics"));
    }
}
