//! Rollups, the product's and the user's, on the running server and on the store at rest.

use spanlake_testkit::ServerOptions;

use crate::{export, server, traffic};

const TOKENS_BY_MODEL: &str = "-- name: tokens_by_model
-- description: Tokens of each model by quarter of an hour
-- source: spans
-- schedule: every 1m
-- window: 15m
-- keys: model
--
SELECT date_bin(INTERVAL '15 minutes', start_time) AS window_start, model, count(*) AS calls,
       CAST(sum(input_tokens) AS BIGINT) AS tokens, sum(cost_usd) AS usd, histogram(duration_ns) AS duration
FROM spans
WHERE usage_role = 'leaf' AND date BETWEEN $first_date AND $last_date
  AND start_time >= $window_start AND start_time < $window_end
GROUP BY 1, 2
";

/// What a rollup of calls says, and what the calls say: both statements give the same row.
const SAME: &[(&str, &str)] = &[
    (
        "SELECT CAST(sum(calls) AS BIGINT), CAST(sum(tokens) AS BIGINT), sum(usd),
                histogram_quantile(histogram_merge(duration), [0.5, 0.99]) FROM tokens_by_model",
        "SELECT count(*), CAST(sum(input_tokens) AS BIGINT), sum(CAST(cost_usd AS DECIMAL(38, 12))),
                histogram_quantile(histogram(duration_ns), [0.5, 0.99]) FROM llm_calls",
    ),
    (
        "SELECT CAST(sum(requests) AS BIGINT), CAST(sum(output_tokens) AS BIGINT), sum(cost_usd),
                histogram_quantile(histogram_merge(duration), [0.5, 0.99]) FROM model_usage",
        "SELECT count(*), CAST(sum(output_tokens) AS BIGINT), sum(CAST(cost_usd AS DECIMAL(38, 12))),
                histogram_quantile(histogram(duration_ns), [0.5, 0.99]) FROM llm_calls",
    ),
    (
        "SELECT CAST(sum(requests) AS BIGINT), sum(cost_usd), histogram_quantile(histogram_merge(cost_histogram), 0.9),
                histogram_sum_exact(histogram_merge(input_tokens_histogram)) FROM model_usage_day",
        "SELECT count(*), sum(CAST(cost_usd AS DECIMAL(38, 12))), histogram_quantile(histogram(cost_usd), 0.9),
                histogram_sum_exact(histogram(input_tokens)) FROM llm_calls",
    ),
    (
        "SELECT CAST(sum(calls) AS BIGINT), CAST(sum(errors) AS BIGINT) FROM tool_usage_hourly",
        "SELECT count(*), count(*) FILTER (WHERE status = 'error') FROM tool_calls",
    ),
    (
        "SELECT CAST(sum(spans) AS BIGINT), histogram_max(histogram_merge(duration)) FROM service_hourly",
        "SELECT count(*), CAST(max(duration_ns) AS DOUBLE) FROM spans",
    ),
    (
        "SELECT count(*), max(duration_ns) FROM slowest_calls_daily WHERE place <= 3",
        "SELECT count(*), max(duration_ns) FROM (SELECT duration_ns FROM llm_calls ORDER BY duration_ns DESC LIMIT 3)",
    ),
];

async fn run(options: &ServerOptions, arguments: &[&str]) -> String {
    let output = options.run(arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Scenario: a user's rollup and a broken one below `sql_dir`; traffic within a day; every rollup is run by hand; the server ends.
/// Guarantee: each rollup says what the calls say, percentiles too, on the server and on the store at rest; the list shows the
/// broken one with file, line and column, and the others without an error.
#[tokio::test(flavor = "multi_thread")]
async fn rollups_say_what_the_calls_say_on_a_server_and_at_rest() {
    let options = server();
    let folder = options.home().join("sql/rollups");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("tokens_by_model.sql"), TOKENS_BY_MODEL).expect("a file");
    let broken = TOKENS_BY_MODEL.replace("name: tokens_by_model", "name: broken").replace("sum(cost_usd)", "sum(cost)");
    std::fs::write(folder.join("broken.sql"), broken).expect("a file");
    let sql_dir = options.home().join("sql");
    let options = options.arg("--sql-dir", sql_dir.to_str().expect("UTF-8")).arg("--flush-interval", "200ms");
    let server = options.start().await;
    export(&server, &traffic(77).request(300)).await;
    export(&server, &traffic(78).request(212)).await;
    crate::meaning::wait_until_committed(&server).await;
    let control = format!("http://{}", server.addresses().control);
    let names = "model_usage_hour model_usage model_usage_day cost_daily error_rates service_hourly slowest_calls_daily \
                 tool_usage_hourly tokens_by_model";
    for name in names.split(' ') {
        run(server.options(), &["rollup", "run", name, "--control", &control]).await;
    }
    let list = run(server.options(), &["rollup", "list", "--control", &control]).await;
    for name in names.split(' ') {
        let line = list.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{list}"));
        assert!(line.trim_end().ends_with('-'), "{line}");
    }
    let line = list.lines().find(|line| line.starts_with("broken ")).unwrap_or_else(|| panic!("{list}"));
    assert!(line.contains("broken.sql:9:") && line.contains("cost"), "{line}");

    let mut answers = Vec::new();
    for (rollup, calls) in SAME {
        // Names of columns differ.
        let values = |rows: Vec<serde_json::Map<String, serde_json::Value>>| -> Vec<serde_json::Value> {
            rows.into_iter().flat_map(|row| row.into_iter().map(|(_, value)| value).collect::<Vec<_>>()).collect()
        };
        let (left, right) = (values(server.sql(rollup).await), values(server.sql(calls).await));
        assert_eq!(left.len(), right.len(), "{rollup}");
        for value in &left {
            assert!(right.contains(value), "{rollup}: {left:?} and {right:?}");
        }
        answers.push((rollup, left));
    }
    let options = server.stop().await;
    let store = options.store_url().to_owned();
    for (rollup, answer) in answers {
        let text = run(&options, &["sql", rollup, "--store", &store, "--format", "json"]).await;
        let rows: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(&text).expect("rows");
        assert_eq!(rows[0].values().cloned().collect::<Vec<_>>(), answer, "{rollup}");
    }
}
