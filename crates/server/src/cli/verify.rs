//! `spanlake verify`: whether what came is there, asked of a running server or found out on a store.

use std::fmt::Write;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use spanlake_query::verify::{Difference, RollupReport, SignalReport, VerifyOptions, VerifyReport};
use spanlake_schema::DEFAULT_TENANT;

use super::Unreachable;
use super::report::report_of;
use super::sql::{engine_on_store, server_argument, store_argument};
use crate::config::ConfigError;
use crate::verify_http::parse_time;

pub(super) fn command() -> Command {
    let tenant = Arg::new("tenant").long("tenant").value_name("NAME").help("the tenant").default_value(DEFAULT_TENANT);
    let time = |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("TIME").help(help);
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("write the report as JSON");
    Command::new("verify")
        .about("Check that the numbers add up: what came against what is stored, and rollups against their spans")
        .after_help(
            "Exits with 0 where every equation holds, with 1 where one does not: each is named by signal, service and minute, \
             with the rows behind it.\n\nspanlake verify --from 2026-01-31T12:00 --to 2026-01-31T13:00",
        )
        .args([server_argument(), store_argument(), tenant])
        .arg(time("from", "from this time of arrival on, UTC: 2026-01-31, 2026-01-31T12:30"))
        .arg(time("to", "up to this time of arrival"))
        .arg(json)
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let time = |name: &str| -> Result<Option<i64>, ConfigError> {
        let parsed = text(name).map(parse_time).transpose();
        parsed.map_err(|problem| ConfigError { problems: vec![format!("--{name}: {problem}")] })
    };
    let tenant = text("tenant").expect("invariant: has a default").to_owned();
    let options = VerifyOptions { tenant, from_unix_micro: time("from")?, to_unix_micro: time("to")? };
    let server = text("server").expect("invariant: has a default");
    let report = match text("store") {
        Some(store) if matches.value_source("server") == Some(ValueSource::CommandLine) => {
            anyhow::bail!("--server and --store {store} exclude each other")
        }
        Some(store) => engine_on_store(store).await?.verify(&options).await?,
        None => on_server(server, &options).await?,
    };
    if matches.get_flag("json") {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render(&report));
    }
    let more = if report.is_cut { "more than " } else { "" };
    match report.differences.len() {
        0 => Ok(()),
        1 => anyhow::bail!("one equation does not hold"),
        count => anyhow::bail!("{more}{count} equations do not hold"),
    }
}

async fn on_server(server: &str, options: &VerifyOptions) -> anyhow::Result<VerifyReport> {
    let time = |micros: i64| chrono::DateTime::from_timestamp_micros(micros).unwrap_or_default().to_rfc3339();
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("tenant", &options.tenant);
    if let Some(from) = options.from_unix_micro {
        query.append_pair("from", &time(from));
    }
    if let Some(to) = options.to_unix_micro {
        query.append_pair("to", &time(to));
    }
    let url = format!("{}/api/v1/verify?{}", server.trim_end_matches('/'), query.finish());
    let answer = reqwest::Client::new().get(&url).send().await.map_err(|error| {
        if error.is_builder() {
            return anyhow::anyhow!("--server {server}: {error}");
        }
        Unreachable(format!(
            "no Spanlake answers at {server}: start one with `spanlake serve`, name another with --server, or read a store \
             with --store"
        ))
        .into()
    })?;
    report_of(&url, answer).await
}

fn render(report: &VerifyReport) -> String {
    let mut text = format!("tenant {}\n", report.tenant);
    if report.signals.is_empty() {
        text.push_str("ledger  there is none yet: a server of this version makes it when it starts\n");
    }
    report.signals.iter().for_each(|signal| text.push_str(&signal_line(signal)));
    report.rollup.iter().for_each(|rollup| text.push_str(&rollup_line(rollup)));
    for difference in &report.differences {
        text.push_str(&difference_lines(difference));
    }
    if report.is_cut {
        text.push_str("there are more differences than these\n");
    }
    if report.is_clean {
        text.push_str("clean: every equation holds\n");
    }
    text
}

fn signal_line(signal: &SignalReport) -> String {
    let SignalReport { signal: name, table, requests, counts, rows, .. } = signal;
    let from = signal.compared_from.as_ref().map_or(String::new(), |from| format!("from {from}: "));
    let mut line = format!(
        "{name}  {from}{requests} requests, {} received = {} stored + {} refused + {} duplicate, {rows} rows in {table}",
        counts.received, counts.stored, counts.refused, counts.duplicate,
    );
    // Writing to a string cannot fail.
    if signal.undecodable_requests > 0 {
        let _ = write!(line, "; {} unreadable requests", signal.undecodable_requests);
        let _ = write!(line, " ({} bytes)", signal.undecodable_bytes);
    }
    if signal.unsettled > 0 {
        let _ = write!(
            line,
            "; {} services and minutes left out, of which a log holds the rest: start its server, then verify again",
            signal.unsettled
        );
    }
    line + "\n"
}

fn rollup_line(rollup: &RollupReport) -> String {
    let name = &rollup.name;
    if let Some(why) = &rollup.not_compared {
        return format!("{name}  not compared: {why}\n");
    }
    let RollupReport { windows, pending_windows, requests, leaf_spans, .. } = rollup;
    let pending = match pending_windows {
        0 => String::new(),
        pending => format!("; {pending} hours left out, which its next run will look at"),
    };
    format!("{name}  {windows} hours, {requests} requests, {leaf_spans} leaf spans{pending}\n")
}

fn difference_lines(difference: &Difference) -> String {
    let Difference { equation, left, right, signal, window_start, statement, .. } = difference;
    let service = match (&difference.service_name, &difference.ledger) {
        (Some(name), _) => format!("service {name}"),
        (None, Some(_)) => "no service name".to_owned(),
        (None, None) => "all services".to_owned(),
    };
    let mut text = format!("\n{signal}  {window_start}  {service}\n  {equation}: {left} against {right}\n");
    if let Some(told) = &difference.ledger {
        let _ = writeln!(
            text,
            "  ledger: {} received, {} stored, {} refused, {} duplicate",
            told.received, told.stored, told.refused, told.duplicate
        );
    }
    for row in &difference.examples {
        let _ = writeln!(text, "  row: {row}");
    }
    let _ = writeln!(text, "  all rows: {statement}");
    text
}
