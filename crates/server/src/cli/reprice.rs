//! `spanlake reprice`: stored calls, priced again by a running server.

use std::fmt::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::de::DeserializeOwned;

use super::Unreachable;
use super::report::{aligned, report_of};
use super::sql::server_argument;
use crate::config::ConfigError;
use crate::reprice::Report;
use crate::verify_http::parse_time;

pub(super) fn command() -> Command {
    let command = Command::new("reprice")
        .about("Price stored calls again by the prices that a running server has now")
        .after_help(
            "Prints calls and cost by model, before and after, and records what changes; queries and rollups follow. Each call is \
             priced by its own time.\n\nspanlake reprice --from 2026-01-01 --to 2026-02-01 --model gpt-4o --dry-run",
        );
    arguments(command, "calls").arg(Arg::new("model").long("model").value_name("NAME").help("calls of this model only"))
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let report: Report = ask(matches, "reprice", &["model"]).await?;
    print!("{}", render(&report));
    Ok(())
}

/// The arguments `--from`, `--to` and `--dry-run`, and `--server`.
pub(super) fn arguments(command: Command, what: &str) -> Command {
    let time =
        |name: &'static str, help: String| Arg::new(name).long(name).value_name("TIME").help(help).required(true);
    command
        .arg(server_argument())
        .arg(time("from", format!("{what} that started from this time on, UTC: 2026-01-31, 2026-01-31T12:30")))
        .arg(time("to", "and before this time".to_owned()))
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("print what would change, record nothing"),
        )
}

/// Has a running server do it, and returns its report. `more` are further arguments that become parameters.
pub(super) async fn ask<T: DeserializeOwned>(matches: &ArgMatches, path: &str, more: &[&str]) -> anyhow::Result<T> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for name in ["from", "to"] {
        // Where it is needed clap requires it.
        let Some(value) = text(name) else { continue };
        parse_time(value).map_err(|problem| ConfigError { problems: vec![format!("--{name}: {problem}")] })?;
        query.append_pair(name, value);
    }
    for name in more {
        if let Some(value) = text(name) {
            query.append_pair(name, value);
        }
    }
    query.append_pair("dry_run", if matches.get_flag("dry-run") { "true" } else { "false" });
    let server = text("server").expect("invariant: has a default").trim_end_matches('/');
    let url = format!("{server}/api/v1/{path}?{}", query.finish());
    let answer =
        reqwest::Client::new().post(&url).header("content-type", "application/json").send().await.map_err(|error| {
            match error.is_builder() {
                true => anyhow::anyhow!("--server {server}: {error}"),
                false => Unreachable(format!(
                    "no Spanlake answers at {server}: start one with `spanlake serve`, or name another with --server"
                ))
                .into(),
            }
        })?;
    report_of(&url, answer).await
}

fn render(report: &Report) -> String {
    let header = ["MODEL", "CALLS", "CHANGED", "UNPRICED", "OLD USD", "NEW USD", "DIFFERENCE"].map(str::to_owned);
    let rows = report.models.iter().map(|(model, told)| {
        [
            if model.is_empty() { "NULL".to_owned() } else { model.clone() },
            told.calls.to_string(),
            told.changed.to_string(),
            format!("{} -> {}", told.old_unpriced, told.new_unpriced),
            told.old_usd.clone(),
            told.new_usd.clone(),
            told.difference_usd.clone(),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(rows).collect();
    let mut text = aligned(&rows);
    let changed: u64 = report.models.values().map(|told| told.changed).sum();
    let done = if report.is_dry_run { "would change; nothing was recorded" } else { "changed" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{changed} calls {done}");
    text
}
