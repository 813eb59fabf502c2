//! `spanlake attributes`: what each attribute costs and holds, so that one knows what deserves a column.

use clap::{Arg, ArgMatches, Command, value_parser};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Unreachable;
use super::report::{aligned, report_of, rounded};
use super::sql::server_argument;
use crate::config::ConfigError;
use crate::verify_http::parse_time;

/// The view, whose SELECT is asked over the attributes of a range of time.
const VIEW: &str = include_str!("../../../../sql/views/attributes.sql");

pub(super) fn command() -> Command {
    let time = |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("TIME").help(help);
    Command::new("attributes")
        .about("Show what each attribute costs and holds, and which have columns of their own")
        .after_help(
            "The most bytes first. What has many spans and few distinct values, or is often filtered by, deserves a column: name it \
             in `promote`. The view `attributes` is the same in SQL.\n\nspanlake attributes --from 2026-01-31 --limit 20",
        )
        .arg(server_argument())
        .arg(time("from", "spans that started from this time on, UTC: 2026-01-31, 2026-01-31T12:30"))
        .arg(time("to", "and before this time"))
        .arg(
            Arg::new("limit")
                .long("limit")
                .value_name("COUNT")
                .default_value("50")
                .value_parser(value_parser!(u64).range(1..))
                .help("attributes that are shown"),
        )
}

/// A row of the view.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    place: String,
    promoted_as: Option<String>,
    types: String,
    spans: u64,
    bytes: u64,
    distinct_values: u64,
    type_conflicts: Option<u64>,
    example: Option<String>,
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let time = |name: &str| -> anyhow::Result<Option<i64>> {
        let Some(value) = matches.get_one::<String>(name) else { return Ok(None) };
        let micros =
            parse_time(value).map_err(|problem| ConfigError { problems: vec![format!("--{name}: {problem}")] })?;
        Ok(Some(micros))
    };
    let limit = *matches.get_one::<u64>("limit").expect("invariant: has a default");
    let (sql, params) = statement(time("from")?, time("to")?, limit);
    let server = matches.get_one::<String>("server").expect("invariant: has a default").trim_end_matches('/');
    let rows: Vec<Row> = ask(server, &json!({"sql": sql, "params": params})).await?;
    print!("{}", render(&rows));
    Ok(())
}

/// The view's SELECT over the attributes of spans that started in a range of time, microseconds since 1970-01-01.
fn statement(from: Option<i64>, to: Option<i64>, limit: u64) -> (String, Vec<Value>) {
    let (mut conditions, mut params) = (Vec::new(), Vec::new());
    for (operator, micros) in [(">=", from), ("<", to)] {
        if let Some(micros) = micros {
            params.push(json!(micros));
            conditions.push(format!("start_time {operator} to_timestamp_micros(CAST(${} AS BIGINT))", params.len()));
        }
    }
    let narrowed = match conditions.is_empty() {
        true => String::new(),
        // In place of the view that the SELECT below names.
        false => {
            format!("WITH attribute_values AS (SELECT * FROM attribute_values WHERE {})\n", conditions.join(" AND "))
        }
    };
    (format!("{narrowed}{VIEW}\nORDER BY bytes DESC, name, place LIMIT {limit}"), params)
}

async fn ask(server: &str, body: &Value) -> anyhow::Result<Vec<Row>> {
    let url = format!("{server}/api/v1/sql");
    let request = reqwest::Client::new()
        .post(&url)
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(body.to_string());
    let answer = request.send().await.map_err(|error| match error.is_builder() {
        true => anyhow::anyhow!("--server {server}: {error}"),
        false => Unreachable(format!(
            "no Spanlake answers at {server}: start one with `spanlake serve`, or name another with --server"
        ))
        .into(),
    })?;
    report_of(&url, answer).await
}

fn render(rows: &[Row]) -> String {
    let header = ["ATTRIBUTE", "OF", "COLUMN", "TYPES", "SPANS", "BYTES", "DISTINCT", "EXAMPLE"].map(str::to_owned);
    let shown = rows.iter().map(|row| {
        let conflicts = row.type_conflicts.filter(|conflicts| *conflicts > 0);
        let column = row.promoted_as.clone().unwrap_or_else(|| "-".to_owned());
        let example = row.example.clone().unwrap_or_default();
        [
            row.name.escape_debug().to_string(),
            row.place.clone(),
            conflicts.map_or(column.clone(), |conflicts| format!("{column} ({conflicts} of another type)")),
            row.types.clone(),
            row.spans.to_string(),
            rounded(row.bytes),
            row.distinct_values.to_string(),
            // One line an attribute, whatever its value holds.
            example.chars().take(40).collect::<String>().escape_debug().to_string(),
        ]
    });
    let lines: Vec<[String; 8]> = std::iter::once(header).chain(shown).collect();
    if rows.is_empty() { "no attributes\n".to_owned() } else { aligned(&lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_time_is_bound_and_not_pasted() {
        let (sql, params) = statement(None, None, 7);
        assert!(!sql.contains("start_time") && sql.trim_end().ends_with("LIMIT 7") && params.is_empty(), "{sql}");
        let (sql, params) = statement(Some(5), Some(9), 1);
        assert!(sql.contains("start_time >= to_timestamp_micros(CAST($1 AS BIGINT)) AND start_time < "), "{sql}");
        assert_eq!(params, [5, 9]);
        let (sql, params) = statement(None, Some(9), 1);
        assert!(sql.contains("WHERE start_time < to_timestamp_micros(CAST($1 AS BIGINT)))"), "{sql}");
        assert_eq!(params, [9]);
    }

    #[test]
    fn each_attribute_is_one_line() {
        let row = Row {
            name: "customer.tier".to_owned(),
            place: "span".to_owned(),
            promoted_as: Some("customer_tier".to_owned()),
            types: "int, string".to_owned(),
            spans: 12,
            bytes: 123_456,
            distinct_values: 3,
            type_conflicts: Some(2),
            example: Some("two\nlines".to_owned()),
        };
        let text = render(&[row]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[1].starts_with("customer.tier  span  customer_tier (2 of another type)  int, string  12 "),
            "{text}"
        );
        assert!(lines[1].contains("120KiB") && lines[1].ends_with("two\\nlines"), "{text}");
        assert_eq!(render(&[]), "no attributes\n");
    }
}
